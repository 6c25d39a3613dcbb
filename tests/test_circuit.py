"""A channel's circuit: what opens it, for how long, who probes, what closes it, and who is told."""

from datetime import timedelta

import pytest
from attrs import evolve

from handlers.circuit import (
    FAILS,
    LONGEST,
    LONGEST_SILENCE,
    MIN_RECIPIENTS,
    OPEN_FOR,
    WORKS,
    Evidence,
    alert_of,
    probed,
    weighed,
)
from schemas.channel import Alert, AlertKind, ChannelState, Circuit, CircuitState
from schemas.hand_off import OutcomeKind
from tests.builders import DAY, HOUR, NOW
from tests.decided import MINUTE

SECOND = timedelta(seconds=1)
CLOSED, OPEN, HALF_OPEN = CircuitState
SINCE = NOW - HOUR
NEVER_OPEN = ChannelState(id="email")
CLOSED_AGAIN = ChannelState(id="email", circuit=Circuit(since=SINCE))


def down(state=OPEN, openings=1, until=NOW, reason="503", **changes):
    """Make a channel whose circuit opened an hour ago, and so often without success."""
    circuit = Circuit(state=state, since=SINCE, until=until, reason=reason, openings=openings)
    return ChannelState(id="email", circuit=circuit, **changes)


def seen(**changes):
    """Make what a worker has seen."""
    return Evidence(**changes)


def opened(reason, after=OPEN_FOR, since=NOW, openings=1):
    """Make a circuit that is open for so long from now."""
    return Circuit(state=OPEN, since=since, until=NOW + after, reason=reason, openings=openings)


FEW = seen(recipients=MIN_RECIPIENTS - 1, failed=MIN_RECIPIENTS - 1, fails=True)
HALF = seen(recipients=10, failed=5, works=True, fails=True)
WEIGHED = [
    pytest.param(NEVER_OPEN, seen(), False, Circuit(), id="closed, nothing was seen: closed"),
    pytest.param(NEVER_OPEN, seen(works=True), False, Circuit(), id="closed, it works: closed"),
    pytest.param(
        NEVER_OPEN, FEW, False, Circuit(), id="closed, all of too few recipients failed: closed"
    ),
    pytest.param(
        NEVER_OPEN,
        seen(recipients=10, failed=4, fails=True),
        False,
        Circuit(),
        id="closed, fewer than half failed: closed",
    ),
    pytest.param(
        NEVER_OPEN,
        HALF,
        False,
        opened("5 of 10 recipients failed within a minute"),
        id="closed, half of enough recipients failed: open, whatever else worked",
    ),
    pytest.param(
        NEVER_OPEN,
        seen(recipients=1, failed=1, fails=True, broken="401"),
        False,
        opened("401"),
        id="closed, the channel says that it is broken: open at once",
    ),
    pytest.param(
        NEVER_OPEN,
        evolve(HALF, broken="401"),
        False,
        opened("401"),
        id="closed, broken and failing: the channel's own word is the reason",
    ),
    pytest.param(
        CLOSED_AGAIN,
        HALF,
        False,
        opened("5 of 10 recipients failed within a minute"),
        id="closed again, failing: a new outage, which begins with the shortest time",
    ),
    pytest.param(
        NEVER_OPEN,
        HALF,
        True,
        opened("5 of 10 recipients failed within a minute"),
        id="closed meanwhile by another probe, failing: open again",
    ),
    *(
        pytest.param(
            down(state),
            seen(recipients=50, failed=50, fails=True, works=True, broken="401"),
            False,
            down(state).circuit,
            id=f"{state}, news of what was handed off before: as it was",
        )
        for state in (OPEN, HALF_OPEN)
    ),
    pytest.param(
        down(HALF_OPEN), seen(works=True), True, Circuit(since=NOW), id="a probe worked: closed"
    ),
    pytest.param(
        down(HALF_OPEN),
        seen(works=True, fails=True),
        True,
        Circuit(since=NOW),
        id="one probe of three worked: closed",
    ),
    pytest.param(
        down(HALF_OPEN),
        seen(works=True, fails=True, broken="401"),
        True,
        opened("401", 2 * OPEN_FOR, SINCE, 2),
        id="one probe worked and the channel says that it is broken: open",
    ),
    pytest.param(
        down(HALF_OPEN),
        seen(fails=True),
        True,
        opened("503", 2 * OPEN_FOR, SINCE, 2),
        id="the probe failed: open for twice as long, since it first was, for its first reason",
    ),
    pytest.param(
        down(HALF_OPEN, reason=None),
        seen(fails=True),
        True,
        opened(None, 2 * OPEN_FOR, SINCE, 2),
        id="the probe failed, and nobody ever said why",
    ),
    pytest.param(
        down(HALF_OPEN),
        seen(silence=SECOND),
        True,
        down(HALF_OPEN).circuit,
        id="the probe was told to be silent: it says nothing about the channel",
    ),
    pytest.param(
        down(HALF_OPEN), seen(), True, down(HALF_OPEN).circuit, id="the probe was withdrawn"
    ),
]


