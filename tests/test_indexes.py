"""Every query of the store is a scan of an index, and the indexes come to be and are kept."""

from datetime import timedelta
from itertools import product

import bson
import pytest
from attrs import evolve
from pymongo import AsyncMongoClient

from reactor.clock import TimeScale
from reactor.indexes import INDEXES, ensure_indexes, index_plan, missing_indexes
from reactor.store.mongo import MongoStore
from reactor.store.protocol import (
    Change,
    Inbox,
    LookOrder,
    Member,
    Order,
    RawDocument,
    RejectedRecipient,
    Scope,
)
from schemas.channel import ChannelState
from schemas.conversation import ConversationStatus, SlotState, WaitingFor
from schemas.hand_off import ChannelSpec
from schemas.message import LedgerEntry, MessageStatus, Suppression
from tests.builders import DAY, NOW, REQUEST, campaign, conversation, slot
from tests.explain import Explainable, collection_scans, explained, stages_of

MINUTE = timedelta(minutes=1)


@pytest.fixture
def kept():
    """Keep a client's commands."""
    return Explainable()


@pytest.fixture
async def database(mongodb_uri, database_name, kept):
    """Give a database without indexes, on a client whose commands are kept."""
    async with AsyncMongoClient(mongodb_uri, tz_aware=True, event_listeners=[kept]) as client:
        yield client[database_name]


@pytest.fixture
async def store(database):
    """Give a store with indexes and, beside what is asked for, much that is not."""
    await ensure_indexes(database)
    made = MongoStore(database, TimeScale())
    await fill(database, made)
    return made


async def fill(database, store):
    """Insert other campaigns' documents, and answered ones, so that a scan would cost."""
    await store.insert_campaign(campaign())
    for n in range(30):
        done = {"completed_at": NOW, "batch_request_id": f"q{n}"}
        await store.insert_campaign(campaign(id=f"k{n}", **done))
    sending = slot(state=SlotState.SENDING, until=NOW)
    states = [
        {"due_at": NOW - MINUTE},
        {"due_at": NOW + DAY},
        {"due_at": NOW, "slot": sending},
        {"due_at": NOW + DAY, "slot": slot(until=NOW + DAY, held=WaitingFor.CIRCUIT)},
        {"due_at": None, "status": ConversationStatus.FAILED, "status_since": NOW - DAY},
        {"due_at": None, "status": ConversationStatus.COMPLETED},
    ]
    mine = [conversation(f"r{n}", **states[n % len(states)]) for n in range(60)]
    others = [
        evolve(one, id=f"{k}/{one.id}", campaign_id=f"k{k}") for k in range(5) for one in mine
    ]
    others[-1] = evolve(others[-1], schema_version=2)
    await store.insert_conversations([*mine, *others])
    answered = [
        {"_id": n, "status": "applied", "conversation_id": mine[n % 60].id} for n in range(500)
    ]
    for inbox in Inbox:
        waiting = [{"_id": f"w{n}", "conversation_id": f"c{n}"} for n in range(50)]
        await database[inbox].insert_many([*answered, *waiting])
    recipients = [{"_id": n, "batch_request_id": f"q{n % 20}"} for n in range(400)]
    await database.batch_recipients.insert_many(
        [*recipients, *({"_id": f"x{n}", "batch_request_id": REQUEST} for n in range(9))]
    )
    await store.suppress([Suppression(id=f"email:{n}", reason="r", at=NOW) for n in range(50)])


def entries(count, conversations=7):
    """Make ledger entries of some conversations."""
    return [
        LedgerEntry(
            id=f"c{n % conversations}/s/{n}",
            status=MessageStatus.SENT,
            campaign_id=campaign().id,
            batch_request_id=REQUEST,
            conversation_id=f"c{n % conversations}",
            recipient_id="r",
        )
        for n in range(count)
    ]


async def use_everything(store):
    """Call every method that reads, in every one of its ways."""
    now, one = NOW, campaign()
    for inbox in Inbox:
        await store.unanswered(inbox, now=now, limit=100)
        await store.waiting(inbox, [RawDocument(bson.encode({"_id": "w1"}))])
        await store.read(inbox, [RawDocument(bson.encode({"_id": n})) for n in ("w1", "w2")])
        await store.answer(
            inbox, [(RawDocument(bson.encode({"_id": n})), {"a": 1}) for n in (1, 2)]
        )
    await store.campaign_updates(one, now=now)
    known = conversation("r0").id
    await store.campaigns_of([known, "x"])
    await store.template("t", None)
    await store.template("t", 2)
    await store.count_batch_recipients(REQUEST)
    for after in (None, "x3", 7):
        await store.recipients(REQUEST, "batch_recipients", after=after, limit=3)
    await store.recipients(REQUEST, "recipients", after=None, limit=3)
    await store.suppressed(["email:1", "email:2"])
    await store.insert_conversations([conversation("r0"), conversation("new")])
    entry = RejectedRecipient(
        batch_request_id=REQUEST, index=1, position=1, recipient_id="r", problem="p"
    )
    await store.reject_recipients([entry])
    await store.rejected_recipients(REQUEST, limit=100)
    await store.campaign("other")
    await store.unfinished()
    await store.count(one.id)
    await store.failed_before(one.id, now, now=now, limit=10)
    await store.beat("w", Member(), gone_seconds=4)
    await store.leave("w")
    for scope, buckets in product(Scope, (None, frozenset(range(0, 256, 2)))):
        await store.next_due(one.id, scope, buckets)
        for exclude in (frozenset(), frozenset({known})):
            await store.load(
                Order(
                    campaign=one,
                    scope=scope,
                    now=now,
                    named=frozenset({conversation("r7").id}),
                    exclude=exclude,
                    queued={"email": 5} if scope is Scope.DUE else {},
                    buckets=buckets,
                    besides=frozenset(range(1, 256, 2)) if buckets else frozenset(),
                    besides_since=now,
                    limit=20,
                )
            )
    await store.shift_waits(campaign(paused_total=1_000))
    spec = ChannelSpec(name="email", address_kind="email", rate=1.0)
    for n in range(20):
        await store.write_channel(ChannelState(id=f"c{n}"), ChannelState(id=f"c{n}"))
    await store.take_tokens(spec, 1)
    await store.return_tokens(spec, 1)
    await store.channels()
    await store.sight(one.id)
    await use_writes(store)


