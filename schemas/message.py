"""The ledger: one entry per send key, with its outcome."""

from datetime import datetime
from enum import StrEnum

from attrs import frozen

from schemas.ids import AgentId, CampaignId, ConversationId, SendKey


class MessageStatus(StrEnum):
    CANCELLED = "cancelled"
    FAILED = "failed"
    UNKNOWN = "unknown"
    SENT = "sent"
    DELIVERED = "delivered"
    BOUNCED = "bounced"


#: Entries merge by rank, whatever the order in which they come: a lower one never undoes a higher.
RANK = {
    MessageStatus.CANCELLED: 0,
    MessageStatus.FAILED: 1,
    MessageStatus.UNKNOWN: 2,
    MessageStatus.SENT: 3,
    MessageStatus.DELIVERED: 4,
    MessageStatus.BOUNCED: 4,
}
ACCEPTED = frozenset({MessageStatus.SENT, MessageStatus.DELIVERED, MessageStatus.BOUNCED})


@frozen(kw_only=True)
class LedgerEntry:
    """One message with its outcome. A report that comes first makes a stub: fields stay None."""

    id: SendKey
    status: MessageStatus
    campaign_id: CampaignId
    batch_request_id: AgentId
    conversation_id: ConversationId
    recipient_id: str
    channel: str | None = None
    #: Address key.
    address: str | None = None
    #: As it was handed to the channel.
    to: str | None = None
    subject: str | None = None
    body: str | None = None
    html: str | None = None
    #: The `send` it came from.
    by: AgentId | None = None
    attempts: int | None = None
    due_at: datetime | None = None
    send_before: datetime | None = None
    sent_at: datetime | None = None
    #: When this was entered; the runaway guard counts by it.
    recorded_at: datetime | None = None
    provider_id: str | None = None
    error: str | None = None
    reason: str | None = None


@frozen(kw_only=True)
class Suppression:
    """An address that must not be written to, whoever asks. `id` is the address key."""

    id: str
    reason: str
    at: datetime
    by: AgentId | None = None
    #: Its `_id` was looked at. Whoever inserts one leaves it out, and finds `problem` where it is none.
    checked: bool = True
