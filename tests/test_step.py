"""One step: updates in their order, then time, as one write; and what it marks is handed off."""

from datetime import timedelta
from uuid import UUID

from attrs import evolve

from handlers.atom import settled
from handlers.conversation import Step, hands_off, step
from schemas.campaign import CampaignStatus
from schemas.conversation import ConversationStatus, SlotState
from schemas.transition import Reason
from schemas.update import UpdateStatus
from tests.builders import DAY, HOUR, NOW, slot
from tests.decided import (
    LEASE,
    MINUTE,
    awaiting,
    ended,
    entry,
    escalated,
    held,
    pass_on,
    paused,
    paused_campaign,
    pending,
    reserving,
    scene,
    sending,
    update,
)

S = ConversationStatus
EARLIER = NOW - MINUTE


def reasons(result):
    """Name what was decided, in order."""
    return [reason.value for reason in result.reasons]


def answers(result):
    """Give the answers by update."""
    return {identity: (answer.status.value, answer.reason) for identity, answer in result.answers}


def test_nothing_to_decide():
    """The conversation is given back as it is, and nothing is to be written."""
    given = settled(awaiting())
    assert pass_on(given) == Step(conversation=given)


def test_an_update_and_the_message_it_leads_to_are_one_write():
    """A reply enters a stage, whose message is marked at once."""
    result = pass_on(awaiting(), update("reply", intent="next"))
    assert reasons(result) == ["stage_advanced", "message_marked"]
    assert answers(result) == {"reply-9": ("applied", "stage_advanced")}
    assert result.conversation.slot.stage == "demo"
    assert result.conversation.slot.reply.id == "reply-9"
    assert hands_off(awaiting(), result.conversation)


def test_updates_take_effect_by_time():
    """Whatever the order in which they were loaded."""
    later = update("resume", id="a")
    earlier = update("pause", id="b", at=EARLIER)
    result = pass_on(awaiting(), later, earlier)
    assert reasons(result) == ["paused", "resumed"]
    assert [identity for identity, _ in result.answers] == ["b", "a"]
    assert result.conversation.status is S.AWAITING_REPLY


def test_updates_of_one_time_take_effect_by_id():
    """Ids of any kind compare as text."""
    first, second = update("pause", id=UUID(int=1)), update("resume", id="z")
    result = pass_on(awaiting(), second, first)
    assert reasons(result) == ["paused", "resumed"]


def test_each_update_is_decided_on_what_the_one_before_left():
    """The end comes first: what follows is ignored, an opt-out suppresses all the same."""
    told = (
        update("goal_reached", id="a"),
        update("reply", id="b", intent="next"),
        update("opted_out", id="c"),
    )
    result = pass_on(awaiting(), *told)
    assert answers(result) == {
        "a": ("applied", "completed"),
        "b": ("ignored", "final"),
        "c": ("applied", "suppressed"),
    }
    assert len(result.effects) == 1
    assert result.conversation.applied == ("a",)


def test_effects_are_in_the_order_of_decisions():
    """The suppression, what was cancelled, and so on."""
    result = pass_on(
        reserving(awaiting()),
        update("delivered", id="a", message_id=slot().key(awaiting().id)),
        update("opted_out", id="b"),
    )
    assert [type(effect).__name__ for effect in result.effects] == ["Report", "Suppress", "Record"]


def test_a_send_waits_while_all_else_is_applied():
    """It has no answer; what came after it has."""
    result = pass_on(
        sending(awaiting()), update("send", id="a"), update("reply", id="b", intent="away")
    )
    assert reasons(result) == ["waits", "reply_stayed"]
    assert answers(result) == {"b": ("applied", "reply_stayed")}


def test_a_send_that_waits_does_not_count_as_applied():
    """It comes again when the hand-off is over."""
    given = settled(sending(awaiting()))
    result = pass_on(given, update("send"))
    assert result.conversation == given
    assert not result.answers


