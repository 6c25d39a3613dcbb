"""
Decisions as tests see them: a campaign with every rule, conversations in every place, and checks.

A row of a case table says only what changes: whatever it does not name must stay as it was.
"""

from datetime import timedelta

import pytest
from attrs import evolve, frozen

from handlers.conversation import step
from handlers.moves import MOVES
from handlers.outcome import on_outcome
from handlers.scene import Lease, Scene
from handlers.updates import on_update
from schemas.action import ADVANCE, COMPLETE, ESCALATE, HOLD, STAY, go_to
from schemas.campaign import CampaignStatus
from schemas.channel import ChannelState
from schemas.conversation import (
    MAX_APPLIED,
    MAX_HISTORY,
    AgentText,
    ConversationStatus,
    ExitReason,
    MessageRef,
    Pause,
    SlotState,
    Thread,
    Visit,
)
from schemas.hand_off import ChannelSpec, OnUnknown, Outcome, OutcomeKind
from schemas.message import LedgerEntry, MessageStatus
from schemas.transition import Reason, Record, Report, Suppress
from schemas.update import ConversationUpdate, Resolve, UpdateKind
from tests.builders import (
    DAY,
    HOUR,
    NOW,
    REQUEST,
    campaign,
    conversation,
    follow_up,
    message,
    reply,
    rule,
    slot,
    stage,
    template,
)

S = ConversationStatus
MINUTE = timedelta(minutes=1)
LEASE = Lease(token="ours", until=NOW + MINUTE)
#: Of the campaign that follows: how long silence lasts after its messages.
WITHIN = 3 * DAY
AGENT_DEADLINE, ESCALATION_DEADLINE = DAY, 7 * DAY
RULES = (
    rule(HOLD, "unclassified", "question"),
    rule(STAY, "away"),
    rule(ADVANCE, "next"),
    rule(go_to("thanks"), "interested"),
    rule(go_to("intro"), "again"),
    rule(ESCALATE, "human"),
    rule(COMPLETE, "no", "never"),
)
TEMPLATE = template(
    stages=(
        stage(
            "intro",
            message=message(ttl=2 * DAY),
            follow_ups=(follow_up(after=2 * DAY), follow_up(after=4 * DAY)),
            reply_within=WITHIN,
            on_reply=RULES,
            on_no_reply=ADVANCE,
        ),
        stage("demo", on_no_reply=go_to("thanks")),
        stage("thanks", final=True),
    )
)


def channel(name="email", **changes):
    """Make a channel that sends to addresses of its own name."""
    return ChannelSpec(**{"name": name, "address_kind": name} | changes)


def works(name="email", **changes):
    """Say of a channel that it has just taken a message."""
    return ChannelState(**{"id": name, "succeeded_at": NOW + DAY * 365} | changes)


def scene(*, now=NOW, policy=OnUnknown.RESEND, channels=None, states=None, gates=(), **changes):
    """Make the scene of a campaign with every rule; other fields change the campaign."""
    known = [works()] if states is None else states
    specs = [channel("email", on_unknown=policy)] if channels is None else channels
    return Scene(
        now=now,
        campaign=campaign(**{"template": TEMPLATE} | changes),
        channels={spec.name: spec for spec in specs},
        lease=evolve(LEASE, until=now + MINUTE),
        states={state.id: state for state in known},
        gates=dict(gates),
    )


def paused_campaign(since=NOW - HOUR, **changes):
    """Give the fields of a campaign that is paused."""
    active, paused = CampaignStatus.ACTIVE, CampaignStatus.PAUSED
    return {"status": paused, "paused_from": active, "paused_at": since} | changes


def update(kind, **fields):
    """Make an update of the conversation of recipient r0."""
    kind = UpdateKind(kind)
    default = {"id": f"{kind}-9", "conversation_id": conversation().id, "at": NOW}
    if kind is UpdateKind.SEND:
        default["message"] = AgentText(body="It is 12.")
    if kind is UpdateKind.UNKNOWN_RESOLVED:
        default["outcome"] = Resolve.RESEND
    return ConversationUpdate(kind=kind, **default | fields)


