"""The steps that every decision is made of: due times, waits, pauses, and giving a message up."""

from datetime import timedelta

import pytest
from attrs import evolve

from handlers.atom import (
    caught_up,
    closed,
    dropped_slot,
    effective_pause,
    entered,
    given_up,
    held_still,
    milliseconds,
    released,
    settled,
    under_pause,
)
from handlers.stages import find_stage, next_stage, next_step, pick_channel, stage_of, wait_after
from schemas.conversation import ConversationStatus, ExitReason, Visit, WaitingFor
from schemas.message import MessageStatus
from schemas.transition import Reason
from tests.builders import DAY, HOUR, NOW, campaign, conversation, recipient
from tests.decided import (
    MINUTE,
    PLACES,
    TEMPLATE,
    WITHIN,
    awaiting,
    channel,
    ended,
    escalated,
    held,
    paused,
    paused_campaign,
    pending,
    reserving,
    sending,
    unknown,
)

S = ConversationStatus
MS = timedelta(milliseconds=1)
INTRO = TEMPLATE.stages[0]


class TestSettled:
    @pytest.mark.parametrize(
        ("given", "due"),
        [
            (pending(), timedelta(0)),
            (awaiting(), DAY),
            (awaiting(deadline_at=NOW + HOUR), HOUR),
            (awaiting(wait_until=None), 30 * DAY),
            (reserving(awaiting()), HOUR),
            (sending(awaiting(wait_until=NOW)), MINUTE / 2),
            (unknown(awaiting()), HOUR),
            (sending(awaiting(deadline_at=NOW)), timedelta(0)),
            (paused(awaiting()), 30 * DAY),
            (paused(awaiting(), until=NOW + 2 * HOUR), 2 * HOUR),
            (paused(awaiting(), until=NOW + 40 * DAY), 30 * DAY),
            (paused(reserving(awaiting())), 30 * DAY),
            (paused(sending(awaiting())), MINUTE / 2),
            (paused(unknown(awaiting())), HOUR),
            (paused(unknown(awaiting()), until=NOW + MINUTE), MINUTE),
            (escalated(), HOUR),
            (ended(), None),
            (sending(ended()), MINUTE / 2),
        ],
    )
    def test_due(self, given, due):
        """The earliest of what can happen; nothing but the slot once it is over."""
        due_at = settled(given).due_at
        assert due_at == (None if due is None else NOW + due)

    @pytest.mark.parametrize("place", PLACES)
    def test_the_places_are_settled(self, place):
        """The places that tests begin with agree with it."""
        given = PLACES[place]
        after = settled(given)
        assert after == evolve(given, waiting_for=after.waiting_for)

    @pytest.mark.parametrize(
        ("given", "waits"),
        [
            (pending(), ["start"]),
            (pending(message_count=1), []),
            (reserving(pending()), ["retry"]),
            (reserving(pending(), attempts=0), []),
            (sending(pending()), []),
            (unknown(pending()), ["unknown"]),
            (awaiting(), ["reply"]),
            (awaiting(message_count=0), ["reply"]),
            (reserving(awaiting()), ["reply", "retry"]),
            (unknown(awaiting()), ["reply", "unknown"]),
            (held(), ["agent"]),
            (escalated(), ["resolution"]),
            (paused(awaiting()), ["resume"]),
            (paused(reserving(awaiting())), ["resume", "retry"]),
            (ended(), []),
            (sending(ended()), []),
        ],
    )
    def test_waiting_for(self, given, waits):
        """Whom or what it waits for, in words that the agent can query."""
        assert settled(given).waiting_for == tuple(WaitingFor(word) for word in waits)

    def test_follow_ups_sent(self):
        """Of the visit, without the stage's own message."""
        for messages, follow_ups in [(0, 0), (1, 0), (2, 1), (3, 2)]:
            visit = Visit(messages=messages)
            assert settled(conversation(visit=visit)).follow_ups_sent == follow_ups


