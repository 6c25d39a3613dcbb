"""Collections in memory: BSON documents by `_id`, in the order in which they were inserted."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Self

import bson
from attrs import define

from reactor.store.raw import glance
from schemas.documents import CODEC, decode, only_id
from schemas.problems import InvalidDocumentError

#: As the server: what is larger is refused.
MAX_BYTES = 16 * 1024 * 1024

type Fields = dict[str, Any]


class TooLargeError(Exception):
    """A document would be larger than the server allows."""


@define
class Stored:
    """A document; `fields` as far as its bytes can be read, and whatever was set since."""

    raw: bytes
    fields: Fields

    @classmethod
    def of(cls, document: Mapping[str, Any] | bytes) -> Self:
        raw = document if isinstance(document, bytes) else encoded(document)
        return cls(raw, glance(raw))

    @property
    def identity(self) -> bytes:
        return only_id(self.raw)

    def set(self, fields: Mapping[str, Any]) -> None:
        """Set top-level fields: all, or none where BSON cannot hold them."""
        changed = {**self.fields, **fields}
        raw = encoded(changed)
        try:
            decode(self.raw)
        except InvalidDocumentError:
            # What cannot be decoded stays as it is: encoding it anew would mend it.
            self.fields = changed
        else:
            self.raw, self.fields = raw, glance(raw)


class Documents:
    """One collection."""

    def __init__(self) -> None:
        self._stored: dict[bytes, Stored] = {}

    def __iter__(self) -> Iterator[Stored]:
        return iter(list(self._stored.values()))

    def insert(self, document: Mapping[str, Any] | bytes) -> bool:
        """Insert it; False where its `_id` is taken."""
        stored = Stored.of(document)
        if stored.identity in self._stored:
            return False
        self._stored[stored.identity] = stored
        return True

    def delete(self, stored: Stored) -> None:
        self._stored.pop(stored.identity, None)

    def get(self, identity: object) -> Stored | None:
        return self.by_raw_id(encoded({"_id": identity}))

    def remove(self, identity: object) -> None:
        self._stored.pop(only_id(encoded({"_id": identity})), None)

    def by_raw_id(self, raw: bytes) -> Stored | None:
        return self._stored.get(only_id(raw))

    def among(self, ids: Collection[Any]) -> list[Stored]:
        # In an order that is the same in every process: a simulation must be repeatable.
        wanted = sorted({encoded({"_id": identity}) for identity in ids})
        return [stored for raw in wanted if (stored := self.by_raw_id(raw))]

    def where(self, matches: Callable[[Fields], bool]) -> list[Stored]:
        return [stored for stored in self if matches(stored.fields)]


def encoded(document: Mapping[str, Any]) -> bytes:
    raw = bson.encode(document, codec_options=CODEC)
    if len(raw) > MAX_BYTES:
        raise TooLargeError
    return raw
