"""Which requests become campaigns, and which of their recipients conversations."""

from datetime import timedelta

import pytest
from attrs import evolve

from handlers.opening import Candidate, candidate, is_suppressed, open_conversation, texts_of
from handlers.request import Rejection, accept
from schemas.batch_request import BATCH_RECIPIENTS
from schemas.campaign import CampaignStatus, Counts
from schemas.conversation import HistoryEntry, WaitingFor
from schemas.hand_off import ChannelSpec
from schemas.template import MessageTemplate
from tests.builders import (
    DAY,
    HOUR,
    NOW,
    batch_request,
    campaign,
    conversation,
    follow_up,
    message,
    recipient,
    stage,
    template,
)

S = CampaignStatus
MS = timedelta(milliseconds=1)
CHANNELS = {
    name: ChannelSpec(name=name, address_kind=kind)
    for name, kind in {"email": "email", "sms": "sms", "sms_urgent": "sms", "log": "log"}.items()
}
LATE = "$.scheduled_at: too late: it is over by more than start_within, nothing was started"
BEFORE_START = "$.ends_at: expected a date after the start"


def decide(found=1, **changes):
    """Decide on a request with so many recipients."""
    request = batch_request(**changes)
    return accept(request, request.template, found, CHANNELS, NOW)


class TestAccept:
    def test_at_once(self):
        """A request becomes a campaign that is about to be opened, with all that the request says."""
        accepted = decide(
            found=7,
            name="Renewal, January",
            type="reminder",
            metadata={"team": "eu"},
            traceparent="00-1-2-01",
            tracestate="a=b",
            start_within=2 * HOUR,
        )
        assert accepted == campaign(
            name="Renewal, January",
            type="reminder",
            metadata={"team": "eu"},
            traceparent="00-1-2-01",
            tracestate="a=b",
            start_within=2 * HOUR,
            status=S.PENDING,
            recipient_count=7,
            counts=Counts(recipients=7),
            opened=False,
            due_at=NOW,
        )

    @pytest.mark.parametrize(
        ("scheduled_at", "status", "started_at"),
        [
            (NOW + 3 * DAY, S.SCHEDULED, NOW + 3 * DAY),
            (NOW + MS, S.SCHEDULED, NOW + MS),
            (NOW, S.PENDING, NOW),
            (NOW - HOUR, S.PENDING, NOW),
            (NOW - DAY, S.PENDING, NOW),
        ],
        ids=["later", "in a moment", "now", "an hour ago", "at the last moment"],
    )
    def test_scheduled(self, scheduled_at, status, started_at):
        """One that is scheduled is opened at once, and starts then; its duration counts from there."""
        assert decide(scheduled_at=scheduled_at) == campaign(
            status=status,
            scheduled_at=scheduled_at,
            started_at=started_at,
            deadline_at=started_at + 30 * DAY,
            counts=Counts(recipients=1),
            opened=False,
            due_at=NOW,
        )

    @pytest.mark.parametrize(
        ("ends_at", "deadline_at"),
        [
            (NOW + MS, NOW + MS),
            (NOW + 30 * DAY - MS, NOW + 30 * DAY - MS),
            (NOW + 31 * DAY, NOW + 30 * DAY),
        ],
        ids=["in a moment", "before max_duration", "after max_duration"],
    )
    def test_ends_at(self, ends_at, deadline_at):
        """The deadline is what comes first of `ends_at` and the end of `max_duration`."""
        accepted = decide(ends_at=ends_at)
        assert (accepted.ends_at, accepted.deadline_at) == (ends_at, deadline_at)

    def test_recipients_from(self):
        """Where the recipients are is kept, for they are read when the campaign is opened."""
        accepted = decide(
            3, recipients=None, recipients_from=BATCH_RECIPIENTS, recipient_count=3, metadata={}
        )
        assert (accepted.recipients_from, accepted.recipient_count) == ("batch_recipients", 3)

    @pytest.mark.parametrize(
        ("found", "changes", "problem"),
        [
            (1, {"scheduled_at": NOW - DAY - MS}, LATE),
            (1, {"scheduled_at": NOW - HOUR, "start_within": HOUR - MS}, LATE),
            (1, {"ends_at": NOW}, BEFORE_START),
            (1, {"ends_at": NOW - DAY}, BEFORE_START),
            (1, {"ends_at": NOW, "scheduled_at": NOW - HOUR}, BEFORE_START),
            (1, {"ends_at": NOW + DAY, "scheduled_at": NOW + DAY}, BEFORE_START),
            (1, {"recipient_count": 2}, "$.recipient_count: expected 2 recipients, found 1"),
            (1, {"recipient_count": 0}, "$.recipient_count: expected 0 recipients, found 1"),
            (0, {"recipient_count": 2}, "$.recipient_count: expected 2 recipients, found 0"),
            (0, {}, "$.recipients: no recipients"),
            (0, {"recipient_count": 0}, "$.recipients: no recipients"),
            (
                0,
                {"recipients": None, "recipients_from": BATCH_RECIPIENTS},
                "$.recipients_from: batch_recipients has no recipients",
            ),
            (
                1,
                {"template": template(channel=("fax",))},
                (
                    "$.template.channel: no channel 'fax' is configured;"
                    " configured: email, log, sms, sms_urgent"
                ),
            ),
        ],
    )
    def test_problem(self, found, changes, problem):
        """What is wrong is said with the field's path, and nothing is started."""
        assert decide(found, **changes) == Rejection(problems=(problem,))

    def test_all_problems(self):
        """Everything that is wrong is said at once: template, times, recipients."""
        stages = (stage(), stage())
        rejected = decide(
            0, template=template(stages=stages), scheduled_at=NOW - 2 * DAY, ends_at=NOW
        )
        assert rejected.problems == (
            "$.template.stages[1].id: expected an id of its own, got 'intro' again",
            "$.template.stages[1]: stage 'intro' can never be reached",
            LATE,
            BEFORE_START,
            "$.recipients: no recipients",
        )


