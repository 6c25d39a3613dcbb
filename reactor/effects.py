"""Effects: what is written beside a conversation, before it; and what is told about it, after it."""

from collections.abc import Mapping, Sequence

from reactor.engine import Engine
from reactor.ledger import entry_of
from schemas.campaign import Campaign
from schemas.conversation import Conversation
from schemas.hand_off import HandOff
from schemas.ids import ConversationId
from schemas.transition import Effect, Reason, Record, Report, Suppress

#: Of the history's reasons, those that count as stage advancement.
ADVANCEMENTS = frozenset({Reason.STAGE_ADVANCED, Reason.WENT_TO_STAGE})


async def write_effects(
    engine: Engine,
    campaign: Campaign,
    effects: Sequence[tuple[Conversation, Effect]],
    rendered: Mapping[ConversationId, HandOff],
) -> None:
    """
    Write suppressions, then the ledger: each kind in a fixed number of commands.

    They come before the conversation's own write, so that nothing that was answered is lost; one
    that loses its race has entered what is true or what ranks lowest.
    """
    suppressions = [effect.suppression for _, effect in effects if isinstance(effect, Suppress)]
    entries = [
        entry_of(conversation, effect, campaign, engine.specs, _of(effect, conversation, rendered))
        for conversation, effect in effects
        if isinstance(effect, Record)
    ]
    reports = [(effect, one) for one, effect in effects if isinstance(effect, Report)]
    if suppressions:
        await engine.store.suppress(suppressions)
    if entries:
        await engine.store.record(entries)
    if reports:
        about = {report.key: conversation for report, conversation in reports}
        await engine.store.report([report for report, _ in reports], about)
    if entries or reports:
        engine.changed.note(campaign.id)


def settle(
    engine: Engine, campaign: Campaign, changes: Sequence[tuple[Conversation, Conversation]]
) -> None:
    """
    Take note of conversations as they were, and as they now stand: timers, counts, metrics.

    Another turn may have looked before they were written: it has seen them in flight, and waits for
    the end of their lease. What is due earlier, or the end of the campaign, must not wait with it.
    """
    if changes:
        engine.changed.note(campaign.id)
    for before, after in changes:
        engine.turns.belongs(after)
        if after.due_at:
            engine.turns.due(campaign.id, after.due_at)
        else:
            engine.turns.ready(campaign.id)
        slot = after.slot
        if slot and slot.held and slot.channel in engine.watches:
            engine.watches[slot.channel].queued.setdefault(campaign.id)
        for entry in after.history[len(before.history) :]:
            if entry.reason in ADVANCEMENTS:
                engine.telemetry.advanced(campaign.type, entry.reason)


def _of(
    record: Record, conversation: Conversation, rendered: Mapping[ConversationId, HandOff]
) -> HandOff | None:
    """Give the hand-off of this very message, if it was just rendered."""
    hand_off = rendered.get(conversation.id)
    key = record.slot.key(conversation.id)
    return hand_off if hand_off and hand_off.key == key else None
