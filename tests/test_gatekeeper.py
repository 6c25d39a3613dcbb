"""The gatekeeper: what is let through a channel's gate, and what all workers learn from it."""

from datetime import timedelta

import anyio
import pytest
from attrs import define, evolve, frozen
from loguru import logger

from handlers.circuit import OPEN_FOR
from handlers.gates import PROBES
from reactor.clock import ServerClock, TimeScale
from reactor.counting import Changed
from reactor.engine import Engine
from reactor.gatekeeper import BUSY_SECONDS, RACES, allowances, closed, learn, permit, too_slow
from reactor.sharing import Share
from reactor.slots import Slots
from reactor.store.memory import MemoryStore
from reactor.telemetry import Telemetry
from reactor.turns import Turns
from reactor.watch import watch_over
from schemas.channel import ChannelState, Circuit, CircuitState
from schemas.conversation import WaitingFor
from schemas.hand_off import Gate, Outcome, OutcomeKind
from tests.builders import HOUR, NOW, slot
from tests.decided import MINUTE, channel, pending

SECOND = timedelta(seconds=1)
BUSY = timedelta(seconds=BUSY_SECONDS)
LEASE_SECONDS = 30.0
CIRCUIT, RATE, FULL = WaitingFor.CIRCUIT, WaitingFor.RATE_LIMIT, WaitingFor.CHANNEL
CLOSED, OPEN, HALF_OPEN = CircuitState
LIMITED = channel(rate=10.0, burst=5)


@frozen
class Line:
    """A channel that is never given anything."""

    name: str = "email"
    concurrency: int = 4


class Told(Telemetry):
    """Remembers the alerts that were counted."""

    def __init__(self):
        super().__init__()
        self.alerts = []

    def alert(self, kind, channel):
        """Count one."""
        self.alerts.append((kind, channel))


class Racing(MemoryStore):
    """A store in which somebody else is faster so many times."""

    losses = 0

    async def write_channel(self, before, after):
        """Write what others have learnt first, for as long as there are losses."""
        if self.losses:
            self.losses -= 1
            others = (await self.channels())[1].get(before.id, ChannelState(id=before.id))
            await super().write_channel(others, evolve(others, succeeded_at=NOW - HOUR))
        return await super().write_channel(before, after)


@define
class Gatehouse:
    """A worker's gatekeeper, on a store and a clock that the test moves."""

    engine: Engine
    store: Racing
    ahead: list

    @property
    def now(self):
        """Give campaign time."""
        return NOW + timedelta(seconds=self.ahead[0])

    async def states(self):
        """Read what is known of the channels."""
        return (await self.store.channels())[1]

    async def put(self, **changes):
        """Make something known of the channel."""
        states = await self.states()
        before = states.get("email", ChannelState(id="email"))
        assert await self.store.write_channel(before, evolve(before, **changes))

    async def ask(self, count, name="email"):
        """Ask for so many messages, due one after the other; say who may go, and who may not."""
        made = waiting(count)
        permits, held = await permit(self.engine, await self.states(), {name: made}, self.now)
        return permits, [one.id for one in made if one.id not in held], held

    async def learn(self, *kinds, probing=False, first=0, **fields):
        """Learn what came of hand-offs to as many recipients."""
        batch = [
            (f"r{first + n}", Outcome(kind=OutcomeKind(kind), **fields))
            for n, kind in enumerate(kinds)
        ]
        names = frozenset({"email"} if probing else ())
        learnt = await learn(self.engine, await self.states(), {"email": batch}, names, self.now)
        return learnt["email"]


def waiting(count):
    """Make conversations whose messages are due, the last one first."""
    return [
        pending(id=f"c{n}", slot=slot(due_at=NOW - n * SECOND), message_count=1)
        for n in range(count)
    ]


def gatehouse(spec=None, store=None, ahead=None, most=100):
    """Make a worker; another one on the same store and clock, where those are given."""
    ahead, scale = ahead or [0.0], TimeScale()
    store = store or Racing(lambda: NOW + timedelta(seconds=ahead[0]))
    spec = spec or channel()
    engine = Engine(
        store=store,
        scale=scale,
        clock=ServerClock(scale, lambda: 1_000 + ahead[0]),
        watches=watch_over({"email": Line()}, most=most, lease_seconds=LEASE_SECONDS),
        specs={spec.name: spec},
        turns=Turns(max_campaigns=1, batch_size=10, wake=list),
        slots=Slots(total=1, wake=list),
        share=Share(),
        changed=Changed(),
        telemetry=Told(),
        batch_size=10,
        lease_seconds=LEASE_SECONDS,
        channel_timeout_seconds=10.0,
        max_messages_per_recipient_per_day=50,
    )
    return Gatehouse(engine, store, ahead)


