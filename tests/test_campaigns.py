"""What becomes of a campaign by orders, by time, and by what happens to its conversations."""

from datetime import timedelta
from itertools import permutations
from uuid import UUID

import pytest
from attrs import evolve

from handlers.campaign import (
    closed_all,
    completed,
    counted,
    failed,
    opened_through,
    recounted_at,
    reopened,
    retries_over,
    settled,
    step,
)
from schemas.campaign import CampaignStatus, CompletionReason, Counts, MessageCounts
from schemas.conversation import MAX_APPLIED
from schemas.ids import campaign_id
from schemas.update import CampaignUpdate, CampaignUpdateKind
from tests.builders import DAY, HOUR, NOW, REQUEST, campaign

S = CampaignStatus
MS = timedelta(milliseconds=1)
HOUR_MS = 3_600_000
END = NOW + 30 * DAY
START = NOW + HOUR
UNPAUSED = {"paused_from": None, "paused_at": None, "paused_until": None}
PAUSED = {"status": S.PAUSED, "paused_from": S.ACTIVE, "paused_at": NOW - HOUR}
SCHEDULED = {"status": S.SCHEDULED, "scheduled_at": START, "started_at": START}
TOO_LATE = {"status": S.CANCELLED, "completion_reason": CompletionReason.TOO_LATE, "due_at": NOW}
COMPLETED = {"completed_at": NOW, "completion_reason": CompletionReason.ALL_FINAL}


def made(**changes):
    """Make a campaign that is due when it must be."""
    return settled(campaign(**changes), NOW)


CAMPAIGNS = {
    "scheduled": made(**SCHEDULED),
    "pending": made(status=S.PENDING, opened=False),
    "active": made(),
    "paused": made(**PAUSED),
    "completed": made(status=S.COMPLETED, **COMPLETED),
    "cancelled": made(status=S.CANCELLED),
    "failed": made(status=S.FAILED),
}


def order(kind, identity=None, **changes):
    """Make an order of the campaign."""
    default = {"id": identity or f"{kind}-1", "campaign_id": campaign_id(REQUEST), "at": NOW}
    return CampaignUpdate(kind=CampaignUpdateKind(kind), **default | changes)


def follow(given, *orders, now=NOW):
    """Let a campaign follow orders; it as it becomes, and the answers in their order."""
    transition = step(given, orders, now)
    assert transition == step(given, orders, now)
    answers = [(key, f"{said.status}: {said.reason}") for key, said in transition.answers]
    return transition.campaign, answers


