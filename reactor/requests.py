"""A batch request's turn: read, checked, and answered or made a campaign."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial

from loguru import logger

from handlers.opening import DUPLICATE_ADDRESS, DUPLICATE_ID, Candidate
from handlers.request import Rejection, accept
from reactor.batches import Fresh
from reactor.campaigns import take_turn
from reactor.engine import Engine
from reactor.failures import fail_request
from reactor.inbox import left_unanswered
from reactor.opening import CHUNK, Chunk, sort_out, who_is_barred
from reactor.store.protocol import (
    Inbox,
    RawDocument,
    RecipientPage,
    Sight,
    StoreUnavailableError,
)
from reactor.together import together
from schemas.batch_request import BATCH_RECIPIENTS, BatchRequest, OnInvalidRecipient
from schemas.campaign import Campaign, CampaignStatus
from schemas.converter import (
    InvalidDocumentError,
    NewerSchemaError,
    read_batch_request,
    read_template,
)
from schemas.documents import decode, only_id
from schemas.evolving import evolve
from schemas.ids import AgentId, campaign_id
from schemas.template import Template

#: Problems that are answered on a request.
MAX_PROBLEMS = 100


async def take_request(engine: Engine, raw_id: RawDocument) -> None:
    """Accept or reject one request, if it still waits; a defect of ours is retried, then parked."""
    since = engine.clock.monotonic()
    raws, sight = await together(
        partial(engine.store.read, Inbox.BATCH_REQUESTS, [raw_id]), partial(_sight, engine, raw_id)
    )
    engine.clock.note(sight.now)
    for raw in raws:
        try:
            if isinstance(sight.campaign, Campaign):
                await _answer_again(engine, raw, sight.campaign)
            else:
                await _decide(engine, raw, sight, since)
        except StoreUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - one request stops no other
            logger.opt(exception=error).error("A batch request could not be processed")
            engine.telemetry.failed("", type(error).__name__)
            await fail_request(engine, raw, type(error).__name__, sight.now)


async def _decide(engine: Engine, raw: RawDocument, sight: Sight, since: float) -> None:
    try:
        document = decode(raw.data)
        request = read_batch_request(document)
        template = await _template(engine, request)
        campaign = await _accept(engine, request, template, sight.now)
        campaign, chunk = await _decided_at_once(engine, request, campaign)
    except InvalidDocumentError as error:
        await _reject(engine, raw, error.problems, sight.now)
        return
    except NewerSchemaError:
        left_unanswered(Inbox.BATCH_REQUESTS)
        return
    link = (campaign.traceparent, campaign.tracestate)
    attributes = {"campaign_id": campaign.id, "campaign_type": campaign.type}
    with engine.telemetry.span("accept", parent=link, attributes=attributes):
        fresh = None
        if await engine.store.insert_campaign(campaign):
            fresh = Fresh(sight=evolve(sight, campaign=campaign), since=since, chunk=chunk)
        # Straight on: a small campaign is opened, and its first messages leave, in this turn.
        turn = engine.turns.join(campaign.id)
        try:
            await take_turn(engine, turn, fresh)
        finally:
            engine.turns.done(turn)


async def _decided_at_once(
    engine: Engine, request: BatchRequest, campaign: Campaign
) -> tuple[Campaign, Chunk | None]:
    """Part the recipients of a small request, and decide who is barred, before the campaign is there."""
    recipients = request.recipients
    if recipients is None or len(recipients) > engine.batch_size:
        return campaign, None
    page = RecipientPage(recipients=tuple((at, one, None) for at, one in enumerate(recipients)))
    chunk = await sort_out(page, campaign.template, engine.specs)
    barred = await who_is_barred(engine, campaign, chunk.found)
    return evolve(campaign, barred=barred), chunk


async def _sight(engine: Engine, raw_id: RawDocument) -> Sight:
    """See the campaign of a request that was accepted before or is being opened, if there is one."""
    try:
        identity = decode(only_id(raw_id.data))["_id"]
    except InvalidDocumentError:
        identity = None
    if isinstance(identity, AgentId.__value__):
        return await engine.store.sight(campaign_id(identity))
    return Sight(now=await engine.store.now(), campaign=None, channels={})


async def _answer_again(engine: Engine, raw: RawDocument, campaign: Campaign) -> None:
    """Go on with one that is being opened; of one that was, this is a copy."""
    if not campaign.opened:
        engine.turns.ready(campaign.id)
        return
    accepted_at = campaign.created_at.isoformat(timespec="milliseconds")
    problem = f"already accepted at {accepted_at}; this copy was not read"
    if campaign.status is CampaignStatus.FAILED:
        problem = f"accepted at {accepted_at}, but its campaign failed: {campaign.last_error}"
    fields = {
        "status": "accepted",
        "decided_at": campaign.created_at,
        "campaign_id": campaign.id,
        "problems": [problem],
    }
    await engine.store.answer(Inbox.BATCH_REQUESTS, [(raw, fields)])


async def _reject(engine: Engine, raw: RawDocument, problems: Sequence[str], now: datetime) -> None:
    fields = {
        "status": "rejected",
        "decided_at": now,
        "problems": list(problems[:MAX_PROBLEMS]),
    }
    await engine.store.answer(Inbox.BATCH_REQUESTS, [(raw, fields)])


async def _template(engine: Engine, request: BatchRequest) -> Template:
    """Give the request's template, its own or the one it names."""
    ref = request.template_ref
    if request.template:
        return request.template
    if ref is None:
        raise InvalidDocumentError(["$.template: required, or template_ref"])
    version = "" if ref.version is None else f", version {ref.version}"
    found = await engine.store.template(ref.name, ref.version)
    if found is None:
        raise InvalidDocumentError([f"$.template_ref: there is no template {ref.name!r}{version}"])
    try:
        return read_template(decode(found.data))
    except InvalidDocumentError as error:
        where = f"$.template_ref: template {ref.name!r}{version}"
        raise InvalidDocumentError([f"{where}: {each}" for each in error.problems]) from None