def down(state=OPEN, until=-SECOND, **changes):
    """Make a circuit that is not closed, until so long from now."""
    default = {"state": state, "since": NOW - HOUR, "until": NOW + until, "openings": 1}
    return Circuit(**default | {"reason": "503"} | changes)


def held_for(held):
    """Give the one gate at which all of them are held back."""
    assert {outcome.kind for outcome in held.values()} <= {OutcomeKind.HELD_BACK}
    (gate,) = {outcome.gate for outcome in held.values()}
    return gate


@pytest.fixture
def lines():
    """Collect what is logged."""
    found = []
    sink = logger.add(lambda line: found.append(line.record), level="INFO")
    yield found
    logger.remove(sink)


# -- how many --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("spec", "known", "in_hand", "found"),
    [
        pytest.param(channel(), {}, 0, (100, BUSY, FULL), id="as many as there is room for"),
        pytest.param(channel(), {}, 97, (3, BUSY, FULL), id="less what it has in hand"),
        pytest.param(channel(), {}, 100, (0, BUSY, FULL), id="it has all that it can take"),
        pytest.param(LIMITED, {}, 0, (5, 200 * SECOND / 1000, RATE), id="as its rate allows"),
        pytest.param(LIMITED, {}, 97, (3, BUSY, FULL), id="room is tighter than the rate"),
        pytest.param(
            channel(), {"circuit": down()}, 0, (PROBES, SECOND, CIRCUIT), id="as may probe"
        ),
        pytest.param(
            channel(),
            {"circuit": down(until=HOUR)},
            0,
            (0, HOUR, CIRCUIT),
            id="none through an open circuit",
        ),
        pytest.param(
            channel(), {"circuit": down(until=HOUR)}, 100, (0, HOUR, CIRCUIT), id="no room either"
        ),
        pytest.param(
            channel(), {"not_before": NOW + MINUTE}, 0, (0, MINUTE, RATE), id="none in a silence"
        ),
    ],
)
async def test_allowances(spec, known, in_hand, found):
    """The tightest of what all workers know and of what this one has room for."""
    house = gatehouse(spec)
    if known:
        await house.put(**known)
    house.engine.watches["email"].in_hand = in_hand
    allowed = allowances(house.engine, await house.states(), house.now)
    count, after, why = found
    gate = Gate(until=NOW + after, why=why)
    assert (allowed["email"].count, allowed["email"].gate) == (count, gate)
    assert closed(allowed) == ({} if count else {"email": gate})


# -- who goes --------------------------------------------------------------------------------------
async def test_all_go_where_nothing_is_in_the_way():
    """Nothing is taken, and nothing is written."""
    house = gatehouse()
    permits, gone, held = await house.ask(4)
    assert (len(gone), held) == (4, {})
    assert (permits.latest, permits.probing) == ({}, set())
    assert await house.states() == {}


async def test_a_channel_that_is_not_configured_here_has_no_gate():
    """What becomes of its message is said elsewhere."""
    _, gone, held = await gatehouse().ask(2, name="sms")
    assert (len(gone), held) == (2, {})


@pytest.mark.parametrize(
    ("known", "gate"),
    [
        pytest.param({"circuit": down(until=HOUR)}, (HOUR, CIRCUIT), id="the circuit is open"),
        pytest.param(
            {"circuit": down(HALF_OPEN, until=SECOND)}, (SECOND, CIRCUIT), id="others are probing"
        ),
        pytest.param({"not_before": NOW + MINUTE}, (MINUTE, RATE), id="silence was asked for"),
    ],
)
async def test_none_goes_through_a_gate_that_has_closed_since(known, gate):
    """What was marked before waits at it, and takes no token."""
    house = gatehouse(LIMITED)
    await house.put(**known)
    permits, gone, held = await house.ask(3)
    assert gone == []
    assert held_for(held) == Gate(until=NOW + gate[0], why=gate[1])
    assert (permits.latest, permits.probing) == ({}, set())
    assert (await house.states())["email"].tokens_from is None


async def test_as_many_go_as_there_are_tokens_and_those_that_waited_longest():
    """The others wait until half of the burst is there again."""
    house = gatehouse(LIMITED)
    permits, gone, held = await house.ask(8)
    assert gone == ["c3", "c4", "c5", "c6", "c7"]  # due earliest
    assert held_for(held) == Gate(until=NOW + 200 * SECOND / 1000, why=RATE)
    assert permits.probing == set()
    _, gone, held = await house.ask(2)
    assert (gone, len(held)) == ([], 2)