def entry(status, **changes):
    """Make the ledger's entry of message 0, after its first attempt."""
    made = LedgerEntry(
        id=slot().key(conversation().id),
        status=MessageStatus(status),
        campaign_id=conversation().campaign_id,
        batch_request_id=REQUEST,
        conversation_id=conversation().id,
        recipient_id="r0",
        attempts=1,
    )
    return evolve(made, **changes)


# -- places: where a conversation may be ---------------------------------------------------------
THREAD = Thread(decided_at=NOW - DAY)
FIRST = MessageRef(stage="intro", n=0, channel="email")


def pending(**changes):
    """Make a conversation whose first message is due now."""
    return conversation(**{"wait_until": NOW} | changes)


def awaiting(sent=1, **changes):
    """Make one that waits for a reply after so many messages: another day, by default."""
    default = {
        "status": S.AWAITING_REPLY,
        "visit": Visit(messages=sent, thread=THREAD),
        "follow_ups_sent": sent - 1,
        "last_message": MessageRef(stage="intro", n=sent - 1, channel="email"),
        "message_count": sent,
        "wait_until": NOW + DAY,
        "due_at": NOW + DAY,
    }
    return conversation(**default | changes)


def held(**changes):
    """Make one that waits for the agent: another hour, by default."""
    default = {"status": S.AWAITING_AGENT, "reply": reply(intent="unclassified")}
    return awaiting(**default | {"wait_until": NOW + HOUR, "due_at": NOW + HOUR} | changes)


def escalated(**changes):
    """Make one that a human has: another hour, by default."""
    default = {"status": S.ESCALATED, "reply": reply(intent="human", settled=True)}
    return awaiting(**default | {"wait_until": NOW + HOUR, "due_at": NOW + HOUR} | changes)


def ended(status="completed", **changes):
    """Make one that is over."""
    exits = {"completed": "replied", "failed": "failed_permanent", "cancelled": "cancelled"}
    default = {"status": S(status), "exit_reason": ExitReason(exits[status]), "wait_until": None}
    return awaiting(**default | {"due_at": None} | changes)


def reserving(made, **changes):
    """Put its next message into the slot: reserved for an hour from now, after one attempt."""
    step = made.visit.messages
    default = {
        "n": made.message_count,
        "step": step,
        "thread": made.visit.thread,
        "in_reply_to": made.last_message,
        "attempts": 1,
        "until": NOW + HOUR,
        "stage": made.stage,
    }
    own = slot(**default | changes)
    visit = made.visit if step else evolve(made.visit, thread=Thread(decided_at=own.decided_at))
    count = made.message_count + 1
    made = evolve(made, slot=own, visit=visit, message_count=count)
    due_at = made.due_at and min(own.until, made.deadline_at)
    return evolve(made, due_at=due_at or (None if made.is_open else own.until))


def sending(made, **changes):
    """Put its next message into the slot: in flight, with half a minute of its lease left."""
    default = {
        "state": SlotState.SENDING,
        "token": "theirs",
        "until": NOW + MINUTE / 2,
        "wanted": made.status in {S.PENDING, S.AWAITING_REPLY},
    }
    return reserving(made, **default | changes)


def unknown(made, **changes):
    """Put its next message into the slot: held, with another hour of its hold."""
    return reserving(made, **{"state": SlotState.UNKNOWN, "uncertain": True} | changes)


def writing(made, **changes):
    """Put a text of the agent into the slot, in flight."""
    visit = evolve(made.visit, messages=max(1, made.visit.messages), follow_ups_dropped=True)
    made = evolve(made, status=S.PENDING, visit=visit)
    default = {"step": None, "text": AgentText(body="It is 12."), "by": "send-1", "then": STAY}
    return sending(made, **default | changes)


def paused(made, *, rest=None, until=None):
    """Pause it since an hour; `rest`: of its wait, as long as it lasts from now."""
    if rest is None and made.status is not S.ESCALATED and made.wait_until:
        rest = made.wait_until - NOW
    rest = None if rest is None else rest // timedelta(milliseconds=1)
    own = made.slot.until if made.slot and made.slot.state is not SlotState.RESERVED else None
    return evolve(
        made,
        status=S.PAUSED,
        pause=Pause(status=made.status, rest=rest, until=until),
        due_at=min(time for time in (own, until, made.deadline_at) if time),
        status_since=NOW - HOUR,
    )