# -- recipients ------------------------------------------------------------------------------------
BOTH = {"email": "ada@example.com", "sms": "+491511234567"}
NO_EMAIL = "$.address: stage 'intro' needs an address for email"


def sort_out(one, *stages, **changes):
    """Check a recipient against a template of these stages."""
    stages = stages or (stage(follow_ups=(follow_up(),)),)
    return candidate(one, 3, template(stages=stages, **changes), CHANNELS)


class TestCandidate:
    def test_fits(self):
        """One who can be led through the template is kept as given, with the keys of all addresses."""
        one = recipient(
            address={"sms": "+49 151 1234567", "email": " Ada@Example.COM", "push": "x"}
        )
        keys = ("email:ada@example.com", "push:x", "sms:+491511234567")
        assert sort_out(one) == Candidate(recipient=one, position=3, address_keys=keys)

    @pytest.mark.parametrize(
        ("stages", "changes", "problems"),
        [
            ((stage(),), {}, (NO_EMAIL,)),
            ((stage(follow_ups=(follow_up(), follow_up())),), {}, (NO_EMAIL,)),
            ((stage(channel=("sms",)),), {}, ()),
            ((stage(channel=("sms_urgent",)),), {}, ()),
            ((stage(channel=("email", "sms")),), {}, ()),
            ((stage(),), {"channel": ("email", "sms")}, ()),
            (
                (stage(),),
                {"channel": ("email", "log")},
                ("$.address: stage 'intro' needs an address for email or log",),
            ),
            (
                (stage(channel=("sms",)), stage("demo"), stage("end", channel=("log",))),
                {},
                (
                    "$.address: stage 'demo' needs an address for email",
                    "$.address: stage 'end' needs an address for log",
                ),
            ),
            (
                (stage(channel=("sms",), follow_ups=(follow_up(), follow_up(channel=("email",)))),),
                {},
                (NO_EMAIL,),
            ),
            (
                (
                    stage(
                        channel=("sms",),
                        follow_ups=(
                            follow_up(channel=("email",), if_missing="skip"),
                            follow_up(channel=("log",)),
                        ),
                    ),
                ),
                {},
                ("$.address: stage 'intro' needs an address for log",),
            ),
            (
                (stage(channel=("fax",)),),
                {},
                ("$.address: stage 'intro' needs an address for fax",),
            ),
        ],
        ids=[
            "of the template's channel",
            "said once of a stage",
            "of the stage's channel",
            "of the kind that the channel sends to",
            "of one of the stage's channels",
            "of one of the template's channels",
            "of none of the template's channels",
            "of several stages",
            "of a follow-up's channel",
            "of a follow-up's channel that may be passed over",
            "of a channel that is gone",
        ],
    )
    def test_missing_address(self, stages, changes, problems):
        """Of each stage and follow-up, one of the channels must have an address, or it is skipped."""
        found = sort_out(recipient(address={"sms": "+491511234567"}), *stages, **changes)
        assert (() if isinstance(found, Candidate) else found) == problems

    def test_lacking_variable(self):
        """What any text needs must be there; which built-ins and given attributes are."""
        texts = {
            "subject": "{{ recipient.id }} {{ recipient.locale }} {{ recipient.timezone }}",
            "body": "{{ recipient.first_name }}",
            "html": "{{ recipient.plan.name }}",
            "from_": "{{ recipient.sender }}",
            "reply_to": "{{ recipient.inbox }}",
        }
        last = MessageTemplate(body="{{ recipient.last }} {{ recipient.plan.name }}")
        stages = stage(message=message(**texts)), stage("b", follow_ups=(follow_up(message=last),))
        assert sort_out(recipient(), *stages) == tuple(
            f"$.attributes: the messages need recipient.{path}"
            for path in ("plan.name", "sender", "inbox", "last")
        )
        given = {"first_name": "", "plan": {"name": "M"}, "sender": "", "inbox": "", "last": None}
        assert isinstance(sort_out(recipient(attributes=given), *stages), Candidate)

    def test_bad_address(self):
        """An address that is none of its kind is a problem, also one that no stage is sent to."""
        found = sort_out(recipient(address={"sms": "0151", "email": "ada"}))
        assert found == (
            "$.address.email: expected an e-mail address like name@example.com",
            (
                "$.address.sms: expected a number like +4915112345678: +, country code,"
                " 7 to 15 digits"
            ),
        )

    @pytest.mark.parametrize(
        ("scheduled_at", "ends_at", "fits"),
        [
            (NOW, NOW + MS, True),
            (NOW, NOW, False),
            (NOW + MS, NOW, False),
            (NOW, None, True),
            (None, NOW, True),
        ],
    )
    def test_times(self, scheduled_at, ends_at, fits):
        """A recipient's end lies after their start."""
        found = sort_out(recipient(scheduled_at=scheduled_at, ends_at=ends_at))
        assert isinstance(found, Candidate) is fits
        assert fits or found == ("$.ends_at: expected a date after scheduled_at",)

    def test_all_problems(self):
        """Everything that is wrong with a recipient is said at once."""
        one = recipient(address={"sms": "x"}, attributes={}, scheduled_at=NOW, ends_at=NOW)
        found = sort_out(one, stage(message=message(body="{{ recipient.first_name }}")))
        fields = [problem.split(":")[0] for problem in found]
        assert fields == ["$.address", "$.address.sms", "$.attributes", "$.ends_at"]


