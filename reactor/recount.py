"""
Counts for the agent: recounted where something changed, seldom, and by one worker.

Never a counter that every batch adds to: that is a hot document. A recount is a covered index scan,
and the longer it takes, the longer it is until the next.

While a campaign runs, a recount is lost with its worker, and its end makes up for it. After the end
something may still be written, a report say: that a recount follows is written to the campaign first.
"""

from handlers.campaign import counted, recounted_at
from handlers.scene import Scene
from reactor.counting import SMALL
from reactor.engine import Engine
from schemas.campaign import Campaign
from schemas.evolving import evolve
from schemas.ids import CampaignId

#: For the error of an estimated time.
MARGIN_SECONDS = 0.1
#: A recount that began this long ago and was not finished died with its worker.
ABANDONED_SECONDS = 60.0


async def recount(
    engine: Engine, campaign_id: CampaignId, changed_at: float, *, everything: bool = False
) -> None:
    """
    Recount a campaign, unless another worker's recount holds our last change, or is too recent.

    `everything`: however recent, if it does not hold it. One that loses a race, to another recount or
    to the campaign's own turn, is tried again later.
    """
    store, changed, scale = engine.store, engine.changed, engine.scale
    began = changed.monotonic()
    now, campaign = await store.campaign(campaign_id)
    if not isinstance(campaign, Campaign) or campaign.removing_since:
        changed.forget(campaign_id)
        return
    if campaign.counting_at:
        ago = scale.real_seconds(now - campaign.counting_at)
        holds_ours = ago < began - changed_at - MARGIN_SECONDS
        finished = campaign.counted_at is not None and campaign.counted_at >= campaign.counting_at
        if finished and holds_ours:
            changed.counted(campaign_id, began, campaign.recipient_count)
            return
        # That of a large campaign takes its time, and could never end if others began it anew.
        is_long = campaign.recipient_count > SMALL
        waits = holds_ours or (is_long and not everything)
        if not finished and ago < ABANDONED_SECONDS and waits:
            return
        if not everything and changed.is_soon(campaign_id, ago):
            return
    claimed = await store.write_campaign(campaign, evolve(campaign, counting_at=now))
    if claimed is None:
        return
    counts, messages = await store.count(campaign_id)
    if await store.write_campaign(claimed, counted(claimed, counts, messages, now)):
        changed.counted(campaign_id, began, campaign.recipient_count)


async def keep_counted(
    engine: Engine, campaign: Campaign, scene: Scene, *, writes: bool
) -> Campaign | None:
    """
    Count a completed campaign again when that is due, or before a turn `writes`: after its lease.

    None: another worker was faster, and nothing may be written yet.
    """
    recount_at = campaign.recount_at
    if writes and (recount_at is None or recount_at < scene.lease.until):
        # One lease more, so that a stream of reports costs a write a lease, not one a batch.
        after = scene.lease.until + engine.scale.campaign_span(engine.lease_seconds)
        changed = recounted_at(campaign, after, scene.now)
    elif recount_at and recount_at <= scene.now:
        counts, messages = await engine.store.count(campaign.id)
        changed = counted(campaign, counts, messages, scene.now)
    else:
        return campaign
    return await engine.store.write_campaign(campaign, changed)
