"""Documents in and out: what is read, what is refused and how, and what comes back as it was."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from types import NoneType
from typing import NewType, get_args, get_origin
from uuid import UUID

import attrs
import bson
import pytest
from attrs import evolve
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from hypothesis import given
from hypothesis import strategies as st

from schemas.action import ADVANCE, COMPLETE, STAY, Action, ActionKind, go_to
from schemas.campaign import Campaign
from schemas.conversation import (
    AgentText,
    Conversation,
    ConversationStatus,
    Slot,
    SlotState,
)
from schemas.converter import (
    MAX_REPLY_TEXT,
    InvalidDocumentError,
    NewerSchemaError,
    differing,
    from_document,
    read_batch_request,
    read_campaign_update,
    read_conversation_update,
    read_recipient,
    read_template,
    spelled,
    to_document,
)
from schemas.documents import CODEC, decode
from schemas.duration import LONGEST
from schemas.fields import is_id
from schemas.ids import BUCKETS, bucket, campaign_id, conversation_id, stable_fraction
from schemas.message import LedgerEntry, Suppression
from schemas.template import AgentPolicy, Template
from schemas.update import Bounce, OptOutScope, Resolve, UpdateKind
from tests.builders import (
    DAY,
    NOW,
    REQUEST,
    batch_request_document,
    campaign,
    conversation,
    recipient_document,
    reply,
    slot,
    template,
    template_document,
    update_document,
)

MESSAGE = {"body": "Hello"}


def problems(read, *arguments, **keywords):
    """Give what a reader complains of."""
    with pytest.raises(InvalidDocumentError) as refused:
        read(*arguments, **keywords)
    return list(refused.value.problems)


def stage_document(**changes):
    """Make a stage as an agent writes it."""
    return {"id": "intro", "message": MESSAGE} | changes


def template_with(**stage):
    """Make a template document with one stage like this."""
    return template_document(stages=[stage_document(**stage)])


def read_update(**changes):
    """Read an update of the conversation of recipient r0."""
    return read_conversation_update(update_document(**changes), now=NOW)


def nested(levels):
    """Make an object of so many levels."""
    inner = {}
    for _ in range(levels - 1):
        inner = {"a": inner}
    return inner


class TestBatchRequest:
    def test_defaults(self):
        """A request with nothing optional is read with the contract's defaults."""
        read = read_batch_request(batch_request_document())
        assert read.id == REQUEST
        assert read.start_within == DAY
        assert read.on_invalid_recipient == "skip"
        assert (read.scheduled_at, read.ends_at, read.metadata) == (None, None, {})
        assert read.recipients == (recipient_document("r0"), recipient_document("r1"))
        assert read.template.stages[0].follow_ups[0].after == 2 * DAY
        assert (read.template.channel, read.template.version) == (("email",), 1)

    def test_everything(self):
        """Every field of a request is read."""
        identity = UUID(int=1)
        read = read_batch_request(
            batch_request_document(
                _id=identity,
                template=None,
                template_ref={"name": "renewal", "version": Int64(2)},
                recipients=None,
                recipients_from="batch_recipients",
                recipient_count=10.0,
                scheduled_at=NOW,
                ends_at=NOW + DAY,
                start_within="2h",
                on_invalid_recipient="reject",
                metadata={"a.b": 1, "_c": {"": [1]}},
                traceparent="00-1-2-01",
                tracestate="a=b",
            )
        )
        assert read.id == identity
        assert (read.template, read.template_ref.version) == (None, 2)
        assert (read.recipients, read.recipient_count) == (None, 10)
        assert read.metadata == {"a.b": 1, "_c": {"": [1]}}
        assert read.start_within == timedelta(hours=2)

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"nme": 1}, ["$.nme: unknown field; did you mean 'name'?"]),
            ({"zzz": 1}, ["$.zzz: unknown field"]),
            ({"a b": 1}, ["$['a b']: unknown field"]),
            ({"name": 5}, ["$.name: expected a string, got 5"]),
            ({"name": True}, ["$.name: expected a string, got true: write it in quotes"]),
            ({"name": bson.Code("x")}, ["$.name: expected a string, got a value of type Code"]),
            ({"name": NOW}, ["$.name: expected a string, got a date"]),
            ({"name": ""}, ["$.name: expected 1 to 500 characters, got 0"]),
            ({"name": None}, ["$.name: expected a string, got null"]),
            ({"schema_version": "1"}, ["$.schema_version: expected an integer, got '1'"]),
            ({"schema_version": 0}, ["$.schema_version: expected at least 1, got 0"]),
            ({"_id": 5}, ["$._id: expected a string, an ObjectId or a UUID, got 5"]),
            ({"_id": ""}, ["$._id: expected a string of 1 to 500 characters, got 0"]),
            ({"_id": "x" * 501}, ["$._id: expected a string of 1 to 500 characters, got 501"]),
            (
                {"_id": bson.Binary(b"x" * 16, 3)},
                ["$._id: expected a string, an ObjectId or a UUID, got a value of type Binary"],
            ),
            ({"template": None}, ["$.template: required, or template_ref"]),
            (
                {"template_ref": {"name": "renewal"}},
                ["$.template_ref: expected either template or template_ref, got both"],
            ),
            ({"template": 5}, ["$.template: expected an object, got 5"]),
            ({"recipients": None}, ["$.recipients: required, or recipients_from"]),
            (
                {"recipients_from": "batch_recipients"},
                ["$.recipients_from: expected either recipients or recipients_from, got both"],
            ),
            (
                {"recipients": None, "recipients_from": "people"},
                ["$.recipients_from: expected batch_recipients, got 'people'"],
            ),
            ({"recipients": {}}, ["$.recipients: expected a list, got an object"]),
            ({"recipient_count": 3}, ["$.recipient_count: expected 2, got 3"]),
            (
                {"recipients": None, "recipients_from": "batch_recipients", "recipient_count": -1},
                ["$.recipient_count: expected at least 0, got -1"],
            ),
            (
                {"scheduled_at": "2026-12-01"},
                ["$.scheduled_at: expected a date, got string '2026-12-01'"],
            ),
            ({"scheduled_at": 5}, ["$.scheduled_at: expected a date, got 5"]),
            (
                {"scheduled_at": datetime(2026, 1, 1)},  # noqa: DTZ001
                ["$.scheduled_at: expected a date with a time zone, got one without"],
            ),
            (
                {"ends_at": DatetimeMS(2**60)},
                ["$.ends_at: expected a date in the years 1 to 9999, got one beyond them"],
            ),
            (
                {"ends_at": datetime(9999, 1, 1, tzinfo=UTC)},
                ["$.ends_at: expected a date from 1970 to 2999, got one in the year 9999"],
            ),
            (
                {"start_within": "soon"},
                ["$.start_within: expected a duration like '2d', got 'soon'"],
            ),
            ({"start_within": 0}, ["$.start_within: expected a duration longer than zero, got 0s"]),
            (
                {"on_invalid_recipient": "ignore"},
                ["$.on_invalid_recipient: expected skip | reject, got 'ignore'"],
            ),
            (
                {"on_invalid_recipient": []},
                ["$.on_invalid_recipient: expected skip | reject, got a list"],
            ),
            ({"metadata": 5}, ["$.metadata: expected an object, got 5"]),
            (
                {"metadata": {"a": [{"$set": 1}]}},
                ["$.metadata.a[0]: expected names that do not begin with '$', got '$set'"],
            ),
            (
                {"metadata": {"a": bson.DBRef("c", 1)}},
                ["$.metadata.a: expected no reference (an object with '$ref')"],
            ),
            ({"metadata": nested(101)}, ["$.metadata: expected at most 100 levels of nesting"]),
            (
                {"metadata": {"a": "x" * 10**6}},
                ["$.metadata: expected at most 1000000 bytes, got 1000013"],
            ),
            ({"metadata": {"a": object()}}, ["$.metadata: expected values that BSON can hold"]),
            (
                {"traceparent": "x" * 201},
                ["$.traceparent: expected at most 200 characters, got 201"],
            ),
        ],
        ids=repr,
    )
    def test_problem(self, changes, expected):
        """Each problem names the field, what was expected and what was there."""
        assert problems(read_batch_request, batch_request_document(**changes)) == expected

    def test_all_at_once(self):
        """Unknown fields, wrong types, wrong values and missing fields come together."""
        document = batch_request_document(
            nme="x",
            start_within=-1,
            template=template_document(
                max_messages=0,
                colour="red",
                stages=[
                    stage_document(),
                    stage_document(follow_ups=[{"after": "soon", "message": {"subject": 5}}]),
                ],
            ),
        )
        del document["name"]
        assert problems(read_batch_request, document) == [
            "$.nme: unknown field; did you mean 'name'?",
            "$.name: required",
            "$.template.colour: unknown field",
            "$.template.max_messages: expected 1 to 1000, got 0",
            "$.template.stages[1].follow_ups[0].after: expected a duration like '2d', got 'soon'",
            "$.template.stages[1].follow_ups[0].message.body: required",
            "$.template.stages[1].follow_ups[0].message.subject: expected a string, got 5",
            "$.start_within: expected a duration like '2d', got -1",
        ]

    def test_at_most_a_hundred(self):
        """A document full of problems gets the first hundred, and their number."""
        document = batch_request_document() | {f"x{index}": 1 for index in range(150)}
        found = problems(read_batch_request, document)
        assert len(found) == 101
        assert found[-1] == "… and 50 more"

    @pytest.mark.parametrize(
        "changes",
        [
            {f"nam{index}": 1 for index in range(100_000)},
            {"template": template_document(stages=[5] * 100_000)},
            {"template": template_document(channel=["email"] * 100_000)},
        ],
        ids=["unknown fields", "stages", "channels"],
    )
    @pytest.mark.timeout(60)
    def test_takes_little_time(self, changes):
        """A document with very much in it cannot keep the worker from its work."""
        assert len(problems(read_batch_request, batch_request_document(**changes))) <= 101

    def test_long_values_are_cut(self):
        """A problem shows no more than the beginning of what was there."""
        document = batch_request_document(start_within="x" * 10_000, **{"y" * 10_000: 1})
        for problem in problems(read_batch_request, document):
            assert len(problem) < 150
            assert "…" in problem

    @pytest.mark.parametrize("document", [None, 5, "x", [], b""], ids=repr)
    def test_no_document(self, document):
        """What is no object at all is a problem of the whole."""
        assert problems(read_batch_request, document)[0].startswith("$: expected an object, got ")

    def test_private_names(self):
        """Names that begin with _ are their writer's own, wherever they stand."""
        document = batch_request_document(
            _mine=1, template=template_with(_note="x", message=MESSAGE | {"_": 1})
        )
        assert read_batch_request(document) == read_batch_request(
            batch_request_document(template=template_with())
        )

    def test_answers(self):
        """What the worker wrote on the document is no problem when it is read again."""
        answers = {"status": "accepted", "decided_at": NOW, "campaign_id": "x", "problems": []}
        document = batch_request_document(**answers, counts={}, rejected_recipients=[])
        assert read_batch_request(document) == read_batch_request(batch_request_document())

    @pytest.mark.parametrize("version", [2, 2.0, Int64(99)])
    def test_newer(self, version):
        """A document of a later version is neither read nor complained of."""
        for read in (read_batch_request, read_template):
            with pytest.raises(NewerSchemaError) as newer:
                read({"schema_version": version, "unheard_of": 1})
            assert newer.value.version == version

    def test_binary_id(self):
        """A UUID that was decoded as its bytes is the same id."""
        identity = bson.Binary(UUID(int=9).bytes, 4)
        assert read_batch_request(batch_request_document(_id=identity)).id == UUID(int=9)

    def test_hundred_levels(self):
        """Metadata may be nested as deep as MongoDB stores it."""
        assert read_batch_request(batch_request_document(metadata=nested(100)))

    def test_dates_in_whole_milliseconds_and_utc(self):
        """A date is the same instant in UTC, cut to what BSON keeps."""
        given_at = datetime(2026, 11, 23, 10, 0, 0, 1999, tzinfo=timezone(timedelta(hours=1)))
        read = read_batch_request(batch_request_document(scheduled_at=given_at))
        assert read.scheduled_at == NOW + timedelta(milliseconds=1)
        assert read.scheduled_at.tzinfo is UTC

    @pytest.mark.parametrize("value", [True, 5.5, math.nan, math.inf, 1e30, Decimal128("1")])
    def test_no_integers(self, value):
        """What is not a whole number that BSON holds is not taken for one."""
        found = problems(read_template, template_document(version=value))
        assert found[0].startswith("$.version: expected an integer, got ")