def test_a_send_leaves_in_its_own_step():
    """Reserved and marked by one write; the key of the answer is the key that is handed off."""
    result = pass_on(held(), update("send"))
    after = result.conversation
    assert reasons(result) == ["send_reserved", "message_marked"]
    assert result.answers[0][1].message_id == after.slot.key(after.id)
    assert after.slot.state is SlotState.SENDING


def test_a_reply_comes_before_the_follow_up_that_is_due():
    """Both at once: the reply wins, the follow-up is not sent."""
    given = awaiting(wait_until=NOW, due_at=NOW)
    result = pass_on(given, update("reply", intent="no"))
    assert reasons(result) == ["completed"]
    assert result.conversation.slot is None


def test_a_reply_that_stays_lets_the_follow_up_go():
    """As if it had not come."""
    given = awaiting(wait_until=NOW, due_at=NOW)
    result = pass_on(given, update("reply", intent="away"))
    assert reasons(result) == ["reply_stayed", "message_marked"]


def test_a_failure_is_over_once_a_decision_can_be_made():
    """It had put off its due time; that is derived again."""
    given = evolve(pending(), failures=2, due_at=NOW + HOUR)
    result = pass_on(given)
    assert reasons(result) == ["message_marked"]
    assert result.conversation.failures == 0
    waiting = pass_on(evolve(awaiting(), failures=2, due_at=NOW)).conversation
    assert (waiting.failures, waiting.due_at) == (0, NOW + DAY)


def test_a_pause_comes_before_what_is_due():
    """What is due waits."""
    given = awaiting(wait_until=NOW, due_at=NOW)
    assert reasons(pass_on(given, update("pause"))) == ["paused"]


def test_a_retry_sends_what_failed_at_once():
    """Put back and marked by one write, under a new key."""
    given = ended("failed")
    result = pass_on(given, update("retry"))
    assert reasons(result) == ["retried", "message_marked"]
    assert (result.conversation.slot.step, result.conversation.slot.n) == (1, 1)


def test_a_retry_of_a_completed_campaign_waits_until_it_is_active():
    """Nothing is marked in a campaign that is not active."""
    result = pass_on(ended("failed"), update("retry"), at=scene(status=CampaignStatus.COMPLETED))
    assert reasons(result) == ["retried"]
    assert result.conversation.due_at == NOW


def test_in_an_ended_campaign_updates_are_applied_and_then_it_is_closed():
    """Answered first, then cancelled with the campaign."""
    at = scene(status=CampaignStatus.CANCELLED)
    result = pass_on(awaiting(), update("reply", intent="next"), at=at)
    assert reasons(result) == ["stage_advanced", "cancelled"]


def test_a_report_comes_before_the_take_over():
    """A report of this very step settles the message: it is not resent."""
    given = sending(pending(), until=NOW)
    result = pass_on(given, update("delivered"))
    assert reasons(result) == ["reported"]
    assert result.conversation.status is S.AWAITING_REPLY


def test_an_unwanted_message_is_taken_over_by_the_ledgers_word():
    """The reply is applied, and the slot is cleared as the ledger says."""
    given = sending(pending(), until=NOW)
    result = pass_on(given, update("reply", intent="next"), ledger=entry("sent"))
    assert reasons(result) == ["stage_advanced", "message_sent"]
    assert result.conversation.slot is None
    assert result.conversation.due_at == NOW


def test_a_campaigns_pause_is_caught_up_first():
    """What stood still runs on: the follow-up that would be due is not."""
    given = awaiting(wait_until=NOW - HOUR, due_at=NOW - HOUR)
    result = pass_on(given, at=scene(paused_total=7_200_000))
    assert reasons(result) == []
    assert result.conversation.wait_until == NOW + HOUR
    assert result.conversation.due_at == NOW + HOUR
    assert result.conversation.pause_seen == 7_200_000


