"""Replies, their late classification, and what the agent writes itself."""

from handlers.act import Cause, act
from handlers.answers import acted, answered, applied, ignored, rejected
from handlers.atom import closed, dropped_slot, waiting_again
from handlers.moves import moved
from handlers.scene import Scene
from handlers.sending import Written, channel_for, reserve_text
from handlers.stages import find_stage, stage_of
from schemas.action import COMPLETE, Action, ActionKind
from schemas.conversation import (
    AgentText,
    Conversation,
    ConversationStatus,
    ExitReason,
    Reply,
    SlotState,
)
from schemas.evolving import evolve
from schemas.ids import send_key
from schemas.template import UNCLASSIFIED, Stage
from schemas.transition import Answer, Reason, Transition
from schemas.update import ConversationUpdate, UpdateStatus

S = ConversationStatus


def on_reply(conversation: Conversation, update: ConversationUpdate, scene: Scene) -> Transition:
    if update.reply_id is not None:
        return _on_classification(conversation, update, scene)
    intent = update.intent or UNCLASSIFIED
    reply = Reply(id=update.id, at=update.at, text=update.text, intent=intent)
    conversation = evolve(conversation, reply=reply)
    if conversation.status is S.ESCALATED:
        return _stayed(conversation, update, Reason.REPLY_NOTED, scene)
    return _ruled(conversation, reply, update, scene)


def _on_classification(
    conversation: Conversation, update: ConversationUpdate, scene: Scene
) -> Transition:
    reply = conversation.reply
    if reply is None:
        return ignored(conversation, Reason.NO_SUCH_REPLY)
    if reply.id != update.reply_id:
        return ignored(conversation, Reason.SUPERSEDED)
    if reply.settled or conversation.status is S.ESCALATED:
        return ignored(conversation, Reason.REPLY_SETTLED)
    reply = evolve(reply, intent=update.intent or UNCLASSIFIED)
    conversation = evolve(conversation, reply=reply)
    stays = rule_for(stage_of(scene.template, conversation.stage), reply.intent)
    if stays.kind is ActionKind.STAY and conversation.status is S.AWAITING_AGENT:
        conversation = waiting_again(conversation, Reason.REPLY_STAYED, scene, update.id)
        return applied(conversation, Reason.REPLY_STAYED)
    return _ruled(conversation, reply, update, scene)


def _ruled(
    conversation: Conversation, reply: Reply, update: ConversationUpdate, scene: Scene
) -> Transition:
    action = rule_for(stage_of(scene.template, conversation.stage), reply.intent)
    if action.kind is ActionKind.STAY:
        return _stayed(conversation, update, Reason.REPLY_STAYED, scene)
    # What is held can still be classified; everything else has led somewhere.
    settled = evolve(reply, settled=action.kind is not ActionKind.HOLD)
    cause = Cause(by=update.id, exit_reason=ExitReason.REPLIED)
    return acted(act(evolve(conversation, reply=settled), action, cause, scene))


def _stayed(
    conversation: Conversation, update: ConversationUpdate, reason: Reason, scene: Scene
) -> Transition:
    """Record it; timers and a message on its way go on as if it had not come."""
    status = conversation.status
    return applied(moved(conversation, status, reason, at=scene.now, by=update.id), reason)


def rule_for(stage: Stage, intent: str) -> Action:
    """Give the action of the first rule that matches; a reply that no rule names completes."""
    for rule in stage.on_reply:
        if not rule.intent or intent in rule.intent:
            return rule.then
    return COMPLETE


def on_send(conversation: Conversation, update: ConversationUpdate, scene: Scene) -> Transition:
    slot, reply = conversation.slot, conversation.reply
    if slot and slot.state is not SlotState.RESERVED:
        return Transition(conversation=conversation, reason=Reason.WAITS)
    if update.in_reply_to is not None and (reply is None or reply.id != update.in_reply_to):
        return ignored(conversation, Reason.SUPERSEDED)
    if names_unknown_stage(update.then, scene):
        return rejected(conversation, Reason.NO_SUCH_STAGE)
    channel = channel_for(conversation, None, scene)
    if channel is None:
        return rejected(conversation, Reason.NO_ADDRESS)
    if conversation.message_count >= scene.template.max_messages:
        conversation, effects = closed(
            conversation, ExitReason.RUNAWAY_GUARD, now=scene.now, by=update.id
        )
        refused = answered(conversation, UpdateStatus.IGNORED, Reason.RUNAWAY_GUARD)
        return evolve(refused, effects=effects)
    return _reserved(conversation, update, channel, scene)


def _reserved(
    conversation: Conversation, update: ConversationUpdate, channel: str, scene: Scene
) -> Transition:
    conversation, effects = dropped_slot(conversation, scene.now, Reason.SEND_RESERVED)
    key = send_key(conversation.id, conversation.stage, conversation.message_count)
    visit = conversation.visit
    conversation = evolve(
        conversation,
        visit=evolve(visit, messages=max(1, visit.messages), follow_ups_dropped=True),
        reply=conversation.reply and evolve(conversation.reply, settled=True),
    )
    text = update.message or AgentText(body=update.text)
    written = Written(text=text, by=update.id, then=update.then)
    conversation = reserve_text(conversation, written, channel, scene)
    conversation = moved(conversation, S.PENDING, Reason.SEND_RESERVED, at=scene.now, by=update.id)
    answer = Answer(status=UpdateStatus.APPLIED, reason=Reason.SEND_RESERVED, message_id=key)
    return Transition(
        conversation=conversation, reason=Reason.SEND_RESERVED, effects=effects, answer=answer
    )


def names_unknown_stage(action: Action, scene: Scene) -> bool:
    return action.stage is not None and find_stage(scene.template, action.stage) is None
