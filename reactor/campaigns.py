"""A campaign's turn: its orders, its opening, a batch of its conversations, its end."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from attrs import evolve, frozen
from loguru import logger

from handlers.atom import DUE, settled
from handlers.campaign import ENDED, closed_all, retries_over, step
from handlers.orders import retry
from handlers.scene import Scene
from reactor.completion import complete
from reactor.engine import Engine
from reactor.failures import fail
from reactor.gatekeeper import allowances, closed
from reactor.inbox import Answers, read_orders
from reactor.newer import NEWER_SECONDS
from reactor.opening import open_chunk
from reactor.recount import keep_counted
from reactor.retention import let_go
from reactor.sharing import OVERDUE_SECONDS
from reactor.store.protocol import (
    Batch,
    BrokenDocument,
    Change,
    Inbox,
    Order,
    Scope,
    StoreUnavailableError,
)
from reactor.turns import Turn
from reactor.unknown import answer_unknown
from reactor.walk import Setting, walk
from schemas.campaign import Campaign, CampaignStatus
from schemas.ids import CampaignId

S = CampaignStatus
#: Seconds before a campaign whose turn changed nothing gets another for the same reason.
PATIENCE_SECONDS = 0.05
#: Seconds before it is looked at again what a campaign's owner has made of it.
COME_BACK_SECONDS = 0.5
#: Seconds before a campaign that cannot be read is looked at again.
BROKEN_SECONDS = 60.0


@frozen(kw_only=True)
class _Present:
    """A campaign as its turn found it."""

    campaign: Campaign
    setting: Setting

    @property
    def scene(self) -> Scene:
        return self.setting.scene


async def take_turn(engine: Engine, turn: Turn) -> None:
    """Work on one campaign: at most one chunk to open, or one batch of conversations."""
    present = await _read(engine, turn)
    if present is None:
        return
    campaign = await _prepare(engine, turn, present)
    if campaign is None:
        return
    everything = False
    if not campaign.opened:
        opened = await _open(engine, turn, campaign, present)
        if opened is None or not opened.opened:
            return
        campaign = opened
        # What is opened in one piece is begun in one piece.
        everything = campaign.recipient_count <= engine.batch_size
    scene = evolve(present.scene, campaign=campaign)
    present = _Present(campaign=campaign, setting=evolve(present.setting, scene=scene))
    if campaign.retry_failed_before:
        await _retry_failed(engine, present)
        engine.turns.name(campaign.id, turn.named)
        return
    await _work(engine, turn, present, everything=everything)
    if campaign.failures:
        await engine.store.write_campaign(campaign, evolve(campaign, failures=0))
    else:
        await let_go(engine, campaign, scene.now)


async def _prepare(engine: Engine, turn: Turn, present: _Present) -> Campaign | None:
    """Follow the campaign's orders; None: the turn ends here, and what was named waits."""
    campaign, now = await _follow_orders(engine, turn, present), present.scene.now
    if campaign and campaign.completed_at and not campaign.removing_since:
        campaign = await keep_counted(engine, campaign, present.scene, writes=bool(turn.named))
    if campaign is None:
        engine.turns.name(turn.campaign_id, turn.named)
        return None
    if (campaign.opened and not campaign.retry_failed_before) or engine.share.owns(campaign.id):
        return campaign
    # One worker is enough for it: the others see later how far it is.
    later = now + engine.scale.campaign_span(COME_BACK_SECONDS)
    engine.turns.due(campaign.id, later)
    engine.turns.name_later(campaign.id, turn.named, later)
    return None


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


async def _read(engine: Engine, turn: Turn) -> _Present | None:
    since = engine.clock.monotonic()
    sight = await engine.store.sight(turn.campaign_id)
    now, campaign = sight.now, sight.campaign
    engine.clock.note(now)
    if isinstance(campaign, Campaign):
        allowed = allowances(engine, sight.channels, now)
        scene = engine.scene(campaign, now, sight.channels, closed(allowed))
        setting = Setting(scene=scene, since=since, allowed=allowed)
        return _Present(campaign=campaign, setting=setting)
    if campaign is None:
        await answer_unknown(engine, Inbox.CAMPAIGN_UPDATES, turn.orders, now)
    if isinstance(campaign, BrokenDocument) and campaign.newer:
        _leave(engine, turn.campaign_id, [campaign], now)
    elif isinstance(campaign, BrokenDocument):
        logger.bind(campaign_id=turn.campaign_id, error_type="InvalidDocumentError").error(
            "A campaign cannot be read, and waits"
        )
        engine.telemetry.failed("", "InvalidDocumentError")
        engine.turns.due(turn.campaign_id, now + engine.scale.campaign_span(BROKEN_SECONDS))
    return None


async def _follow_orders(engine: Engine, turn: Turn, present: _Present) -> Campaign | None:
    """Apply the campaign's updates and its own due time; None: another worker was faster."""
    campaign, now = present.campaign, present.scene.now
    is_due = campaign.due_at is not None and campaign.due_at <= now
    if not turn.ordered and not is_due:
        return campaign
    answers = Answers(now)
    raws = await engine.store.campaign_updates(campaign, now=now) if turn.ordered else ()
    read = read_orders(raws, answers)
    transition = step(campaign, [update for _, update in read.values()], now)
    if transition.campaign != campaign:
        written = await engine.store.write_campaign(campaign, transition.campaign)
        if written is None:
            if turn.ordered:
                engine.turns.order(campaign.id, turn.orders)
            return None
        if written.paused_total != campaign.paused_total:
            await engine.store.shift_waits(written)
        campaign = written
    for identity, answer in transition.answers:
        answers.add(read[identity][0], answer)
    await answers.write(engine.store, Inbox.CAMPAIGN_UPDATES)
    return campaign


