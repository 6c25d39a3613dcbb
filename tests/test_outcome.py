"""What came of a hand-off, against the conversation as it then is; and who takes over what was lost."""

from datetime import timedelta

import pytest
from attrs import evolve

from handlers.gates import PARKED
from handlers.outcome import JITTER, on_lease_over, on_outcome, retry_delay
from schemas.action import ADVANCE, COMPLETE, ESCALATE, HOLD, STAY, go_to
from schemas.campaign import CampaignStatus
from schemas.channel import ChannelState, Circuit, CircuitState
from schemas.conversation import (
    AgentText,
    ConversationStatus,
    SlotState,
    Unsent,
    Visit,
    WaitingFor,
)
from schemas.hand_off import Gate, OnUnknown, Outcome, OutcomeKind
from schemas.ids import stable_fraction
from schemas.template import RetryPolicy
from tests.builders import DAY, HOUR, NOW, reply
from tests.decided import (
    AGENT_DEADLINE,
    ESCALATION_DEADLINE,
    MINUTE,
    WITHIN,
    awaiting,
    came_as_expected,
    come_of,
    ended,
    entry,
    escalated,
    expected,
    held,
    pass_on,
    paused,
    paused_campaign,
    pending,
    scene,
    seen,
    sending,
    unknown,
    works,
    writing,
)

S = ConversationStatus
ZERO = timedelta(0)
SECOND = timedelta(seconds=1)
ROW = ("given", "kind", "at", "reason", "changes")
FINAL_STAGE = sending(pending(stage="thanks"))
ASSUME, HOLD_IT = scene(policy=OnUnknown.ASSUME_SENT), scene(policy=OnUnknown.HOLD)
LAST_TRY = {"attempts": 5}
OPEN, HALF_OPEN = CircuitState.OPEN, CircuitState.HALF_OPEN


def broken(state=OPEN, after=HOUR, **changes):
    """Say of the channel that its circuit is not closed, for so long."""
    return works(circuit=Circuit(state=state, since=NOW, until=NOW + after, openings=1), **changes)


DOWN_FOR_AN_HOUR = scene(states=[broken()])
MS = timedelta(milliseconds=1)
CIRCUIT, RATE = WaitingFor.CIRCUIT, WaitingFor.RATE_LIMIT
SHUT = {"email": Gate(until=NOW + HOUR, why=CIRCUIT)}
NEXT = MINUTE / 2  #: the delay before the second attempt, without jitter


def row(name, given, kind, reason, at=None, **changes):
    """Make a row: a hand-off from this place, its outcome, and what changes."""
    return pytest.param(given, kind, at or scene(), reason, changes, id=f"{kind}: {name}")


def sent(after, *, n=0, step=0, **changes):
    """Say what a row expects of a message that was accepted: silence counts, for so long."""
    reason = "follow_up_sent" if step else "message_sent"
    default = {"status": "awaiting_reply", "wait": after, "due": after, "slot": None}
    return default | {"history": (reason,), "effects": (("sent", n, None),)} | changes


def over(exit_reason, status="failed", **changes):
    """Say what a row expects of a conversation that its message's outcome ends."""
    default = {"status": status, "exit_reason": exit_reason, "history": (status,)}
    return default | {"wait": None, "due": None, "slot": None} | changes


def cleared(*effects, due=None):
    """Say what a row expects where only the slot is cleared."""
    return {"slot": None, "due": due, "effects": effects}


ACCEPTED = [
    row("the stage's message", sending(pending()), "sent", "message_sent", **sent(2 * DAY)),
    row("a follow-up", sending(awaiting()), "sent", "message_sent", **sent(4 * DAY, n=1, step=1)),
    row(
        "the last follow-up",
        sending(awaiting(2)),
        "sent",
        "message_sent",
        **sent(WITHIN, n=2, step=2),
    ),
    row(
        "a final stage's message",
        FINAL_STAGE,
        "sent",
        "message_sent",
        **over("final_stage", "completed", history=("message_sent", "completed")),
        effects=(("sent", 0, None),),
    ),
    row(
        "while the human has it: it is known to be sent, and nothing else",
        sending(escalated()),
        "sent",
        "message_sent",
        **cleared(("sent", 1, None), due=HOUR),
    ),
    row(
        "while the agent has it",
        sending(held()),
        "sent",
        "message_sent",
        **cleared(("sent", 1, None), due=HOUR),
    ),
    row(
        "the next stage was entered meanwhile: its message is next",
        sending(pending(stage="demo"), stage="intro", wanted=False),
        "sent",
        "message_sent",
        **cleared(("sent", 0, None), due=ZERO),
    ),
    row(
        "after the end",
        sending(ended("cancelled")),
        "sent",
        "message_sent",
        **cleared(("sent", 1, None)),
    ),
    row(
        "under a pause: the wait that follows waits",
        paused(sending(pending())),
        "sent",
        "message_sent",
        **sent(2 * DAY, status="paused", due=30 * DAY),
    ),
    row(
        "a final stage's message, under a pause",
        paused(FINAL_STAGE),
        "sent",
        "message_sent",
        **over("final_stage", "completed", history=("message_sent", "completed")),
        effects=(("sent", 0, None),),
    ),
    row(
        "in doubt before: certain now",
        sending(pending(), uncertain=True, attempts=2),
        "sent",
        "message_sent",
        **sent(2 * DAY),
    ),
    row(
        "the ledger knows already",
        sending(pending(), uncertain=True, attempts=2),
        "was_sent",
        "message_sent",
        **sent(2 * DAY, effects=()),
    ),
]


def wrote(name, then, given=None, **changes):
    """Make a row: what the agent wrote was accepted, and then this."""
    given = given or writing(awaiting(), then=then)
    history = ("agent_message_sent", *changes.pop("history", ()))
    effects = (("sent", 1, None),)
    changes = {"slot": None, "effects": effects, "history": history} | changes
    return row(f"the agent's text, {name}", given, "sent", "message_sent", **changes)


