"""Workers in memory."""

from datetime import timedelta

from reactor.store.memory_base import MemoryBase
from reactor.store.protocol import Member


class MemoryMembers(MemoryBase):
    async def beat(self, worker: str, member: Member, *, gone_seconds: float) -> dict[str, Member]:
        await self._pause()
        now, workers = self._clock(), self._of("workers")
        workers.insert({"_id": worker, "since": now})
        for stored in workers.among([worker]):
            stored.set({"seen_at": now, "can_listen": member.can_listen, "heard": member.heard})
        since = now - timedelta(seconds=gone_seconds)
        alive = workers.where(lambda one: one["seen_at"] > since)
        return {
            one.fields["_id"]: Member(
                can_listen=one.fields["can_listen"], heard=one.fields["heard"]
            )
            for one in alive
        }

    async def leave(self, worker: str) -> None:
        await self._pause()
        self._of("workers").remove(worker)
