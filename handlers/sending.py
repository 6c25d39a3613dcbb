"""Reserving a message and marking it `sending`: how the slot is filled."""

from datetime import datetime

from attrs import frozen

from handlers.scene import Lease, Scene
from handlers.stages import channel_names, message_of, pick_channel, stage_of
from schemas.action import Action
from schemas.conversation import AgentText, Conversation, Slot, SlotState, Thread
from schemas.evolving import evolve
from schemas.ids import AgentId


@frozen(kw_only=True)
class Written:
    """What the agent wrote, and what is to happen after it was sent."""

    text: AgentText
    by: AgentId
    then: Action


def channel_for(conversation: Conversation, step: int | None, scene: Scene) -> str | None:
    """Give the first channel for the message whose address the recipient has."""
    stage = stage_of(scene.template, conversation.stage)
    names = channel_names(scene.template, stage, step)
    return pick_channel(names, conversation.recipient, scene.channels)


def reserve_step(conversation: Conversation, step: int, channel: str, scene: Scene) -> Conversation:
    """Fill the slot with a message of the template, under a new key."""
    due = min(conversation.wait_until or scene.now, scene.now)
    ttl = message_of(stage_of(scene.template, conversation.stage), step).ttl
    slot = _slot(conversation, channel, due, scene, step, due + ttl if ttl else None)
    return _filled(conversation, slot)


def reserve_text(
    conversation: Conversation, written: Written, channel: str, scene: Scene
) -> Conversation:
    """Fill the slot with what the agent wrote, under a new key."""
    slot = _slot(conversation, channel, scene.now, scene)
    return _filled(conversation, evolve(slot, text=written.text, by=written.by, then=written.then))


def _slot(
    conversation: Conversation,
    channel: str,
    due: datetime,
    scene: Scene,
    step: int | None = None,
    send_before: datetime | None = None,
) -> Slot:
    return Slot(
        stage=conversation.stage,
        n=conversation.message_count,
        step=step,
        channel=channel,
        reply=conversation.reply,
        thread=conversation.visit.thread,
        in_reply_to=conversation.last_message,
        decided_at=scene.now,
        due_at=due,
        send_before=send_before,
        state=SlotState.RESERVED,
        until=scene.now,
    )


def _filled(conversation: Conversation, slot: Slot) -> Conversation:
    visit = conversation.visit
    if slot.step == 0:
        visit = evolve(visit, thread=Thread(decided_at=slot.decided_at, reply=slot.reply))
    return evolve(
        conversation,
        slot=slot,
        visit=visit,
        unsent=None,
        message_count=conversation.message_count + 1,
    )


def slot_of(conversation: Conversation) -> Slot:
    """Give the slot of a conversation that is known to have a message in it."""
    if conversation.slot is None:
        raise LookupError("there is no message in the slot")
    return conversation.slot


def marked(conversation: Conversation, slot: Slot, lease: Lease) -> Conversation:
    """Mark it `sending` under the lease. A mark counts an attempt; one after a mark leaves a doubt."""
    return evolve(
        conversation,
        slot=evolve(
            slot,
            state=SlotState.SENDING,
            attempts=slot.attempts + 1,
            uncertain=slot.uncertain or slot.state is not SlotState.RESERVED,
            token=lease.token,
            until=lease.until,
            held=None,
        ),
    )