@pytest.mark.parametrize(("known", "evidence", "probing", "circuit"), WEIGHED)
def test_weighed(known, evidence, probing, circuit):
    """Enough recipients failed: it opens. Then only the probes speak."""
    after = weighed(known, evidence, NOW, probing=probing)
    assert after.circuit == circuit
    assert after.succeeded_at == (NOW if evidence.works else None)


@pytest.mark.parametrize(
    ("recipients", "failed", "opens"),
    [
        pytest.param(9, 9, False, id="one recipient too few"),
        pytest.param(10, 4, False, id="one failure too few"),
        pytest.param(10, 5, True, id="just enough of both"),
        pytest.param(1000, 499, False, id="many, and just under half"),
        pytest.param(1000, 500, True, id="many, and half"),
        pytest.param(0, 0, False, id="nobody at all"),
    ],
)
def test_how_much_is_enough(recipients, failed, opens):
    """Half of at least ten distinct recipients."""
    evidence = seen(recipients=recipients, failed=failed, fails=True)
    after = weighed(NEVER_OPEN, evidence, NOW)
    assert (after.circuit.state is OPEN) == opens


def test_it_stays_open_twice_as_long_each_time_up_to_the_longest():
    """Half a minute, a minute, two, four, five: and five however often."""
    known, spans = weighed(NEVER_OPEN, seen(broken="401"), NOW), []
    for _ in range(40):
        spans.append(known.circuit.until - NOW)
        known = weighed(
            probed(known, known.circuit.until, SECOND), seen(fails=True), NOW, probing=True
        )
    assert spans[:6] == [each * MINUTE for each in (0.5, 1, 2, 4, 5, 5)]
    assert set(spans[5:]) == {LONGEST}
    assert known.circuit.since == NOW


def test_every_outage_begins_anew():
    """What closed has no past: the next outage is its own, with its own time and reason."""
    known = weighed(down(HALF_OPEN, openings=7), seen(works=True), NOW, probing=True)
    assert known.circuit == Circuit(since=NOW)
    later = weighed(known, seen(broken="401"), NOW + HOUR)
    assert (later.circuit.since, later.circuit.openings) == (NOW + HOUR, 1)
    assert later.circuit.until == NOW + HOUR + OPEN_FOR


@pytest.mark.parametrize(
    ("before", "asked", "found"),
    [
        pytest.param(None, None, None, id="nobody asked"),
        pytest.param(NOW - DAY, None, NOW - DAY, id="nobody asked now"),
        pytest.param(None, SECOND, NOW + SECOND, id="so long from now"),
        pytest.param(NOW + HOUR, SECOND, NOW + HOUR, id="a longer silence stands"),
        pytest.param(NOW + SECOND, MINUTE, NOW + MINUTE, id="it is made longer"),
        pytest.param(
            None, DAY, NOW + LONGEST_SILENCE, id="beyond a minute it is the message's alone"
        ),
    ],
)
def test_silence(before, asked, found):
    """The provider's wish holds for all workers, and for a minute at the most."""
    after = weighed(evolve(NEVER_OPEN, not_before=before), seen(silence=asked), NOW)
    assert after == evolve(NEVER_OPEN, not_before=found)


def test_a_success_is_noted_whatever_the_circuit():
    """Whether an attempt counts depends on it."""
    for known in (NEVER_OPEN, CLOSED_AGAIN, down(), down(HALF_OPEN)):
        assert weighed(known, seen(works=True), NOW).succeeded_at == NOW
        before = evolve(known, succeeded_at=SINCE)
        assert weighed(before, seen(fails=True), NOW).succeeded_at == SINCE


