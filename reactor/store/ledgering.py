"""The ledger and the last look, the same in both stores: entries merge by rank, in any order."""

from collections.abc import Mapping
from typing import Any

from reactor.store.protocol import OnItsWay, RawDocument, UnansweredUpdate
from reactor.store.raw import glance
from schemas.conversation import Conversation
from schemas.converter import to_document
from schemas.ids import ConversationId
from schemas.message import RANK, LedgerEntry, MessageStatus
from schemas.transition import Report

#: Messages that the recipient got, or may have got.
GOT = [each.value for each in RANK if each not in {MessageStatus.CANCELLED, MessageStatus.FAILED}]
#: What says how a message ended: only an entry that outranks the one that is there changes it.
ENDING = frozenset({"status", "reason", "error"})


def stub(report: Report, conversation: Conversation) -> LedgerEntry:
    """Make what is entered for a report whose message has no entry yet."""
    return LedgerEntry(
        id=report.key,
        status=report.status,
        campaign_id=conversation.campaign_id,
        batch_request_id=conversation.batch_request_id,
        conversation_id=conversation.id,
        recipient_id=conversation.recipient.id,
    )


def noted_problem(problem: str | None) -> Mapping[str, Any]:
    """Give what is set on a suppression that was looked at."""
    return {"checked": True} | ({"problem": problem} if problem else {})


def other(conversation: Mapping[str, Any]) -> OnItsWay:
    """Read as much of another campaign's conversation as the runaway guard needs."""
    return OnItsWay(
        channel=conversation["slot"]["channel"], address=conversation["recipient"]["address"]
    )


def read_unanswered(
    raw: RawDocument, by_recipient: Mapping[str, ConversationId]
) -> UnansweredUpdate:
    """Read as much of an update as the last look needs; whatever is malformed stops nothing."""
    update = glance(raw.data)
    kind, conversation = update.get("kind"), update.get("conversation_id")
    recipient = update.get("recipient_id")
    whom = ConversationId(conversation) if isinstance(conversation, str) else None
    if whom is None and isinstance(recipient, str):
        whom = by_recipient.get(recipient)
    return UnansweredUpdate(
        id=update.get("_id"),
        kind=kind if isinstance(kind, str) else None,
        conversation_id=whom,
        bounce=update.get("bounce"),
    )


def merging(entry: LedgerEntry) -> list[Mapping[str, Any]]:
    """
    Spell the merge for the database: one atomic update, which may also be the insert.

    Of equal ones that of an earlier attempt comes from a worker that was taken over, and has woken up:
    it changes nothing.
    """
    status = {"$ifNull": ["$status", entry.status.value]}
    outranks: Mapping[str, Any] = {"$in": [status, _not_above(entry.status)]}
    if entry.attempts is not None:
        earlier = {"$gt": ["$attempts", entry.attempts]}
        late = {"$and": [{"$in": [status, _equal(entry.status)]}, earlier]}
        outranks = {"$and": [outranks, {"$not": [late]}]}
    merged: dict[str, Any] = {}
    for name, value in _known(entry).items():
        # A value of a document is never evaluated.
        new, old = {"$literal": value}, f"${name}"
        kept = old if name in ENDING else {"$ifNull": [old, new]}
        merged[name] = {"$cond": [outranks, new, kept]}
    return [{"$set": merged}]


def merged(present: Mapping[str, Any], entry: LedgerEntry) -> Mapping[str, Any]:
    """Merge in memory: the fields that are to be set."""
    known = _known(entry)
    status = present.get("status", entry.status.value)
    earlier = entry.attempts is not None and (present.get("attempts") or 0) > entry.attempts
    late = status in _equal(entry.status) and earlier
    if status in _not_above(entry.status) and not late:
        return known
    return {
        name: value
        for name, value in known.items()
        if name not in ENDING and present.get(name) is None
    }


def _known(entry: LedgerEntry) -> Mapping[str, Any]:
    document = to_document(entry).items()
    return {name: value for name, value in document if value is not None and name != "_id"}


def _not_above(status: MessageStatus) -> list[str]:
    return [each.value for each, rank in RANK.items() if rank <= RANK[status]]


def _equal(status: MessageStatus) -> list[str]:
    return [each.value for each, rank in RANK.items() if rank == RANK[status]]
