"""Workers in memory."""

from datetime import timedelta

from reactor.store.memory_base import MemoryBase


class MemoryMembers(MemoryBase):
    async def beat(self, worker: str, *, gone_seconds: float) -> frozenset[str]:
        await self._pause()
        now, workers = self._clock(), self._of("workers")
        workers.insert({"_id": worker, "since": now})
        for stored in workers.among([worker]):
            stored.set({"seen_at": now})
        since = now - timedelta(seconds=gone_seconds)
        alive = workers.where(lambda one: one["seen_at"] > since)
        return frozenset(one.fields["_id"] for one in alive)

    async def leave(self, worker: str) -> None:
        await self._pause()
        self._of("workers").remove(worker)
