"""
The steps that every decision about a conversation is made of.

A conversation is one atom: state, due time and the slot of the message that is being sent. What must
hold after every decision (ARCHITECTURE I3) is brought about in one place, `settled`: handlers set
`wait_until`, the slot and the pause, never `due_at`.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from handlers.moves import final_status, moved
from handlers.scene import Scene
from handlers.stages import stage_of, wait_after
from schemas.campaign import Campaign
from schemas.conversation import (
    Conversation,
    ConversationStatus,
    ExitReason,
    Pause,
    Slot,
    SlotState,
    Visit,
    WaitingFor,
)
from schemas.evolving import evolve
from schemas.ids import AgentId
from schemas.message import MessageStatus
from schemas.transition import Effect, Reason, Record

S = ConversationStatus
#: A conversation as it is to become, and what is to be written beside it.
type Acted = tuple[Conversation, tuple[Effect, ...]]
#: What `history.by` says where no update caused it.
DUE = "due"
_WAITS_FOR = {
    S.PAUSED: WaitingFor.RESUME,
    S.ESCALATED: WaitingFor.RESOLUTION,
    S.AWAITING_AGENT: WaitingFor.AGENT,
    S.AWAITING_REPLY: WaitingFor.REPLY,
}
#: Waits that stand still while paused; an escalation's deadline does not.
_STANDING_STILL = frozenset({S.PENDING, S.AWAITING_REPLY, S.AWAITING_AGENT})


def settled(conversation: Conversation) -> Conversation:
    """Derive `due_at`, `waiting_for` and `follow_ups_sent` from the rest."""
    return evolve(
        conversation,
        due_at=due_at(conversation),
        waiting_for=_waiting_for(conversation),
        follow_ups_sent=max(0, conversation.visit.messages - 1),
    )


def due_at(conversation: Conversation) -> datetime | None:
    """Derive when there is work: at the end of the lease or the wait, or at the deadline."""
    slot, pause = conversation.slot, conversation.pause
    if not conversation.is_open:
        return slot.until if slot else None
    due = [conversation.deadline_at]
    if slot and (slot.state is not SlotState.RESERVED or not pause):
        due.append(slot.until)
    if pause and pause.until:
        due.append(pause.until)
    if not slot and not pause and conversation.wait_until:
        due.append(conversation.wait_until)
    return min(due)


def _waiting_for(conversation: Conversation) -> tuple[WaitingFor, ...]:
    if not conversation.is_open:
        return ()
    status = conversation.status
    waits = [_WAITS_FOR[status]] if status in _WAITS_FOR else []
    slot = conversation.slot
    if slot and slot.state is SlotState.UNKNOWN:
        waits.append(WaitingFor.UNKNOWN)
    elif slot and slot.state is SlotState.RESERVED and slot.held:
        waits.append(slot.held)
    elif slot and slot.state is SlotState.RESERVED and slot.attempts:
        waits.append(WaitingFor.RETRY)
    elif not slot and not conversation.message_count and conversation.status is S.PENDING:
        waits.append(WaitingFor.START)
    return tuple(waits)


def effective_pause(campaign: Campaign, now: datetime) -> int:
    """Give how long the campaign has been paused in all, the present pause included, in ms."""
    present = now - campaign.paused_at if campaign.paused_at else timedelta(0)
    return campaign.paused_total + milliseconds(present)


def _stands_still(conversation: Conversation) -> bool:
    """Say whether a pause makes its wait longer: the start is a date, and comes when it comes."""
    waits_for_start = conversation.status is S.PENDING and conversation.message_count == 0
    return conversation.status in _STANDING_STILL and not waits_for_start


def caught_up(conversation: Conversation, campaign: Campaign, now: datetime) -> Conversation:
    """Move on what stood still during the campaign's pauses that it does not count in yet."""
    total = effective_pause(campaign, now)
    rest = timedelta(milliseconds=total - conversation.pause_seen)
    if not rest or not conversation.is_open:
        return conversation
    if not _stands_still(conversation):
        return evolve(conversation, pause_seen=total)
    slot = conversation.slot
    if slot and slot.state is SlotState.RESERVED:
        slot = evolve(slot, until=slot.until + rest)
    return settled(
        evolve(
            conversation,
            pause_seen=total,
            slot=slot,
            wait_until=conversation.wait_until and conversation.wait_until + rest,
        )
    )