class TestOrders:
    @pytest.mark.parametrize(
        ("given", "kind", "answer", "changes"),
        [
            (
                "scheduled",
                "pause",
                "applied: paused",
                {"status": S.PAUSED, "paused_from": S.SCHEDULED, "paused_at": NOW, "due_at": END},
            ),
            (
                "pending",
                "pause",
                "applied: paused",
                {"status": S.PAUSED, "paused_from": S.PENDING, "paused_at": NOW},
            ),
            (
                "active",
                "pause",
                "applied: paused",
                {"status": S.PAUSED, "paused_from": S.ACTIVE, "paused_at": NOW},
            ),
            ("paused", "pause", "ignored: repeated", {}),
            ("completed", "pause", "ignored: final", {}),
            ("cancelled", "pause", "ignored: final", {}),
            ("failed", "pause", "ignored: final", {}),
            ("scheduled", "resume", "ignored: not_paused", {}),
            ("pending", "resume", "ignored: not_paused", {}),
            ("active", "resume", "ignored: not_paused", {}),
            (
                "paused",
                "resume",
                "applied: resumed",
                {"status": S.ACTIVE, "paused_total": HOUR_MS} | UNPAUSED,
            ),
            ("completed", "resume", "ignored: not_paused", {}),
            ("cancelled", "resume", "ignored: not_paused", {}),
            ("failed", "resume", "ignored: not_paused", {}),
            ("scheduled", "cancel", "applied: cancelled", {"status": S.CANCELLED, "due_at": NOW}),
            ("pending", "cancel", "applied: cancelled", {"status": S.CANCELLED}),
            ("active", "cancel", "applied: cancelled", {"status": S.CANCELLED, "due_at": NOW}),
            (
                "paused",
                "cancel",
                "applied: cancelled",
                {"status": S.CANCELLED, "due_at": NOW, "paused_total": HOUR_MS} | UNPAUSED,
            ),
            ("completed", "cancel", "ignored: final", {}),
            ("cancelled", "cancel", "ignored: final", {}),
            ("failed", "cancel", "ignored: final", {}),
            ("scheduled", "retry", "applied: retried", {"retry_failed_before": NOW}),
            ("pending", "retry", "applied: retried", {"retry_failed_before": NOW}),
            ("active", "retry", "applied: retried", {"retry_failed_before": NOW}),
            ("paused", "retry", "applied: retried", {"retry_failed_before": NOW}),
            (
                "completed",
                "retry",
                "applied: retried",
                {
                    "status": S.ACTIVE,
                    "completed_at": None,
                    "completion_reason": None,
                    "retry_failed_before": NOW,
                    "due_at": END,
                },
            ),
            ("cancelled", "retry", "ignored: final", {}),
            ("failed", "retry", "ignored: final", {}),
        ],
    )
    def test_in_every_status(self, given, kind, answer, changes):
        """An order changes what it says and is remembered, or changes nothing and says why."""
        before = CAMPAIGNS[given]
        after, answers = follow(before, order(kind))
        applied = (f"{kind}-1",) if answer.startswith("applied") else ()
        assert after == evolve(before, applied=applied, **changes)
        assert answers == [(f"{kind}-1", answer)]

    @pytest.mark.parametrize("given", CAMPAIGNS)
    @pytest.mark.parametrize("kind", CampaignUpdateKind)
    def test_again(self, given, kind):
        """One that comes again changes nothing, and is said to have been applied."""
        before = evolve(CAMPAIGNS[given], applied=(f"{kind}-1",))
        after, answers = follow(before, order(kind))
        assert after == before
        assert answers == [(f"{kind}-1", "applied: repeated")]

    def test_again_after_others(self):
        """What comes again does not keep the orders behind it from taking effect."""
        before = evolve(CAMPAIGNS["active"], applied=("pause-1",))
        after, answers = follow(before, order("pause"), order("retry"))
        assert after.applied == ("pause-1", "retry-1")
        assert answers == [("pause-1", "applied: repeated"), ("retry-1", "applied: retried")]

    def test_remembered(self):
        """Every order that took effect is remembered, also a second one of the same moment."""
        after, _ = follow(CAMPAIGNS["active"], order("retry", "a"), order("retry", "b"))
        assert after.applied == ("a", "b")

    def test_remembered_for_long(self):
        """Of many orders the last ones are remembered."""
        known = tuple(str(number) for number in range(MAX_APPLIED))
        after, _ = follow(campaign(applied=known), order("pause"))
        assert after.applied == (*known[1:], "pause-1")

    @pytest.mark.parametrize(
        ("orders", "status", "answers"),
        [
            (
                [order("resume", "a", at=NOW), order("pause", "b", at=NOW - MS)],
                S.ACTIVE,
                [("b", "applied: paused"), ("a", "applied: resumed")],
            ),
            (
                [order("resume", "a"), order("pause", "b")],
                S.PAUSED,
                [("a", "ignored: not_paused"), ("b", "applied: paused")],
            ),
            (
                [order("pause", UUID(int=1)), order("cancel", "9"), order("resume", "1")],
                S.CANCELLED,
                [
                    (UUID(int=1), "applied: paused"),
                    ("1", "applied: resumed"),
                    ("9", "applied: cancelled"),
                ],
            ),
        ],
        ids=["by time", "then by id", "ids of every type"],
    )
    def test_order(self, orders, status, answers):
        """Orders that are unanswered together take effect by `at`, then `_id`, however they come."""
        for given in permutations(orders):
            after, said = follow(campaign(), *given)
            assert after.status is status
            assert said == answers

    @pytest.mark.parametrize("given", ["active", "completed"])
    def test_retry_when_it_is_over(self, given):
        """From the deadline on nothing is retried; a moment before, all is."""
        before = settled(CAMPAIGNS[given], END)
        assert follow(before, order("retry"), now=END) == (
            before,
            [("retry-1", "ignored: deadline_over")],
        )
        assert follow(before, order("retry"), now=END - MS)[0].retry_failed_before == END - MS

    def test_until(self):
        """A pause is due when it ends by itself, and does not begin where that is past."""
        after, _ = follow(campaign(), order("pause", until=START))
        assert (after.status, after.paused_until, after.due_at) == (S.PAUSED, START, START)
        after, answers = follow(campaign(), order("pause", until=NOW))
        assert answers == [("pause-1", "applied: paused")]
        assert after == evolve(campaign(), applied=("pause-1",))

    def test_pauses_add_up(self):
        """However they end, pauses are added up, to the millisecond."""
        one, _ = follow(campaign(), order("pause", "a"))
        one, _ = follow(one, order("resume", "b"), now=NOW + HOUR)
        two, _ = follow(one, order("pause", "c", until=NOW + 5 * HOUR + MS), now=NOW + 3 * HOUR)
        two, _ = follow(two, now=NOW + 5 * HOUR + MS)
        three, _ = follow(two, order("pause", "d"), now=NOW + DAY)
        three, _ = follow(three, order("cancel", "e"), now=NOW + 2 * DAY)
        assert [each.paused_total for each in (one, two, three)] == [
            HOUR_MS,
            3 * HOUR_MS + 1,
            27 * HOUR_MS + 1,
        ]
        assert isinstance(three.paused_total, int)

    def test_paused_since_nobody_knows_when(self):
        """A pause without a beginning or a status before it ends as an active campaign's of no time."""
        after, _ = follow(made(status=S.PAUSED), order("resume"))
        assert (after.status, after.paused_total) == (S.ACTIVE, 0)


