"""Conversations in MongoDB: loaded in batches, written under their versions, grouped."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime

import pymongo
from bson.errors import BSONError
from pymongo import UpdateMany, UpdateOne
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError

from reactor.giving_way import ROUNDS, give_way
from reactor.store.base import Document, MongoBase, raw_of, read_each
from reactor.store.calls import SECONDS, call, is_unavailable, long_call, write_errors
from reactor.store.mongo_inbox import addressed, earliest
from reactor.store.patches import Group, grouped, once_each
from reactor.store.protocol import (
    Applied,
    Batch,
    BrokenDocument,
    Change,
    Found,
    Inbox,
    Order,
    RawDocument,
    Scope,
    recipients_of,
)
from reactor.store.raw import glance
from schemas.conversation import FINAL, Conversation, ConversationStatus, SlotState
from schemas.converter import InvalidDocumentError
from schemas.documents import id_filter
from schemas.evolving import evolve
from schemas.ids import BUCKETS, CampaignId, ConversationId, SendKey
from schemas.message import LedgerEntry

#: Unanswered updates that are read with one batch.
MAX_UPDATES = 2_000
OPEN = [status.value for status in ConversationStatus if status not in FINAL]
_DATE = {"$type": "date"}
#: Raised before anything is sent: BSON cannot hold a value, or not as much.
UNWRITABLE = (BSONError, OverflowError, UnicodeError)
#: BSONObjectTooLarge: of a write that is too large by itself, the server refuses the command.
TOO_LARGE = 10334

type _Won = Mapping[ConversationId, Conversation]


class MongoConversations(MongoBase):
    @call
    async def find(self, order: Order) -> Found:
        return await self._found(order)

    async def _found(self, order: Order) -> Found:
        queues = {name: await self._queue(order, name) for name in order.queued}
        due = await self._in_scope(order)
        if order.besides and (rest := order.limit - len(order.named) - len(due)) > 0:
            due += await self._in_scope(besides(order, rest), last_first=True)
        raws = [raw for queue in queues.values() for raw in queue] + due
        if order.named:
            query = {"_id": {"$in": list(order.named)}, "campaign_id": order.campaign.id}
            raws += await self._find("conversations", query)
        return found_in(
            raws,
            full=len(due) + len(order.named) >= order.limit,
            queued={name: len(queue) for name, queue in queues.items()},
        )

    @call
    async def load(self, order: Order, found: Found | None = None) -> Batch:
        if order.known is not None:
            return await self._batch(order, {one.id: one for one in order.known})
        found = found or await self._found(order)
        raws, broken = found.raws, list[BrokenDocument]()
        conversations: list[Conversation] = []
        for at in range(0, len(raws), ROUNDS):
            read, broke = read_each(Conversation, raws[at : at + ROUNDS])
            conversations += read
            broken += broke
            await give_way(ROUNDS)
        known = {conversation.id: conversation for conversation in conversations}
        return evolve(
            await self._batch(order, known),
            full=found.full,
            queued=found.queued,
            broken=tuple(broken),
        )

    async def _batch(self, order: Order, known: Mapping[ConversationId, Conversation]) -> Batch:
        """Read what belongs to conversations."""
        return Batch(
            conversations=tuple(known.values()),
            updates=await self._updates(order, known),
            ledger=await self._entries_of(overdue_keys(known.values(), order.now)),
        )

    async def _in_scope(self, order: Order, *, last_first: bool = False) -> list[RawDocument]:
        """Read what is due, most overdue first; or last, where another begins at the other end."""
        limit = order.limit - len(order.named)
        if order.scope is Scope.NAMED or limit <= 0:
            return []
        query = _of_campaign(order)
        direction = -1 if last_first else 1
        sort = {"due_at": direction}
        match order.scope:
            case Scope.LEASES:
                query |= {"slot.state": "sending", "slot.until": {"$lte": order.now, **_DATE}}
                sort = {"slot.until": direction}
            case Scope.UNSETTLED:
                due = [{"status": {"$in": OPEN}}, {"due_at": {"$lte": order.now}}]
                query |= {"due_at": _DATE, "$or": due}
            case _:
                query["due_at"] = {"$lte": order.now, **_DATE}
        return await self._find("conversations", query, sort=sort, limit=limit)

    async def _queue(self, order: Order, channel: str) -> list[RawDocument]:
        """
        Read what is parked at a channel's gate, in the order in which it fell due.

        After one's own what is the others', who may not know of it: theirs from the other end.
        """
        asked = order.queued[channel]
        found = await self._parked(order, channel, asked, 1)
        if len(found) < asked and (others := of_others(order)):
            found += await self._parked(others, channel, asked - len(found), -1)
        return found

    async def _parked(
        self, order: Order, channel: str, limit: int, direction: int
    ) -> list[RawDocument]:
        query = _of_campaign(order) | {"slot.channel": channel, "slot.held": {"$type": "string"}}
        query["pause"] = None
        sort = {"slot.due_at": direction}
        return await self._find("conversations", query, sort=sort, limit=limit)

    async def _updates(
        self, order: Order, known: Mapping[ConversationId, Conversation]
    ) -> tuple[RawDocument, ...]:
        if not known:
            return ()
        if order.known_updates is not None:
            return order.known_updates
        whose = addressed(known, recipients_of(order.campaign.batch_request_id, known.values()))
        pipeline = earliest({"status": None, "$or": whose}, order.now, MAX_UPDATES)
        found = await self._aggregate(Inbox.CONVERSATION_UPDATES, pipeline)
        return tuple(raw_of(document) for document in found)

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
        return await self._of_ids(ids)

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

    @long_call
    async def apply(self, changes: Sequence[Change], *, token: str) -> Applied:
        if not changes:
            return Applied(won={})
        return await self._write(list(once_each(changes).values()), token)

    async def _write(self, changes: Sequence[Change], token: str) -> Applied:
        """
        Write in one command; what is then not known to be written is read back.

        What the database refuses is found by splitting, until it stands alone.
        """
        try:
            writes = [_operation(group, token) for group in grouped(changes)]
            with pymongo.timeout(SECONDS):
                result = await self._database.conversations.bulk_write(writes, ordered=False)
        except (PyMongoError, *UNWRITABLE) as error:
            won = await self._read_back(changes, token)
            if isinstance(error, PyMongoError) and is_unavailable(error):
                return Applied(won=won)
            if not _refuses_a_write(error):
                raise
            return await self._split(changes, won, error, token)
        if result.matched_count == len(changes):
            return Applied(won={each.before.id: _as_written(each) for each in changes})
        return Applied(won=await self._read_back(changes, token))

    async def _split(
        self, changes: Sequence[Change], won: _Won, error: Exception, token: str
    ) -> Applied:
        rest = [change for change in changes if change.before.id not in won]
        if len(changes) == 1:
            return Applied(won=won, refused={each.before.id: _why(error) for each in rest})
        found, refused = dict(won), dict[ConversationId, str]()
        middle = (len(rest) + 1) // 2
        for half in filter(None, (rest[:middle], rest[middle:])):
            applied = await self._write(half, token)
            found |= applied.won
            refused |= applied.refused
        return Applied(won=found, refused=refused)

    async def _read_back(self, changes: Sequence[Change], token: str) -> _Won:
        """Read what bears the token in the version that follows: that was written by us."""
        by_id = {change.before.id: change for change in changes}
        query = {"_id": {"$in": list(by_id)}, "written_by": token}
        # With time of its own: the write may have used up all that it had.
        with pymongo.timeout(SECONDS):
            cursor = self._settled.conversations.find(query, projection=["version"])
            found = await cursor.to_list()
        documents = [glance(bytes(raw.raw)) for raw in found]
        return {
            one["_id"]: _as_written(by_id[one["_id"]])
            for one in documents
            if one["version"] == by_id[one["_id"]].before.version + 1
        }

    @call
    async def note_failure(self, broken: BrokenDocument, fields: Mapping[str, object]) -> None:
        await self._database.conversations.update_one(
            id_filter(broken.raw.data), {"$set": dict(fields)}
        )


def found_in(raws: Sequence[RawDocument], *, full: bool, queued: Mapping[str, int]) -> Found:
    """Say whose these are; one that cannot be decoded is nobody's, and noted as broken before long."""
    ids = set[ConversationId]()
    for raw in raws:
        with suppress(InvalidDocumentError):
            identity = raw.document["_id"]
            if isinstance(identity, str):
                ids.add(ConversationId(identity))
    return Found(raws=raws, ids=frozenset(ids), full=full, queued=queued)