def dropped_slot(conversation: Conversation, now: datetime, reason: str) -> Acted:
    """Give up a message because the conversation moves on; one in flight is marked unwanted."""
    slot = conversation.slot
    if slot is None:
        return conversation, ()
    if slot.state is SlotState.SENDING:
        return evolve(conversation, slot=evolve(slot, wanted=False)), ()
    entry = given_up(slot, MessageStatus.CANCELLED, now, reason)
    return evolve(conversation, slot=None), (entry,)


def given_up(
    slot: Slot, status: MessageStatus, now: datetime, reason: str, error: str | None = None
) -> Record:
    """Record a message that will not be tried again; with a doubt left it is `unknown`, honestly."""
    doubtful = slot.uncertain or slot.state is SlotState.UNKNOWN
    return Record(
        slot=slot,
        status=MessageStatus.UNKNOWN if doubtful else status,
        at=now,
        reason=reason,
        error=error,
    )


def closed(
    conversation: Conversation, exit_reason: ExitReason, *, now: datetime, by: AgentId
) -> Acted:
    """Close it. A message in flight keeps its slot, and its due time, until the outcome is known."""
    conversation, effects = dropped_slot(conversation, now, exit_reason)
    status, reason = final_status(exit_reason)
    conversation = moved(conversation, status, reason, at=now, by=by)
    return evolve(conversation, exit_reason=exit_reason, wait_until=None, pause=None), effects


def entered(
    conversation: Conversation, stage: str, reason: Reason, *, now: datetime, by: AgentId
) -> Acted:
    """Enter a stage, or the same one again: its message is next."""
    conversation, effects = dropped_slot(conversation, now, reason)
    conversation = evolve(conversation, stage=stage, visit=Visit(), unsent=None, wait_until=now)
    return moved(conversation, S.PENDING, reason, at=now, by=by), effects


def waiting_again(
    conversation: Conversation, reason: Reason, scene: Scene, by: AgentId
) -> Conversation:
    """Go on with the visit where it stood; the next delay counts from now, or from the outcome."""
    stage, slot = stage_of(scene.template, conversation.stage), conversation.slot
    writing = False
    if slot and in_its_visit(conversation):
        conversation = evolve(conversation, slot=evolve(slot, wanted=True))
        writing = slot.step is None
    if conversation.visit.messages == 0 or writing:
        status, until = S.PENDING, scene.now
    else:
        status, until = S.AWAITING_REPLY, scene.now + wait_after(stage, conversation.visit)
    conversation = evolve(conversation, wait_until=until)
    return moved(conversation, status, reason, at=scene.now, by=by)


def in_its_visit(conversation: Conversation) -> bool:
    """Say whether the visit is still that of the message in flight: one entered since is blank."""
    return conversation.visit != Visit()


def held_still(conversation: Conversation, until: datetime | None, now: datetime) -> Conversation:
    """Put a pause over it; its status and the rest of its wait are kept for `resumed`."""
    rest = None
    if _stands_still(conversation) and conversation.wait_until:
        rest = max(0, milliseconds(conversation.wait_until - now))
    pause = Pause(status=conversation.status, rest=rest, until=until)
    return evolve(conversation, pause=pause, status=S.PAUSED)


def released(conversation: Conversation, pause: Pause, now: datetime) -> Conversation:
    """Take the pause off: the rest of the wait runs on; a message that was held back leaves now."""
    slot = conversation.slot
    if slot and slot.state is SlotState.RESERVED:
        slot = evolve(slot, until=now)
    wait_until = conversation.wait_until
    if pause.rest is not None:
        wait_until = now + timedelta(milliseconds=pause.rest)
    return evolve(conversation, pause=None, status=pause.status, slot=slot, wait_until=wait_until)


def under_pause(
    conversation: Conversation, now: datetime, decide: Callable[[Conversation], Acted]
) -> Acted:
    """Decide as if there were no pause, then put it back: what was decided waits."""
    pause = conversation.pause
    if pause is None:
        return decide(conversation)
    inner = released(conversation, pause, now)
    decided, effects = decide(inner)
    if decided == inner:
        return conversation, effects
    if decided.is_open:
        since = conversation.status_since
        decided = evolve(held_still(decided, pause.until, now), status_since=since)
    return decided, effects


def milliseconds(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)
