"""What time leads to: messages, follow-ups, the ends of waits, deadlines."""

from datetime import timedelta

import pytest
from attrs import evolve

from handlers.atom import settled
from handlers.due import ending
from schemas.action import COMPLETE, ESCALATE, STAY, go_to
from schemas.campaign import CampaignStatus
from schemas.conversation import (
    AgentText,
    ConversationStatus,
    SlotState,
    Thread,
    Unsent,
    Visit,
    WaitingFor,
)
from schemas.hand_off import Gate
from schemas.template import AgentPolicy
from schemas.transition import Reason
from tests.builders import (
    DAY,
    HOUR,
    NOW,
    campaign,
    follow_up,
    recipient,
    reply,
    stage,
    template,
)
from tests.decided import (
    ESCALATION_DEADLINE,
    FIRST,
    LEASE,
    MINUTE,
    TEMPLATE,
    THREAD,
    awaiting,
    channel,
    come_of,
    ended,
    escalated,
    expected,
    held,
    pass_on,
    paused,
    paused_campaign,
    pending,
    reserving,
    scene,
    seen,
    sending,
    unknown,
)

S = ConversationStatus
ZERO = timedelta(0)
PAST = {"wait_until": NOW, "due_at": NOW}
EXHAUSTED = {"visit": Visit(messages=3, thread=THREAD), "follow_ups_sent": 2} | PAST
WROTE = Visit(messages=1, follow_ups_dropped=True, thread=THREAD)
UNSENT = Unsent(text=AgentText(body="It is 12."), by="send-1", then=STAY)
#: Two stages whose follow-ups take a channel that not every recipient has.
SMS = template(
    stages=(
        stage(
            follow_ups=(
                follow_up(channel=("sms",), if_missing="skip", after=HOUR),
                follow_up(after=2 * HOUR),
                follow_up(channel=("sms",), after=HOUR),
            )
        ),
    )
)
BOTH = [channel("email"), channel("sms")]
RATE = WaitingFor.RATE_LIMIT
SHUT = {"email": Gate(until=NOW + HOUR, why=RATE)}
CLOSED = scene(gates=SHUT)
SMS_CLOSED = scene(gates={"sms": SHUT["email"]})


def silent(action):
    """Make a scene whose stage does this on silence."""
    only = stage(on_no_reply=action)
    return scene(template=template(stages=(only, stage("demo"))))


def over(exit_reason, status="completed", **changes):
    """Say what a row expects of a conversation that ends now."""
    default = {"status": status, "exit_reason": exit_reason, "history": (status,)}
    return default | {"wait": None, "due": None, "slot": None} | changes


def held_back(step, n, **changes):
    """Say what a row expects of a message that waits at the closed gate."""
    return {"slot": ("reserved", step, n), "due": HOUR} | changes


def parked(made, **changes):
    """Put its next message into the slot: parked at the gate, another hour, due for a minute."""
    default = {"held": RATE, "attempts": 0, "due_at": NOW - MINUTE, "decided_at": NOW - MINUTE}
    return reserving(made, **default | changes)


def marks(step, n, **changes):
    """Say what a row expects of a message that is marked now."""
    return {"slot": ("sending", step, n), "due": MINUTE} | changes


LATE = {
    "status": "awaiting_reply",
    "wait": 2 * DAY,
    "due": 2 * DAY,
    "slot": None,
    "history": ("message_too_late",),
    "effects": (("cancelled", 0, "too_late"),),
}


def row(name, given, reason, at=None, **changes):
    """Make a row: in this place, at this time, what comes of it; None: nothing."""
    return pytest.param(given, at or scene(), reason, changes, id=name)


