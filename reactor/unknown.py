"""Updates whose conversation or campaign is not known yet: looked up, waited for, or rejected."""

from collections.abc import Collection, Sequence
from datetime import datetime

from reactor.engine import Engine
from reactor.inbox import Answers, read_orders, read_updates
from reactor.store.protocol import Hint, Inbox, RawDocument
from schemas.ids import CampaignId, ConversationId
from schemas.transition import Answer
from schemas.update import UpdateStatus

NOBODY = {
    Inbox.CONVERSATION_UPDATES: Answer(status=UpdateStatus.REJECTED, reason="no such conversation"),
    Inbox.CAMPAIGN_UPDATES: Answer(status=UpdateStatus.REJECTED, reason="no such campaign"),
}
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
    unfounded: list[tuple[RawDocument, str, datetime]] = []
    if inbox is Inbox.CONVERSATION_UPDATES:
        for conversation, updates in read_updates(raws, answers).items():
            unfounded += [(raw, conversation, update.at) for raw, update in updates]
    else:
        orders = read_orders(raws, answers).values()
        unfounded = [(raw, order.campaign_id, order.at) for raw, order in orders]
    waits = bool(unfounded) and await _is_opening(engine, now)
    # Whoever opened it may have ended since it was looked for: only who is missing still is nobody.
    subjects = frozenset(subject for _, subject, _ in unfounded)
    come = await _look_again(engine, inbox, subjects) if subjects and not waits else subjects
    later = now + engine.scale.campaign_span(WAIT_SECONDS)
    for raw, subject, at in unfounded:
        if subject not in come:
            answers.add(raw, NOBODY[inbox])
        elif waits:
            answers.put(raw, {"at": at, "due_at": later})
    await answers.write(engine.store, inbox)


async def _look_again(engine: Engine, inbox: Inbox, subjects: Collection[str]) -> Collection[str]:
    """Give those that are there by now; they get their turn, with what waits for them."""
    come = set()
    if inbox is Inbox.CONVERSATION_UPDATES:
        found = await engine.store.campaigns_of({ConversationId(one) for one in subjects})
        for conversation, campaign_id in found.items():
            engine.turns.name(campaign_id, [conversation])
            come.add(str(conversation))
        return come
    for subject in subjects:
        campaign_id = CampaignId(subject)
        _, campaign = await engine.store.campaign(campaign_id)
        if campaign is not None:
            engine.turns.order(campaign_id)
            come.add(subject)
    return come


async def _is_opening(engine: Engine, now: datetime) -> bool:
    """Say whether conversations may be about to be created."""
    if await engine.store.unanswered(Inbox.BATCH_REQUESTS, now=now, limit=1):
        return True
    return any(not due.opened for due in await engine.store.unfinished())
