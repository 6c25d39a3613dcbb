"""
Decisions about a campaign: its start, its orders, its pauses, its end.

Orders take effect with one write on the campaign; its conversations follow in the same loop as
everything else: of an ended campaign every open one is due.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from schemas.campaign import Campaign, CampaignStatus, CompletionReason, Counts, MessageCounts
from schemas.conversation import MAX_APPLIED, ExitReason
from schemas.evolving import evolve
from schemas.ids import AgentId
from schemas.transition import Answer, CampaignTransition, Reason
from schemas.update import CampaignUpdate, CampaignUpdateKind, UpdateStatus

S = CampaignStatus
ENDED = frozenset({S.COMPLETED, S.CANCELLED, S.FAILED})
_RUNNING = frozenset({S.SCHEDULED, S.PENDING, S.ACTIVE})


def step(
    campaign: Campaign, updates: Sequence[CampaignUpdate], now: datetime
) -> CampaignTransition:
    """Fold the unanswered updates by `at`, then `_id`; then decide what time has brought."""
    answers: list[tuple[AgentId, Answer]] = []
    present = campaign
    for update in sorted(updates, key=lambda each: (each.at, str(each.id))):
        if update.id in present.applied:
            answers.append((update.id, _answer(UpdateStatus.APPLIED, Reason.REPEATED)))
            continue
        if present.removing_since:
            answers.append((update.id, _answer(UpdateStatus.IGNORED, Reason.REMOVED)))
            continue
        changed, answer = _HANDLERS[update.kind](present, update, now)
        answers.append((update.id, answer))
        if answer.status is UpdateStatus.APPLIED:
            changed = evolve(changed, applied=(*changed.applied, update.id)[-MAX_APPLIED:])
        present = changed
    present = settled(_on_time(present, now), now)
    return CampaignTransition(campaign=present, answers=tuple(answers))


def settled(campaign: Campaign, now: datetime) -> Campaign:
    """
    Derive `due_at`: when the campaign itself has work, besides its conversations'.

    An ended campaign is due until all of its conversations are closed; what is then still in flight
    has a due time of its own. Whatever its end, it must be looked at when `open_until` is past.
    """
    due_at: datetime | None
    if campaign.completed_at:
        due_at = campaign.recount_at
    elif not campaign.opened or (campaign.status in ENDED and not campaign.all_closed):
        due_at = campaign.created_at
    elif campaign.status is S.SCHEDULED:
        due_at = campaign.scheduled_at
    else:
        ends = () if campaign.status in ENDED else (campaign.deadline_at, campaign.paused_until)
        ahead = [time for time in (*ends, campaign.open_until) if time and time > now]
        due_at = min(ahead, default=None)
    return evolve(campaign, due_at=due_at)


def _on_time(campaign: Campaign, now: datetime) -> Campaign:
    # No pause outlasts the deadline: then the conversations end, each by its own.
    pause_ends = min(campaign.paused_until or campaign.deadline_at, campaign.deadline_at)
    if campaign.status is S.PAUSED and pause_ends <= now:
        campaign = _resumed(campaign, now)
    if campaign.status is S.SCHEDULED and campaign.scheduled_at and campaign.scheduled_at <= now:
        if now > campaign.scheduled_at + campaign.start_within:
            return evolve(campaign, status=S.CANCELLED, completion_reason=CompletionReason.TOO_LATE)
        campaign = evolve(campaign, status=S.PENDING)
    if campaign.status is S.PENDING and campaign.opened:
        campaign = evolve(campaign, status=S.ACTIVE)
    if campaign.open_until and campaign.open_until <= now:
        campaign = evolve(campaign, open_until=None)
    return campaign


def opened_through(campaign: Campaign, position: object, now: datetime, *, done: bool) -> Campaign:
    """Note how far its conversations have been opened."""
    return settled(
        _on_time(evolve(campaign, opened_through=position, opened=done, barred=None), now), now
    )


def completed(
    campaign: Campaign,
    counts: Counts,
    messages: MessageCounts,
    now: datetime,
    recount_at: datetime,
) -> Campaign:
    """
    End a campaign none of whose conversations is open or unsettled.

    `recount_at`: when a turn that did not know of the end can write nothing any more.
    """
    campaign = _unpaused(campaign, now)
    status = campaign.status if campaign.status in ENDED else S.COMPLETED
    campaign = evolve(
        campaign,
        status=status,
        completed_at=now,
        completion_reason=_completion_reason(campaign, counts.by_exit_reason),
        recount_at=recount_at,
        discrepancy_at=None,
    )
    return settled(counted(campaign, counts, messages, now), now)


def counted(campaign: Campaign, counts: Counts, messages: MessageCounts, now: datetime) -> Campaign:
    """
    Put a recount on it; how many recipients there are and were rejected stays.

    `now`: no later than when the recount began.
    """
    known = campaign.counts
    counts = evolve(counts, recipients=known.recipients, rejected=known.rejected)
    campaign = evolve(campaign, counts=counts, messages=messages, counted_at=now)
    if campaign.recount_at and campaign.recount_at <= now:
        return settled(evolve(campaign, recount_at=None), now)
    return campaign


def recounted_at(campaign: Campaign, recount_at: datetime, now: datetime) -> Campaign:
    """Have a completed campaign counted once more: something of it is about to be written."""
    return settled(evolve(campaign, recount_at=recount_at), now)


def retries_over(campaign: Campaign) -> Campaign:
    """Note that every conversation that had failed before the `retry` was put back."""
    return evolve(campaign, retry_failed_before=None)


def closed_all(campaign: Campaign, now: datetime) -> Campaign:
    """Note that no conversation of an ended campaign is open any more."""
    return settled(evolve(campaign, all_closed=True), now)


def reopened(campaign: Campaign, now: datetime, until: datetime | None = None) -> Campaign:
    """
    Make a campaign active again if it is completed.

    `until`: it is not completed before, because a conversation that was closed is about to be open.
    """
    if campaign.status is S.COMPLETED:
        campaign = evolve(
            campaign,
            status=S.ACTIVE,
            completed_at=None,
            completion_reason=None,
            recount_at=None,
        )
    return settled(evolve(campaign, open_until=until), now)


def failed(campaign: Campaign, error: str, now: datetime) -> Campaign:
    """End a campaign that cannot go on; its open conversations end with it."""
    campaign = _unpaused(campaign, now)
    return settled(evolve(campaign, status=S.FAILED, opened=True, last_error=error), now)


def _completion_reason(campaign: Campaign, exits: Mapping[str, int]) -> CompletionReason:
    if campaign.completion_reason:
        return campaign.completion_reason
    if campaign.status is S.CANCELLED:
        return CompletionReason.CANCELLED
    if exits.get(ExitReason.MAX_DURATION):
        return CompletionReason.MAX_DURATION
    if set(exits) == {ExitReason.NO_REPLY_EXHAUSTED}:
        return CompletionReason.FOLLOW_UPS_EXHAUSTED
    return CompletionReason.ALL_FINAL


type _Decided = tuple[Campaign, Answer]


def _answer(status: UpdateStatus, reason: str) -> Answer:
    return Answer(status=status, reason=reason)


def _ignored(campaign: Campaign, reason: Reason) -> _Decided:
    return campaign, _answer(UpdateStatus.IGNORED, reason)


def _on_pause(campaign: Campaign, update: CampaignUpdate, now: datetime) -> _Decided:
    if campaign.status is S.PAUSED:
        return _ignored(campaign, Reason.REPEATED)
    if campaign.status not in _RUNNING:
        return _ignored(campaign, Reason.FINAL)
    paused = evolve(
        campaign,
        status=S.PAUSED,
        paused_from=campaign.status,
        paused_at=now,
        paused_until=update.until,
    )
    return paused, _answer(UpdateStatus.APPLIED, Reason.PAUSED)


def _on_resume(campaign: Campaign, _: CampaignUpdate, now: datetime) -> _Decided:
    if campaign.status is not S.PAUSED:
        return _ignored(campaign, Reason.NOT_PAUSED)
    return _resumed(campaign, now), _answer(UpdateStatus.APPLIED, Reason.RESUMED)


def _resumed(campaign: Campaign, now: datetime) -> Campaign:
    present = now - (campaign.paused_at or now)
    return evolve(
        campaign,
        status=campaign.paused_from or S.ACTIVE,
        paused_total=campaign.paused_total + present // timedelta(milliseconds=1),
        paused_from=None,
        paused_at=None,
        paused_until=None,
    )


def _unpaused(campaign: Campaign, now: datetime) -> Campaign:
    return _resumed(campaign, now) if campaign.status is S.PAUSED else campaign


def _on_cancel(campaign: Campaign, _: CampaignUpdate, now: datetime) -> _Decided:
    if campaign.status in ENDED:
        return _ignored(campaign, Reason.FINAL)
    cancelled = evolve(_unpaused(campaign, now), status=S.CANCELLED)
    return cancelled, _answer(UpdateStatus.APPLIED, Reason.CANCELLED)


def _on_retry(campaign: Campaign, _: CampaignUpdate, now: datetime) -> _Decided:
    if campaign.status in (S.CANCELLED, S.FAILED):
        return _ignored(campaign, Reason.FINAL)
    if now >= campaign.deadline_at:
        return _ignored(campaign, Reason.DEADLINE_OVER)
    if campaign.status is S.COMPLETED:
        campaign = reopened(campaign, now)
    retrying = evolve(campaign, retry_failed_before=now)
    return retrying, _answer(UpdateStatus.APPLIED, Reason.RETRIED)


_HANDLERS: Mapping[CampaignUpdateKind, Callable[[Campaign, CampaignUpdate, datetime], _Decided]] = {
    CampaignUpdateKind.PAUSE: _on_pause,
    CampaignUpdateKind.RESUME: _on_resume,
    CampaignUpdateKind.CANCEL: _on_cancel,
    CampaignUpdateKind.RETRY: _on_retry,
}
