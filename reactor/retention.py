"""
Retention: so long after its end, what is personal of a campaign leaves. The campaign stays.

The mark on the campaign comes first, so that whoever dies in the middle leaves nothing that looks
wrong. A sweep finds the campaign again; two workers at one only do some of it twice.
"""

from datetime import datetime

from loguru import logger

from handlers.retention import going, gone, may_go
from reactor.engine import Engine
from schemas.campaign import Campaign

#: Documents that leave in one turn: few enough that other campaigns do not wait for it.
BATCH = 300
#: Campaigns that are found at a time; when one is done with, a sweep finds the next.
LIMIT = 5


async def find_removable(engine: Engine, now: datetime) -> None:
    """Have campaigns looked at that have been over for long enough."""
    if engine.retention is None:
        return
    for campaign_id in await engine.store.removable(now - engine.retention, limit=LIMIT):
        engine.turns.ready(campaign_id)


async def let_go(engine: Engine, campaign: Campaign, now: datetime) -> None:
    """Take a campaign's removal one batch further, if its time has come."""
    if engine.retention is None or campaign.removed_at:
        return
    if not may_go(campaign, now, engine.retention):
        return
    if campaign.removing_since is None:
        if await engine.store.write_campaign(campaign, going(campaign, now)):
            engine.changed.forget(campaign.id)
    elif not await engine.store.remove(campaign, limit=BATCH):
        if await engine.store.write_campaign(campaign, gone(campaign, now)):
            logger.bind(campaign_id=campaign.id).info("What was personal of a campaign has left")
        engine.turns.want_sweep()
        return
    # After the turns of the others.
    engine.turns.ready(campaign.id)
