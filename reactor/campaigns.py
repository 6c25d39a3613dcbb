"""A campaign's turn: its orders, its opening, a batch of its conversations, its end."""

from loguru import logger

from handlers.atom import DUE, settled
from handlers.campaign import retries_over, step
from handlers.orders import retry
from reactor.at_once import begin_at_once
from reactor.batches import (
    COME_BACK_SECONDS,
    Fresh,
    Known,
    Present,
    leave,
    scope_of,
    work,
)
from reactor.engine import Engine
from reactor.gatekeeper import allowances, closed
from reactor.inbox import Answers, read_orders
from reactor.opening import open_chunk
from reactor.recount import keep_counted
from reactor.retention import let_go
from reactor.store.protocol import BrokenDocument, Change, Inbox, Scope, Sight
from reactor.turns import Turn
from reactor.unknown import answer_unknown
from reactor.walk import Setting
from schemas.campaign import Campaign
from schemas.evolving import evolve

#: Seconds before a campaign that cannot be read is looked at again.
BROKEN_SECONDS = 60.0


async def take_turn(engine: Engine, turn: Turn, fresh: Fresh | None = None) -> None:
    """Work on one campaign: at most one chunk to open, or one batch of conversations."""
    present = await _read(engine, turn, fresh)
    if present is None:
        return
    campaign = await _prepare(engine, turn, present)
    if campaign is None:
        return
    known = present.named
    if not campaign.opened:
        opened = await _open(engine, turn, campaign, present)
        if opened is None:
            return
        campaign, known = opened
    if scope_of(campaign) is not Scope.DUE:
        known = None
    scene = evolve(present.scene, campaign=campaign)
    present = evolve(present, campaign=campaign, setting=evolve(present.setting, scene=scene))
    if campaign.retry_failed_before:
        await _retry_failed(engine, present)
        engine.turns.name(campaign.id, turn.named)
        return
    await work(engine, turn, present, known)
    if campaign.failures:
        await engine.store.write_campaign(campaign, evolve(campaign, failures=0))
    else:
        await let_go(engine, campaign, scene.now)


async def _prepare(engine: Engine, turn: Turn, present: Present) -> Campaign | None:
    """Follow the campaign's orders; None: the turn ends here, and what was named waits."""
    campaign, now = await _follow_orders(engine, turn, present), present.scene.now
    if campaign and campaign.completed_at and not campaign.removing_since:
        campaign = await keep_counted(engine, campaign, present.scene, writes=bool(turn.named))
    if campaign is None:
        engine.turns.name(turn.campaign_id, turn.named)
        return None
    if present.fresh or engine.share.owns(campaign.id):
        return campaign
    if campaign.opened and not campaign.retry_failed_before:
        return campaign
    # One worker is enough for it: the others see later how far it is.
    later = now + engine.scale.campaign_span(COME_BACK_SECONDS)
    engine.turns.due(campaign.id, later)
    engine.turns.name_later(campaign.id, turn.named, later)
    return None


async def _read(engine: Engine, turn: Turn, fresh: Fresh | None) -> Present | None:
    since = fresh.since if fresh else engine.clock.monotonic()
    sight = fresh.sight if fresh else await _sight(engine, turn)
    now, campaign = sight.now, sight.campaign
    if fresh is None:
        engine.clock.note(now)
    if isinstance(campaign, Campaign):
        allowed = allowances(engine, sight.channels, now)
        scene = engine.scene(campaign, now, sight.channels, closed(allowed))
        setting = Setting(scene=scene, since=since, allowed=allowed)
        of_names = None
        if turn.only_named:
            of_names = Known(sight.conversations, sight.broken, sight.updates)
        return Present(campaign=campaign, setting=setting, fresh=fresh, named=of_names)
    if campaign is None:
        engine.turns.gone(turn.named)
        await answer_unknown(engine, Inbox.CAMPAIGN_UPDATES, turn.orders, now)
    if isinstance(campaign, BrokenDocument) and campaign.newer:
        leave(engine, turn.campaign_id, [campaign], now)
    elif isinstance(campaign, BrokenDocument):
        logger.bind(campaign_id=turn.campaign_id, error_type="InvalidDocumentError").error(
            "A campaign cannot be read, and waits"
        )
        engine.telemetry.failed("", "InvalidDocumentError")
        engine.turns.due(turn.campaign_id, now + engine.scale.campaign_span(BROKEN_SECONDS))
    return None


async def _sight(engine: Engine, turn: Turn) -> Sight:
    """Read the campaign; and all that the turn is for, if that is known beforehand."""
    if turn.only_named:
        return await engine.store.sight(turn.campaign_id, turn.named, turn.addressees)
    return await engine.store.sight(turn.campaign_id)


async def _follow_orders(engine: Engine, turn: Turn, present: Present) -> Campaign | None:
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
    engine: Engine, turn: Turn, campaign: Campaign, present: Present
) -> tuple[Campaign, Known | None] | None:
    """
    Open a chunk, or all of a small request; None: not all is opened yet, and updates wait.

    Beside the campaign: what of it is still to be taken through, if that is known.
    """
    fresh = present.fresh
    if fresh and fresh.chunk:
        scene = evolve(present.scene, campaign=campaign)
        setting = evolve(present.setting, scene=scene)
        barred = frozenset(campaign.barred or ())
        begun = await begin_at_once(engine, setting, barred, fresh.chunk)
        engine.share.opened(campaign.id)
        return (begun, Known(())) if begun else None
    link = (campaign.traceparent, campaign.tracestate)
    attributes = {"campaign_id": campaign.id, "campaign_type": campaign.type}
    with engine.telemetry.span("open", link=link, attributes=attributes):
        opened = await open_chunk(engine, campaign, present.scene.now)
    if opened is None or not opened.opened:
        engine.turns.name(campaign.id, turn.named)
        return None
    engine.share.opened(campaign.id)
    # What was inserted early waits in the inbox.
    engine.turns.want_sweep()
    return opened, None


async def _retry_failed(engine: Engine, present: Present) -> None:
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
