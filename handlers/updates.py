"""
The table of conversation updates: one handler per kind, and the one way in.

A stale or repeated update is an answer with a reason, never an exception. Under a pause a handler
decides as if there were none, and the pause is put back.
"""

from collections.abc import Callable, Mapping

from handlers.answers import answered, applied, ignored
from handlers.atom import Acted, settled, under_pause
from handlers.orders import (
    on_cancel,
    on_escalate,
    on_escalation_resolved,
    on_goal_reached,
    on_pause,
    on_resume,
    on_retry,
    on_unknown_resolved,
)
from handlers.replies import on_reply, on_send
from handlers.reports import on_bounced, on_delivered, on_opted_out
from handlers.scene import Scene
from schemas.conversation import MAX_APPLIED, Conversation
from schemas.evolving import evolve
from schemas.transition import Reason, Suppress, Transition
from schemas.update import ConversationUpdate, UpdateKind, UpdateStatus

type Handler = Callable[[Conversation, ConversationUpdate, Scene], Transition]

HANDLERS: Mapping[UpdateKind, Handler] = {
    UpdateKind.REPLY: on_reply,
    UpdateKind.SEND: on_send,
    UpdateKind.DELIVERED: on_delivered,
    UpdateKind.BOUNCED: on_bounced,
    UpdateKind.OPTED_OUT: on_opted_out,
    UpdateKind.ESCALATE: on_escalate,
    UpdateKind.ESCALATION_RESOLVED: on_escalation_resolved,
    UpdateKind.GOAL_REACHED: on_goal_reached,
    UpdateKind.PAUSE: on_pause,
    UpdateKind.RESUME: on_resume,
    UpdateKind.CANCEL: on_cancel,
    UpdateKind.RETRY: on_retry,
    UpdateKind.UNKNOWN_RESOLVED: on_unknown_resolved,
}
#: Updates that mean something to a closed conversation.
AFTER_THE_END = frozenset(
    {UpdateKind.DELIVERED, UpdateKind.BOUNCED, UpdateKind.OPTED_OUT, UpdateKind.RETRY}
)
_SUPPRESSING = frozenset({UpdateKind.BOUNCED, UpdateKind.OPTED_OUT})
_PAUSING = frozenset({UpdateKind.PAUSE, UpdateKind.RESUME})


def on_update(conversation: Conversation, update: ConversationUpdate, scene: Scene) -> Transition:
    """Decide one update. Without an answer it stays as it is: a `send` during a hand-off."""
    if update.id in conversation.applied:
        return answered(conversation, UpdateStatus.APPLIED, Reason.REPEATED)
    if scene.campaign.removing_since:
        return _while_leaving(conversation, update, scene)
    if not conversation.is_open and update.kind not in AFTER_THE_END:
        return ignored(conversation, Reason.FINAL)
    transition = _decided(conversation, update, scene)
    if transition.conversation == conversation:
        return transition
    remembered = (*conversation.applied, update.id)[-MAX_APPLIED:]
    changed = evolve(transition.conversation, applied=remembered)
    return evolve(transition, conversation=settled(changed))


def _while_leaving(
    conversation: Conversation, update: ConversationUpdate, scene: Scene
) -> Transition:
    """What leaves is not written to any more; but who must not be written to is kept for ever."""
    if update.kind not in _SUPPRESSING:
        return ignored(conversation, Reason.REMOVED)
    effects = HANDLERS[update.kind](conversation, update, scene).effects
    kept = tuple(effect for effect in effects if isinstance(effect, Suppress))
    if not kept:
        return ignored(conversation, Reason.REMOVED)
    return applied(conversation, Reason.SUPPRESSED, kept)


def _decided(conversation: Conversation, update: ConversationUpdate, scene: Scene) -> Transition:
    handler = HANDLERS[update.kind]
    if not conversation.is_open or conversation.pause is None or update.kind in _PAUSING:
        return handler(conversation, update, scene)
    decided: list[Transition] = []

    def decide(inner: Conversation) -> Acted:
        decided.append(handler(inner, update, scene))
        return decided[0].conversation, decided[0].effects

    changed, _ = under_pause(conversation, scene.now, decide)
    return evolve(decided[0], conversation=changed)
