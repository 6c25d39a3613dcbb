"""The store's contract, sentence by sentence, held to by both stores."""

from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

import anyio
import bson
import pytest
from attrs import evolve
from bson import Decimal128, Int64, MaxKey, MinKey, ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo import AsyncMongoClient

from reactor.clock import TimeScale
from reactor.indexes import ensure_indexes
from reactor.store.base import RAW
from reactor.store.hints import FEW
from reactor.store.memory import MemoryStore
from reactor.store.mongo import MongoStore
from reactor.store.protocol import (
    BrokenDocument,
    Change,
    Conflict,
    Inbox,
    LookOrder,
    Member,
    OnItsWay,
    Order,
    RawDocument,
    RejectedRecipient,
    Scope,
    recipients_of,
)
from schemas.campaign import CampaignStatus
from schemas.channel import Alert, AlertKind, ChannelState, Circuit, CircuitState
from schemas.conversation import (
    ConversationStatus,
    ExitReason,
    HistoryEntry,
    Pause,
    SlotState,
    WaitingFor,
)
from schemas.converter import to_document
from schemas.documents import CODEC, decode, only_id
from schemas.hand_off import ChannelSpec
from schemas.ids import campaign_id, conversation_id
from schemas.message import LedgerEntry, MessageStatus, Suppression
from schemas.transition import Report
from tests.builders import (
    DAY,
    HOUR,
    NOW,
    REQUEST,
    batch_request_document,
    campaign,
    conversation,
    recipient_document,
    reply,
    slot,
    template,
    update_document,
)

S = ConversationStatus
M = MessageStatus
CAMPAIGN = campaign_id(REQUEST)
MINUTE = timedelta(minutes=1)
IDS = ["a", ObjectId("64b000000000000000000001"), UUID("12345678-1234-5678-1234-567812345678")]
UPDATES, ORDERS = Inbox.CONVERSATION_UPDATES, Inbox.CAMPAIGN_UPDATES


class MongoWorld:
    """The real store, and a way past it."""

    def __init__(self, client, name):
        self.database = client[name]
        self.raw = self.database.with_options(codec_options=RAW)
        self.store = MongoStore(self.database, TimeScale())

    async def put(self, collection, *documents):
        """Insert as another program does; bytes as they stand."""
        for document in documents:
            raw = (
                document
                if isinstance(document, bytes)
                else bson.encode(document, codec_options=CODEC)
            )
            await self.raw[collection].insert_one(RawBSONDocument(raw, RAW))

    async def pass_time(self, name, seconds):
        """Let time pass for a channel's bucket."""
        query, earlier = {"_id": name}, {"$inc": {"bucket": -1_000.0 * seconds}}
        await self.database.channels.update_one(query, earlier)

    async def all(self, collection):
        """Read a collection, as far as it can be read."""
        found = await self.raw[collection].find().sort("_id", 1).to_list()
        tolerant = CODEC.with_options(unicode_decode_error_handler="replace")
        return [bson.decode(each.raw, tolerant) for each in found]


class MemoryWorld:
    """The store in memory, and a way past it."""

    def __init__(self):
        self.ahead = timedelta(0)
        self.store = MemoryStore(lambda: NOW + self.ahead)

    async def pass_time(self, _, seconds):
        """Let time pass, for all that there is."""
        self.ahead += timedelta(seconds=seconds)

    async def put(self, collection, *documents):
        """Insert as another program does; bytes as they stand."""
        for document in documents:
            self.store.insert(collection, document)

    async def all(self, collection):
        """Read a collection, as far as it can be read."""
        return sorted(self.store.documents(collection), key=lambda each: str(each["_id"]))


@asynccontextmanager
async def mongo_world(uri, name):
    """Make a world on a database with its indexes."""
    async with AsyncMongoClient(uri, tz_aware=True, uuidRepresentation="standard") as client:
        await ensure_indexes(client[name])
        yield MongoWorld(client, name)


@pytest.fixture(params=["mongo", "memory"])
async def world(request):
    """Give one store after the other."""
    if request.param == "memory":
        yield MemoryWorld()
        return
    uri, name = map(request.getfixturevalue, ("mongodb_uri", "database_name"))
    async with mongo_world(uri, name) as made:
        yield made


@pytest.fixture
def store(world):
    """Give the world's store."""
    return world.store


def not_utf8(document, text=b"broken"):
    """Encode a document in which one text is no UTF-8, as a server accepts it."""
    raw = bson.encode(document, codec_options=CODEC)
    assert raw.count(text) == 1
    return raw.replace(text, b"\xff" * len(text))


def beyond_dates(document, field):
    """Encode a document with a date that Python does not have."""
    return bson.encode(document | {field: bson.DatetimeMS(2**60)}, codec_options=CODEC)


def raw(identity):
    """Give an `_id` as hints carry it."""
    return RawDocument(bson.encode({"_id": identity}, codec_options=CODEC))


def many(count, **changes):
    """Make conversations, the first one the most overdue."""
    return [
        conversation(f"r{n}", position=n, due_at=NOW - HOUR + n * MINUTE, **changes)
        for n in range(count)
    ]


def order(scope=Scope.DUE, **changes):
    """Make an order for a batch."""
    default = {"campaign": campaign(), "scope": scope, "now": NOW, "limit": 100}
    return Order(**default | changes)


def entry(status, n=0, **changes):
    """Make a ledger entry of the first conversation."""
    one = conversation("r0")
    default = {
        "id": f"{one.id}/intro/{n}",
        "status": status,
        "campaign_id": one.campaign_id,
        "batch_request_id": one.batch_request_id,
        "conversation_id": one.id,
        "recipient_id": "r0",
    }
    return LedgerEntry(**default | changes)


def names(conversations):
    """Name conversations by their recipients."""
    return [each.recipient.id for each in conversations]


def texts(raws):
    """Give the ids of raw documents."""
    return [bson.decode(each.data, RAW.with_options(document_class=dict))["_id"] for each in raws]


# -- inboxes -----------------------------------------------------------------------------------------
async def test_unanswered_are_those_without_a_status_that_are_not_put_off(world):
    """No `status`, or null; a due time that is past, absent, or no date at all."""
    await world.put(
        UPDATES,
        {"_id": "absent"},
        {"_id": "null", "status": None, "due_at": None},
        {"_id": "past", "due_at": NOW},
        {"_id": "no date", "due_at": "tomorrow"},
        {"_id": "put off", "due_at": NOW + MINUTE},
        {"_id": "answered", "status": "applied"},
        {"_id": "answered oddly", "status": ""},
    )
    found = await world.store.unanswered(UPDATES, now=NOW, limit=10)
    assert sorted(texts([each.raw_id for each in found])) == ["absent", "no date", "null", "past"]


async def test_unanswered_are_limited(world):
    """No more than asked for."""
    await world.put(Inbox.BATCH_REQUESTS, *({"_id": n} for n in range(5)))
    assert len(await world.store.unanswered(Inbox.BATCH_REQUESTS, now=NOW, limit=3)) == 3


@pytest.mark.parametrize("request_id", IDS)
async def test_hints_say_whom_an_update_is_about(world, request_id):
    """By either address, whatever the type of the ids; one that does not say is hinted at too."""
    pair = {"batch_request_id": request_id, "recipient_id": "r0"}
    await world.put(
        UPDATES, {"_id": request_id, **pair}, {"_id": "named", "conversation_id": "c"}, {"_id": "?"}
    )
    found = await world.store.unanswered(UPDATES, now=NOW, limit=10)
    whom = {each.raw_id.data: each.conversation_id for each in found}
    assert whom == {
        raw(request_id).data: conversation_id(request_id, "r0"),
        raw("named").data: "c",
        raw("?").data: None,
    }
    await world.put(
        ORDERS, {"_id": 1, "batch_request_id": request_id}, {"_id": 2, "campaign_id": "k"}
    )
    found = await world.store.unanswered(ORDERS, now=NOW, limit=10)
    assert {each.campaign_id for each in found} == {campaign_id(request_id), "k"}


async def test_an_undecodable_document_stops_no_other(world):
    """It is hinted at, read and answered by its raw `_id`, like its neighbours."""
    bad_id, bad_text = not_utf8({"_id": "broken"}), not_utf8({"_id": 2, "text": "broken"})
    bad_date = beyond_dates({"_id": 3}, "at")
    await world.put(UPDATES, bad_id, bad_text, bad_date, {"_id": 4, "kind": "reply"})
    found = await world.store.unanswered(UPDATES, now=NOW, limit=10)
    ids = [each.raw_id for each in found]
    assert {each.data for each in ids} == {
        only_id(each) for each in (bad_id, bad_text, bad_date)
    } | {raw(4).data}
    read = await world.store.read(UPDATES, ids)
    assert {each.data for each in read} >= {bad_id, bad_text, bad_date}
    await world.store.answer(UPDATES, [(each, {"status": "rejected"}) for each in ids])
    assert {each["status"] for each in await world.all(UPDATES)} == {"rejected"}
    assert not await world.store.unanswered(UPDATES, now=NOW, limit=10)


async def test_reading_leaves_out_what_is_gone_or_answered(world):
    """Whole documents, of those that still wait."""
    await world.put(UPDATES, {"_id": 1, "text": "x"}, {"_id": 2, "status": "applied"})
    read = await world.store.read(UPDATES, [raw(1), raw(2), raw(3)])
    assert [decode(each.data) for each in read] == [{"_id": 1, "text": "x"}]
    assert await world.store.read(UPDATES, []) == ()


@pytest.mark.parametrize("identity", [*IDS, {"$gt": ""}, {"a": 1}])
async def test_an_answer_is_written_once(world, identity):
    """By whatever `_id`; what has a status keeps it, and an `_id` is never an operator."""
    await world.put(
        UPDATES, {"_id": "other"}, {"_id": identity} if identity != {"$gt": ""} else {"_id": 9}
    )
    await world.store.answer(UPDATES, [(raw(identity), {"status": "applied", "reason": "a"})])
    await world.store.answer(UPDATES, [(raw(identity), {"status": "ignored", "reason": "b"})])
    answers = {str(each["_id"]): each.get("reason") for each in await world.all(UPDATES)}
    assert answers["other"] is None
    if identity != {"$gt": ""}:
        assert answers[str(identity)] == "a"


async def test_fields_without_a_status_leave_a_document_unanswered(world):
    """It is put off, and answered later; answering nothing is nothing."""
    await world.put(UPDATES, {"_id": 1})
    await world.store.answer(UPDATES, [(raw(1), {"due_at": NOW + MINUTE})])
    assert not await world.store.unanswered(UPDATES, now=NOW, limit=1)
    assert await world.store.unanswered(UPDATES, now=NOW + MINUTE, limit=1)
    await world.store.answer(UPDATES, [])


