"""A channel's gate: when it is closed and why, how many it lets through, and who waits how long."""

from datetime import timedelta

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from handlers.gates import (
    PARKED,
    PROBES,
    PROBING,
    Allowance,
    allowance,
    barred,
    parked,
    refilled_at,
)
from schemas.channel import ChannelState, Circuit, CircuitState
from schemas.conversation import SlotState, WaitingFor
from schemas.hand_off import Gate
from schemas.transition import Reason
from tests.builders import DAY, HOUR, NOW, slot
from tests.decided import MINUTE, awaiting, channel, paused, pending, reserving, sending

MS = timedelta(milliseconds=1)
SECOND = timedelta(seconds=1)
OPEN, HALF_OPEN = CircuitState.OPEN, CircuitState.HALF_OPEN
CIRCUIT, RATE, BUSY = WaitingFor.CIRCUIT, WaitingFor.RATE_LIMIT, WaitingFor.CHANNEL
UNLIMITED = channel()
#: Ten a second, five at once: a token comes every 100 ms.
LIMITED = channel(rate=10.0, burst=5)


def state(circuit=None, until=None, **changes):
    """Make what is known of a channel: its circuit, until so long from now."""
    until = None if until is None else NOW + until
    known = Circuit(state=circuit, since=NOW, until=until) if circuit else Circuit()
    return ChannelState(id="email", circuit=known, **changes)


def shut(after, why):
    """Make the gate that is closed for so long from now."""
    return Gate(until=NOW + after, why=why)


def full_in(span, **changes):
    """Make a channel whose bucket is full again after so long."""
    return state(tokens_from=NOW + span, **changes)


BARRED = [
    pytest.param(None, None, id="nothing is known: it takes messages"),
    pytest.param(state(), None, id="a closed circuit lets messages go"),
    pytest.param(state(OPEN, MINUTE), shut(MINUTE, CIRCUIT), id="an open circuit bars until then"),
    pytest.param(
        state(HALF_OPEN, SECOND), shut(SECOND, CIRCUIT), id="while others probe, nobody else goes"
    ),
    pytest.param(state(OPEN, timedelta(0)), None, id="its time has come: somebody may probe"),
    pytest.param(state(HALF_OPEN, -MS), None, id="the probe had its time: another may begin"),
    pytest.param(state(OPEN), None, id="an open circuit without an end bars nothing"),
    pytest.param(
        state(not_before=NOW + MINUTE), shut(MINUTE, RATE), id="the provider asked for silence"
    ),
    pytest.param(state(not_before=NOW), None, id="the silence is over"),
    pytest.param(
        state(OPEN, MINUTE, not_before=NOW + HOUR),
        shut(MINUTE, CIRCUIT),
        id="of both the circuit is named",
    ),
    pytest.param(
        state(OPEN, -MS, not_before=NOW + HOUR),
        shut(HOUR, RATE),
        id="the silence outlasts the circuit",
    ),
]


@pytest.mark.parametrize(("known", "gate"), BARRED)
def test_barred(known, gate):
    """Whatever its rate, an open circuit and a silence that was asked for close the gate."""
    assert barred(known, NOW) == gate


def takes(count, after, why=RATE):
    """Make an allowance of so many, whose gate is then closed for so long."""
    return Allowance(count=count, gate=shut(after, why))


