"""The JSON Schemas say what the converter says, as far as a schema can."""

import json
import secrets
from uuid import UUID

import bson
import pytest
from bson import json_util
from jsonschema import Draft202012Validator
from pymongo.errors import WriteError

from schemas.converter import (
    InvalidDocumentError,
    read_batch_request,
    read_campaign_update,
    read_conversation_update,
    read_recipient,
    read_template,
)
from schemas.documents import CODEC
from schemas.ids import conversation_id
from schemas.json_schema import SCHEMAS, json_schema, mongo_schema
from tests.builders import (
    DAY,
    NOW,
    REQUEST,
    batch_request_document,
    recipient_document,
    template_document,
    update_document,
)

MESSAGE = {"body": "Hello"}
READERS = {
    "batch-request": read_batch_request,
    "recipient": lambda document: read_recipient(document, "$"),
    "campaign-template": read_template,
    "conversation-update": lambda document: read_conversation_update(document, now=NOW),
    "campaign-update": lambda document: read_campaign_update(document, now=NOW),
}


def stage_document(**changes):
    """Make a stage as an agent writes it."""
    return {"id": "intro", "message": MESSAGE} | changes


def template_with(**stage):
    """Make a template document with one stage like this."""
    return template_document(stages=[stage_document(**stage)])


def order(**changes):
    """Make an update of a campaign."""
    return {"_id": "u", "batch_request_id": REQUEST, "kind": "pause"} | changes


