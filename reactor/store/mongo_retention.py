"""What leaves MongoDB for good: found by an index, a batch at a time."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from pymongo import UpdateOne

from reactor.indexes import ANSWERED, NEWER
from reactor.store.base import MongoBase
from reactor.store.calls import call, long_call, repeated
from reactor.store.raw import glance, ids_filter
from schemas.campaign import Campaign
from schemas.ids import CampaignId


class MongoRetention(MongoBase):
    @call
    async def removable(self, before: datetime, *, limit: int) -> tuple[CampaignId, ...]:
        query = {"removed_at": None, "completed_at": {"$lte": before}, "$nor": [NEWER]}
        found = self._database.campaigns.find(query, {"_id": 1})
        return tuple(
            one["_id"] for one in await found.sort("completed_at", 1).limit(limit).to_list()
        )

    @long_call
    async def remove(self, campaign: Campaign, *, limit: int) -> int:
        for collection, query in _belongings(campaign):
            found = await self._find(collection, query, projection={"_id": 1}, limit=limit)
            if not found:
                continue
            if collection == "conversations":
                ids = [glance(raw.data)["_id"] for raw in found]
                of_them = {"conversation_id": {"$in": ids}, **ANSWERED}
                await self._delete("conversation_updates", of_them)
            await self._delete(collection, ids_filter(found))
            return len(found)
        await self._forget_recipients(campaign)
        return 0

    async def _delete(self, collection: str, query: Mapping[str, Any]) -> None:
        await repeated(lambda: self._database[collection].delete_many(query))

    async def _forget_recipients(self, campaign: Campaign) -> None:
        """Empty what the request holds itself: an answer without recipients stays."""
        accepted = {"_id": campaign.batch_request_id, "status": "accepted"}
        inline = {**accepted, "recipients": {"$type": "array"}}
        writes = [
            UpdateOne(accepted, {"$set": {"rejected_recipients": []}}),
            UpdateOne(inline, {"$set": {"recipients": []}}),
        ]
        await repeated(lambda: self._database.batch_requests.bulk_write(writes))


def _belongings(campaign: Campaign) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Give what belongs to a campaign, in the order in which it leaves."""
    of_request = {"batch_request_id": campaign.batch_request_id}
    of_campaign = {"campaign_id": campaign.id}
    yield "conversation_updates", {**of_request, **ANSWERED}
    yield "messages", of_campaign
    yield "conversations", of_campaign
    yield "rejected_recipients", of_request
    yield "batch_recipients", of_request
    yield "campaign_updates", {**of_request, **ANSWERED}
    yield "campaign_updates", {**of_campaign, **ANSWERED}