def besides(order: Order, rest: int) -> Order:
    """Ask for what others have left alone."""
    return evolve(
        order,
        now=order.besides_since or order.now,
        buckets=order.besides,
        limit=len(order.named) + rest,
    )


def of_others(order: Order) -> Order | None:
    """Ask for what is in all other buckets; None: there are no others."""
    if order.buckets is None:
        return None
    return evolve(order, buckets=frozenset(range(BUCKETS)) - order.buckets)


def _of_campaign(order: Order) -> Document:
    """Match the campaign's conversations, but those that are had already."""
    query: Document = {"campaign_id": order.campaign.id}
    if order.buckets is not None:
        query["bucket"] = {"$in": sorted(order.buckets)}
    if without := order.exclude | order.named:
        # $nor uses no index: none on `_id` may look as good as the one by due times.
        query["$nor"] = [{"_id": {"$in": list(without)}}]
    return query


def overdue_keys(conversations: Collection[Conversation], now: datetime) -> list[SendKey]:
    """Give the keys of slots whose lease or hold is over: the ledger is asked about them."""
    return [
        one.slot.key(one.id)
        for one in conversations
        if one.slot and one.slot.state is not SlotState.RESERVED and one.slot.until <= now
    ]


def _operation(group: Group, token: str) -> UpdateOne | UpdateMany:
    update = group.patch.update(token)
    if len(group.ids) == 1:
        return UpdateOne({"_id": group.ids[0], "version": group.version}, update)
    return UpdateMany({"_id": {"$in": group.ids}, "version": group.version}, update)


def _refuses_a_write(error: Exception) -> bool:
    """Say whether one of the writes is at fault, and not the command, for want of a right, say."""
    if isinstance(error, OperationFailure) and not isinstance(error, BulkWriteError):
        return error.code == TOO_LARGE
    return isinstance(error, (BulkWriteError, *UNWRITABLE))


def _as_written(change: Change) -> Conversation:
    return evolve(change.after, version=change.before.version + 1)


def _why(error: Exception) -> str:
    """Name an error without its text, which may quote a document."""
    if isinstance(error, BulkWriteError):
        return " ".join([type(error).__name__, *map(str, sorted(write_errors(error)))])
    code = f" {error.code}" if isinstance(error, OperationFailure) else ""
    return f"{type(error).__name__}{code}"