def entered(stage, reason):
    """Say what a row expects where a stage is entered after the agent's text."""
    return {"stage": stage, "wait": ZERO, "due": ZERO, "history": (reason,)}


REPLIED = writing(awaiting(reply=reply()), then=COMPLETE)
WRITTEN = [
    wrote("stay", STAY, status="awaiting_reply", wait=WITHIN, due=WITHIN),
    wrote("advance", ADVANCE, **entered("demo", "stage_advanced")),
    wrote("go_to", go_to("thanks"), **entered("thanks", "went_to_stage")),
    wrote(
        "hold",
        HOLD,
        status="awaiting_agent",
        wait=AGENT_DEADLINE,
        due=AGENT_DEADLINE,
        history=("reply_held",),
    ),
    wrote(
        "escalate",
        ESCALATE,
        status="escalated",
        wait=ESCALATION_DEADLINE,
        due=ESCALATION_DEADLINE,
        history=("escalated",),
    ),
    wrote("complete, in silence", COMPLETE, **over("no_reply_exhausted", "completed")),
    wrote("complete, after a reply", COMPLETE, REPLIED, **over("replied", "completed")),
    row(
        "the agent's text, unwanted: what was to happen then does not",
        evolve(writing(awaiting(), then=ADVANCE, wanted=False), status=S.ESCALATED),
        "sent",
        "message_sent",
        **cleared(("sent", 1, None), due=DAY),
    ),
    wrote(
        "in a final stage: silence follows",
        STAY,
        writing(awaiting(stage="thanks")),
        status="awaiting_reply",
        wait=7 * DAY,
        due=7 * DAY,
    ),
]

REFUSED = [
    row(
        "for good",
        sending(pending()),
        "refused",
        "failed",
        **over("failed_permanent", effects=(("failed", 0, "failed_permanent"),)),
    ),
    row(
        "after a doubtful attempt: that may have been accepted",
        sending(pending(), uncertain=True),
        "refused",
        "failed",
        **over("failed_permanent", effects=(("unknown", 0, "failed_permanent"),)),
    ),
    row(
        "under a pause",
        paused(sending(pending())),
        "refused",
        "failed",
        **over("failed_permanent", effects=(("failed", 0, "failed_permanent"),)),
    ),
    row(
        "unwanted: the conversation goes on",
        sending(held()),
        "refused",
        "message_given_up",
        **cleared(("failed", 1, "failed_permanent"), due=HOUR),
    ),
    row(
        "after the end",
        sending(ended()),
        "refused",
        "message_given_up",
        **cleared(("failed", 1, "failed_permanent")),
    ),
    row(
        "cannot be rendered",
        sending(pending()),
        "template_error",
        "failed",
        **over("template_error", effects=(("failed", 0, "template_error"),)),
    ),
]

GAVE_UP = "message_given_up"
RETRIED = [
    row(
        "the last attempt",
        sending(pending(), **LAST_TRY),
        "retry",
        "failed",
        **over("failed_retries", effects=(("failed", 0, "failed_retries"),)),
    ),
    row(
        "the last attempt, one before was doubtful",
        sending(pending(), **LAST_TRY, uncertain=True),
        "retry",
        "failed",
        **over("failed_retries", effects=(("unknown", 0, "failed_retries"),)),
    ),
    row(
        "unwanted: not again",
        sending(held()),
        "retry",
        GAVE_UP,
        **cleared(("failed", 1, GAVE_UP), due=HOUR),
    ),
    row(
        "unwanted and doubtful",
        sending(held(), uncertain=True),
        "retry",
        GAVE_UP,
        **cleared(("unknown", 1, GAVE_UP), due=HOUR),
    ),
    row(
        "after the end",
        sending(ended()),
        "retry",
        GAVE_UP,
        **cleared(("failed", 1, GAVE_UP)),
    ),
]


def not_its_fault(kind):
    """Make the rows that are the same for all that is not the message's fault."""
    return [
        row(
            "unwanted: not again",
            sending(held()),
            kind,
            GAVE_UP,
            **cleared(("failed", 1, GAVE_UP), due=HOUR),
        ),
        row(
            "unwanted and doubtful: unknown",
            sending(held(), uncertain=True),
            kind,
            GAVE_UP,
            **cleared(("unknown", 1, GAVE_UP), due=HOUR),
        ),
        row("after the end", sending(ended()), kind, GAVE_UP, **cleared(("failed", 1, GAVE_UP))),
    ]


NOT_ITS_FAULT = [
    *not_its_fault("rate_limited"),
    row(
        "under a pause it is reserved again, and waits for its end",
        paused(sending(pending())),
        "rate_limited",
        "message_retried",
        due=30 * DAY,
        slot=("reserved", 0, 0),
    ),
    *not_its_fault("channel_failed"),
    row(
        "it waits at the gate of the open circuit",
        sending(pending()),
        "channel_failed",
        "message_held_back",
        DOWN_FOR_AN_HOUR,
        due=HOUR,
        slot=("reserved", 0, 0),
    ),
    row(
        "whatever attempt it was",
        sending(pending(), **LAST_TRY),
        "channel_failed",
        "message_held_back",
        DOWN_FOR_AN_HOUR,
        due=HOUR,
        slot=("reserved", 0, 0),
    ),
    row(
        "what the agent wrote waits as well",
        writing(awaiting()),
        "channel_failed",
        "message_held_back",
        DOWN_FOR_AN_HOUR,
        due=HOUR,
        slot=("reserved", None, 1),
    ),
    row(
        "under a pause it waits for its end first",
        paused(sending(pending())),
        "channel_failed",
        "message_held_back",
        DOWN_FOR_AN_HOUR,
        due=30 * DAY,
        slot=("reserved", 0, 0),
    ),
]

