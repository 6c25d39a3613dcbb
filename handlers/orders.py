"""What the agent orders: escalate, resolve, goal, cancel, pause, resume, retry."""

from handlers.act import Cause, act
from handlers.answers import acted, applied, ignored, rejected
from handlers.atom import closed, effective_pause, held_still, released, waiting_again
from handlers.moves import moved
from handlers.outcome import assumed_sent
from handlers.replies import names_unknown_stage
from handlers.scene import Scene
from schemas.action import ESCALATE, ActionKind
from schemas.campaign import CampaignStatus
from schemas.conversation import (
    Conversation,
    ConversationStatus,
    ExitReason,
    Pause,
    SlotState,
)
from schemas.evolving import evolve
from schemas.ids import AgentId
from schemas.transition import Reason, Transition
from schemas.update import ConversationUpdate, Resolve

S = ConversationStatus
_ENDED = frozenset({CampaignStatus.CANCELLED, CampaignStatus.FAILED})


def on_escalate(conversation: Conversation, update: ConversationUpdate, scene: Scene) -> Transition:
    if conversation.status is S.ESCALATED:
        return ignored(conversation, Reason.REPEATED)
    cause = Cause(by=update.id, exit_reason=ExitReason.ESCALATION_RESOLVED)
    return acted(act(conversation, ESCALATE, cause, scene))


def on_escalation_resolved(
    conversation: Conversation, update: ConversationUpdate, scene: Scene
) -> Transition:
    if conversation.status is not S.ESCALATED:
        return ignored(conversation, Reason.NOT_ESCALATED)
    if names_unknown_stage(update.resolution, scene):
        return rejected(conversation, Reason.NO_SUCH_STAGE)
    if update.resolution.kind is ActionKind.STAY:
        stayed = waiting_again(conversation, Reason.ESCALATION_STAYED, scene, update.id)
        return applied(stayed, Reason.ESCALATION_STAYED)
    cause = Cause(by=update.id, exit_reason=ExitReason.ESCALATION_RESOLVED)
    return acted(act(conversation, update.resolution, cause, scene))


def on_goal_reached(
    conversation: Conversation, update: ConversationUpdate, scene: Scene
) -> Transition:
    return acted(closed(conversation, ExitReason.GOAL_REACHED, now=scene.now, by=update.id))


def on_cancel(conversation: Conversation, update: ConversationUpdate, scene: Scene) -> Transition:
    return acted(closed(conversation, ExitReason.CANCELLED, now=scene.now, by=update.id))


def on_pause(conversation: Conversation, update: ConversationUpdate, scene: Scene) -> Transition:
    if conversation.pause:
        return ignored(conversation, Reason.REPEATED)
    still = held_still(conversation, update.until, scene.now)
    paused = moved(conversation, S.PAUSED, Reason.PAUSED, at=scene.now, by=update.id)
    return applied(evolve(paused, pause=still.pause), Reason.PAUSED)


def on_resume(conversation: Conversation, update: ConversationUpdate, scene: Scene) -> Transition:
    if conversation.pause is None:
        return ignored(conversation, Reason.NOT_PAUSED)
    resumed = resume(conversation, conversation.pause, scene, update.id)
    return applied(resumed, Reason.RESUMED)


def resume(conversation: Conversation, pause: Pause, scene: Scene, by: AgentId) -> Conversation:
    """End a pause: because of an update, or because its `until` is past."""
    still = evolve(released(conversation, pause, scene.now), status=S.PAUSED)
    return moved(still, pause.status, Reason.RESUMED, at=scene.now, by=by)


def on_retry(conversation: Conversation, update: ConversationUpdate, scene: Scene) -> Transition:
    if conversation.status is not S.FAILED:
        return ignored(conversation, Reason.NOT_FAILED)
    if scene.now >= conversation.deadline_at or scene.campaign.status in _ENDED:
        return ignored(conversation, Reason.DEADLINE_OVER)
    return applied(retry(conversation, scene, update.id), Reason.RETRIED)


def on_unknown_resolved(
    conversation: Conversation, update: ConversationUpdate, scene: Scene
) -> Transition:
    """A human decides about a message that is held because nobody knows what came of it."""
    slot = conversation.slot
    named = update.message_id is None or (
        slot is not None and slot.key(conversation.id) == update.message_id
    )
    if slot is None or slot.state is not SlotState.UNKNOWN or not named:
        return ignored(conversation, Reason.NOT_IN_DOUBT)
    if update.outcome is Resolve.ASSUME_SENT:
        conversation, effects = assumed_sent(conversation, scene)
        return applied(conversation, Reason.MESSAGE_SENT, effects)
    # Whoever decided it has all of the policy's attempts, and the doubt about the earlier ones.
    again = evolve(slot, state=SlotState.RESERVED, until=scene.now, spared=slot.attempts)
    return applied(evolve(conversation, slot=again), Reason.MESSAGE_RESENT)


def retry(conversation: Conversation, scene: Scene, by: AgentId) -> Conversation:
    """Put a failed conversation back where it stood; what failed is next, under a new key."""
    now = scene.now
    # The visit's follow-ups go on only after its own message; before that, it is still pending.
    on_way = conversation.visit.messages and not conversation.unsent
    walking = S.AWAITING_REPLY if on_way else S.PENDING
    return evolve(
        moved(conversation, walking, Reason.RETRIED, at=now, by=by),
        exit_reason=None,
        failures=0,
        last_error=None,
        pause=None,
        # What stood still while it was failed is none of its waits.
        pause_seen=effective_pause(scene.campaign, now),
        wait_until=conversation.wait_until or now,
    )
