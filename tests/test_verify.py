"""What is called wrong of a conversation and its entries, and of a campaign; and what is not."""

from datetime import timedelta

import pytest
from attrs import evolve

from handlers.campaign import settled
from handlers.verify import Beside, judge
from handlers.verify_campaign import Tally, judge_campaign
from schemas.campaign import CampaignStatus, Counts, MessageCounts
from schemas.conversation import ConversationStatus, ExitReason, MessageRef, SlotState
from schemas.finding import Remedy, SeenConversation, SeenEntry, SeenPause, SeenSlot
from schemas.message import MessageStatus
from tests.builders import DAY, HOUR, NOW, campaign, template

SECOND = timedelta(seconds=1)
END = NOW + 30 * DAY
ADDRESS = "email:r0@example.com"
CLOSED = {
    "status": ConversationStatus.COMPLETED,
    "exit_reason": ExitReason.REPLIED,
    "due_at": None,
    "wait_until": None,
}
CANCELLED, FAILED, UNKNOWN, SENT, DELIVERED, _ = MessageStatus
NEVER_LEFT = {"status": CANCELLED, "attempts": 0}
LAST = MessageRef(stage="intro", n=1, channel="email")


def one(**changes):
    """Make a conversation with two messages behind it that waits for a reply."""
    made = SeenConversation(
        id="c",
        status=ConversationStatus.AWAITING_REPLY,
        due_at=NOW + DAY,
        wait_until=NOW + DAY,
        deadline_at=END,
        status_since=NOW,
        message_count=2,
        last_message=LAST,
    )
    return evolve(made, **changes)


def slot(state=SlotState.SENDING, n=1, until=NOW + HOUR):
    """Make a slot with the last message."""
    return SeenSlot(stage="intro", n=n, state=state, until=until)


def entry(n, stage="intro", **changes):
    """Make an entry of a message that was sent; those with a higher n later."""
    made = SeenEntry(
        id=f"c/{stage}/{n}",
        status=SENT,
        address=ADDRESS,
        attempts=1,
        due_at=NOW - HOUR + n * SECOND,
        sent_at=NOW - HOUR + n * SECOND,
    )
    return evolve(made, **changes)


def beside(**changes):
    """Make what is known beside it."""
    made = Beside(campaign=campaign(), now=NOW, skew=SECOND, lease=30 * SECOND, long=900 * SECOND)
    return evolve(made, **changes)


def told(findings):
    """Spell findings shortly."""
    return [f"{each.invariant} {each.message_id or ''}{each.what}" for each in findings]


BOTH = (entry(0), entry(1))
OVER = beside(campaign=campaign(status=CampaignStatus.COMPLETED, completed_at=NOW))
I2_MISSING = "I2 entries in the ledger"
I3_OPEN, I3_CLOSED = "I3 due time of an open conversation", "I3 due time of a closed conversation"
AFTER_END = "a message that fell due after the end of the conversation"
AFTER_SUPPRESSION = "a message that fell due after the suppression of its address"
LATE = {"due_at": NOW + 2 * SECOND}
OPTED_OUT = beside(suppressed={ADDRESS: NOW - DAY})
PASSED = {"due_at": NOW - HOUR}
HELD = slot(SlotState.UNKNOWN)
IN_SLOT = {"slot": slot(), "due_at": NOW + HOUR, "last_message": None}
IN_DOUBT = {"slot": HELD, "due_at": NOW + HOUR, "last_message": None}