UNKNOWN = [
    row(
        "assumed to be sent",
        sending(pending()),
        "unknown",
        "message_sent",
        ASSUME,
        **sent(2 * DAY, effects=(("sent", 0, "assume_sent"),)),
    ),
    row(
        "held for a human's word",
        sending(pending()),
        "unknown",
        "message_held",
        HOLD_IT,
        due=ESCALATION_DEADLINE,
        slot=("unknown", 0, 0),
        effects=(("unknown", 0, "hold"),),
    ),
    row(
        "held under a pause",
        paused(sending(pending())),
        "unknown",
        "message_held",
        HOLD_IT,
        due=ESCALATION_DEADLINE,
        slot=("unknown", 0, 0),
        effects=(("unknown", 0, "hold"),),
    ),
    row(
        "after the last attempt",
        sending(pending(), **LAST_TRY),
        "unknown",
        "failed",
        **over("failed_retries", effects=(("unknown", 0, "failed_retries"),)),
    ),
    *(
        row(
            f"unwanted, whatever the policy: {at.channels['email'].on_unknown}",
            sending(held()),
            "unknown",
            GAVE_UP,
            at,
            **cleared(("unknown", 1, GAVE_UP), due=HOUR),
        )
        for at in (scene(), ASSUME, HOLD_IT)
    ),
    row(
        "after the end",
        sending(ended()),
        "unknown",
        GAVE_UP,
        ASSUME,
        **cleared(("unknown", 1, GAVE_UP)),
    ),
]

WITHHELD = [
    row(
        "reserved again",
        sending(pending()),
        "withdrawn",
        "message_withdrawn",
        due=SECOND,
        slot=("reserved", 0, 0),
    ),
    row(
        "reserved again under a pause: it waits for its end",
        paused(sending(pending())),
        "withdrawn",
        "message_withdrawn",
        due=30 * DAY,
        slot=("reserved", 0, 0),
    ),
    row(
        "unwanted: cancelled",
        sending(held()),
        "withdrawn",
        GAVE_UP,
        **cleared(("cancelled", 1, GAVE_UP), due=HOUR),
    ),
    row(
        "unwanted and doubtful: unknown",
        sending(held(), uncertain=True),
        "withdrawn",
        GAVE_UP,
        **cleared(("unknown", 1, GAVE_UP), due=HOUR),
    ),
    row(
        "after the end",
        sending(ended()),
        "withdrawn",
        GAVE_UP,
        **cleared(("cancelled", 1, GAVE_UP)),
    ),
    row(
        "the address must not be written to",
        sending(awaiting()),
        "suppressed",
        "completed",
        **over("suppressed", "completed", effects=(("cancelled", 1, "suppressed"),)),
    ),
    row(
        "the address must not be written to, and one attempt is doubtful",
        sending(awaiting(), uncertain=True),
        "suppressed",
        "completed",
        **over("suppressed", "completed", effects=(("unknown", 1, "suppressed"),)),
    ),
    row(
        "the address must not be written to, under a pause",
        paused(sending(awaiting())),
        "suppressed",
        "completed",
        **over("suppressed", "completed", effects=(("cancelled", 1, "suppressed"),)),
    ),
    row(
        "unwanted: cancelled",
        sending(held()),
        "suppressed",
        GAVE_UP,
        **cleared(("cancelled", 1, GAVE_UP), due=HOUR),
    ),
    row(
        "it goes on as if it had been sent",
        sending(pending()),
        "too_late",
        "message_too_late",
        **sent(2 * DAY, history=("message_too_late",), effects=(("cancelled", 0, "too_late"),)),
    ),
    row(
        "a follow-up",
        sending(awaiting()),
        "too_late",
        "message_too_late",
        **sent(4 * DAY, history=("message_too_late",), effects=(("cancelled", 1, "too_late"),)),
    ),
    row(
        "one attempt is doubtful",
        sending(pending(), uncertain=True),
        "too_late",
        "message_too_late",
        **sent(2 * DAY, history=("message_too_late",), effects=(("unknown", 0, "too_late"),)),
    ),
    row(
        "what the agent wrote",
        writing(awaiting()),
        "too_late",
        "message_too_late",
        **sent(WITHIN, history=("message_too_late",), effects=(("cancelled", 1, "too_late"),)),
    ),
    row(
        "a final stage's message",
        FINAL_STAGE,
        "too_late",
        "message_too_late",
        **over("final_stage", "completed", history=("message_too_late", "completed")),
        effects=(("cancelled", 0, "too_late"),),
    ),
    row(
        "unwanted: cancelled",
        sending(held()),
        "too_late",
        GAVE_UP,
        **cleared(("cancelled", 1, GAVE_UP), due=HOUR),
    ),
    row(
        "the channel takes nothing now: it waits at the gate",
        sending(pending()),
        "held_back",
        "message_held_back",
        due=PARKED,
        slot=("reserved", 0, 0),
    ),
    row(
        "under a pause it waits for its end first",
        paused(sending(pending())),
        "held_back",
        "message_held_back",
        due=30 * DAY,
        slot=("reserved", 0, 0),
    ),
    row(
        "unwanted: cancelled",
        sending(held()),
        "held_back",
        GAVE_UP,
        **cleared(("cancelled", 1, GAVE_UP), due=HOUR),
    ),
    row(
        "unwanted and doubtful: unknown",
        sending(held(), uncertain=True),
        "held_back",
        GAVE_UP,
        **cleared(("unknown", 1, GAVE_UP), due=HOUR),
    ),
    row(
        "after the end: cancelled",
        sending(ended()),
        "held_back",
        GAVE_UP,
        **cleared(("cancelled", 1, GAVE_UP)),
    ),
    row(
        "the address has got too many",
        sending(awaiting()),
        "runaway_guard",
        "failed",
        **over("runaway_guard", effects=(("cancelled", 1, "runaway_guard"),)),
    ),
    row(
        "the address has got too many, and one attempt is doubtful",
        sending(awaiting(), uncertain=True),
        "runaway_guard",
        "failed",
        **over("runaway_guard", effects=(("unknown", 1, "runaway_guard"),)),
    ),
    row(
        "the address has got too many, under a pause",
        paused(sending(awaiting())),
        "runaway_guard",
        "failed",
        **over("runaway_guard", effects=(("cancelled", 1, "runaway_guard"),)),
    ),
    row(
        "unwanted: cancelled, and nothing ends",
        sending(held()),
        "runaway_guard",
        GAVE_UP,
        **cleared(("cancelled", 1, GAVE_UP), due=HOUR),
    ),
]


