"""What a channel is given, and what came of it."""

from datetime import datetime, timedelta
from enum import StrEnum

from attrs import frozen

from schemas.conversation import WaitingFor
from schemas.ids import AgentId, CampaignId, ConversationId, SendKey


class OnUnknown(StrEnum):
    """A channel's policy for a hand-off with an outcome that nobody knows."""

    RESEND = "resend"
    ASSUME_SENT = "assume_sent"
    HOLD = "hold"


@frozen(kw_only=True)
class ChannelSpec:
    """What decisions need to know of a configured channel."""

    name: str
    #: Which of a recipient's addresses it sends to.
    address_kind: str
    on_unknown: OnUnknown = OnUnknown.RESEND
    #: Messages a second of campaign time that all workers together may hand off. None: no limit.
    rate: float | None = None
    #: How many of them at once, after a pause.
    burst: int = 1


@frozen(kw_only=True)
class HandOff:
    """One message, rendered. The same send key always carries the same bytes."""

    key: SendKey
    campaign_id: CampaignId
    conversation_id: ConversationId
    recipient_id: str
    channel: str
    #: The address as it is written to, normalised.
    to: str
    subject: str | None
    body: str
    html: str | None
    from_: str | None
    reply_to: str | None
    locale: str | None
    #: Send key of the message before.
    in_reply_to: SendKey | None
    send_before: datetime | None
    #: When the message was decided.
    at: datetime
    #: The `send` it came from. Not handed off.
    by: AgentId | None = None


@frozen(kw_only=True)
class Gate:
    """A channel that takes nothing now: until when, as far as is known, and why."""

    until: datetime
    why: WaitingFor


class OutcomeKind(StrEnum):
    SENT = "sent"
    #: Not accepted, may be later.
    RETRY = "retry"
    #: Not accepted, because there were too many (429): no attempt, whatever `retry_after` says.
    RATE_LIMITED = "rate_limited"
    #: Not accepted, never will be for this recipient.
    REFUSED = "refused"
    #: Not accepted, nor will be anything else until somebody mends the channel: its credentials, say.
    CHANNEL_FAILED = "channel_failed"
    #: Handed off, and nobody knows what came of it.
    UNKNOWN = "unknown"
    # The last look found a reason not to hand it off:
    #: an update that waits, a pause, a close; it may be reserved again.
    WITHDRAWN = "withdrawn"
    SUPPRESSED = "suppressed"
    TOO_LATE = "too_late"
    #: The address has got as many messages today as any may get.
    RUNAWAY_GUARD = "runaway_guard"
    #: The channel's gate is closed; nothing is wrong with the message.
    HELD_BACK = "held_back"
    #: The text cannot be rendered.
    TEMPLATE_ERROR = "template_error"
    #: An earlier, uncertain attempt turned out to have been accepted.
    WAS_SENT = "was_sent"


@frozen(kw_only=True)
class Outcome:
    kind: OutcomeKind
    #: For people; never content, a name or an address.
    error: str | None = None
    #: The channel asked for at least this much time.
    retry_after: timedelta | None = None
    provider_id: str | None = None
    #: Of what is held back: what it waits for, and when to look again at the latest.
    gate: Gate | None = None
