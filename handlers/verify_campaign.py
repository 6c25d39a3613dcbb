"""Does a campaign keep the invariants, as far as it is more than each of its conversations?"""

from collections.abc import Iterator
from datetime import datetime

from attrs import asdict, frozen

from handlers.campaign import settled
from schemas.campaign import Campaign, CampaignStatus, Counts, MessageCounts
from schemas.evolving import evolve
from schemas.finding import Finding, Invariant, Remedy

S = CampaignStatus


@frozen(kw_only=True)
class Tally:
    """What was counted of a campaign; it had not changed afterwards."""

    conversations: int
    rejected: int
    #: Some conversation of it has a due time.
    unsettled: bool
    counts: Counts
    messages: MessageCounts


def judge_campaign(campaign: Campaign, tally: Tally, now: datetime) -> tuple[Finding, ...]:
    """Say what does not hold of a campaign."""
    return (
        *_recipients(campaign, tally),
        *_counts(campaign, tally),
        *_due(campaign, tally, now),
    )


def true_counts(campaign: Campaign, tally: Tally) -> Counts:
    """Give what the campaign's counts ought to be; of one that failed, not all was opened."""
    failed = campaign.status is S.FAILED
    rejected = campaign.counts.rejected if failed else tally.rejected
    return evolve(tally.counts, recipients=campaign.recipient_count, rejected=rejected)


def _finding(
    campaign: Campaign, invariant: Invariant, what: str, expected: object, found: object
) -> Finding:
    return Finding(
        invariant=invariant,
        campaign_id=campaign.id,
        what=what,
        expected=str(expected),
        found=str(found),
    )


def _recipients(campaign: Campaign, tally: Tally) -> Iterator[Finding]:
    if not campaign.opened:
        return
    together = tally.rejected + tally.conversations
    # Of one that failed not all may have been opened.
    missing = together < campaign.recipient_count and campaign.status is not S.FAILED
    if missing or together > campaign.recipient_count:
        found = f"{tally.rejected} rejected and {tally.conversations} conversations"
        expected = f"{campaign.recipient_count} in all"
        yield _finding(campaign, Invariant.ACCOUNTING, "recipients", expected, found)


def _counts(campaign: Campaign, tally: Tally) -> Iterator[Finding]:
    for what, right, stored in (
        ("counts", true_counts(campaign, tally), campaign.counts),
        ("messages", tally.messages, campaign.messages),
    ):
        for name, expected in asdict(right, recurse=False).items():
            found = getattr(stored, name)
            if expected != found and _is_settled(campaign, name):
                off = _finding(campaign, Invariant.ACCOUNTING, f"{what}.{name}", expected, found)
                yield evolve(off, remedy=Remedy.COUNTS)


def _is_settled(campaign: Campaign, name: str) -> bool:
    """
    Say whether a count must be true by now: while the campaign runs, most of them lag.

    At its end a recount may still be ahead; afterwards nobody writes without another one.
    """
    if name in {"recipients", "rejected"}:
        return campaign.opened
    return campaign.completed_at is not None and campaign.recount_at is None


def _due(campaign: Campaign, tally: Tally, now: datetime) -> Iterator[Finding]:
    if campaign.completed_at:
        return
    # What was ahead when it was written is ahead still, or past: never is it later than this.
    latest, due_at = settled(campaign, now).due_at, campaign.due_at
    if latest and (due_at is None or due_at > latest):
        expected = f"at most {latest.isoformat(timespec='milliseconds')}"
        found = due_at.isoformat(timespec="milliseconds") if due_at else "none"
        what = "due time of the campaign"
        late = _finding(campaign, Invariant.LIVENESS, what, expected, found)
        yield evolve(late, remedy=Remedy.CAMPAIGN_DUE_TIME)
    waits = campaign.status is S.SCHEDULED or not campaign.opened or campaign.open_until
    if not waits and not tally.unsettled:
        what, expected = f"campaign that is {campaign.status}", "completed, or something due"
        yield _finding(campaign, Invariant.LIVENESS, what, expected, "nothing is due")
