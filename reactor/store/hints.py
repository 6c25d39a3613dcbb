"""Whom an unanswered document is about, as far as it says so."""

from collections.abc import Mapping

from reactor.store.protocol import Hint, Inbox, RawDocument
from schemas import ids


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
