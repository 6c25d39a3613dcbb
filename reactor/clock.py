"""
Campaign time: the server's clock, scaled for demos and benchmarks, scale 1 in production.

`campaign = epoch + scale * (server - epoch)`, cut to whole milliseconds. Handlers, due times and
leases know only campaign time; since it is a linear function of the server's clock, a lease of 30 s
lasts 30 s by the server whatever the scale.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import monotonic

from attrs import define, field, frozen

from schemas.evolving import evolve
from schemas.hand_off import ChannelSpec


@frozen(kw_only=True)
class TimeScale:
    """How campaign time runs."""

    scale: float = 1.0
    epoch: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def campaign_time(self, server: datetime) -> datetime:
        moment = server if self.scale == 1 else self.epoch + (server - self.epoch) * self.scale
        return moment.replace(microsecond=moment.microsecond // 1000 * 1000)

    def campaign_span(self, seconds: float) -> timedelta:
        """Give how much campaign time passes in so many real seconds, in whole milliseconds."""
        return timedelta(milliseconds=round(seconds * self.scale * 1_000))

    def real_seconds(self, span: timedelta) -> float:
        return span.total_seconds() / self.scale


def in_campaign_time(spec: ChannelSpec, scale: TimeScale) -> ChannelSpec:
    """Give a channel whose rate is by campaign time."""
    return evolve(spec, rate=spec.rate / scale.scale if spec.rate else None)


@define
class ServerClock:
    """An estimate of campaign time between reads, to sleep and to measure by, never to decide by."""

    scale: TimeScale
    monotonic: Callable[[], float] = monotonic
    _read: tuple[datetime, float] | None = field(default=None, init=False)

    def note(self, campaign_time: datetime) -> None:
        """Take note of a time that the server has just given."""
        self._read = campaign_time, self.monotonic()

    def now(self) -> datetime | None:
        """Estimate the present campaign time; None before the first read."""
        if self._read is None:
            return None
        campaign_time, read_at = self._read
        return campaign_time + self.scale.campaign_span(self.monotonic() - read_at)

    def seconds_until(self, due: datetime) -> float:
        """Give the real seconds from now to a campaign time, 0 where it is past or unknown."""
        now = self.now()
        return max(0.0, self.scale.real_seconds(due - now)) if now else 0.0