async def test_orders_of_a_campaign_come_by_either_address_in_their_order(world):
    """Unanswered ones that are not put off, by `at`, then `_id`; one without `at` is of now."""
    mine = {"campaign_id": CAMPAIGN}
    await world.put(
        ORDERS,
        {"_id": "new", **mine},
        {"_id": "second", "at": NOW - MINUTE, "batch_request_id": REQUEST},
        {"_id": "first", "at": NOW - MINUTE, **mine},
        {"_id": "answered", "status": "applied", **mine},
        {"_id": "put off", "due_at": NOW + MINUTE, **mine},
        {"_id": "other", "campaign_id": "other"},
    )
    found = await world.store.campaign_updates(campaign(), now=NOW)
    assert texts(found) == ["first", "second", "new"]
    assert decode(found[2].data) == {"_id": "new", **mine}


async def test_campaigns_of_conversations(store):
    """Those that do not exist are absent."""
    await store.insert_conversations([conversation("r0")])
    known = conversation("r0").id
    assert await store.campaigns_of([known, "nobody"]) == {known: CAMPAIGN}
    assert await store.campaigns_of([]) == {}


# -- requests and opening ----------------------------------------------------------------------------
async def test_what_may_leave_is_what_has_been_over_longest(world):
    """Not what is under way, nor what has left, nor what ended since, nor what is not ours."""
    ends = {"b": NOW - DAY, "a": NOW - HOUR, "new": NOW + HOUR, "open": None}
    for identity, end in ends.items():
        await world.put("campaigns", to_document(campaign(id=identity, completed_at=end)))
    left = campaign(id="left", completed_at=NOW - DAY, removed_at=NOW)
    newer = campaign(id="newer", completed_at=NOW - DAY, schema_version=2)
    await world.put("campaigns", to_document(left), to_document(newer))
    assert await world.store.removable(NOW, limit=5) == ("b", "a")
    assert await world.store.removable(NOW, limit=1) == ("b",)
    assert await world.store.removable(NOW - HOUR, limit=5) == ("b", "a")


async def fill_for_removal(world):
    """Put what belongs to a campaign, and the same of another."""
    done = {"status": "applied", "reason": "r", "applied_at": NOW}
    for request in (REQUEST, "other"):
        mine = campaign(id=campaign_id(request), batch_request_id=request)
        of_request, of_campaign = {"batch_request_id": request}, {"campaign_id": mine.id}
        document = batch_request_document(_id=request, status="accepted")
        await world.put("batch_requests", document | {"rejected_recipients": [{"id": "x"}]})
        for n in range(3):
            identity = f"{request}-{n}"
            one = evolve(conversation(f"r{n}"), id=identity, campaign_id=mine.id)
            await world.put("conversations", to_document(one))
            await world.put("messages", {"_id": identity, "status": "sent", **of_campaign})
            direct = {"_id": f"{identity}-direct", "conversation_id": identity, **done}
            await world.put("conversation_updates", direct)
            await world.put("conversation_updates", {"_id": identity, **of_request, **done})
            await world.put("campaign_updates", {"_id": identity, **of_request, **done})
            await world.put("campaign_updates", {"_id": f"{identity}-c", **of_campaign, **done})
            await world.put("rejected_recipients", {"_id": identity, **of_request})
            raw = not_utf8({"_id": f"{identity}-broken", **of_request})
            await world.put("batch_recipients", {"_id": identity, **of_request}, raw)
        await world.put("conversation_updates", {"_id": f"{request}-new", **of_request})
        await world.put("campaign_updates", {"_id": f"{request}-new", **of_campaign})
    await world.put("suppressions", {"_id": "email:r0@example.com"})


async def test_what_belongs_to_a_campaign_leaves_by_and_by(world):
    """All of it and nothing else, a batch at a time, each call of at most so many."""
    await fill_for_removal(world)
    removed = []
    while count := await world.store.remove(campaign(), limit=2):
        removed.append(count)
    assert max(removed) == 2
    # Updates that name their conversation leave with it, uncounted.
    assert sum(removed) == 3 * 6 + 6
    assert await world.store.remove(campaign(), limit=2) == 0
    for collection in ("conversations", "messages", "rejected_recipients"):
        assert [one["_id"] for one in await world.all(collection)] == [
            f"other-{n}" for n in range(3)
        ]
    for collection, count in (
        ("batch_recipients", 6),
        ("conversation_updates", 7 + 1),
        ("campaign_updates", 7 + 1),
    ):
        left = [one["_id"] for one in await world.all(collection)]
        assert len(left) == count
        assert {f"{REQUEST}-new"} >= {one for one in left if one.startswith(REQUEST)}
    assert len(await world.all("suppressions")) == 1


async def test_a_request_stays_without_its_recipients(world):
    """Its answer stays; one that names no inline recipients gets none; no other is touched."""
    inline = batch_request_document(_id=REQUEST, status="accepted", counts={"recipients": 2})
    elsewhere = {"_id": "p", "status": "accepted", "recipients_from": "batch_recipients"}
    again = batch_request_document(_id="q")
    for document in (inline, elsewhere, again):
        await world.put("batch_requests", document)
        one = campaign(id=document["_id"], batch_request_id=document["_id"])
        assert await world.store.remove(one, limit=10) == 0
    found = {one["_id"]: one for one in await world.all("batch_requests")}
    assert found[REQUEST] == inline | {"recipients": [], "rejected_recipients": []}
    assert found["p"] == elsewhere | {"rejected_recipients": []}
    assert found["q"] == again


async def test_a_template_by_name_and_version(world):
    """Without a version the highest number; a version may be a double."""
    for n, version in enumerate([1, 10.0, 9, "99"]):
        await world.put("campaign_templates", {"_id": n, "name": "t", "version": version})
    found = [await world.store.template("t", version) for version in (None, 1, 10, 11)]
    assert [decode(each.data)["_id"] if each else None for each in found] == [1, 0, 1, None]
    assert await world.store.template("other", None) is None


async def test_inline_recipients_come_in_pages(world):
    """From a position on, until there are no more; each by its index."""
    await world.put(Inbox.BATCH_REQUESTS, batch_request_document(5))
    first = await world.store.recipients(REQUEST, "recipients", after=None, limit=2)
    assert [(at, one["id"]) for at, one, _ in first.recipients] == [(0, "r0"), (1, "r1")]
    last = await world.store.recipients(REQUEST, "recipients", after=4, limit=2)
    assert ([at for at, *_ in last.recipients], last.next_after) == ([4], None)
    assert first.next_after == 2
    assert await world.store.recipients("gone", "recipients", after=None, limit=2) is None


async def test_an_inline_recipient_that_cannot_be_decoded_stops_no_other(world):
    """It has a problem instead of a document; what is no object at all is given as it is."""
    bad = recipient_document("r1", locale="broken")
    document = batch_request_document([recipient_document("r0"), bad, "nobody", 7])
    await world.put(Inbox.BATCH_REQUESTS, not_utf8(document))
    page = await world.store.recipients(REQUEST, "recipients", after=None, limit=10)
    (_, good, none), (at, nothing, problem), third, fourth = page.recipients
    assert (good["id"], none, at, nothing) == ("r0", None, 1, None)
    assert problem.startswith("$: not valid BSON")
    assert (third, fourth) == ((2, "nobody", None), (3, 7, None))


async def test_a_request_without_a_list_of_recipients_has_none(world):
    """It was replaced after it was accepted."""
    await world.put(Inbox.BATCH_REQUESTS, {"_id": REQUEST, "recipients": "all"})
    page = await world.store.recipients(REQUEST, "recipients", after=None, limit=2)
    assert (page.recipients, page.next_after) == ((), None)


POSITIONS = [
    MinKey(),
    None,
    -1,
    Int64(2**40),
    Decimal128("1E+20"),
    "",
    "a",
    "ä",
    {"a": 1},
    {"a": 2},
    b"bytes",
    UUID(int=7),
    ObjectId("64b000000000000000000001"),
    False,
    True,
    NOW,
    MaxKey(),
]


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_placed_recipients_come_by_id_across_types(world, limit):
    """Each once, in BSON order, whatever the types of their ids and the size of a page."""
    placed = [
        {"_id": each, "batch_request_id": REQUEST, "id": f"{n}"} for n, each in enumerate(POSITIONS)
    ]
    await world.put(
        "batch_recipients", *reversed(placed), {"_id": "b", "batch_request_id": "other"}
    )
    found, after, pages = [], None, 0
    while pages == 0 or after is not None:
        page = await world.store.recipients(REQUEST, "batch_recipients", after=after, limit=limit)
        found += [document["id"] for _, document, _ in page.recipients]
        after, pages = page.next_after, pages + 1
        bson.encode({"opened_through": after}, codec_options=CODEC)
    assert found == [f"{n}" for n in range(len(POSITIONS))]
    assert await world.store.count_batch_recipients(REQUEST) == len(POSITIONS)


async def test_placed_recipients_with_undecodable_ids_are_passed(world):
    """They have a problem and a position like others, and the next page begins after them."""
    documents = [
        {"_id": "a", "batch_request_id": REQUEST, "id": "r0"},
        not_utf8({"_id": "broken", "batch_request_id": REQUEST, "id": "r1"}),
        {"_id": ObjectId(), "batch_request_id": REQUEST, "id": "r2"},
    ]
    await world.put("batch_recipients", *documents)
    after, found = None, []
    for _ in documents:
        page = await world.store.recipients(REQUEST, "batch_recipients", after=after, limit=1)
        ((_, document, problem),) = page.recipients
        found.append(document["id"] if document else problem)
        stored = bson.decode(bson.encode({"a": page.next_after}, codec_options=CODEC), CODEC)
        after = stored["a"]
    assert found == ["r0", "$: not valid BSON: a text that is not UTF-8", "r2"]
    assert after is None


async def test_suppressed_addresses(store):
    """Of those asked for; one that is there keeps its first reason."""
    await store.suppress([Suppression(id="email:a", reason="opted_out", at=NOW)])
    await store.suppress(
        [Suppression(id=key, reason="bounced", at=NOW) for key in ("email:a", "email:b")]
    )
    assert await store.suppressed(["email:a", "email:b", "email:c"]) == {"email:a", "email:b"}
    assert await store.suppressed([]) == frozenset()


async def test_a_suppression_keeps_its_first_reason(world):
    """Whoever adds it again, even in the same call."""
    first = Suppression(id="email:a", reason="opted_out", at=NOW, by="u1")
    await world.store.suppress([first, evolve(first, reason="bounced")])
    await world.store.suppress([evolve(first, reason="bounced")])
    assert await world.all("suppressions") == [to_document(first)]
    await world.store.suppress([])


