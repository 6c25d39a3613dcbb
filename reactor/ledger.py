"""Ledger entries from what handlers decided: rendered again, or as it was just handed off."""

from collections.abc import Mapping

from handlers.hand_off import hand_off_of
from handlers.rendering import RenderError
from handlers.stages import address_kind
from schemas.address import address_key
from schemas.campaign import Campaign
from schemas.conversation import Conversation
from schemas.hand_off import ChannelSpec, HandOff
from schemas.message import ACCEPTED, LedgerEntry
from schemas.transition import Record


def entry_of(
    conversation: Conversation,
    record: Record,
    campaign: Campaign,
    channels: Mapping[str, ChannelSpec],
    rendered: HandOff | None = None,
) -> LedgerEntry:
    """Make the entry of a message; one that cannot be rendered has no text."""
    slot = record.slot
    if rendered is None:
        try:
            rendered = hand_off_of(conversation, slot, campaign, channels)
        except (RenderError, KeyError, ValueError):
            rendered = None
    kind = address_kind(slot.channel, channels)
    address = conversation.recipient.address.get(kind)
    return LedgerEntry(
        id=slot.key(conversation.id),
        status=record.status,
        campaign_id=conversation.campaign_id,
        batch_request_id=conversation.batch_request_id,
        conversation_id=conversation.id,
        recipient_id=conversation.recipient.id,
        channel=slot.channel,
        address=address_key(kind, address) if address else None,
        to=rendered.to if rendered else None,
        subject=rendered.subject if rendered else None,
        body=rendered.body if rendered else None,
        html=rendered.html if rendered else None,
        by=slot.by,
        attempts=slot.attempts,
        due_at=slot.due_at,
        send_before=slot.send_before,
        recorded_at=record.at,
        sent_at=record.at if record.status in ACCEPTED else None,
        provider_id=record.provider_id,
        error=record.error,
        reason=record.reason,
    )