@pytest.mark.parametrize(ROW, ACCEPTED)
def test_accepted(given, kind, at, reason, changes):
    """Silence counts from now, where the message was wanted; it is the last one in any case."""
    fields = {"provider_id": "p-1"} if kind == "sent" else {}
    transition = came_as_expected(given, kind, at, reason, changes, **fields)
    assert transition.conversation.last_message == given.slot.ref()
    for record in transition.effects:
        assert record.slot == given.slot
        assert (record.at, record.provider_id, record.error) == (NOW, "p-1", None)


@pytest.mark.parametrize(ROW, WRITTEN)
def test_what_the_agent_wrote_was_accepted(given, kind, at, reason, changes):
    """Then comes the action of the `send`."""
    transition = came_as_expected(given, kind, at, reason, changes)
    assert {entry.by for entry in transition.conversation.history} <= {"send-1"}
    assert transition.conversation.visit.follow_ups_dropped or changes.get("stage")


@pytest.mark.parametrize(ROW, REFUSED + RETRIED)
def test_not_accepted(given, kind, at, reason, changes):
    """It fails the conversation, where that still wants it; with a doubt left it is `unknown`."""
    transition = came_as_expected(given, kind, at, reason, changes, error="no")
    (record,) = transition.effects
    assert (record.slot, record.at, record.error) == (given.slot, NOW, "no")
    assert transition.conversation.last_message == given.last_message
    if changes.get("status") == "failed":
        assert transition.conversation.last_error == "no"


@pytest.mark.parametrize(ROW, NOT_ITS_FAULT)
def test_not_its_fault(given, kind, at, reason, changes):
    """Others have sent too much, or the channel is broken: the message tries again, uncounted."""
    transition = came_as_expected(given, kind, at, reason, changes, error="why")
    for record in transition.effects:
        assert (record.slot, record.at, record.error) == (given.slot, NOW, "why")
    if slot := transition.conversation.slot:
        assert (slot.attempts, slot.spared) == (given.slot.attempts, given.slot.spared + 1)
        assert slot.tried_at == NOW
        assert transition.conversation.last_error == "why"


@pytest.mark.parametrize(ROW, UNKNOWN)
def test_nobody_knows(given, kind, at, reason, changes):
    """The channel's policy resolves what nobody knows; nothing else is ever said of it."""
    transition = came_as_expected(given, kind, at, reason, changes, error="time-out")
    assert transition.effects[0].error == (None if reason == "message_sent" else "time-out")
    if reason == "message_held":
        slot = transition.conversation.slot
        assert (slot.state, slot.token, slot.uncertain) == (SlotState.UNKNOWN, None, True)
        assert transition.conversation.last_error == "time-out"


@pytest.mark.parametrize(ROW, WITHHELD)
def test_withheld(given, kind, at, reason, changes):
    """What the last look stopped was not handed off by this attempt, and says so."""
    transition = came_as_expected(given, kind, at, reason, changes, error="why")
    assert transition.conversation.last_message == given.last_message
    for record in transition.effects:
        assert (record.slot, record.error) == (given.slot, "why")


def test_every_kind_of_outcome_is_decided():
    """No outcome is without a decision, wherever the conversation is."""
    for kind in OutcomeKind:
        for given in (sending(pending()), sending(awaiting()), sending(held()), sending(ended())):
            come_of(given, kind)
            if given.is_open:
                come_of(paused(given), kind)


def test_an_outcome_needs_its_slot():
    """Without a message in the slot there is nothing that could have an outcome."""
    with pytest.raises(LookupError, match=r"^there is no message in the slot$"):
        on_outcome(awaiting(), Outcome(kind=OutcomeKind.SENT), scene())