async def test_a_campaign_is_inserted_once(store):
    """The second one changes nothing."""
    assert await store.insert_campaign(campaign())
    assert not await store.insert_campaign(campaign(name="other"))
    _, found = await store.campaign(CAMPAIGN)
    assert found == campaign()


async def test_conversations_that_are_new_are_inserted(store):
    """Of the others it says why not: there already, the same id twice, an address of another."""
    other = {"address_keys": ("email:r0@example.com", "sms:+4915112345678")}
    await store.insert_conversations([conversation("r0", position=0)])
    conflicts = await store.insert_conversations(
        [
            conversation("r0", position=0),
            conversation("r0", position=5),
            conversation("r6", position=6, **other),
            conversation("r7", position=7),
            conversation("r7", position=8),
            conversation("r9", position=9, address_keys=("email:r7@example.com",)),
            conversation("r0", position=10, campaign_id="other", id="other"),
        ]
    )
    assert conflicts == {
        0: Conflict.SAME,
        1: Conflict.RECIPIENT_ID,
        2: Conflict.ADDRESS,
        4: Conflict.RECIPIENT_ID,
        5: Conflict.ADDRESS,
    }
    assert await store.insert_conversations([]) == {}


@pytest.mark.parametrize(("one", "other"), [(1, True), ("1", 1), ({"a": 1}, {"a": True})])
async def test_positions_are_compared_as_bson(store, one, other):
    """Places that only Python takes for the same are two."""
    await store.insert_conversations([conversation("r0", position=one)])
    conflicts = await store.insert_conversations(
        [conversation("r0", position=one), conversation("r0", position=other)]
    )
    assert conflicts == {0: Conflict.SAME, 1: Conflict.RECIPIENT_ID}


def rejected(position, index=None, request=REQUEST):
    """Make an entry of `rejected_recipients`."""
    return RejectedRecipient(
        batch_request_id=request,
        index=index,
        position=position,
        recipient_id=f"id {position}",
        problem="p",
    )


async def test_rejected_recipients_are_entered_once(world):
    """The first by index are shown; one without an index has none to show."""
    entries = [rejected(n, n) for n in (3, 1, 2)]
    for _ in range(2):
        await world.store.reject_recipients([*entries, rejected(1, 1, "other")])
    count, shown = await world.store.rejected_recipients(REQUEST, limit=2)
    assert count == 3
    assert list(shown) == [{"index": n, "id": f"id {n}", "problem": "p"} for n in (1, 2)]
    await world.store.reject_recipients([rejected(ObjectId(), request="placed")])
    _, (placed,) = await world.store.rejected_recipients("placed", limit=9)
    assert "index" not in placed
    assert {each["batch_request_id"] for each in await world.all("rejected_recipients")} == {
        REQUEST,
        "other",
        "placed",
    }
    await world.store.reject_recipients([])


# -- campaigns ---------------------------------------------------------------------------------------
async def test_a_campaign_comes_with_the_time(store):
    """Also when it does not exist; the time is aware, in whole milliseconds."""
    now, found = await store.campaign(CAMPAIGN)
    assert found is None
    assert now.utcoffset() == timedelta(0)
    assert now.microsecond % 1000 == 0
    await store.insert_campaign(campaign())
    for _ in range(2):  # the second time its template is known
        later, found = await store.campaign(CAMPAIGN)
        assert found == campaign()
        assert later >= now
    assert await store.now() >= later


async def test_a_broken_campaign_is_given_as_such(world):
    """Whether it is no BSON, or none of ours; it is still listed where it can be."""
    document = to_document(campaign())
    await world.put("campaigns", not_utf8(document | {"last_error": "broken"}))
    _, found = await world.store.campaign(CAMPAIGN)
    assert isinstance(found, BrokenDocument)
    assert found.id == CAMPAIGN
    await world.put("campaigns", document | {"_id": "odd", "recipient_count": "many"})
    _, found = await world.store.campaign("odd")
    assert "recipient_count" in found.problem
    await world.put("campaigns", document | {"_id": "unlisted", "status": "??"})
    assert {due.campaign_id for due in await world.store.unfinished()} == {CAMPAIGN, "odd"}


async def test_a_campaign_is_written_under_its_version(world):
    """Whoever read an older version writes nothing; fields of others stay."""
    document = to_document(campaign()) | {"of_a_newer_worker": 1}
    await world.put("campaigns", document)
    _, before = await world.store.campaign(CAMPAIGN)
    after = await world.store.write_campaign(before, evolve(before, status=CampaignStatus.PAUSED))
    assert after == evolve(before, status=CampaignStatus.PAUSED, version=1)
    assert await world.store.write_campaign(before, evolve(before, name="late")) is None
    (stored,) = await world.all("campaigns")
    assert stored == document | {"status": "paused", "version": 1}
    assert (await world.store.campaign(CAMPAIGN))[1] == after
    gone = campaign(id="gone")
    assert await world.store.write_campaign(gone, evolve(gone, name="x")) is None


async def test_opened_through_keeps_its_type(store):
    """Whatever `_id` the last recipient had."""
    await store.insert_campaign(campaign())
    _, before = await store.campaign(CAMPAIGN)
    for position in (ObjectId(), UUID(int=3), {"a": Int64(2**40)}, NOW, 7, None):
        before = await store.write_campaign(before, evolve(before, opened_through=position))
        assert (await store.campaign(CAMPAIGN))[1].opened_through == position


async def test_unfinished_campaigns_are_listed_with_their_next_times(world):
    """A paused one by what is being sent; one that is not opened by no conversation at all."""
    listed = {
        "active": campaign(id="active"),
        "paused": campaign(id="paused", status=CampaignStatus.PAUSED),
        "empty": campaign(id="empty"),
        "opening": campaign(id="opening", opened=False),
        "over": campaign(id="over", completed_at=NOW),
        "counting": campaign(id="counting", completed_at=NOW, recount_at=NOW + HOUR),
    }
    for one in listed.values():
        await world.store.insert_campaign(one)
    sending = slot(state=SlotState.SENDING, until=NOW + HOUR)
    for name in ("active", "paused", "opening"):
        await world.put(
            "conversations",
            *(
                to_document(
                    conversation(f"r{n}", id=f"{name}{n}", campaign_id=name, due_at=due, **more)
                )
                for n, (due, more) in enumerate(
                    [(None, {}), (NOW + DAY, {}), (NOW, {}), (NOW + HOUR, {"slot": sending})]
                )
            ),
        )
    found = {due.campaign_id: due for due in await world.store.unfinished()}
    times = {name: due.conversations_due_at for name, due in found.items()}
    none = dict.fromkeys(("empty", "opening", "counting"))
    assert times == {"active": NOW, "paused": NOW + HOUR, **none}
    assert [name for name, due in found.items() if due.completed_at] == ["counting"]
    due = found["active"]
    one = listed["active"]
    assert (due.type, due.status, due.due_at) == (one.type, one.status, one.due_at)
    assert (due.deadline_at, due.opened) == (one.deadline_at, True)


async def test_unfinished_campaigns_say_whether_messages_are_parked_at_a_gate(store):
    """At whichever channel's; what waits for its next attempt, or is on its way, is not parked."""
    slots = {
        "parked": slot(held=WaitingFor.CIRCUIT),
        "elsewhere": slot(channel="sms", held=WaitingFor.RATE_LIMIT),
        "reserved": slot(attempts=1),
        "sending": slot(state=SlotState.SENDING),
        "nothing": None,
    }
    for name, own in slots.items():
        await store.insert_campaign(campaign(id=name))
        one = conversation("r0", id=f"{name}-0", campaign_id=name, slot=own)
        await store.insert_conversations([one, evolve(one, id=f"{name}-1", slot=None)])
    found = {due.campaign_id for due in await store.unfinished() if due.queued}
    assert found == {"parked", "elsewhere"}


async def test_the_next_due_time(store):
    """Of all conversations with one, or of slots that are being sent, or of none."""
    sending = slot(state=SlotState.SENDING, until=NOW + HOUR)
    await store.insert_conversations(
        [
            conversation("r0", due_at=NOW + MINUTE),
            conversation("r1", due_at=NOW + 2 * MINUTE, slot=sending),
            conversation("r2", due_at=None, status=S.COMPLETED),
            conversation("r3", due_at=NOW - DAY, id="other", campaign_id="other"),
        ]
    )
    found = {scope: await store.next_due(CAMPAIGN, scope) for scope in Scope}
    assert found == {
        Scope.DUE: NOW + MINUTE,
        Scope.UNSETTLED: NOW + MINUTE,
        Scope.LEASES: NOW + HOUR,
        Scope.NAMED: None,
    }
    assert await store.next_due("nobody", Scope.DUE) is None


def shifting():
    """Make conversations in every state that a pause may meet."""
    held = {"status": S.AWAITING_REPLY, "due_at": NOW + HOUR, "wait_until": NOW + HOUR}
    reserved = slot(until=NOW + MINUTE)
    sending = slot(state=SlotState.SENDING, until=NOW + MINUTE)
    near = NOW + HOUR + MINUTE
    return {
        "waits": (held, {"wait_until": NOW + 2 * HOUR, "due_at": NOW + 2 * HOUR}),
        "counted": (held | {"pause_seen": 600_000}, {"wait_until": NOW + HOUR + 50 * MINUTE}),
        "reserved": (
            held | {"slot": reserved, "due_at": NOW + MINUTE},
            {"slot": slot(until=NOW + HOUR + MINUTE), "due_at": NOW + HOUR + MINUTE},
        ),
        "sending": (
            held | {"slot": sending, "due_at": NOW + MINUTE},
            {"slot": sending, "due_at": NOW + MINUTE, "wait_until": NOW + 2 * HOUR},
        ),
        "near its end": (
            held | {"deadline_at": near},
            {"wait_until": NOW + 2 * HOUR, "due_at": near},
        ),
        "without a wait": (
            {"wait_until": None, "due_at": NOW + 30 * DAY, "message_count": 1},
            {"wait_until": None, "due_at": NOW + 30 * DAY},
        ),
        "not begun": (held | {"status": S.PENDING}, None),
        "escalated": (held | {"status": S.ESCALATED}, None),
        "up to date": (held | {"pause_seen": 3_600_000}, None),
        "ahead": (held | {"pause_seen": 3_600_001}, None),
        "closed": (held | {"status": S.COMPLETED}, None),
        "paused": (
            held | {"status": S.PAUSED, "pause": Pause(status=S.AWAITING_REPLY, rest=5)},
            None,
        ),
    }


