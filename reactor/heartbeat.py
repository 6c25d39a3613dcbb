"""A sign of life for whoever watches the process: a file that is touched while every part moves."""

from collections.abc import Callable
from pathlib import Path
from time import monotonic

import anyio
from attrs import define, field, frozen
from loguru import logger

INTERVAL_SECONDS = 5.0


@define
class _Part:
    limit_seconds: float
    moved_at: float


@frozen
class Heartbeat:
    """
    Touches the file only while each part has reported progress within its limit.

    A part that is registered and never reports is late after its limit, too.
    """

    file: Path
    #: Seconds, never going back.
    clock: Callable[[], float] = monotonic
    _parts: dict[str, _Part] = field(factory=dict, init=False)
    _reported_late: set[str] = field(factory=set, init=False)

    def part(self, name: str, limit_seconds: float) -> Callable[[], None]:
        """Register a part; it calls what it gets whenever it has moved on."""
        part = self._parts[name] = _Part(limit_seconds, self.clock())

        def beat() -> None:
            part.moved_at = self.clock()

        return beat

    async def run(self) -> None:
        """Touch the file every few seconds, until cancelled."""
        while True:
            self.touch()
            await anyio.sleep(INTERVAL_SECONDS)

    def is_alive(self) -> bool:
        """Say whether every part has moved within its limit."""
        return not self._late()

    def touch(self) -> None:
        """Touch the file, if no part is late; who is late is logged once."""
        late = self._late()
        for name in late - self._reported_late:
            logger.bind(part=name, limit_seconds=self._parts[name].limit_seconds).warning(
                "No progress: the heartbeat stops"
            )
        self._reported_late.clear()
        self._reported_late.update(late)
        if late:
            return
        try:
            self.file.touch()
        except OSError as error:  # the work goes on; whoever watches will notice
            logger.opt(exception=error).warning("The heartbeat file cannot be touched")

    def _late(self) -> set[str]:
        now = self.clock()
        return {
            name for name, part in self._parts.items() if now - part.moved_at > part.limit_seconds
        }