GOOD = [
    ("batch-request", batch_request_document()),
    (
        "batch-request",
        batch_request_document(
            _id=UUID(int=1),
            _note=1,
            schema_version=1.0,
            template=None,
            template_ref={"name": "renewal", "version": 2},
            recipients=None,
            recipients_from="batch_recipients",
            recipient_count=7,
            scheduled_at=NOW,
            ends_at=NOW + DAY,
            start_within="PT36H",
            on_invalid_recipient="reject",
            metadata={"a": {"b": [1]}},
            traceparent="00-1-2-01",
            tracestate=None,
        ),
    ),
    ("recipient", recipient_document()),
    (
        "recipient",
        recipient_document(
            _id=bson.ObjectId("0" * 24),
            batch_request_id=REQUEST,
            address={"email": "a@example.com", "sms": "+4915112345678", "_by": 1},
            timezone="Europe/Berlin",
            locale="de",
            scheduled_at=NOW,
            ends_at=None,
            attributes={},
        ),
    ),
    ("campaign-template", template_document()),
    (
        "campaign-template",
        template_document(
            _id="t",
            version=2,
            schema_version=1,
            channel=["email", "sms"],
            max_duration="30d",
            max_messages=5,
            timezone="UTC",
            retry={"max_attempts": 3, "initial_delay": 1.5, "multiplier": 2, "max_delay": "1h"},
            agent={"deadline": "1d", "then": {"go_to": "end"}},
            escalation={"deadline": "P1W"},
            stages=[
                stage_document(
                    channel="sms",
                    message=MESSAGE | {"subject": "x", "html": "y", "from": "z", "ttl": "2d"},
                    follow_ups=[{"after": 60, "message": MESSAGE, "if_missing": "skip"}],
                    on_reply=[{"intent": "a", "then": "hold"}, {"intent": ["b"], "then": "stay"}],
                    on_no_reply="advance",
                ),
                stage_document(id="end", final=True),
            ],
        ),
    ),
    ("conversation-update", update_document(text="", intent="yes", at=NOW)),
    ("conversation-update", update_document("send", message=MESSAGE, then={"go_to": "x"})),
    ("conversation-update", update_document("bounced", bounce="soft", message_id="c/s/0")),
    ("conversation-update", update_document("opted_out", scope="recipient", _source="web")),
    ("conversation-update", update_document("escalation_resolved", resolution="stay")),
    ("conversation-update", update_document("pause", until=NOW, intent=None)),
    (
        "conversation-update",
        {"_id": "u", "kind": "resume", "conversation_id": conversation_id(REQUEST, "r0")},
    ),
    ("campaign-update", order(until=NOW)),
    ("campaign-update", order(batch_request_id=None, campaign_id="c", kind="retry")),
]
BAD = [
    ("batch-request", batch_request_document(nme="x")),
    ("batch-request", batch_request_document(name=5)),
    ("batch-request", batch_request_document(name="")),
    ("batch-request", batch_request_document(_id=5)),
    ("batch-request", batch_request_document(_id="")),
    ("batch-request", batch_request_document(template=None)),
    ("batch-request", batch_request_document(template_ref={"name": "x"})),
    ("batch-request", batch_request_document(recipients=None)),
    ("batch-request", batch_request_document(recipients_from="batch_recipients")),
    ("batch-request", batch_request_document(None, recipients_from="people")),
    ("batch-request", batch_request_document(schema_version=1.5)),
    ("batch-request", batch_request_document(scheduled_at="2026-12-01")),
    ("batch-request", batch_request_document(start_within="soon")),
    ("batch-request", batch_request_document(start_within="1d\n")),
    ("batch-request", batch_request_document(start_within=-1)),
    ("batch-request", batch_request_document(on_invalid_recipient="ignore")),
    ("batch-request", batch_request_document(metadata=[])),
    ("batch-request", batch_request_document(traceparent="x" * 201)),
    ("batch-request", {"_id": "x"}),
    ("recipient", recipient_document(id="")),
    ("recipient", recipient_document(id=5)),
    ("recipient", recipient_document(address={})),
    ("recipient", recipient_document(address={"email": 5})),
    ("recipient", recipient_document(address={"e.mail": "a@b"})),
    ("recipient", recipient_document(phone="+1")),
    ("campaign-template", template_document(stages=[])),
    ("campaign-template", template_document(stages=None)),
    ("campaign-template", template_document(channel=[])),
    ("campaign-template", template_document(channel=True)),
    ("campaign-template", template_document(max_messages=1001)),
    ("campaign-template", template_document(max_messages=2.5)),
    ("campaign-template", template_document(retry={"multiplier": 0.5})),
    ("campaign-template", template_document(retry={"tries": 1})),
    ("campaign-template", template_document(agent={"then": "hold"})),
    ("campaign-template", template_with(id="a b")),
    ("campaign-template", template_with(id="a\n")),
    ("campaign-template", template_with(message={"body": ""})),
    ("campaign-template", template_with(message={"from_": "x", "body": "y"})),
    ("campaign-template", template_with(final=1)),
    (
        "campaign-template",
        template_with(final=True, follow_ups=[{"after": "1d", "message": MESSAGE}]),
    ),
    ("campaign-template", template_with(follow_ups=[{"after": "1M", "message": MESSAGE}])),
    ("campaign-template", template_with(on_reply=[])),
    ("campaign-template", template_with(on_reply=[{"intent": True, "then": "stay"}])),
    ("campaign-template", template_with(on_no_reply="stay")),
    ("campaign-template", template_with(on_no_reply="go_to")),
    ("campaign-template", template_with(on_no_reply={"go_to": ""})),
    ("conversation-update", update_document("answer")),
    ("conversation-update", update_document("send")),
    ("conversation-update", update_document("cancel", text="x")),
    ("conversation-update", update_document("delivered", bounce="soft")),
    ("conversation-update", update_document("escalation_resolved", resolution="hold")),
    ("conversation-update", update_document(recipient_id=None)),
    ("conversation-update", update_document(intent="")),
    ("conversation-update", update_document(at="now")),
    ("conversation-update", update_document(untl=1)),
    ("campaign-update", order(kind="stop")),
    ("campaign-update", order(kind="cancel", until=NOW)),
    ("campaign-update", order(batch_request_id=None)),
    ("campaign-update", order(conversation_id="c")),
]


