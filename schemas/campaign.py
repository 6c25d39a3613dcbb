"""The campaign: a batch request that was accepted."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum

from attrs import Factory, frozen

from schemas.ids import AgentId, CampaignId, ConversationId
from schemas.problems import SCHEMA_VERSION
from schemas.template import Template


class CampaignStatus(StrEnum):
    #: Waits for its time.
    SCHEDULED = "scheduled"
    #: Started; its conversations are being opened.
    PENDING = "pending"
    ACTIVE = "active"
    PAUSED = "paused"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"


class CompletionReason(StrEnum):
    CANCELLED = "cancelled"
    TOO_LATE = "too_late"
    MAX_DURATION = "max_duration"
    FOLLOW_UPS_EXHAUSTED = "follow_ups_exhausted"
    ALL_FINAL = "all_final"


@frozen(kw_only=True)
class Counts:
    """Conversations of a campaign, as last counted."""

    recipients: int = 0
    rejected: int = 0
    open: int = 0
    by_status: Mapping[str, int] = Factory(dict)
    by_stage: Mapping[str, int] = Factory(dict)
    by_exit_reason: Mapping[str, int] = Factory(dict)


@frozen(kw_only=True)
class MessageCounts:
    """Messages of a campaign by outcome; `delivered` and `bounced` ones were sent."""

    sent: int = 0
    failed: int = 0
    unknown: int = 0
    cancelled: int = 0


@frozen(kw_only=True, slots=False)
class Campaign:
    id: CampaignId
    batch_request_id: AgentId
    name: str
    type: str
    status: CampaignStatus
    metadata: Mapping[str, object] = Factory(dict)
    #: Pinned: what the campaign started with.
    template: Template
    #: `recipients` (inline) or `batch_recipients`.
    recipients_from: str
    #: How many the request has, rejected ones included.
    recipient_count: int
    scheduled_at: datetime | None = None
    start_within: timedelta
    ends_at: datetime | None = None
    created_at: datetime
    #: A scheduled campaign starts, by its own reckoning, at `scheduled_at`.
    started_at: datetime
    #: `started_at + max_duration`, or `ends_at` if that is earlier.
    deadline_at: datetime
    completed_at: datetime | None = None
    completion_reason: CompletionReason | None = None
    #: When the campaign itself has work: its start, a chunk to open, `until`, its deadline.
    due_at: datetime | None
    #: Every recipient has a conversation or was rejected.
    opened: bool = False
    #: Where opening stands: the index of the next inline recipient, or the last `_id` read.
    opened_through: object = None
    #: Conversations of the chunk behind that which are not opened, for they are suppressed: decided
    #: once, for whoever opens it. None: not decided yet.
    barred: tuple[ConversationId, ...] | None = None
    #: It was ended, and since then all of its conversations were closed.
    all_closed: bool = False
    #: While paused: the status to return to, since when, and until when (None: until `resume`).
    paused_from: CampaignStatus | None = None
    paused_at: datetime | None = None
    paused_until: datetime | None = None
    #: Pauses that are over, added up, in milliseconds.
    paused_total: int = 0
    #: Not completed before: a conversation that was closed is about to be open. None: no matter.
    open_until: datetime | None = None
    #: Conversations that failed before this time are put back where they stood. None: none.
    retry_failed_before: datetime | None = None
    #: Ids of the last campaign updates that took effect: one that comes again changes nothing.
    applied: tuple[AgentId, ...] = ()
    schema_version: int = SCHEMA_VERSION
    version: int = 0
    #: Failed attempts to process it in a row, and what the last one said.
    failures: int = 0
    last_error: str | None = None
    counts: Counts = Counts()
    messages: MessageCounts = MessageCounts()
    counted_at: datetime | None = None
    #: When the last recount began: what was written before is in it, or will be.
    counting_at: datetime | None = None
    #: Completed, and to be counted once more: nobody writes to it later without moving this first.
    recount_at: datetime | None = None
    #: Since then its conversations, messages and updates leave: what is counted here is the last
    #: word about them, and it is never counted or opened again.
    removing_since: datetime | None = None
    #: All of them have left.
    removed_at: datetime | None = None
    #: Since when it would be complete, and its counts do not agree: there is an alert. None: they do.
    discrepancy_at: datetime | None = None
    traceparent: str | None = None
    tracestate: str | None = None