async def _open(
    engine: Engine, turn: Turn, campaign: Campaign, present: _Present
) -> Campaign | None:
    """Open a chunk; updates of its conversations wait until all are there."""
    link = (campaign.traceparent, campaign.tracestate)
    attributes = {"campaign_id": campaign.id, "campaign_type": campaign.type}
    with engine.telemetry.span("open", link=link, attributes=attributes):
        after = await open_chunk(engine, campaign, present.scene.now)
    if after and after.opened:
        # What was inserted early waits in the inbox.
        engine.turns.want_sweep()
    else:
        engine.turns.name(campaign.id, turn.named)
    return after


def _leave(
    engine: Engine, campaign_id: CampaignId, newer: Sequence[BrokenDocument], now: datetime
) -> None:
    """Leave alone what a newer worker wrote; the campaign is looked at again before long."""
    engine.telemetry.newer(engine.newer.meet(campaign_id, [each.id for each in newer]))
    engine.turns.due(campaign_id, now + engine.scale.campaign_span(NEWER_SECONDS))


async def _work(engine: Engine, turn: Turn, present: _Present, *, everything: bool) -> None:
    """Load a batch and take it through; then see when there is work again."""
    campaign, scope, turns = present.campaign, scope_of(present.campaign), engine.turns
    if engine.newer.are_many(campaign.id):
        _leave(engine, campaign.id, (), present.scene.now)
        return
    queued = _queues(engine, present.setting, scope)
    # One turn of a campaign after the other: what this one loads, the next one leaves out.
    async with turns.loading(campaign.id):
        batch = await _load(engine, turn, present, queued, everything=everything)
        # A broken one has no id that is sure to be one; its failure is noted before long.
        mine = {conversation.id for conversation in batch.conversations} - turns.in_flight
        turns.in_flight |= mine
    if newer := [each for each in batch.broken if each.newer]:
        _leave(engine, campaign.id, newer, present.scene.now)
    try:
        if batch.full:
            turns.ready(campaign.id)
        for name, asked in queued.items():
            if batch.queued[name] < asked:
                engine.watches[name].queued.pop(campaign.id, None)
            elif asked < present.setting.allowed[name].count:
                turns.ready(campaign.id)
        # Now, and again when more may be parked: a batch that is slow to be recorded costs no tokens.
        _come_back_to_gates(engine, present, scope)
        progressed = await _walk(engine, batch, present)
    finally:
        turns.in_flight -= mine
    _measure(engine, batch, present.scene)
    _come_back_to_gates(engine, present, scope)
    if not batch.full:
        await _rest(engine, present, scope, patient=not progressed)


async def _load(
    engine: Engine,
    turn: Turn,
    present: _Present,
    queued: Mapping[str, int],
    *,
    everything: bool,
) -> Batch:
    campaign, scene, scope = present.campaign, present.scene, scope_of(present.campaign)
    link = (campaign.traceparent, campaign.tracestate)
    attributes = {"campaign_id": campaign.id, "campaign_type": campaign.type}
    with engine.telemetry.span("load", link=link, attributes=attributes) as note:
        batch = await engine.store.load(
            Order(
                campaign=campaign,
                scope=scope,
                now=scene.now,
                named=turn.named,
                exclude=frozenset(engine.turns.in_flight) | engine.newer.of(campaign.id),
                queued=queued,
                buckets=None if everything else engine.share.buckets,
                besides=_besides(engine, campaign, scope),
                besides_since=scene.now - engine.scale.campaign_span(OVERDUE_SECONDS),
                limit=max(1, engine.batch_size - sum(queued.values())),
            )
        )
        note(conversations=len(batch.conversations), updates=len(batch.updates))
    return batch


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


def _come_back_to_gates(engine: Engine, present: _Present, scope: Scope) -> None:
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


async def _walk(engine: Engine, batch: Batch, present: _Present) -> bool:
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


async def _rest(engine: Engine, present: _Present, scope: Scope, *, patient: bool) -> None:
    """Nothing more is due now: note when something will be, or that all is over."""
    campaign, now, turns = present.campaign, present.scene.now, engine.turns
    if scope in {Scope.UNSETTLED, Scope.NAMED} and not patient:
        # What was open may be closed now, and what was over may be open again: look once more.
        turns.ready(campaign.id)
        return
    if engine.newer.of(campaign.id):
        # Neither closed nor waited for: whether the campaign is over is for a newer worker to say.
        if await engine.store.next_due(campaign.id, Scope.DUE):
            _leave(engine, campaign.id, (), now)
            return
        engine.newer.forget(campaign.id)
    owns = engine.share.owns(campaign.id)
    if scope is Scope.UNSETTLED and owns and not turns.in_flight:
        campaign = (
            await engine.store.write_campaign(campaign, closed_all(campaign, now)) or campaign
        )
    buckets = engine.share.buckets
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


async def _retry_failed(engine: Engine, present: _Present) -> None:
    """Put back a batch of failed conversations; the last one ends the order."""
    campaign, scene = present.campaign, present.scene
    if campaign.retry_failed_before is None:
        return
    failed = await engine.store.failed_before(
        campaign.id, campaign.retry_failed_before, now=scene.now, limit=engine.batch_size
    )
    changes = [Change(before=one, after=settled(retry(one, scene, DUE))) for one in failed]
    if changes:
        await engine.store.apply(changes, token=scene.lease.token)
        engine.changed.note(campaign.id)
    if len(failed) < engine.batch_size:
        await engine.store.write_campaign(campaign, retries_over(campaign))
    engine.turns.ready(campaign.id)