@pytest.mark.parametrize("name", shifting())
async def test_waits_move_on_by_the_pauses(store, name):
    """By what they do not count in yet, once; what does not stand still in a pause stays."""
    given, expected = shifting()[name]
    one = conversation("r0", **given)
    await store.insert_conversations([one, conversation("r1", id="x", campaign_id="x", **given)])
    for _ in range(2):
        await store.shift_waits(campaign(paused_total=3_600_000))
    (found,) = await store.conversations([one.id])
    if expected is None:
        assert found == one
        return
    assert (found.version, found.pause_seen) == (1, 3_600_000)
    for field, value in expected.items():
        assert getattr(found, field) == value
    (other,) = await store.conversations(["x"])
    assert other.version == 0


async def test_counts(store):
    """Conversations by status, stage and exit reason; delivered and bounced messages were sent."""
    closed = {"status": S.COMPLETED, "exit_reason": ExitReason.REPLIED, "due_at": None}
    await store.insert_conversations(
        [
            *many(2),
            conversation("r2", status=S.PAUSED, stage="demo"),
            conversation("r3", **closed),
            conversation("r4", **closed | {"stage": "demo"}),
            conversation("r5", id="x", campaign_id="x"),
        ]
    )
    statuses = [M.SENT, M.DELIVERED, M.BOUNCED, M.FAILED, M.UNKNOWN, M.UNKNOWN, M.CANCELLED]
    await store.record([entry(status, n) for n, status in enumerate(statuses)])
    await store.record([entry(M.SENT, 99, campaign_id="x")])
    counts, messages = await store.count(CAMPAIGN)
    assert counts.by_status == {"pending": 2, "paused": 1, "completed": 2}
    assert counts.by_stage == {"intro": 3, "demo": 2}
    assert (counts.by_exit_reason, counts.open) == ({"replied": 2}, 3)
    assert (counts.recipients, counts.rejected) == (0, 0)
    assert (messages.sent, messages.failed, messages.unknown, messages.cancelled) == (3, 1, 2, 1)


# -- conversations -----------------------------------------------------------------------------------
async def test_loading_what_is_due(store):
    """The most overdue first, within the limit, without those in flight, of this campaign only."""
    await store.insert_conversations(
        [
            *reversed(many(5)),
            conversation("later", due_at=NOW + MINUTE),
            conversation("closed", due_at=None, status=S.COMPLETED),
            conversation("other", id="x", campaign_id="x"),
        ]
    )
    batch = await store.load(order(limit=3, exclude=frozenset({many(2)[1].id})))
    assert names(batch.conversations) == ["r0", "r2", "r3"]
    assert (batch.broken, batch.updates, batch.ledger) == ((), (), {})


async def test_loading_by_name(store):
    """Named ones come whatever their due time, in flight or not, once, and within the limit."""
    await store.insert_conversations([*many(3), conversation("later", due_at=NOW + DAY)])
    named = frozenset({conversation("later").id, conversation("r0").id, "nobody"})
    for scope, expected in (
        (Scope.NAMED, ["later", "r0"]),
        (Scope.DUE, ["later", "r0", "r1", "r2"]),
    ):
        batch = await store.load(order(scope, named=named, exclude=named))
        assert sorted(names(batch.conversations)) == expected
    batch = await store.load(order(named=named, limit=3))
    assert sorted(names(batch.conversations)) == ["later", "r0"]


async def test_loading_a_paused_campaign(store):
    """Only what is being sent, and whose lease is over; what is due waits."""
    over, running = (slot(state=SlotState.SENDING, until=NOW + n * MINUTE) for n in (0, 1))
    await store.insert_conversations(
        [
            conversation("over", slot=over),
            conversation("running", slot=running, due_at=NOW - DAY),
            conversation("reserved", slot=slot()),
            conversation("due"),
        ]
    )
    assert names((await store.load(order(Scope.LEASES))).conversations) == ["over"]


async def test_loading_an_ended_campaign(store):
    """Every open one, due or not, and of the closed ones what is due; the most overdue first."""
    sending = slot(state=SlotState.SENDING, until=NOW)
    await store.insert_conversations(
        [
            conversation("open", due_at=NOW + DAY),
            conversation("paused", due_at=NOW + HOUR, status=S.PAUSED),
            conversation("in-flight", status=S.CANCELLED, slot=sending, due_at=NOW),
            conversation("leased", status=S.CANCELLED, slot=sending, due_at=NOW + MINUTE),
            conversation("closed", status=S.CANCELLED, due_at=None),
        ]
    )
    batch = await store.load(order(Scope.UNSETTLED))
    assert names(batch.conversations) == ["in-flight", "paused", "open"]


class TestBuckets:
    MINE, NEXT, OTHERS = frozenset({1, 2}), frozenset({3}), frozenset({4})

    async def fill(self, store, **changes):
        """Insert a due conversation of each of five buckets, in the order of the buckets."""
        await store.insert_conversations(
            [
                conversation(f"r{n}", bucket=n, due_at=NOW - HOUR + n * MINUTE, **changes)
                for n in range(1, 6)
            ]
        )

    async def loaded(self, store, scope=Scope.DUE, **changes):
        """Load a batch; the buckets of what was found."""
        batch = await store.load(order(scope, **changes))
        return [one.bucket for one in batch.conversations], batch.full

    async def test_loading_of_some_buckets(self, store):
        """Only those, most overdue first; what was asked for by name comes from any."""
        await self.fill(store)
        assert await self.loaded(store) == ([1, 2, 3, 4, 5], False)
        assert await self.loaded(store, buckets=self.MINE) == ([1, 2], False)
        assert await self.loaded(store, buckets=frozenset()) == ([], False)
        named = frozenset({conversation("r5").id})
        assert await self.loaded(store, buckets=self.MINE, named=named) == ([1, 2, 5], False)

    async def test_loading_others_besides(self, store):
        """Only with room left, after one's own, and only what has been due for so long."""
        await self.fill(store)
        besides = {"buckets": self.MINE, "besides": self.NEXT | self.OTHERS}
        since = NOW - HOUR + 3 * MINUTE
        assert await self.loaded(store, **besides) == ([1, 2, 4, 3], False)
        assert await self.loaded(store, **besides, besides_since=since) == ([1, 2, 3], False)
        assert await self.loaded(store, **besides, limit=3) == ([1, 2, 4], True)
        assert await self.loaded(store, **besides, limit=2) == ([1, 2], True)

    async def test_loading_an_ended_campaign(self, store):
        """Every open one, of these buckets and then of those."""
        await self.fill(store)
        found = await self.loaded(
            store, Scope.UNSETTLED, buckets=self.OTHERS, besides=self.MINE, besides_since=NOW - DAY
        )
        assert found == ([4, 2, 1], False)

    async def test_loading_what_is_parked(self, store):
        """One's own first, then the others': whoever parked it may not be its owner."""
        for n in range(1, 6):
            since = NOW - HOUR + n * MINUTE
            own = slot(held=WaitingFor.RATE_LIMIT, until=NOW + DAY, due_at=since)
            one = conversation(f"r{n}", bucket=n, due_at=NOW + DAY, slot=own)
            await store.insert_conversations([one])
        found = {}
        for asked in (1, 2, 3, 9):
            mine = order(Scope.NAMED, buckets=self.MINE, queued={"email": asked})
            batch = await store.load(mine)
            assert batch.queued == {"email": len(batch.conversations)}
            found[asked] = [one.bucket for one in batch.conversations]
        assert found == {1: [1], 2: [1, 2], 3: [1, 2, 5], 9: [1, 2, 5, 4, 3]}

    async def test_the_next_due_time(self, store):
        """Of those buckets; None: of all."""
        await self.fill(store)
        assert await store.next_due(CAMPAIGN, Scope.DUE, self.NEXT) == NOW - HOUR + 3 * MINUTE
        assert await store.next_due(CAMPAIGN, Scope.DUE, frozenset({9})) is None
        assert await store.next_due(CAMPAIGN, Scope.DUE) == NOW - HOUR + MINUTE


async def test_who_lives_by_the_server_s_clock(store):
    """Whoever gave a sign of life not long ago, and has not left; and what they told last."""
    one, two, three = Member(heard=1), Member(heard=2, can_listen=False), Member(heard=3)
    assert await store.beat("a", one, gone_seconds=100) == {"a": one}
    assert await store.beat("b", two, gone_seconds=100) == {"a": one, "b": two}
    assert await store.beat("a", three, gone_seconds=100) == {"a": three, "b": two}
    await store.leave("b")
    assert await store.beat("a", three, gone_seconds=100) == {"a": three}
    await store.leave("nobody")
    assert await store.beat("b", two, gone_seconds=0) == {}


@pytest.mark.parametrize("inbox", Inbox)
async def test_what_still_waits(world, inbox):
    """Of these documents, those without an answer; also such as cannot be decoded."""
    await world.put(inbox, {"_id": "waits"}, {"_id": "answered", "status": "applied"})
    await world.put(inbox, not_utf8({"_id": "broken"}))
    ids = [bson.encode({"_id": name}) for name in ("waits", "answered", "gone")]
    raws = [RawDocument(each) for each in (*ids, not_utf8({"_id": "broken"}))]
    assert set(await world.store.waiting(inbox, raws)) == {raws[0], raws[3]}
    assert await world.store.waiting(inbox, []) == ()


async def test_loading_leaves_aside_what_is_broken(world):
    """No BSON, or none of ours: each with its problem, beside those that can be read."""
    document = to_document(conversation("bad")) | {"last_error": "broken"}
    odd = to_document(conversation("odd")) | {"_id": "odd", "address_keys": ["x"], "stage": 7}
    await world.store.insert_conversations([conversation("r0")])
    await world.put("conversations", not_utf8(document), odd)
    batch = await world.store.load(order())
    assert names(batch.conversations) == ["r0"]
    found = {each.id: each for each in batch.broken}
    assert found.keys() == {conversation("bad").id, "odd"}
    assert found["odd"].problem == "$.stage: expected a string, got 7"
    for broken in batch.broken:
        await world.store.note_failure(broken, {"failures": 1, "due_at": NOW + DAY})
    assert not (await world.store.load(order())).broken
    failures = {each["_id"]: each.get("failures") for each in await world.all("conversations")}
    assert failures == {conversation("bad").id: 1, "odd": 1, conversation("r0").id: 0}


