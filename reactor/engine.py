"""What every step of the walk works with: the store, the channels, the clock, the turns."""

import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta

from attrs import Factory, frozen

from handlers.scene import Lease, Scene
from reactor.clock import ServerClock, TimeScale
from reactor.counting import Changed
from reactor.newer import Newer
from reactor.sharing import Share
from reactor.slots import Slots
from reactor.store.protocol import Store
from reactor.telemetry import Telemetry
from reactor.turns import Turns
from reactor.watch import Watch
from schemas.campaign import Campaign
from schemas.channel import ChannelState
from schemas.hand_off import ChannelSpec, Gate


@frozen(kw_only=True)
class Engine:
    store: Store
    scale: TimeScale
    clock: ServerClock
    watches: Mapping[str, Watch]
    #: Rates are by campaign time.
    specs: Mapping[str, ChannelSpec]
    turns: Turns
    slots: Slots
    share: Share
    changed: Changed
    telemetry: Telemetry
    batch_size: int
    lease_seconds: float
    channel_timeout_seconds: float
    max_messages_per_recipient_per_day: int
    #: Campaign time after its end for which what is personal of a campaign stays. None: for ever.
    retention: timedelta | None = None
    newer: Newer = Factory(Newer)

    def scene(
        self,
        campaign: Campaign,
        now: datetime,
        states: Mapping[str, ChannelState],
        gates: Mapping[str, Gate],
    ) -> Scene:
        """Set the scene for one batch; `now` is the server's time, read with it."""
        until = now + self.scale.campaign_span(self.lease_seconds)
        return Scene(
            now=now,
            campaign=campaign,
            channels=self.specs,
            lease=Lease(token=secrets.token_hex(8), until=until),
            states=states,
            gates=gates,
        )