def test_what_is_decided_during_a_campaigns_pause_counts_from_its_end():
    """A reply enters a stage during the pause: its message leaves when the pause is over."""
    pausing = scene(**paused_campaign(NOW - HOUR))
    entered = pass_on(awaiting(), update("reply", intent="next"), at=pausing)
    assert reasons(entered) == ["stage_advanced"]
    resumed = scene(now=NOW + HOUR, paused_total=7_200_000)
    after = pass_on(entered.conversation, at=resumed)
    assert reasons(after) == ["message_marked"]
    assert after.conversation.slot.due_at == NOW + HOUR


def test_several_pauses_add_up():
    """Each is caught up once, whenever the conversation is looked at."""
    given = awaiting(wait_until=NOW + DAY)
    first = pass_on(given, at=scene(now=NOW + HOUR, paused_total=1000)).conversation
    during = scene(now=NOW + 2 * HOUR, **paused_campaign(NOW + HOUR, paused_total=1000))
    second = pass_on(first, at=during).conversation
    again = pass_on(second, at=during)
    assert again.conversation == second
    assert second.wait_until == NOW + DAY + HOUR + timedelta(seconds=1)
    over = scene(now=NOW + 5 * HOUR, paused_total=3_601_000)
    assert pass_on(second, at=over).conversation == second


def test_a_conversations_own_pause_and_its_campaigns_do_not_add_up():
    """The rest of the wait is kept by the conversation's pause, whatever the campaign does."""
    given = paused(awaiting(), rest=5 * HOUR)
    at = scene(now=NOW + DAY, paused_total=3_600_000)
    after = pass_on(given, update("resume"), at=at).conversation
    assert after.wait_until == NOW + DAY + 5 * HOUR


def test_an_escalations_deadline_does_not_stand_still():
    """Neither under a pause of the campaign nor under the conversation's own."""
    given = escalated(wait_until=NOW + HOUR)
    at = scene(now=NOW + HOUR, paused_total=3_600_000)
    assert pass_on(given, at=at).conversation.exit_reason == "escalation_expired"


class TestHandsOff:
    def test_a_message_that_was_marked(self):
        """New in the slot, or marked again: it is to be handed off."""
        assert hands_off(pending(), pass_on(pending()).conversation)
        again = reserving(pending(), until=NOW)
        assert hands_off(again, pass_on(again).conversation)
        lost = sending(pending(), until=NOW)
        assert hands_off(lost, pass_on(lost).conversation)

    def test_one_that_was_marked_before_is_not_ours(self):
        """It has its worker."""
        given = sending(awaiting())
        after = pass_on(given, update("reply", intent="next")).conversation
        assert not hands_off(given, after)
        assert not hands_off(given, given)

    def test_what_is_only_reserved_is_not(self):
        """It waits."""
        given = paused(awaiting())
        after = pass_on(given, update("send")).conversation
        assert after.slot
        assert not hands_off(given, after)
        assert not hands_off(given, paused(awaiting()))


def test_the_mark_carries_our_lease():
    """Token and end of lease are those of the scene."""
    slot = pass_on(pending()).conversation.slot
    assert (slot.token, slot.until) == (LEASE.token, LEASE.until)


def test_a_repeated_update_is_answered_again():
    """A crash between the write and the answer: applied once, answered all the same."""
    told = update("reply", intent="next")
    once = pass_on(awaiting(), told).conversation
    again = pass_on(once, told)
    assert answers(again) == {"reply-9": (UpdateStatus.APPLIED, Reason.REPEATED)}
    assert again.conversation == once


def test_a_step_is_pure():
    """The same conversation, updates and scene give the same step, in whatever order they come."""
    told = [update("reply", id=name, intent="question") for name in "cab"]
    forward = step(held(), told, None, scene())
    assert forward == step(held(), told[::-1], None, scene())
    assert forward.conversation.reply.id == "c"
    assert forward.conversation == evolve(forward.conversation)