CASES = [
    # -- nothing is wrong
    ("it waits", one(), BOTH, beside(), []),
    ("it is due", one(due_at=NOW - DAY), BOTH, beside(), []),
    ("it has ended", one(**CLOSED), BOTH, OVER, []),
    ("nothing was sent yet", one(message_count=0, last_message=None), (), beside(), []),
    ("the last is in the slot", one(**IN_SLOT), BOTH[:1], beside(), []),
    ("and entered already", one(**IN_SLOT), BOTH, beside(), []),
    ("a report came first", one(**IN_SLOT), (*BOTH[:1], entry(1, has_body=False)), beside(), []),
    ("held", one(**IN_DOUBT), (*BOTH[:1], entry(1, status=UNKNOWN)), beside(), []),
    (
        "somebody says it was sent",
        one(),
        (entry(0), entry(1, has_body=False, reason="assume_sent")),
        beside(),
        [],
    ),
    (
        "what never left has another's n",
        one(),
        (*BOTH, entry(1, "other", **NEVER_LEFT), entry(2, **NEVER_LEFT)),
        beside(),
        [],
    ),
    (
        "a message in flight at the end",
        one(**CLOSED | {"slot": slot(), "due_at": NOW + HOUR}),
        BOTH[:1],
        beside(),
        [],
    ),
    (
        "paused, with a message reserved",
        one(slot=slot(SlotState.RESERVED), due_at=END, pause=SeenPause(), last_message=None),
        BOTH[:1],
        beside(),
        [],
    ),
    ("paused until then", one(pause=SeenPause(until=NOW + DAY)), BOTH, beside(), []),
    ("paused, its wait stands still", one(pause=SeenPause(), due_at=END), BOTH, beside(), []),
    ("failing, and tried again", one(due_at=NOW + 2 * DAY, failures=1), BOTH, beside(), []),
    (
        "failing at the end of its lease",
        one(**IN_SLOT | {"slot": slot(until=NOW - DAY), "failures": 1}),
        BOTH[:1],
        beside(),
        [],
    ),
    (
        "a lease that has just ended",
        one(**IN_SLOT | {"slot": slot(until=NOW - SECOND), "due_at": NOW - SECOND}),
        BOTH[:1],
        beside(),
        [],
    ),
    (
        "clocks that differ",
        one(),
        (entry(0), entry(1, sent_at=NOW - HOUR - SECOND / 2)),
        beside(),
        [],
    ),
    (
        "a report that says when",
        one(),
        (entry(0), entry(1, status=DELIVERED, sent_at=NOW - DAY)),
        beside(),
        [],
    ),
    (
        "reserved when the end was written",
        one(**CLOSED),
        (entry(0), entry(1, due_at=NOW + SECOND)),
        beside(),
        [],
    ),
    (
        "given up at the end",
        one(**CLOSED | {"last_message": None}),
        (entry(0), entry(1, status=CANCELLED, **LATE)),
        beside(),
        [],
    ),
    (
        "in flight when they opted out",
        one(),
        (entry(0, due_at=None), entry(1, due_at=NOW - DAY + 30 * SECOND)),
        OPTED_OUT,
        [],
    ),
    # -- I1
    ("rejected", one(), BOTH, beside(rejected=True), ["I1 its recipient"]),
    (
        "an end, and open",
        one(exit_reason=ExitReason.REPLIED),
        BOTH,
        beside(),
        ["I1 exit reason of an open conversation"],
    ),
    (
        "closed for no reason",
        one(**CLOSED | {"exit_reason": None}),
        BOTH,
        beside(),
        ["I1 exit reason of a closed conversation"],
    ),
    ("open after all", one(), BOTH, OVER, ["I1 status in a completed campaign"]),
    (
        "in flight after all",
        one(**CLOSED | {"slot": slot(), "due_at": NOW + HOUR}),
        BOTH,
        OVER,
        ["I1 slot in a completed campaign"],
    ),
    # -- I2, I9
    ("none is entered", one(), (), beside(), [I2_MISSING]),
    ("one is not", one(), BOTH[1:], beside(), [I2_MISSING]),
    ("held, and not entered", one(**IN_DOUBT), BOTH[:1], beside(), [I2_MISSING]),
    ("two stages", one(), (*BOTH, entry(1, "other")), beside(), ["I2 entries with n = 1"]),
    ("one too many", one(), (*BOTH, entry(2)), beside(), ["I2 c/intro/2n of an entry"]),
    *(
        (key, one(), (*BOTH, entry(0, id=key)), beside(), [f"I2 {key}send key"])
        for key in ("d/intro/0", "c/intro/x", "c//0", "c/0", "c")
    ),
    (
        "another one in the slot",
        one(**IN_SLOT | {"slot": slot(n=0)}),
        BOTH,
        beside(),
        ["I2 n in the slot"],
    ),
    (
        "more than it may",
        one(),
        BOTH,
        beside(campaign=campaign(template=template(max_messages=1))),
        ["I9 messages of a conversation"],
    ),
    # -- I3
    ("never due", one(due_at=None), BOTH, beside(), [I3_OPEN]),
    ("never due, failing", one(due_at=None, failures=1), BOTH, beside(), [I3_OPEN]),
    ("due after its wait", one(due_at=NOW + 2 * DAY), BOTH, beside(), [I3_OPEN]),
    ("due after its end", one(due_at=END + DAY, wait_until=None), BOTH, beside(), [I3_OPEN]),
    ("after its lease", one(**IN_SLOT | {"due_at": NOW + DAY}), BOTH[:1], beside(), [I3_OPEN]),
    (
        "after its next attempt",
        one(slot=slot(SlotState.RESERVED), due_at=NOW + DAY, last_message=None),
        BOTH[:1],
        beside(),
        [I3_OPEN],
    ),
    (
        "after its lease, paused",
        one(**IN_SLOT | {"due_at": END, "pause": SeenPause()}),
        BOTH[:1],
        beside(),
        [I3_OPEN],
    ),
    (
        "after its pause",
        one(pause=SeenPause(until=NOW + HOUR)),
        BOTH,
        beside(),
        [I3_OPEN],
    ),
    ("after its campaign", one(deadline_at=END + SECOND), BOTH, beside(), ["I3 deadline"]),
    ("closed, and due", one(**CLOSED | {"due_at": NOW}), BOTH, beside(), [I3_CLOSED]),
    ("closed, in flight", one(**CLOSED | {"slot": slot()}), BOTH, beside(), [I3_CLOSED]),
    (
        "a lease of long ago",
        one(**IN_SLOT | {"slot": slot(until=NOW - HOUR), "due_at": NOW - HOUR}),
        BOTH[:1],
        beside(),
        ["I3 end of the lease"],
    ),
    (
        "a hold of long ago",
        one(**IN_DOUBT | {"slot": slot(SlotState.UNKNOWN, until=NOW - HOUR)} | PASSED),
        (entry(0), entry(1, status=UNKNOWN)),
        beside(),
        ["I3 end of the hold"],
    ),
    # -- I4
    (
        "before the one before",
        one(),
        (entry(1, sent_at=NOW - 2 * HOUR), entry(0)),
        beside(),
        ["I4 c/intro/1time of sending"],
    ),
    # -- I5
    (
        "reserved after the end",
        one(**CLOSED),
        (entry(0), entry(1, **LATE)),
        beside(),
        [f"I5 c/intro/1{AFTER_END}"],
    ),
    (
        "in doubt, and reserved after the end",
        one(**CLOSED | {"last_message": None}),
        (entry(0), entry(1, status=UNKNOWN, **LATE)),
        beside(),
        [f"I5 c/intro/1{AFTER_END}"],
    ),
    (
        "reserved after the opt-out",
        one(),
        (entry(0, address=None), entry(1)),
        OPTED_OUT,
        [f"I5 c/intro/1{AFTER_SUPPRESSION}"],
    ),
    # -- I6
    (
        "sent, and no text",
        one(),
        (entry(0), entry(1, has_body=False)),
        beside(),
        ["I6 c/intro/1body of a message that was sent"],
    ),
    (
        "taken, and failed",
        one(),
        (entry(0, status=FAILED, provider_id="p"), entry(1, provider_id="q")),
        beside(),
        ["I6 c/intro/0status of a message that the provider took"],
    ),
    (
        "the last was not",
        one(),
        (entry(0), entry(1, status=UNKNOWN)),
        beside(),
        ["I6 c/intro/1status of the last message that was accepted"],
    ),
    (
        "held, and failed",
        one(**IN_DOUBT),
        (entry(0), entry(1, status=FAILED)),
        beside(),
        ["I6 c/intro/1status of a held message"],
    ),
]


