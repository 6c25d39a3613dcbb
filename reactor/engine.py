"""What every step of the walk works with: the store, the channels, the clock, the turns."""

import secrets
from collections.abc import Mapping
from datetime import datetime

from attrs import frozen

from handlers.scene import Lease, Scene
from reactor.channels.protocol import Channel
from reactor.clock import ServerClock, TimeScale
from reactor.counting import Changed
from reactor.store.protocol import Store
from reactor.telemetry import Telemetry
from reactor.turns import Turns
from schemas.campaign import Campaign
from schemas.hand_off import ChannelSpec


@frozen(kw_only=True)
class Engine:
    store: Store
    scale: TimeScale
    clock: ServerClock
    channels: Mapping[str, Channel]
    specs: Mapping[str, ChannelSpec]
    turns: Turns
    changed: Changed
    telemetry: Telemetry
    batch_size: int
    lease_seconds: float
    channel_timeout_seconds: float

    def scene(self, campaign: Campaign, now: datetime) -> Scene:
        """Set the scene for one batch; `now` is the server's time, read with it."""
        until = now + self.scale.campaign_span(self.lease_seconds)
        lease = Lease(token=secrets.token_hex(8), until=until)
        return Scene(now=now, campaign=campaign, channels=self.specs, lease=lease)