class TestCaughtUp:
    AT = campaign(paused_total=5000)
    REST = timedelta(seconds=5)

    def test_the_present_pause_counts(self):
        """As far as it has come."""
        given = campaign(**paused_campaign(NOW - HOUR, paused_total=5000))
        assert effective_pause(given, NOW) == 5000 + 3_600_000
        assert effective_pause(self.AT, NOW) == 5000

    @pytest.mark.parametrize(
        "given",
        [pending(message_count=1), awaiting(), held(message_count=0)],
        ids=lambda one: one.status,
    )
    def test_waits_move_on(self, given):
        """By what the conversation has not counted in yet."""
        after = caught_up(evolve(given, pause_seen=1000), self.AT, NOW)
        assert after.wait_until == given.wait_until + timedelta(seconds=4)
        assert after.due_at == after.wait_until
        assert after.pause_seen == 5000

    def test_the_next_attempt_moves_on(self):
        """A message that is reserved waits with its conversation."""
        after = caught_up(reserving(awaiting()), self.AT, NOW)
        assert after.slot.until == NOW + HOUR + self.REST
        assert after.due_at == after.slot.until

    @pytest.mark.parametrize("make", [sending, unknown])
    def test_a_lease_and_a_hold_do_not(self, make):
        """They go by the clock, whatever is paused."""
        given = make(awaiting())
        after = caught_up(given, self.AT, NOW)
        assert after.slot == given.slot
        assert after.wait_until == given.wait_until + self.REST

    @pytest.mark.parametrize("given", [escalated(), paused(awaiting())], ids=lambda one: one.status)
    def test_an_escalation_and_a_paused_wait_do_not(self, given):
        """The pause is noted as seen, and nothing moves."""
        assert caught_up(given, self.AT, NOW) == evolve(given, pause_seen=5000)

    def test_what_is_over_or_seen_stays_as_it_is(self):
        """Nothing is to be written."""
        seen = awaiting(pause_seen=5000)
        assert caught_up(seen, self.AT, NOW) is seen
        over = ended()
        assert caught_up(over, self.AT, NOW) is over

    def test_without_a_wait_of_its_own(self):
        """There is nothing that could move."""
        given = awaiting(wait_until=None)
        assert caught_up(given, self.AT, NOW).wait_until is None

    def test_never_past_the_deadline(self):
        """A deadline does not stand still."""
        given = awaiting(deadline_at=NOW + DAY)
        assert caught_up(given, self.AT, NOW).due_at == NOW + DAY


class TestGivingUp:
    def test_nothing_to_give_up(self):
        """An empty slot stays empty."""
        given = awaiting()
        assert dropped_slot(given, NOW, "why") == (given, ())

    def test_what_is_in_flight_is_only_unwanted(self):
        """Nobody knows yet what comes of it."""
        after, effects = dropped_slot(sending(awaiting()), NOW, "why")
        assert (after.slot.wanted, effects) == (False, ())

    def test_what_was_never_accepted_is_cancelled(self):
        """The entry has the slot, the time and the reason."""
        given = reserving(awaiting())
        after, (record,) = dropped_slot(given, NOW, "why")
        assert after == evolve(given, slot=None)
        assert (record.slot, record.status) == (given.slot, MessageStatus.CANCELLED)
        assert (record.at, record.reason, record.error) == (NOW, "why", None)

    @pytest.mark.parametrize(
        "made", [reserving(awaiting(), uncertain=True), unknown(awaiting(), uncertain=False)]
    )
    def test_what_may_have_been_accepted_is_unknown(self, made):
        """Whatever it is given up as."""
        for status in (MessageStatus.FAILED, MessageStatus.CANCELLED):
            record = given_up(made.slot, status, NOW, "why", "error")
            assert (record.status, record.error) == (MessageStatus.UNKNOWN, "error")

    def test_what_was_certainly_not_accepted_is_what_it_is(self):
        """Failed, for instance."""
        made = sending(awaiting())
        assert given_up(made.slot, MessageStatus.FAILED, NOW, "why").status == "failed"

    def test_closing_ends_every_wait(self):
        """Also that of a pause."""
        given = paused(reserving(awaiting()))
        after, effects = closed(given, ExitReason.BOUNCED, now=NOW, by="u")
        assert (after.wait_until, after.pause, after.slot) == (None, None, None)
        assert (after.status, after.exit_reason) == (S.COMPLETED, ExitReason.BOUNCED)
        assert (after.history[-1].by, after.status_since) == ("u", NOW)
        assert [effect.reason for effect in effects] == ["bounced"]