async def test_what_a_newer_worker_wrote_is_none_of_ours(world):
    """It is given as such and not read; a grouped write passes it over."""
    store = world.store
    one = conversation("r0", message_count=1, wait_until=NOW, schema_version=2)
    await world.put("conversations", to_document(one) | {"stage": {"of": "another kind"}})
    batch = await store.load(order(named=frozenset({one.id})))
    assert batch.conversations == ()
    (theirs,) = batch.broken
    assert (theirs.id, theirs.newer) == (one.id, True)
    assert theirs.problem == "schema_version 2 is newer than this worker"
    assert await store.conversations([one.id]) == ()
    before = await world.all("conversations")
    await store.shift_waits(campaign(paused_total=1_000))
    assert await world.all("conversations") == before


async def test_a_campaign_of_a_newer_worker(store):
    """Also one that was read before, when it was none."""
    await store.insert_campaign(campaign())
    _, ours = await store.campaign(CAMPAIGN)
    assert await store.write_campaign(ours, evolve(ours, schema_version=2))
    _, theirs = await store.campaign(CAMPAIGN)
    sight = await store.sight(CAMPAIGN)
    assert theirs.newer
    assert sight.campaign.newer


async def test_what_has_no_version_is_of_the_first(world):
    """Documents that were written before there was one."""
    for collection, one in (("campaigns", campaign()), ("conversations", conversation("r0"))):
        document = to_document(one)
        assert document.pop("schema_version") == 1
        await world.put(collection, document)
    assert (await world.store.campaign(CAMPAIGN))[1] == campaign()
    assert await world.store.conversations([conversation("r0").id]) == (conversation("r0"),)


async def test_unknown_fields_of_conversations_are_kept(world):
    """An older worker reads and writes what a newer one wrote, and loses nothing of it."""
    document = to_document(conversation("r0")) | {"of_a_newer_worker": {"a": [1]}}
    await world.put("conversations", document)
    (one,) = (await world.store.load(order())).conversations
    assert one == conversation("r0")
    await world.store.apply([Change(before=one, after=evolve(one, stage="demo"))], token="t")
    (stored,) = await world.all("conversations")
    assert stored["of_a_newer_worker"] == {"a": [1]}
    assert (stored["stage"], stored["version"], stored["written_by"]) == ("demo", 1, "t")


async def test_loading_brings_the_updates_of_the_batch(world):
    """Unanswered, not put off, by either address, in their order; one without `at` is of now."""
    await world.store.insert_conversations(
        [conversation("r0"), conversation("r1", due_at=NOW + DAY)]
    )
    one = {"conversation_id": conversation("r0").id}
    await world.put(
        UPDATES,
        {"_id": "undated", **one},
        {"_id": "later", "at": NOW + MINUTE, **one},
        update_document(_id="second", at=NOW - MINUTE),
        {"_id": "first", "at": NOW - HOUR, **one},
        {"_id": "answered", "status": "applied", **one},
        {"_id": "put off", "due_at": NOW + MINUTE, **one},
        {"_id": "of another", "conversation_id": conversation("r1").id},
        update_document(_id="of another request", batch_request_id="other"),
        not_utf8({"_id": "undecodable", "at": NOW - DAY, "text": "broken", **one}),
    )
    batch = await world.store.load(order())
    assert texts(batch.updates) == ["undecodable", "first", "second", "undated", "later"]


async def test_what_was_just_opened_is_not_read_again(world):
    """Only the updates that wait for it; what else is due or named is for another turn."""
    mine, other = conversation("r0"), conversation("r1")
    await world.store.insert_conversations([mine, other])
    await world.put(
        UPDATES,
        {"_id": "early", "conversation_id": mine.id},
        {"_id": "put off", "conversation_id": mine.id, "due_at": NOW + MINUTE},
        {"_id": "of another", "conversation_id": other.id},
    )
    known = (evolve(mine, stage="as it is given"),)
    batch = await world.store.load(order(known=known))
    assert batch.conversations == known
    assert texts(batch.updates) == ["early"]
    assert (batch.full, batch.queued, batch.broken) == (False, {}, ())
    assert (await world.store.load(order(known=()))).conversations == ()


@pytest.mark.parametrize("request_id", IDS)
async def test_updates_by_request_and_recipient(world, request_id):
    """Whatever the type of the request's `_id`."""
    one = conversation("r0", batch_request_id=request_id)
    await world.store.insert_conversations([one])
    await world.put(UPDATES, update_document(batch_request_id=request_id))
    found = await world.store.load(order(campaign=campaign(batch_request_id=request_id)))
    assert texts(found.updates) == ["reply-1"]


async def test_what_is_cut_off_is_the_latest(world):
    """At most 2,000 updates, the earliest of them."""
    await world.store.insert_conversations([conversation("r0")])
    one = {"conversation_id": conversation("r0").id}
    at = NOW - DAY
    documents = [{"_id": n, "at": at + timedelta(seconds=n), **one} for n in range(2_003)]
    await world.put(UPDATES, {"_id": "undated", **one}, *reversed(documents))
    assert texts((await world.store.load(order())).updates) == list(range(2_000))


async def test_loading_asks_the_ledger_where_a_lease_or_hold_is_over(store):
    """For the key in the slot, and only then."""
    states = {
        "sending": slot(state=SlotState.SENDING, until=NOW),
        "unknown": slot(state=SlotState.UNKNOWN, until=NOW),
        "running": slot(state=SlotState.SENDING, until=NOW + MINUTE),
        "reserved": slot(),
        "none": None,
    }
    made = [conversation(name, slot=each) for name, each in states.items()]
    await store.insert_conversations(made)
    keys = {one.recipient.id: f"{one.id}/intro/0" for one in made}
    await store.record([entry(M.SENT, id=key, conversation_id="c") for key in keys.values()])
    ledger = (await store.load(order())).ledger
    assert ledger.keys() == {keys["sending"], keys["unknown"]}


def parked(recipient, due, **changes):
    """Make a conversation whose message is parked, and fell due so long ago."""
    own = slot(due_at=NOW - due, held=WaitingFor.RATE_LIMIT, **changes)
    return conversation(recipient, slot=own, due_at=NOW + HOUR)


QUEUED = {"queued": {"email": 10}}


async def test_loading_what_is_parked_at_a_gate(store):
    """In the order in which it fell due, whatever its own next time; only what is parked there."""
    await store.insert_conversations(
        [
            parked("third", MINUTE),
            parked("first", HOUR),
            parked("second", 2 * MINUTE),
            parked("elsewhere", DAY, channel="sms"),
            conversation("retried", slot=slot(attempts=1), due_at=NOW + HOUR),
            conversation("sent", slot=slot(state=SlotState.SENDING), due_at=NOW + HOUR),
            conversation("idle", due_at=NOW + HOUR),
            evolve(parked("other", DAY), id="x", campaign_id="x"),
        ]
    )
    batch = await store.load(order(**QUEUED))
    assert names(batch.conversations) == ["first", "second", "third"]
    assert (batch.queued, batch.full) == ({"email": 3}, False)
    assert (await store.load(order())).conversations == ()


async def test_what_was_found_is_known_before_it_is_read(world):
    """By its ids; also what turns out to be broken, but for what cannot even be decoded."""
    due = [conversation(f"r{n}", due_at=NOW - n * MINUTE) for n in range(3)]
    await world.store.insert_conversations([*due, parked("r9", HOUR)])
    bad = to_document(conversation("bad", due_at=NOW - HOUR)) | {"_id": "bad", "stage": 7}
    await world.put("conversations", bad)
    one = order(limit=4, named=frozenset({due[0].id}), **QUEUED)
    found = await world.store.find(one)
    assert found.ids == {*(each.id for each in due), parked("r9", HOUR).id, "bad"}
    assert (found.full, found.queued) == (True, {"email": 1})
    batch = await world.store.load(one, found)
    assert {each.id for each in batch.conversations} == found.ids - {"bad"}
    assert [each.id for each in batch.broken] == ["bad"]
    assert (batch.full, batch.queued) == (found.full, found.queued)


async def test_loading_as_much_of_a_queue_as_asked(store):
    """Of each queue what was asked for, and it says how much there was."""
    mine = [parked(f"m{n}", HOUR - n * MINUTE) for n in range(4)]
    sms = [parked(f"s{n}", HOUR - n * MINUTE, channel="sms") for n in range(3)]
    await store.insert_conversations([*reversed(mine), *reversed(sms)])
    batch = await store.load(order(queued={"email": 2, "sms": 10, "post": 5}))
    assert names(batch.conversations) == ["m0", "m1", "s0", "s1", "s2"]
    assert batch.queued == {"email": 2, "sms": 3, "post": 0}


async def test_queues_come_beside_what_is_due(store):
    """Queues first, neither takes the other's room, and what is in both is loaded once."""
    both = evolve(parked("both", HOUR), due_at=NOW)
    due = many(3)
    await store.insert_conversations([*due, parked("p0", DAY), parked("p1", 2 * DAY), both])
    batch = await store.load(order(queued={"email": 3}, limit=3))
    assert names(batch.conversations) == ["p1", "p0", "both", "r0", "r1", "r2"]
    assert (batch.queued, batch.full) == ({"email": 3}, True)
    batch = await store.load(order(queued={"email": 1}, limit=10))
    assert names(batch.conversations) == ["p1", "r0", "r1", "r2", "both"]
    assert batch.full is False


async def test_a_queue_leaves_out_what_is_had_already(store):
    """What this worker has in flight, and what is named: that comes by its name, once."""
    made = [parked(f"p{n}", HOUR - n * MINUTE) for n in range(4)]
    await store.insert_conversations(made)
    given = {"exclude": frozenset({made[0].id}), "named": frozenset({made[2].id})}
    batch = await store.load(order(**QUEUED, **given))
    assert names(batch.conversations) == ["p1", "p3", "p2"]
    assert batch.queued == {"email": 2}


async def test_what_is_parked_brings_its_updates(world):
    """A reply that came while it waited is decided before it leaves."""
    one = parked("r0", HOUR)
    await world.store.insert_conversations([one])
    await world.put(UPDATES, {"_id": "u", "conversation_id": one.id, "kind": "reply"})
    assert texts((await world.store.load(order(**QUEUED))).updates) == ["u"]


async def test_conversations_that_failed_before_a_time(store):
    """Not later, not past their deadline, not of another status or campaign; within the limit."""
    failed = {"status": S.FAILED, "due_at": None, "status_since": NOW - HOUR}
    await store.insert_conversations(
        [
            conversation("r0", **failed),
            conversation("r1", **failed | {"status_since": NOW - 2 * HOUR}),
            conversation("late", **failed | {"status_since": NOW}),
            conversation("over", **failed | {"deadline_at": NOW}),
            conversation("done", **failed | {"status": S.COMPLETED}),
            conversation("other", id="x", campaign_id="x", **failed),
        ]
    )
    found = await store.failed_before(CAMPAIGN, NOW, now=NOW, limit=10)
    assert sorted(names(found)) == ["r0", "r1"]
    assert len(await store.failed_before(CAMPAIGN, NOW, now=NOW, limit=1)) == 1


