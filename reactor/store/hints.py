"""Unanswered documents: whom one is about, as far as it says so, and whether its time has come."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from reactor.store.overview import date_of
from reactor.store.protocol import Hint, Inbox, RawDocument
from reactor.store.raw import glance
from schemas import ids

#: Updates that are read beside the conversations they are about; where there are more, apart.
FEW = 100


def hint_of(inbox: Inbox, document: Mapping[str, object], raw_id: bytes) -> Hint:
    """Make a hint from the ids that a document carries; whatever is malformed gives none."""
    raw = RawDocument(raw_id)
    request, recipient = document.get("batch_request_id"), document.get("recipient_id")
    if inbox is Inbox.CONVERSATION_UPDATES:
        conversation = document.get("conversation_id")
        if isinstance(conversation, str):
            return Hint(raw_id=raw, conversation_id=ids.ConversationId(conversation))
        if isinstance(request, ids.AgentId.__value__) and isinstance(recipient, str):
            return Hint(raw_id=raw, conversation_id=ids.conversation_id(request, recipient))
    if inbox is Inbox.BATCH_REQUESTS and isinstance(document["_id"], ids.AgentId.__value__):
        return Hint(raw_id=raw, campaign_id=ids.campaign_id(document["_id"]))
    if inbox is Inbox.CAMPAIGN_UPDATES:
        campaign = document.get("campaign_id")
        if isinstance(campaign, str):
            return Hint(raw_id=raw, campaign_id=ids.CampaignId(campaign))
        if isinstance(request, ids.AgentId.__value__):
            return Hint(raw_id=raw, campaign_id=ids.campaign_id(request))
    return Hint(raw_id=raw)


def is_put_off(document: Mapping[str, object], now: datetime) -> bool:
    """What is no date puts nothing off."""
    due_at = date_of(document.get("due_at"))
    return due_at is not None and due_at > now


def few(raws: Sequence[RawDocument], now: datetime) -> tuple[RawDocument, ...] | None:
    """Give those that are not put off; None: there may be more than were read."""
    if len(raws) >= FEW:
        return None
    return tuple(raw for raw in raws if not is_put_off(glance(raw.data), now))
