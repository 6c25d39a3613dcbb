"""The walk of one batch: handle, apply, deliver. Whatever woke it, this is the way."""

from collections.abc import Mapping, Sequence
from functools import partial

from attrs import frozen
from loguru import logger

from handlers.campaign import reopened
from handlers.conversation import Step, hands_off, step
from handlers.gates import Allowance
from handlers.scene import Scene
from reactor.delivery import Marked, deliver
from reactor.effects import settle, write_effects
from reactor.engine import Engine
from reactor.failures import fail, fail_update
from reactor.giving_way import give_way
from reactor.inbox import Answers, read_updates
from reactor.store.protocol import (
    Applied,
    Batch,
    Change,
    Inbox,
    RawDocument,
    StoreRefusedError,
    StoreUnavailableError,
)
from schemas.conversation import Conversation
from schemas.evolving import evolve
from schemas.message import LedgerEntry
from schemas.update import ConversationUpdate

type Updates = Sequence[tuple[RawDocument, ConversationUpdate]]

#: Seconds before a `send` that waits for the end of a hand-off is looked at again.
WAIT_SECONDS = 0.5


@frozen(kw_only=True)
class Decided:
    """A conversation, what was decided about it, and the updates that this answers."""

    before: Conversation
    step: Step
    updates: Updates

    @property
    def changed(self) -> bool:
        # Field by field, and what is the same object is not looked into.
        return vars(self.step.conversation) != vars(self.before)


@frozen(kw_only=True)
class Setting:
    """What a turn found, and what it may do."""

    scene: Scene
    #: Monotonic seconds before `scene.now` was read.
    since: float
    #: How many messages each channel takes, of which the scene's gates are still open.
    allowed: Mapping[str, Allowance]


async def walk(engine: Engine, batch: Batch, setting: Setting) -> bool:
    """Take a loaded batch through; say whether anything was written."""
    scene, campaign = setting.scene, setting.scene.campaign
    link = (campaign.traceparent, campaign.tracestate)
    attributes = {
        "campaign_id": campaign.id,
        "campaign_type": campaign.type,
        "conversations": len(batch.conversations),
    }
    answers = Answers(scene.now)
    with engine.telemetry.span("handle", link=link, attributes=attributes):
        decided = await _handle(engine, batch, setting, answers)
    with engine.telemetry.span("apply", link=link, attributes=attributes) as note:
        applied = await _apply(engine, decided, scene)
        note(won=len(applied.won))
        _answer(decided, applied, answers)
        marked = {
            one.before.id: applied.won[one.before.id]
            for one in decided
            if one.before.id in applied.won and hands_off(one.before, one.step.conversation)
        }
        answered = len(answers)
        if not marked:
            await answers.write(engine.store, Inbox.CONVERSATION_UPDATES)
    engine.telemetry.processed(campaign.type, len(decided))
    _name_what_waits(engine, scene, decided, applied)
    if marked:
        mail = Marked(scene=scene, since=setting.since, conversations=marked)
        await deliver(engine, mail, partial(_answer_meanwhile, engine, answers))
    return bool(applied.won or answered or any(not each.newer for each in batch.broken))


async def _answer_meanwhile(engine: Engine, answers: Answers) -> None:
    """Whatever cannot be answered now is found by a sweep, and then it was applied before."""
    try:
        await answers.write(engine.store, Inbox.CONVERSATION_UPDATES)
    except (StoreUnavailableError, StoreRefusedError):
        engine.turns.want_sweep()


async def _handle(
    engine: Engine, batch: Batch, setting: Setting, answers: Answers
) -> list[Decided]:
    """
    Decide each conversation on its own: what fails is its own failure.

    As many messages of a channel are marked as it takes; from then on its gate is closed.
    """
    scene = setting.scene
    by_conversation = read_updates(batch.updates, answers)
    decided, rest = [], {name: each.count for name, each in setting.allowed.items()}
    for number, conversation in enumerate(batch.conversations, 1):
        await give_way(number)
        updates = by_conversation.get(conversation.id, [])
        slot = conversation.slot
        entry = batch.ledger.get(slot.key(conversation.id)) if slot else None
        outcome = attempt(conversation, updates, entry, scene)
        if isinstance(outcome, Step):
            decided.append(Decided(before=conversation, step=outcome, updates=updates))
            slot = outcome.conversation.slot
            if slot and slot.channel in rest and hands_off(conversation, outcome.conversation):
                rest[slot.channel] -= 1
                if not rest[slot.channel]:
                    gate = setting.allowed[slot.channel].gate
                    scene = evolve(scene, gates={**scene.gates, slot.channel: gate})
            continue
        error_type = type(outcome).__name__
        engine.telemetry.failed(scene.campaign.type, error_type)
        logger.bind(
            campaign_id=scene.campaign.id, conversation_id=conversation.id, error_type=error_type
        ).opt(exception=outcome).error("A conversation could not be decided")
        await _isolate(engine, conversation, updates, scene, error_type)
    for broken in batch.broken:
        if broken.newer:
            continue
        engine.telemetry.failed(scene.campaign.type, "InvalidDocumentError")
        await fail(engine, scene.campaign, broken, broken.problem, scene.now)
    return decided