async def test_conversations_by_id(world):
    """Those that are there and can be read, each once."""
    await world.store.insert_conversations(many(2))
    await world.put("conversations", {"_id": "broken"})
    ids = [one.id for one in many(2)]
    found = await world.store.conversations([*ids, *ids, "gone", "broken"])
    assert sorted(names(found)) == ["r0", "r1"]
    assert await world.store.conversations([]) == ()


# -- apply -------------------------------------------------------------------------------------------
def changed(conversations, **changes):
    """Change conversations alike."""
    return [Change(before=one, after=evolve(one, **changes)) for one in conversations]


async def test_changes_are_written_under_the_version_they_were_read_at(store):
    """Each gets the next version; what was won is what then stands there."""
    await store.insert_conversations(many(3))
    alike = changed(many(3)[:2], stage="demo", slot=slot(), reply=reply())
    alone = changed(many(3)[2:], status=S.AWAITING_REPLY)
    applied = await store.apply([*alike, *alone], token="t")
    assert applied.refused == {}
    assert applied.won == {each.before.id: evolve(each.after, version=1) for each in alike + alone}
    found = await store.conversations(applied.won)
    assert {one.id: one for one in found} == applied.won
    assert (await store.apply([], token="t")).won == {}


async def test_a_part_of_a_group_is_lost(store):
    """Who was faster stays; the rest of the group is won."""
    before = many(4)
    await store.insert_conversations(before)
    await store.apply(changed(before[1:2], stage="faster"), token="other")
    applied = await store.apply([*changed(before, stage="demo")], token="t")
    assert names(applied.won.values()) == ["r0", "r2", "r3"] or len(applied.won) == 3
    assert before[1].id not in applied.won
    stages = {
        one.recipient.id: one.stage for one in await store.conversations([b.id for b in before])
    }
    assert stages == {"r0": "demo", "r1": "faster", "r2": "demo", "r3": "demo"}


async def test_what_is_lost_changes_nothing(store):
    """A conversation that is gone, or was written since, is neither won nor refused."""
    (one,) = many(1)
    await store.insert_conversations([one])
    await store.apply(changed([one], stage="a"), token="first")
    applied = await store.apply(
        [*changed([one], stage="b"), *changed([conversation("gone")])], token="t"
    )
    assert (applied.won, applied.refused) == ({}, {})
    (found,) = await store.conversations([one.id])
    assert (found.stage, found.version) == ("a", 1)


async def test_a_token_that_was_used_before_wins_nothing_more(store):
    """What was written under it over an older version is not taken for this write."""
    (one,) = many(1)
    await store.insert_conversations([one])
    won = (await store.apply(changed([one], stage="a"), token="t")).won[one.id]
    stale = evolve(won, version=won.version + 1)
    assert (await store.apply(changed([stale], stage="b"), token="t")).won == {}


async def test_the_same_conversation_twice_is_written_once(store):
    """The first change wins: the second has lost its guard to it."""
    (one,) = many(1)
    await store.insert_conversations([one])
    applied = await store.apply(changed([one], stage="a") + changed([one], stage="b"), token="t")
    assert applied.won[one.id].stage == "a"
    (found,) = await store.conversations([one.id])
    assert (found.stage, found.version) == ("a", 1)


def grown(history, count, reason="r"):
    """Append entries, as handlers do."""
    new = tuple(
        HistoryEntry(at=NOW, reason=f"{reason}{n}", stage="s", by="due") for n in range(count)
    )
    return (*history, *new)[-50:]


@pytest.mark.parametrize(
    ("old", "new"), [(0, 1), (3, 2), (49, 1), (49, 3), (50, 1), (50, 50), (0, 50)]
)
async def test_the_history_grows_within_its_bound(store, old, new):
    """What stands there is what was decided, however the database was told."""
    one = conversation("r0", history=grown((), old, "old"))
    await store.insert_conversations([one])
    await store.apply(changed([one], history=grown(one.history, new)), token="t")
    (found,) = await store.conversations([one.id])
    assert found.history == grown(one.history, new)


async def test_a_history_that_was_not_appended_to_is_replaced(store):
    """A shorter one, or another one, is written as a whole."""
    one = conversation("r0", history=grown((), 5))
    await store.insert_conversations([one])
    for history in (grown((), 3, "x"), one.history[:2], ()):
        (before,) = await store.conversations([one.id])
        await store.apply(changed([before], history=history), token="t")
        assert (await store.conversations([one.id]))[0].history == history


@pytest.mark.parametrize(
    "wrong",
    [
        {"last_error": "x" * 17_000_000},
        {"message_count": 2**70},
        {"last_error": "\ud800"},
        {"position": object()},
    ],
    ids=["too large", "too great a number", "no unicode", "no BSON"],
)
async def test_a_change_that_is_refused_stands_alone(store, wrong):
    """Its neighbours are written, in its group or not; it stays as it was."""
    before = many(7)
    await store.insert_conversations(before)
    changes = changed(before, stage="demo")
    changes[3] = Change(before=before[3], after=evolve(before[3], stage="demo", **wrong))
    applied = await store.apply(changes, token="t")
    assert applied.refused.keys() == {before[3].id}
    assert "x" * 10 not in applied.refused[before[3].id]
    assert applied.won.keys() == {one.id for one in before} - {before[3].id}
    (found,) = await store.conversations([before[3].id])
    assert found == before[3]


async def test_one_of_a_group_that_has_grown_too_large_stands_alone(world):
    """A patch that fits all others, and not the one that is nearly full."""
    before = many(5)
    await world.store.insert_conversations(before[:2] + before[3:])
    full = to_document(before[2]) | {"of_a_newer_worker": "x" * 16_700_000}
    await world.put("conversations", full)
    applied = await world.store.apply(changed(before, last_error="y" * 100_000), token="t")
    assert applied.refused.keys() == {before[2].id}
    assert len(applied.won) == 4


# -- ledger ------------------------------------------------------------------------------------------
RANKS = [M.CANCELLED, M.FAILED, M.UNKNOWN, M.SENT, M.DELIVERED]


@pytest.mark.parametrize("second", RANKS)
@pytest.mark.parametrize("first", RANKS)
async def test_entries_merge_by_rank(store, first, second):
    """The higher one says how it ended; the lower one adds only what was not known."""
    one = entry(first, attempts=1, error="first", provider_id="p1")
    two = entry(second, attempts=2, reason="second", to="a@example.com")
    await store.record([one])
    await store.record([two])
    (found,) = (await store.ledger([one.id])).values()
    wins = RANKS.index(second) >= RANKS.index(first)
    assert found.status == max(first, second, key=RANKS.index)
    assert found.reason == ("second" if wins else None)
    assert (found.error, found.provider_id, found.to) == ("first", "p1", "a@example.com")
    assert found.attempts == (2 if wins else 1)


@pytest.mark.parametrize("status", [M.FAILED, M.UNKNOWN, M.SENT])
async def test_an_earlier_attempt_changes_nothing_of_a_later_one(store, status):
    """A worker that was taken over, and wakes up late, adds only what was not known."""
    later = entry(status, attempts=2, sent_at=NOW, recorded_at=NOW, reason="later")
    woken = evolve(later, attempts=1, sent_at=NOW + DAY, recorded_at=NOW + DAY, reason="woken")
    await store.record([later])
    await store.record([evolve(woken, provider_id="p1")])
    (found,) = (await store.ledger([later.id])).values()
    assert found == evolve(later, provider_id="p1")
    await store.record([evolve(woken, attempts=3)])
    (found,) = (await store.ledger([later.id])).values()
    assert found == evolve(woken, attempts=3, provider_id="p1")


async def test_writing_an_entry_twice_changes_nothing(world):
    """Also within one call, and beside one that is new."""
    one, other = entry(M.SENT, 0, body="b"), entry(M.SENT, 1)
    await world.store.record([one, one])
    await world.store.record([one, other])
    assert await world.all("messages") == [to_document(one), to_document(other)]
    await world.store.record([])


async def test_a_stub_is_filled_in(store):
    """A report that comes before the entry keeps its status, and loses nothing of the entry."""
    sent = entry(M.SENT, channel="email", body="Hello", sent_at=NOW, provider_id="p", attempts=1)
    about = {sent.id: conversation("r0")}
    await store.report([Report(key=sent.id, status=M.DELIVERED, at=NOW)], about)
    (stub,) = (await store.ledger([sent.id])).values()
    assert stub == entry(M.DELIVERED)
    await store.record([sent])
    (found,) = (await store.ledger([sent.id])).values()
    assert found == evolve(sent, status=M.DELIVERED)


async def test_reports_merge_by_rank(store):
    """One that comes late never undoes; of equal ones the later says how it ended."""
    sent = entry(M.SENT, body="Hello")
    about = {sent.id: conversation("r0")}
    await store.record([sent])
    for status in (M.DELIVERED, M.SENT, M.BOUNCED):
        await store.report([Report(key=sent.id, status=status, at=NOW)], about)
    (found,) = (await store.ledger([sent.id])).values()
    assert found == evolve(sent, status=M.BOUNCED)
    await store.report([], {})


async def test_texts_that_look_like_expressions_are_kept(store):
    """A value of a document is never evaluated, new or merged."""
    one = entry(M.FAILED, subject="$status", body="$$NOW", error="$$ROOT")
    for _ in range(2):
        await store.record([one])
    assert (await store.ledger([one.id])) == {one.id: one}
    assert await store.ledger([]) == {}


# -- the last look -----------------------------------------------------------------------------------
def look_order(*conversations, **changes):
    """Make an order for the last look."""
    default = {
        "campaign_id": CAMPAIGN,
        "batch_request_id": REQUEST,
        "conversations": conversations,
        "address_keys": frozenset(one.address_keys[0] for one in conversations),
        "since": NOW - DAY,
    }
    return LookOrder(**default | changes)