async def test_no_more_tokens_are_taken_than_there_are_messages():
    """What is left is for others."""
    house = gatehouse(LIMITED)
    assert len((await house.ask(2))[1]) == 2
    assert len((await house.ask(9))[1]) == 3


async def test_tokens_are_good_for_their_second_only():
    """By the server's clock, from before they were asked for."""
    house = gatehouse(LIMITED, ahead=[0.25])
    permits, _, _ = await house.ask(1)
    assert permits.latest == {"email": 1_000 + 0.25 + 0.75}


async def test_a_few_probe_an_open_circuit():
    """Whose time has come: those that waited longest; the others wait for what comes of it."""
    house = gatehouse()
    await house.put(circuit=down())
    permits, gone, held = await house.ask(5)
    assert gone == ["c2", "c3", "c4"]
    assert len(gone) == PROBES
    assert held_for(held) == Gate(until=NOW + BUSY, why=CIRCUIT)
    assert permits.probing == {"email"}
    circuit = (await house.states())["email"].circuit
    assert (circuit.state, circuit.until) == (HALF_OPEN, NOW + timedelta(seconds=LEASE_SECONDS))


async def test_of_many_workers_one_probes():
    """The others have seen the same circuit, and are too late."""
    first = gatehouse()
    others = [gatehouse(store=first.store, ahead=first.ahead) for _ in range(4)]
    await first.put(circuit=down())
    states, gone = await first.states(), []

    async def ask(house):
        made = waiting(5)
        _, held = await permit(house.engine, states, {"email": made}, house.now)
        gone.append(5 - len(held))

    async with anyio.create_task_group() as tasks:
        for house in [first, *others]:
            tasks.start_soon(ask, house)
    assert sorted(gone) == [0, 0, 0, 0, PROBES]


async def test_a_probe_needs_tokens_too():
    """A circuit is no way around a rate."""
    house = gatehouse(LIMITED)
    await house.ask(4)
    await house.put(circuit=down())
    permits, gone, held = await house.ask(5)
    assert (len(gone), permits.probing) == (1, {"email"})
    assert held_for(held).why is RATE


async def test_each_channel_has_its_own_gate():
    """One that is closed holds up nobody else."""
    house = gatehouse()
    await house.put(circuit=down(until=HOUR))
    one, other = waiting(2)
    asked = {"email": [one], "sms": [other]}
    _, held = await permit(house.engine, await house.states(), asked, house.now)
    assert held.keys() == {one.id}


def test_what_was_not_begun_in_time_waits_for_the_channel():
    """Nothing was handed off; it comes again soon."""
    gate = Gate(until=NOW + BUSY, why=FULL)
    assert too_slow(gatehouse().engine, NOW) == Outcome(kind=OutcomeKind.HELD_BACK, gate=gate)


# -- what is learnt --------------------------------------------------------------------------------
async def test_a_success_is_noted_for_all_once_a_second():
    """Whether others' failures count depends on it; the document is everybody's."""
    house = gatehouse()
    found = []
    for seconds in (0.0, 0.5, 0.999, 1.0, 1.5, 3.0):
        house.ahead[0] = seconds
        assert (await house.learn("sent")).succeeded_at == house.now
        found.append((await house.states())["email"].succeeded_at)
    assert found == [NOW + after * SECOND for after in (0, 0, 0, 1, 1, 3)]


async def test_what_says_nothing_new_is_not_written():
    """Failures that are too few, and what was withdrawn."""
    house = gatehouse()
    await house.learn("retry", "unknown")
    await house.learn("withdrawn", "held_back", first=2)
    assert await house.states() == {}


async def test_a_silence_is_told_to_all():
    """As long as the provider asked, and no longer than a minute."""
    house = gatehouse()
    await house.learn("rate_limited", retry_after=20 * SECOND)
    assert (await house.states())["email"].not_before == NOW + 20 * SECOND
    await house.learn("rate_limited", retry_after=HOUR)
    assert (await house.states())["email"].not_before == NOW + MINUTE


