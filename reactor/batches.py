"""A campaign's batch: what has work is loaded and taken through, and then it is seen what comes next."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from attrs import frozen
from loguru import logger

from handlers.campaign import ENDED, closed_all
from handlers.scene import Scene
from reactor.completion import complete
from reactor.engine import Engine
from reactor.failures import fail
from reactor.newer import NEWER_SECONDS
from reactor.opening import Chunk
from reactor.sharing import OVERDUE_SECONDS
from reactor.store.protocol import (
    Batch,
    BrokenDocument,
    Order,
    RawDocument,
    Scope,
    Sight,
    StoreUnavailableError,
)
from reactor.turns import Turn
from reactor.walk import Setting, walk
from schemas.campaign import Campaign, CampaignStatus
from schemas.conversation import Conversation
from schemas.evolving import evolve
from schemas.ids import CampaignId, ConversationId

S = CampaignStatus
#: Seconds before a campaign whose turn changed nothing gets another for the same reason.
PATIENCE_SECONDS = 0.05
#: Seconds before it is looked at again what a campaign's owner has made of it.
COME_BACK_SECONDS = 0.5


@frozen(kw_only=True)
class Fresh:
    """A campaign that was inserted a moment ago: what was known before is not read again."""

    sight: Sight
    #: Monotonic seconds before its time was read.
    since: float
    #: All of its recipients, if they are few.
    chunk: Chunk | None


@frozen
class Known:
    """Conversations that were read or made a moment ago."""

    conversations: tuple[Conversation, ...]
    broken: tuple[BrokenDocument, ...] = ()
    #: None: these are still to be read.
    updates: tuple[RawDocument, ...] | None = None


@frozen(kw_only=True)
class Present:
    """A campaign as its turn found it."""

    campaign: Campaign
    setting: Setting
    fresh: Fresh | None = None
    #: What the turn named, read with the campaign, if nothing else is known to wait.
    named: Known | None = None

    @property
    def scene(self) -> Scene:
        return self.setting.scene


def scope_of(campaign: Campaign) -> Scope:
    """Say which conversations of a campaign may have work, besides those that are named."""
    match campaign.status:
        case S.ACTIVE:
            return Scope.DUE
        case S.PAUSED:
            return Scope.LEASES
        case S.CANCELLED | S.FAILED:
            return Scope.DUE if campaign.all_closed else Scope.UNSETTLED
        case _:
            return Scope.NAMED


def leave(
    engine: Engine, campaign_id: CampaignId, newer: Sequence[BrokenDocument], now: datetime
) -> None:
    """Leave alone what a newer worker wrote; the campaign is looked at again before long."""
    engine.telemetry.newer(engine.newer.meet(campaign_id, [each.id for each in newer]))
    engine.turns.due(campaign_id, now + engine.scale.campaign_span(NEWER_SECONDS))


async def work(engine: Engine, turn: Turn, present: Present, known: Known | None) -> None:
    """
    Load a batch and take it through; then see when there is work again.

    `known`: the batch, of which only what belongs to it is to be loaded.
    """
    campaign, scope, turns = present.campaign, scope_of(present.campaign), engine.turns
    if engine.newer.are_many(campaign.id):
        leave(engine, campaign.id, (), present.scene.now)
        return
    queued = {} if known else _queues(engine, present.setting, scope)
    mine = set[ConversationId]()
    try:
        batch = await _load(engine, turn, present, queued, known, mine)
        for name, asked in queued.items():
            if batch.queued[name] < asked:
                engine.watches[name].queued.pop(campaign.id, None)
            elif asked < present.setting.allowed[name].count:
                turns.ready(campaign.id)
        if newer := [each for each in batch.broken if each.newer]:
            leave(engine, campaign.id, newer, present.scene.now)
        # Now, and again when more may be parked: a batch that is slow to be recorded costs no tokens.
        _come_back_to_gates(engine, present, scope)
        progressed = await _walk(engine, batch, present)
    finally:
        turns.in_flight -= mine
    _measure(engine, batch, present.scene)
    _come_back_to_gates(engine, present, scope)
    if known and known is present.named:
        # When these have work again was noted as they were written; of one that is broken it is read.
        if batch.broken:
            turns.ready(campaign.id)
    elif not batch.full:
        # Of what has only just been opened the rest is due now.
        await _rest(engine, present, scope, patient=not (progressed or present.fresh))


async def _load(
    engine: Engine,
    turn: Turn,
    present: Present,
    queued: Mapping[str, int],
    known: Known | None,
    mine: set[ConversationId],
) -> Batch:
    """Load a batch; what nobody else of this worker has in flight is added to `mine`, and is now."""
    campaign, turns = present.campaign, engine.turns
    link = (campaign.traceparent, campaign.tracestate)
    attributes = {"campaign_id": campaign.id, "campaign_type": campaign.type}
    with engine.telemetry.span("load", link=link, attributes=attributes) as note:
        # One turn of a campaign after the other: what this one finds, the next one leaves out.
        async with turns.loading(campaign.id):
            order = _order(engine, turn, present, queued, known)
            found = None if known else await engine.store.find(order)
            ids = found.ids if found else {one.id for one in order.known or ()}
            mine |= ids - turns.in_flight
            turns.in_flight |= mine
        if found and found.full:
            # The next one may look for more while this one is read.
            turns.ready(campaign.id)
        turns.gone(turn.named - ids)
        batch = await engine.store.load(order, found)
        note(conversations=len(batch.conversations), updates=len(batch.updates))
    return evolve(batch, broken=known.broken) if known else batch


def _order(
    engine: Engine, turn: Turn, present: Present, queued: Mapping[str, int], known: Known | None
) -> Order:
    campaign, scene, scope = present.campaign, present.scene, scope_of(present.campaign)
    return Order(
        campaign=campaign,
        scope=scope,
        now=scene.now,
        named=turn.named,
        exclude=frozenset(engine.turns.in_flight) | engine.newer.of(campaign.id),
        queued=queued,
        known=known.conversations if known else None,
        known_updates=known.updates if known else None,
        buckets=engine.share.buckets_of(campaign.id),
        besides=_besides(engine, campaign, scope),
        besides_since=scene.now - engine.scale.campaign_span(OVERDUE_SECONDS),
        limit=max(1, engine.batch_size - sum(queued.values())),
    )


def _queues(engine: Engine, setting: Setting, scope: Scope) -> dict[str, int]:
    """Say of which gates to load what is parked, and how much; half of the batch is for the rest."""
    if scope is not Scope.DUE:
        return {}
    most = max(1, engine.batch_size // 2)
    campaign_id = setting.scene.campaign.id
    return {
        name: min(allowed.count, most)
        for name, allowed in setting.allowed.items()
        if allowed.count and campaign_id in engine.watches[name].queued
    }


def _besides(engine: Engine, campaign: Campaign, scope: Scope) -> frozenset[int]:
    """Say what else to look at when one's own is done: what others were too slow for."""
    if scope is Scope.UNSETTLED and engine.share.owns(campaign.id):
        # Somebody has to see that all are closed.
        return engine.share.rest
    return engine.share.next_in_line


