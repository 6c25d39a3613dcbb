"""The conversation: one recipient in one campaign. One document, one atom."""

from datetime import datetime
from enum import StrEnum

from attrs import field, frozen

from schemas.action import Action
from schemas.batch_request import Recipient
from schemas.evolving import same_fields
from schemas.ids import AgentId, CampaignId, ConversationId, SendKey, send_key
from schemas.problems import SCHEMA_VERSION
from schemas.template import MAX_SUBJECT, MAX_TEXT
from schemas.validators import length


class ConversationStatus(StrEnum):
    #: A message of the stage is to be sent, or on its way.
    PENDING = "pending"
    AWAITING_REPLY = "awaiting_reply"
    AWAITING_AGENT = "awaiting_agent"
    ESCALATED = "escalated"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


MAX_HISTORY = 50
MAX_APPLIED = 200

FINAL = frozenset(
    {ConversationStatus.COMPLETED, ConversationStatus.FAILED, ConversationStatus.CANCELLED}
)


class WaitingFor(StrEnum):
    START = "start"
    REPLY = "reply"
    AGENT = "agent"
    RESOLUTION = "resolution"
    RESUME = "resume"
    RETRY = "retry"
    RATE_LIMIT = "rate_limit"
    CIRCUIT = "circuit"
    #: The channel has all that it can take.
    CHANNEL = "channel"
    UNKNOWN = "unknown"


class ExitReason(StrEnum):
    FINAL_STAGE = "final_stage"
    REPLIED = "replied"
    NO_REPLY_EXHAUSTED = "no_reply_exhausted"
    GOAL_REACHED = "goal_reached"
    OPTED_OUT = "opted_out"
    BOUNCED = "bounced"
    SUPPRESSED = "suppressed"
    ESCALATION_EXPIRED = "escalation_expired"
    ESCALATION_RESOLVED = "escalation_resolved"
    MAX_DURATION = "max_duration"
    CANCELLED = "cancelled"
    FAILED_PERMANENT = "failed_permanent"
    FAILED_RETRIES = "failed_retries"
    TEMPLATE_ERROR = "template_error"
    RUNAWAY_GUARD = "runaway_guard"


class SlotState(StrEnum):
    RESERVED = "reserved"
    SENDING = "sending"
    #: Held: handed off with an outcome that nobody knows, and waiting for a human.
    UNKNOWN = "unknown"


@frozen(kw_only=True)
class Reply:
    id: AgentId
    at: datetime
    #: Cut to MAX_REPLY_TEXT characters; the update keeps the whole.
    text: str
    intent: str
    #: It has led somewhere: a late classification changes nothing any more.
    settled: bool = False


@frozen(kw_only=True)
class AgentText:
    """What the agent wrote, sent as it stands."""

    body: str = field(validator=length(1, MAX_TEXT))
    subject: str | None = field(default=None, validator=length(0, MAX_SUBJECT))
    html: str | None = field(default=None, validator=length(0, MAX_TEXT))


@frozen(kw_only=True)
class MessageRef:
    """A message of this conversation, without the conversation's id, so that patches stay alike."""

    stage: str
    n: int
    channel: str

    def key(self, conversation: ConversationId) -> SendKey:
        return send_key(conversation, self.stage, self.n)


@frozen(kw_only=True)
class Thread:
    """What a stage's own message was rendered with: its follow-ups repeat its subject."""

    decided_at: datetime
    reply: Reply | None = None


@frozen(kw_only=True, slots=False)
class Visit:
    """How far the present visit of the stage has come."""

    #: Messages of the template that were accepted (or passed over): 0 means the stage's own is next.
    messages: int = 0
    #: The agent wrote itself: the remaining follow-ups are dropped.
    follow_ups_dropped: bool = False
    thread: Thread | None = None

    __eq__ = same_fields
    __hash__ = None  # type: ignore[assignment]