class TestEntering:
    def test_a_stage_begins_now(self):
        """Its message is next; the history names the stage that was entered."""
        given = reserving(awaiting(), attempts=0)
        after, effects = entered(given, "demo", Reason.WENT_TO_STAGE, now=NOW, by="u")
        assert (after.stage, after.visit, after.wait_until) == ("demo", Visit(), NOW)
        assert (after.history[-1].stage, after.history[-1].by) == ("demo", "u")
        assert [effect.reason for effect in effects] == ["went_to_stage"]


class TestPause:
    def test_held_still_and_released_again(self):
        """As long as its wait had left when it was paused, it has left when it is released."""
        given = awaiting(wait_until=NOW + HOUR)
        still = held_still(given, None, NOW)
        assert (still.status, still.pause.rest) == (S.PAUSED, 3_600_000)
        after = released(still, still.pause, NOW + DAY)
        assert after == evolve(given, wait_until=NOW + DAY + HOUR)

    @pytest.mark.parametrize("make", [sending, unknown])
    def test_only_what_is_reserved_leaves_at_its_end(self, make):
        """A hand-off that is under way, or held, has its own time."""
        given = paused(make(awaiting()))
        assert released(given, given.pause, NOW + DAY).slot == given.slot

    def test_the_start_is_a_date(self):
        """It comes when it comes, paused or not; later starts, of other stages, are waits."""
        start = NOW + DAY
        still = held_still(pending(wait_until=start), None, NOW)
        assert still.pause.rest is None
        assert released(still, still.pause, NOW + HOUR).wait_until == start
        assert held_still(pending(message_count=1), None, NOW).pause.rest == 0

    def test_without_a_wait_there_is_no_rest(self):
        """And none afterwards."""
        still = held_still(awaiting(wait_until=None), None, NOW)
        assert still.pause.rest is None
        assert released(still, still.pause, NOW).wait_until is None

    def test_without_a_pause_it_is_decided_at_once(self):
        """Nothing is put back."""
        given = awaiting()
        assert under_pause(given, NOW, lambda _: (ended(), ())) == (ended(), ())
        assert under_pause(given, NOW, lambda inner: (inner, ()))[0] is given

    def test_a_decision_that_changes_nothing_leaves_the_pause_as_it_is(self):
        """The rest of the wait is not counted anew."""
        given = paused(awaiting(), rest=HOUR)
        assert under_pause(given, NOW + DAY, lambda inner: (inner, ("e",))) == (given, ("e",))

    def test_the_end_is_the_end(self):
        """What is closed under a pause is not paused any more."""
        after, _ = under_pause(paused(awaiting()), NOW, lambda _: (ended(), ()))
        assert after == ended()


def test_milliseconds_are_whole():
    """Cut, not rounded."""
    assert milliseconds(timedelta(seconds=1, microseconds=1999)) == 1001


class TestStages:
    def test_a_stage_that_is_not_there(self):
        """Found as None, where it may be missing; a defect, where it may not."""
        assert find_stage(TEMPLATE, "nowhere") is None
        with pytest.raises(LookupError, match="no stage 'nowhere'"):
            stage_of(TEMPLATE, "nowhere")

    def test_the_next_stage(self):
        """In the order of the template; none after the last."""
        assert next_stage(TEMPLATE, "intro").id == "demo"
        assert next_stage(TEMPLATE, "demo").id == "thanks"
        assert next_stage(TEMPLATE, "thanks") is None

    @pytest.mark.parametrize(
        ("visit", "step", "wait"),
        [
            (Visit(), 0, WITHIN),
            (Visit(messages=1), 1, 2 * DAY),
            (Visit(messages=2), 2, 4 * DAY),
            (Visit(messages=3), None, WITHIN),
            (Visit(messages=1, follow_ups_dropped=True), None, WITHIN),
        ],
    )
    def test_the_next_step(self, visit, step, wait):
        """The stage's message, its follow-ups in order, then silence."""
        assert next_step(INTRO, visit) == step
        assert wait_after(INTRO, visit) == wait

    def test_the_first_channel_whose_address_there_is(self):
        """By the address kind of the channel, which is its name unless it is configured."""
        specs = {one.name: one for one in [channel("urgent", address_kind="sms"), channel("x")]}
        both = recipient(address={"email": "a@b.c", "sms": "+4915112345678"})
        assert pick_channel(("x", "urgent", "email"), both, specs) == "urgent"
        assert pick_channel(("email", "urgent"), both, specs) == "email"
        assert pick_channel(("x", "post"), both, specs) is None