def attempt(
    conversation: Conversation, updates: Updates, entry: LedgerEntry | None, scene: Scene
) -> Step | Exception:
    """Decide it; a defect is given, and not raised."""
    try:
        return step(conversation, [update for _, update in updates], entry, scene)
    except Exception as error:  # noqa: BLE001 - a defect of ours stops no neighbour
        return error


async def _isolate(
    engine: Engine, conversation: Conversation, updates: Updates, scene: Scene, error: str
) -> None:
    """Find out whether one of the updates is at fault; if none is, the conversation is."""
    for raw, update in updates:
        if isinstance(attempt(conversation, [(raw, update)], None, scene), Exception):
            await fail_update(engine, scene, raw, error)
            engine.turns.name(scene.campaign.id, [conversation.id])
            return
    await fail(engine, scene.campaign, conversation, error, scene.now)


async def _apply(engine: Engine, decided: Sequence[Decided], scene: Scene) -> Applied:
    """Write effects, then conversations; what was refused has failed by itself."""
    campaign = scene.campaign
    effects = [(one.before, effect) for one in decided for effect in one.step.effects]
    await write_effects(engine, campaign, effects, {})
    changed = {one.before.id: one for one in decided if one.changed}
    if not changed:
        return Applied(won={})
    reopens = any(
        one.before.due_at is None and one.step.conversation.due_at for one in changed.values()
    )
    if reopens and not await _keep_open(engine, scene):
        return Applied(won={})
    applied = await engine.store.apply(
        [Change(before=one.before, after=one.step.conversation) for one in changed.values()],
        token=scene.lease.token,
    )
    settle(engine, campaign, [(changed[key].before, after) for key, after in applied.won.items()])
    for identity, error in applied.refused.items():
        engine.telemetry.failed(campaign.type, "Refused")
        await fail(engine, campaign, changed[identity].before, error, scene.now)
    return applied


async def _keep_open(engine: Engine, scene: Scene) -> bool:
    """
    Keep a campaign from its end, or bring it back, before a conversation of it is open again.

    It stays so for as long as the conversation's write may take: whoever saw none open, and is about
    to complete it, loses by its version. False: another worker was faster, and all is to be decided
    again.
    """
    until, campaign = scene.lease.until, scene.campaign
    if campaign.open_until and campaign.open_until >= until and not campaign.completed_at:
        return True
    # One lease more, so that many retries cost a write a lease, not one a batch.
    active = reopened(campaign, scene.now, until + engine.scale.campaign_span(engine.lease_seconds))
    return await engine.store.write_campaign(campaign, active) is not None


def _answer(decided: Sequence[Decided], applied: Applied, answers: Answers) -> None:
    """Answer the updates of what was written, and of what needed no write."""
    for one in decided:
        if one.changed and one.before.id not in applied.won:
            continue
        by_id = dict(one.step.answers)
        for raw, update in one.updates:
            if update.id in by_id:
                answers.add(raw, by_id[update.id])
            else:
                # It keeps its place in the order of updates while it waits.
                answers.put(raw, {"at": update.at})


def _name_what_waits(
    engine: Engine, scene: Scene, decided: Sequence[Decided], applied: Applied
) -> None:
    """Have decided again what lost its race, and a `send` that waits for the end of a hand-off."""
    lost = [
        one.before.id
        for one in decided
        if one.changed and one.before.id not in (applied.won.keys() | applied.refused.keys())
    ]
    if lost:
        engine.telemetry.lost(scene.campaign.type, len(lost))
        engine.turns.name(scene.campaign.id, lost)
    waiting = [one.before.id for one in decided if len(one.step.answers) < len(one.updates)]
    at = scene.now + engine.scale.campaign_span(WAIT_SECONDS)
    engine.turns.name_later(scene.campaign.id, waiting, at)