class TestRetry:
    def test_it_is_reserved_again(self):
        """The same key, later; the attempt stays counted."""
        given = sending(pending())
        after = come_of(given, "retry", error="503").conversation
        slot = after.slot
        assert slot.key(after.id) == given.slot.key(given.id)
        assert (slot.state, slot.token, slot.attempts) == (SlotState.RESERVED, None, 1)
        assert not slot.uncertain
        assert NOW + NEXT * 0.8 < slot.until <= NOW + NEXT
        assert after.due_at == slot.until
        assert after.last_error == "503"

    def test_an_unknown_outcome_is_resent_with_its_doubt(self):
        """Policy `resend`: the same key again, after a delay, and the doubt is remembered."""
        given = sending(pending())
        after = come_of(given, "unknown", error="time-out").conversation
        assert (after.slot.state, after.slot.uncertain) == (SlotState.RESERVED, True)
        assert after.slot.until == come_of(given, "retry").conversation.slot.until

    def test_an_unknown_channel_is_resent(self):
        """A channel that this deployment lost has the policy of all channels."""
        given = sending(pending())
        after = come_of(given, "unknown", scene(channels=[])).conversation
        assert after.slot.state is SlotState.RESERVED

    def test_the_channels_own_delay_wins_where_it_is_longer(self):
        """`Retry-After` is honoured; a shorter one does not shorten the policy's delay."""
        given = sending(pending())
        plain = come_of(given, "retry").conversation.slot.until
        longer = come_of(given, "retry", retry_after=2 * HOUR).conversation.slot.until
        shorter = come_of(given, "retry", retry_after=SECOND).conversation.slot.until
        assert (longer, shorter) == (NOW + 2 * HOUR, plain)

    def test_messages_spread(self):
        """Others that were refused at the same time do not come back at the same time."""
        delays = {
            come_of(sending(pending(), n=0), "retry").conversation.slot.until,
            come_of(sending(pending(message_count=1)), "retry").conversation.slot.until,
            come_of(sending(pending(id="other")), "retry").conversation.slot.until,
        }
        assert len(delays) == 3

    def test_it_ends_after_the_last_attempt_only(self):
        """One attempt before the last there is another one."""
        after = come_of(sending(pending(), attempts=4), "retry").conversation
        assert after.slot.attempts == 4

    def test_a_pause_of_the_campaign_moves_it_on(self):
        """What stood still is caught up first, so that the delay counts from now."""
        at = scene(paused_total=3_600_000)
        after = come_of(sending(pending()), "retry", at).conversation
        assert after.pause_seen == 3_600_000
        assert after.slot.until <= NOW + NEXT

    def test_the_present_pause_of_the_campaign_counts_as_far_as_it_has_come(self):
        """An outcome that comes during the pause is decided at that time."""
        at = scene(**paused_campaign(NOW - HOUR))
        assert come_of(sending(pending()), "retry", at).conversation.pause_seen == 3_600_000

    def test_delays_grow_to_their_cap(self):
        """Exponential, capped, and never more than the jitter below it."""
        policy = RetryPolicy(initial_delay=MINUTE, multiplier=3, max_delay=HOUR)
        for attempts, delay in [(1, 1), (2, 3), (3, 9), (4, 27), (5, 60), (100, 60), (10**6, 60)]:
            found = retry_delay(policy, attempts, "key")
            assert delay * MINUTE * (1 - JITTER) < found <= delay * MINUTE
            assert found % timedelta(milliseconds=1) == ZERO

    def test_jitter_is_deterministic(self):
        """The same key and attempt wait alike, others spread over the last fifth."""
        policy = RetryPolicy(initial_delay=100 * SECOND)
        found = retry_delay(policy, 1, "key")
        exact = 100_000 * (1 - 0.2 * stable_fraction("key#1"))
        assert found == timedelta(milliseconds=round(exact))
        assert found == retry_delay(policy, 1, "key")
        delays = {retry_delay(policy, 1, str(n)) for n in range(100)}
        assert len(delays) > 90
        assert max(delays) - min(delays) > 15 * SECOND

    def test_a_delay_so_long_that_it_would_overflow_is_capped(self):
        """However long the policy's delays are, the cap holds."""
        policy = RetryPolicy(initial_delay=1000 * DAY, multiplier=100, max_delay=HOUR)
        assert retry_delay(policy, 99, "key") <= HOUR


class TestWithdrawn:
    def test_the_attempt_is_not_counted(self):
        """It was marked and not handed off: the same key, a second later, without that attempt."""
        given = sending(pending(), attempts=3, uncertain=True)
        slot = come_of(given, "withdrawn").conversation.slot
        changed = {"state": SlotState.RESERVED, "token": None, "until": NOW + SECOND}
        assert slot == evolve(given.slot, attempts=2, **changed)

    def test_it_comes_back_when_the_look_said_so(self):
        """Those that leave no room for each other look again at their own times."""
        slot = come_of(sending(pending()), "withdrawn", retry_after=MINUTE).conversation.slot
        assert (slot.until, slot.held, slot.attempts) == (NOW + MINUTE, None, 0)


class TestHeldBack:
    def test_the_attempt_is_not_counted(self):
        """It was marked and not handed off: the same key, at the gate, without that attempt."""
        given = sending(pending(), attempts=3, spared=1, uncertain=True, tried_at=NOW - HOUR)
        slot = come_of(given, "held_back", gate=Gate(until=NOW + HOUR, why=RATE)).conversation.slot
        changed = {"state": SlotState.RESERVED, "token": None, "until": NOW + HOUR, "held": RATE}
        assert slot == evolve(given.slot, attempts=2, **changed)

    def test_without_a_gate_the_channel_has_all_it_can_take(self):
        """Nobody said what it waits for: it looks again like everything that is parked."""
        after = come_of(sending(pending()), "held_back").conversation
        assert after.slot.held is WaitingFor.CHANNEL
        assert after.waiting_for == (WaitingFor.CHANNEL,)
        assert after.slot.until == NOW + PARKED

    def test_it_is_no_error(self):
        """What the last attempt ended with is still the last error."""
        given = sending(pending(last_error="503"))
        assert come_of(given, "held_back", error="x").conversation.last_error == "503"


class TestRateLimited:
    def test_it_comes_again_like_a_retry(self):
        """After the policy's delay, or after what the provider asked for where that is longer."""
        given = sending(pending())
        plain = come_of(given, "retry").conversation.slot.until
        found = [
            come_of(given, "rate_limited", **asked).conversation.slot.until
            for asked in ({}, {"retry_after": SECOND}, {"retry_after": 2 * HOUR})
        ]
        assert found == [plain, plain, NOW + 2 * HOUR]

    def test_it_does_not_wait_at_the_gate(self):
        """Its own time is known: it waits for that, and the others need not."""
        after = come_of(sending(pending()), "rate_limited").conversation
        assert after.slot.held is None
        assert after.waiting_for == (WaitingFor.RETRY,)

    def test_a_doubt_about_an_earlier_attempt_stays(self):
        """The last was not accepted; the one before may have been."""
        assert come_of(
            sending(pending(), uncertain=True), "rate_limited"
        ).conversation.slot.uncertain


class TestChannelFailed:
    @pytest.mark.parametrize(
        ("states", "why", "after"),
        [
            pytest.param([broken(after=HOUR)], CIRCUIT, HOUR, id="until the circuit lets it"),
            pytest.param(
                [broken(after=SECOND)], CIRCUIT, PARKED, id="as all that is parked, at least"
            ),
            pytest.param([works(not_before=NOW + HOUR)], RATE, HOUR, id="until silence is over"),
            pytest.param([], CIRCUIT, PARKED, id="nothing is known: it will be the circuit"),
            pytest.param([works()], CIRCUIT, PARKED, id="closed meanwhile: it looks soon"),
        ],
    )
    def test_it_waits_at_the_gate(self, states, why, after):
        """With all others, so that it leaves in its turn when the channel is mended."""
        slot = come_of(sending(pending()), "channel_failed", scene(states=states)).conversation.slot
        assert (slot.held, slot.until) == (why, NOW + after)

    def test_it_waits_no_less_than_its_own_delay(self):
        """Where no circuit says how long: as long as after any other attempt, if that is longer."""
        given = sending(pending(), attempts=20, spared=19)
        at = scene(states=[])
        plain = come_of(given, "rate_limited", at).conversation.slot.until
        assert plain > NOW + PARKED
        assert come_of(given, "channel_failed", at).conversation.slot.until == plain