async def test_a_channel_that_fails_for_enough_recipients_is_closed_for_all(lines):
    """Its circuit opens; people are told once, and so is the metric."""
    house = gatehouse()
    await house.learn(*["retry"] * 9)
    assert await house.states() == {}
    await house.learn("retry", first=9)
    circuit = (await house.states())["email"].circuit
    reason = "10 of 10 recipients failed within a minute"
    assert circuit == Circuit(
        state=OPEN, since=NOW, until=NOW + OPEN_FOR, reason=reason, openings=1
    )
    (alert,) = house.store.documents("alerts")
    assert (alert["channel"], alert["reason"], alert["at"]) == ("email", reason, NOW)
    assert alert["resolved_at"] is None
    assert house.engine.telemetry.alerts == [("circuit_opened", "email")]
    (line,) = lines
    assert (line["level"].name, line["extra"]["channel"]) == ("ERROR", "email")
    assert (line["extra"]["alert"], line["extra"]["reason"]) == ("circuit_opened", reason)


async def test_what_comes_late_changes_nothing():
    """Of hand-offs that were begun before the circuit opened; the success itself is noted."""
    house = gatehouse()
    await house.learn("channel_failed", error="401")
    before = (await house.states())["email"]
    house.ahead[0] = 5.0
    await house.learn(*["retry"] * 20)
    await house.learn("sent", first=50)
    after = (await house.states())["email"]
    assert after == evolve(before, succeeded_at=house.now, version=after.version)
    assert len(house.store.documents("alerts")) == 1


async def test_a_probe_that_works_closes_the_circuit(lines):
    """The alert is over, and the evidence from before the outage is forgotten."""
    house = gatehouse()
    await house.learn(*["retry"] * 10)
    house.ahead[0] = 31.0
    await house.ask(1)
    await house.learn("sent", probing=True)
    assert (await house.states())["email"].circuit == Circuit(since=house.now)
    (alert,) = house.store.documents("alerts")
    assert (alert["at"], alert["resolved_at"]) == (NOW, house.now)
    assert house.engine.telemetry.alerts == [("circuit_opened", "email")]
    assert [line["level"].name for line in lines] == ["ERROR", "INFO"]
    await house.learn("retry", first=20)
    assert (await house.states())["email"].circuit.state is CLOSED


async def test_a_probe_that_fails_opens_it_for_longer_and_is_the_same_outage(lines):
    """Nobody is told again."""
    house = gatehouse()
    await house.learn("channel_failed", error="401")
    house.ahead[0] = 31.0
    await house.ask(1)
    await house.learn("retry", probing=True)
    circuit = (await house.states())["email"].circuit
    assert (circuit.state, circuit.openings, circuit.since) == (OPEN, 2, NOW)
    assert circuit.until == house.now + 2 * OPEN_FOR
    assert len(house.store.documents("alerts")) == len(lines) == 1


async def test_who_loses_the_race_weighs_again():
    """On what the others have written: neither's word is lost."""
    house = gatehouse()
    house.store.losses = RACES - 1
    after = await house.learn("channel_failed", error="401")
    known = (await house.states())["email"]
    assert (known.circuit.state, known.succeeded_at) == (OPEN, NOW - HOUR)
    assert after == evolve(known, version=after.version)


async def test_who_loses_all_races_goes_by_what_it_has_seen():
    """The outcomes are decided all the same; what was seen is remembered for the next batch."""
    house = gatehouse()
    house.store.losses = RACES
    after = await house.learn("channel_failed", error="401")
    assert after.circuit.state is OPEN
    assert (await house.states())["email"].circuit.state is CLOSED
    assert house.store.documents("alerts") == []


async def test_of_many_workers_that_see_the_same_outage_one_tells():
    """Whoever has opened it; the others find it open."""
    first = gatehouse()
    houses = [first, *(gatehouse(store=first.store, ahead=first.ahead) for _ in range(4))]
    states = await first.states()
    batch = {"email": [("r0", Outcome(kind=OutcomeKind.CHANNEL_FAILED, error="401"))]}
    found = []

    async def see(house):
        learnt = await learn(house.engine, states, batch, frozenset(), house.now)
        found.append(learnt["email"].circuit.state)

    async with anyio.create_task_group() as tasks:
        for house in houses:
            tasks.start_soon(see, house)
    assert found == [OPEN] * 5
    assert sum(len(house.engine.telemetry.alerts) for house in houses) == 1
    assert len(first.store.documents("alerts")) == 1


async def test_of_a_channel_that_is_not_configured_here_nothing_is_learnt():
    """Its outcomes are this deployment's, not the channel's."""
    house = gatehouse()
    batch = {"sms": [("r0", Outcome(kind=OutcomeKind.CHANNEL_FAILED))]}
    assert await learn(house.engine, {}, batch, frozenset(), house.now) == {}
    assert await house.states() == {}