DUE = [
    row("message_marked: the stage's message", pending(), "message_marked", **marks(0, 0)),
    row("message_marked: a follow-up", awaiting(**PAST), "message_marked", **marks(1, 1)),
    row("message_marked: the next follow-up", awaiting(2, **PAST), "message_marked", **marks(2, 2)),
    row(
        "message_marked: another attempt",
        reserving(awaiting(), until=NOW),
        "message_marked",
        **marks(1, 1),
    ),
    row(
        "message_marked: what the agent wrote and could not be sent",
        pending(unsent=UNSENT, visit=WROTE, message_count=2),
        "message_marked",
        **marks(None, 2),
    ),
    row(
        "message_held_back: the stage's message at a closed gate",
        pending(),
        "message_held_back",
        CLOSED,
        **held_back(0, 0),
    ),
    row(
        "message_held_back: a follow-up at a closed gate",
        awaiting(**PAST),
        "message_held_back",
        CLOSED,
        **held_back(1, 1),
    ),
    row(
        "message_held_back: what the agent wrote and could not be sent, at a closed gate",
        pending(unsent=UNSENT, visit=WROTE, message_count=2),
        "message_held_back",
        CLOSED,
        **held_back(None, 2),
    ),
    row(
        "message_held_back: another attempt at a closed gate",
        reserving(awaiting(), until=NOW),
        "message_held_back",
        CLOSED,
        **held_back(1, 1),
    ),
    row(
        "message_held_back: its own time has come, and the gate is still closed",
        parked(pending(), until=NOW),
        "message_held_back",
        CLOSED,
        **held_back(0, 0),
    ),
    row(
        "message_held_back: the last moment of its time to live, at a closed gate",
        reserving(pending(), until=NOW, send_before=NOW),
        "message_held_back",
        CLOSED,
        slot=("reserved", 0, 0),
        due=timedelta(milliseconds=1),
    ),
    row(
        "message_marked: another channel's gate is closed",
        pending(),
        "message_marked",
        SMS_CLOSED,
        **marks(0, 0),
    ),
    row(
        "message_marked: the gate is open before its own time",
        parked(awaiting()),
        "message_marked",
        **marks(1, 1),
    ),
    row(
        "message_marked: its gate is open, another channel's is closed",
        parked(awaiting()),
        "message_marked",
        SMS_CLOSED,
        **marks(1, 1),
    ),
    row("not_due: parked at a gate that is closed", parked(awaiting()), None, CLOSED),
    row(
        "not_due: an open gate does not hurry what waits for its next attempt",
        reserving(awaiting()),
        None,
    ),
    row("not_due: paused while it is parked, its gate open", paused(parked(awaiting())), None),
    row(
        "not_due: paused while it is parked, its own time past",
        paused(parked(awaiting(), until=NOW)),
        None,
    ),
    row(
        "not_due: the campaign is paused, the gate open",
        parked(awaiting()),
        None,
        scene(**paused_campaign(NOW)),
    ),
    row(
        "resumed: what is parked leaves at the next look",
        paused(parked(awaiting()), until=NOW),
        "resumed",
        CLOSED,
        status="awaiting_reply",
        slot=("reserved", 1, 1),
        due=ZERO,
        history=("resumed",),
    ),
    row(
        "message_too_late: parked past its time to live, the gate open",
        parked(pending(), send_before=NOW - timedelta(milliseconds=1)),
        "message_too_late",
        **LATE,
    ),
    row(
        "message_too_late: parked past its time to live, the gate closed",
        parked(pending(), until=NOW, send_before=NOW - timedelta(milliseconds=1)),
        "message_too_late",
        CLOSED,
        **LATE,
    ),
    row(
        "message_too_late: a doubtful one is unknown",
        parked(pending(), until=NOW, uncertain=True, attempts=1, send_before=NOW - MINUTE),
        "message_too_late",
        **LATE | {"effects": (("unknown", 0, "too_late"),)},
    ),
    row(
        "message_too_late: another attempt would be",
        reserving(pending(), until=NOW, send_before=NOW - MINUTE),
        "message_too_late",
        **LATE,
    ),
    row(
        "max_duration: what is parked is cancelled",
        parked(pending(deadline_at=NOW)),
        "completed",
        CLOSED,
        **over("max_duration", effects=(("cancelled", 0, "max_duration"),)),
    ),
    row(
        "cancelled with its campaign while it is parked",
        parked(pending()),
        "cancelled",
        scene(status=CampaignStatus.CANCELLED, gates=SHUT),
        **over("cancelled", "cancelled", effects=(("cancelled", 0, "cancelled"),)),
    ),
    row("not_due: its wait is not over", awaiting(), None),
    row("not_due: its next attempt is not yet", reserving(awaiting()), None),
    row("not_due: its lease is not over", sending(pending()), None),
    row("not_due: its hold is not over", unknown(pending()), None),
    row(
        "not_due: a wait that is over waits for the hand-off",
        sending(pending(), until=NOW + timedelta(milliseconds=1)),
        None,
    ),
    row("not_due: it is over", ended(), None),
    row("not_due: it is over, its message in flight", sending(ended()), None),
    row("not_due: paused", paused(pending()), None),
    row("not_due: paused until later", paused(pending(), until=NOW + HOUR), None),
    row("not_due: paused before another attempt", paused(reserving(pending(), until=NOW)), None),
    *(
        row(
            f"not_due: the campaign is {status}",
            pending(),
            None,
            scene(status=status),
        )
        for status in (CampaignStatus.SCHEDULED, CampaignStatus.PENDING, CampaignStatus.COMPLETED)
    ),
    row(
        "not_due: the campaign is paused",
        pending(),
        None,
        scene(**paused_campaign(NOW)),
    ),
    row(
        "resumed: `until` has come",
        paused(awaiting(), until=NOW, rest=5 * HOUR),
        "resumed",
        status="awaiting_reply",
        wait=5 * HOUR,
        due=5 * HOUR,
        history=("resumed",),
    ),
    row(
        "resumed: `until` has come during a hand-off",
        paused(sending(awaiting()), until=NOW),
        "resumed",
        status="awaiting_reply",
        wait=DAY,
        due=MINUTE / 2,
        history=("resumed",),
    ),
    row(
        "escalation_expired",
        escalated(**PAST),
        "completed",
        **over("escalation_expired"),
    ),
    row(
        "escalated: the agent stays silent",
        held(**PAST),
        "escalated",
        status="escalated",
        wait=ESCALATION_DEADLINE,
        due=ESCALATION_DEADLINE,
        history=("escalated",),
    ),
    row(
        "completed: the agent stays silent",
        held(**PAST),
        "completed",
        scene(template=evolve(TEMPLATE, agent=AgentPolicy(then=COMPLETE))),
        **over("replied"),
    ),
    row(
        "stage_advanced: no reply",
        awaiting(**EXHAUSTED),
        "stage_advanced",
        status="pending",
        stage="demo",
        wait=ZERO,
        due=ZERO,
        history=("stage_advanced",),
    ),
    row(
        "stage_advanced: no reply to what the agent wrote",
        awaiting(visit=WROTE, **PAST),
        "stage_advanced",
        status="pending",
        stage="demo",
        wait=ZERO,
        due=ZERO,
        history=("stage_advanced",),
    ),
    row(
        "went_to_stage: no reply",
        awaiting(**PAST),
        "went_to_stage",
        silent(go_to("demo")),
        status="pending",
        stage="demo",
        wait=ZERO,
        due=ZERO,
        history=("went_to_stage",),
    ),
    row(
        "escalated: no reply",
        awaiting(**PAST),
        "escalated",
        silent(ESCALATE),
        status="escalated",
        wait=ESCALATION_DEADLINE,
        due=ESCALATION_DEADLINE,
        history=("escalated",),
    ),
    row(
        "completed: no reply",
        awaiting(**PAST),
        "completed",
        silent(COMPLETE),
        **over("no_reply_exhausted"),
    ),
    row(
        "completed: no reply, though there was one that stayed",
        awaiting(reply=reply(intent="away"), **PAST),
        "completed",
        silent(COMPLETE),
        **over("no_reply_exhausted"),
    ),
    row(
        "runaway_guard",
        awaiting(2, **PAST),
        "failed",
        scene(template=evolve(TEMPLATE, max_messages=2)),
        **over("runaway_guard", "failed"),
    ),
    row(
        "runaway_guard: also of what the agent wrote",
        pending(unsent=UNSENT, visit=WROTE, message_count=2),
        "failed",
        scene(template=evolve(TEMPLATE, max_messages=2)),
        **over("runaway_guard", "failed"),
    ),
    row(
        "no runaway: the last message that may be sent",
        awaiting(2, **PAST),
        "message_marked",
        scene(template=evolve(TEMPLATE, max_messages=3)),
        **marks(2, 2),
    ),
    row(
        "failed_permanent: the channels have changed",
        pending(),
        "failed",
        scene(channels=[channel("email", address_kind="post")]),
        **over("failed_permanent", "failed"),
    ),
    row(
        "failed_permanent: what the agent wrote has nowhere to go",
        pending(unsent=UNSENT, visit=WROTE),
        "failed",
        scene(channels=[channel("email", address_kind="post")]),
        **over("failed_permanent", "failed"),
    ),
    row(
        "failed_permanent: a follow-up has nowhere to go",
        awaiting(3, **PAST),
        "failed",
        scene(template=SMS, channels=BOTH),
        **over("failed_permanent", "failed"),
    ),
    row(
        "follow_up_passed_over: the next delay counts from when it was due",
        awaiting(wait_until=NOW - MINUTE, due_at=NOW - MINUTE),
        "follow_up_passed_over",
        scene(template=SMS, channels=BOTH),
        wait=2 * HOUR - MINUTE,
        due=2 * HOUR - MINUTE,
        history=("follow_up_passed_over",),
    ),
    row(
        "message_marked: the follow-up's own channel",
        awaiting(recipient=recipient(address={"email": "a@b.c", "sms": "+4915112345678"}), **PAST),
        "message_marked",
        scene(template=SMS, channels=BOTH),
        **marks(1, 1),
    ),
    row(
        "max_duration",
        awaiting(deadline_at=NOW, due_at=NOW),
        "completed",
        **over("max_duration"),
    ),
    row(
        "max_duration: what was reserved is cancelled",
        reserving(pending(deadline_at=NOW)),
        "completed",
        **over("max_duration", effects=(("cancelled", 0, "max_duration"),)),
    ),
    row(
        "max_duration: what was held is unknown",
        unknown(pending(deadline_at=NOW)),
        "completed",
        **over("max_duration", effects=(("unknown", 0, "max_duration"),)),
    ),
    row(
        "max_duration while in flight: the slot is kept until its outcome is known",
        sending(pending(deadline_at=NOW)),
        "completed",
        **over("max_duration", slot=("sending", 0, 0), due=MINUTE / 2),
    ),
    row(
        "max_duration under a pause",
        paused(pending(deadline_at=NOW)),
        "completed",
        **over("max_duration"),
    ),
    row(
        "max_duration in a paused campaign",
        pending(deadline_at=NOW),
        "completed",
        scene(**paused_campaign(NOW)),
        **over("max_duration"),
    ),
    row(
        "max_duration wins over an escalation that expires",
        escalated(deadline_at=NOW, **PAST),
        "completed",
        **over("max_duration"),
    ),
    row("not_due: closed already at its deadline", ended(deadline_at=NOW), None),
    row(
        "cancelled with its campaign",
        awaiting(),
        "cancelled",
        scene(status=CampaignStatus.CANCELLED),
        **over("cancelled", "cancelled"),
    ),
    row(
        "cancelled with its campaign, though its deadline is over",
        awaiting(deadline_at=NOW, due_at=NOW),
        "cancelled",
        scene(status=CampaignStatus.CANCELLED),
        **over("cancelled", "cancelled"),
    ),
    row(
        "cancelled with its campaign while in flight",
        sending(pending()),
        "cancelled",
        scene(status=CampaignStatus.CANCELLED),
        **over("cancelled", "cancelled", slot=("sending", 0, 0), due=MINUTE / 2),
    ),
    row(
        "failed with its campaign",
        awaiting(),
        "failed",
        scene(status=CampaignStatus.FAILED),
        **over("failed_permanent", "failed"),
    ),
]


