"""
The gates of the channels: how much may be marked, what may then be handed off, what is learnt from it.

The documents in `channels` are what all workers go by: circuits, buckets, wishes of the providers. What
a worker knows beside them, how much a channel has in hand, is its own.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from attrs import define, field
from loguru import logger

from handlers.circuit import alert_of, probed, weighed
from handlers.gates import PROBES, Allowance, allowance, barred, refilled_at
from reactor.engine import Engine
from schemas.channel import ChannelState, CircuitState
from schemas.conversation import Conversation, WaitingFor
from schemas.hand_off import Gate, Outcome, OutcomeKind
from schemas.ids import ConversationId

#: Before a channel that has all it can take is looked at again, if it is not done earlier.
BUSY_SECONDS = 0.25
#: A success that is noted is not noted again for so long: the document is everybody's.
FRESH_SECONDS = 1.0
#: Tries to write what was learnt, where others write too.
RACES = 5


@define
class Permits:
    """What may be handed off of a batch."""

    #: Of each channel whose tokens were taken: the monotonic time until which they may be used.
    latest: dict[str, float] = field(factory=dict)
    #: And when they were taken.
    taken: dict[str, float] = field(factory=dict)
    #: Channels that this batch probes.
    probing: set[str] = field(factory=set)


def allowances(
    engine: Engine, states: Mapping[str, ChannelState], now: datetime
) -> Mapping[str, Allowance]:
    """Give how many messages each channel takes now; of those that are missing, as many as come."""
    allowed = {}
    for name, watch in engine.watches.items():
        found = allowance(engine.specs[name], states.get(name), now)
        busy = _gate(engine, now, WaitingFor.CHANNEL)
        if found is None or watch.room < found.count:
            found = Allowance(count=watch.room, gate=busy)
        allowed[name] = found
    return allowed


def closed(allowed: Mapping[str, Allowance]) -> Mapping[str, Gate]:
    return {name: each.gate for name, each in allowed.items() if not each.count}


async def permit(
    engine: Engine,
    states: Mapping[str, ChannelState],
    messages: Mapping[str, Sequence[Conversation]],
    now: datetime,
) -> tuple[Permits, dict[ConversationId, Outcome]]:
    """
    Ask each channel's gate for what was marked; what it does not let through has its outcome.

    `messages`: by channel. `now`: of the last look, with which the states were read.
    """
    permits, held = Permits(), dict[ConversationId, Outcome]()
    for name, waiting in messages.items():
        spec, state = engine.specs.get(name), states.get(name) or ChannelState(id=name)
        ordered = sorted(waiting, key=lambda one: one.slot.due_at if one.slot else now)
        gate = barred(state, now)
        count = 0 if gate else len(ordered)
        if count and state.circuit.state is not CircuitState.CLOSED:
            count, gate = min(PROBES, count), _gate(engine, now, WaitingFor.CIRCUIT)
        if count and spec and spec.rate:
            began = engine.clock.monotonic()
            tokens = await engine.store.take_tokens(spec, count)
            permits.taken[name], permits.latest[name] = began, began + tokens.lasts_seconds
            if tokens.granted < count:
                until = refilled_at(spec, tokens.state, tokens.now)
                count, gate = tokens.granted, Gate(until=until, why=WaitingFor.RATE_LIMIT)
        if count and state.circuit.state is not CircuitState.CLOSED:
            # Last, so that no probe begins that then lacks a token.
            if await _probes(engine, state, now):
                permits.probing.add(name)
            else:
                count, gate = 0, _gate(engine, now, WaitingFor.CIRCUIT)
        held |= {one.id: Outcome(kind=OutcomeKind.HELD_BACK, gate=gate) for one in ordered[count:]}
    return permits, held


def too_slow(engine: Engine, now: datetime) -> Outcome:
    """Give the outcome of what was not begun in time: nothing was handed off."""
    gate = _gate(engine, now, WaitingFor.CHANNEL)
    return Outcome(kind=OutcomeKind.HELD_BACK, gate=gate)


async def give_back(engine: Engine, permits: Permits, unused: Mapping[str, int]) -> None:
    """
    Return tokens that were not used, but for as many as have flowed in since they were taken.

    With these the bucket may have been full already, and would then overflow into another second.
    """
    for name, count in unused.items():
        rate = (engine.specs[name].rate or 0.0) * engine.scale.scale
        since = engine.clock.monotonic() - permits.taken[name]
        worth = int(count - since * rate)
        if worth > 0:
            await engine.store.return_tokens(engine.specs[name], worth)


async def learn(
    engine: Engine,
    states: Mapping[str, ChannelState],
    outcomes: Mapping[str, Sequence[tuple[str, Outcome]]],
    probing: frozenset[str],
    now: datetime,
) -> Mapping[str, ChannelState]:
    """Weigh a batch's outcomes, by channel and recipient; give what is then known of each channel."""
    learnt = dict(states)
    for name, batch in outcomes.items():
        if name in engine.watches:
            known = states.get(name) or ChannelState(id=name)
            learnt[name] = await _learn(engine, known, batch, now, probing=name in probing)
    return learnt


async def _learn(
    engine: Engine,
    state: ChannelState,
    batch: Sequence[tuple[str, Outcome]],
    now: datetime,
    *,
    probing: bool,
) -> ChannelState:
    watch = engine.watches[state.id]
    evidence = watch.evidence(batch, now)
    for _ in range(RACES):
        after = weighed(state, evidence, now, probing=probing)
        if not _worth_writing(engine, state, after):
            return after
        if await engine.store.write_channel(state, after):
            await _tell(engine, state, after)
            return after
        _, states = await engine.store.channels()
        state = states.get(state.id) or ChannelState(id=state.id)
    return weighed(state, evidence, now, probing=probing)


def _worth_writing(engine: Engine, before: ChannelState, after: ChannelState) -> bool:
    if before.circuit != after.circuit or before.not_before != after.not_before:
        return True
    if after.succeeded_at is None:
        return False
    fresh = engine.scale.campaign_span(FRESH_SECONDS)
    return before.succeeded_at is None or after.succeeded_at - before.succeeded_at >= fresh


async def _tell(engine: Engine, before: ChannelState, after: ChannelState) -> None:
    """Tell people, once, that a circuit has opened; and that it is closed again."""
    if before.circuit.state is not after.circuit.state:
        engine.watches[after.id].begin_anew()
    alert = alert_of(before, after)
    if alert is None or not await engine.store.raise_alert(alert):
        return
    log = logger.bind(channel=after.id, alert=alert.kind.value, reason=alert.reason)
    if alert.resolved_at:
        log.info("A channel works again: its circuit is closed")
    else:
        log.error("A channel has failed: its circuit is open")
        engine.telemetry.alert(alert.kind.value, after.id)


async def _probes(engine: Engine, state: ChannelState, now: datetime) -> bool:
    """Begin a probe of an open circuit; False: somebody else has."""
    begun = probed(state, now, engine.scale.campaign_span(engine.lease_seconds))
    return begun is not None and await engine.store.write_channel(state, begun)


def _gate(engine: Engine, now: datetime, why: WaitingFor) -> Gate:
    span: timedelta = engine.scale.campaign_span(BUSY_SECONDS)
    return Gate(until=now + span, why=why)
