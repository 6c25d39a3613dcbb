"""What a change writes: the fields that differ, and which changes write the same."""

from collections.abc import Mapping, Sequence
from typing import Any

import bson
from attrs import AttrsInstance, frozen

from reactor.store.protocol import Change
from schemas.conversation import MAX_HISTORY, Conversation, HistoryEntry
from schemas.converter import differing, spelled, to_document
from schemas.documents import CODEC
from schemas.ids import ConversationId


@frozen(kw_only=True)
class Patch:
    """Top-level fields that are set, and entries that are appended to `history`."""

    fields: Mapping[str, Any]
    history: Sequence[Any] = ()

    def update(self, token: str | None = None) -> Mapping[str, Any]:
        """Spell it for the database, with the next version and who wrote it."""
        fields = dict(self.fields)
        if token is not None:
            fields["written_by"] = token
        update: dict[str, Any] = {"$inc": {"version": 1}}
        if fields:
            update["$set"] = fields
        if self.history:
            update["$push"] = {"history": {"$each": list(self.history), "$slice": -MAX_HISTORY}}
        return update


@frozen(kw_only=True)
class Group:
    """Changes that write the same patch over the same version."""

    ids: list[ConversationId]
    version: int
    patch: Patch


def patch_between(before: AttrsInstance, after: AttrsInstance) -> Patch:
    """Compare two states of a document; the version is the store's."""
    return _spelled(type(after), _differing(before, after))


def grouped(changes: Sequence[Change]) -> Sequence[Group]:
    """Put together what is written alike. What BSON cannot hold raises bson's errors."""
    groups: dict[bytes, Group] = {}
    last: tuple[Group, int, Mapping[str, Any]] | None = None
    for change in changes:
        version, differing = change.before.version, _differing(change.before, change.after)
        # What is decided in one batch is mostly the same: then it is not spelled again.
        if last is None or last[1:] != (version, differing):
            patch = _spelled(Conversation, differing)
            same = {"v": version, "f": patch.fields, "h": patch.history}
            key = bson.encode(same, codec_options=CODEC)
            group = groups.setdefault(key, Group(ids=[], version=version, patch=patch))
            last = group, version, differing
        last[0].ids.append(change.before.id)
    return list(groups.values())


#: Stands for entries that are appended to `history`, beside fields that are set.
_APPENDED = "history+"


def _differing(before: AttrsInstance, after: AttrsInstance) -> dict[str, Any]:
    fields = differing(before, after)
    fields.pop("version", None)
    if isinstance(before, Conversation) and isinstance(after, Conversation) and "history" in fields:
        appended = _appended(before.history, after.history)
        if appended:
            del fields["history"]
            fields[_APPENDED] = after.history[-appended:]
    return fields


def _appended(old: Sequence[HistoryEntry], new: Sequence[HistoryEntry]) -> int:
    """Say how many were added at the end, while the bound dropped the oldest; 0: more changed."""
    for count in range(1, len(new) + 1):
        if (*old, *new[-count:])[-MAX_HISTORY:] == new:
            return count
    return 0


def _spelled(cls: type[AttrsInstance], differing: Mapping[str, Any]) -> Patch:
    fields = dict(differing)
    history = fields.pop(_APPENDED, ())
    return Patch(fields=spelled(cls, fields), history=[to_document(entry) for entry in history])


def once_each(changes: Sequence[Change]) -> Mapping[ConversationId, Change]:
    """Keep the first change of each conversation: a second one has lost its guard to it."""
    first: dict[ConversationId, Change] = {}
    for change in changes:
        first.setdefault(change.before.id, change)
    return first
