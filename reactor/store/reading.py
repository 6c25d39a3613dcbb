"""From documents to what the walk works with, one by one: a broken one stops no other."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from reactor.store.protocol import BrokenDocument, RawDocument, UnansweredUpdate
from reactor.store.raw import glance, position_of
from schemas.conversation import Conversation, SlotState
from schemas.converter import InvalidDocumentError, from_document
from schemas.documents import decode
from schemas.ids import AgentId, ConversationId, SendKey, conversation_id
from schemas.message import LedgerEntry


def read_one[T](cls: type[T], raw: bytes) -> T | BrokenDocument:
    try:
        return from_document(cls, decode(raw))
    except InvalidDocumentError as error:
        return broken_document(raw, error)


def read_all[T](
    cls: type[T], raws: Iterable[bytes]
) -> tuple[tuple[T, ...], tuple[BrokenDocument, ...]]:
    """Part what can be read from what cannot."""
    read = [read_one(cls, raw) for raw in raws]
    return (
        tuple(each for each in read if not isinstance(each, BrokenDocument)),
        tuple(each for each in read if isinstance(each, BrokenDocument)),
    )


def broken_document(raw: bytes, error: InvalidDocumentError) -> BrokenDocument:
    return BrokenDocument(id=glance_id(raw), raw=RawDocument(raw), problem=str(error))


def glance_id(raw: bytes) -> object:
    """Give a document's `_id` as far as it can be read."""
    try:
        return glance(raw).get("_id")
    except Exception:  # noqa: BLE001 -- bson raises many kinds, all about these bytes
        return None


def read_entries(raws: Iterable[bytes]) -> Mapping[SendKey, LedgerEntry]:
    """Read ledger entries; one that cannot be read is as good as none."""
    entries, _ = read_all(LedgerEntry, raws)
    return {entry.id: entry for entry in entries}


def read_recipient(position: object, raw: bytes) -> tuple[object, object, str | None]:
    """Give one member of a page: position, document, problem."""
    try:
        return position, decode(raw), None
    except InvalidDocumentError as error:
        return position, None, str(error)


def read_placed_recipient(raw: bytes) -> tuple[object, object, str | None]:
    """Give one member of a page whose position is its `_id`."""
    return read_recipient(position_of(raw), raw)


def read_unanswered(raw: bytes, request: AgentId | None = None) -> UnansweredUpdate:
    """
    Read as much of an update as the last look needs.

    `request`: of the batch; whoever names no conversation is taken to be of it.
    """
    update = glance(raw)
    kind, conversation = update.get("kind"), update.get("conversation_id")
    recipient = update.get("recipient_id")
    if conversation is None and request is not None and isinstance(recipient, str):
        conversation = conversation_id(request, recipient)
    return UnansweredUpdate(
        id=update.get("_id"),
        kind=kind if isinstance(kind, str) else None,
        conversation_id=ConversationId(conversation) if isinstance(conversation, str) else None,
        bounce=update.get("bounce"),
    )


def in_question(conversation: Conversation) -> SendKey | None:
    """Give the key of a slot with an earlier attempt of which nobody knows what came of it."""
    slot = conversation.slot
    return slot.key(conversation.id) if slot and slot.uncertain else None


def left_open(conversation: Conversation, now: datetime) -> SendKey | None:
    """Give the key of a slot whose lease or hold is over."""
    slot = conversation.slot
    if slot is None or slot.state is SlotState.RESERVED or slot.until > now:
        return None
    return slot.key(conversation.id)
