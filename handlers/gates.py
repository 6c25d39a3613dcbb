"""
A channel's gate: whether it takes messages now, and how many.

What is due at a closed gate is reserved and parked (`slot.held`); it leaves in the order in which it
fell due, as soon as the gate lets it. Nobody sleeps, and nothing else waits behind it.
"""

import math
from datetime import datetime, timedelta

from attrs import frozen

from handlers.atom import settled
from schemas.channel import ChannelState, CircuitState
from schemas.conversation import Conversation, Slot, SlotState, WaitingFor
from schemas.evolving import evolve
from schemas.hand_off import ChannelSpec, Gate
from schemas.transition import Reason, Transition

#: Messages that go through a half-open circuit, to see whether the provider is back.
PROBES = 3
#: What is parked is looked at again by itself after so long, and then after as long as it has waited.
PARKED = timedelta(minutes=15)
#: Before it is looked at again whether a probe has ended.
PROBING = timedelta(seconds=1)
#: Against the rounding of a division.
_EPSILON = 1e-6


@frozen(kw_only=True)
class Allowance:
    """How many messages a channel takes now, and its gate from then on. 0: it is closed."""

    count: int
    gate: Gate


def barred(state: ChannelState | None, now: datetime) -> Gate | None:
    """Give the gate that is closed whatever its rate: the circuit is open, or silence was asked for."""
    if state is None:
        return None
    circuit = state.circuit
    if circuit.state is not CircuitState.CLOSED and circuit.until and circuit.until > now:
        return Gate(until=circuit.until, why=WaitingFor.CIRCUIT)
    if state.not_before and state.not_before > now:
        return Gate(until=state.not_before, why=WaitingFor.RATE_LIMIT)
    return None


def allowance(spec: ChannelSpec, state: ChannelState | None, now: datetime) -> Allowance | None:
    """Give how many messages may be marked now. None: there is no bound."""
    if gate := barred(state, now):
        return Allowance(count=0, gate=gate)
    allowed = []
    if state and state.circuit.state is not CircuitState.CLOSED:
        probing = Gate(until=now + PROBING, why=WaitingFor.CIRCUIT)
        allowed.append(Allowance(count=PROBES, gate=probing))
    if spec.rate:
        count = _tokens(spec, spec.rate, state, now)
        gate = Gate(until=refilled_at(spec, state, now, taken=count), why=WaitingFor.RATE_LIMIT)
        allowed.append(Allowance(count=count, gate=gate))
    return min(allowed, key=lambda each: each.count, default=None)


def refilled_at(
    spec: ChannelSpec, state: ChannelState | None, now: datetime, taken: int = 0
) -> datetime:
    """Give when half of the burst is there again: a turn for each token would cost too much."""
    if not spec.rate:
        return now
    full_at = max(now, (state and state.tokens_from) or now)
    full_at += timedelta(seconds=taken / spec.rate)
    wanted = max(1, spec.burst // 2)
    return max(now, full_at - timedelta(seconds=(spec.burst - wanted) / spec.rate))


def _tokens(spec: ChannelSpec, rate: float, state: ChannelState | None, now: datetime) -> int:
    """Give the tokens in the bucket: GCRA, by when the bucket will be full."""
    full_at = state.tokens_from if state else None
    if full_at is None or full_at <= now:
        return spec.burst
    missing = (full_at - now).total_seconds() * rate
    return max(0, math.floor(spec.burst - missing + _EPSILON))


def parked(conversation: Conversation, slot: Slot, gate: Gate, now: datetime) -> Transition:
    """
    Reserve the message until the gate opens.

    Beside the gate's time it gets one of its own, ever later, by which a poll finds it although
    nobody remembers; no later than its own time to live.
    """
    again = max(gate.until, now + max(PARKED, now - slot.due_at))
    if slot.send_before:
        again = min(again, max(now, slot.send_before) + timedelta(milliseconds=1))
    waiting = evolve(slot, state=SlotState.RESERVED, until=again, token=None, held=gate.why)
    return Transition(
        conversation=settled(evolve(conversation, slot=waiting)), reason=Reason.MESSAGE_HELD_BACK
    )