def test_outcomes_speak_for_it_or_against_it_or_not_at_all():
    """A refusal is the recipient's; too many at once, and what was never handed off, say nothing."""
    assert {OutcomeKind.SENT, OutcomeKind.REFUSED} == WORKS
    assert {OutcomeKind.RETRY, OutcomeKind.UNKNOWN, OutcomeKind.CHANNEL_FAILED} == FAILS


@pytest.mark.parametrize(
    ("known", "begins"),
    [
        pytest.param(NEVER_OPEN, False, id="closed: there is nothing to probe"),
        pytest.param(down(until=NOW + SECOND), False, id="open, and its time has not come"),
        pytest.param(down(until=NOW), True, id="open, and its time has come"),
        pytest.param(down(until=None), True, id="open without an end"),
        pytest.param(down(HALF_OPEN, until=NOW + SECOND), False, id="others are probing"),
        pytest.param(down(HALF_OPEN, until=NOW), True, id="others have probed and said nothing"),
    ],
)
def test_a_probe_begins(known, begins):
    """One batch at a time, which has so long; whoever follows waits for it."""
    found = probed(known, NOW, MINUTE)
    if not begins:
        assert found is None
        return
    half_open = evolve(known.circuit, state=HALF_OPEN, until=NOW + MINUTE)
    assert found == evolve(known, circuit=half_open)


def alert(**changes):
    """Make the alert of an outage that began an hour ago."""
    default = {
        "id": f"circuit_opened/email/{SINCE.isoformat(timespec='milliseconds')}",
        "kind": AlertKind.CIRCUIT_OPENED,
        "channel": "email",
        "reason": "503",
        "at": SINCE,
    }
    return Alert(**default | changes)


ALERTS = [
    pytest.param(NEVER_OPEN, NEVER_OPEN, None, id="closed before and after"),
    pytest.param(NEVER_OPEN, down(), alert(), id="it has opened"),
    pytest.param(NEVER_OPEN, down(reason=None), alert(reason=""), id="it has opened, unexplained"),
    pytest.param(CLOSED_AGAIN, down(), alert(), id="it has opened again: an outage of its own"),
    pytest.param(down(), down(HALF_OPEN), None, id="a probe begins"),
    pytest.param(down(HALF_OPEN), down(openings=2), None, id="a probe failed: the same outage"),
    pytest.param(
        down(HALF_OPEN),
        ChannelState(id="email", circuit=Circuit(since=NOW)),
        alert(resolved_at=NOW),
        id="it is over: what was told before, with its end",
    ),
    pytest.param(
        NEVER_OPEN,
        evolve(down(), circuit=evolve(down().circuit, since=None)),
        None,
        id="an outage that nobody knows the beginning of is not told",
    ),
    pytest.param(
        evolve(down(), circuit=evolve(down().circuit, since=None)),
        CLOSED_AGAIN,
        None,
        id="nor is its end",
    ),
]


@pytest.mark.parametrize(("before", "after", "told"), ALERTS)
def test_alerts(before, after, told):
    """One for each outage, and its end under the same id."""
    assert alert_of(before, after) == told


def test_an_outage_with_failed_probes_is_told_once():
    """From the first failure to the success that ends it: one opening, one end."""
    known, told = NEVER_OPEN, []
    steps = [(seen(broken="401"), False), *[(seen(fails=True), True)] * 3, (seen(works=True), True)]
    now = NOW
    for evidence, probing in steps:
        if probing:
            now = known.circuit.until
            half_open = probed(known, now, SECOND)
            told.append(alert_of(known, half_open))
            known = half_open
        after = weighed(known, evidence, now, probing=probing)
        told.append(alert_of(known, after))
        known = after
    opened_one, closed_one = [each for each in told if each]
    assert opened_one.id == closed_one.id
    assert (opened_one.at, opened_one.resolved_at) == (NOW, None)
    assert (closed_one.at, closed_one.resolved_at) == (NOW, now)
    assert (opened_one.reason, closed_one.reason) == ("401", "401")


def test_a_batch_that_is_no_probe_says_nothing_about_an_open_circuit():
    """What was handed off before it opened comes back late: that is no word on the provider now."""
    known = down(HALF_OPEN, until=NOW + DAY)
    assert weighed(known, seen(works=True), NOW).circuit == known.circuit
    assert weighed(known, seen(fails=True), NOW).circuit == known.circuit
