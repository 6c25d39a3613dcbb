"""Workers in MongoDB: who lives, by the server's clock."""

from reactor.store.base import MongoBase
from reactor.store.calls import call


class MongoMembers(MongoBase):
    @call
    async def beat(self, worker: str, *, gone_seconds: float) -> frozenset[str]:
        await self._carried.workers.update_one(
            {"_id": worker},
            [{"$set": {"seen_at": "$$NOW", "since": {"$ifNull": ["$since", "$$NOW"]}}}],
            upsert=True,
        )
        since = {"$subtract": ["$$NOW", int(gone_seconds * 1000)]}
        cursor = await self._database.workers.aggregate(
            [{"$match": {"$expr": {"$gt": ["$seen_at", since]}}}, {"$project": {"_id": 1}}]
        )
        return frozenset(str(one["_id"]) for one in await cursor.to_list())

    @call
    async def leave(self, worker: str) -> None:
        await self._carried.workers.delete_one({"_id": worker})
