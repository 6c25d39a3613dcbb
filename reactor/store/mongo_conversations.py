"""Conversations in MongoDB: loaded in batches, written under their versions, grouped."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from attrs import evolve, frozen
from bson.errors import InvalidDocument
from pymongo import UpdateMany, UpdateOne
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError

from reactor.store.base import Document, MongoBase, read_each
from reactor.store.calls import call, is_unavailable
from reactor.store.mongo_inbox import is_due
from reactor.store.protocol import (
    Applied,
    Batch,
    BrokenDocument,
    Change,
    Order,
    RawDocument,
    Scope,
)
from schemas.conversation import FINAL, MAX_HISTORY, Conversation, ConversationStatus, SlotState
from schemas.converter import to_document
from schemas.documents import id_filter
from schemas.ids import CampaignId, ConversationId, SendKey
from schemas.message import LedgerEntry

#: Unanswered updates that are read with one batch.
MAX_UPDATES = 2_000
OPEN = [status.value for status in ConversationStatus if status not in FINAL]
_DATE = {"$type": "date"}


@frozen
class _Write:
    """A patch, and those that it is for: all at the same version."""

    patch: Document
    version: int
    ids: list[ConversationId]


class MongoConversations(MongoBase):
    @call
    async def load(self, order: Order) -> Batch:
        raws = await self._in_scope(order)
        if order.named:
            query = {"_id": {"$in": list(order.named)}, "campaign_id": order.campaign.id}
            raws += await self._find("conversations", query)
        conversations, broken = read_each(Conversation, raws)
        known = {conversation.id: conversation for conversation in conversations}
        return Batch(
            conversations=tuple(known.values()),
            broken=tuple(broken),
            updates=await self._updates(order, known),
            ledger=await self._entries_of(overdue_keys(known.values(), order.now)),
        )

    async def _in_scope(self, order: Order) -> list[RawDocument]:
        """Read what is due, most overdue first."""
        limit = order.limit - len(order.named)
        if order.scope is Scope.NAMED or limit <= 0:
            return []
        query: Document = {"campaign_id": order.campaign.id}
        if without := order.exclude | order.named:
            query["_id"] = {"$nin": list(without)}
        sort = {"due_at": 1}
        match order.scope:
            case Scope.LEASES:
                query |= {"slot.state": "sending", "slot.until": {"$lte": order.now}}
                sort = {"slot.until": 1}
            case Scope.UNSETTLED:
                due = [{"status": {"$in": OPEN}}, {"due_at": {"$lte": order.now}}]
                query |= {"due_at": _DATE, "$or": due}
            case _:
                query["due_at"] = {"$lte": order.now, **_DATE}
        return await self._find("conversations", query, sort=sort, limit=limit)

    async def _updates(
        self, order: Order, known: Mapping[ConversationId, Conversation]
    ) -> tuple[RawDocument, ...]:
        if not known:
            return ()
        whose = _whose(order.campaign.batch_request_id, list(known.values()))
        query = {"status": None, "$or": whose, "$and": [is_due(order.now)]}
        sort = {"at": 1, "_id": 1}
        return tuple(await self._find("conversation_updates", query, sort=sort, limit=MAX_UPDATES))

    async def _entries_of(self, keys: Collection[SendKey]) -> Mapping[SendKey, LedgerEntry]:
        if not keys:
            return {}
        raws = await self._find("messages", {"_id": {"$in": list(keys)}})
        entries, _ = read_each(LedgerEntry, raws)
        return {entry.id: entry for entry in entries}

    @call
    async def ledger(self, keys: Collection[SendKey]) -> Mapping[SendKey, LedgerEntry]:
        return await self._entries_of(keys)

    @call
    async def conversations(self, ids: Collection[ConversationId]) -> tuple[Conversation, ...]:
        raws = await self._find("conversations", {"_id": {"$in": list(ids)}})
        return tuple(read_each(Conversation, raws)[0])

    @call
    async def failed_before(
        self, campaign: CampaignId, before: datetime, *, now: datetime, limit: int
    ) -> tuple[Conversation, ...]:
        query = {
            "campaign_id": campaign,
            "status": "failed",
            "status_since": {"$lt": before},
            "deadline_at": {"$gt": now},
        }
        raws = await self._find("conversations", query, sort={"status_since": 1}, limit=limit)
        return tuple(read_each(Conversation, raws)[0])

    @call
    async def apply(self, changes: Sequence[Change], *, token: str) -> Applied:
        refused: dict[ConversationId, str] = {}
        matched = await self._write(changes, token, refused)
        after = {
            change.before.id: evolve(change.after, version=change.before.version + 1)
            for change in changes
            if change.before.id not in refused
        }
        if matched == len(after):
            return Applied(won=after, refused=refused)
        # A part was lost, or broke off with an unknown result: ours is what bears our token.
        query = {"_id": {"$in": list(after)}, "written_by": token}
        cursor = self._settled.conversations.find(query, projection=["_id"])
        won = [one["_id"] for one in await cursor.to_list()]
        return Applied(won={identity: after[identity] for identity in won}, refused=refused)

    async def _write(
        self, changes: Sequence[Change], token: str, refused: dict[ConversationId, str]
    ) -> int | None:
        """
        Write changes; how many were matched, or None where that is not known.

        What the database refuses is found by splitting, until it stands alone.
        """
        try:
            result = await self._database.conversations.bulk_write(
                [_operation(write, token) for write in _grouped(changes)], ordered=False
            )
        except PyMongoError as error:
            if is_unavailable(error):
                return None
            found: Exception = error
        except (InvalidDocument, OverflowError) as error:
            found = error
        else:
            return result.matched_count
        if len(changes) == 1:
            refused[changes[0].before.id] = _why(found)
            return 0
        half = len(changes) // 2
        await self._write(changes[:half], token, refused)
        await self._write(changes[half:], token, refused)
        return None

    @call
    async def note_failure(self, broken: BrokenDocument, fields: Mapping[str, object]) -> None:
        await self._database.conversations.update_one(
            id_filter(broken.raw.data), {"$set": dict(fields)}
        )


def overdue_keys(conversations: Collection[Conversation], now: datetime) -> list[SendKey]:
    """Give the keys of slots whose lease or hold is over: the ledger is asked about them."""
    return [
        one.slot.key(one.id)
        for one in conversations
        if one.slot and one.slot.state is not SlotState.RESERVED and one.slot.until <= now
    ]


def _whose(request: object, conversations: Sequence[Conversation]) -> list[Mapping[str, Any]]:
    """Match updates of these conversations, in either form of address."""
    return [
        {"conversation_id": {"$in": [one.id for one in conversations]}},
        {
            "batch_request_id": request,
            "recipient_id": {"$in": [one.recipient.id for one in conversations]},
        },
    ]


def _grouped(changes: Sequence[Change]) -> list[_Write]:
    """Put identical patches at the same version together: one write for many costs a tenth."""
    writes: list[_Write] = []
    by_shape: dict[str, _Write] = {}
    for change in changes:
        patch = _patch(change)
        shape = f"{change.before.version} {patch!r}"
        write = by_shape.get(shape)
        if write is None:
            write = by_shape[shape] = _Write(patch, change.before.version, [])
            writes.append(write)
        write.ids.append(change.before.id)
    return writes


def _patch(change: Change) -> Document:
    """Give what differs, as an update: whole fields, and the history's new entries."""
    old, new = to_document(change.before), to_document(change.after)
    differing = {name: value for name, value in new.items() if old[name] != value}
    update: Document = {}
    if "history" in differing:
        entries = _appended(old["history"], differing.pop("history"))
        update["$push"] = {"history": {"$each": entries, "$slice": -MAX_HISTORY}}
    update["$set"] = differing
    return update


def _appended(old: list[Document], new: list[Document]) -> list[Document]:
    """Give the entries at the end that are new; the oldest may have been dropped."""
    for kept in range(min(len(old), len(new)), 0, -1):
        if old[-kept:] == new[:kept]:
            return new[kept:]
    return new


def _operation(write: _Write, token: str) -> UpdateOne | UpdateMany:
    update = {
        **write.patch,
        "$set": write.patch["$set"] | {"written_by": token},
        "$inc": {"version": 1},
    }
    if len(write.ids) == 1:
        return UpdateOne({"_id": write.ids[0], "version": write.version}, update)
    return UpdateMany({"_id": {"$in": write.ids}, "version": write.version}, update)


def _why(error: Exception) -> str:
    """Name an error without its text, which may quote a document."""
    code = error.code if isinstance(error, OperationFailure) else None
    if isinstance(error, BulkWriteError):
        codes = {each["code"] for each in error.details.get("writeErrors", ())}
        code = min(codes, default=code)
    return f"{type(error).__name__} {code}" if code else type(error).__name__
