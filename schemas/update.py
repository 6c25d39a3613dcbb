"""What is inserted about a conversation or a campaign after its request: replies, reports, orders."""

from datetime import datetime
from enum import StrEnum

from attrs import field, frozen

from schemas.action import COMPLETE, ON_REPLY, ON_RESOLUTION, STAY, Action
from schemas.conversation import AgentText
from schemas.ids import AgentId, ConversationId
from schemas.validators import actions, length


class UpdateKind(StrEnum):
    REPLY = "reply"
    SEND = "send"
    DELIVERED = "delivered"
    BOUNCED = "bounced"
    OPTED_OUT = "opted_out"
    ESCALATE = "escalate"
    ESCALATION_RESOLVED = "escalation_resolved"
    GOAL_REACHED = "goal_reached"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    RETRY = "retry"
    UNKNOWN_RESOLVED = "unknown_resolved"


class CampaignUpdateKind(StrEnum):
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    RETRY = "retry"


class Bounce(StrEnum):
    HARD = "hard"
    SOFT = "soft"


class OptOutScope(StrEnum):
    #: The address last written to.
    ADDRESS = "address"
    RECIPIENT = "recipient"


class Resolve(StrEnum):
    """What a human decides about a held message, whose outcome nobody knows."""

    RESEND = "resend"
    ASSUME_SENT = "assume_sent"


class UpdateStatus(StrEnum):
    APPLIED = "applied"
    IGNORED = "ignored"
    REJECTED = "rejected"
    PARKED = "parked"


@frozen(kw_only=True)
class ConversationUpdate:
    """
    One update; fields of other kinds are a problem, but the model keeps them all in one class.

    `conversation_id` is filled in from `batch_request_id` and `recipient_id` when those are given.
    """

    id: AgentId
    conversation_id: ConversationId
    kind: UpdateKind
    text: str = ""
    intent: str | None = field(default=None, validator=length(1, 500))
    reply_id: AgentId | None = None
    message_id: str | None = field(default=None, validator=length(1, 1_000))
    message: AgentText | None = None
    in_reply_to: AgentId | None = None
    then: Action = field(default=STAY, validator=actions(ON_REPLY))
    bounce: Bounce = Bounce.HARD
    scope: OptOutScope = OptOutScope.ADDRESS
    resolution: Action = field(default=COMPLETE, validator=actions(ON_RESOLUTION))
    until: datetime | None = None
    outcome: Resolve | None = None
    #: When it happened; filled in when the worker first loads it.
    at: datetime
    traceparent: str | None = field(default=None, validator=length(0, 200))
    tracestate: str | None = field(default=None, validator=length(0, 4_096))


@frozen(kw_only=True)
class CampaignUpdate:
    id: AgentId
    #: Filled in from `batch_request_id` when that is given.
    campaign_id: str
    kind: CampaignUpdateKind
    until: datetime | None = None
    at: datetime
    traceparent: str | None = field(default=None, validator=length(0, 200))
    tracestate: str | None = field(default=None, validator=length(0, 4_096))
