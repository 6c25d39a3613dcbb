"""Which campaigns are to be counted again, and when: where something changed, and seldom."""

from collections.abc import Callable
from time import monotonic

from attrs import define, field

from schemas.ids import CampaignId

#: With the time that a recount takes, counts stay fresh within 5 s, up to so many conversations.
INTERVAL_SECONDS = 3.0
SMALL = 100_000
#: Above, a recount takes at most this share of the time.
SHARE = 1 / 20


@define
class _State:
    #: Monotonic seconds of the last write that no recount holds. None: there is none.
    changed_at: float | None
    #: Not counted again before.
    not_before: float
    #: Seconds from one recount to the next, whoever makes them.
    interval: float = INTERVAL_SECONDS


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

    def is_soon(self, campaign_id: CampaignId, seconds: float) -> bool:
        """
        Say whether so many seconds after any worker's recount it is too soon for another.

        Then it is not due here before its time: all that work on a campaign count it as often as one.
        """
        state = self._states.get(campaign_id)
        if state is None or seconds >= state.interval:
            return False
        state.not_before = self.monotonic() + state.interval - seconds
        return True

    def counted(self, campaign_id: CampaignId, began: float, conversations: int) -> None:
        """Take note of a recount of so many, that began at these monotonic seconds and is over now."""
        state = self._states.get(campaign_id)
        if state is None:
            return
        now = self.monotonic()
        if conversations > SMALL:
            state.interval = max(INTERVAL_SECONDS, (now - began) / SHARE)
        state.not_before = now + state.interval
        if state.changed_at is not None and state.changed_at <= began:
            state.changed_at = None
