"""Hostile input: each piece is answered on its own document, and a healthy campaign runs on beside it."""

import math
from datetime import UTC, datetime

import bson
import pytest
from bson import DatetimeMS, Decimal128, Int64
from bson.raw_bson import RawBSONDocument

from tests.builders import batch_request_document, recipient_document, template_document
from tests.live import live

MEGABYTE = 1_000_000
BEYOND_PYTHON = DatetimeMS(2**60)


def nested(depth):
    """Make an object in an object, so many deep."""
    document = {"end": 1}
    for _ in range(depth):
        document = {"in": document}
    return document


def stages(body):
    """Make the one stage of a template with this text."""
    return [{"id": "intro", "message": {"body": body}}]


def not_utf8(document, field):
    """Break the text of a field; the server takes it all the same."""
    raw = bson.encode(document | {field: "BREAKME"})
    return RawBSONDocument(raw.replace(b"BREAKME", b"\xff\xfe\xfa\xff\xfe\xfa\xff"))


def request(identity, **changes):
    """Make a request that would be accepted but for the changes."""
    recipient = recipient_document(address={"email": f"{identity}@example.com"})
    return batch_request_document([recipient], _id=identity) | changes


REJECTED = {
    "wrong-types": request(
        "wrong-types",
        name=5,
        type=None,
        template=[1],
        recipients={"a": 1},
        scheduled_at="tomorrow",
        ends_at=5,
        metadata=[],
        schema_version="1",
    ),
    "decimal": request("decimal", recipient_count=Decimal128("1")),
    "nan": request("nan", recipient_count=math.nan),
    "huge-name": request("huge-name", name="x" * 15 * MEGABYTE),
    "huge-metadata": request("huge-metadata", metadata={"x": "x" * 15 * MEGABYTE}),
    "huge-body": request("huge-body", template=template_document(stages=stages("x" * MEGABYTE))),
    "beyond-python": request("beyond-python", scheduled_at=BEYOND_PYTHON),
    "operator": request("operator", metadata={"$where": "1"}),
    "deep": request("deep", metadata=nested(150)),
    "not-utf8": not_utf8(request("not-utf8"), "name"),
    "bad-liquid": request("bad-liquid", template=template_document(stages=stages("{% for %}"))),
    "no-such-filter": request(
        "no-such-filter", template=template_document(stages=stages("{{ now | system }}"))
    ),
    "deep-liquid": request(
        "deep-liquid", template=template_document(stages=stages("{% if now %}" * 150))
    ),
    "too-late": request("too-late", scheduled_at=datetime(2020, 1, 1, tzinfo=UTC)),
    "nobody": request("nobody", recipients=[]),
    "no-template": request("no-template", template=None),
    "no-such-template": request(
        "no-such-template", template=None, template_ref={"name": "nothing"}
    ),
}
#: Accepted, but nothing is ever handed off.
GROWING = (
    "{{ '" + "x" * 200 + "'" + " | append: recipient.id | split: '' | join: 'xxxxxxxx'" * 8 + " }}"
)
BOMBS = {
    "loop-bomb": request(
        "loop-bomb",
        template=template_document(
            stages=stages("{% for a in (1..999) %}" * 4 + "x" + "{% endfor %}" * 4)
        ),
    ),
    "growing-filters": request(
        "growing-filters", template=template_document(stages=stages(GROWING))
    ),
}
SKIPPED = {
    "no-such-zone": recipient_document("zone", timezone="Mars/Base"),
    "lacking": recipient_document("lacking", attributes={}),
    "huge": recipient_document("huge", attributes={"first_name": "x" * 14 * MEGABYTE}),
    "deep": recipient_document("deep", attributes=nested(150)),
    "operator": recipient_document("operator", attributes={"$set": 1}),
    "beyond": recipient_document("beyond", ends_at=BEYOND_PYTHON),
    "number": 7,
    "none": None,
}
UPDATES = {
    "nobody": {"conversation_id": "nobody", "kind": "reply"},
    "no-kind": {"batch_request_id": "healthy", "recipient_id": "r0"},
    "wrong-kind": {"batch_request_id": "healthy", "recipient_id": "r0", "kind": "explode"},
    "wrong-id": {"conversation_id": 5, "kind": "reply"},
    "no-id": {"kind": "reply"},
    "wrong-date": {"batch_request_id": "healthy", "recipient_id": "r0", "kind": "reply"}
    | {"at": "now"},
    "beyond-python": {"batch_request_id": "healthy", "recipient_id": "r0", "kind": "reply"}
    | {"at": BEYOND_PYTHON},
    "decimal": {"batch_request_id": Decimal128("1"), "recipient_id": "r0", "kind": "reply"},
    "not-utf8": not_utf8(
        {"_id": "not-utf8", "batch_request_id": "healthy", "recipient_id": "r0", "kind": "reply"},
        "text",
    ),
}