@pytest.mark.parametrize(("given", "entries", "known", "expected"), [
    pytest.param(*case[1:], id=case[0]) for case in CASES
])  # fmt: skip
def test_a_conversation(given, entries, known, expected):
    """What is wrong is named, and no more; the same for the same documents."""
    findings = judge(given, entries, known)
    assert told(findings) == expected
    assert findings == judge(given, entries, known)
    assert len({finding.identity for finding in findings}) == len(findings)
    for finding in findings:
        assert (finding.campaign_id, finding.conversation_id) == (known.campaign.id, "c")
        assert finding.expected != finding.found


def test_what_is_said():
    """What was expected and what was found is spelled, times in full."""
    (finding,) = judge(one(due_at=None), BOTH, beside())
    assert (finding.expected, finding.found) == ("at most 2026-11-24T09:00:00.000+00:00", "none")
    assert finding.remedy is Remedy.DUE_TIME
    (finding,) = judge(one(), (), beside())
    assert (finding.expected, finding.found) == ("one for each n below 2", "none for n = 0, 1")
    assert finding.remedy is Remedy.PERSON


COUNTS = Counts(recipients=1, by_status={"completed": 1}, by_exit_reason={"replied": 1})
MESSAGES = MessageCounts(sent=2)
ENDED = {
    "status": CampaignStatus.COMPLETED,
    "completed_at": NOW,
    "counts": COUNTS,
    "messages": MESSAGES,
}
NOTHING_DUE = "I3 campaign that is active"
DUE = "I3 due time of the campaign"


