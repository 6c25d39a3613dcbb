"""Campaigns in MongoDB: read with the server's time, written under their version, counted."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from attrs import evolve

from reactor.store.base import NOW, Document, MongoBase, raw_of
from reactor.store.calls import call, long_call
from reactor.store.protocol import BrokenDocument, Due, Scope
from schemas.campaign import Campaign, CampaignStatus, Counts, MessageCounts
from schemas.conversation import FINAL, ConversationStatus
from schemas.converter import to_document
from schemas.documents import decode
from schemas.ids import CampaignId
from schemas.message import ACCEPTED

_STANDING_STILL = ["pending", "awaiting_reply", "awaiting_agent"]


class MongoCampaigns(MongoBase):
    @call
    async def now(self) -> datetime:
        return await self._server_time()

    @call
    async def campaign(
        self, campaign: CampaignId
    ) -> tuple[datetime, Campaign | BrokenDocument | None]:
        cursor = await self._raw.campaigns.aggregate(
            [
                {"$match": {"_id": {"$eq": campaign}}},
                *self._without_known_template(campaign),
                {"$set": {NOW: "$$NOW"}},
            ]
        )
        for found in await cursor.to_list():
            document = decode(bytes(found.raw))
            now = self._read_time(document.pop(NOW))
            return now, self._campaign(document, raw_of(found))
        return await self._server_time(), None

    @call
    async def write_campaign(self, before: Campaign, after: Campaign) -> Campaign | None:
        old, new = to_document(before), to_document(after)
        patch = {name: value for name, value in new.items() if old.get(name) != value}
        after = evolve(after, version=before.version + 1)
        result = await self._database.campaigns.update_one(
            {"_id": before.id, "version": before.version},
            {"$set": patch | {"version": after.version}},
        )
        return after if result.matched_count else None

    @long_call
    async def unfinished(self) -> tuple[Due, ...]:
        cursor = await self._database.campaigns.aggregate(
            [
                {"$match": {"completed_at": None}},
                {
                    "$project": dict.fromkeys(
                        ("type", "status", "due_at", "deadline_at", "opened"), 1
                    )
                },
                _earliest("due", {"due_at": {"$type": "date"}}, "due_at"),
                _earliest("lease", {"slot.state": "sending"}, "slot.until"),
            ]
        )
        return tuple(_due(one) for one in await cursor.to_list())

    @call
    async def next_due(self, campaign: CampaignId, scope: Scope) -> datetime | None:
        if scope is Scope.NAMED:
            return None
        field: str = "due_at"
        query: Mapping[str, Any] = {"due_at": {"$type": "date"}}
        if scope is Scope.LEASES:
            field, query = "slot.until", {"slot.state": "sending"}
        found = await self._database.conversations.find_one(
            {"campaign_id": campaign, **query}, projection={field: 1, "_id": 0}, sort={field: 1}
        )
        if found is None:
            return None
        due: datetime = found["slot"]["until"] if scope is Scope.LEASES else found["due_at"]
        return due

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
        await self._database.conversations.update_many(
            {
                "campaign_id": campaign.id,
                "due_at": {"$type": "date"},
                "pause_seen": {"$lt": campaign.paused_total},
                "status": {"$in": _STANDING_STILL},
            },
            [{"$set": moved}, {"$set": {"due_at": due, "version": {"$add": ["$version", 1]}}}],
        )

    @long_call
    async def count(self, campaign: CampaignId) -> tuple[Counts, MessageCounts]:
        by = {"status": "$status", "stage": "$stage", "exit_reason": "$exit_reason"}
        cursor = await self._database.conversations.aggregate(_grouped(campaign, by))
        groups = [(group["_id"], group["count"]) for group in await cursor.to_list()]
        cursor = await self._database.messages.aggregate(_grouped(campaign, {"status": "$status"}))
        messages = {group["_id"]["status"]: group["count"] for group in await cursor.to_list()}
        sent = sum(messages.get(status.value, 0) for status in ACCEPTED)
        counts = Counts(
            open=sum(n for key, n in groups if ConversationStatus(key["status"]) not in FINAL),
            by_status=_summed(groups, "status"),
            by_stage=_summed(groups, "stage"),
            by_exit_reason=_summed(groups, "exit_reason"),
        )
        return counts, MessageCounts(
            sent=sent,
            **{name: messages.get(name, 0) for name in ("failed", "unknown", "cancelled")},
        )


def _grouped(campaign: CampaignId, by: Mapping[str, str]) -> list[Mapping[str, Any]]:
    return [
        {"$match": {"campaign_id": campaign}},
        {"$group": {"_id": by, "count": {"$sum": 1}}},
    ]


def _summed(groups: list[tuple[Document, int]], by: str) -> dict[str, int]:
    sums: dict[str, int] = {}
    for key, count in groups:
        if key.get(by) is not None:
            sums[key[by]] = sums.get(key[by], 0) + count
    return dict(sorted(sums.items()))


def _earliest(name: str, query: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """Join each campaign with the first of its conversations by a time: one look into an index."""
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


def _due(one: Document) -> Due:
    status = CampaignStatus(one["status"])
    earliest = one["lease" if status is CampaignStatus.PAUSED else "due"]
    waits = status is CampaignStatus.SCHEDULED or not one["opened"]
    return Due(
        campaign_id=one["_id"],
        type=one["type"],
        status=status,
        due_at=one["due_at"],
        deadline_at=one["deadline_at"],
        opened=one["opened"],
        conversations_due_at=earliest[0]["at"] if earliest and not waits else None,
    )
