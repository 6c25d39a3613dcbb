"""What comes back from the world about an address or a message: reports, bounces, opt-outs."""

from datetime import datetime

from handlers.answers import applied, ignored
from handlers.atom import closed
from handlers.outcome import report_settles
from handlers.scene import Scene
from handlers.sending import channel_for
from handlers.stages import address_kind, find_stage
from schemas.address import address_key
from schemas.conversation import Conversation, ExitReason, MessageRef, Slot, SlotState
from schemas.evolving import evolve
from schemas.ids import SendKey, read_send_key
from schemas.message import MessageStatus, Suppression
from schemas.transition import Effect, Reason, Record, Report, Suppress, Transition
from schemas.update import Bounce, ConversationUpdate, OptOutScope


def on_delivered(
    conversation: Conversation, update: ConversationUpdate, scene: Scene
) -> Transition:
    key = _reported_key(conversation, update, scene)
    if key is None:
        return ignored(conversation, Reason.NO_SUCH_MESSAGE)
    reported = _reported(conversation, key, MessageStatus.DELIVERED, update.at)
    slot = conversation.slot
    if slot and slot.key(conversation.id) == key and _in_doubt(slot, scene.now):
        conversation, effects = report_settles(conversation, scene)
        return applied(conversation, Reason.REPORTED, (*reported, *effects))
    if slot and slot.key(conversation.id) == key and _is_handed_off(slot):
        # Its worker is still waiting for an answer, which may not come.
        conversation = evolve(conversation, slot=evolve(slot, reported=True))
    return applied(conversation, Reason.REPORTED, reported)


def _reported(
    conversation: Conversation, key: SendKey, status: MessageStatus, at: datetime
) -> tuple[Effect, ...]:
    """Report on a message. One in flight is entered too: its worker may not live to do so."""
    report, slot = Report(key=key, status=status, at=at), conversation.slot
    if slot and slot.key(conversation.id) == key and _is_handed_off(slot):
        return Record(slot=slot, status=MessageStatus.SENT, at=at), report
    return (report,)


def _in_doubt(slot: Slot, now: datetime) -> bool:
    """Say whether nobody but a report will say what came of it: the worker that had it is gone."""
    if slot.state is SlotState.RESERVED:
        return slot.uncertain
    return slot.state is SlotState.UNKNOWN or slot.until <= now


def on_bounced(conversation: Conversation, update: ConversationUpdate, scene: Scene) -> Transition:
    if update.bounce is Bounce.SOFT:
        return ignored(conversation, Reason.SOFT_BOUNCE)
    key = _reported_key(conversation, update, scene)
    if key is None and update.message_id is not None:
        return ignored(conversation, Reason.NO_SUCH_MESSAGE)
    effects: tuple[Effect, ...] = _suppress(_written_to(conversation, scene), update)
    if key is not None:
        effects = (*_reported(conversation, key, MessageStatus.BOUNCED, update.at), *effects)
    return _suppressed(conversation, update, ExitReason.BOUNCED, effects, scene)


def on_opted_out(
    conversation: Conversation, update: ConversationUpdate, scene: Scene
) -> Transition:
    if update.scope is OptOutScope.RECIPIENT:
        addresses = conversation.address_keys
    else:
        addresses = _written_to(conversation, scene)
    effects = _suppress(addresses, update)
    return _suppressed(conversation, update, ExitReason.OPTED_OUT, effects, scene)


def _suppressed(
    conversation: Conversation,
    update: ConversationUpdate,
    exit_reason: ExitReason,
    effects: tuple[Effect, ...],
    scene: Scene,
) -> Transition:
    """The suppression comes first, in whatever state the conversation is."""
    if not conversation.is_open:
        return applied(conversation, Reason.SUPPRESSED, effects)
    conversation, dropped = closed(conversation, exit_reason, now=scene.now, by=update.id)
    return applied(conversation, Reason.COMPLETED, (*effects, *dropped))


def _suppress(addresses: tuple[str, ...], update: ConversationUpdate) -> tuple[Effect, ...]:
    return tuple(
        Suppress(
            suppression=Suppression(
                id=address, reason=update.kind.value, at=update.at, by=update.id
            )
        )
        for address in addresses
    )


def _written_to(conversation: Conversation, scene: Scene) -> tuple[str, ...]:
    """Give the address key last written to, or the one that would be; all, where neither is known."""
    last = _last_handed_off(conversation)
    channel = last.channel if last else channel_for(conversation, None, scene)
    if channel is None:
        return conversation.address_keys
    kind = address_kind(channel, scene.channels)
    address = conversation.recipient.address.get(kind)
    return (address_key(kind, address),) if address else conversation.address_keys


def _reported_key(
    conversation: Conversation, update: ConversationUpdate, scene: Scene
) -> SendKey | None:
    """Give the key that a report is about; None if this conversation has no such message."""
    if update.message_id is None:
        last = _last_handed_off(conversation)
        return last.key(conversation.id) if last else None
    named = read_send_key(conversation.id, update.message_id)
    if named is None or not _had(conversation, *named, scene):
        return None
    return SendKey(update.message_id)


def _had(conversation: Conversation, stage: str, n: int, scene: Scene) -> bool:
    """Say whether it had such a message, as far as is known: of older ones the stage is forgotten."""
    for known in (conversation.slot, conversation.last_message):
        if known and known.n == n:
            return known.stage == stage
    return n < conversation.message_count and find_stage(scene.template, stage) is not None


def _last_handed_off(conversation: Conversation) -> MessageRef | None:
    """Give the last message that a channel has, as far as is known: one only reserved is not it."""
    slot = conversation.slot
    return slot.ref() if slot and _is_handed_off(slot) else conversation.last_message


def _is_handed_off(slot: Slot) -> bool:
    return slot.uncertain or slot.state is not SlotState.RESERVED