async def _accept(
    engine: Engine, request: BatchRequest, template: Template, now: datetime
) -> Campaign:
    """Decide; InvalidDocumentError carries the problems of a rejection."""
    if request.recipients is not None:
        recipients = len(request.recipients)
    else:
        recipients = await engine.store.count_batch_recipients(request.id)
    decision = accept(request, template, recipients, engine.specs, now)
    if isinstance(decision, Rejection):
        raise InvalidDocumentError(decision.problems)
    if request.on_invalid_recipient is OnInvalidRecipient.REJECT:
        problems = await _recipient_problems(engine, decision)
        if problems:
            raise InvalidDocumentError(problems)
    return decision


async def _recipient_problems(engine: Engine, campaign: Campaign) -> list[str]:
    """Check all recipients before any is accepted; those that are suppressed are no problem."""
    problems: list[str] = []
    seen: set[str] = set()
    after: object = None
    while len(problems) < MAX_PROBLEMS:
        page = await engine.store.recipients(
            campaign.batch_request_id, campaign.recipients_from, after=after, limit=CHUNK
        )
        if page is None:
            break
        chunk = await sort_out(page, campaign.template, engine.specs)
        problems.extend(f"{_where(campaign, at)}: {problem}" for at, _, problem in chunk.rejected)
        problems.extend(
            f"{_where(campaign, one.position)}: {problem}"
            for one in chunk.found
            for problem in _duplicate(one, seen)
        )
        after = page.next_after
        if after is None:
            break
    return problems


def _duplicate(one: Candidate, seen: set[str]) -> list[str]:
    identity = f"id:{one.recipient.id}"
    problems = [DUPLICATE_ID] if identity in seen else []
    if not seen.isdisjoint(one.address_keys):
        problems.append(DUPLICATE_ADDRESS)
    seen.update((identity, *one.address_keys))
    return problems


def _where(campaign: Campaign, position: object) -> str:
    if campaign.recipients_from == BATCH_RECIPIENTS:
        return f"{BATCH_RECIPIENTS} {position!r}"
    return f"$.recipients[{position}]"