EARLIER = NOW - HOUR
FIRST_ATTEMPT = {"decided_at": EARLIER}
SECOND_ATTEMPT = {"decided_at": NOW - DAY, "tried_at": EARLIER, "attempts": 2}


class TestWhichAttemptsCount:
    @pytest.mark.parametrize(
        ("own", "state", "refused", "doubtful"),
        [
            pytest.param(FIRST_ATTEMPT, None, False, True, id="nothing is known of the channel"),
            pytest.param(
                FIRST_ATTEMPT, ChannelState(id="email"), False, True, id="it has never worked"
            ),
            pytest.param(
                FIRST_ATTEMPT,
                works(succeeded_at=EARLIER - MS),
                False,
                True,
                id="first: it has not worked since the message was decided",
            ),
            pytest.param(
                FIRST_ATTEMPT,
                works(succeeded_at=EARLIER),
                True,
                True,
                id="first: it worked when the message was decided",
            ),
            pytest.param(
                FIRST_ATTEMPT,
                works(succeeded_at=NOW),
                True,
                True,
                id="first: it works now",
            ),
            pytest.param(
                SECOND_ATTEMPT,
                works(succeeded_at=EARLIER - MS),
                False,
                True,
                id="later: it has worked since it was decided, not since the attempt before",
            ),
            pytest.param(
                SECOND_ATTEMPT,
                works(succeeded_at=EARLIER),
                True,
                True,
                id="later: it has worked since the attempt before",
            ),
            pytest.param(
                FIRST_ATTEMPT, broken(), False, False, id="its circuit is open: others wait as well"
            ),
            pytest.param(
                FIRST_ATTEMPT,
                broken(HALF_OPEN),
                False,
                False,
                id="it was a probe: it was sent for others",
            ),
            pytest.param(
                FIRST_ATTEMPT,
                broken(after=-HOUR),
                False,
                False,
                id="its circuit is open, and its time has come",
            ),
        ],
    )
    def test_it_is_about_the_message_where_the_channel_works(self, own, state, refused, doubtful):
        """What was refused counts where others got through; what may have been sent always."""
        at = scene(states=[state] if state else [])
        given = sending(pending(), **own)
        for kind, counts in (("retry", refused), ("unknown", doubtful)):
            slot = come_of(given, kind, at).conversation.slot
            assert slot.attempts == given.slot.attempts
            assert slot.spared == (0 if counts else 1)
            assert slot.tried_at == NOW

    def test_a_spared_attempt_is_never_the_last(self):
        """However many there were."""
        given = sending(pending(), attempts=1000, spared=996)
        assert come_of(given, "retry", scene(states=[])).conversation.slot.spared == 997

    def test_the_last_that_counts_is(self):
        """As many as the policy allows, whatever else there was."""
        given = sending(pending(), attempts=1000, spared=995)
        after = come_of(given, "retry", error="503").conversation
        assert (after.exit_reason, after.last_error) == ("failed_retries", "503")
        another = sending(pending(), attempts=1000, spared=996)
        assert come_of(another, "retry").conversation.slot.attempts == 1000

    def test_an_outage_ends_no_conversation(self):
        """A hundred attempts while nobody gets through, then five while others do."""
        made, counted = pending(stage="demo", deadline_at=NOW + 1000 * DAY), 0
        for n in range(105):
            now = made.due_at
            last = NOW - HOUR if n < 100 else now
            at = scene(now=now, states=[works(succeeded_at=last)])
            made = come_of(pass_on(made, at=at).conversation, "retry", at).conversation
            counted += n >= 100
            assert made.is_open == (counted < 5)
        assert made.exit_reason == "failed_retries"

    def test_the_channels_faults_end_no_conversation(self):
        """Told a hundred times that there is too much, or that the channel is broken."""
        for kind in ("rate_limited", "channel_failed"):
            made = pending(stage="demo", deadline_at=NOW + 1000 * DAY)
            for n in range(100):
                at = scene(now=NOW + n * HOUR)
                made = come_of(pass_on(made, at=at).conversation, kind, at).conversation
            assert (made.slot.attempts, made.slot.spared) == (100, 100)

    def test_delays_grow_with_all_attempts(self):
        """Also with those that do not count: a channel that fails is asked ever more seldom."""
        first = come_of(sending(pending()), "retry", scene(states=[])).conversation
        tenth = come_of(sending(pending(), attempts=10, spared=9), "retry", scene(states=[]))
        assert tenth.conversation.slot.until - NOW > 10 * (first.slot.until - NOW)


class TestUnsent:
    @pytest.mark.parametrize("kind", ["refused", "template_error"])
    def test_what_the_agent_wrote_is_kept_for_a_retry(self, kind):
        """The text, the `send` and its action."""
        given = writing(awaiting(), then=ADVANCE)
        after = come_of(given, kind, error="no").conversation
        text = AgentText(body="It is 12.")
        assert after.unsent == Unsent(text=text, by="send-1", then=ADVANCE)

    def test_a_message_of_the_template_is_not(self):
        """It is found again by where the conversation stands."""
        assert come_of(sending(awaiting()), "refused").conversation.unsent is None

    def test_nothing_is_kept_of_what_nobody_wants(self):
        """The conversation moved on meanwhile."""
        given = writing(awaiting(), wanted=False)
        assert come_of(given, "refused").conversation.unsent is None