PLACES = {
    "pending": pending(),
    "pending, reserved": reserving(pending()),
    "pending, sending": sending(pending()),
    "pending, unknown": unknown(pending()),
    "pending, writing": writing(awaiting()),
    "awaiting reply": awaiting(),
    "awaiting reply, reserved": reserving(awaiting()),
    "awaiting reply, sending": sending(awaiting()),
    "awaiting reply, unknown": unknown(awaiting()),
    "awaiting agent": held(),
    "awaiting agent, sending": sending(held()),
    "escalated": escalated(),
    "escalated, sending": sending(escalated()),
    "completed": ended(),
    "completed, sending": sending(ended()),
    "failed": ended("failed"),
    "cancelled": ended("cancelled"),
    "cancelled, sending": sending(ended("cancelled")),
}
OPEN_PLACES = {name: made for name, made in PLACES.items() if made.is_open}


# -- what a decision looks like ------------------------------------------------------------------
@frozen
class Seen:
    """What a decision changed, in few words."""

    status: str
    stage: str
    exit_reason: str | None
    #: From now; None: no wait of its own, or it has stayed as it was.
    wait: timedelta | None
    due: timedelta | None
    #: State, step and number of the message in the slot.
    slot: tuple | None
    #: Reasons that were added.
    history: tuple[str, ...]
    #: `("cancelled", n, reason)`, `("suppress", address key)`, `("delivered", n)`.
    effects: tuple


def seen(before, after, effects=(), now=NOW):
    """Say what became of a conversation."""
    own = after.slot
    return Seen(
        status=after.status.value,
        stage=after.stage,
        exit_reason=after.exit_reason and after.exit_reason.value,
        wait=after.wait_until and after.wait_until - now,
        due=after.due_at and after.due_at - now,
        slot=own and (own.state.value, own.step, own.n),
        history=tuple(one.reason for one in after.history[len(before.history) :]),
        effects=tuple(_effect(effect) for effect in effects),
    )


def expected(before, now=NOW, **changes):
    """Say what a row expects: what it does not name has stayed as it was."""
    changes = {"status": before.status.value, "stage": before.stage} | changes
    return evolve(evolve(seen(before, before, now=now)), **changes)


def _effect(effect):
    match effect:
        case Suppress(suppression=suppression):
            return ("suppress", suppression.id)
        case Record(slot=own, status=status, reason=reason):
            return (status.value, own.n, reason)
        case Report(key=key, status=status):
            return (status.value, int(key.rsplit("/", 1)[1]))
    raise AssertionError(effect)


#: Reports and words that take the place of an outcome: what follows is noted as the outcome's.
SETTLING = {UpdateKind.DELIVERED, UpdateKind.UNKNOWN_RESOLVED}


# -- deciding, with everything checked that must hold after every decision -----------------------
def tell(made, told, at=None):
    """Decide one update."""
    at = at or scene()
    before = made
    transition = on_update(made, told, at)
    assert transition == on_update(made, told, at)  # I8
    check(before, transition.conversation, at, transition.effects)
    if told.kind not in SETTLING:
        assert by(before, transition.conversation) <= {told.id}
    if transition.conversation != made:
        again = on_update(transition.conversation, told, at)
        assert again.reason is Reason.REPEATED
        assert again.conversation == transition.conversation
        assert again.effects == ()
    return transition


def come_of(made, kind, at=None, **fields):
    """Decide a hand-off's outcome."""
    at = at or scene()
    outcome = Outcome(kind=OutcomeKind(kind), **fields)
    transition = on_outcome(made, outcome, at)
    assert transition == on_outcome(made, outcome, at)
    check(made, transition.conversation, at, transition.effects)
    assert by(made, transition.conversation) <= {made.slot.by, "due"} - {None}
    return transition


def pass_on(made, *told, at=None, ledger=None):
    """Decide a whole step: updates, then time."""
    at = at or scene()
    result = step(made, told, ledger, at)
    assert result == step(made, told, ledger, at)
    check(made, result.conversation, at, result.effects)
    wrote = {made.slot.by} if made.slot and made.slot.by else set()
    assert by(made, result.conversation) <= {"due", *(one.id for one in told)} | wrote
    return result