PROBE = takes(PROBES, PROBING, CIRCUIT)
ALLOWED = [
    pytest.param(UNLIMITED, None, None, id="without a rate as many as come"),
    pytest.param(UNLIMITED, state(), None, id="also where something is known"),
    pytest.param(UNLIMITED, state(OPEN, MINUTE), takes(0, MINUTE, CIRCUIT), id="none at a bar"),
    pytest.param(
        LIMITED, state(not_before=NOW + HOUR), takes(0, HOUR), id="none in a silence, with a rate"
    ),
    pytest.param(UNLIMITED, state(OPEN, -MS), PROBE, id="a few probe an open circuit"),
    pytest.param(UNLIMITED, state(HALF_OPEN, -MS), PROBE, id="a few probe a half-open circuit"),
    pytest.param(LIMITED, None, takes(5, 200 * MS), id="a full bucket gives the burst"),
    pytest.param(LIMITED, state(), takes(5, 200 * MS), id="nothing was taken yet"),
    pytest.param(LIMITED, full_in(-DAY), takes(5, 200 * MS), id="never more than the burst"),
    pytest.param(LIMITED, full_in(200 * MS), takes(3, 200 * MS), id="two are missing"),
    pytest.param(LIMITED, full_in(250 * MS), takes(2, 150 * MS), id="half a token is none"),
    pytest.param(LIMITED, full_in(450 * MS), takes(0, 150 * MS), id="empty: until half is back"),
    pytest.param(LIMITED, full_in(5 * SECOND), takes(0, 4700 * MS), id="deeply in debt"),
    pytest.param(
        channel(rate=0.1, burst=1),
        full_in(4 * SECOND),
        takes(0, 4 * SECOND),
        id="a burst of one is whole or not there",
    ),
    pytest.param(LIMITED, full_in(-DAY, circuit=OPEN, until=-MS), PROBE, id="the bar is tighter"),
    pytest.param(
        LIMITED,
        full_in(400 * MS, circuit=OPEN, until=-MS),
        takes(1, 200 * MS),
        id="the rate is tighter than the probe",
    ),
]


@pytest.mark.parametrize(("spec", "known", "found"), ALLOWED)
def test_allowance(spec, known, found):
    """How many may be marked now, and when it is worth while to look again."""
    assert allowance(spec, known, NOW) == found


@pytest.mark.parametrize(
    ("spec", "known", "taken", "after"),
    [
        pytest.param(UNLIMITED, full_in(HOUR), 0, 0, id="without a rate it is full now"),
        pytest.param(LIMITED, None, 0, 0, id="an untouched bucket is full now"),
        pytest.param(LIMITED, None, 5, 200, id="half of what was taken is back"),
        pytest.param(LIMITED, None, 1, 0, id="more than half is there"),
        pytest.param(LIMITED, full_in(100 * MS), 4, 200, id="taken on top of what was missing"),
        pytest.param(LIMITED, full_in(-HOUR), 5, 200, id="a past fill does not count"),
        pytest.param(channel(rate=2.0, burst=1), None, 1, 500, id="a burst of one: its next token"),
    ],
)
def test_refilled(spec, known, taken, after):
    """Half of the burst must be there again before a turn is worth its cost."""
    assert refilled_at(spec, known, NOW, taken=taken) == NOW + after * MS


@given(
    rate=st.sampled_from([0.25, 1.0, 3.0, 10.0, 700.0]),
    burst=st.integers(1, 1000),
    debt=st.integers(-5_000, 5_000_000),
)
def test_an_allowance_is_bounded_and_ends(rate, burst, debt):
    """Never more than the burst, never less than nothing; when the gate opens there is something."""
    spec, known = channel(rate=rate, burst=burst), full_in(debt * MS)
    found = allowance(spec, known, NOW)
    assert 0 <= found.count <= burst
    assert found.gate.until >= NOW
    if not found.count:
        assert found.gate.until > NOW
        # The gate opens to a microsecond, the clock that is then read has milliseconds.
        assert allowance(spec, known, found.gate.until + MS).count > 0


# -- parked ----------------------------------------------------------------------------------------
def waits(made, gate, now=NOW):
    """Park the conversation's message, and see that nothing else became of it."""
    transition = parked(made, made.slot, gate, now)
    after = transition.conversation
    assert transition.reason is Reason.MESSAGE_HELD_BACK
    assert (transition.effects, transition.answer) == ((), None)
    same = {"slot": made.slot, "due_at": made.due_at, "waiting_for": made.waiting_for}
    assert evolve(after, **same) == made
    return after


def due_since(made, span, **changes):
    """Reserve a message that has been due for so long."""
    return reserving(made, attempts=0, until=NOW, due_at=NOW - span, **changes)


