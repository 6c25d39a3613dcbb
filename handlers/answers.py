"""How an update's decision is spelled: applied, ignored or rejected, with a reason."""

from handlers.atom import Acted
from schemas.conversation import Conversation
from schemas.transition import Answer, Effect, Reason, Transition
from schemas.update import UpdateStatus


def answered(conversation: Conversation, status: UpdateStatus, reason: Reason) -> Transition:
    return Transition(
        conversation=conversation, reason=reason, answer=Answer(status=status, reason=reason)
    )


def ignored(conversation: Conversation, reason: Reason) -> Transition:
    return answered(conversation, UpdateStatus.IGNORED, reason)


def rejected(conversation: Conversation, reason: Reason) -> Transition:
    return answered(conversation, UpdateStatus.REJECTED, reason)


def applied(
    conversation: Conversation, reason: Reason, effects: tuple[Effect, ...] = ()
) -> Transition:
    answer = Answer(status=UpdateStatus.APPLIED, reason=reason)
    return Transition(conversation=conversation, reason=reason, effects=effects, answer=answer)


def acted(outcome: Acted) -> Transition:
    """Answer with what the conversation's history says came of it."""
    conversation, effects = outcome
    return applied(conversation, Reason(conversation.history[-1].reason), effects)