class TestVisit:
    def test_an_accepted_message_is_counted(self):
        """The next one of the visit is the next follow-up."""
        after = come_of(sending(pending()), "sent").conversation
        assert (after.visit.messages, after.follow_ups_sent) == (1, 0)
        after = come_of(sending(awaiting()), "sent").conversation
        assert (after.visit.messages, after.follow_ups_sent) == (2, 1)

    def test_it_is_counted_in_its_visit_though_nobody_waits_for_it(self):
        """Whoever comes back to the visit does not send the same again."""
        given = sending(held(visit=Visit(), message_count=0, last_message=None))
        assert come_of(given, "sent").conversation.visit.messages == 1
        given = sending(ended("failed"))
        assert come_of(given, "sent").conversation.visit.messages == 2

    def test_it_is_not_counted_in_another_visit(self):
        """A stage that was entered meanwhile has sent nothing yet."""
        given = evolve(sending(awaiting(), wanted=False), visit=Visit(), status=S.PENDING)
        assert come_of(given, "sent").conversation.visit == Visit()

    def test_what_the_agent_wrote_is_no_follow_up(self):
        """The visit stands where it stood, without its remaining follow-ups."""
        given = writing(awaiting(2))
        assert come_of(given, "sent").conversation.visit == given.visit

    def test_what_was_not_accepted_is_not_counted(self):
        """A refused message is not the visit's."""
        assert come_of(sending(held()), "refused").conversation.visit.messages == 1


# -- take-over: the lease is over, or the hold ----------------------------------------------------
def lost(made, **changes):
    """Put its next message into the slot: in flight, its lease is over."""
    return sending(made, until=NOW, **changes)


def unresolved(made, **changes):
    """Put its next message into the slot: held, its hold is over."""
    return unknown(made, until=NOW, **changes)


MARKED = {"due": MINUTE, "slot": ("sending", 0, 0)}
FAILED_ONCE = entry("failed", reason="failed_retries", error="503")


def over_row(name, given, ledger, reason, at=None, **changes):
    """Make a row: a slot that is nobody's any more, the ledger's word, and what changes."""
    return pytest.param(given, ledger, at or scene(), reason, changes, id=name)


TAKE_OVERS = [
    over_row("resent", lost(pending()), None, "message_marked", **MARKED),
    *(
        over_row(
            f"the ledger knows: {status}",
            lost(pending()),
            entry(status),
            "message_sent",
            **sent(2 * DAY, effects=()),
        )
        for status in ("sent", "delivered", "bounced")
    ),
    over_row(
        "the ledger knows of what was held",
        unresolved(pending()),
        entry("delivered"),
        "message_sent",
        **sent(2 * DAY, effects=()),
    ),
    over_row(
        "the ledger knows, nobody wants it",
        lost(held(visit=Visit(), message_count=0, last_message=None)),
        entry("sent"),
        "message_sent",
        **cleared(due=HOUR),
    ),
    over_row(
        "the ledger knows that this attempt failed",
        lost(pending()),
        FAILED_ONCE,
        "failed",
        **over("failed_retries", effects=(("failed", 0, "failed_retries"),)),
    ),
    over_row(
        "the ledger knows that this attempt failed, not why",
        lost(pending()),
        entry("failed"),
        "failed",
        **over("failed_permanent", effects=(("failed", 0, "failed_permanent"),)),
    ),
    over_row(
        "the ledger knows that this attempt failed, and that nobody wanted it",
        lost(held(visit=Visit(), message_count=0, last_message=None)),
        entry("failed", reason=GAVE_UP),
        GAVE_UP,
        **cleared(("failed", 0, "failed_permanent"), due=HOUR),
    ),
    over_row(
        "an earlier attempt's failure says nothing",
        lost(pending(), attempts=2),
        FAILED_ONCE,
        "message_marked",
        **MARKED,
    ),
    over_row("unknown says nothing", lost(pending()), entry("unknown"), "message_marked", **MARKED),
    over_row(
        "cancelled says nothing", lost(pending()), entry("cancelled"), "message_marked", **MARKED
    ),
    over_row(
        "assumed to be sent",
        lost(pending()),
        None,
        "message_sent",
        ASSUME,
        **sent(2 * DAY, effects=(("sent", 0, "assume_sent"),)),
    ),
    over_row(
        "held",
        lost(pending()),
        None,
        "message_held",
        HOLD_IT,
        due=ESCALATION_DEADLINE,
        slot=("unknown", 0, 0),
        effects=(("unknown", 0, "hold"),),
    ),
    over_row(
        "no attempt is left",
        lost(pending(), **LAST_TRY),
        None,
        "failed",
        **over("failed_retries", effects=(("unknown", 0, "failed_retries"),)),
    ),
    over_row(
        "nobody wants it",
        lost(held()),
        None,
        GAVE_UP,
        **cleared(("unknown", 1, GAVE_UP), due=HOUR),
    ),
    over_row(
        "nobody wants it, whatever is assumed",
        lost(held()),
        None,
        GAVE_UP,
        ASSUME,
        **cleared(("unknown", 1, GAVE_UP), due=HOUR),
    ),
    over_row(
        "after the end",
        lost(ended("cancelled")),
        None,
        GAVE_UP,
        **cleared(("unknown", 1, GAVE_UP)),
    ),
    over_row(
        "paused: reserved again, in doubt",
        paused(lost(pending())),
        None,
        "message_retried",
        due=30 * DAY,
        slot=("reserved", 0, 0),
    ),
    over_row(
        "at a closed gate: it waits",
        lost(pending()),
        None,
        "message_held_back",
        scene(gates=SHUT),
        due=HOUR,
        slot=("reserved", 0, 0),
    ),
    over_row(
        "at a closed gate, the ledger knows",
        lost(pending()),
        entry("sent"),
        "message_sent",
        scene(gates=SHUT),
        **sent(2 * DAY, effects=()),
    ),
    over_row(
        "at a closed gate, nobody wants it",
        lost(held()),
        None,
        GAVE_UP,
        scene(gates=SHUT),
        **cleared(("unknown", 1, GAVE_UP), due=HOUR),
    ),
    over_row(
        "at a closed gate, held by the policy",
        lost(pending()),
        None,
        "message_held",
        scene(policy=OnUnknown.HOLD, gates=SHUT),
        due=ESCALATION_DEADLINE,
        slot=("unknown", 0, 0),
        effects=(("unknown", 0, "hold"),),
    ),
    over_row(
        "at a closed gate, no attempt is left",
        lost(pending(), **LAST_TRY),
        None,
        "failed",
        scene(gates=SHUT),
        **over("failed_retries", effects=(("unknown", 0, "failed_retries"),)),
    ),
    over_row(
        "attempts that did not count leave others",
        lost(pending(), attempts=9, spared=5),
        None,
        "message_marked",
        **MARKED,
    ),
    over_row(
        "no attempt that counts is left",
        lost(pending(), attempts=9, spared=4),
        None,
        "failed",
        **over("failed_retries", effects=(("unknown", 0, "failed_retries"),)),
    ),
    over_row(
        "the hold is over, and nobody has said anything",
        unresolved(pending()),
        None,
        "failed",
        **over("failed_permanent", effects=(("unknown", 0, "failed_permanent"),)),
    ),
    over_row(
        "the hold is over under a pause",
        paused(unresolved(pending())),
        None,
        "failed",
        **over("failed_permanent", effects=(("unknown", 0, "failed_permanent"),)),
    ),
]