@pytest.mark.parametrize(
    ("stages", "suppressed", "is_so"),
    [
        ((stage(),), {"email:ada@example.com"}, True),
        ((stage(),), {"sms:+491511234567", "email:bob@example.com"}, False),
        ((stage(),), set(), False),
        ((stage(channel=("sms_urgent",)),), {"sms:+491511234567"}, True),
        ((stage(channel=("email", "sms")),), {"sms:+491511234567"}, False),
        ((stage(channel=("log", "sms")),), {"sms:+491511234567"}, True),
        ((stage(), stage("b", channel=("sms",))), {"sms:+491511234567"}, True),
        ((stage(channel=("log",)), stage("b")), {"email:ada@example.com"}, True),
        ((stage(follow_ups=(follow_up(channel=("sms",)),)),), {"sms:+491511234567"}, False),
    ],
    ids=[
        "the address",
        "other addresses",
        "none",
        "of the kind that the channel sends to",
        "an address that another is preferred to",
        "the only address",
        "of a later stage",
        "after a stage without an address",
        "of a follow-up only",
    ],
)
def test_suppressed(stages, suppressed, is_so):
    """A recipient is suppressed where the address that a stage would be sent to is."""
    one = recipient(address=BOTH | {"email": "Ada@example.com"})
    assert is_suppressed(one, template(stages=stages), CHANNELS, suppressed) is is_so