class TestTemplate:
    def test_shorthands(self):
        """One channel or intent may be a string; an action is a word or names its stage."""
        read = read_template(
            template_document(
                _id="any",
                schema_version=1,
                channel=["sms", "email"],
                retry={"multiplier": 3, "max_attempts": 2.0},
                agent={"then": {"go_to": "intro", "_why": 1}},
                stages=[
                    stage_document(
                        message=MESSAGE | {"from": "a@example.com", "ttl": 60},
                        on_reply=[
                            {"intent": "yes", "then": "advance"},
                            {"intent": ["no", "never"], "then": "complete"},
                            {"then": {"go_to": "intro"}},
                        ],
                    )
                ],
            )
        )
        assert read.channel == ("sms", "email")
        assert (read.retry.multiplier, read.retry.max_attempts) == (3.0, 2)
        assert read.agent == AgentPolicy(then=go_to("intro"))
        [stage] = read.stages
        assert (stage.message.from_, stage.message.ttl) == ("a@example.com", timedelta(minutes=1))
        assert [rule.intent for rule in stage.on_reply] == [("yes",), ("no", "never"), ()]
        assert [rule.then for rule in stage.on_reply] == [ADVANCE, COMPLETE, go_to("intro")]

    @pytest.mark.parametrize(
        ("document", "expected"),
        [
            (template_document(stages=[]), ["$.stages: expected 1 to 100 entries, got 0"]),
            (template_document(stages="x"), ["$.stages: expected a list, got 'x'"]),
            (
                template_document(stages=[5, stage_document(id="a b")]),
                [
                    "$.stages[0]: expected an object, got 5",
                    r"$.stages[1].id: expected a text of the form [A-Za-z0-9_.\-]{1,64}, got 'a b'",
                ],
            ),
            (
                template_with(final=True, follow_ups=[{"after": "1d", "message": MESSAGE}]),
                ["$.stages[0].follow_ups: expected none, for the stage is final"],
            ),
            (template_with(final=1), ["$.stages[0].final: expected true or false, got 1"]),
            (
                template_with(on_reply=[{"then": "hold", "intent": True}]),
                ["$.stages[0].on_reply[0].intent: expected a string, got true: write it in quotes"],
            ),
            (
                template_with(on_reply=[{"then": "hold", "intent": ["a", "", 5]}]),
                [
                    "$.stages[0].on_reply[0].intent[1]: expected a string that is not empty",
                    "$.stages[0].on_reply[0].intent[2]: expected a string, got 5",
                ],
            ),
            (
                template_with(on_reply=[{"then": "hold", "intent": []}]),
                [
                    (
                        "$.stages[0].on_reply[0].intent: expected a string or a list of strings,"
                        " got an empty list"
                    )
                ],
            ),
            (
                template_with(on_no_reply="hold"),
                [
                    (
                        "$.stages[0].on_no_reply: expected advance | complete | escalate"
                        " | {go_to: stage}, got 'hold'"
                    )
                ],
            ),
            (
                template_with(on_no_reply="go_to"),
                [
                    (
                        "$.stages[0].on_no_reply: expected advance | complete | escalate | hold"
                        " | stay | {go_to: stage}, got 'go_to'"
                    )
                ],
            ),
            (
                template_with(on_no_reply={"go_to": "a", "after": 1}),
                [
                    (
                        "$.stages[0].on_no_reply: expected advance | complete | escalate | hold"
                        " | stay | {go_to: stage}, got an object with other fields than go_to"
                    )
                ],
            ),
            (
                template_with(on_no_reply={"go_to": 5}),
                ["$.stages[0].on_no_reply.go_to: expected the id of a stage, got 5"],
            ),
            (
                template_document(timezone="Berlin"),
                ["$.timezone: expected a time zone like 'Europe/Berlin', got 'Berlin'"],
            ),
            (
                template_document(retry={"multiplier": "2"}),
                ["$.retry.multiplier: expected a number, got '2'"],
            ),
            (
                template_document(retry={"multiplier": math.nan}),
                ["$.retry.multiplier: expected a number, got nan"],
            ),
            (
                template_document(_note="x" * 4_000_000),
                ["$: expected at most 4000000 bytes, got 4000266"],
            ),
            (template_document(_note=object()), ["$: expected values that BSON can hold"]),
            (
                {5: 1} | template_document(),
                ["$: expected values that BSON can hold", "$[5]: unknown field"],
            ),
        ],
        ids=lambda value: repr(value)[:60] if isinstance(value, list) else None,
    )
    def test_problem(self, document, expected):
        """Problems of a template that stands alone have paths from its top."""
        assert sorted(problems(read_template, document)) == sorted(expected)


