"""
Workers over one store in memory, on a clock of their own, with every interleaving chosen.

The loop's time is the clock, and stands still while anybody can go on. Each call to the store waits
at a gate; when nobody can go on, one gate is opened; when none is closed, time passes.
"""

import asyncio
import random
from collections import Counter, deque
from datetime import timedelta
from selectors import DefaultSelector

from attrs import define, field, frozen

from reactor.clock import ServerClock, TimeScale
from reactor.counting import Changed
from reactor.dispatch import Wake
from reactor.engine import Engine
from reactor.membership import Membership
from reactor.settings import load_settings
from reactor.sharing import Share
from reactor.slots import Slots
from reactor.store.protocol import StoreUnavailableError
from reactor.telemetry import Telemetry
from reactor.turns import Turns
from reactor.watch import watch_over
from reactor.worker import Worker
from schemas.hand_off import ChannelSpec, Outcome, OutcomeKind
from tests.builders import NOW
from tests.witness import Limits, WitnessedStore

#: Store calls of one shift: beyond, it spins.
MAX_CALLS = 4_000
ENVIRON = {"MONGODB_URI": "mongodb://127.0.0.1", "CHANNEL_EMAIL": "log:", "WORKER_THREADS": "2"}

SENT = Outcome(kind=OutcomeKind.SENT, provider_id="p")
#: What the channel says to a message that it does not take.
ANSWERS = {
    "retry": Outcome(kind=OutcomeKind.RETRY, error="busy"),
    "later": Outcome(kind=OutcomeKind.RETRY, error="busy", retry_after=timedelta(minutes=10)),
    "limited": Outcome(kind=OutcomeKind.RATE_LIMITED, error="429"),
    "silent": Outcome(
        kind=OutcomeKind.RATE_LIMITED, error="429", retry_after=timedelta(seconds=20)
    ),
    "broken": Outcome(kind=OutcomeKind.CHANNEL_FAILED, error="401"),
    "refused": Outcome(kind=OutcomeKind.REFUSED, error="no"),
}


class CrashError(BaseException):
    """The process is gone, here."""


class _Selector(DefaultSelector):
    """Nothing comes from outside: what would be waiting is a choice."""

    def select(self, timeout=None):
        """Choose who goes on, or let time pass."""
        if timeout is None or timeout > 0:
            self.loop.rest(timeout)
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time is the campaigns' time."""

    def __init__(self):
        selector = _Selector()
        super().__init__(selector)
        selector.loop = self
        self.seconds = 0.0
        self.gates = []
        self.order = random.Random(0)
        self.passed = 0
        #: What the agent does at a certain call: (number of calls, what).
        self.agenda = []

    def time(self):
        """Give the seconds that have passed in this world."""
        return self.seconds

    def now(self):
        """Give campaign time."""
        return NOW + timedelta(milliseconds=int(self.seconds * 1000))

    async def gate(self):
        """Wait until it is one's turn."""
        gate = self.create_future()
        self.gates.append(gate)
        await gate

    def rest(self, timeout):
        """Nobody can go on: open a gate, or let time pass."""
        self.gates = [gate for gate in self.gates if not gate.done()]
        if self.gates:
            self.passed += 1
            self.seconds += 0.001
            for _, act in [each for each in self.agenda if each[0] <= self.passed]:
                act()
            self.agenda = [each for each in self.agenda if each[0] > self.passed]
            self.gates.pop(self.order.randrange(len(self.gates))).set_result(None)
        elif timeout is None:
            raise RuntimeError("everybody waits for ever")
        else:
            self.seconds += timeout


@frozen(kw_only=True)
class Fault:
    """What happens at the k-th call of a shift: before it took effect, halfway, or after."""

    #: A method of the store, or of the channel; "any" of the store's.
    part: str
    call: int
    moment: str
    #: True: the worker dies. False: the database did not answer.
    death: bool


@frozen(kw_only=True)
class Shift:
    """One worker works until it has nothing to do."""

    worker: int
    #: Seconds after the others.
    delay: float = 0.0
    fault: Fault | None = None
    #: A part, at which call to it the process is stopped, and for how many seconds.
    stall: tuple | None = None


@define(eq=False)
class Life:
    """A worker's process: it dies, is stopped, and does nothing once it is dead."""

    shift: Shift = field(factory=lambda: Shift(worker=0))
    calls: Counter = field(factory=Counter)
    #: Each call of the shift by its name, in order.
    named: list = field(factory=list)
    dead: bool = False

    def begin(self, shift):
        """Begin a shift."""
        self.shift, self.calls, self.named = shift, Counter(), []

    async def call(self, *parts):
        """Count a call, and be stopped at it; the fault that happens at it."""
        self.check()
        self.calls.update(parts)
        self.named.append(parts[-1])
        assert self.calls["any"] < MAX_CALLS, "the worker spins"
        stall, fault = self.shift.stall, self.shift.fault
        if stall and stall[0] in parts and stall[1] == self.calls[stall[0]]:
            await asyncio.sleep(stall[2])
            self.check()
        return (
            fault
            if fault and fault.part in parts and fault.call == self.calls[fault.part]
            else None
        )

    def check(self):
        """A dead worker does nothing."""
        if self.dead:
            raise CrashError

    def fail(self, fault):
        """Die, or be told that the database does not answer."""
        self.dead = self.dead or fault.death
        raise CrashError if fault.death else StoreUnavailableError("away")