class TestTime:
    @pytest.mark.parametrize(
        ("given", "now", "changes"),
        [
            (SCHEDULED, START - MS, {}),
            (SCHEDULED, START, {"status": S.ACTIVE, "due_at": END}),
            (SCHEDULED | {"opened": False}, START, {"status": S.PENDING}),
            (SCHEDULED, START + DAY, {"status": S.ACTIVE, "due_at": END}),
            (SCHEDULED, START + DAY + MS, TOO_LATE),
            (SCHEDULED | {"opened": False}, START + 2 * DAY, TOO_LATE),
            ({"status": S.PENDING}, NOW, {"status": S.ACTIVE}),
            ({"status": S.PENDING, "opened": False}, NOW + HOUR, {}),
            ({}, END - MS, {}),
            ({}, END, {"due_at": None}),
            (PAUSED, END - MS, {}),
            (
                PAUSED,
                END,
                {"status": S.ACTIVE, "due_at": None, "paused_total": 721 * HOUR_MS} | UNPAUSED,
            ),
            (PAUSED | {"paused_until": START}, START - MS, {}),
            (
                PAUSED | {"paused_until": START},
                START,
                {"status": S.ACTIVE, "due_at": END, "paused_total": 2 * HOUR_MS} | UNPAUSED,
            ),
            (
                PAUSED | {"paused_until": END + DAY},
                END,
                {"status": S.ACTIVE, "due_at": None, "paused_total": 721 * HOUR_MS} | UNPAUSED,
            ),
            (SCHEDULED | PAUSED | {"paused_from": S.SCHEDULED}, START + DAY, {}),
            (
                SCHEDULED | PAUSED | {"paused_from": S.SCHEDULED, "paused_until": NOW},
                NOW,
                {"status": S.SCHEDULED, "due_at": START, "paused_total": HOUR_MS} | UNPAUSED,
            ),
            (
                SCHEDULED | PAUSED | {"paused_from": S.SCHEDULED, "paused_until": START},
                START,
                {"status": S.ACTIVE, "due_at": END, "paused_total": 2 * HOUR_MS} | UNPAUSED,
            ),
            (
                SCHEDULED | PAUSED | {"paused_from": S.SCHEDULED, "paused_until": START + 2 * DAY},
                START + 2 * DAY,
                TOO_LATE | {"paused_total": 50 * HOUR_MS} | UNPAUSED,
            ),
            (
                PAUSED | {"paused_from": S.PENDING, "paused_until": START},
                START,
                {"status": S.ACTIVE, "due_at": END, "paused_total": 2 * HOUR_MS} | UNPAUSED,
            ),
            ({"open_until": START}, START - MS, {}),
            ({"open_until": START}, START, {"open_until": None, "due_at": END}),
            ({"open_until": END + HOUR}, END, {"due_at": END + HOUR}),
            ({"open_until": END + HOUR}, END + HOUR, {"open_until": None, "due_at": None}),
            ({"status": S.COMPLETED} | COMPLETED, END, {}),
            ({"status": S.CANCELLED}, END, {}),
            ({"status": S.FAILED, "all_closed": True}, END, {}),
        ],
        ids=[
            "scheduled: not yet",
            "scheduled: it starts",
            "scheduled: it starts, and is yet to be opened",
            "scheduled: it starts at the last moment",
            "scheduled: too late",
            "scheduled: too late, and never opened",
            "pending: active once all is opened",
            "pending: yet to be opened",
            "active: before its deadline",
            "active: at its deadline",
            "paused: before the deadline",
            "paused: the deadline ends the pause",
            "paused: before `until`",
            "paused: `until`",
            "paused: `until` is after the deadline",
            "paused while scheduled: does not start",
            "paused while scheduled: waits for its time again",
            "paused while scheduled: starts when the pause is over",
            "paused while scheduled: then it is too late",
            "paused while pending: active, for all is opened",
            "reopened: a conversation is about to open",
            "reopened: its conversation is open",
            "reopened: about to open at the deadline",
            "reopened: the deadline is over",
            "completed",
            "cancelled",
            "failed",
        ],
    )
    def test_passes(self, given, now, changes):
        """Time starts a campaign, ends its pause or starts it no more; else nothing changes."""
        before = made(**given)
        assert follow(before, now=now) == (evolve(before, **changes), [])