class TestRecipient:
    def test_reads(self):
        """A recipient is read, inline or from a collection of its own, where null is as absent."""
        document = recipient_document(
            timezone="Europe/Berlin", locale="de", scheduled_at=NOW, ends_at=None
        )
        read = read_recipient(document, "$")
        assert (read.timezone, read.locale, read.scheduled_at) == ("Europe/Berlin", "de", NOW)
        assert (read.ends_at, read.attributes) == (None, {"first_name": "Ada"})
        placed = document | {"_id": bson.ObjectId(), "batch_request_id": REQUEST}
        assert read_recipient(placed, "$") == read

    def test_address_as_given(self):
        """Addresses are kept as they were written, and private names are no address kinds."""
        document = recipient_document(address={"email": " Ada@Example.com ", "_source": 5})
        assert read_recipient(document, "$").address == {"email": " Ada@Example.com "}

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"address": {}}, [".address: expected 1 to 100 entries, got 0"]),
            ({"address": "a@b"}, [".address: expected an object, got 'a@b'"]),
            (
                {"address": {"email": 5, "sms": "1" * 1001}},
                [
                    ".address.email: expected a string, got 5",
                    ".address.sms: expected at most 1000 characters, got 1001",
                ],
            ),
            (
                {"address": {"e.mail": "a@b"}},
                [".address['e.mail']: expected an address kind like email, sms or push-token"],
            ),
            ({"timezone": "Mars/Olympus"}, [
                ".timezone: expected a time zone like 'Europe/Berlin', got 'Mars/Olympus'"
            ]),
            ({"id": 7}, [".id: expected a string, got 7"]),
            ({"attributes": {"$x": 1}}, [
                ".attributes: expected names that do not begin with '$', got '$x'"
            ]),
            ({"adress": {}}, [".adress: unknown field; did you mean 'address'?"]),
        ],
        ids=repr,
    )  # fmt: skip
    def test_problem(self, changes, expected):
        """Each recipient is read alone, and its problems begin where it stands."""
        found = problems(read_recipient, recipient_document(**changes), "$.recipients[3]")
        assert found == [f"$.recipients[3]{problem}" for problem in expected]

    def test_no_recipient(self):
        """What is no object is that recipient's problem."""
        assert problems(read_recipient, 5, "$.recipients[0]") == [
            "$.recipients[0]: expected an object, got 5"
        ]


