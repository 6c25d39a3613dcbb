"""What a decision depends on beside the conversation itself."""

from collections.abc import Mapping
from datetime import datetime

from attrs import Factory, frozen

from schemas.campaign import Campaign
from schemas.channel import ChannelState
from schemas.hand_off import ChannelSpec, Gate
from schemas.template import Template


@frozen(kw_only=True)
class Lease:
    """What a worker writes into the slots that it marks `sending`."""

    token: str
    until: datetime


@frozen(kw_only=True)
class Scene:
    #: The server's time, read with the batch, as campaign time, whole milliseconds.
    now: datetime
    campaign: Campaign
    #: The channels of this deployment, by name.
    channels: Mapping[str, ChannelSpec]
    lease: Lease
    #: What all workers know of them, by name; of those that nothing is known of, nothing.
    states: Mapping[str, ChannelState] = Factory(dict)
    #: Channels that take nothing now, or no more in this batch.
    gates: Mapping[str, Gate] = Factory(dict)

    @property
    def template(self) -> Template:
        return self.campaign.template