@pytest.fixture
async def world(mongodb_uri, mongodb_client, database_name, tmp_path):
    """A worker with a healthy campaign of three under way."""
    async with live(mongodb_uri, mongodb_client, database_name, tmp_path) as made:
        made.database.batch_requests.insert_one(
            batch_request_document(
                3,
                _id="healthy",
                template=template_document(
                    stages=[
                        {"id": "intro", "message": {"body": "Hello"}, "reply_within": "2s"},
                    ]
                ),
            )
        )
        await made.answered("batch_requests", "healthy")
        yield made
        campaign = await made.completed("healthy")
        assert campaign["counts"]["by_exit_reason"] == {"no_reply_exhausted": 3}


async def test_hostile_requests_are_rejected_on_themselves(world):
    """Every one is answered with its problems; none starts anything."""
    for document in REJECTED.values():
        world.database.batch_requests.insert_one(document)
    for identity in REJECTED:
        answer = await world.answered("batch_requests", identity)
        assert answer["status"] == "rejected", identity
        assert answer["problems"], identity
        assert all(len(problem) < 500 for problem in answer["problems"]), identity
    assert world.database.campaigns.count_documents({}) == 1


async def test_an_id_of_a_wrong_type_is_answered(world):
    """A request with an `_id` that no driver should have made is answered by that `_id`."""
    for identity in (7, Int64(8), {"a": 1}, 1.5, b"raw"):
        world.database.batch_requests.insert_one(request("any") | {"_id": identity})
        answer = await world.answered("batch_requests", identity)
        assert answer["status"] == "rejected"
        assert "$._id" in answer["problems"][0]


async def test_bombs_end_their_own_conversations(world):
    """A template that only explodes when it is rendered costs its own conversations."""
    for document in BOMBS.values():
        world.database.batch_requests.insert_one(document)
    for identity in BOMBS:
        answer = await world.answered("batch_requests", identity)
        if answer["status"] == "rejected":
            continue
        campaign = await world.completed(identity)
        assert campaign["counts"]["by_exit_reason"] == {"template_error": 1}, identity
    assert all(line["body"] == "Hello" for line in world.lines())


async def test_hostile_recipients_are_skipped(world):
    """Each is reported with its problem, and the one that is well is written to."""
    for name, recipient in SKIPPED.items():
        well = recipient_document("well", address={"email": f"{name}@example.org"})
        world.database.batch_requests.insert_one(
            batch_request_document([recipient, well], _id=f"with-{name}")
        )
    for name in SKIPPED:
        answer = await world.answered("batch_requests", f"with-{name}")
        assert answer["counts"] == {"recipients": 2, "rejected": 1}, name
        assert [entry["index"] for entry in answer["rejected_recipients"]] == [0], name