@frozen(kw_only=True, slots=False)
class Slot:
    """The message that is being sent, with all that its rendering depends on and that could change."""

    stage: str
    #: Counts the conversation's messages; never used twice.
    n: int
    #: 0: the stage's message; k: its k-th follow-up; None: a text that the agent wrote.
    step: int | None
    channel: str
    #: The last reply when the message was decided.
    reply: Reply | None = None
    thread: Thread | None = None
    text: AgentText | None = None
    #: The `send` it came from, and the action for afterwards.
    by: AgentId | None = None
    then: Action | None = None
    #: The message before, whose thread this one continues.
    in_reply_to: MessageRef | None = None
    decided_at: datetime
    due_at: datetime
    send_before: datetime | None = None
    state: SlotState
    #: Counted by the mark `sending`.
    attempts: int = 0
    #: Of these, the ones that were the channel's fault and do not count against the policy.
    spared: int = 0
    #: When the outcome of the last attempt was known. None: there was none.
    tried_at: datetime | None = None
    #: Reserved, and waiting at the channel's gate for this. None: waiting for `until` alone.
    held: WaitingFor | None = None
    #: Sending: the lease's end. Reserved: the next attempt. Unknown: the hold's end.
    until: datetime
    #: Of the mark: who holds it may record the outcome.
    token: str | None = None
    #: False: the conversation moved on during the hand-off.
    wanted: bool = True
    #: A report says that it was delivered, whatever its outcome will be.
    reported: bool = False
    #: An earlier attempt ended unknown: given up, the message is `unknown`, never `failed`.
    uncertain: bool = False

    __eq__ = same_fields
    __hash__ = None  # type: ignore[assignment]

    def ref(self) -> MessageRef:
        return MessageRef(stage=self.stage, n=self.n, channel=self.channel)

    def key(self, conversation: ConversationId) -> SendKey:
        return send_key(conversation, self.stage, self.n)


@frozen(kw_only=True)
class Unsent:
    """What the agent wrote and could not be sent: `retry` sends it under a new key."""

    text: AgentText
    by: AgentId
    then: Action


@frozen(kw_only=True)
class Pause:
    """What a paused conversation returns to."""

    status: ConversationStatus
    #: Rest of its wait, in milliseconds. None: its end stands still by the calendar (`wait_until`).
    rest: int | None
    #: Resumes by itself. None: until `resume`, or the deadline.
    until: datetime | None = None


@frozen(kw_only=True)
class HistoryEntry:
    at: datetime
    reason: str
    stage: str
    #: The update that caused it, or `due`.
    by: AgentId


@frozen(kw_only=True, slots=False)
class Conversation:
    id: ConversationId
    campaign_id: CampaignId
    batch_request_id: AgentId
    recipient: Recipient
    #: Where in the request it came from: an index, or the `_id` of its `batch_recipients` document.
    position: object
    bucket: int
    #: `kind:address`, normalised; unique within the campaign.
    address_keys: tuple[str, ...]
    status: ConversationStatus
    waiting_for: tuple[WaitingFor, ...] = ()
    stage: str
    visit: Visit = Visit()
    follow_ups_sent: int = 0
    exit_reason: ExitReason | None = None
    #: When there is work; None once closed and settled. Derived from slot, pause and `wait_until`.
    due_at: datetime | None
    #: When the conversation's own wait ends, whatever the slot does.
    wait_until: datetime | None
    deadline_at: datetime
    #: The campaign's pauses that `wait_until` already counts in, in milliseconds.
    pause_seen: int = 0
    pause: Pause | None = None
    reply: Reply | None = None
    slot: Slot | None = None
    #: Set when the conversation failed on a text that the agent wrote.
    unsent: Unsent | None = None
    #: How many send keys were reserved: the next n.
    message_count: int = 0
    #: The last message that a channel accepted.
    last_message: MessageRef | None = None
    #: Ids of the last MAX_APPLIED updates that took effect: one that comes again changes nothing.
    applied: tuple[AgentId, ...] = ()
    #: The last MAX_HISTORY entries.
    history: tuple[HistoryEntry, ...] = ()
    created_at: datetime
    status_since: datetime
    schema_version: int = SCHEMA_VERSION
    version: int = 0
    #: Failed attempts to process it in a row, and what the last one said.
    failures: int = 0
    last_error: str | None = None

    @property
    def is_open(self) -> bool:
        return self.status not in FINAL
