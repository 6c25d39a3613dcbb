"""What all workers together know of a channel: its circuit, its rate, what the provider asked for."""

from datetime import datetime
from enum import StrEnum

from attrs import frozen

from schemas.ids import CampaignId


class CircuitState(StrEnum):
    #: Messages go.
    CLOSED = "closed"
    #: None goes until `until`; then somebody probes.
    OPEN = "open"
    #: A few go as probes, and have until `until`.
    HALF_OPEN = "half_open"


@frozen(kw_only=True)
class Circuit:
    state: CircuitState = CircuitState.CLOSED
    #: When it last changed between closed and not closed. None: it has always been closed.
    since: datetime | None = None
    until: datetime | None = None
    #: Why it is not closed; for people.
    reason: str | None = None
    #: How often it has opened in a row without a probe that succeeded.
    openings: int = 0


@frozen(kw_only=True)
class ChannelState:
    """The document of a channel in `channels`; `id` is its name."""

    id: str
    circuit: Circuit = Circuit()
    #: When it last took a message, or refused one for what it was. To about a second.
    succeeded_at: datetime | None = None
    #: The provider asked for silence until then.
    not_before: datetime | None = None
    #: When the bucket of tokens will be full again: the theoretical arrival time of GCRA.
    tokens_from: datetime | None = None
    version: int = 0


class AlertKind(StrEnum):
    CIRCUIT_OPENED = "circuit_opened"
    CAMPAIGN_DISCREPANCY = "campaign_discrepancy"


@frozen(kw_only=True)
class Alert:
    """Something that a person should know. Entered once, in `alerts`."""

    id: str
    kind: AlertKind
    channel: str | None = None
    campaign_id: CampaignId | None = None
    reason: str
    at: datetime
    #: When it was over.
    resolved_at: datetime | None = None
