"""What this worker sees of one channel: what it has in hand, how fast it is, whom it failed."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from datetime import datetime

import anyio
from attrs import define, field

from handlers.circuit import FAILS, WINDOW, WORKS, Evidence
from reactor.channels.protocol import Channel
from schemas.hand_off import Outcome, OutcomeKind
from schemas.ids import CampaignId

#: Recipients of the last WINDOW that are remembered: the share of so many is exact enough.
MAX_RECENT = 1_000
#: How much the last message counts in the mean time of one.
WEIGHT = 0.1


@define(kw_only=True)
class Watch:
    channel: Channel
    #: Messages that it has in hand at most, however fast it is: bounds memory.
    most: int
    lease_seconds: float
    #: As many at once as the channel takes, whichever batch they are of.
    limiter: anyio.Semaphore = field(init=False)
    in_hand: int = field(default=0, init=False)
    #: Campaigns with messages parked at its gate, as far as this worker knows; next turn first.
    queued: dict[CampaignId, None] = field(factory=dict, init=False)
    _seconds: float = field(default=0.0, init=False)
    _recent: OrderedDict[str, tuple[datetime, bool]] = field(factory=OrderedDict, init=False)

    def __attrs_post_init__(self) -> None:
        # Fast: to come back to each message of a quick channel through the event loop costs more
        # than the message.
        self.limiter = anyio.Semaphore(self.channel.concurrency, fast_acquire=True)

    @property
    def room(self) -> int:
        """Give how many more messages it can take, at its pace, within half of a lease."""
        able = self.most
        if self._seconds:
            at_its_pace = self.lease_seconds / 2 / self._seconds * self.channel.concurrency
            able = min(able, max(self.channel.concurrency, int(at_its_pace)))
        return max(0, able - self.in_hand)

    def took(self, seconds: float) -> None:
        """Take note of how long a message took."""
        self._seconds += WEIGHT * (seconds - self._seconds) if self._seconds else seconds

    def next_queued(self) -> CampaignId | None:
        """Give the campaign whose turn it is, and put it behind the others."""
        if not self.queued:
            return None
        campaign_id = next(iter(self.queued))
        self.queued[campaign_id] = self.queued.pop(campaign_id)
        return campaign_id

    def evidence(self, outcomes: Iterable[tuple[str, Outcome]], now: datetime) -> Evidence:
        """Add the outcomes of a batch, by recipient, to what is remembered; give all of it."""
        batch = list(outcomes)
        for recipient, outcome in batch:
            if outcome.kind in WORKS | FAILS:
                self._recent[recipient] = now, outcome.kind in FAILS
                self._recent.move_to_end(recipient)
        self._forget(now)
        kinds = {outcome.kind for _, outcome in batch}
        broken = [one.error for _, one in batch if one.kind is OutcomeKind.CHANNEL_FAILED]
        silences = [
            one.retry_after
            for _, one in batch
            if one.kind is OutcomeKind.RATE_LIMITED and one.retry_after
        ]
        return Evidence(
            recipients=len(self._recent),
            failed=sum(failed for _, failed in self._recent.values()),
            works=not kinds.isdisjoint(WORKS),
            fails=not kinds.isdisjoint(FAILS),
            broken=(broken[0] or "it is broken") if broken else None,
            silence=max(silences, default=None),
        )

    def begin_anew(self) -> None:
        """Forget the evidence: it has led to an open circuit, or is from before it closed."""
        self._recent.clear()

    def _forget(self, now: datetime) -> None:
        while self._recent:
            _, (at, _) = next(iter(self._recent.items()))
            if now - at <= WINDOW and len(self._recent) <= MAX_RECENT:
                return
            self._recent.popitem(last=False)


def watch_over(
    channels: Mapping[str, Channel], *, most: int, lease_seconds: float
) -> Mapping[str, Watch]:
    return {
        name: Watch(channel=channel, most=most, lease_seconds=lease_seconds)
        for name, channel in channels.items()
    }
