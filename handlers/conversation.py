"""One step of a conversation: everything that is to be decided about it now, as one write."""

from collections.abc import Sequence

from attrs import frozen

from handlers.atom import caught_up
from handlers.due import on_time
from handlers.scene import Scene
from handlers.updates import on_update
from schemas.conversation import Conversation, SlotState
from schemas.evolving import evolve
from schemas.ids import AgentId
from schemas.message import LedgerEntry
from schemas.transition import Answer, Effect, Reason
from schemas.update import ConversationUpdate


@frozen(kw_only=True)
class Step:
    """What a step leads to; `conversation` is the one given, unchanged, where nothing changes."""

    conversation: Conversation
    #: Of each decision that was made, in order.
    reasons: tuple[Reason, ...] = ()
    #: To be written before the conversation.
    effects: tuple[Effect, ...] = ()
    #: To be written after it, by update.
    answers: tuple[tuple[AgentId, Answer], ...] = ()


def step(
    conversation: Conversation,
    updates: Sequence[ConversationUpdate],
    entry: LedgerEntry | None,
    scene: Scene,
) -> Step:
    """
    Fold the unanswered updates by `at`, then `_id`; then decide what time has brought.

    Two updates of one conversation are one write, and so is the mark of the message they lead to.
    """
    # A failure put off its due time; it is over once a decision can be made again.
    present = caught_up(conversation, scene.campaign, scene.now)
    if present.failures:
        present = evolve(present, failures=0)
    reasons: list[Reason] = []
    effects: list[Effect] = []
    answers: list[tuple[AgentId, Answer]] = []
    for update in sorted(updates, key=lambda each: (each.at, str(each.id))):
        transition = on_update(present, update, scene)
        present = transition.conversation
        reasons.append(transition.reason)
        effects.extend(transition.effects)
        if transition.answer:
            answers.append((update.id, transition.answer))
    transition = on_time(present, entry, scene)
    if transition.reason is not Reason.NOT_DUE:
        reasons.append(transition.reason)
        effects.extend(transition.effects)
    return Step(
        conversation=transition.conversation,
        reasons=tuple(reasons),
        effects=tuple(effects),
        answers=tuple(answers),
    )


def hands_off(before: Conversation, after: Conversation) -> bool:
    """Say whether the step marked a message `sending`: once written, it is to be handed off."""
    slot = after.slot
    if slot is None or slot.state is not SlotState.SENDING:
        return False
    return before.slot is None or before.slot.token != slot.token