class TestConversationUpdate:
    def test_reply(self):
        """A reply finds its conversation by request and recipient; without a time it is now."""
        read = read_update(text="a\0b", intent="interested", message_id="c/intro/0")
        assert read.id == "reply-1"
        assert read.conversation_id == conversation_id(REQUEST, "r0")
        assert (read.kind, read.text, read.intent) == (UpdateKind.REPLY, "ab", "interested")
        assert read.at == NOW
        assert read_update(at=NOW - DAY).at == NOW - DAY

    def test_long_reply(self):
        """A reply is cut, an empty one is a reply, and one that classifies another is read."""
        assert len(read_update(text="x" * 20_000).text) == MAX_REPLY_TEXT
        assert read_update(text="").text == ""
        assert read_update(reply_id="reply-0", intent="no").reply_id == "reply-0"

    def test_by_conversation(self):
        """The conversation may be named itself, also beside what it is derived from."""
        key = conversation_id(REQUEST, "r0")
        named = {"_id": "u", "kind": "resume", "conversation_id": key}
        assert read_conversation_update(named, now=NOW).conversation_id == key
        assert read_update(kind="resume", conversation_id=key).conversation_id == key

    def test_other_kinds(self):
        """Each kind is read with its fields and their defaults."""
        send = read_update(kind="send", message=MESSAGE, in_reply_to="reply-1")
        assert (send.message, send.then) == (AgentText(body="Hello"), STAY)
        assert read_update(kind="bounced").bounce is Bounce.HARD
        assert read_update(kind="opted_out", scope="recipient").scope is OptOutScope.RECIPIENT
        resolved = read_update(kind="escalation_resolved", resolution={"go_to": "demo"})
        assert resolved.resolution == go_to("demo")
        assert read_update(kind="pause", until=NOW + DAY, schema_version=1).until == NOW + DAY
        assert read_update(kind="cancel", until=None, intent=None).until is None

    @pytest.mark.parametrize("outcome", Resolve)
    def test_a_word_on_a_doubt(self, outcome):
        """With the key of the message it is about, or without."""
        kind = "unknown_resolved"
        read = read_update(kind=kind, outcome=outcome.value, message_id="c/intro/0")
        assert (read.kind, read.outcome, read.message_id) == (kind, outcome, "c/intro/0")
        assert read_update(kind=kind, outcome=outcome.value).message_id is None
        assert read_update().outcome is None

    def test_given_back(self):
        """An update that was answered and is to be applied again is read."""
        assert read_update(status="parked", reason="x", applied_at=NOW) == read_update()

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"kind": "cancel", "text": "x"}, ["$.text: does not belong to kind 'cancel'"]),
            ({"kind": "delivered", "bounce": "soft"}, [
                "$.bounce: does not belong to kind 'delivered'"
            ]),
            ({"kind": "send"}, ["$.message: required"]),
            ({"kind": "unknown_resolved"}, ["$.outcome: required"]),
            ({"kind": "unknown_resolved", "outcome": None}, ["$.outcome: required"]),
            ({"kind": "unknown_resolved", "outcome": "lost"}, [
                "$.outcome: expected resend | assume_sent, got 'lost'"
            ]),
            ({"kind": "reply", "outcome": "resend"}, [
                "$.outcome: does not belong to kind 'reply'"
            ]),
            ({"kind": "unknown_resolved", "outcome": "resend", "text": "x"}, [
                "$.text: does not belong to kind 'unknown_resolved'"
            ]),
            ({"kind": "cancel", "message_id": "x"}, [
                "$.message_id: does not belong to kind 'cancel'"
            ]),
            ({"kind": "send", "message": {"body": ""}}, [
                "$.message.body: expected 1 to 100000 characters, got 0"
            ]),
            ({"text": 5}, ["$.text: expected a string, got 5"]),
            ({"intent": True}, ["$.intent: expected a string, got true: write it in quotes"]),
            ({"intent": ""}, ["$.intent: expected 1 to 500 characters, got 0"]),
            ({"kind": "escalation_resolved", "resolution": "hold"}, [
                "$.resolution: expected advance | complete | {go_to: stage} | stay, got 'hold'"
            ]),
            ({"batch_request_id": None, "recipient_id": None}, [
                "$.conversation_id: required, or batch_request_id and recipient_id"
            ]),
            ({"recipient_id": None}, ["$.recipient_id: required"]),
            ({"batch_request_id": 5, "recipient_id": ""}, [
                "$.batch_request_id: expected a string, an ObjectId or a UUID, got 5",
                "$.recipient_id: expected 1 to 500 characters, got 0",
            ]),
            ({"conversation_id": "other"}, [
                ("$.conversation_id: expected the one of batch_request_id and recipient_id,"
                " got another")
            ]),
            ({"conversation_id": "other", "recipient_id": 5}, [
                "$.recipient_id: expected a string, got 5"
            ]),
            ({"conversation_id": 5}, [
                ("$.conversation_id: expected the one of batch_request_id and recipient_id,"
                " got another"),
                "$.conversation_id: expected a string, got 5",
            ]),
            ({"at": "now"}, ["$.at: expected a date, got string 'now'"]),
            ({"untl": 1}, ["$.untl: unknown field; did you mean 'until'?"]),
        ],
        ids=repr,
    )  # fmt: skip
    def test_problem(self, changes, expected):
        """Fields of other kinds, missing ones and contradictions are problems."""
        found = problems(read_conversation_update, update_document(**changes), now=NOW)
        assert found == expected

    @pytest.mark.parametrize("kind", ["answer", 5, [], None], ids=repr)
    def test_unknown_kind(self, kind):
        """A kind that is none is one problem, whatever fields it has."""
        [problem] = problems(
            read_conversation_update, update_document(kind=kind, text="x"), now=NOW
        )
        assert problem.startswith("$.kind: expected reply | send | ")

    def test_no_update(self):
        """What is no object is no update."""
        assert problems(read_conversation_update, 5, now=NOW) == ["$: expected an object, got 5"]