@pytest.mark.parametrize(("given", "ledger", "at", "reason", "changes"), TAKE_OVERS)
def test_a_take_over(given, ledger, at, reason, changes):
    """The ledger is asked first; then the channel's policy says what becomes of the message."""
    result = pass_on(given, at=at, ledger=ledger)
    assert [found.value for found in result.reasons] == [reason]
    assert seen(given, result.conversation, result.effects) == expected(given, **changes)


class TestTakeOver:
    def test_a_resend_is_marked_anew(self):
        """Another attempt under our token, and the doubt about the one before."""
        given = lost(pending())
        slot = pass_on(given).conversation.slot
        ours = {"token": "ours", "until": NOW + MINUTE}
        assert slot == evolve(given.slot, attempts=2, uncertain=True, **ours)

    def test_one_attempt_before_the_last_is_resent(self):
        """As many hand-offs as the policy allows, and no more."""
        assert pass_on(lost(pending(), attempts=4)).conversation.slot.attempts == 5

    def test_in_a_paused_campaign_it_is_reserved_again(self):
        """Not now: it leaves after `resume`, with its doubt and its attempt."""
        result = pass_on(lost(pending()), at=scene(**paused_campaign(NOW)))
        slot = result.conversation.slot
        assert [reason.value for reason in result.reasons] == ["message_retried"]
        assert (slot.state, slot.uncertain, slot.attempts) == (SlotState.RESERVED, True, 1)
        assert slot.until > NOW
        assert result.conversation.last_error == "the worker died during the hand-off"

    def test_at_a_closed_gate_it_waits_with_its_doubt(self):
        """The attempt of the worker that died counts, and may have been accepted."""
        given = lost(pending(), attempts=2)
        after = pass_on(given, at=scene(gates=SHUT)).conversation
        changed = {"state": SlotState.RESERVED, "token": None, "until": NOW + HOUR, "held": CIRCUIT}
        assert after.slot == evolve(given.slot, uncertain=True, **changed)
        assert after.waiting_for == (CIRCUIT,)
        freed = pass_on(after).conversation.slot
        assert (freed.state, freed.attempts, freed.uncertain) == (SlotState.SENDING, 3, True)

    def test_during_an_outage_the_last_attempt_is_not_the_last(self):
        """Who died with it was probing for others: it is tried again."""
        given = lost(pending(), **LAST_TRY)
        result = pass_on(given, at=DOWN_FOR_AN_HOUR)
        assert [found.value for found in result.reasons] == ["message_retried"]
        assert result.conversation.slot.spared == 1

    def test_what_was_held_is_never_resent(self):
        """A human was asked, not the channel: without a word it ends as unknown."""
        after = pass_on(unresolved(pending())).conversation
        assert after.last_error == "outcome unknown"
        assert after.slot is None

    def test_what_the_agent_wrote_and_nobody_resolved_can_be_retried(self):
        """It is kept, with its doubt in the ledger."""
        given = writing(awaiting(), state=SlotState.UNKNOWN, token=None, uncertain=True, until=NOW)
        assert pass_on(given).conversation.unsent.by == "send-1"

    def test_a_failed_entrys_error_is_kept(self):
        """What the ledger says of the failure is said of the conversation."""
        assert pass_on(lost(pending()), ledger=FAILED_ONCE).conversation.last_error == "503"

    def test_the_end_of_the_campaign_closes_first(self):
        """Cancelled with a message in flight whose worker is gone: both are settled in one step."""
        cancelled = scene(status=CampaignStatus.CANCELLED)
        given = lost(pending())
        result = pass_on(given, at=cancelled)
        changes = over("cancelled", "cancelled", effects=(("unknown", 0, GAVE_UP),))
        assert seen(given, result.conversation, result.effects) == expected(given, **changes)

    def test_it_needs_its_slot(self):
        """Without a message in the slot there is nothing to take over."""
        with pytest.raises(LookupError):
            on_lease_over(awaiting(), None, scene())


@pytest.mark.parametrize(("kind", "kept"), [("runaway_guard", True), ("suppressed", False)])
def test_what_the_agent_wrote_is_kept_of_what_failed(kind, kept):
    """A `retry` sends it after the runaway guard; who must not be written to is not."""
    given = writing(awaiting())
    unsent = come_of(given, kind).conversation.unsent
    assert unsent == (Unsent(text=given.slot.text, by=given.slot.by, then=STAY) if kept else None)
