"""What leaves memory for good."""

from collections.abc import Iterator
from datetime import datetime

from reactor.store.memory_base import MemoryBase
from reactor.store.memory_documents import Stored
from reactor.store.overview import date_of
from schemas.campaign import Campaign
from schemas.ids import CampaignId
from schemas.problems import SCHEMA_VERSION


class MemoryRetention(MemoryBase):
    async def removable(self, before: datetime, *, limit: int) -> tuple[CampaignId, ...]:
        await self._pause()
        over = [
            (completed_at, stored.fields["_id"])
            for stored in self._of("campaigns").where(lambda one: one.get("removed_at") is None)
            if (completed_at := date_of(stored.fields.get("completed_at")))
            and completed_at <= before
            and stored.fields.get("schema_version", 1) <= SCHEMA_VERSION
        ]
        return tuple(identity for _, identity in sorted(over)[:limit])

    async def remove(self, campaign: Campaign, *, limit: int) -> int:
        await self._pause()
        for collection, found in self._belongings(campaign):
            leaving = found[:limit]
            if not leaving:
                continue
            if collection == "conversations":
                ids = [one.fields["_id"] for one in leaving]
                for update in self._answered("conversation_updates", "conversation_id", *ids):
                    self._of("conversation_updates").delete(update)
            for one in leaving:
                self._of(collection).delete(one)
            return len(leaving)
        request = self._of("batch_requests").get(campaign.batch_request_id)
        if request and request.fields.get("status") == "accepted":
            inline = isinstance(request.fields.get("recipients"), list)
            request.set({"rejected_recipients": []} | ({"recipients": []} if inline else {}))
        return 0

    def _belongings(self, campaign: Campaign) -> Iterator[tuple[str, list[Stored]]]:
        request = campaign.batch_request_id
        updates, orders = "conversation_updates", "campaign_updates"
        yield updates, self._answered(updates, "batch_request_id", request)
        for collection in ("messages", "conversations"):
            yield collection, self._about(collection, "campaign_id", campaign.id)
        for collection in ("rejected_recipients", "batch_recipients"):
            yield collection, self._about(collection, "batch_request_id", request)
        yield orders, self._answered(orders, "batch_request_id", request)
        yield orders, self._answered(orders, "campaign_id", campaign.id)

    def _about(self, collection: str, field: str, *values: object) -> list[Stored]:
        return self._of(collection).where(lambda one: one.get(field) in values)

    def _answered(self, collection: str, field: str, *values: object) -> list[Stored]:
        found = self._about(collection, field, *values)
        return [one for one in found if date_of(one.fields.get("applied_at"))]