async def test_the_last_look_sees_what_nobody_has_answered(world):
    """Of the batch and of the campaign, by either address, put off or not, and nothing else."""
    one = conversation("r0")
    await world.store.insert_campaign(campaign())
    await world.store.insert_conversations([one])
    await world.put(
        UPDATES,
        update_document("reply", _id="u1", text="secret"),
        {"_id": "u2", "conversation_id": one.id, "kind": "bounced", "bounce": "soft"},
        {"_id": "u3", "conversation_id": one.id, "kind": "cancel", "due_at": NOW + DAY * 900},
        {"_id": "u4", "conversation_id": one.id, "kind": ["reply"]},
        not_utf8({"_id": "u5", "conversation_id": one.id, "kind": "opted_out", "text": "broken"}),
        {"_id": "u6", "conversation_id": one.id, "kind": "reply", "status": "applied"},
        {"_id": "u7", "conversation_id": "other", "kind": "reply"},
    )
    await world.put(
        ORDERS,
        {"_id": "o1", "campaign_id": CAMPAIGN, "kind": "pause"},
        {"_id": "o2", "batch_request_id": REQUEST, "kind": "cancel", "due_at": NOW + DAY * 900},
        {"_id": "o3", "campaign_id": CAMPAIGN, "kind": "pause", "status": "applied"},
        {"_id": "o4", "campaign_id": "other", "kind": "pause"},
    )
    look = await world.store.look(look_order(one))
    seen = {each.id: (each.kind, each.bounce, each.conversation_id) for each in look.updates}
    assert seen == {
        "u1": ("reply", None, one.id),
        "u2": ("bounced", "soft", one.id),
        "u3": ("cancel", None, one.id),
        "u4": (None, None, one.id),
        "u5": ("opted_out", None, one.id),
    }
    orders = {each.id: (each.kind, each.conversation_id) for each in look.campaign_updates}
    assert orders == {"o1": ("pause", None), "o2": ("cancel", None)}


async def test_the_last_look_reads_again_what_may_have_changed(store):
    """Suppressions, the campaign and the conversations, as they are now; and the time."""
    before = many(2)
    await store.insert_campaign(campaign())
    await store.insert_conversations(before)
    await store.suppress(
        [Suppression(id=key, reason="r", at=NOW) for key in ("email:x", *before[1].address_keys)]
    )
    present = await store.write_campaign(campaign(), campaign(status=CampaignStatus.PAUSED))
    won = (await store.apply(changed(before[:1], stage="demo"), token="t")).won
    gone = conversation("gone")
    for _ in range(2):  # the second time the template is known
        look = await store.look(look_order(*before, gone))
        assert look.campaign == present
        assert look.suppressed == {before[1].address_keys[0]}
        assert look.conversations == {before[1].id: before[1], **won}
        assert (look.updates, look.campaign_updates, look.ledger) == ((), (), {})
        assert look.now.microsecond % 1000 == 0


async def test_the_last_look_asks_the_ledger_about_uncertain_attempts(store):
    """For the keys of slots with one, and for no others."""
    made = [conversation(f"r{n}", slot=slot(uncertain=bool(n))) for n in range(2)]
    await store.insert_conversations(made)
    keys = [one.slot.key(one.id) for one in made]
    await store.record([entry(M.SENT, id=key) for key in keys])
    look = await store.look(look_order(*made))
    assert look.ledger.keys() == {keys[1]}
    assert look.campaign is None


async def test_the_last_look_sees_the_channels(store):
    """As they are now; what a gate is asked with."""
    assert (await store.look(look_order(conversation("r0")))).channels == {}
    state = await written(store, ChannelState(id="email"), succeeded_at=NOW)
    assert (await store.look(look_order(conversation("r0")))).channels == {"email": state}


async def test_the_last_look_counts_what_the_addresses_got(store):
    """What was sent or may have been, since a time, in whatever campaign; and to nobody else."""
    one = conversation("r0")
    mine, yours = one.address_keys[0], "email:other@example.com"
    entries = [
        *((status, mine, NOW) for status in M),
        (M.SENT, mine, NOW - DAY),
        (M.SENT, mine, NOW - DAY - timedelta(milliseconds=1)),
        (M.SENT, mine, None),
        (M.SENT, yours, NOW),
        (M.SENT, None, NOW),
    ]
    await store.record(
        [
            entry(status, n, address=address, recorded_at=at, campaign_id=f"k{n % 3}")
            for n, (status, address, at) in enumerate(entries)
        ]
    )
    got = (await store.look(look_order(one))).got
    assert dict(got) == {mine: 5}  # unknown, sent, delivered, bounced; and one a day ago
    both = look_order(one, address_keys=frozenset({mine, yours, "email:nobody@example.com"}))
    assert dict((await store.look(both)).got) == {mine: 5, yours: 1}


async def test_a_message_is_counted_by_when_it_was_last_entered(store):
    """An outcome that outranks the one before is of its own time; a report without an entry has none."""
    one = conversation("r0")
    of = {"address": one.address_keys[0]}
    long_ago = NOW - 2 * DAY
    await store.record([entry(M.UNKNOWN, 0, recorded_at=long_ago, **of)])
    assert dict((await store.look(look_order(one))).got) == {}
    await store.record([entry(M.SENT, 0, recorded_at=NOW, **of)])
    await store.record([entry(M.UNKNOWN, 0, recorded_at=long_ago, **of)])
    await store.report(
        [Report(key=entry(M.SENT, 1).id, status=M.DELIVERED, at=NOW)], {entry(M.SENT, 1).id: one}
    )
    assert dict((await store.look(look_order(one))).got) == of_one(one)


def of_one(one):
    """Say that the address of a conversation got one message."""
    return {one.address_keys[0]: 1}


async def test_the_last_look_sees_what_others_have_on_its_way(store):
    """Of other campaigns, marked `sending` or in doubt, to a recipient with one of the addresses."""
    mine = conversation("r0", slot=slot(state=SlotState.SENDING))
    theirs = slot(state=SlotState.SENDING, channel="post")
    others = [
        evolve(mine, slot=theirs),
        evolve(mine, slot=theirs, status=S.CANCELLED),
        evolve(mine, slot=slot()),
        evolve(mine, slot=slot(uncertain=True, channel="post")),
        # What is held has an entry, and is counted by that.
        evolve(mine, slot=slot(state=SlotState.UNKNOWN, uncertain=True)),
        evolve(mine, slot=None),
        conversation("r1", slot=theirs),
    ]
    made = [evolve(one, id=f"c{n}", campaign_id=f"k{n}") for n, one in enumerate(others)]
    assert not await store.insert_conversations([mine, *made])
    look = await store.look(look_order(mine))
    found = OnItsWay(channel="post", address=mine.recipient.address)
    assert look.others == (found, found, found)


# -- channels ----------------------------------------------------------------------------------------
OPEN = Circuit(
    state=CircuitState.OPEN, since=NOW, until=NOW + MINUTE, reason="401 for everyone", openings=2
)
#: A token comes every hundred seconds: how long a test takes does not matter.
SLOW = ChannelSpec(name="email", address_kind="email", rate=0.01, burst=5)


async def written(store, before, **changes):
    """Write a channel, and give it as it then stands."""
    assert await store.write_channel(before, evolve(before, **changes))
    _, channels = await store.channels()
    return channels[before.id]


async def test_of_channels_nothing_is_known_at_first(store):
    """The server's time, and nothing else."""
    now, channels = await store.channels()
    assert channels == {}
    assert now.microsecond % 1000 == 0


async def test_a_campaign_is_seen_with_the_time_and_all_channels(store):
    """What a turn begins with, in one look; also where the campaign is gone."""
    await store.insert_campaign(campaign())
    await written(store, ChannelState(id="email"), succeeded_at=NOW)
    await written(store, ChannelState(id="sms"), circuit=OPEN)
    sight = await store.sight(CAMPAIGN)
    _, channels = await store.channels()
    assert (sight.campaign, sight.channels) == (campaign(), channels)
    assert sight.channels.keys() == {"email", "sms"}
    assert sight.now.microsecond % 1000 == 0
    for _ in range(2):  # the second time the template is known
        assert (await store.sight(CAMPAIGN)).campaign == campaign()
    assert (await store.sight("gone")).campaign is None


async def test_the_sight_brings_what_is_named(world):
    """Of this campaign only, due or not; one that cannot be read is named as such."""
    await world.store.insert_campaign(campaign())
    mine, other = conversation("r0", due_at=NOW + DAY), conversation("r1", campaign_id="other")
    await world.store.insert_conversations([mine, other, conversation("r2")])
    await world.put("conversations", to_document(conversation("bad")) | {"stage": 7})
    ids = [conversation(each).id for each in ("r0", "r1", "bad", "gone")]
    sight = await world.store.sight(CAMPAIGN, ids)
    assert sight.campaign == campaign()
    assert sight.conversations == (mine,)
    assert [each.id for each in sight.broken] == [conversation("bad").id]
    nothing = await world.store.sight(CAMPAIGN)
    assert (nothing.conversations, nothing.broken) == ((), ())


async def test_the_sight_brings_the_updates_of_whom_it_names(world):
    """In either form of address, answered or put off ones not; None where they may be more."""
    await world.store.insert_campaign(campaign())
    one, other = conversation("r0"), conversation("r1")
    await world.store.insert_conversations([one, other])
    by_recipient = {"batch_request_id": one.batch_request_id, "recipient_id": "r0"}
    about = {"by id": {"conversation_id": one.id}, "by recipient": by_recipient}
    about["of another"] = {"conversation_id": other.id}
    about["answered"] = {**by_recipient, "status": "applied"}
    about["put off"] = {**by_recipient, "due_at": NOW + 3_650 * DAY}
    about["whenever"] = {**by_recipient, "due_at": "soon"}
    await world.put(UPDATES, *({"_id": name, **fields} for name, fields in about.items()))
    recipients = recipients_of(one.batch_request_id, [one])
    sight = await world.store.sight(CAMPAIGN, [one.id], recipients)
    assert sight.conversations == (one,)
    assert sorted(texts(sight.updates)) == ["by id", "by recipient", "whenever"]
    assert (await world.store.sight(CAMPAIGN, [one.id])).updates is None
    await world.put(UPDATES, *({"_id": n, **by_recipient} for n in range(FEW - 5)))
    assert len((await world.store.sight(CAMPAIGN, [one.id], recipients)).updates) == FEW - 2
    await world.put(UPDATES, {"_id": "one more", **by_recipient})
    assert (await world.store.sight(CAMPAIGN, [one.id], recipients)).updates is None


async def test_a_broken_campaign_is_seen_as_such(world):
    """Its problem, not an exception."""
    await world.put("campaigns", {"_id": CAMPAIGN, "status": "dancing"})
    assert isinstance((await world.store.sight(CAMPAIGN)).campaign, BrokenDocument)


async def test_a_channel_is_written_under_its_version(store):
    """Circuit, success and silence; who has read an older one writes nothing."""
    before = ChannelState(id="email")
    known = {"circuit": OPEN, "succeeded_at": NOW, "not_before": NOW + HOUR}
    first = await written(store, before, **known)
    assert first == evolve(before, **known, version=1)
    assert not await store.write_channel(before, evolve(before, succeeded_at=NOW - DAY))
    second = await written(store, first, circuit=Circuit(since=NOW), not_before=None)
    assert second == evolve(first, circuit=Circuit(since=NOW), not_before=None, version=2)
    assert not await store.write_channel(first, evolve(first, succeeded_at=None))
    assert (await store.channels())[1] == {"email": second}


