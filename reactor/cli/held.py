"""Messages that are held for a person because nobody knows what came of them."""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any

from attrs import frozen

from reactor.cli.bulk import batches
from reactor.cli.failure import NotFoundFailure
from reactor.cli.find import find_conversations, only, request_ids, the_campaign
from reactor.cli.output import text
from reactor.cli.session import Document, Session
from schemas.conversation import SlotState
from schemas.ids import CampaignId, ConversationId, SendKey, campaign_id, send_key
from schemas.message import MessageStatus

FIELDS = {
    **dict.fromkeys(("campaign_id", "batch_request_id", "recipient.id", "last_error"), 1),
    **{f"slot.{name}": 1 for name in ("stage", "n", "state", "channel", "attempts", "until")},
}
#: Campaigns whose messages are looked for together.
CAMPAIGNS = 100


@frozen(kw_only=True)
class Held:
    """One of them. `since`: when it was entered into the ledger; None where that is not known."""

    key: SendKey
    conversation: ConversationId
    campaign: CampaignId
    request: object
    recipient: object
    channel: str
    attempts: int
    since: datetime | None
    until: datetime | None
    error: str | None

    def document(self) -> Document:
        """Give it as programs read it."""
        return {
            "message_id": self.key,
            "conversation_id": self.conversation,
            "campaign_id": self.campaign,
            "batch_request_id": self.request,
            "recipient_id": self.recipient,
            "channel": self.channel,
            "attempts": self.attempts,
            "since": self.since,
            "until": self.until,
            "last_error": self.error,
        }


async def the_campaign_id(session: Session, reference: str | None) -> CampaignId | None:
    """Find which campaign is meant, also that of a request which has none yet."""
    if reference is None:
        return None
    requests = session.database["batch_requests"]
    request = await requests.find_one({"_id": {"$in": list(request_ids(reference))}}, {"_id": 1})
    if request:
        return campaign_id(request["_id"])
    campaign = await the_campaign(session.database, reference, {"name": 1})
    return CampaignId(campaign["_id"])


async def campaign_ids(
    session: Session, campaign: CampaignId | None, query: Mapping[str, Any]
) -> AsyncIterator[list[CampaignId]]:
    """Give the one that is asked for, or those that match, so many at a time."""
    if campaign is not None:
        yield [campaign]
        return
    # All of them are read from the index of their ids: campaigns carry whole templates.
    by_id = None if query else {"_id": 1}
    found = session.database["campaigns"].find(query, {"_id": 1}, sort=by_id)
    async for batch in batches(found, CAMPAIGNS):
        yield [CampaignId(each["_id"]) for each in batch]


async def held_messages(session: Session, campaign: CampaignId | None) -> AsyncIterator[Held]:
    """
    Give all that are held, or those of one campaign.

    They are found by the ledger, which has an index for it: a message is entered as unknown before
    it is held, and stays so until its outcome is known. What ended so for good is not held.
    """
    async for campaigns in campaign_ids(session, campaign, {"completed_at": None}):
        query = {"campaign_id": {"$in": campaigns}, "status": MessageStatus.UNKNOWN.value}
        fields = {"conversation_id": 1, "recorded_at": 1}
        entries = session.database["messages"].find(query, fields)
        async for batch in batches(entries):
            since = {entry["_id"]: entry.get("recorded_at") for entry in batch}
            ids = sorted({entry["conversation_id"] for entry in batch})
            holding = {"_id": {"$in": ids}, "slot.state": SlotState.UNKNOWN.value}
            async for conversation in session.database["conversations"].find(holding, FIELDS):
                held = held_of(conversation, since)
                if held and held.key in since:
                    yield held


def held_of(
    conversation: Mapping[str, Any], since: Mapping[str, datetime | None] | None = None
) -> Held | None:
    """Give what a conversation holds; None: nothing."""
    slot: Any = conversation.get("slot")
    if not isinstance(slot, Mapping) or slot.get("state") != SlotState.UNKNOWN.value:
        return None
    identity = ConversationId(conversation["_id"])
    key = send_key(identity, slot["stage"], slot["n"])
    return Held(
        key=key,
        conversation=identity,
        campaign=conversation["campaign_id"],
        request=conversation.get("batch_request_id"),
        recipient=(conversation.get("recipient") or {}).get("id"),
        channel=str(slot.get("channel")),
        attempts=slot.get("attempts") or 0,
        since=(since or {}).get(key),
        until=slot.get("until"),
        error=conversation.get("last_error"),
    )


async def the_held(session: Session, reference: str) -> Held:
    """Find a message by its send key or its conversation. `Failure`: none, several, or not held."""
    # A send key begins with the conversation's id, which has no slash.
    owner = {"_id": reference.partition("/")[0]}
    by_key = await session.database["conversations"].find_one(owner, FIELDS)
    if by_key and "/" in reference:
        held = held_of(by_key)
        if held is None or held.key != reference:
            raise NotFoundFailure(f"message {text(reference)!r} is not held")
        return held
    found = await find_conversations(session.database, reference, FIELDS)
    conversation = only(found, "conversation", reference)
    held = held_of(conversation)
    if held is None:
        raise NotFoundFailure(f"conversation {conversation['_id']} holds no message")
    return held
