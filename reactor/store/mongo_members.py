"""Workers in MongoDB: who lives, by the server's clock."""

from reactor.store.base import MongoBase
from reactor.store.calls import call
from reactor.store.protocol import Member


class MongoMembers(MongoBase):
    @call
    async def beat(self, worker: str, member: Member, *, gone_seconds: float) -> dict[str, Member]:
        await self._carried.workers.update_one(
            {"_id": worker},
            [
                {
                    "$set": {
                        "seen_at": "$$NOW",
                        "since": {"$ifNull": ["$since", "$$NOW"]},
                        "can_listen": member.can_listen,
                        "heard": member.heard,
                    }
                }
            ],
            upsert=True,
        )
        since = {"$subtract": ["$$NOW", int(gone_seconds * 1000)]}
        cursor = await self._database.workers.aggregate(
            [{"$match": {"$expr": {"$gt": ["$seen_at", since]}}}]
        )
        # Older workers do not say whether they listen: they do.
        return {
            str(one["_id"]): Member(
                can_listen=one.get("can_listen", True), heard=one.get("heard", 0)
            )
            for one in await cursor.to_list()
        }

    @call
    async def leave(self, worker: str) -> None:
        await self._carried.workers.delete_one({"_id": worker})