@pytest.mark.parametrize(("given", "at", "reason", "changes"), DUE)
def test_what_is_due(given, at, reason, changes):
    """One decision at a time; what is not due stays as it is."""
    result = pass_on(given, at=at)
    assert [found.value for found in result.reasons] == ([reason] if reason else [])
    assert seen(given, result.conversation, result.effects) == expected(given, **changes)
    assert {entry.by for entry in result.conversation.history} <= {"due"}
    if reason is None and at.campaign.status is not CampaignStatus.PAUSED:
        assert result.conversation == settled(given)


def test_the_slot_has_all_that_a_message_depends_on():
    """Stage, number, reply, thread, the message before, times, and the mark's lease."""
    given = awaiting(wait_until=NOW - HOUR, due_at=NOW - HOUR, reply=reply(intent="away"))
    slot = pass_on(given).conversation.slot
    assert (slot.stage, slot.n, slot.step, slot.channel) == ("intro", 1, 1, "email")
    assert (slot.reply, slot.thread, slot.in_reply_to) == (given.reply, THREAD, FIRST)
    assert (slot.text, slot.by, slot.then) == (None, None, None)
    assert (slot.decided_at, slot.due_at, slot.send_before) == (NOW, NOW - HOUR, None)
    assert (slot.state, slot.attempts, slot.wanted) == (SlotState.SENDING, 1, True)
    assert (slot.token, slot.until, slot.uncertain) == (LEASE.token, LEASE.until, False)


