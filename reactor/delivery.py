"""
Delivery: what a batch marked `sending` gets its last look, is handed off, recorded and cleared.

The order is the promise. Mark, then look, then hand off, then the ledger, then the slot: whatever the
agent inserted with acknowledgement before the mark wins, and no key is without an entry.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial

import anyio
from attrs import define, field, frozen
from loguru import logger

from handlers.hand_off import hand_off_of
from handlers.last_look import Seen, stops, stops_campaign, verdict
from handlers.outcome import on_outcome
from handlers.rendering import RenderError
from handlers.scene import Scene
from handlers.stages import address_kind
from reactor.channels.protocol import hand_off
from reactor.effects import settle, write_effects
from reactor.engine import Engine
from reactor.gatekeeper import Permits, give_back, learn, permit, too_slow
from reactor.giving_way import give_way
from reactor.store.protocol import Change, Look, LookOrder, StoreUnavailableError
from reactor.together import together
from reactor.watch import Watch
from schemas.address import address_key
from schemas.campaign import Campaign
from schemas.conversation import Conversation, Slot
from schemas.hand_off import HandOff, Outcome, OutcomeKind
from schemas.ids import CampaignId, ConversationId

#: Seconds between tries to record outcomes in a database that does not answer.
RECORD_AGAIN_SECONDS = 0.5
#: An outcome that was tried this often is left to the take-over.
MAX_RACES = 50


@frozen(kw_only=True)
class Marked:
    """A batch as it was marked, all under one lease."""

    scene: Scene
    #: Monotonic seconds before the server's time of the lease was read.
    since: float
    conversations: Mapping[ConversationId, Conversation]


@define
class _Batch:
    """How far each message of a batch has come."""

    outcomes: dict[ConversationId, Outcome] = field(factory=dict)
    rendered: dict[ConversationId, HandOff] = field(factory=dict)
    #: As they were read by the last look, or later.
    present: dict[ConversationId, Conversation] = field(factory=dict)
    #: What came of each hand-off that was begun, by channel and recipient, until it is learnt from.
    tried: dict[str, list[tuple[str, Outcome]]] = field(factory=dict)
    permits: Permits = field(factory=Permits)
    #: Tokens that were taken and not used, by channel.
    unused: Counter[str] = field(factory=Counter)


async def deliver(engine: Engine, marked: Marked, meanwhile: Callable[[], Awaitable[None]]) -> None:
    """
    Hand off what was marked, and record what came of it.

    `meanwhile`: what nobody who waits for a message has to wait for. It is begun once the look is
    taken, or could not be.
    """
    batch = _Batch()
    try:
        await _prepare(engine, marked, batch)
    except StoreUnavailableError:
        # Nothing was handed off: to record that spares whoever takes over a doubt.
        withdrawn = Outcome(kind=OutcomeKind.WITHDRAWN)
        nothing = _Batch(outcomes=dict.fromkeys(marked.conversations, withdrawn))
        await together(partial(_record, engine, marked, nothing), meanwhile)
        raise
    await together(partial(_hand_off_and_record, engine, marked, batch), meanwhile)


async def _hand_off_and_record(engine: Engine, marked: Marked, batch: _Batch) -> None:
    if batch.rendered:
        async with engine.slots.aside():
            with engine.turns.aside(marked.scene.campaign.id):
                await _hand_off(engine, marked, batch)
    await _record(engine, marked, batch)
    await give_back(engine, batch.permits, batch.unused)


async def _prepare(engine: Engine, marked: Marked, batch: _Batch) -> None:
    """Look, render, and ask the gates: what may not leave has its outcome already."""
    look = await _look(engine, marked, batch)
    await _render(engine, marked.scene.campaign, batch)
    batch.permits, held = await permit(engine, look.channels, _by_channel(batch), look.now)
    for identity, outcome in held.items():
        batch.outcomes[identity] = outcome
        del batch.rendered[identity]


def _by_channel(batch: _Batch) -> Mapping[str, list[Conversation]]:
    by_channel: dict[str, list[Conversation]] = {}
    for identity, message in batch.rendered.items():
        by_channel.setdefault(message.channel, []).append(batch.present[identity])
    return by_channel


async def _look(engine: Engine, marked: Marked, batch: _Batch) -> Look:
    """Take the last look; what it stops has its outcome already."""
    campaign = marked.scene.campaign
    look = await engine.store.look(
        LookOrder(
            campaign_id=campaign.id,
            batch_request_id=campaign.batch_request_id,
            conversations=tuple(marked.conversations.values()),
            address_keys=frozenset(
                key
                for conversation in marked.conversations.values()
                if (key := _address_key(engine, conversation))
            ),
            since=marked.scene.now - timedelta(days=1),
        )
    )
    _name_what_waits(engine, look, campaign.id)
    stopped = _stopped(look)
    token = marked.scene.lease.token
    for conversation in look.conversations.values():
        slot = conversation.slot
        if slot is None or slot.token != token:
            continue
        batch.present[conversation.id] = conversation
        outcome = verdict(conversation, slot, _seen(engine, look, conversation, slot, stopped))
        if outcome:
            batch.outcomes[conversation.id] = outcome
    return look


def _seen(
    engine: Engine,
    look: Look,
    conversation: Conversation,
    slot: Slot,
    stopped: frozenset[ConversationId] | None,
) -> Seen:
    key = _address_key(engine, conversation)
    return Seen(
        now=look.now,
        campaign=look.campaign,
        stopped=stopped is None or conversation.id in stopped,
        suppressed=key in look.suppressed,
        entry=look.ledger.get(slot.key(conversation.id)) if slot.uncertain else None,
        sent_today=look.got.get(key, 0) if key else 0,
        on_their_way=sum(_key(engine, one.channel, one.address) == key for one in look.others),
        most_a_day=engine.max_messages_per_recipient_per_day,
    )


def _stopped(look: Look) -> frozenset[ConversationId] | None:
    """Give the conversations that an unanswered update stops; None: the campaign's, so all."""
    applied = look.campaign.applied if look.campaign else ()
    if any(
        stops_campaign(update.kind) and update.id not in applied for update in look.campaign_updates
    ):
        return None
    # What is in `applied` was decided upon already, and is only not yet marked so.
    decided = {one.id: one.applied for one in look.conversations.values()}
    return frozenset(
        update.conversation_id
        for update in look.updates
        if update.conversation_id
        and stops(update.kind, update.bounce)
        and update.id not in decided.get(update.conversation_id, ())
    )