# -- conversations ---------------------------------------------------------------------------------
OPENED = (HistoryEntry(at=NOW, reason="opened", stage="intro", by="due"),)
END = NOW + 30 * DAY


def opened(one=None, position=0, now=NOW, **changes):
    """Open the conversation of a recipient."""
    one = one or recipient()
    keys = ("email:r0@example.com",)
    found = Candidate(recipient=one, position=position, address_keys=keys)
    return open_conversation(found, campaign(**changes), now)


class TestOpenConversation:
    def test_at_once(self):
        """A conversation is due at once, with its first stage's message."""
        assert opened(position="p-7") == conversation(
            position="p-7",
            wait_until=NOW,
            due_at=NOW,
            waiting_for=(WaitingFor.START,),
            history=OPENED,
        )

    @pytest.mark.parametrize(
        ("recipient_at", "campaign_at", "starts"),
        [
            (None, NOW - HOUR, NOW),
            (None, NOW + HOUR, NOW + HOUR),
            (NOW + DAY, NOW + HOUR, NOW + DAY),
            (NOW + MS, NOW + HOUR, NOW + HOUR),
            (NOW - DAY, NOW - HOUR, NOW),
        ],
    )
    def test_starts(self, recipient_at, campaign_at, starts):
        """It starts when the campaign does, or when its recipient says, if that is later."""
        made = opened(recipient(scheduled_at=recipient_at), started_at=campaign_at)
        assert (made.wait_until, made.due_at) == (starts, starts)
        assert made.created_at == made.status_since == NOW

    @pytest.mark.parametrize(
        ("ends_at", "deadline_at"),
        [(None, END), (NOW + DAY, NOW + DAY), (END + DAY, END)],
        ids=["the campaign's", "the recipient's", "not after the campaign's"],
    )
    def test_ends(self, ends_at, deadline_at):
        """It ends when its recipient says, or when the campaign does, if that is earlier."""
        assert opened(recipient(ends_at=ends_at)).deadline_at == deadline_at

    def test_due_by_its_deadline(self):
        """One that would start after its end is due when it ends."""
        made = opened(recipient(scheduled_at=END + DAY))
        assert (made.wait_until, made.due_at) == (END + DAY, END)

    def test_paused(self):
        """Opened during a pause, it has what the pause has lasted so far behind it already."""
        pause = {"status": S.PAUSED, "paused_from": S.PENDING, "paused_at": NOW - HOUR}
        assert opened(paused_total=500, **pause).pause_seen == 3_600_500
        assert opened(paused_total=500).pause_seen == 500

    def test_first_stage(self):
        """It begins with the first of the stages, and says so in its history."""
        made = opened(template=template(stages=(stage("hello"), stage("intro"))))
        assert made.stage == "hello"
        assert made.history == (evolve(OPENED[0], stage="hello"),)


def test_texts():
    """All texts of all messages are given, those of follow-ups too, and none that is not there."""
    full = message(subject="1", body="2", html="3", from_="4", reply_to="5")
    stages = (
        stage(message=full, follow_ups=(follow_up(message=MessageTemplate(body="6", html="")),)),
        stage("b", message=MessageTemplate(body="7")),
    )
    assert texts_of(template(stages=stages)) == ("1", "2", "3", "4", "5", "6", "7")