def unlike(cases):
    """Number the cases, so that each has a name of its own."""
    return [
        pytest.param(name, document, id=f"{number}-{name}")
        for number, (name, document) in enumerate(cases)
    ]


def accepts(name, document):
    """Tell whether the JSON Schema has nothing against a document, written as Extended JSON."""
    options = json_util.RELAXED_JSON_OPTIONS.with_options(
        uuid_representation=CODEC.uuid_representation
    )
    extended = json.loads(json_util.dumps(document, json_options=options))
    return Draft202012Validator(json_schema(name)).is_valid(extended)


@pytest.mark.parametrize("name", SCHEMAS)
def test_is_a_schema(name):
    """Every schema is one by the rules of its draft, and says which one it is."""
    schema = json_schema(name)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"] == name
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(("name", "document"), unlike(GOOD))
def test_both_accept(name, document):
    """What the converter reads, the schema accepts."""
    READERS[name](document)
    assert accepts(name, document)


@pytest.mark.parametrize(("name", "document"), unlike(BAD))
def test_both_refuse(name, document):
    """What is wrong is wrong to the converter and to the schema."""
    with pytest.raises(InvalidDocumentError):
        READERS[name](document)
    assert not accepts(name, document)


@pytest.fixture(scope="module")
def validated(mongodb_client):
    """One collection for each schema, with MongoDB's validator."""
    database = mongodb_client[f"test_{secrets.token_hex(6)}"]
    for name in SCHEMAS:
        database.create_collection(name, validator={"$jsonSchema": mongo_schema(name)})
    yield database
    mongodb_client.drop_database(database.name)


def stored(database, name, document):
    """Store a document, and tell whether MongoDB took it."""
    collection = database[name].with_options(codec_options=CODEC)
    try:
        collection.replace_one({"_id": document.get("_id", "new")}, document, upsert=True)
    except WriteError:
        return False
    collection.delete_many({})
    return True


@pytest.mark.parametrize(("name", "document"), unlike(GOOD))
def test_mongodb_accepts(validated, name, document):
    """MongoDB takes what the converter reads, and the worker's answer on it."""
    assert stored(validated, name, document)
    assert stored(validated, name, document | {"status": "accepted", "problems": []})


def said_otherwise(name, document):
    """Tell whether MongoDB's validator leaves this to the worker: further fields, no recipients."""
    known = json_schema(name)["properties"]
    return any(field not in known for field in document)


@pytest.mark.parametrize(
    ("name", "document"), unlike(case for case in BAD if not said_otherwise(*case))
)
def test_mongodb_refuses(validated, name, document):
    """MongoDB refuses what is wrong, but for unknown fields of the document itself."""
    assert not stored(validated, name, document)


def test_one_recipient_keeps_no_other_out(validated):
    """A request with a recipient who is wrong can be stored: the worker skips that one."""
    document = batch_request_document([recipient_document(), {"id": 5}])
    assert not accepts("batch-request", document)
    assert stored(validated, "batch-request", document)


def test_mongodb_dialect():
    """No keyword stands in MongoDB's schemas that it would refuse."""
    for name in SCHEMAS:
        text = json.dumps(mongo_schema(name))
        for keyword in ("$ref", "$defs", "$schema", '"default"', '"format"', '"integer"'):
            assert keyword not in text


def test_defaults_and_bounds():
    """The schema shows defaults and bounds as they are written."""
    schema = json_schema("campaign-template")
    assert schema["properties"]["max_duration"]["default"] == "30d"
    assert schema["properties"]["timezone"]["default"] == "UTC"
    assert schema["properties"]["max_messages"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 1000,
        "default": 20,
    }
    assert schema["$defs"]["AgentPolicy"]["properties"]["then"]["default"] == "escalate"
    assert json_schema("batch-request")["properties"]["on_invalid_recipient"]["default"] == "skip"