def _come_back_to_gates(engine: Engine, present: Present, scope: Scope) -> None:
    """
    What is parked leaves when its gate opens: the campaign gets a turn then.

    Of a paused campaign nothing leaves, but after `resume` something may; of one that is over nothing.
    """
    campaign = present.campaign
    for name, allowed in present.setting.allowed.items():
        queued = engine.watches[name].queued
        if campaign.id in queued and scope is Scope.DUE:
            engine.turns.due(campaign.id, allowed.gate.until)
        elif campaign.status in ENDED:
            queued.pop(campaign.id, None)


async def _walk(engine: Engine, batch: Batch, present: Present) -> bool:
    """Take a batch through; one that fails is split until the guilty conversation stands alone."""
    try:
        return await walk(engine, batch, present.setting)
    except StoreUnavailableError:
        raise
    except Exception as error:
        error_type = type(error).__name__
        log = logger.bind(campaign_id=present.campaign.id, error_type=error_type)
        log.opt(exception=error).error("A batch failed")
        engine.telemetry.failed(present.campaign.type, error_type)
        conversations = batch.conversations
        if not conversations:
            raise
        if len(conversations) == 1:
            now = present.scene.now
            await fail(engine, present.campaign, conversations[0], error_type, now)
            return True
    middle = len(conversations) // 2
    for half in (conversations[:middle], conversations[middle:]):
        await _walk(engine, evolve(batch, conversations=half, broken=()), present)
    return True


def _measure(engine: Engine, batch: Batch, scene: Scene) -> None:
    """Tell how large the batch was, and how late the most overdue of it."""
    engine.telemetry.batch(len(batch.conversations))
    dues = [one.due_at for one in batch.conversations if one.due_at]
    late = scene.now - min(dues, default=scene.now)
    if late > timedelta(0):
        engine.telemetry.lag(engine.scale.real_seconds(late))


async def _rest(engine: Engine, present: Present, scope: Scope, *, patient: bool) -> None:
    """Nothing more is due now: note when something will be, or that all is over."""
    campaign, now, turns = present.campaign, present.scene.now, engine.turns
    if scope in {Scope.UNSETTLED, Scope.NAMED} and not patient:
        # What was open may be closed now, and what was over may be open again: look once more.
        turns.ready(campaign.id)
        return
    if engine.newer.of(campaign.id):
        # Neither closed nor waited for: whether the campaign is over is for a newer worker to say.
        if await engine.store.next_due(campaign.id, Scope.DUE):
            leave(engine, campaign.id, (), now)
            return
        engine.newer.forget(campaign.id)
    owns = engine.share.owns(campaign.id)
    if scope is Scope.UNSETTLED and owns and not turns.in_flight:
        campaign = (
            await engine.store.write_campaign(campaign, closed_all(campaign, now)) or campaign
        )
    buckets = engine.share.buckets_of(campaign.id)
    next_due = await engine.store.next_due(campaign.id, scope, buckets)
    if next_due is None and campaign.completed_at is None:
        of_all = scope is Scope.DUE and buckets is None
        unsettled = not of_all and await engine.store.next_due(campaign.id, Scope.DUE)
        if not unsettled and not campaign.open_until:
            await complete(engine, campaign)
            return
    times = [time for time in (next_due, campaign.due_at) if time]
    if times:
        patience = PATIENCE_SECONDS if owns else COME_BACK_SECONDS
        earliest = now + engine.scale.campaign_span(patience)
        turns.due(campaign.id, max(min(times), earliest if patient else now))
