"""What time leads to: a message, a follow-up, the end of a wait, a deadline, a lease that is over."""

from handlers.act import Cause, act
from handlers.atom import DUE, Acted, closed, due_at, settled
from handlers.gates import parked
from handlers.moves import moved
from handlers.orders import resume
from handlers.outcome import on_lease_over, too_late
from handlers.scene import Scene
from handlers.sending import Written, channel_for, marked, reserve_step, reserve_text, slot_of
from handlers.stages import next_step, stage_of, wait_after
from schemas.campaign import Campaign, CampaignStatus
from schemas.conversation import Conversation, ConversationStatus, ExitReason, SlotState, Unsent
from schemas.evolving import evolve
from schemas.message import LedgerEntry
from schemas.transition import Reason, Transition

S = ConversationStatus
_ENDINGS = {
    CampaignStatus.CANCELLED: ExitReason.CANCELLED,
    CampaignStatus.FAILED: ExitReason.FAILED_PERMANENT,
}


def ending(campaign: Campaign) -> ExitReason | None:
    """Give the exit reason of every conversation of a campaign that was ended, else None."""
    return _ENDINGS.get(campaign.status)


def on_time(conversation: Conversation, entry: LedgerEntry | None, scene: Scene) -> Transition:
    """Decide what is due now. `entry`: the ledger's word on the slot, if its lease or hold is over."""
    ended = _ended(conversation, scene)
    slot = ended.conversation.slot
    if slot and slot.state is not SlotState.RESERVED and slot.until <= scene.now:
        # Closing has left it in the slot, and so without an effect.
        transition = on_lease_over(ended.conversation, entry, scene)
    elif ended.reason is Reason.NOT_DUE and scene.campaign.status is CampaignStatus.ACTIVE:
        transition = _on_due(conversation, scene)
    else:
        transition = ended
    return evolve(transition, conversation=settled(transition.conversation))


def _ended(conversation: Conversation, scene: Scene) -> Transition:
    exit_reason = ending(scene.campaign)
    if exit_reason is None and scene.now >= conversation.deadline_at:
        exit_reason = ExitReason.MAX_DURATION
    if exit_reason is None or not conversation.is_open:
        return Transition(conversation=conversation, reason=Reason.NOT_DUE)
    return _acted(closed(conversation, exit_reason, now=scene.now, by=DUE))


def _on_due(conversation: Conversation, scene: Scene) -> Transition:
    nothing = Transition(conversation=conversation, reason=Reason.NOT_DUE)
    due = due_at(conversation)
    if (due is None or due > scene.now) and not _may_leave(conversation, scene):
        return nothing
    if conversation.pause:
        resumed = resume(conversation, conversation.pause, scene, DUE)
        return evolve(nothing, conversation=resumed, reason=Reason.RESUMED)
    slot = conversation.slot
    if slot and slot.state is SlotState.RESERVED:
        late = slot.send_before is not None and scene.now > slot.send_before
        return too_late(conversation, slot, scene) if late else _marked(conversation, scene)
    if conversation.status is S.ESCALATED:
        return _acted(closed(conversation, ExitReason.ESCALATION_EXPIRED, now=scene.now, by=DUE))
    if conversation.status is S.AWAITING_AGENT:
        cause = Cause(by=DUE, exit_reason=ExitReason.REPLIED)
        return _acted(act(conversation, scene.template.agent.then, cause, scene))
    return _next_message(conversation, scene)


def _next_message(conversation: Conversation, scene: Scene) -> Transition:
    if conversation.unsent:
        return _send_again(conversation, conversation.unsent, scene)
    stage = stage_of(scene.template, conversation.stage)
    step = next_step(stage, conversation.visit)
    if step is None:
        cause = Cause(by=DUE, exit_reason=ExitReason.NO_REPLY_EXHAUSTED)
        return _acted(act(conversation, stage.on_no_reply, cause, scene))
    if conversation.message_count >= scene.template.max_messages:
        return _run_away(conversation, scene)
    channel = channel_for(conversation, step, scene)
    if channel is None:
        return _without_address(conversation, step, scene)
    return _marked(reserve_step(conversation, step, channel, scene), scene)


def _send_again(conversation: Conversation, unsent: Unsent, scene: Scene) -> Transition:
    """What the agent wrote and could not be sent goes first, under a new key."""
    if conversation.message_count >= scene.template.max_messages:
        return _run_away(conversation, scene)
    channel = channel_for(conversation, None, scene)
    if channel is None:
        return _unreachable(conversation, scene)
    written = Written(text=unsent.text, by=unsent.by, then=unsent.then)
    return _marked(reserve_text(conversation, written, channel, scene), scene)


def _may_leave(conversation: Conversation, scene: Scene) -> bool:
    """Say whether what was parked at a gate finds it open, before its own time."""
    slot = conversation.slot
    parked = slot and slot.held and slot.state is SlotState.RESERVED and not conversation.pause
    return bool(slot and parked and slot.channel not in scene.gates)


def _marked(conversation: Conversation, scene: Scene) -> Transition:
    slot = slot_of(conversation)
    if gate := scene.gates.get(slot.channel):
        return parked(conversation, slot, gate, scene.now)
    sending = marked(conversation, slot, scene.lease)
    return Transition(conversation=sending, reason=Reason.MESSAGE_MARKED)


def _run_away(conversation: Conversation, scene: Scene) -> Transition:
    return _acted(closed(conversation, ExitReason.RUNAWAY_GUARD, now=scene.now, by=DUE))


def _unreachable(conversation: Conversation, scene: Scene) -> Transition:
    """End it: its addresses were checked at acceptance, so the channels have changed since."""
    conversation = evolve(conversation, last_error="no address for the message's channels")
    return _acted(closed(conversation, ExitReason.FAILED_PERMANENT, now=scene.now, by=DUE))


def _without_address(conversation: Conversation, step: int, scene: Scene) -> Transition:
    """Pass a follow-up over, where the template says so."""
    stage = stage_of(scene.template, conversation.stage)
    if step == 0 or stage.follow_ups[step - 1].if_missing is None:
        return _unreachable(conversation, scene)
    visit = evolve(conversation.visit, messages=step + 1)
    wait_until = (conversation.wait_until or scene.now) + wait_after(stage, visit)
    conversation = evolve(conversation, visit=visit, wait_until=wait_until)
    reason = Reason.FOLLOW_UP_PASSED_OVER
    passed = moved(conversation, S.AWAITING_REPLY, reason, at=scene.now, by=DUE)
    return Transition(conversation=passed, reason=reason)


def _acted(outcome: Acted) -> Transition:
    conversation, effects = outcome
    reason = Reason(conversation.history[-1].reason)
    return Transition(conversation=conversation, reason=reason, effects=effects)
