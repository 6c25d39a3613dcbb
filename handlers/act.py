"""Actions: the one place where `advance`, `complete`, `escalate`, `go_to` and `hold` are carried out."""

from attrs import frozen

from handlers.atom import Acted, closed, dropped_slot, entered
from handlers.moves import moved
from handlers.scene import Scene
from handlers.stages import next_stage
from schemas.action import Action, ActionKind
from schemas.conversation import Conversation, ConversationStatus, ExitReason
from schemas.evolving import evolve
from schemas.ids import AgentId
from schemas.transition import Reason


@frozen(kw_only=True)
class Cause:
    """What led to an action."""

    by: AgentId
    #: The exit reason where it completes the conversation.
    exit_reason: ExitReason


def act(conversation: Conversation, action: Action, cause: Cause, scene: Scene) -> Acted:
    """Carry out an action other than `stay`."""
    now, by = scene.now, cause.by
    match action.kind:
        case ActionKind.ADVANCE:
            stage = next_stage(scene.template, conversation.stage)
            if stage is None:
                return closed(conversation, cause.exit_reason, now=now, by=by)
            return entered(conversation, stage.id, Reason.STAGE_ADVANCED, now=now, by=by)
        case ActionKind.GO_TO:
            target = action.stage or conversation.stage
            return entered(conversation, target, Reason.WENT_TO_STAGE, now=now, by=by)
        case ActionKind.ESCALATE:
            return _handed_over(conversation, ConversationStatus.ESCALATED, cause, scene)
        case ActionKind.HOLD:
            return _handed_over(conversation, ConversationStatus.AWAITING_AGENT, cause, scene)
        case _:
            return closed(conversation, cause.exit_reason, now=now, by=by)


def _handed_over(
    conversation: Conversation, to: ConversationStatus, cause: Cause, scene: Scene
) -> Acted:
    if to is ConversationStatus.ESCALATED:
        reason, wait = Reason.ESCALATED, scene.template.escalation.deadline
    else:
        reason, wait = Reason.REPLY_HELD, scene.template.agent.deadline
    conversation, effects = dropped_slot(conversation, scene.now, reason)
    conversation = moved(conversation, to, reason, at=scene.now, by=cause.by)
    return evolve(conversation, unsent=None, wait_until=scene.now + wait), effects
