"""Accepting or rejecting a batch request."""

from collections.abc import Mapping
from datetime import datetime

from attrs import frozen

from handlers.campaign import settled
from handlers.template_check import check_template
from schemas.batch_request import BATCH_RECIPIENTS, BatchRequest
from schemas.campaign import Campaign, CampaignStatus, Counts
from schemas.hand_off import ChannelSpec
from schemas.ids import campaign_id
from schemas.template import Template


@frozen(kw_only=True)
class Rejection:
    """Why a request is not carried out; nothing of it was started."""

    problems: tuple[str, ...]


def accept(
    request: BatchRequest,
    template: Template,
    recipients: int,
    channels: Mapping[str, ChannelSpec],
    now: datetime,
) -> Campaign | Rejection:
    """Decide on a request whose template was found and whose recipients were counted."""
    problems = [*check_template(template, channels), *_timing(request, now)]
    problems.extend(_recipients(request, recipients))
    if problems:
        return Rejection(problems=tuple(problems))
    waits = request.scheduled_at is not None and request.scheduled_at > now
    started_at = request.scheduled_at if waits and request.scheduled_at else now
    deadline_at = started_at + template.max_duration
    if request.ends_at:
        deadline_at = min(deadline_at, request.ends_at)
    campaign = Campaign(
        id=campaign_id(request.id),
        batch_request_id=request.id,
        name=request.name,
        type=request.type,
        status=CampaignStatus.SCHEDULED if waits else CampaignStatus.PENDING,
        metadata=request.metadata,
        template=template,
        recipients_from=request.recipients_from or "recipients",
        recipient_count=recipients,
        scheduled_at=request.scheduled_at,
        start_within=request.start_within,
        ends_at=request.ends_at,
        created_at=now,
        started_at=started_at,
        deadline_at=deadline_at,
        due_at=None,
        counts=Counts(recipients=recipients),
        traceparent=request.traceparent,
        tracestate=request.tracestate,
    )
    return settled(campaign, now)


def _timing(request: BatchRequest, now: datetime) -> list[str]:
    problems = []
    if request.scheduled_at and now > request.scheduled_at + request.start_within:
        problems.append(
            "$.scheduled_at: too late: it is over by more than start_within, nothing was started"
        )
    if request.ends_at and request.ends_at <= max(now, request.scheduled_at or now):
        problems.append("$.ends_at: expected a date after the start")
    return problems


def _recipients(request: BatchRequest, found: int) -> list[str]:
    expected = request.recipient_count
    if expected is not None and expected != found:
        where = "$.recipient_count"
        return [f"{where}: expected {expected} recipients, found {found}"]
    if not found:
        source = request.recipients_from
        where = f"$.recipients_from: {BATCH_RECIPIENTS} has" if source else "$.recipients:"
        return [f"{where} no recipients"]
    return []