def tally(**changes):
    """Make what was counted of a campaign with one conversation."""
    made = Tally(
        conversations=1,
        rejected=0,
        unsettled=True,
        counts=evolve(COUNTS, recipients=0),
        messages=MESSAGES,
    )
    return evolve(made, **changes)


@pytest.mark.parametrize(
    ("given", "counted", "expected"),
    [
        pytest.param({}, {}, [], id="it runs; its counts lag"),
        pytest.param(ENDED, {"unsettled": False}, [], id="it is over"),
        pytest.param(
            {"recipient_count": 2, "counts": Counts(recipients=2, rejected=1)},
            {"rejected": 1},
            [],
            id="one was rejected",
        ),
        pytest.param(
            {"counts": Counts(recipients=2)}, {}, ["I1 counts.recipients"], id="another number"
        ),
        pytest.param(
            {"opened": False, "recipient_count": 9}, {"rejected": 1}, [], id="it is being opened"
        ),
        pytest.param(
            {"recipient_count": 2, "counts": Counts(recipients=2)},
            {},
            ["I1 recipients"],
            id="one is missing",
        ),
        pytest.param(
            {}, {"rejected": 1}, ["I1 recipients", "I1 counts.rejected"], id="one is there twice"
        ),
        pytest.param(
            {"recipient_count": 3, "counts": Counts(recipients=3), "status": CampaignStatus.FAILED},
            {"rejected": 1},
            [],
            id="not all were opened",
        ),
        pytest.param(
            {"status": CampaignStatus.FAILED},
            {"rejected": 1},
            ["I1 recipients"],
            id="twice, failed",
        ),
        pytest.param(
            ENDED | {"counts": evolve(COUNTS, open=1, rejected=3)},
            {},
            ["I1 counts.rejected", "I1 counts.open"],
            id="its counts are off",
        ),
        pytest.param(
            ENDED | {"messages": MessageCounts()}, {}, ["I1 messages.sent"], id="its messages are"
        ),
        pytest.param(
            ENDED | {"counts": Counts(recipients=1), "recount_at": NOW},
            {},
            [],
            id="it will be counted again",
        ),
        pytest.param({"due_at": None}, {}, [DUE], id="never due"),
        pytest.param({"due_at": END + SECOND}, {}, [DUE], id="due after its deadline"),
        pytest.param({}, {"unsettled": False}, [NOTHING_DUE], id="nothing is due"),
        pytest.param(
            {"open_until": NOW + HOUR}, {"unsettled": False}, [], id="something is about to be"
        ),
        pytest.param(
            {"status": CampaignStatus.SCHEDULED, "scheduled_at": NOW + DAY},
            {"unsettled": False},
            [],
            id="it waits for its start",
        ),
        pytest.param({"opened": False}, {"unsettled": False}, [], id="none is opened yet"),
        pytest.param(
            {"deadline_at": NOW - DAY, "due_at": None},
            {},
            [],
            id="past its deadline, all of it due",
        ),
    ],
)
def test_a_campaign(given, counted, expected):
    """What is wrong is named, and no more."""
    made = campaign(**{"counts": Counts(recipients=1)} | given)
    if "due_at" not in given:
        made = settled(made, NOW)
    findings = judge_campaign(made, tally(**counted), NOW)
    assert told(findings) == expected
    assert all(each.conversation_id is None for each in findings)
