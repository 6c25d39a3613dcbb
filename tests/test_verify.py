"""What is called wrong of a conversation and its entries, and of a campaign; and what is not."""

from datetime import datetime, timedelta

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
LONG = 900 * SECOND
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
    made = Beside(campaign=campaign(), now=NOW, skew=SECOND, lease=30 * SECOND, long=LONG)
    return evolve(made, **changes)


def wrong(what, expected, found, remedy=Remedy.PERSON):
    """Spell a finding, as `told` does."""
    return f"{what}: {spelled(expected)}; {spelled(found)}; {remedy}"


def spelled(value):
    """Spell a time in full."""
    return value.isoformat(timespec="milliseconds") if isinstance(value, datetime) else value


def told(findings):
    """Spell findings, with what was expected, what was found, and what is done about it."""
    return [
        wrong(
            f"{each.invariant} {each.message_id or ''}{each.what}",
            each.expected,
            each.found,
            each.remedy,
        )
        for each in findings
    ]


def missing(numbers):
    """Say that entries with these numbers are not in the ledger."""
    return wrong("I2 entries in the ledger", "one for each n below 2", f"none for n = {numbers}")


def late(latest, due_at):
    """Say that an open conversation is due too late."""
    what = "I3 due time of an open conversation"
    return wrong(what, f"at most {spelled(latest)}", due_at, Remedy.DUE_TIME)


def closed_late(expected, due_at):
    """Say that a closed conversation is not due when it should."""
    return wrong("I3 due time of a closed conversation", expected, due_at, Remedy.DUE_TIME)


def gone_late(moment, since, due_at):
    """Say that the second message fell due when nothing was to be sent any more."""
    what = f"I5 c/intro/1a message that fell due after {moment}"
    return wrong(what, f"before {spelled(since)}", due_at)


