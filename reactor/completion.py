"""The end of a campaign: counted, held against its recipients, written; or put off, with an alert."""

from datetime import datetime

from loguru import logger

from handlers.campaign import completed
from handlers.completion import alert_of, discrepancy, put_off
from reactor.engine import Engine
from schemas.campaign import Campaign

#: Seconds before a campaign whose counts do not agree is counted again.
AGAIN_SECONDS = 60.0


async def complete(engine: Engine, campaign: Campaign) -> None:
    """End a campaign none of whose conversations is due or unsettled, if its counts agree."""
    counts, messages = await engine.store.count(campaign.id)
    now = await engine.store.now()
    if reason := discrepancy(campaign, counts):
        await _put_off(engine, campaign, reason, now)
        return
    # First, so that no alert of a campaign that is over stays open.
    if alert := alert_of(campaign, "", resolved_at=now):
        await engine.store.raise_alert(alert)
    recount_at = now + engine.scale.campaign_span(engine.lease_seconds)
    after = completed(campaign, counts, messages, now, recount_at)
    if await engine.store.write_campaign(campaign, after):
        engine.changed.forget(campaign.id)
        engine.turns.due(campaign.id, recount_at)
        logger.bind(campaign_id=campaign.id, conversations=sum(counts.by_status.values())).info(
            "A campaign is over"
        )
    else:
        engine.turns.ready(campaign.id)


async def _put_off(engine: Engine, campaign: Campaign, reason: str, now: datetime) -> None:
    """
    Leave it as it is, look again later, and tell people once.

    The write comes first: if it loses its race, something was opened again, and nothing is wrong.
    """
    if campaign.discrepancy_at is None:
        written = await engine.store.write_campaign(campaign, put_off(campaign, now))
        if written is None:
            engine.turns.ready(campaign.id)
            return
        campaign = written
    engine.turns.due(campaign.id, now + engine.scale.campaign_span(AGAIN_SECONDS))
    alert = alert_of(campaign, reason)
    if alert and await engine.store.raise_alert(alert):
        log = logger.bind(campaign_id=campaign.id, alert=alert.kind.value, reason=reason)
        log.error("A campaign is not completed: its counts do not agree")
        engine.telemetry.alert(alert.kind.value)