def test_the_stages_message_begins_its_thread():
    """Its follow-ups repeat its subject, rendered with what it was rendered with."""
    given = pending(reply=reply())
    after = pass_on(given).conversation
    assert after.visit == Visit(thread=Thread(decided_at=NOW, reply=given.reply))
    assert after.slot.thread is None
    assert after.message_count == 1


def test_a_follow_up_leaves_the_thread_alone():
    """It belongs to the stage's own message."""
    assert pass_on(awaiting(**PAST)).conversation.visit.thread == THREAD


@pytest.mark.parametrize("late", [ZERO, HOUR], ids=["in time", "late"])
def test_the_time_to_live_counts_from_when_it_was_due(late):
    """However late the message was decided."""
    given = pending(wait_until=NOW - late)
    assert pass_on(given).conversation.slot.send_before == NOW - late + 2 * DAY


def test_a_message_without_a_wait_is_due_now():
    """There is nothing that it could have been due before."""
    given = pending(wait_until=NOW + timedelta(0))
    assert pass_on(given).conversation.slot.due_at == NOW


def test_another_attempt_is_under_the_same_key():
    """Only the mark changes: attempt, lease, token; no doubt, for the one before was refused."""
    given = reserving(awaiting(), until=NOW, attempts=2)
    slot = pass_on(given).conversation.slot
    ours = {"state": SlotState.SENDING, "token": LEASE.token, "until": LEASE.until}
    assert slot == evolve(given.slot, attempts=3, **ours)