BOTH = (entry(0), entry(1))
OVER = beside(campaign=campaign(status=CampaignStatus.COMPLETED, completed_at=NOW))
SLOT = "I1 slot in a completed campaign"
STATUS = "I1 status in a completed campaign"
ENDS_LATE = (
    "at most the campaign's, 2026-12-23T09:00:00.000+00:00",
    "2026-12-23T09:00:01.000+00:00",
)
ONE_TOO_MANY = wrong("I2 c/intro/2n of an entry", "below 2", "2")
HELD_LONG = slot(SlotState.UNKNOWN, until=NOW - HOUR)
LATE = {"due_at": NOW + 2 * SECOND}
AFTER_END = gone_late("the end of the conversation", NOW, NOW + 2 * SECOND)
AFTER_SUPPRESSION = gone_late("the suppression of its address", NOW - DAY, NOW - HOUR + SECOND)
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
        "a lease that is over for as long as it may",
        one(**IN_SLOT | {"slot": slot(until=NOW - LONG), "due_at": NOW - LONG}),
        BOTH[:1],
        beside(),
        [],
    ),
    (
        "its outcome is entered first",
        one(**IN_SLOT),
        (*BOTH[:1], entry(1, status=FAILED)),
        beside(),
        [],
    ),
    (
        "as many as it may",
        one(),
        BOTH,
        beside(campaign=campaign(template=template(max_messages=2))),
        [],
    ),
    ("it waits anew since its last", one(), (entry(0), entry(1, **LATE)), beside(), []),
    (
        "clocks that differ",
        one(),
        (entry(0), entry(1, sent_at=NOW - HOUR - SECOND)),
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
    (
        "rejected",
        one(),
        BOTH,
        beside(rejected=True),
        [wrong("I1 its recipient", "not rejected", "rejected", Remedy.REJECTION)],
    ),
    (
        "an end, and open",
        one(exit_reason=ExitReason.REPLIED),
        BOTH,
        beside(),
        [wrong("I1 exit reason of an open conversation", "none", "replied")],
    ),
    (
        "closed for no reason",
        one(**CLOSED | {"exit_reason": None}),
        BOTH,
        beside(),
        [wrong("I1 exit reason of a closed conversation", "one", "none")],
    ),
    ("open after all", one(), BOTH, OVER, [wrong(STATUS, "a final one", "awaiting_reply")]),
    (
        "open after all, and in flight",
        one(**IN_SLOT),
        BOTH,
        OVER,
        [wrong(STATUS, "a final one", "awaiting_reply"), wrong(SLOT, "none", "intro/1 sending")],
    ),
    (
        "in flight after all",
        one(**CLOSED | {"slot": slot(), "due_at": NOW + HOUR}),
        BOTH,
        OVER,
        [wrong(SLOT, "none", "intro/1 sending", Remedy.DUE_TIME)],
    ),
    # -- I2, I9
    ("none is entered", one(), (), beside(), [missing("0, 1")]),
    ("one is not", one(), BOTH[1:], beside(), [missing("0")]),
    ("held, and not entered", one(**IN_DOUBT), BOTH[:1], beside(), [missing("1")]),
    (
        "two stages",
        one(),
        (*BOTH, entry(1, "other")),
        beside(),
        [wrong("I2 entries with n = 1", "one", "c/intro/1, c/other/1")],
    ),
    *(
        (name, one(), (*BOTH, entry(2, **changes)), beside(), [ONE_TOO_MANY])
        for name, changes in (
            ("one too many", {}),
            ("one too many, by a report", {"attempts": None}),
            ("one too many, tried and cancelled", {"status": CANCELLED}),
        )
    ),
    *(
        (
            key,
            one(),
            (*BOTH, entry(0, id=key)),
            beside(),
            [wrong(f"I2 {key}send key", "c/<stage>/<n>", key)],
        )
        for key in ("d/intro/0", "c/intro/x", "c//0", "c/0", "c", "c/in/tro/0", "c/intro/00")
    ),
    (
        "another one in the slot",
        one(**IN_SLOT | {"slot": slot(n=0)}),
        BOTH,
        beside(),
        [wrong("I2 n in the slot", "the last, 1", "0")],
    ),
    (
        "more than it may",
        one(),
        BOTH,
        beside(campaign=campaign(template=template(max_messages=1))),
        [wrong("I9 messages of a conversation", "at most 1", "2")],
    ),
    # -- I3
    ("never due", one(due_at=None), BOTH, beside(), [late(NOW + DAY, "none")]),
    ("never due, failing", one(due_at=None, failures=1), BOTH, beside(), [late(NOW + DAY, "none")]),
    (
        "due after its wait",
        one(due_at=NOW + 2 * DAY),
        BOTH,
        beside(),
        [late(NOW + DAY, NOW + 2 * DAY)],
    ),
    (
        "due after its end",
        one(due_at=END + DAY, wait_until=None),
        BOTH,
        beside(),
        [late(END, END + DAY)],
    ),
    (
        "after its lease",
        one(**IN_SLOT | {"due_at": NOW + DAY}),
        BOTH[:1],
        beside(),
        [late(NOW + HOUR, NOW + DAY)],
    ),
    (
        "after its next attempt",
        one(slot=slot(SlotState.RESERVED), due_at=NOW + DAY, last_message=None),
        BOTH[:1],
        beside(),
        [late(NOW + HOUR, NOW + DAY)],
    ),
    (
        "after its lease, paused",
        one(**IN_SLOT | {"due_at": END, "pause": SeenPause()}),
        BOTH[:1],
        beside(),
        [late(NOW + HOUR, END)],
    ),
    (
        "after its pause",
        one(pause=SeenPause(until=NOW + HOUR)),
        BOTH,
        beside(),
        [late(NOW + HOUR, NOW + DAY)],
    ),
    (
        "after its campaign",
        one(deadline_at=END + SECOND),
        BOTH,
        beside(),
        [wrong("I3 deadline", *ENDS_LATE)],
    ),
    (
        "closed, and due",
        one(**CLOSED | {"due_at": NOW}),
        BOTH,
        beside(),
        [closed_late("none", NOW)],
    ),
    (
        "closed, in flight",
        one(**CLOSED | {"slot": slot()}),
        BOTH,
        beside(),
        [closed_late(NOW + HOUR, "none")],
    ),
    (
        "a lease of long ago",
        one(**IN_SLOT | {"slot": slot(until=NOW - HOUR), "due_at": NOW - HOUR}),
        BOTH[:1],
        beside(),
        [wrong("I3 end of the lease", "taken over by a worker", NOW - HOUR)],
    ),
    (
        "a hold of long ago",
        one(**IN_DOUBT | {"slot": HELD_LONG} | PASSED),
        (entry(0), entry(1, status=UNKNOWN)),
        beside(),
        [wrong("I3 end of the hold", "taken over by a worker", NOW - HOUR)],
    ),
    # -- I4
    (
        "before the one before",
        one(),
        (entry(1, sent_at=NOW - 2 * HOUR), entry(0)),
        beside(),
        [
            wrong(
                "I4 c/intro/1time of sending",
                f"after that of c/intro/0, {spelled(NOW - HOUR)}",
                NOW - 2 * HOUR,
            )
        ],
    ),
    # -- I5
    (
        "reserved after the end",
        one(**CLOSED),
        (entry(0), entry(1, **LATE)),
        beside(),
        [AFTER_END],
    ),
    (
        "given up, and reserved after the end",
        one(**CLOSED),
        (entry(0, status=FAILED), entry(1, **LATE)),
        beside(),
        [AFTER_END],
    ),
    (
        "in doubt, and reserved after the end",
        one(**CLOSED | {"last_message": None}),
        (entry(0), entry(1, status=UNKNOWN, **LATE)),
        beside(),
        [AFTER_END],
    ),
    (
        "reserved after the opt-out",
        one(),
        (entry(0, address=None), entry(1)),
        OPTED_OUT,
        [AFTER_SUPPRESSION],
    ),
    # -- I6
    (
        "sent, and no text",
        one(),
        (entry(0), entry(1, has_body=False)),
        beside(),
        [wrong("I6 c/intro/1body of a message that was sent", "one", "none")],
    ),
    (
        "taken, and failed",
        one(),
        (entry(0, status=FAILED, provider_id="p"), entry(1, provider_id="q")),
        beside(),
        [wrong("I6 c/intro/0status of a message that the provider took", "sent", "failed")],
    ),
    (
        "the last was not",
        one(),
        (entry(0), entry(1, status=UNKNOWN)),
        beside(),
        [
            wrong(
                "I6 c/intro/1status of the last message that was accepted",
                "bounced or delivered or sent",
                "unknown",
            )
        ],
    ),
    (
        "held, and failed",
        one(**IN_DOUBT),
        (entry(0), entry(1, status=FAILED)),
        beside(),
        [
            wrong(
                "I6 c/intro/1status of a held message",
                "bounced or delivered or sent or unknown",
                "failed",
            )
        ],
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


COUNTS = Counts(recipients=1, by_status={"completed": 1}, by_exit_reason={"replied": 1})
MESSAGES = MessageCounts(sent=2)
ENDED = {
    "status": CampaignStatus.COMPLETED,
    "completed_at": NOW,
    "counts": COUNTS,
    "messages": MESSAGES,
}
TWICE = wrong("I1 recipients", "1 in all", "1 rejected and 1 conversations")
NOTHING_DUE = wrong("I3 campaign that is active", "completed, or something due", "nothing is due")


def count_off(what, expected, found):
    """Say that a count is not what it should be."""
    return wrong(f"I1 {what}", expected, found, Remedy.COUNTS)


def campaign_late(due_at):
    """Say that a campaign is not due at its deadline."""
    at_most = f"at most {spelled(END)}"
    return wrong("I3 due time of the campaign", at_most, due_at, Remedy.CAMPAIGN_DUE_TIME)


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
            {"counts": Counts(recipients=2)},
            {},
            [count_off("counts.recipients", 1, 2)],
            id="another number",
        ),
        pytest.param(
            {"opened": False, "recipient_count": 9}, {"rejected": 1}, [], id="it is being opened"
        ),
        pytest.param(
            {"recipient_count": 2, "counts": Counts(recipients=2)},
            {},
            [wrong("I1 recipients", "2 in all", "0 rejected and 1 conversations")],
            id="one is missing",
        ),
        pytest.param(
            {},
            {"rejected": 1},
            [TWICE, count_off("counts.rejected", 1, 0)],
            id="one is there twice",
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
            [TWICE],
            id="twice, failed",
        ),
        pytest.param(
            ENDED | {"counts": evolve(COUNTS, open=1, rejected=3)},
            {},
            [count_off("counts.rejected", 0, 3), count_off("counts.open", 0, 1)],
            id="its counts are off",
        ),
        pytest.param(
            ENDED | {"messages": MessageCounts()},
            {},
            [count_off("messages.sent", 2, 0)],
            id="its messages are",
        ),
        pytest.param(
            ENDED | {"counts": Counts(recipients=1), "recount_at": NOW},
            {},
            [],
            id="it will be counted again",
        ),
        pytest.param({"due_at": None}, {}, [campaign_late("none")], id="never due"),
        pytest.param(
            {"due_at": END + SECOND}, {}, [campaign_late(END + SECOND)], id="due after its deadline"
        ),
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
    assert {(each.campaign_id, each.conversation_id) for each in findings} <= {(made.id, None)}