@pytest.mark.parametrize(
    ("changes", "due_at"),
    [
        ({"opened": False}, NOW),
        (SCHEDULED, START),
        (SCHEDULED | {"opened": False}, NOW),
        (SCHEDULED | {"opened": False, "created_at": NOW - DAY}, NOW - DAY),
        ({"status": S.PENDING}, END),
        ({}, END),
        ({"open_until": START}, START),
        ({"open_until": END + DAY}, END),
        ({"deadline_at": NOW}, None),
        ({"deadline_at": NOW, "open_until": START}, START),
        (PAUSED, END),
        (PAUSED | {"paused_until": START}, START),
        (PAUSED | {"paused_until": START, "open_until": START - MS}, START - MS),
        (PAUSED | {"paused_until": END + DAY}, END),
        (PAUSED | {"opened": False}, NOW),
        ({"status": S.COMPLETED} | COMPLETED, None),
        ({"status": S.COMPLETED, "recount_at": START} | COMPLETED, START),
        ({"status": S.CANCELLED, "recount_at": NOW - DAY} | COMPLETED, NOW - DAY),
        ({"status": S.CANCELLED}, NOW),
        ({"status": S.CANCELLED, "all_closed": True}, None),
        ({"status": S.CANCELLED, "all_closed": True, "opened": False}, NOW),
        ({"status": S.CANCELLED, "all_closed": True, "open_until": START}, START),
        ({"status": S.CANCELLED, "all_closed": True, "paused_until": START}, None),
        ({"status": S.CANCELLED} | COMPLETED, None),
        ({"status": S.FAILED}, NOW),
        ({"status": S.FAILED, "all_closed": True}, None),
        ({"status": S.FAILED} | COMPLETED, None),
    ],
)
def test_due(changes, due_at):
    """A campaign is due when it has work: what comes first, at once what is yet to be done."""
    before = campaign(**changes)
    assert settled(before, NOW) == evolve(before, due_at=due_at)


