"""What comes back from the world about an address or a message: reports, bounces, opt-outs."""

from handlers.answers import applied, ignored
from handlers.atom import closed
from handlers.outcome import report_settles
from handlers.scene import Scene
from handlers.sending import channel_for
from handlers.stages import address_kind
from schemas.address import address_key
from schemas.conversation import Conversation, ExitReason, SlotState
from schemas.ids import SendKey
from schemas.message import MessageStatus, Suppression
from schemas.transition import Effect, Reason, Report, Suppress, Transition
from schemas.update import Bounce, ConversationUpdate, OptOutScope


def on_delivered(
    conversation: Conversation, update: ConversationUpdate, scene: Scene
) -> Transition:
    key = _reported_key(conversation, update)
    if key is None:
        return ignored(conversation, Reason.NO_SUCH_MESSAGE)
    report = Report(key=key, status=MessageStatus.DELIVERED, at=update.at)
    slot = conversation.slot
    if slot and slot.state is SlotState.UNKNOWN and slot.key(conversation.id) == key:
        conversation, effects = report_settles(conversation, scene)
        return applied(conversation, Reason.REPORTED, (report, *effects))
    return applied(conversation, Reason.REPORTED, (report,))


def on_bounced(conversation: Conversation, update: ConversationUpdate, scene: Scene) -> Transition:
    if update.bounce is Bounce.SOFT:
        return ignored(conversation, Reason.SOFT_BOUNCE)
    key = _reported_key(conversation, update)
    if key is None:
        return ignored(conversation, Reason.NO_SUCH_MESSAGE)
    report = Report(key=key, status=MessageStatus.BOUNCED, at=update.at)
    effects = (report, *_suppress(_written_to(conversation, scene), update))
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
    last = conversation.slot or conversation.last_message
    channel = last.channel if last else channel_for(conversation, None, scene)
    kind = address_kind(channel, scene.channels) if channel else ""
    address = conversation.recipient.address.get(kind)
    return (address_key(kind, address),) if address else conversation.address_keys


def _reported_key(conversation: Conversation, update: ConversationUpdate) -> SendKey | None:
    """Give the key that a report is about; None if this conversation has no such message."""
    last = conversation.slot or conversation.last_message
    if update.message_id is None:
        return SendKey(last.key(conversation.id)) if last else None
    owner, _, number = update.message_id.rpartition("/")
    known = owner.startswith(f"{conversation.id}/") and number.isdecimal()
    if not known or int(number) >= conversation.message_count:
        return None
    return SendKey(update.message_id)
