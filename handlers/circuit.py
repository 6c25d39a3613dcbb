"""
A channel's circuit: opened by evidence that the provider is down, closed by a probe that succeeds.

A provider that is down costs no conversation: while its circuit is not closed, messages wait at the
gate, and the few that probe do not count as attempts.
"""

from datetime import datetime, timedelta

from attrs import frozen

from schemas.channel import Alert, AlertKind, ChannelState, Circuit, CircuitState
from schemas.evolving import evolve
from schemas.hand_off import OutcomeKind

#: How long an outcome counts as evidence.
WINDOW = timedelta(minutes=1)
#: Distinct recipients: one who is refused again and again says nothing about the channel.
MIN_RECIPIENTS = 10
SHARE = 0.5
#: The circuit stays open so long at first, then twice as long each time, up to the longest.
OPEN_FOR = timedelta(seconds=30)
LONGEST = timedelta(minutes=5)

#: What says that the channel works, whatever it thinks of the message; that it does not.
WORKS = frozenset({OutcomeKind.SENT, OutcomeKind.REFUSED})
FAILS = frozenset({OutcomeKind.RETRY, OutcomeKind.UNKNOWN, OutcomeKind.CHANNEL_FAILED})
#: Provider's wishes beyond that hold for the message alone.
LONGEST_SILENCE = timedelta(minutes=1)


@frozen(kw_only=True)
class Evidence:
    """What a worker has seen of a channel: distinct recipients of the last WINDOW."""

    recipients: int = 0
    failed: int = 0
    #: Of the batch that has just ended: something worked, something failed.
    works: bool = False
    fails: bool = False
    #: The channel said that nothing will work until it is mended.
    broken: str | None = None
    #: The provider asked for silence for so long.
    silence: timedelta | None = None


def weighed(
    state: ChannelState, seen: Evidence, now: datetime, *, probing: bool = False
) -> ChannelState:
    """Give what is then known of the channel. `probing`: the batch went through as its probe."""
    if seen.works:
        state = evolve(state, succeeded_at=max(now, state.succeeded_at or now))
    if seen.silence:
        until = now + min(seen.silence, LONGEST_SILENCE)
        state = evolve(state, not_before=max(until, state.not_before or until))
    if state.circuit.state is CircuitState.CLOSED:
        reason = seen.broken or _too_many(seen)
        return evolve(state, circuit=_opened(state.circuit, reason, now)) if reason else state
    if not probing:
        return state
    if seen.works and not seen.broken:
        return evolve(state, circuit=Circuit(since=now))
    if seen.fails:
        reason = seen.broken or state.circuit.reason
        return evolve(state, circuit=_opened(state.circuit, reason, now))
    return state


def probed(state: ChannelState, now: datetime, lasts: timedelta) -> ChannelState | None:
    """Begin a probe, which has so long; None: it is not time for one."""
    circuit = state.circuit
    if circuit.state is CircuitState.CLOSED or (circuit.until and circuit.until > now):
        return None
    half_open = evolve(circuit, state=CircuitState.HALF_OPEN, until=now + lasts)
    return evolve(state, circuit=half_open)


def alert_of(before: ChannelState, after: ChannelState) -> Alert | None:
    """Give the alert that a change is worth: one for each outage, over when the circuit closes."""
    was, now = before.circuit, after.circuit
    if (was.state is CircuitState.CLOSED) == (now.state is CircuitState.CLOSED):
        return None
    opened, closed = (
        (was.since, now.since) if now.state is CircuitState.CLOSED else (now.since, None)
    )
    if opened is None:
        return None
    kind = AlertKind.CIRCUIT_OPENED
    return Alert(
        id=f"{kind}/{after.id}/{opened.isoformat(timespec='milliseconds')}",
        kind=kind,
        channel=after.id,
        reason=now.reason or was.reason or "",
        at=opened,
        resolved_at=closed,
    )


def _too_many(seen: Evidence) -> str | None:
    if seen.recipients < MIN_RECIPIENTS or seen.failed < SHARE * seen.recipients:
        return None
    return f"{seen.failed} of {seen.recipients} recipients failed within a minute"


def _opened(circuit: Circuit, reason: str | None, now: datetime) -> Circuit:
    openings = circuit.openings + 1
    lasts = min(OPEN_FOR * 2 ** min(openings - 1, 20), LONGEST)
    since = circuit.since if circuit.openings and circuit.since else now
    return Circuit(
        state=CircuitState.OPEN, since=since, until=now + lasts, reason=reason, openings=openings
    )
