"""What a change writes: the fields that differ, and which changes write the same."""

from collections.abc import Mapping, Sequence
from typing import Any

import bson
from attrs import AttrsInstance, frozen

from reactor.store.protocol import Change
from schemas.conversation import MAX_HISTORY, Conversation, HistoryEntry
from schemas.converter import changes_between
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

    ids: Sequence[ConversationId]
    version: int
    patch: Patch


def patch_between(before: AttrsInstance, after: AttrsInstance) -> Patch:
    """Compare two states of a document; the version is the store's."""
    fields = changes_between(before, after)
    fields.pop("version", None)
    if isinstance(before, Conversation) and isinstance(after, Conversation) and "history" in fields:
        appended = _appended(before.history, after.history)
        if appended:
            history = fields.pop("history")
            return Patch(fields=fields, history=history[-appended:])
    return Patch(fields=fields)


def _appended(old: Sequence[HistoryEntry], new: Sequence[HistoryEntry]) -> int:
    """Say how many were added at the end, while the bound dropped the oldest; 0: more changed."""
    for count in range(1, len(new) + 1):
        if (*old, *new[-count:])[-MAX_HISTORY:] == new:
            return count
    return 0


def grouped(changes: Sequence[Change]) -> Sequence[Group]:
    """Put together what is written alike. What BSON cannot hold raises bson's errors."""
    groups: dict[bytes, tuple[Patch, int, list[ConversationId]]] = {}
    for change in changes:
        version = change.before.version
        patch = patch_between(change.before, change.after)
        same = {"v": version, "f": patch.fields, "h": patch.history}
        key = bson.encode(same, codec_options=CODEC)
        groups.setdefault(key, (patch, version, []))[2].append(change.before.id)
    return [Group(ids=ids, version=version, patch=patch) for patch, version, ids in groups.values()]


def once_each(changes: Sequence[Change]) -> Mapping[ConversationId, Change]:
    """Keep the first change of each conversation: a second one has lost its guard to it."""
    first: dict[ConversationId, Change] = {}
    for change in changes:
        first.setdefault(change.before.id, change)
    return first