def _name_what_waits(engine: Engine, look: Look, campaign_id: CampaignId) -> None:
    """What the look saw unanswered is decided next, whoever was to announce it."""
    engine.turns.name(
        campaign_id,
        {update.conversation_id for update in look.updates if update.conversation_id},
    )
    if look.campaign_updates:
        engine.turns.order(campaign_id)


def _address_key(engine: Engine, conversation: Conversation) -> str | None:
    slot = conversation.slot
    return _key(engine, slot.channel, conversation.recipient.address) if slot else None


def _key(engine: Engine, channel: str, addresses: Mapping[str, str]) -> str | None:
    kind = address_kind(channel, engine.specs)
    address = addresses.get(kind)
    return address_key(kind, address) if address else None


async def _render(engine: Engine, campaign: Campaign, batch: _Batch) -> None:
    for number, (identity, conversation) in enumerate(batch.present.items(), 1):
        await give_way(number)
        if identity in batch.outcomes or conversation.slot is None:
            continue
        try:
            batch.rendered[identity] = hand_off_of(
                conversation, conversation.slot, campaign, engine.specs
            )
        except RenderError as error:
            batch.outcomes[identity] = Outcome(kind=OutcomeKind.TEMPLATE_ERROR, error=str(error))
        except (KeyError, ValueError) as error:
            # The deployment's channels have changed since the request was accepted.
            why = f"no address for channel {conversation.slot.channel!r}: {type(error).__name__}"
            batch.outcomes[identity] = Outcome(kind=OutcomeKind.REFUSED, error=why)


async def _hand_off(engine: Engine, marked: Marked, batch: _Batch) -> None:
    """Hand each message to its channel, as many at once as the channel takes."""
    async with anyio.create_task_group() as tasks:
        for name, conversations in _by_channel(batch).items():
            watch = engine.watches.get(name)
            if watch is None:
                missing = f"channel {name!r} is not configured in this deployment"
                unavailable = Outcome(kind=OutcomeKind.RETRY, error=missing)
                batch.outcomes |= dict.fromkeys((one.id for one in conversations), unavailable)
                continue
            watch.in_hand += len(conversations)
            rest = iter(conversations)
            for _ in range(min(watch.channel.concurrency, len(conversations))):
                tasks.start_soon(_hand_off_each, engine, marked, batch, watch, rest)


