"""The runaway guard: what an address may get in a day, whatever all the templates say (I9)."""

from datetime import timedelta

import pytest
from attrs import evolve

from handlers.last_look import AGAIN, AGAIN_MOST, Seen, verdict
from schemas.campaign import CampaignStatus
from schemas.hand_off import Outcome, OutcomeKind
from schemas.message import MessageStatus
from tests.builders import NOW, campaign
from tests.decided import awaiting, entry, pending, sending

MOST = 3
GIVEN = sending(pending())
DOUBTFUL = sending(pending(), uncertain=True, attempts=2)
GOES, ENDS, WAITS = None, OutcomeKind.RUNAWAY_GUARD, OutcomeKind.WITHDRAWN


def looked(sent=0, on_their_way=0, **changes):
    """Make what the last look saw: so much for an address that may get three messages a day."""
    default = {"now": NOW, "campaign": campaign(), "stopped": False, "suppressed": False}
    counts = {"sent_today": sent, "on_their_way": on_their_way, "most_a_day": MOST}
    return Seen(**default | counts | changes)


def judged(seen, made=GIVEN):
    """Take the last look at the message in the slot."""
    return verdict(made, made.slot, seen)


@pytest.mark.parametrize(
    ("sent", "on_their_way", "found"),
    [
        pytest.param(0, 0, GOES, id="nothing was sent: it goes"),
        pytest.param(2, 0, GOES, id="the last that may be sent today goes"),
        pytest.param(3, 0, ENDS, id="as many as may be sent: it never goes"),
        pytest.param(4, 0, ENDS, id="more than may be sent: it never goes"),
        pytest.param(0, 2, GOES, id="those on their way leave room for it: it goes"),
        pytest.param(0, 3, WAITS, id="those on their way take all the room: it waits"),
        pytest.param(2, 1, WAITS, id="one on its way takes the last room: it waits"),
        pytest.param(1, 1, GOES, id="one sent and one on its way leave room: it goes"),
        pytest.param(1, 9, WAITS, id="many on their way: it waits, for they may not go"),
        pytest.param(3, 1, ENDS, id="what was sent counts before what may be: it never goes"),
    ],
)
def test_so_many_a_day(sent, on_their_way, found):
    """What was sent ends the conversation, what may be sent only delays its message."""
    outcome = judged(looked(sent, on_their_way))
    assert (outcome and outcome.kind) == found
    assert outcome is None or outcome.error is None


def test_by_default_there_is_room():
    """Who counts nothing stops nothing."""
    seen = Seen(now=NOW, campaign=campaign(), stopped=False, suppressed=False)
    assert judged(seen) is None


@pytest.mark.parametrize("status", CampaignStatus)
def test_a_campaign_sends_while_it_is_active_or_being_opened(status):
    """First messages leave beside the opening; of any other campaign none does."""
    outcome = judged(evolve(looked(0), campaign=campaign(status=status)))
    assert (outcome is None) == (status in {CampaignStatus.PENDING, CampaignStatus.ACTIVE})
    assert outcome is None or outcome.kind is OutcomeKind.WITHDRAWN


@pytest.mark.parametrize(
    ("status", "sent", "found"),
    [
        pytest.param(MessageStatus.UNKNOWN, 3, GOES, id="its own doubtful attempt is one of three"),
        pytest.param(MessageStatus.UNKNOWN, 4, ENDS, id="three others were sent besides"),
        pytest.param(MessageStatus.FAILED, 3, ENDS, id="its own failure was not counted"),
        pytest.param(MessageStatus.CANCELLED, 3, ENDS, id="its own cancellation was not counted"),
        pytest.param(None, 3, ENDS, id="its own doubt was not entered: all three are others"),
    ],
)
def test_a_message_is_not_counted_against_itself(status, sent, found):
    """An earlier attempt whose outcome nobody knows is in the ledger, and is this message."""
    own = status and entry(status, recorded_at=NOW)
    outcome = judged(looked(sent, entry=own), DOUBTFUL)
    assert (outcome and outcome.kind) == found


def test_its_own_doubt_leaves_room_beside_others_on_their_way():
    """Two sent, of which one is this very message, and one on its way: there is room for it."""
    own = entry(MessageStatus.UNKNOWN, recorded_at=NOW)
    assert judged(looked(2, 1, entry=own), DOUBTFUL) is None
    assert judged(looked(3, 1, entry=own), DOUBTFUL).kind is WAITS


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        pytest.param({"entry": entry("sent")}, OutcomeKind.WAS_SENT, id="it was sent"),
        pytest.param({"stopped": True}, OutcomeKind.WITHDRAWN, id="it is not wanted now"),
        pytest.param({"suppressed": True}, OutcomeKind.SUPPRESSED, id="never to them"),
    ],
)
def test_other_reasons_come_first(changes, kind):
    """The guard ends a conversation: only what would have gone is judged by it."""
    assert judged(looked(9, 9, **changes)) == Outcome(kind=kind)


def test_what_is_too_late_is_no_runaway():
    """It is passed over, and the conversation goes on."""
    late = evolve(GIVEN, slot=evolve(GIVEN.slot, send_before=NOW))
    seen = looked(9, now=NOW + timedelta(milliseconds=1))
    assert judged(seen, late).kind is OutcomeKind.TOO_LATE


def test_those_that_wait_for_each_other_look_again_at_different_times():
    """Each has a time of its own, within a second of the others, and the same whenever it is asked."""
    made = [sending(pending(id=f"c{n}")) for n in range(50)] + [sending(awaiting())]
    spans = [judged(looked(2, 1), one).retry_after for one in made]
    assert spans == [judged(looked(2, 1), one).retry_after for one in made]
    assert len(set(spans)) == len(spans)
    assert all(AGAIN <= span < 2 * AGAIN for span in spans)
    assert max(spans) - min(spans) > AGAIN / 2


@pytest.mark.parametrize(
    ("waited", "least"),
    [
        pytest.param(timedelta(seconds=8), AGAIN, id="at first every second"),
        pytest.param(timedelta(seconds=16), timedelta(seconds=2), id="then ever less often"),
        pytest.param(timedelta(hours=1), timedelta(minutes=7.5), id="after an hour"),
        pytest.param(timedelta(days=1), AGAIN_MOST, id="never less often than that"),
    ],
)
def test_the_longer_it_waits_the_less_often_it_looks(waited, least):
    """A doubt may last for hours: that is no reason to look every second."""
    again = judged(looked(2, 1, now=NOW + waited)).retry_after
    assert least <= again < 2 * least


def test_an_attempt_of_yesterday_is_not_counted():
    """Its own entry is older than a day, and so not among those that were counted."""
    old = entry(MessageStatus.UNKNOWN, recorded_at=NOW - timedelta(days=2))
    assert judged(looked(3, entry=old), DOUBTFUL).kind is ENDS


def test_an_attempt_just_a_day_ago_is_counted():
    """As it is among those that were counted: to the millisecond."""
    own = entry(MessageStatus.UNKNOWN, recorded_at=NOW - timedelta(days=1))
    assert judged(looked(3, entry=own), DOUBTFUL) is GOES