@define
class MortalStore:
    """A worker's way to the store."""

    store: WitnessedStore
    life: Life

    def __getattr__(self, name):
        """Pass on a call, or fail before, halfway or after."""
        method = getattr(self.store, name)

        async def called(*args, **kwargs):
            fault = await self.life.call("any", name)
            if fault is None:
                return await method(*args, **kwargs)
            if fault.moment == "halfway" and isinstance(args[0] if args else None, list | tuple):
                await method(args[0][: len(args[0]) // 2], *args[1:], **kwargs)
            elif fault.moment == "after":
                await method(*args, **kwargs)
            return self.life.fail(fault)

        return called


@define
class Post:
    """The channel: it does what fate says, and the witness sees it."""

    store: WitnessedStore
    loop: Loop
    #: What becomes of the next hand-offs; beyond, they are sent.
    fates: deque = field(factory=deque)

    #: Until when the channel fails, and how.
    outage: tuple = (0.0, "broken")

    async def send(self, message, life):
        """Take a message, or not."""
        self.store.seen.begun()
        fault = await life.call("send")
        if fault and fault.moment == "before":
            life.fail(fault)
        fate = self._fate()
        self.store.seen.totals[fate] += 1
        self.store.seen.hand_off(message, fate)
        if fate in {"sent", "lost", "slow"}:
            self.store.seen.take(message)
        if fault:
            life.fail(fault)
        await self.loop.gate()
        if fate == "slow":
            await asyncio.sleep(1_000)
        if fate in {"lost", "cut"}:
            raise ConnectionError
        return ANSWERS.get(fate, SENT)

    def _fate(self):
        until, fate = self.outage
        if self.loop.seconds < until:
            return fate
        return self.fates.popleft() if self.fates else "sent"


@define
class MortalChannel:
    """A worker's way to the channel."""

    post: Post
    life: Life
    name: str = "email"
    concurrency: int = 1
    waits: bool = True

    async def send(self, message):
        """Hand it over, for as long as there is life."""
        return await self.post.send(message, self.life)


class Watchful(Telemetry):
    """Nothing that is inserted here may fail by a defect of ours."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def failed(self, _, error_type):
        """Take note of a defect."""
        self.seen.violation("a defect", error_type)


class Floor:
    """Where the workers work."""

    def __init__(
        self,
        *,
        policy,
        batch_size,
        workers,
        pace=(None, 1),
        most_a_day=50,
        retention=None,
        shared=False,
    ):
        self.loop = Loop()
        rate, burst = pace
        spec = ChannelSpec(
            name="email", address_kind="email", on_unknown=policy, rate=rate, burst=burst
        )
        self.store = WitnessedStore(self.loop.now, self.loop.gate, Limits(spec, most_a_day))
        self.post = Post(self.store, self.loop)
        self.specs, self.most_a_day = {"email": spec}, most_a_day
        self.batch_size, self.shared = batch_size, shared
        #: How many workers were ever started.
        self.started = 0
        self.retention = retention
        self.lives = [Life() for _ in range(workers)]
        self.workers = [self.born(life) for life in self.lives]

    def born(self, life):
        """Make a worker that knows nothing yet."""
        scale, wake = TimeScale(), Wake()
        turns = Turns(max_campaigns=2, batch_size=self.batch_size, wake=wake)
        engine = Engine(
            store=MortalStore(self.store, life),
            scale=scale,
            clock=ServerClock(scale, self.loop.time),
            watches=watch_over(
                {"email": MortalChannel(self.post, life)}, most=100, lease_seconds=30.0
            ),
            specs=self.specs,
            turns=turns,
            slots=Slots(total=2, wake=wake),
            share=Share(self.loop.time),
            changed=Changed(self.loop.time),
            telemetry=Watchful(self.store.seen),
            batch_size=self.batch_size,
            lease_seconds=30.0,
            channel_timeout_seconds=10.0,
            max_messages_per_recipient_per_day=self.most_a_day,
            retention=self.retention,
        )
        self.started += 1
        return Worker(
            identity=f"w{self.started}",
            settings=load_settings(ENVIRON),
            engine=engine,
            wake=wake,
            listening=None,
        )

    def work(self, shifts, seed=0):
        """Let workers work at the same time, in an order that follows from the seed."""
        self.loop.order, self.loop.passed = random.Random(seed), 0
        self.loop.run_until_complete(self._together(shifts))
        for _, act in self.loop.agenda:
            act()
        self.loop.agenda = []

    async def _together(self, shifts):
        await asyncio.gather(*(self._shift(shift) for shift in shifts))

    async def _shift(self, shift):
        at = shift.worker % len(self.workers)
        life = self.lives[at]
        life.begin(shift)
        await asyncio.sleep(shift.delay)
        worker = self.workers[at]
        try:
            if self.shared:
                await Membership(worker.engine, worker.identity, lambda: True).beat()
            await worker.run_once()
        except StoreUnavailableError:
            self.store.seen.totals["unavailable"] += 1
        except (CrashError, BaseExceptionGroup) as error:
            if not life.dead or (
                isinstance(error, BaseExceptionGroup) and error.split(CrashError)[1]
            ):
                raise
            self.store.seen.totals["deaths"] += 1
            self.lives[at] = Life()
            self.workers[at] = self.born(self.lives[at])

    def close(self):
        """End the loop."""
        self.loop.close()