class TestCampaignUpdate:
    def test_reads(self):
        """An order finds its campaign by request or by its own id."""
        by_request = {"_id": "u", "batch_request_id": REQUEST, "kind": "pause", "until": NOW + DAY}
        read = read_campaign_update(by_request, now=NOW)
        assert (read.campaign_id, read.until, read.at) == (campaign_id(REQUEST), NOW + DAY, NOW)
        by_id = {"_id": "u", "campaign_id": "c", "kind": "retry", "until": None}
        assert read_campaign_update(by_id, now=NOW).campaign_id == "c"

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"until": NOW}, ["$.until: does not belong to kind 'cancel'"]),
            ({"kind": "stop"}, ["$.kind: expected pause | resume | cancel | retry, got 'stop'"]),
            ({"kind": [], "until": NOW}, [
                "$.kind: expected pause | resume | cancel | retry, got a list"
            ]),
            ({"batch_request_id": None}, ["$.campaign_id: required, or batch_request_id"]),
            ({"campaign_id": "other"}, [
                "$.campaign_id: expected the one of batch_request_id, got another"
            ]),
        ],
        ids=repr,
    )  # fmt: skip
    def test_problem(self, changes, expected):
        """What is wrong with an order is named."""
        document = {"_id": "u", "batch_request_id": REQUEST, "kind": "cancel"} | changes
        assert problems(read_campaign_update, document, now=NOW) == expected