def test_what_is_held_back_is_reserved_and_was_never_tried():
    """Under its key, without a mark: no attempt, no lease, and its place in the queue."""
    given = pending(wait_until=NOW - MINUTE)
    after = pass_on(given, at=CLOSED).conversation
    slot = after.slot
    assert (slot.state, slot.held, slot.until) == (SlotState.RESERVED, RATE, NOW + HOUR)
    assert (slot.attempts, slot.token, slot.uncertain) == (0, None, False)
    assert (slot.decided_at, slot.due_at) == (NOW, NOW - MINUTE)
    assert after.waiting_for == (RATE,)
    assert after.message_count == 1


def test_what_leaves_the_gate_is_what_was_parked():
    """The same key and the same bytes; it waits for nothing any more."""
    given = parked(awaiting(), attempts=2, spared=1, uncertain=True)
    after = pass_on(given).conversation
    ours = {"state": SlotState.SENDING, "token": LEASE.token, "until": LEASE.until}
    assert after.slot == evolve(given.slot, attempts=3, held=None, **ours)
    assert after.waiting_for == (WaitingFor.REPLY,)


@pytest.mark.parametrize("why", [RATE, WaitingFor.CIRCUIT, WaitingFor.CHANNEL])
def test_who_waits_at_a_gate_says_so_beside_what_it_waits_for(why):
    """A follow-up at a gate: a reply may still come."""
    gates = {"email": Gate(until=NOW + HOUR, why=why)}
    after = pass_on(awaiting(**PAST), at=scene(gates=gates)).conversation
    assert after.waiting_for == (WaitingFor.REPLY, why)