class TestOpening:
    @pytest.mark.parametrize(
        ("given", "done", "changes"),
        [
            ({"status": S.PENDING}, False, {"due_at": NOW}),
            ({"status": S.PENDING}, True, {"status": S.ACTIVE, "due_at": END}),
            (SCHEDULED, False, {"due_at": NOW}),
            (SCHEDULED, True, {"due_at": START}),
            (PAUSED | {"paused_from": S.PENDING}, True, {"due_at": END}),
            ({"status": S.CANCELLED}, True, {"due_at": NOW}),
        ],
    )
    def test_through(self, given, done, changes):
        """
        How far the opening has come is noted; who of the next chunk is barred is not known yet.

        Once all is opened, what is pending is active.
        """
        before = made(opened=False, barred=("c",), **given)
        after = opened_through(before, 500, NOW, done=done)
        assert after == evolve(before, opened_through=500, opened=done, barred=None, **changes)

    def test_takes_its_time(self):
        """A campaign whose time comes while it is being opened starts when it is."""
        before = made(**SCHEDULED | {"opened": False})
        assert opened_through(before, None, START, done=True).status is S.ACTIVE
        assert opened_through(before, 500, START, done=False).status is S.PENDING


COUNTS = Counts(
    open=2, by_status={"completed": 3}, by_stage={"a": 3}, by_exit_reason={"replied": 3}
)
SENT = MessageCounts(sent=7, failed=1, unknown=2, cancelled=3)
KNOWN = Counts(recipients=9, rejected=4, open=1)


def test_counted():
    """A recount replaces all but how many recipients there are and were rejected."""
    before = campaign(counts=KNOWN)
    assert counted(before, COUNTS, SENT, START) == evolve(
        before,
        counts=evolve(COUNTS, recipients=9, rejected=4),
        messages=SENT,
        counted_at=START,
    )


class TestLateCount:
    """A completed campaign is counted until nothing can be written that was not counted."""

    LATE = evolve(CAMPAIGNS["completed"], recount_at=START, due_at=START)

    def test_put_off(self):
        """Whoever is about to write something moves the recount behind it."""
        assert recounted_at(self.LATE, END, NOW) == evolve(self.LATE, recount_at=END, due_at=END)
        first = recounted_at(CAMPAIGNS["completed"], START, NOW)
        assert first == self.LATE

    def test_too_early(self):
        """A recount that began before is good for now, and not the last one."""
        after = counted(self.LATE, COUNTS, SENT, START - MS)
        assert (after.recount_at, after.due_at, after.counted_at) == (START, START, START - MS)

    def test_the_last_one(self):
        """One that began then is the last one."""
        after = counted(self.LATE, COUNTS, SENT, START)
        assert (after.recount_at, after.due_at, after.messages) == (None, None, SENT)


class TestCompleted:
    @pytest.mark.parametrize(
        ("given", "exits", "reason"),
        [
            ("cancelled", {"max_duration": 1, "cancelled": 3}, CompletionReason.CANCELLED),
            ("cancelled", {"no_reply_exhausted": 1}, CompletionReason.CANCELLED),
            ("active", {"max_duration": 1, "no_reply_exhausted": 9}, CompletionReason.MAX_DURATION),
            ("active", {"max_duration": 1, "replied": 9}, CompletionReason.MAX_DURATION),
            ("active", {"no_reply_exhausted": 2}, CompletionReason.FOLLOW_UPS_EXHAUSTED),
            ("active", {"no_reply_exhausted": 2, "replied": 1}, CompletionReason.ALL_FINAL),
            ("active", {"max_duration": 0, "replied": 1}, CompletionReason.ALL_FINAL),
            ("active", {}, CompletionReason.ALL_FINAL),
            ("paused", {"replied": 1}, CompletionReason.ALL_FINAL),
            ("failed", {"failed_permanent": 2}, CompletionReason.ALL_FINAL),
        ],
    )
    def test_reason(self, given, exits, reason):
        """The first reason that holds is given; what was cancelled or has failed stays so."""
        counts = Counts(by_exit_reason=exits)
        after = completed(CAMPAIGNS[given], counts, SENT, NOW, START)
        assert after.completion_reason is reason
        assert after.status == (given if given in {"cancelled", "failed"} else "completed")

    def test_too_late(self):
        """A campaign that was not started in time says so, for all that its end was an order's."""
        late = campaign(**TOO_LATE)
        after = completed(late, Counts(by_exit_reason={"max_duration": 1}), SENT, NOW, START)
        assert (after.status, after.completion_reason) == (
            S.CANCELLED,
            CompletionReason.TOO_LATE,
        )

    def test_is_over(self):
        """A completed campaign has its counts, for now; its pause is over, too."""
        before = evolve(CAMPAIGNS["paused"], counts=KNOWN, paused_until=END)
        assert completed(before, COUNTS, SENT, NOW, START) == evolve(
            before,
            status=S.COMPLETED,
            completed_at=NOW,
            completion_reason=CompletionReason.ALL_FINAL,
            counts=evolve(COUNTS, recipients=9, rejected=4),
            messages=SENT,
            counted_at=NOW,
            paused_total=HOUR_MS,
            recount_at=START,
            due_at=START,
            **UNPAUSED,
        )


