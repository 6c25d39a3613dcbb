"""What `reactor verify` looks at, as much as it needs of each document, and what it finds."""

from datetime import datetime
from enum import StrEnum

from attrs import frozen

from schemas.conversation import (
    FINAL,
    ConversationStatus,
    ExitReason,
    MessageRef,
    SlotState,
)
from schemas.ids import CampaignId, ConversationId, SendKey
from schemas.message import MessageStatus


class Invariant(StrEnum):
    """By their numbers: docs/operations.md says what is proved of each."""

    ACCOUNTING = "I1"
    KEYS = "I2"
    LIVENESS = "I3"
    ORDER = "I4"
    LAST_LOOK = "I5"
    OUTCOME = "I6"
    BOUNDED = "I9"


class Remedy(StrEnum):
    """What `reactor repair` does about a finding."""

    #: The conversation's due time is derived again from what it waits for.
    DUE_TIME = "due_time"
    #: The same of the campaign.
    CAMPAIGN_DUE_TIME = "campaign_due_time"
    #: The campaign is counted again.
    COUNTS = "counts"
    #: The recipient is taken off the list of the rejected ones: the conversation stands.
    REJECTION = "rejection"
    #: Nothing that would be safe: a person decides.
    PERSON = "person"


@frozen(kw_only=True)
class Finding:
    """Something that does not hold."""

    invariant: Invariant
    campaign_id: CampaignId
    #: None: it is about the campaign itself.
    conversation_id: ConversationId | None = None
    #: Set where it is about one message.
    message_id: SendKey | None = None
    what: str
    expected: str
    found: str
    remedy: Remedy = Remedy.PERSON

    @property
    def identity(self) -> tuple[object, ...]:
        """What makes it the same finding when it is looked at again."""
        about = (self.campaign_id, self.conversation_id, self.message_id)
        return (self.invariant, *about, self.what)


@frozen(kw_only=True)
class SeenSlot:
    stage: str
    n: int
    state: SlotState
    until: datetime


@frozen(kw_only=True)
class SeenPause:
    until: datetime | None = None


@frozen(kw_only=True)
class SeenConversation:
    id: ConversationId
    status: ConversationStatus
    exit_reason: ExitReason | None = None
    due_at: datetime | None = None
    wait_until: datetime | None = None
    deadline_at: datetime
    status_since: datetime
    slot: SeenSlot | None = None
    pause: SeenPause | None = None
    message_count: int
    last_message: MessageRef | None = None
    failures: int = 0

    @property
    def is_open(self) -> bool:
        return self.status not in FINAL


@frozen(kw_only=True)
class SeenEntry:
    """An entry of the ledger."""

    id: SendKey
    status: MessageStatus
    address: str | None = None
    attempts: int | None = None
    due_at: datetime | None = None
    sent_at: datetime | None = None
    reason: str | None = None
    provider_id: str | None = None
    has_body: bool = True
