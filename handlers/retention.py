"""When what belongs to a campaign leaves: long after its end, when nothing of it can change any more."""

from datetime import datetime, timedelta

from schemas.campaign import Campaign
from schemas.evolving import evolve


def may_go(campaign: Campaign, now: datetime, keep: timedelta) -> bool:
    """
    Say whether its conversations may leave.

    Not while it is to be counted once more: until then somebody who does not know may write.
    """
    over = campaign.completed_at
    return over is not None and over + keep <= now and campaign.recount_at is None


def going(campaign: Campaign, now: datetime) -> Campaign:
    """Mark it before the first of them leaves: from here on nobody counts or opens it again."""
    return evolve(campaign, removing_since=now)


def gone(campaign: Campaign, now: datetime) -> Campaign:
    """Note that the last of them has left."""
    return evolve(campaign, removed_at=now)
