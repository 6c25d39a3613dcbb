"""Opening a campaign: a chunk of its recipients at a time, restartable at any point."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

import bson
from attrs import define, frozen
from loguru import logger

from handlers.campaign import failed, opened_through
from handlers.opening import (
    DUPLICATE_ADDRESS,
    DUPLICATE_ID,
    SUPPRESSED,
    Candidate,
    candidate,
    is_suppressed,
    open_conversation,
)
from reactor.engine import Engine
from reactor.giving_way import give_way
from reactor.store.protocol import (
    Conflict,
    Inbox,
    RawDocument,
    RecipientPage,
    RejectedRecipient,
)
from schemas.batch_request import BATCH_RECIPIENTS
from schemas.campaign import Campaign
from schemas.conversation import Conversation
from schemas.converter import InvalidDocumentError, read_recipient
from schemas.documents import CODEC
from schemas.evolving import evolve
from schemas.hand_off import ChannelSpec
from schemas.ids import AgentId, ConversationId, conversation_id
from schemas.template import Template

#: Recipients of one chunk: bounds memory, and how long the chunk keeps others waiting.
CHUNK = 500
#: `rejected_recipients` on the request itself; all of them are in the collection of that name.
MAX_REPORTED = 100
_CONFLICTS = {Conflict.RECIPIENT_ID: DUPLICATE_ID, Conflict.ADDRESS: DUPLICATE_ADDRESS}


@frozen(kw_only=True)
class Chunk:
    """Consecutive recipients of a request, parted."""

    #: Those that can be led through the template.
    found: Sequence[Candidate]
    #: The others, as (position, id as far as it is known, problem).
    rejected: Sequence[tuple[object, object, str]]
    #: Where the next chunk begins; None: there is none.
    next_after: object = None


@define
class Made:
    """What a chunk comes to."""

    #: Of those who get one, as they are opened.
    conversations: list[Conversation]
    #: Those who get none, as in a chunk.
    rejected: list[tuple[object, object, str]]


async def open_chunk(engine: Engine, campaign: Campaign, now: datetime) -> Campaign | None:
    """
    Open the next chunk; None: another worker was faster.

    The request is answered before the campaign is marked as opened: an interrupted answer is
    written again.
    """
    chunk = await _next_chunk(engine, campaign)
    if chunk is None:
        gone = failed(campaign, "the batch request was gone before all was opened", now)
        return await engine.store.write_campaign(campaign, gone)
    decided = await _decided(engine, campaign, chunk.found)
    if decided is None:
        return None
    campaign, barred = decided
    made = await make(chunk, campaign, barred, now)
    await insert(engine, made, made.conversations, carried=True)
    return await close_chunk(engine, campaign, chunk, made.rejected, now)


async def make(
    chunk: Chunk, campaign: Campaign, barred: Collection[ConversationId], now: datetime
) -> Made:
    """Make the conversations of a chunk, but of those who must not be written to."""
    made = Made([], list(chunk.rejected))
    for number, one in enumerate(chunk.found, 1):
        await give_way(number)
        conversation = open_conversation(one, campaign, now)
        if conversation.id in barred:
            made.rejected.append((one.position, one.recipient.id, SUPPRESSED))
        else:
            made.conversations.append(conversation)
    return made


async def insert(
    engine: Engine, made: Made, conversations: Sequence[Conversation], *, carried: bool
) -> Mapping[int, Conflict]:
    """
    Insert conversations; who is there twice is rejected. By index: which were not inserted.

    `carried`: as in the store; False where a message is marked already.
    """
    conflicts = await engine.store.insert_conversations(conversations, carried=carried)
    for index, conflict in conflicts.items():
        if conflict is not Conflict.SAME:
            twin = conversations[index]
            made.rejected.append((twin.position, twin.recipient.id, _CONFLICTS[conflict]))
    return conflicts


async def close_chunk(
    engine: Engine,
    campaign: Campaign,
    chunk: Chunk,
    rejected: Sequence[tuple[object, object, str]],
    now: datetime,
) -> Campaign | None:
    """Report who was rejected, and note how far the opening has come; after the last, answer."""
    store = engine.store
    if rejected:
        await store.reject_recipients([_entry(campaign, *each) for each in rejected])
    done = chunk.next_after is None
    after = opened_through(campaign, chunk.next_after, now, done=done)
    if done:
        count, first = await _rejected(engine, campaign, rejected)
        after = evolve(after, counts=evolve(after.counts, rejected=count))
        answer = (_raw_id(campaign.batch_request_id), _accepted(after, count, first))
        await store.answer(Inbox.BATCH_REQUESTS, [answer], carried=True)
    written = await store.write_campaign(campaign, after)
    if written is not None:
        engine.changed.note(campaign.id)
    return written


async def _next_chunk(engine: Engine, campaign: Campaign) -> Chunk | None:
    """Read the next chunk; None: the request is gone."""
    page = await engine.store.recipients(
        campaign.batch_request_id,
        campaign.recipients_from,
        after=campaign.opened_through,
        limit=CHUNK,
    )
    return await sort_out(page, campaign.template, engine.specs) if page else None


async def _decided(
    engine: Engine, campaign: Campaign, found: Sequence[Candidate]
) -> tuple[Campaign, Collection[ConversationId]] | None:
    """
    Decide once which of a chunk are not opened, for they are suppressed.

    The list may change while two workers open the chunk, or before it is opened again: nobody must
    have a conversation and be rejected as well. None: another worker was faster.
    """
    if campaign.barred is not None:
        return campaign, frozenset(campaign.barred)
    barred = await who_is_barred(engine, campaign, found)
    written = await engine.store.write_campaign(
        campaign, evolve(campaign, barred=barred), carried=True
    )
    return (written, frozenset(barred)) if written else None


async def who_is_barred(
    engine: Engine, campaign: Campaign, found: Sequence[Candidate]
) -> tuple[ConversationId, ...]:
    """Give the conversations that are not opened, for they must not be written to."""
    suppressed = await engine.store.suppressed({key for one in found for key in one.address_keys})
    return tuple(
        conversation_id(campaign.batch_request_id, one.recipient.id)
        for one in found
        if is_suppressed(one.recipient, campaign.template, engine.specs, suppressed)
    )


async def _rejected(
    engine: Engine, campaign: Campaign, rejected: Sequence[tuple[object, object, str]]
) -> tuple[int, tuple[Mapping[str, object], ...]]:
    """Count the rejected recipients and give the first; of a single chunk without any: none."""
    if campaign.opened_through is None and not rejected:
        return 0, ()
    return await engine.store.rejected_recipients(campaign.batch_request_id, limit=MAX_REPORTED)


def _accepted(
    campaign: Campaign, rejected: int, first: Sequence[Mapping[str, object]]
) -> Mapping[str, object]:
    return {
        "status": "accepted",
        "decided_at": campaign.created_at,
        "campaign_id": campaign.id,
        "problems": [],
        "counts": {"recipients": campaign.recipient_count, "rejected": rejected},
        "rejected_recipients": list(first),
    }


def _raw_id(request: AgentId) -> RawDocument:
    return RawDocument(bson.encode({"_id": request}, codec_options=CODEC))


def _entry(
    campaign: Campaign, position: object, recipient: object, problem: str
) -> RejectedRecipient:
    inline = campaign.recipients_from != BATCH_RECIPIENTS
    return RejectedRecipient(
        batch_request_id=campaign.batch_request_id,
        index=position if inline and isinstance(position, int) else None,
        position=position,
        recipient_id=recipient,
        problem=problem,
    )


async def sort_out(
    page: RecipientPage, template: Template, channels: Mapping[str, ChannelSpec]
) -> Chunk:
    """Part recipients that can be led through the template from those that cannot."""
    found: list[Candidate] = []
    rejected: list[tuple[object, object, str]] = []
    for number, (position, document, problem) in enumerate(page.recipients, 1):
        await give_way(number)
        checked = _checked(position, document, problem, template, channels)
        if isinstance(checked, Candidate):
            found.append(checked)
        else:
            identity = document.get("id") if isinstance(document, Mapping) else None
            known = identity if isinstance(identity, str) else None
            rejected.append((position, known, "; ".join(checked)))
    return Chunk(found=found, rejected=rejected, next_after=page.next_after)


def _checked(
    position: object,
    document: object,
    problem: str | None,
    template: Template,
    channels: Mapping[str, ChannelSpec],
) -> Candidate | tuple[str, ...]:
    if problem:
        return (problem,)
    try:
        return candidate(read_recipient(document, "$"), position, template, channels)
    except InvalidDocumentError as error:
        return error.problems
    except Exception as error:  # noqa: BLE001 - a defect of ours costs one recipient
        logger.opt(exception=error).error("A recipient could not be checked")
        return (f"$: processing failed: {type(error).__name__}",)