class TestReopened:
    def test_for_its_rest(self):
        """A completed campaign that is active again is due at its deadline."""
        before = CAMPAIGNS["completed"]
        changes = {"status": S.ACTIVE, "completed_at": None, "completion_reason": None}
        assert reopened(before, NOW) == evolve(before, due_at=END, **changes)
        again = evolve(before, open_until=START, recount_at=START)
        assert reopened(again, NOW) == evolve(before, due_at=END, **changes)

    def test_until(self):
        """One that must not be completed before is looked at then."""
        after = reopened(CAMPAIGNS["completed"], NOW, START)
        assert (after.status, after.open_until, after.due_at) == (S.ACTIVE, START, START)

    @pytest.mark.parametrize("given", ["active", "paused"])
    def test_one_that_is_not_over_is_kept_from_its_end(self, given):
        """Nothing else changes: a pause stays."""
        before = CAMPAIGNS[given]
        assert reopened(before, NOW, START) == evolve(before, open_until=START, due_at=START)

    def test_until_and_cancelled(self):
        """Cancelled while a conversation is about to open, it is looked at when that is over."""
        after, _ = follow(reopened(CAMPAIGNS["completed"], NOW, START), order("cancel"))
        after = closed_all(after, NOW)
        assert (after.open_until, after.due_at) == (START, START)
        after, _ = follow(after, now=START)
        assert (after.open_until, after.due_at) == (None, None)


def test_closed_all():
    """An ended campaign is not due for its conversations once all are closed."""
    before = CAMPAIGNS["cancelled"]
    assert before.due_at == NOW
    assert closed_all(before, NOW) == evolve(before, all_closed=True, due_at=None)


def test_retries_over():
    """When all that had failed is put back, the order is carried out."""
    before = campaign(retry_failed_before=NOW)
    assert retries_over(before) == evolve(before, retry_failed_before=None)


@pytest.mark.parametrize("given", ["scheduled", "pending", "active"])
def test_failed(given):
    """A campaign that cannot go on opens no more, says why, and closes its conversations."""
    before = CAMPAIGNS[given]
    assert failed(before, "the request is gone", NOW) == evolve(
        before, status=S.FAILED, opened=True, last_error="the request is gone", due_at=NOW
    )


def test_failed_after_its_end():
    """One that had closed all of its conversations is due when another one may be open."""
    before = made(status=S.CANCELLED, all_closed=True, open_until=START)
    assert failed(before, "gone", NOW) == evolve(
        before, status=S.FAILED, last_error="gone", due_at=START
    )


def test_failed_while_paused():
    """Its pause ends with it."""
    before = CAMPAIGNS["paused"]
    assert failed(before, "gone", NOW) == evolve(
        before,
        status=S.FAILED,
        last_error="gone",
        due_at=NOW,
        paused_total=HOUR_MS,
        **UNPAUSED,
    )
