"""Dispatch: one loop that gives turns, a bounded number of them at once."""

from collections.abc import Awaitable, Callable
from functools import partial

import anyio
from anyio.abc import TaskGroup
from attrs import define, field
from loguru import logger

from reactor.campaigns import take_turn
from reactor.engine import Engine
from reactor.failures import fail_campaign
from reactor.requests import take_request
from reactor.store.protocol import StoreUnavailableError
from reactor.turns import Turn
from reactor.unknown import look_up

#: The loop shows that it is alive at least this often.
IDLE_SECONDS = 5.0
#: After the database did not answer.
BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 10.0

type Work = Callable[[], Awaitable[None]]


@define(kw_only=True)
class Wake:
    """Rings at once, however often it is asked to in between."""

    _event: anyio.Event = field(factory=anyio.Event)

    def __call__(self) -> None:
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """Wait until it rings, for so long at the most."""
        with anyio.move_on_after(seconds):
            await self._event.wait()
        self._event = anyio.Event()


@define(kw_only=True)
class Dispatcher:
    engine: Engine
    wake: Wake
    beat: Callable[[], None]
    _running: int = 0
    _backoff: float = 0.0
    _requests_next: bool = True

    async def run(self, stop: anyio.Event, *, once: bool = False) -> None:
        """Give turns until told to stop; with `once`, until nothing has work. Then see them end."""
        async with anyio.create_task_group() as tasks:
            while not stop.is_set():
                self.beat()
                self._ring()
                if self._start(tasks):
                    continue
                if once and not self._running and self.engine.turns.idle:
                    return
                await self.wake.wait(self._pause())
                if self._backoff:
                    await anyio.sleep(self._backoff)

    def _ring(self) -> None:
        now = self.engine.clock.now()
        if now is not None:
            self.engine.turns.ring(now)

    def _pause(self) -> float:
        due = self.engine.turns.next_due()
        if due is None or not self.engine.slots.free:
            return IDLE_SECONDS
        return min(IDLE_SECONDS, self.engine.clock.seconds_until(due))

    def _start(self, tasks: TaskGroup) -> bool:
        """Start one more piece of work, if there is any and a place for it."""
        if not self.engine.slots.free:
            return False
        work = self._next()
        if work is None:
            return False
        self._running += 1
        self.engine.slots.take()
        tasks.start_soon(self._run, work)
        return True

    def _next(self) -> Work | None:
        """Choose what is next: look-ups are cheap and go first, then requests and turns alternate."""
        turns, engine = self.engine.turns, self.engine
        hints = turns.take_updates()
        if hints:
            return partial(look_up, engine, hints)
        self._requests_next = not self._requests_next
        for requests in (self._requests_next, not self._requests_next):
            if requests and (raw_id := turns.take_request()):
                return partial(take_request, engine, raw_id)
            if not requests and (turn := turns.take()):
                return partial(self._turn, turn)
        return None

    async def _turn(self, turn: Turn) -> None:
        turns = self.engine.turns
        try:
            await take_turn(self.engine, turn)
        except StoreUnavailableError:
            # Nothing of the turn is forgotten.
            turns.name(turn.campaign_id, turn.named)
            if turn.ordered:
                turns.order(turn.campaign_id, turn.orders)
            raise
        except Exception as error:  # noqa: BLE001 - a campaign's failure is its own
            await fail_campaign(self.engine, turn.campaign_id, error)
        finally:
            turns.done(turn)

    def _back_off(self) -> None:
        """Leave it for a while; a sweep then finds again what was not done."""
        self._backoff = min(max(BACKOFF_SECONDS, 2 * self._backoff), MAX_BACKOFF_SECONDS)
        self.engine.turns.want_sweep()

    async def _run(self, work: Work) -> None:
        """Do it. A database that does not answer is left alone for a while, then swept."""
        try:
            await work()
            self._backoff = 0.0
        except StoreUnavailableError as error:
            self._back_off()
            logger.bind(error_type=str(error), backoff_seconds=self._backoff).warning(
                "The database does not answer"
            )
        except Exception as error:  # noqa: BLE001 - what one inbox holds stops no campaign
            self._back_off()
            self.engine.telemetry.failed("", type(error).__name__)
            logger.opt(exception=error).error("An inbox could not be read or answered")
        finally:
            self._running -= 1
            self.engine.slots.give()