# Our own documents, of generated values.

NAMES = st.text(st.characters(exclude_characters="\0$", exclude_categories=["Cs"]), max_size=9)
BSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.text()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)
DATES = st.integers(0, 4_000_000_000_000).map(
    lambda ms: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
)
DURATIONS = st.integers(1, LONGEST // timedelta(milliseconds=1)).map(
    lambda ms: timedelta(milliseconds=ms)
)
IDS = st.text(min_size=1) | st.uuids() | st.just(bson.ObjectId("0" * 24))
SIMPLE = {
    bool: st.booleans(),
    datetime: DATES,
    timedelta: DURATIONS,
    object: BSON_VALUES,
    Mapping[str, object]: st.dictionaries(NAMES, BSON_VALUES, max_size=3),
    Mapping[str, str]: st.dictionaries(NAMES, st.text(), min_size=1, max_size=3),
    Mapping[str, int]: st.dictionaries(NAMES, st.integers(0, 9), max_size=3),
}


def actions(words):
    """Make a strategy for actions of these kinds."""
    plain = st.sampled_from([Action(ActionKind(word)) for word in words if word != "go_to"])
    return plain | st.sampled_from(["intro", "x.1"]).map(go_to)


def values(kind, keywords):
    """Make a strategy for the values of a field, within what its validator allows."""
    if isinstance(kind, NewType):
        return values(kind.__supertype__, keywords)
    if NoneType in get_args(kind):
        return st.none() | values(get_args(kind)[0], keywords)
    if get_origin(kind) is tuple:
        members = values(get_args(kind)[0], {})
        return st.lists(members, min_size=keywords.get("minLength", 0), max_size=3).map(tuple)
    if attrs.has(kind) and kind is not Action:
        return objects(kind)
    return single(kind, keywords)