async def test_of_many_first_writers_one_wins(store):
    """Each has seen that nothing is known; one of them has written it."""
    before, won = ChannelState(id="email"), []

    async def write(n):
        after = evolve(before, succeeded_at=NOW + n * MINUTE)
        if await store.write_channel(before, after):
            won.append(after)

    async with anyio.create_task_group() as tasks:
        for n in range(10):
            tasks.start_soon(write, n)
    assert len(won) == 1
    assert (await store.channels())[1] == {"email": evolve(won[0], version=1)}


async def test_channels_are_written_apart(store):
    """One channel's circuit is not another's."""
    email = await written(store, ChannelState(id="email"), circuit=OPEN)
    sms = await written(store, ChannelState(id="sms"), succeeded_at=NOW)
    assert (await store.channels())[1] == {"email": email, "sms": sms}


async def test_a_bucket_is_left_as_it_is(store):
    """One that was there first stands in nobody's way, and nobody's write fills it."""
    taken = await store.take_tokens(SLOW, 5)
    _, channels = await store.channels()
    known = channels["email"]
    assert (known, known.version) == (taken.state, 0)
    first = await written(store, ChannelState(id="email"), circuit=OPEN)
    assert (first.tokens_from, first.circuit, first.version) == (known.tokens_from, OPEN, 1)
    second = await written(store, first, tokens_from=None, succeeded_at=NOW)
    assert (second.tokens_from, second.succeeded_at) == (known.tokens_from, NOW)
    assert (await store.take_tokens(SLOW, 1)).granted == 0


async def test_taking_tokens_leaves_the_circuit_alone(store):
    """A bucket that comes later changes nothing of what is known, nor its version."""
    first = await written(store, ChannelState(id="email"), circuit=OPEN, succeeded_at=NOW)
    taken = await store.take_tokens(SLOW, 1)
    assert taken.state == evolve(first, tokens_from=taken.state.tokens_from)
    second = await written(store, first, circuit=Circuit(since=NOW))
    assert second.tokens_from == taken.state.tokens_from


async def test_a_bucket_gives_what_it_has(store):
    """As many as are wanted, and no more than the burst; then nothing."""
    granted = [(await store.take_tokens(SLOW, wanted)).granted for wanted in (2, 9, 1, 5)]
    assert granted == [2, 3, 0, 0]
    other = evolve(SLOW, name="sms")
    assert (await store.take_tokens(other, 9)).granted == 5


async def test_tokens_say_how_long_they_last_and_when_the_bucket_is_full(store):
    """They expire with the second in which they were taken, by the server's clock."""
    taken = await store.take_tokens(SLOW, 3)
    assert taken.state.tokens_from == taken.now + timedelta(seconds=300)
    assert taken.lasts_seconds == pytest.approx(1 - taken.now.microsecond / 1e6)
    assert 0 < taken.lasts_seconds <= 1


async def test_a_bucket_fills_by_the_clock_up_to_the_burst(world):
    """A token for each hundred seconds; after however long, no more than the burst."""
    take = world.store.take_tokens
    granted = [(await take(SLOW, 9)).granted]
    for seconds in (99, 2, 200, 10_000, 10_000):
        await world.pass_time("email", seconds)
        granted.append((await take(SLOW, 9)).granted)
    assert granted == [5, 0, 1, 2, 5, 5]


async def test_many_takers_at_once_get_no_more_than_there_is(store):
    """However they overlap."""
    granted = []

    async def take(wanted):
        granted.append((await store.take_tokens(SLOW, wanted)).granted)

    async with anyio.create_task_group() as tasks:
        for n in range(30):
            tasks.start_soon(take, 1 + n % 3)
    assert sum(granted) == 5
    assert min(granted) == 0


async def test_what_was_not_used_is_put_back(store):
    """As many as are put back can be taken again; a bucket never holds more than the burst."""
    await store.take_tokens(SLOW, 5)
    await store.return_tokens(SLOW, 2)
    assert (await store.take_tokens(SLOW, 9)).granted == 2
    await store.return_tokens(SLOW, 100)
    assert (await store.take_tokens(SLOW, 100)).granted == 5


async def test_nothing_is_put_back_where_nothing_was_taken(store):
    """It makes no channel."""
    await store.return_tokens(SLOW, 2)
    assert (await store.channels())[1] == {}


async def test_a_burst_that_was_made_smaller_gives_nothing_until_it_fits(world):
    """What was taken under the larger one is waited for, and never owed below nothing."""
    await world.store.take_tokens(evolve(SLOW, burst=20), 20)
    taken = await world.store.take_tokens(SLOW, 3)
    assert taken.granted == 0
    assert taken.state.tokens_from > taken.now + timedelta(seconds=1_900)
    await world.pass_time("email", 1_601)
    assert (await world.store.take_tokens(SLOW, 9)).granted == 1


async def test_without_a_rate_there_is_no_bucket(store):
    """Whoever asks for tokens of such a channel is mistaken."""
    with pytest.raises(ValueError, match=r"^channel 'email' has no rate$"):
        await store.take_tokens(evolve(SLOW, rate=None), 1)


# -- alerts ------------------------------------------------------------------------------------------
OUTAGE = Alert(
    id="circuit_opened/email/1",
    kind=AlertKind.CIRCUIT_OPENED,
    channel="email",
    reason="401",
    at=NOW,
)
OVER = evolve(OUTAGE, resolved_at=NOW + HOUR)


async def alerts(world):
    """Read the alerts: when each began, and was over."""
    found = await world.all("alerts")
    assert all(one["kind"] == "circuit_opened" and one["channel"] == "email" for one in found)
    return {one["_id"]: (one["at"], one["resolved_at"]) for one in found}


async def test_an_alert_is_raised_once(world):
    """Whoever comes later has nothing to tell, and changes nothing."""
    assert await world.store.raise_alert(OUTAGE)
    assert not await world.store.raise_alert(OUTAGE)
    assert not await world.store.raise_alert(evolve(OUTAGE, at=NOW + DAY, reason="another"))
    (found,) = await world.all("alerts")
    assert (found["_id"], found["reason"], found["at"]) == (OUTAGE.id, "401", NOW)
    assert found["resolved_at"] is None


async def test_an_alert_is_resolved(world):
    """It keeps what it said when it was raised."""
    await world.store.raise_alert(OUTAGE)
    assert await world.store.raise_alert(evolve(OVER, reason="another", at=NOW + DAY))
    assert await alerts(world) == {OUTAGE.id: (NOW, NOW + HOUR)}
    assert not await world.store.raise_alert(OUTAGE)
    assert await alerts(world) == {OUTAGE.id: (NOW, NOW + HOUR)}


async def test_an_alert_is_entered_by_its_end_where_its_beginning_was_lost(world):
    """Whoever was to raise it has died: that there was an outage is known all the same."""
    assert await world.store.raise_alert(OVER)
    assert await alerts(world) == {OUTAGE.id: (NOW, NOW + HOUR)}


async def test_outages_are_alerts_of_their_own(world):
    """The end of one is not the end of another."""
    other = evolve(OUTAGE, id="circuit_opened/email/2", at=NOW + DAY)
    assert await world.store.raise_alert(OUTAGE)
    assert await world.store.raise_alert(other)
    assert await world.store.raise_alert(OVER)
    assert await alerts(world) == {OUTAGE.id: (NOW, NOW + HOUR), other.id: (NOW + DAY, None)}


@pytest.mark.parametrize("identity", IDS)
async def test_the_last_look_gives_ids_as_the_campaign_keeps_them(world, identity):
    """What was applied and is not yet answered is told apart, whatever the type of its `_id`."""
    one = conversation("r0", applied=(identity,), batch_request_id=identity)
    await world.store.insert_conversations([one])
    await world.put(UPDATES, update_document(_id=identity, batch_request_id=identity))
    look = await world.store.look(look_order(one, batch_request_id=identity))
    assert look.updates[0].id in look.conversations[one.id].applied
    assert look.updates[0].conversation_id == one.id


async def test_a_template_that_is_known_is_not_mixed_up(store):
    """Each campaign keeps its own, however often and in whatever order they are read."""
    made = [campaign(id=f"k{n}", template=template(name=f"t{n}")) for n in range(3)]
    for one in made:
        await store.insert_campaign(one)
    for one in [*made, *reversed(made)]:
        assert (await store.campaign(one.id))[1] == one


async def test_ids_of_every_type_are_kept(store):
    """In `applied`, in the history, in the position, and in the ledger."""
    history = tuple(HistoryEntry(at=NOW, reason="r", stage="s", by=each) for each in IDS)
    one = conversation("r0", applied=tuple(IDS), history=history, position=IDS[1])
    await store.insert_conversations([one])
    assert await store.conversations([one.id]) == (one,)
    await store.record([entry(M.SENT, n, by=each) for n, each in enumerate(IDS)])
    found = await store.ledger([entry(M.SENT, n).id for n in range(len(IDS))])
    assert {each.by for each in found.values()} == set(IDS)


async def test_times_are_of_the_server():
    """The memory's clock is the one that it was given."""
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    assert await MemoryStore(lambda: moment).now() == moment


async def test_an_alert_is_resolved_once(world):
    """The first word that it is over counts."""
    await world.store.raise_alert(OUTAGE)
    assert await world.store.raise_alert(OVER)
    assert not await world.store.raise_alert(evolve(OVER, resolved_at=NOW + DAY))
    assert await alerts(world) == {OUTAGE.id: (NOW, NOW + HOUR)}


async def test_suppressions_are_looked_at_once(world):
    """Those of the agent until they were; those of the worker never, for they are right."""
    await world.put("suppressions", {"_id": "email:a@example.com"})
    await world.put("suppressions", {"_id": 7, "reason": "mine"})
    await world.store.suppress([Suppression(id="email:b@example.com", reason="r", at=NOW)])
    found = await world.store.unchecked_suppressions(limit=5)
    found = sorted(found, key=lambda raw: str(decode(raw.data)["_id"]), reverse=True)
    assert [decode(raw.data) for raw in found] == [{"_id": "email:a@example.com"}, {"_id": 7}]
    assert len(await world.store.unchecked_suppressions(limit=1)) == 1
    await world.store.check_suppressions([(found[0], None), (found[1], "no")])
    assert await world.store.unchecked_suppressions(limit=5) == ()
    seen = {one["_id"]: one.get("problem") for one in await world.all("suppressions")}
    assert seen == {"email:a@example.com": None, 7: "no", "email:b@example.com": None}
