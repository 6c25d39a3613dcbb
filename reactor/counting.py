"""
Counts for the agent: recounted where something changed, seldom, and by one worker.

Never a counter that every batch adds to: that is a hot document. A recount is a covered index scan,
and the longer it takes, the longer it is until the next.
"""

from collections.abc import Callable
from time import monotonic

from attrs import define, evolve, field

from handlers.campaign import counted
from reactor.clock import TimeScale
from reactor.store.protocol import Store
from schemas.campaign import Campaign
from schemas.ids import CampaignId

#: With the time that a recount takes, counts stay fresh within 5 s, up to so many conversations.
INTERVAL_SECONDS = 2.0
SMALL = 100_000
#: Above, a recount takes at most this share of the time.
SHARE = 1 / 20
#: For the error of an estimated time.
MARGIN_SECONDS = 0.1
#: A recount that began this long ago and was not finished died with its worker.
ABANDONED_SECONDS = 60.0


@define
class _State:
    #: Monotonic seconds of the last write that no recount holds. None: there is none.
    changed_at: float | None
    #: Not counted again before.
    not_before: float


@define
class Changed:
    """Campaigns that this worker writes to, and when each was last counted."""

    monotonic: Callable[[], float] = monotonic
    _states: dict[CampaignId, _State] = field(factory=dict, init=False)

    def note(self, campaign_id: CampaignId) -> None:
        """Take note of a write, once it has been acknowledged."""
        now = self.monotonic()
        state = self._states.setdefault(campaign_id, _State(now, now + INTERVAL_SECONDS))
        state.changed_at = now

    def forget(self, campaign_id: CampaignId) -> None:
        """A completed campaign was counted for the last time."""
        self._states.pop(campaign_id, None)

    def due(self, *, everything: bool = False) -> list[tuple[CampaignId, float]]:
        """Give those to be recounted now, each with the monotonic seconds of its last change."""
        now = self.monotonic()
        return [
            (campaign_id, state.changed_at)
            for campaign_id, state in self._states.items()
            if state.changed_at is not None and (everything or state.not_before <= now)
        ]

    def counted(self, campaign_id: CampaignId, began: float, conversations: int) -> None:
        """Take note of a recount of so many, that began at these monotonic seconds and is over now."""
        state = self._states.get(campaign_id)
        if state is None:
            return
        now = self.monotonic()
        rest = INTERVAL_SECONDS
        if conversations > SMALL:
            rest = max(rest, (now - began) / SHARE)
        state.not_before = now + rest
        if state.changed_at is not None and state.changed_at <= began:
            state.changed_at = None


async def recount(
    store: Store, changed: Changed, scale: TimeScale, campaign_id: CampaignId, changed_at: float
) -> None:
    """
    Recount a campaign, unless another worker's recount holds our last change.

    One that loses a race, to another recount or to the campaign's own turn, is tried again later.
    """
    began = changed.monotonic()
    now, campaign = await store.campaign(campaign_id)
    if not isinstance(campaign, Campaign):
        changed.forget(campaign_id)
        return
    last_change = now - scale.campaign_span(began - changed_at - MARGIN_SECONDS)
    if campaign.counting_at and campaign.counting_at > last_change:
        finished = campaign.counted_at is not None and campaign.counted_at >= campaign.counting_at
        if finished:
            changed.counted(campaign_id, began, campaign.recipient_count)
        if finished or now - campaign.counting_at < scale.campaign_span(ABANDONED_SECONDS):
            return
    claimed = await store.write_campaign(campaign, evolve(campaign, counting_at=now))
    if claimed is None:
        return
    counts, messages = await store.count(campaign_id)
    if await store.write_campaign(claimed, counted(claimed, counts, messages, now)):
        changed.counted(campaign_id, began, campaign.recipient_count)