async def test_names_with_dots_survive(world):
    """Attributes and metadata are opaque: whatever their names, they come out as they went in."""
    odd = {"a.b": {"c.d": 1}, "first_name": "Ada", "": 2}
    recipient = recipient_document(attributes=odd)
    recipient["address"] = {"email": "dots@example.com"}
    world.database.batch_requests.insert_one(
        batch_request_document([recipient], _id="dots", metadata={"x.y": 1})
    )
    await world.answered("batch_requests", "dots")
    found = world.database.conversations.find_one({"batch_request_id": "dots"})
    assert found["recipient"]["attributes"] == odd
    campaign = world.database.campaigns.find_one({"batch_request_id": "dots"})
    assert campaign["metadata"] == {"x.y": 1}


async def test_hostile_updates_are_rejected_on_themselves(world):
    """Every one is answered with a reason, and no conversation is touched."""
    for identity, update in UPDATES.items():
        document = update if isinstance(update, RawBSONDocument) else {"_id": identity, **update}
        world.database.conversation_updates.insert_one(document)
    for identity in UPDATES:
        answer = await world.answered("conversation_updates", identity)
        assert answer["status"] == "rejected", identity
        assert answer["reason"], identity


async def test_hostile_orders_are_rejected_on_themselves(world):
    """A campaign update that is malformed, or about nothing, is answered so."""
    orders = {
        "nothing": {"campaign_id": "nothing", "kind": "pause"},
        "no-id": {"kind": "pause"},
        "wrong-kind": {"batch_request_id": "healthy", "kind": "explode"},
    }
    for identity, order in orders.items():
        world.database.campaign_updates.insert_one({"_id": identity, **order})
    for identity in orders:
        answer = await world.answered("campaign_updates", identity)
        assert answer["status"] == "rejected", identity


async def test_a_huge_reply_is_applied(world):
    """A reply of 15 MB counts as one: a part of it is kept in the conversation, the rest stays."""
    recipient = recipient_document(address={"email": "huge@example.com"})
    world.database.batch_requests.insert_one(batch_request_document([recipient], _id="huge"))
    await world.answered("batch_requests", "huge")
    update = {"_id": "huge", "batch_request_id": "huge", "recipient_id": "r0", "kind": "reply"}
    world.database.conversation_updates.insert_one(update | {"text": "x" * 15 * MEGABYTE})
    answer = await world.answered("conversation_updates", "huge")
    assert answer["status"] == "applied"
    found = world.database.conversations.find_one({"batch_request_id": "huge"})
    assert 1_000 < len(found["reply"]["text"]) < 100_000


async def test_a_newer_schema_is_left_unanswered(world):
    """A document of a later version waits for a worker that understands it."""
    world.database.batch_requests.insert_one(request("newer", schema_version=2))
    world.database.batch_requests.insert_one(request("after-it"))
    await world.answered("batch_requests", "after-it")
    assert "status" not in world.database.batch_requests.find_one({"_id": "newer"})


async def test_a_broken_conversation_stops_no_other(world):
    """One of our own documents that cannot be read is retried, then parked with its error."""
    recipients = [
        recipient_document(f"r{index}", address={"email": f"broken{index}@example.com"})
        for index in range(3)
    ]
    template = template_document(
        stages=[{"id": "intro", "message": {"body": "Hello"}, "reply_within": "2s"}],
        retry={"max_attempts": 2, "initial_delay": "1s"},
    )
    world.database.batch_requests.insert_one(
        batch_request_document(recipients, _id="broken", template=template)
    )
    await world.answered("batch_requests", "broken")
    query = {"batch_request_id": "broken", "status": "awaiting_reply"}
    await world.until(lambda: world.database.conversations.count_documents(query) == 3)
    broken = {"batch_request_id": "broken", "recipient.id": "r1"}
    world.database.conversations.update_one(broken, {"$set": {"visit": "nonsense"}})
    campaign = await world.completed("broken")
    assert campaign["counts"]["by_exit_reason"] == {
        "failed_permanent": 1,
        "no_reply_exhausted": 2,
    }
    assert world.database.conversations.find_one(broken)["last_error"]