def single(kind, keywords):
    """Make a strategy for values that have no parts."""
    if is_id(kind):
        return IDS
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return st.sampled_from(list(kind))
    if kind in {int, float}:
        return st.integers(keywords.get("minimum", -9), keywords.get("maximum") or 10**12).map(kind)
    if kind is Action:
        return actions(keywords.get("actions", [word.value for word in ActionKind]))
    return texts(keywords) if kind is str else SIMPLE[kind]


def texts(keywords):
    """Make a strategy for texts."""
    if "pattern" in keywords:
        return st.from_regex(keywords["pattern"], fullmatch=True)
    if "enum" in keywords:
        return st.sampled_from(keywords["enum"])
    return st.text(min_size=keywords.get("minLength", 0), max_size=20)


def objects(cls):
    """Make a strategy for whole objects of a class."""
    fields = {
        field.name: values(field.type, field.validator.keywords if field.validator else {})
        for field in attrs.fields(cls)
    }
    return st.builds(cls, **fields)


def through_bson(document):
    """Write a document of ours, and decode it as MongoDB would give it back."""
    return decode(bson.encode(to_document(document), codec_options=CODEC))


@pytest.mark.parametrize(
    "cls",
    [Campaign, Conversation, LedgerEntry, Suppression, Template, Slot],
    ids=lambda cls: cls.__name__,
)
@given(data=st.data())
def test_comes_back(cls, data):
    """Every document of ours survives MongoDB as it was."""
    made = data.draw(objects(cls))
    assert from_document(cls, through_bson(made)) == made


@pytest.mark.parametrize("cls", [Campaign, Conversation], ids=lambda cls: cls.__name__)
@given(data=st.data())
def test_changes_are_spelled_as_in_the_whole(cls, data):
    """What differs, and nothing else: by their names in documents."""
    before, after = data.draw(objects(cls)), data.draw(objects(cls))
    old, new = to_document(before), to_document(after)
    assert spelled(cls, differing(before, after)) == {
        name: value for name, value in new.items() if value != old[name]
    }
    assert differing(before, evolve(before)) == {}