async def _hand_off_each(
    engine: Engine, marked: Marked, batch: _Batch, watch: Watch, rest: Iterator[Conversation]
) -> None:
    name = watch.channel.name
    latest = marked.since + engine.lease_seconds - engine.channel_timeout_seconds
    tokens_until = batch.permits.latest.get(name, latest)
    for number, conversation in enumerate(rest, 1):
        await give_way(number)
        async with watch.limiter:
            # In one step with the hand-off: with less of the lease left, it is the take-over's,
            # and a token is good for its second only.
            if engine.clock.monotonic() <= min(latest, tokens_until, engine.slots.begin_until):
                outcome = await _handed_off(engine, marked, batch.rendered[conversation.id], watch)
                batch.tried.setdefault(name, []).append((conversation.address_keys[0], outcome))
            else:
                outcome = too_slow(engine, marked.scene.now)
                if name in batch.permits.latest:
                    batch.unused[name] += 1
        batch.outcomes[conversation.id] = outcome
        watch.in_hand -= 1
    if waiting := watch.next_queued():
        engine.turns.ready(waiting)


async def _handed_off(engine: Engine, marked: Marked, message: HandOff, watch: Watch) -> Outcome:
    campaign = marked.scene.campaign
    attributes = {
        "campaign_id": campaign.id,
        "campaign_type": campaign.type,
        "conversation_id": message.conversation_id,
        "key": message.key,
        "channel": message.channel,
    }
    link = (campaign.traceparent, campaign.tracestate)
    began = engine.clock.monotonic()
    with engine.telemetry.span("hand_off", link=link, attributes=attributes) as note:
        outcome = await hand_off(watch.channel, message, engine.channel_timeout_seconds)
        note(outcome=outcome.kind.value)
    seconds = engine.clock.monotonic() - began
    watch.took(seconds)
    engine.telemetry.sent(
        campaign.type, channel=message.channel, outcome=outcome.kind.value, seconds=seconds
    )
    return outcome


async def _record(engine: Engine, marked: Marked, batch: _Batch) -> None:
    """
    Record every outcome. A database that does not answer is asked again until the lease is over:
    what is not recorded by then is the take-over's, which asks the ledger first.
    """
    for _ in range(MAX_RACES):
        if not batch.outcomes:
            return
        try:
            await _record_once(engine, marked, batch)
        except StoreUnavailableError:
            if engine.clock.monotonic() > marked.since + engine.lease_seconds:
                break
            await anyio.sleep(RECORD_AGAIN_SECONDS)
            batch.present.clear()
    logger.bind(campaign_id=marked.scene.campaign.id, messages=len(batch.outcomes)).warning(
        "Outcomes were not recorded within their lease"
    )


async def _record_once(engine: Engine, marked: Marked, batch: _Batch) -> None:
    """
    Decide each outcome against the conversation as it is now, ledger first, then the slot.

    What was won, or has been taken over, leaves the batch; what lost a race stays, to be read again.
    """
    sight = await engine.store.sight(marked.scene.campaign.id)
    known = sight.campaign if isinstance(sight.campaign, Campaign) else marked.scene.campaign
    probing = frozenset(batch.permits.probing)
    states = await learn(engine, sight.channels, batch.tried, probing, sight.now)
    batch.tried.clear()
    scene = engine.scene(known, sight.now, states, {})
    await _read_again(engine, marked, batch)
    decided = {}
    for number, (identity, outcome) in enumerate(batch.outcomes.items(), 1):
        await give_way(number)
        decided[identity] = on_outcome(batch.present[identity], outcome, scene)
    effects = [
        (batch.present[identity], effect)
        for identity, transition in decided.items()
        for effect in transition.effects
    ]
    await write_effects(engine, known, effects, batch.rendered)
    applied = await engine.store.apply(
        [
            Change(before=batch.present[identity], after=transition.conversation)
            for identity, transition in decided.items()
        ],
        token=scene.lease.token,
    )
    settle(engine, known, [(batch.present[key], after) for key, after in applied.won.items()])
    for identity in (*applied.won, *applied.refused):
        del batch.outcomes[identity]
    batch.present.clear()


async def _read_again(engine: Engine, marked: Marked, batch: _Batch) -> None:
    stale = batch.outcomes.keys() - batch.present.keys()
    if not stale:
        return
    for conversation in await engine.store.conversations(stale):
        slot = conversation.slot
        if slot and slot.token == marked.scene.lease.token:
            batch.present[conversation.id] = conversation
    for identity in stale - batch.present.keys():
        del batch.outcomes[identity]
