"""Campaigns in MongoDB: read with the server's time, written under their version, counted."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from loguru import logger

from reactor.store.base import CHANNELS, Document, MongoBase, campaign_by_id, read_each
from reactor.store.calls import call, long_call, repeated
from reactor.store.hints import FEW, few
from reactor.store.mongo_inbox import addressed
from reactor.store.overview import counts_of, date_of, due_of, message_counts_of
from reactor.store.patches import patch_between
from reactor.store.protocol import Addressees, BrokenDocument, Due, Inbox, Scope, Sight
from reactor.store.raw import glance
from schemas.campaign import Campaign, CampaignStatus, Counts, MessageCounts
from schemas.conversation import Conversation
from schemas.converter import InvalidDocumentError
from schemas.evolving import evolve
from schemas.ids import CampaignId, ConversationId
from schemas.problems import SCHEMA_VERSION

#: Like the index of leases.
LEASED = {"slot.state": "sending", "slot.until": {"$type": "date"}}
_STANDING_STILL = ["pending", "awaiting_reply", "awaiting_agent"]


class MongoCampaigns(MongoBase):
    @call
    async def now(self) -> datetime:
        return await self._server_time()

    @call
    async def campaign(
        self, campaign: CampaignId
    ) -> tuple[datetime, Campaign | BrokenDocument | None]:
        known = self._templates.get(campaign)
        now, found = await self._collect({"campaigns": campaign_by_id(campaign, known)})
        return now, self._campaign(campaign, found["campaigns"], known)

    @call
    async def sight(
        self,
        campaign: CampaignId,
        named: Collection[ConversationId] = (),
        addressees: Addressees | None = None,
    ) -> Sight:
        known = self._templates.get(campaign)
        sources = {"campaigns": campaign_by_id(campaign, known), "channels": CHANNELS}
        if named:
            query = {"_id": {"$in": list(named)}, "campaign_id": campaign}
            sources["conversations"] = [{"$match": query}]
        if addressees:
            waiting = {"status": None, "$or": addressed(named, addressees)}
            sources[Inbox.CONVERSATION_UPDATES] = [{"$match": waiting}, {"$limit": FEW}]
        now, found = await self._collect(sources)
        conversations, broken = read_each(Conversation, found.get("conversations", []))
        return Sight(
            now=now,
            campaign=self._campaign(campaign, found["campaigns"], known),
            channels=self._states(found["channels"]),
            conversations=tuple(conversations),
            broken=tuple(broken),
            updates=few(found[Inbox.CONVERSATION_UPDATES], now) if addressees else None,
        )

    @call
    async def write_campaign(
        self, before: Campaign, after: Campaign, *, carried: bool = False
    ) -> Campaign | None:
        database = self._carried if carried else self._database
        result = await database.campaigns.update_one(
            {"_id": before.id, "version": before.version}, patch_between(before, after).update()
        )
        return evolve(after, version=before.version + 1) if result.matched_count else None

    @long_call
    async def unfinished(self) -> tuple[Due, ...]:
        found = await self._aggregate(
            "campaigns",
            [
                {"$match": {"$or": [{"completed_at": None}, {"recount_at": {"$type": "date"}}]}},
                {
                    "$project": dict.fromkeys(
                        ("type", "status", "due_at", "deadline_at", "completed_at", "opened"), 1
                    )
                },
                _earliest("due", {"due_at": {"$type": "date"}}, "due_at"),
                _earliest("lease", LEASED, "slot.until"),
                # Any of them: by the index as it is, or a million would be sorted for one.
                _earliest("queue", {"slot.held": {"$type": "string"}}, "slot.channel"),
            ],
        )
        return tuple(due for one in found if (due := _due(glance(bytes(one.raw)))))

    @call
    async def next_due(
        self, campaign: CampaignId, scope: Scope, buckets: frozenset[int] | None = None
    ) -> datetime | None:
        if scope is Scope.NAMED:
            return None
        field: str = "due_at"
        query: Mapping[str, Any] = {"due_at": {"$type": "date"}}
        if scope is Scope.LEASES:
            field, query = "slot.until", LEASED
        if buckets is not None:
            query = {**query, "bucket": {"$in": sorted(buckets)}}
        found = await self._database.conversations.find_one(
            {"campaign_id": campaign, **query}, projection={field: 1, "_id": 0}, sort={field: 1}
        )
        if found is None:
            return None
        return date_of(found["slot"]["until"] if scope is Scope.LEASES else found["due_at"])

    @long_call
    async def shift_waits(self, campaign: Campaign) -> None:
        rest = {"$subtract": [campaign.paused_total, "$pause_seen"]}
        reserved = {"$eq": ["$slot.state", "reserved"]}
        moved = {
            "pause_seen": campaign.paused_total,
            "wait_until": {"$add": ["$wait_until", rest]},
            "slot": {
                "$cond": [
                    reserved,
                    {"$mergeObjects": ["$slot", {"until": {"$add": ["$slot.until", rest]}}]},
                    "$slot",
                ]
            },
        }
        due = {"$min": [{"$ifNull": ["$slot.until", "$wait_until"]}, "$deadline_at"]}
        query = {
            "campaign_id": campaign.id,
            "due_at": {"$type": "date"},
            "pause": None,
            "pause_seen": {"$lt": campaign.paused_total},
            "status": {"$in": _STANDING_STILL},
            # The start is a date, and comes when it comes.
            "$nor": [
                {"status": "pending", "message_count": 0},
                {"schema_version": {"$gt": SCHEMA_VERSION}},
            ],
        }
        update = [{"$set": moved}, {"$set": {"due_at": due, "version": {"$add": ["$version", 1]}}}]
        await repeated(lambda: self._database.conversations.update_many(query, update))

    @long_call
    async def count(self, campaign: CampaignId) -> tuple[Counts, MessageCounts]:
        by = {"status": "$status", "stage": "$stage", "exit_reason": "$exit_reason"}
        cursor = await self._database.conversations.aggregate(_grouped(campaign, by))
        conversations = [(group["_id"], group["count"]) for group in await cursor.to_list()]
        cursor = await self._database.messages.aggregate(_grouped(campaign, {"status": "$status"}))
        messages = [(group["_id"], group["count"]) for group in await cursor.to_list()]
        return counts_of(conversations), message_counts_of(messages)


def _grouped(campaign: CampaignId, by: Mapping[str, str]) -> list[Mapping[str, Any]]:
    return [
        {"$match": {"campaign_id": campaign}},
        {"$group": {"_id": by, "count": {"$sum": 1}}},
    ]


def _earliest(name: str, query: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """Join each campaign with the first of its conversations by a field: one look into an index."""
    return {
        "$lookup": {
            "from": "conversations",
            "localField": "_id",
            "foreignField": "campaign_id",
            "pipeline": [
                {"$match": query},
                {"$sort": {"campaign_id": 1, field: 1}},
                {"$limit": 1},
                {"$project": {"_id": 0, "at": f"${field}"}},
            ],
            "as": name,
        }
    }


def _due(one: Document) -> Due | None:
    """Read an unfinished campaign; None: it cannot be read, and must not hide the others."""
    paused = one.get("status") == CampaignStatus.PAUSED
    earliest = one["lease" if paused else "due"]
    try:
        at = earliest[0]["at"] if earliest else None
        return due_of(one, at, queued=bool(one["queue"]))
    except InvalidDocumentError:
        logger.bind(campaign_id=str(one.get("_id"))).error("A campaign cannot be read: left out")
        return None