@pytest.mark.parametrize("why", [CIRCUIT, RATE, BUSY])
def test_what_is_parked_says_what_it_waits_for(why):
    """It is reserved, nobody's, and `waiting_for` names the gate."""
    after = waits(due_since(pending(), SECOND), shut(SECOND, why))
    assert (after.slot.state, after.slot.held, after.slot.token) == (SlotState.RESERVED, why, None)
    assert after.waiting_for == (why,)


def test_what_was_marked_is_nobodys_again():
    """A message that the gate stopped after its mark loses its lease and nothing else."""
    given = sending(awaiting(), due_at=NOW - SECOND)
    after = waits(given, shut(SECOND, BUSY))
    gate = {"state": SlotState.RESERVED, "held": BUSY, "token": None, "until": NOW + PARKED}
    assert after.slot == evolve(given.slot, **gate)


@pytest.mark.parametrize(
    ("late", "gate", "until"),
    [
        pytest.param(0 * SECOND, SECOND, PARKED, id="so long at first, if the gate is quicker"),
        pytest.param(0 * SECOND, HOUR, HOUR, id="as long as the gate is known to be closed"),
        pytest.param(PARKED / 2, SECOND, PARKED, id="late by less: so long all the same"),
        pytest.param(PARKED * 2, SECOND, PARKED * 2, id="late by twice that: twice that again"),
        pytest.param(HOUR, SECOND, HOUR, id="late by an hour: another one"),
        pytest.param(3 * DAY, HOUR, 3 * DAY, id="as long again as it has waited"),
    ],
)
def test_its_own_time_grows(late, gate, until):
    """A poll finds it although nobody remembers, ever more seldom."""
    after = waits(due_since(pending(), late), shut(gate, RATE))
    assert after.slot.until == NOW + until
    assert after.due_at == NOW + until


@pytest.mark.parametrize(
    ("left", "until"),
    [
        pytest.param(HOUR, PARKED, id="there is time"),
        pytest.param(SECOND, SECOND + MS, id="its time to live ends first: just after it"),
        pytest.param(0 * SECOND, MS, id="its time to live ends now"),
        pytest.param(-HOUR, MS, id="it is over already: at once"),
    ],
)
def test_its_time_to_live_caps_the_wait(left, until):
    """What is too late is cancelled as soon as it is, however long the gate stays closed."""
    given = due_since(pending(), SECOND, send_before=NOW + left)
    assert waits(given, shut(SECOND, RATE)).slot.until == NOW + until


def test_what_is_parked_is_due_by_its_deadline():
    """I3: a gate that is closed for longer than the conversation may last keeps nobody open."""
    given = due_since(pending(deadline_at=NOW + MINUTE), SECOND)
    after = waits(given, shut(HOUR, CIRCUIT))
    assert after.due_at == NOW + MINUTE


def test_under_a_pause_only_the_pause_counts():
    """What is parked there waits for `resume` first, and says both."""
    given = paused(due_since(awaiting(), SECOND))
    after = waits(given, shut(SECOND, CIRCUIT))
    assert after.due_at == given.deadline_at
    assert after.waiting_for == (WaitingFor.RESUME, CIRCUIT)


def test_the_place_in_the_queue_is_kept():
    """However often it is parked, it fell due when it did."""
    given = due_since(pending(), HOUR)
    first = waits(given, shut(SECOND, RATE))
    again = waits(first, Gate(until=NOW + 2 * HOUR, why=CIRCUIT), NOW + HOUR)
    assert again.slot.due_at == given.slot.due_at == NOW - HOUR
    assert again.slot.until == NOW + HOUR + 2 * HOUR
    assert slot().held is None


def test_a_bucket_is_refilled_as_it_is_unless_something_is_taken():
    """Half of the burst of five, two tokens, are there as soon as three are missing at most."""
    known = full_in(0.4 * SECOND)
    assert refilled_at(LIMITED, known, NOW) == NOW + 0.1 * SECOND
