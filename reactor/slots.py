"""WORKER_THREADS: how many batches are in work at once. One that waits for its channel is not."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf

import anyio
from attrs import define, field


@define(kw_only=True)
class Slots:
    total: int
    #: Called when one is free.
    wake: Callable[[], None]
    #: No hand-off is begun after these monotonic seconds: the worker stops.
    begin_until: float = inf
    _used: int = field(default=0, init=False)
    _returning: int = field(default=0, init=False)
    _freed: anyio.Event = field(factory=anyio.Event, init=False)

    @property
    def free(self) -> bool:
        """Say whether new work may begin: what comes back from its channel goes first."""
        return self._used + self._returning < self.total

    def take(self) -> None:
        self._used += 1

    def give(self) -> None:
        self._used -= 1
        self._freed.set()
        self._freed = anyio.Event()
        self.wake()

    @asynccontextmanager
    async def aside(self) -> AsyncIterator[None]:
        """Let others work while this batch is at its channel: a slow one holds nobody else up."""
        self.give()
        try:
            yield
        finally:
            self._returning += 1
            try:
                while self._used >= self.total:
                    await self._freed.wait()
            finally:
                self._returning -= 1
                self._used += 1
