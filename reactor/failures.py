"""What cannot be processed: retried by the policy, then parked with its error. Alone, always."""

from datetime import datetime

from loguru import logger

from handlers.atom import given_up
from handlers.campaign import failed
from handlers.outcome import retry_delay
from handlers.scene import Scene
from reactor.effects import write_effects
from reactor.engine import Engine
from reactor.store.protocol import BrokenDocument, Change, Inbox, RawDocument
from schemas.campaign import Campaign
from schemas.conversation import Conversation, ConversationStatus, ExitReason
from schemas.documents import decode
from schemas.evolving import evolve
from schemas.ids import CampaignId
from schemas.message import MessageStatus
from schemas.problems import InvalidDocumentError
from schemas.template import RetryPolicy
from schemas.transition import Reason
from schemas.update import UpdateStatus


async def fail(
    engine: Engine,
    campaign: Campaign,
    subject: Conversation | BrokenDocument,
    error: str,
    now: datetime,
) -> None:
    """Note a conversation's failure: it is due again later, or parked as `failed_permanent`."""
    policy = campaign.template.retry
    if isinstance(subject, BrokenDocument):
        await _fail_broken(engine, policy, subject, now)
        return
    log = logger.bind(campaign_id=campaign.id, conversation_id=subject.id, error_type=error)
    failures = subject.failures + 1
    after = evolve(subject, failures=failures, last_error=error)
    if failures < policy.max_attempts and subject.is_open:
        log.warning("A conversation could not be processed and is retried")
        delay = retry_delay(policy, failures, subject.id)
        after = evolve(after, due_at=now + delay)
        engine.turns.due(campaign.id, now + delay)
    else:
        log.error("A conversation could not be processed and is parked")
        if subject.slot:
            lost = evolve(subject.slot, uncertain=True)
            record = given_up(lost, MessageStatus.UNKNOWN, now, Reason.MESSAGE_GIVEN_UP, error)
            await write_effects(engine, campaign, [(subject, record)], {})
        if subject.is_open:
            after = evolve(
                after,
                status=ConversationStatus.FAILED,
                status_since=now,
                exit_reason=ExitReason.FAILED_PERMANENT,
            )
        after = evolve(after, waiting_for=(), slot=None, due_at=None)
    token = engine.scene(campaign, now, {}, {}).lease.token
    await engine.store.apply([Change(before=subject, after=after)], token=token)
    engine.changed.note(campaign.id)


async def fail_campaign(engine: Engine, campaign_id: CampaignId, error: Exception) -> None:
    """Note that a campaign's turn failed: it gets another one later, or is ended as `failed`."""
    error_type = type(error).__name__
    now, campaign = await engine.store.campaign(campaign_id)
    if not isinstance(campaign, Campaign) or campaign.completed_at:
        logger.bind(campaign_id=campaign_id).opt(exception=error).error("A turn failed")
        return
    policy, failures = campaign.template.retry, campaign.failures + 1
    log = logger.bind(campaign_id=campaign_id, failures=failures, error_type=error_type)
    log.opt(exception=error).error("A turn failed")
    engine.telemetry.failed(campaign.type, error_type)
    after = evolve(campaign, failures=failures, last_error=error_type)
    if failures >= policy.max_attempts:
        log.error("A campaign could not be processed and is ended")
        after = failed(after, error_type, now)
    await engine.store.write_campaign(campaign, after)
    engine.turns.due(campaign_id, now + retry_delay(policy, failures, campaign_id))


async def _fail_broken(
    engine: Engine, policy: RetryPolicy, broken: BrokenDocument, now: datetime
) -> None:
    failures = failures_of(broken.raw) + 1
    fields: dict[str, object] = {"failures": failures, "last_error": broken.problem}
    # What is wrong with it stands in the document; it may quote somebody, so it is not logged.
    log = logger.bind(conversation_id=str(broken.id), failures=failures)
    if failures < policy.max_attempts:
        log.warning("A conversation could not be read and is retried")
        fields["due_at"] = now + retry_delay(policy, failures, str(broken.id))
    else:
        log.error("A conversation could not be read and is parked")
        fields |= {
            "status": ConversationStatus.FAILED.value,
            "status_since": now,
            "exit_reason": ExitReason.FAILED_PERMANENT.value,
            "waiting_for": [],
            "due_at": None,
        }
    await engine.store.note_failure(broken, fields)


async def fail_update(engine: Engine, scene: Scene, raw: RawDocument, error: str) -> None:
    """Note that an update could not be applied: it waits, or is parked with its error."""
    await _fail_document(
        engine, Inbox.CONVERSATION_UPDATES, raw, (scene.template.retry, error, scene.now)
    )


async def fail_request(engine: Engine, raw: RawDocument, error: str, now: datetime) -> None:
    """Note that a batch request could not be processed: it waits, or is parked with its error."""
    await _fail_document(engine, Inbox.BATCH_REQUESTS, raw, (RetryPolicy(), error, now))


async def _fail_document(
    engine: Engine, inbox: Inbox, raw: RawDocument, what: tuple[RetryPolicy, str, datetime]
) -> None:
    policy, error, now = what
    failures = failures_of(raw) + 1
    log = logger.bind(inbox=inbox.value, error_type=error, failures=failures)
    if failures < policy.max_attempts:
        log.warning("A document could not be processed and is retried")
        due_at = now + retry_delay(policy, failures, error)
        fields: dict[str, object] = {"failures": failures, "due_at": due_at}
    else:
        log.error("A document could not be processed and is parked")
        fields = {"status": UpdateStatus.PARKED.value, "failures": failures}
        if inbox is Inbox.BATCH_REQUESTS:
            fields |= {"decided_at": now, "problems": [f"$: processing failed: {error}"]}
        else:
            fields |= {"applied_at": now, "reason": f"processing failed: {error}"}
    await engine.store.answer(inbox, [(raw, fields)])


def failures_of(raw: RawDocument) -> int:
    """Read how often a document has failed, as far as it can be read."""
    try:
        failures = decode(raw.data).get("failures", 0)
    except InvalidDocumentError:
        return RetryPolicy().max_attempts
    return failures if isinstance(failures, int) else 0
