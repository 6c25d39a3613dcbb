"""Updates whose conversation or campaign is not known yet: looked up, waited for, or rejected."""

from collections.abc import Sequence
from datetime import datetime

from reactor.engine import Engine
from reactor.inbox import Answers, read_orders, read_updates
from reactor.store.protocol import Hint, Inbox, RawDocument
from schemas.ids import CampaignId, ConversationId
from schemas.transition import Answer
from schemas.update import UpdateStatus

NO_CONVERSATION = Answer(status=UpdateStatus.REJECTED, reason="no such conversation")
NO_CAMPAIGN = Answer(status=UpdateStatus.REJECTED, reason="no such campaign")
#: Seconds before an update is looked at again whose conversation may be about to be created.
WAIT_SECONDS = 1.0


async def look_up(engine: Engine, hints: Sequence[Hint]) -> None:
    """Name the conversations of updates in their campaigns; answer those that have none."""
    known = {hint.conversation_id for hint in hints if hint.conversation_id}
    found = await engine.store.campaigns_of(known)
    by_campaign: dict[CampaignId, list[ConversationId]] = {}
    for conversation, campaign in found.items():
        by_campaign.setdefault(campaign, []).append(conversation)
    for campaign, conversations in by_campaign.items():
        engine.turns.name(campaign, conversations)
    unknown = [hint.raw_id for hint in hints if hint.conversation_id not in found]
    if unknown:
        now = await engine.store.now()
        await answer_unknown(engine, Inbox.CONVERSATION_UPDATES, unknown, now)
        # An order that does not say which campaign it is for comes this way, too.
        await answer_unknown(engine, Inbox.CAMPAIGN_UPDATES, unknown, now)


async def answer_unknown(
    engine: Engine, inbox: Inbox, raw_ids: Sequence[RawDocument], now: datetime
) -> None:
    """Reject what is malformed or about nothing that exists; wait while something is being opened."""
    raws = await engine.store.read(inbox, raw_ids) if raw_ids else ()
    if not raws:
        return
    answers = Answers(now)
    if inbox is Inbox.CONVERSATION_UPDATES:
        read = [one for updates in read_updates(raws, answers).values() for one in updates]
        unfounded = [(raw, update.at, NO_CONVERSATION) for raw, update in read]
    else:
        orders = read_orders(raws, answers).values()
        unfounded = [(raw, order.at, NO_CAMPAIGN) for raw, order in orders]
    waits = bool(unfounded) and await _is_opening(engine, now)
    later = now + engine.scale.campaign_span(WAIT_SECONDS)
    for raw, at, answer in unfounded:
        if waits:
            answers.put(raw, {"at": at, "due_at": later})
        else:
            answers.add(raw, answer)
    await answers.write(engine.store, inbox)


async def _is_opening(engine: Engine, now: datetime) -> bool:
    """Say whether conversations may be about to be created."""
    if await engine.store.unanswered(Inbox.BATCH_REQUESTS, now=now, limit=1):
        return True
    return any(not due.opened for due in await engine.store.unfinished())
