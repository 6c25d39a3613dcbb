"""What a handler returns: the document as it is to become, what must be written beside it, and why."""

from datetime import datetime
from enum import StrEnum

from attrs import frozen

from schemas.campaign import Campaign
from schemas.conversation import Conversation, Slot
from schemas.ids import AgentId, SendKey
from schemas.message import MessageStatus, Suppression
from schemas.update import UpdateStatus


class Reason(StrEnum):
    """Why a conversation changed, or did not. A closed list; `history` and the docs use it."""

    OPENED = "opened"
    # A message and its outcome.
    MESSAGE_SENT = "message_sent"
    FOLLOW_UP_SENT = "follow_up_sent"
    AGENT_MESSAGE_SENT = "agent_message_sent"
    FOLLOW_UP_PASSED_OVER = "follow_up_passed_over"
    MESSAGE_TOO_LATE = "message_too_late"
    MESSAGE_RETRIED = "message_retried"
    MESSAGE_WITHDRAWN = "message_withdrawn"
    MESSAGE_HELD = "message_held"
    #: The channel takes nothing now; it leaves when the channel does.
    MESSAGE_HELD_BACK = "message_held_back"
    #: A message in doubt is sent again, because a human said so.
    MESSAGE_RESENT = "message_resent"
    MESSAGE_GIVEN_UP = "message_given_up"
    #: Marked `sending` under the worker's lease.
    MESSAGE_MARKED = "message_marked"
    # Where the conversation goes.
    STAGE_ADVANCED = "stage_advanced"
    WENT_TO_STAGE = "went_to_stage"
    REPLY_HELD = "reply_held"
    REPLY_STAYED = "reply_stayed"
    #: Recorded while a human has the conversation.
    REPLY_NOTED = "reply_noted"
    SEND_RESERVED = "send_reserved"
    ESCALATED = "escalated"
    ESCALATION_STAYED = "escalation_stayed"
    PAUSED = "paused"
    RESUMED = "resumed"
    RETRIED = "retried"
    # Closed; the exit reason says why.
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    # Nothing changed.
    SUPERSEDED = "superseded"
    #: The conversation is closed.
    FINAL = "final"
    #: This very update was applied before.
    REPEATED = "repeated"
    NOT_ESCALATED = "not_escalated"
    NOT_PAUSED = "not_paused"
    NOT_FAILED = "not_failed"
    DEADLINE_OVER = "deadline_over"
    SOFT_BOUNCE = "soft_bounce"
    REPLY_SETTLED = "reply_settled"
    SUPPRESSED = "suppressed"
    RUNAWAY_GUARD = "runaway_guard"
    NO_SUCH_STAGE = "no_such_stage"
    NO_ADDRESS = "no_address"
    NO_SUCH_MESSAGE = "no_such_message"
    NO_SUCH_REPLY = "no_such_reply"
    NOT_IN_DOUBT = "not_in_doubt"
    REPORTED = "reported"
    #: The campaign is over for so long that its conversations leave, or have left.
    REMOVED = "removed"
    #: Waits for the end of a hand-off.
    WAITS = "waits"
    NOT_DUE = "not_due"


@frozen(kw_only=True)
class Answer:
    """What is written on an update."""

    status: UpdateStatus
    reason: str
    #: Send key of a `send`.
    message_id: SendKey | None = None


@frozen(kw_only=True)
class Suppress:
    """Add to the suppression list, before the update is answered."""

    suppression: Suppression


@frozen(kw_only=True)
class Record:
    """Enter a message into the ledger, before its slot is cleared. `slot` says how it is rendered."""

    slot: Slot
    status: MessageStatus
    at: datetime
    reason: str | None = None
    error: str | None = None
    provider_id: str | None = None


@frozen(kw_only=True)
class Report:
    """Merge a delivery report into the ledger; a stub where the entry has not come yet."""

    key: SendKey
    status: MessageStatus
    at: datetime


type Effect = Suppress | Record | Report


@frozen(kw_only=True, slots=False)
class Transition:
    """A conversation's next state. `conversation` is the one given, unchanged, where nothing changes."""

    conversation: Conversation
    reason: Reason
    #: In the order in which they are to be written.
    effects: tuple[Effect, ...] = ()
    #: Answer to the update that was handled. None: it stays unanswered for now, or none was handled.
    answer: Answer | None = None


@frozen(kw_only=True)
class CampaignTransition:
    campaign: Campaign
    #: By update id.
    answers: tuple[tuple[AgentId, Answer], ...] = ()