def by(before, after):
    """Say who made the entries that were added to the history."""
    return {entry.by for entry in after.history[len(before.history) :]}


def check(before, after, at, effects=()):
    """Hold a conversation to what must hold after every decision."""
    liveness(after)
    slot_is_sound(after)
    numbers_are_not_reused(before, after, at)
    accounted(before, after, effects, at.now)
    history_is_sound(before, after, at.now)
    assert after.follow_ups_sent == max(0, after.visit.messages - 1)
    assert len(after.applied) <= MAX_APPLIED
    assert (after.pause is not None) == (after.status is S.PAUSED)


def liveness(after):
    """I3: what is open is due by its deadline; what is closed only while a message is in flight."""
    if after.is_open:
        assert after.due_at is not None
        assert after.due_at <= after.deadline_at
        assert after.exit_reason is None
    else:
        assert after.due_at == (after.slot.until if after.slot else None)
        assert after.exit_reason is not None
        assert after.waiting_for == ()
        assert after.wait_until is None


def slot_is_sound(after):
    """The fields of a slot agree with its state."""
    own = after.slot
    if own is None:
        return
    assert (own.token is not None) == (own.state is SlotState.SENDING)
    assert own.attempts >= (own.state is not SlotState.RESERVED)
    assert own.wanted or own.state is SlotState.SENDING
    assert own.uncertain or own.state is not SlotState.UNKNOWN
    assert after.is_open or own.state is SlotState.SENDING
    assert (own.text is None) == (own.by is None) == (own.then is None) == (own.step is not None)
    assert own.n < after.message_count


def numbers_are_not_reused(before, after, at):
    """I2, I9: a new message has a new number, and there are never too many."""
    assert after.message_count >= before.message_count
    assert after.message_count <= max(before.message_count, at.template.max_messages)
    if after.slot and (before.slot is None or before.slot.n != after.slot.n):
        assert after.slot.n >= before.message_count
        assert after.slot.n == after.message_count - 1


def accounted(before, after, effects, now):
    """What leaves the slot is in the ledger: recorded now, or known there by its report."""
    own = before.slot
    if own and (after.slot is None or after.slot.n != own.n):
        recorded = [effect.slot.n for effect in effects if isinstance(effect, Record)]
        assert own.n in recorded or after.last_message == own.ref()
    for effect in effects:
        if isinstance(effect, Record):
            assert effect.at <= now  # a report says when it happened
            honest = {MessageStatus.UNKNOWN, MessageStatus.SENT}  # I6
            assert not effect.slot.uncertain or effect.status in honest


def history_is_sound(before, after, now):
    """The history is bounded, only grows, and names reasons of the table."""
    assert len(after.history) <= MAX_HISTORY
    known = before.history
    assert after.history[: len(known)] == known or len(known) + 2 > MAX_HISTORY
    for one in after.history[len(known) :]:
        assert one.reason in MOVES
        assert one.at == now
    changed = before.status is not after.status
    to_and_fro = len(after.history) > len(known) + 1
    assert after.status_since in ({now} if changed else {before.status_since, now})
    assert changed or to_and_fro or after.status_since == before.status_since


# -- case tables -----------------------------------------------------------------------------------
def case(name, given, when, answer, at=None, **changes):
    """Make a row: in this place, when told this, the answer, and what changes."""
    return pytest.param(given, when, at or scene(), answer, changes, id=name)


def told_as_expected(given, when, at, answer, changes):
    """Decide an update, and compare the whole of what came of it."""
    transition = tell(given, when, at)
    reason = transition.reason.value
    said = transition.answer and f"{transition.answer.status.value}: {transition.answer.reason}"
    assert said == answer
    assert reason == (answer.split(": ")[1] if answer else "waits")
    after = seen(given, transition.conversation, transition.effects, at.now)
    assert after == expected(given, at.now, **changes)
    return transition


def came_as_expected(given, kind, at, reason, changes, **fields):
    """Decide an outcome, and compare the whole of what came of it."""
    transition = come_of(given, kind, at, **fields)
    assert transition.reason.value == reason
    assert transition.answer is None
    after = seen(given, transition.conversation, transition.effects, at.now)
    assert after == expected(given, at.now, **changes)
    return transition
