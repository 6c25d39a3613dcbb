"""The ledger, the suppressions and the last look, in MongoDB."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pymongo import UpdateOne

from reactor.store.base import CHANNELS, campaign_by_id, read_each
from reactor.store.calls import call, long_call
from reactor.store.ledgering import GOT, merging, noted_problem, other, read_unanswered, stub
from reactor.store.mongo_conversations import MongoConversations
from reactor.store.mongo_inbox import addressed
from reactor.store.protocol import Inbox, Look, LookOrder, RawDocument, recipients_of
from reactor.store.raw import glance
from schemas.campaign import Campaign
from schemas.conversation import Conversation
from schemas.converter import to_document
from schemas.documents import id_filter
from schemas.ids import SendKey
from schemas.message import LedgerEntry, Suppression
from schemas.transition import Report

type Pipeline = Sequence[Mapping[str, Any]]


_VERSION = {"_id": "$_id", "version": "$version"}


class MongoLedger(MongoConversations):
    @call
    async def suppress(self, suppressions: Sequence[Suppression]) -> None:
        if suppressions:
            await self._insert_new(
                self._database, "suppressions", [to_document(one) for one in suppressions]
            )

    @call
    async def unchecked_suppressions(self, *, limit: int) -> tuple[RawDocument, ...]:
        found = await self._find("suppressions", {"checked": None}, projection=["_id"], limit=limit)
        return tuple(found)

    @call
    async def check_suppressions(self, checked: Sequence[tuple[RawDocument, str | None]]) -> None:
        writes = [
            UpdateOne(id_filter(raw.data), {"$set": noted_problem(problem)})
            for raw, problem in checked
        ]
        if writes:
            await self._database.suppressions.bulk_write(writes, ordered=False)

    @long_call
    async def record(self, entries: Sequence[LedgerEntry]) -> None:
        if entries:
            documents = [to_document(entry) for entry in entries]
            present = await self._insert_new(self._database, "messages", documents)
            await self._merge([entries[index] for index in present])

    @call
    async def report(
        self, reports: Sequence[Report], about: Mapping[SendKey, Conversation]
    ) -> None:
        await self._merge([stub(report, about[report.key]) for report in reports])

    async def _merge(self, entries: Sequence[LedgerEntry]) -> None:
        writes = [UpdateOne({"_id": entry.id}, merging(entry), upsert=True) for entry in entries]
        if writes:
            await self._database.messages.bulk_write(writes, ordered=True)

    @call
    async def look(self, order: LookOrder) -> Look:
        known = self._templates.get(order.campaign_id)
        marked = {one.id: one for one in order.conversations}
        keys = [
            one.slot.key(one.id) for one in order.conversations if one.slot and one.slot.uncertain
        ]
        sources = {
            # The inboxes first: an answer is written after what it says, so what is answered before
            # the rest is read is in that. And what is on its way before what has arrived: it is
            # entered before its slot is cleared.
            **_unanswered(order),
            "conversations:others": _others(order),
            "suppressions": _by_ids(order.address_keys),
            "campaigns": campaign_by_id(order.campaign_id, known),
            # In one document: to take a hundred apart takes longer than to put them together.
            "conversations": [
                *_by_ids(marked),
                {"$group": {"_id": None, "all": {"$push": _VERSION}}},
            ],
            "channels": CHANNELS,
            "messages:got": _got(order),
        }
        now, found = await self._collect(sources | ({"messages": _by_ids(keys)} if keys else {}))
        campaign = self._campaign(order.campaign_id, found["campaigns"], known)
        versions = {
            one["_id"]: one["version"]
            for every in map(_glanced, found["conversations"])
            for one in every["all"]
        }
        # As it was marked, in nearly every case, and then there is nothing to read of it.
        same = {key: one for key, one in marked.items() if versions.get(key) == one.version}
        others = await self._of_ids(versions.keys() - same.keys())
        entries, _ = read_each(LedgerEntry, found.get("messages", []))
        by_recipient = {one.recipient.id: one.id for one in order.conversations}
        return Look(
            now=now,
            updates=tuple(
                read_unanswered(raw, by_recipient) for raw in found[Inbox.CONVERSATION_UPDATES]
            ),
            campaign_updates=tuple(
                read_unanswered(raw, {}) for raw in found[Inbox.CAMPAIGN_UPDATES]
            ),
            suppressed=frozenset(glance(raw.data)["_id"] for raw in found["suppressions"]),
            campaign=campaign if isinstance(campaign, Campaign) else None,
            conversations=same | {one.id: one for one in others},
            ledger={entry.id: entry for entry in entries},
            channels=self._states(found["channels"]),
            got={one["_id"]: one["count"] for one in map(_glanced, found["messages:got"])},
            others=tuple(other(_glanced(raw)) for raw in found["conversations:others"]),
        )


def _unanswered(order: LookOrder) -> dict[str, Pipeline]:
    """Match what nobody has answered yet, put off or not."""
    ids = [one.id for one in order.conversations]
    updates = addressed(ids, recipients_of(order.batch_request_id, order.conversations))
    orders = [{"campaign_id": order.campaign_id}, {"batch_request_id": order.batch_request_id}]
    fields = ("kind", "conversation_id", "recipient_id", "bounce")
    project: Mapping[str, Any] = {"$project": dict.fromkeys(fields, 1)}
    return {
        Inbox.CONVERSATION_UPDATES: [{"$match": {"status": None, "$or": updates}}, project],
        Inbox.CAMPAIGN_UPDATES: [{"$match": {"status": None, "$or": orders}}, project],
    }


def _got(order: LookOrder) -> Pipeline:
    """Count what the addresses got since then; from the index alone."""
    match = {
        "address": {"$in": list(order.address_keys)},
        "recorded_at": {"$gte": order.since},
        "status": {"$in": GOT},
    }
    return [{"$match": match}, {"$group": {"_id": "$address", "count": {"$sum": 1}}}]


def _others(order: LookOrder) -> Pipeline:
    """
    Match other campaigns' conversations with one of the addresses and a message maybe on its way.

    One that is held has an entry, and is counted by that.
    """
    match = {
        "address_keys": {"$in": list(order.address_keys)},
        "slot.state": {"$type": "string"},
        "$or": [{"slot.state": "sending"}, {"slot.state": "reserved", "slot.uncertain": True}],
        "campaign_id": {"$ne": order.campaign_id},
    }
    return [{"$match": match}, {"$project": {"recipient.address": 1, "slot.channel": 1}}]


def _glanced(raw: RawDocument) -> dict[str, Any]:
    return glance(raw.data)


def _by_ids(ids: Collection[str]) -> Pipeline:
    return [{"$match": {"_id": {"$in": list(ids)}}}]
