"""Is a campaign complete? Its end is not taken from what is due alone: the counts must agree."""

from datetime import datetime

from handlers.campaign import settled
from schemas.campaign import Campaign, CampaignStatus, Counts
from schemas.channel import Alert, AlertKind
from schemas.evolving import evolve


def discrepancy(campaign: Campaign, counts: Counts) -> str | None:
    """
    Say why a campaign of which nothing is due is not complete. None: it is.

    Of one that failed not all may have been opened: that its request was gone is no discrepancy.
    """
    conversations = sum(counts.by_status.values())
    rejected = campaign.counts.rejected
    if counts.open:
        return f"{counts.open} conversations are open, and none of them is due"
    if campaign.status is CampaignStatus.FAILED:
        return None
    if rejected + conversations != campaign.recipient_count:
        together = f"{rejected} rejected and {conversations} conversations"
        return f"{campaign.recipient_count} recipients, but {together}"
    return None


def put_off(campaign: Campaign, now: datetime) -> Campaign:
    """Note that it was not completed, and since when."""
    return settled(evolve(campaign, discrepancy_at=campaign.discrepancy_at or now), now)


def alert_of(campaign: Campaign, reason: str, resolved_at: datetime | None = None) -> Alert | None:
    """Give the alert of its discrepancy, the same for as long as it lasts; None: it has none."""
    at, kind = campaign.discrepancy_at, AlertKind.CAMPAIGN_DISCREPANCY
    if at is None:
        return None
    return Alert(
        id=f"{kind}/{campaign.id}/{at.isoformat(timespec='milliseconds')}",
        kind=kind,
        campaign_id=campaign.id,
        reason=reason,
        at=at,
        resolved_at=resolved_at,
    )