def test_spelling():
    """Our documents have the names and the shapes that the contract gives them."""
    document = to_document(
        campaign(template=template(retry=evolve(template().retry, multiplier=1.5)))
    )
    assert document["_id"] == campaign_id(REQUEST)
    assert "id" not in document
    assert document["completed_at"] is None
    assert document["status"] == "active"
    assert type(document["status"]) is str
    assert document["start_within"] == 86_400
    pinned = document["template"]
    assert pinned["stages"][0]["id"] == "intro"
    assert pinned["stages"][0]["message"]["from"] is None
    assert pinned["stages"][0]["on_reply"] == [{"then": "complete", "intent": []}]
    assert pinned["channel"] == ["email"]
    held = to_document(conversation(slot=slot(then=go_to("demo"), by=UUID(int=3))))["slot"]
    assert held["then"] == {"go_to": "demo"}
    assert held["by"] == UUID(int=3)
    assert type(held["due_at"]) is datetime


def test_order_of_fields():
    """A document is written in the order of its class, so that equal ones have equal bytes."""
    assert list(to_document(conversation()))[:3] == ["_id", "campaign_id", "batch_request_id"]


def test_later_fields_are_passed_over():
    """An older worker reads what a newer one wrote."""
    made = conversation(reply=reply(), slot=slot(state=SlotState.SENDING))
    document = to_document(made)
    document["mood"] = 1
    document["slot"]["mood"] = document["reply"]["mood"] = 1
    assert from_document(Conversation, document) == made


def test_earlier_documents():
    """A field with a default may be missing: the document is from before it was there."""
    document = to_document(conversation())
    del document["history"], document["failures"]
    assert from_document(Conversation, document) == conversation()


def test_broken_document():
    """A document of ours that somebody changed is refused, with every problem."""
    document = to_document(conversation(slot=slot(), reply=reply()))
    document |= {"status": "dreaming", "bucket": "5", "history": {}, "due_at": DatetimeMS(2**60)}
    document["slot"] |= {"until": "later", "wanted": 1}
    document["reply"] = 5
    del document["stage"]
    assert sorted(problems(from_document, Conversation, document)) == [
        "$.bucket: expected an integer, got '5'",
        "$.due_at: expected a date in the years 1 to 9999, got one beyond them",
        "$.history: expected a list, got an object",
        "$.reply: expected an object, got 5",
        "$.slot.until: expected a date, got string 'later'",
        "$.slot.wanted: expected true or false, got 1",
        "$.stage: required",
        (
            "$.status: expected pending | awaiting_reply | awaiting_agent | escalated | paused"
            " | completed | failed | cancelled, got 'dreaming'"
        ),
    ]


def test_broken_mappings():
    """Counts that are no object, and validators that fail, are found as well."""
    document = to_document(campaign())
    document["counts"]["by_status"] = 5
    document["template"]["max_messages"] = 0
    assert sorted(problems(from_document, Campaign, document)) == [
        "$.counts.by_status: expected an object, got 5",
        "$.template: expected 1 to 1000, got 0",
    ]
    assert problems(from_document, Campaign, 5) == ["$: expected an object, got 5"]


def test_error_names_its_problems():
    """The errors say what happened also where only their text is seen."""
    assert str(InvalidDocumentError(["$.a: required", "$.b: required"])) == (
        "$.a: required; $.b: required"
    )
    assert str(NewerSchemaError(2)) == "schema_version 2 is newer than this worker"


class TestIdentities:
    def test_messages(self):
        """A slot and its reference name one message: conversation, stage, number."""
        key = conversation_id(REQUEST, "r0")
        assert slot(n=3).key(key) == slot(n=3).ref().key(key) == f"{key}/intro/3"

    def test_open(self):
        """A conversation is open until it is completed, failed or cancelled."""
        closed = [
            status for status in ConversationStatus if not conversation(status=status).is_open
        ]
        assert closed == ["completed", "failed", "cancelled"]

    @given(identity=IDS, name=st.text(min_size=1))
    def test_stable(self, identity, name):
        """Ids follow from what they are of, differ where that differs, and spread evenly."""
        key = conversation_id(identity, name)
        assert key == conversation_id(identity, name) != conversation_id(identity, name + "x")
        assert key != campaign_id(identity)
        assert len(key) == 43
        assert 0 <= bucket(key) < BUCKETS
        assert 0 <= stable_fraction(name) == stable_fraction(name) < 1