async def use_writes(store):
    """Write, lose, look, record and merge."""
    made = await store.conversations([conversation(f"r{n}").id for n in range(5, 15)])
    changes = [Change(before=one, after=evolve(one, stage="demo")) for one in made]
    for _ in range(2):  # the second time all is lost, and read back
        await store.apply(changes, token="t")
    uncertain = evolve(made[0], slot=slot(uncertain=True))
    await store.look(
        LookOrder(
            campaign_id=campaign().id,
            batch_request_id=REQUEST,
            conversations=(uncertain, *made[1:]),
            address_keys=frozenset({"email:1"}),
            since=NOW - DAY,
        )
    )
    for _ in range(2):
        await store.record(entries(30))
    await store.ledger([entry.id for entry in entries(3)])
    assert await store.removable(NOW, limit=3)
    while await store.remove(campaign(), limit=50):
        pass


async def test_every_query_is_a_scan_of_an_index(store, database, kept):
    """Of every command that the store sends, whatever it asks for; no collection is scanned."""
    kept.kept.clear()
    await use_everything(store)
    sent = list(kept.kept)
    assert len(sent) > 60
    for command in sent:
        for one in explained(command):
            plan = await database.command("explain", one, verbosity="executionStats")
            assert "COLLSCAN" not in stages_of(plan), one
            assert collection_scans(plan) == 0, one


async def test_the_due_come_sorted_from_their_index(store, database, kept):
    """No sort of what is due: a backlog of a million costs what a batch costs."""
    kept.kept.clear()
    one = campaign()
    for scope in (Scope.DUE, Scope.LEASES, Scope.UNSETTLED):
        await store.next_due(one.id, scope)
        exclude = frozenset({conversation("r0").id})
        order = Order(campaign=one, scope=scope, now=NOW, exclude=exclude, limit=20)
        assert (await store.load(order)).conversations
    await store.unanswered(Inbox.CONVERSATION_UPDATES, now=NOW, limit=20)
    await store.recipients(REQUEST, "batch_recipients", after="x2", limit=3)
    finds = [command for command in kept.kept if "limit" in command]
    assert len(finds) == 8
    for find in finds:
        plan = await database.command("explain", find, verbosity="queryPlanner")
        stages = stages_of(plan["queryPlanner"]["winningPlan"])
        assert "IXSCAN" in stages, find
        assert "SORT" not in stages, find


async def test_a_load_looks_at_no_more_than_it_gives(store, database, kept):
    """Keys and documents that are read, beside those that are given."""
    kept.kept.clear()
    await store.load(Order(campaign=campaign(), scope=Scope.DUE, now=NOW, limit=10))
    plan = await database.command("explain", kept.kept[0], verbosity="executionStats")
    stats = plan["executionStats"]
    assert (stats["nReturned"], stats["totalDocsExamined"]) == (10, 10)
    assert stats["totalKeysExamined"] <= 11


async def test_counts_are_read_from_the_keys_alone(store, database, kept):
    """No document is looked at."""
    await store.record(entries(20))
    kept.kept.clear()
    await store.count(campaign().id)
    for command in kept.kept:
        plan = await database.command("explain", command, verbosity="executionStats")
        assert "FETCH" not in stages_of(plan), command
    assert len(kept.kept) == 2


async def test_what_is_settled_is_in_no_timer(store, database):
    """The indexes of due times and leases, and of inboxes, hold what has work, and no more."""
    sizes = {}
    for collection in ("conversations", *Inbox):
        stats = await database[collection].aggregate([{"$indexStats": {}}])
        sizes[collection] = {each["name"] async for each in stats}
        waiting = {
            index.name for index in INDEXES if index.collection == collection and index.partial
        }
        assert waiting <= sizes[collection]
    for index in INDEXES:
        if index.partial and index.collection == "conversations":
            hint = [(key, 1) for key in index.keys]
            held = await database.conversations.count_documents(dict(index.partial), hint=hint)
            everything = await database.conversations.count_documents({})
            assert 0 < held < everything


async def test_indexes_are_made_once(database):
    """All of them, whoever asks; then nothing is missing and nothing is planned."""
    assert await missing_indexes(database) == INDEXES
    assert len(await index_plan(database)) == len(INDEXES)
    assert await ensure_indexes(database) == INDEXES
    assert await ensure_indexes(database) == ()
    assert await missing_indexes(database) == ()
    assert await index_plan(database) == ()


async def test_names_are_unique_in_a_collection():
    """An index is known by its name."""
    names = [(index.collection, index.name) for index in INDEXES]
    assert len(set(names)) == len(names)


async def test_an_index_that_is_gone_is_made_again(database):
    """Somebody dropped it."""
    await ensure_indexes(database)
    await database.conversations.drop_index("campaign_id_due_at_bucket")
    (missing,) = await missing_indexes(database)
    assert (missing.collection, missing.keys) == (
        "conversations",
        ("campaign_id", "due_at", "bucket"),
    )
    assert await ensure_indexes(database) == (missing,)


async def test_planning_changes_nothing(database):
    """No collection, no index."""
    await index_plan(database)
    assert await database.list_collection_names() == []