def test_a_message_is_parked_as_long_as_the_gate_is_closed_and_cancelled_in_time():
    """However often it is looked at: it is due again, ever later, until its time to live is over."""
    made, looks = pending(), 0
    while made.slot or not looks:
        at = scene(now=made.due_at, gates={"email": Gate(until=made.due_at + MINUTE, why=RATE)})
        result = pass_on(made, at=at)
        made, looks = result.conversation, looks + 1
        assert looks < 20
    assert [reason.value for reason in result.reasons] == ["message_too_late"]
    assert at.now == NOW + 2 * DAY + timedelta(milliseconds=1)
    assert looks > 5


def test_an_earlier_doubt_stays():
    """Once uncertain, always uncertain."""
    given = reserving(awaiting(), until=NOW, uncertain=True)
    assert pass_on(given).conversation.slot.uncertain


def test_what_could_not_be_sent_is_sent_as_it_was_written():
    """The text, the `send` and its action, under a new key."""
    given = pending(unsent=UNSENT, visit=WROTE, message_count=2, last_message=FIRST)
    after = pass_on(given).conversation
    slot = after.slot
    assert (slot.text, slot.by, slot.then) == (UNSENT.text, UNSENT.by, UNSENT.then)
    assert (slot.n, slot.thread, slot.in_reply_to) == (2, THREAD, FIRST)
    assert slot.channel == "email"
    assert after.unsent is None
    assert after.visit == WROTE


def test_what_has_nowhere_to_go_says_so():
    """The last error names the reason, not the address."""
    at = scene(channels=[channel("email", address_kind="post")])
    assert pass_on(pending(), at=at).conversation.last_error == (
        "no address for the message's channels"
    )


def test_what_was_passed_over_is_counted():
    """The follow-up after it is next."""
    at = scene(template=SMS, channels=BOTH)
    after = pass_on(awaiting(**PAST), at=at).conversation
    assert after.visit == Visit(messages=2, thread=THREAD)
    assert after.message_count == 1
    later = evolve(at, now=NOW + 2 * HOUR, lease=evolve(LEASE, until=NOW + 3 * HOUR))
    assert pass_on(after, at=later).conversation.slot.step == 2


def test_the_last_follow_up_may_be_passed_over():
    """Then silence counts from when it was due."""
    skipped = follow_up(channel=("sms",), if_missing="skip")
    only = template(stages=(stage(follow_ups=(skipped,), reply_within=HOUR),))
    after = pass_on(awaiting(**PAST), at=scene(template=only, channels=BOTH)).conversation
    assert after.wait_until == NOW + HOUR


@pytest.mark.parametrize("status", CampaignStatus)
def test_a_campaigns_end_is_its_conversations_end(status):
    """Cancelled and failed campaigns end what is open; a completed one has nothing open."""
    ends = {"cancelled": "cancelled", "failed": "failed_permanent"}
    assert ending(campaign(status=status)) == ends.get(status)


def test_follow_ups_come_in_order_and_then_the_stage_is_over():
    """From the first message to `on_no_reply`, each delay counted from the message before."""
    made, found = pending(), []
    while made.stage == "intro":
        at = scene(now=made.due_at)
        made = pass_on(made, at=at).conversation
        if made.slot:
            found.append((at.now - NOW, made.slot.step, made.slot.n))
            made = come_of(made, "sent", at).conversation
    assert found == [(ZERO, 0, 0), (2 * DAY, 1, 1), (6 * DAY, 2, 2)]
    assert at.now - NOW == 9 * DAY
    assert made.history[-1].reason == Reason.STAGE_ADVANCED
