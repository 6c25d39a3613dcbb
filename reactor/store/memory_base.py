"""What the parts of the store in memory share: collections, the clock, the order of effects."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import Any

from anyio.lowlevel import checkpoint

from reactor.store.bson_order import bson_order
from reactor.store.hints import is_put_off
from reactor.store.memory_documents import Documents, Fields, Stored
from reactor.store.protocol import Addressees, RawDocument
from reactor.store.templates import Templates
from schemas.ids import ConversationId


class MemoryBase:
    def __init__(
        self,
        clock: Callable[[], datetime],
        pause: Callable[[], Awaitable[None]] = checkpoint,
    ) -> None:
        self._clock = clock
        self._pause = pause
        self._collections: dict[str, Documents] = {}
        self._templates = Templates()

    def _of(self, collection: str) -> Documents:
        return self._collections.setdefault(collection, Documents())

    def insert(self, collection: str, document: Mapping[str, Any] | bytes) -> bool:
        """Insert a document as another program would, also one that is not valid."""
        return self._of(collection).insert(document)

    def documents(self, collection: str) -> list[Fields]:
        """Give all documents, as far as they can be read."""
        return [dict(stored.fields) for stored in self._of(collection)]


def raws_of(stored: Iterable[Stored]) -> list[RawDocument]:
    return [RawDocument(each.raw) for each in stored]


def is_unanswered(fields: Fields) -> bool:
    return fields.get("status") is None


def is_about(
    fields: Fields, conversations: Collection[ConversationId], recipients: Addressees
) -> bool:
    """Say whether an update is of one of these, by either address."""
    return fields.get("conversation_id") in conversations or (
        fields.get("batch_request_id") == recipients.batch_request_id
        and fields.get("recipient_id") in recipients.recipient_ids
    )


def earliest(found: Iterable[Stored], now: datetime, limit: int) -> tuple[RawDocument, ...]:
    """Give the first by the order in which they take effect: one without `at` is of now."""

    def order(stored: Stored) -> Any:
        at = stored.fields.get("at")
        return bson_order(now if at is None else at), bson_order(stored.fields.get("_id"))

    waiting = [stored for stored in found if not is_put_off(stored.fields, now)]
    return tuple(raws_of(sorted(waiting, key=order)[:limit]))
