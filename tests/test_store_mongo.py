"""What only the real store must do: few commands, no blind retries, no wait without end."""

import anyio
import anyio.lowlevel
import pytest
from attrs import evolve
from pymongo import AsyncMongoClient, monitoring

from reactor.clock import TimeScale
from reactor.database import connect
from reactor.embedded import embedded_server
from reactor.indexes import ensure_indexes
from reactor.store import calls
from reactor.store.mongo import MongoStore
from reactor.store.protocol import (
    Change,
    Inbox,
    LookOrder,
    Order,
    Scope,
    StoreRefusedError,
    StoreUnavailableError,
)
from schemas.conversation import SlotState
from schemas.documents import decode
from schemas.message import LedgerEntry, MessageStatus
from tests.builders import DAY, HOUR, NOW, campaign, conversation, slot

DATABASE = "store"
SECRET = "ada@example.com"


class Commands(monitoring.CommandListener):
    """Takes note of every command that is sent."""

    def __init__(self):
        self.sent = []

    def started(self, event):
        """Note one."""
        self.sent.append(event.command_name)

    def succeeded(self, event):
        """Nothing to note."""

    def failed(self, event):
        """Nothing to note."""

    async def of(self, call):
        """Give the commands that a call sends."""
        self.sent.clear()
        await call
        return [name for name in self.sent if name != "hello"]


@pytest.fixture
def commands():
    """Listen to a client's commands."""
    return Commands()


@pytest.fixture
async def client(mongodb_uri, commands):
    """Give a client that is listened to."""
    async with AsyncMongoClient(mongodb_uri, tz_aware=True, event_listeners=[commands]) as made:
        yield made


@pytest.fixture
async def store(client, database_name):
    """Give the real store, on a database with its indexes."""
    await ensure_indexes(client[database_name])
    return MongoStore(client[database_name], TimeScale())


@pytest.fixture(scope="module")
async def breakable():
    """Run a server of our own that fails when told to."""
    async with embedded_server(set_parameters={"enableTestCommands": 1}) as server:
        yield server.uri


@pytest.fixture
async def fragile(breakable):
    """Give a store on a server that fails when told to, and a way to tell it."""
    async with connect(breakable, worker="test") as made:
        await made.drop_database(DATABASE)
        await ensure_indexes(made[DATABASE])

        async def fail(times, *names, **how):
            mode = {"times": times} if isinstance(times, int) else times
            data = {"failCommands": list(names), **how}
            await made.admin.command(
                {"configureFailPoint": "failCommand", "mode": mode, "data": data}
            )

        yield MongoStore(made[DATABASE], TimeScale()), fail
        await fail("off")


def many(count, **changes):
    """Make conversations that are due."""
    return [conversation(f"r{n}", position=n, **changes) for n in range(count)]


def changes_of(conversations, **changes):
    """Change conversations alike."""
    return [Change(before=one, after=evolve(one, **changes)) for one in conversations]


def entries_of(conversations):
    """Make an entry for each."""
    return [
        LedgerEntry(
            id=f"{one.id}/intro/0",
            status=MessageStatus.SENT,
            campaign_id=one.campaign_id,
            batch_request_id=one.batch_request_id,
            conversation_id=one.id,
            recipient_id=one.recipient.id,
            to=SECRET,
        )
        for one in conversations
    ]


@pytest.mark.parametrize("count", [1, 100, 300])
async def test_a_batch_is_a_fixed_number_of_commands(store, client, database_name, commands, count):
    """However many conversations it has, and however many updates wait."""
    over = slot(state=SlotState.SENDING, until=NOW, uncertain=True)
    made = many(count, slot=over)
    await store.insert_campaign(campaign())
    await store.insert_conversations(made)
    updates = [{"_id": f"u{n}", "conversation_id": one.id} for n, one in enumerate(made)]
    await client[database_name].conversation_updates.insert_many(updates)
    order = Order(campaign=campaign(), scope=Scope.DUE, now=NOW, limit=count)
    look = LookOrder(
        campaign_id=campaign().id,
        batch_request_id=campaign().batch_request_id,
        conversations=made,
        address_keys=frozenset(one.address_keys[0] for one in made),
        since=NOW - DAY,
    )
    alike, unlike = (
        changes_of(made, stage="a"),
        [
            Change(before=evolve(one, version=1), after=evolve(one, stage=f"s{n}"))
            for n, one in enumerate(made)
        ],
    )
    as_written = [evolve(one, version=2) for one in made]
    hints = await store.unanswered(Inbox.CONVERSATION_UPDATES, now=NOW, limit=count)
    answers = [(hint.raw_id, {"status": "applied"}) for hint in hints]
    sent = {
        "load": await commands.of(store.load(order)),
        "alike": await commands.of(store.apply(alike, token="a")),
        "unlike": await commands.of(store.apply(unlike, token="b")),
        "look, some changed": await commands.of(store.look(look)),
        "look": await commands.of(store.look(evolve(look, conversations=as_written))),
        "record": await commands.of(store.record(entries_of(made))),
        "again": await commands.of(store.record(entries_of(made))),
        "read": await commands.of(
            store.read(Inbox.CONVERSATION_UPDATES, [raw for raw, _ in answers])
        ),
        "answer": await commands.of(store.answer(Inbox.CONVERSATION_UPDATES, answers)),
        "campaign": await commands.of(store.campaign(campaign().id)),
        "unfinished": await commands.of(store.unfinished()),
    }
    assert sent == {
        "load": ["find", "aggregate", "find"],
        "alike": ["update"],
        "unlike": ["update"],
        "look, some changed": ["aggregate", "find"],
        "look": ["aggregate"],
        "record": ["insert"],
        "again": ["insert", "update"],
        "read": ["find"],
        "answer": ["update"],
        "campaign": ["aggregate"],
        "unfinished": ["aggregate"],
    }


async def test_the_ledger_is_asked_only_where_there_is_doubt(store, commands):
    """Without a slot whose lease is over, loading is two commands."""
    await store.insert_conversations(many(3))
    order = Order(campaign=campaign(), scope=Scope.DUE, now=NOW, limit=10)
    assert await commands.of(store.load(order)) == ["find", "aggregate"]


async def test_a_known_template_is_not_read_again(store, client, database_name):
    """It is pinned: what the database says now is not looked at."""
    await store.insert_campaign(campaign())
    await store.campaign(campaign().id)
    await client[database_name].campaigns.update_one({}, {"$set": {"template": "gone"}})
    _, found = await store.campaign(campaign().id)
    assert found == campaign()


async def test_what_stands_later_in_one_command_is_read_later(client, database_name):
    """The server keeps to it: what is written while the first collection is read is in the second."""
    database = client[database_name]
    await database.first.insert_one({"_id": 1})
    await database.second.insert_one({"_id": "before"})
    store = MongoStore(database, TimeScale())
    slow = {
        "$function": {"body": "function() { sleep(1500); return true }", "args": [], "lang": "js"}
    }
    found = {}

    async def read():
        sources = {"first": [{"$match": {"$expr": slow}}], "second": []}
        found.update((await store._collect(sources))[1])

    running = {"op": "command", "command.pipeline.1.$unionWith.coll": "first"}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        with anyio.fail_after(10):
            while not await _running(client, running):
                await anyio.lowlevel.checkpoint()
        await database.second.insert_one({"_id": "meanwhile"})
        assert not found
    assert [decode(raw.data)["_id"] for raw in found["second"]] == ["before", "meanwhile"]


async def _running(client, which):
    pipeline = [{"$currentOp": {}}, {"$match": which}]
    return await (await client.admin.aggregate(pipeline)).to_list()


async def test_the_scale_is_applied_to_the_servers_time(client, database_name):
    """Alone, with a campaign, and in the last look."""
    real = MongoStore(client[database_name], TimeScale())
    fast = MongoStore(client[database_name], TimeScale(scale=1000.0, epoch=await real.now() - HOUR))
    look = LookOrder(
        campaign_id="k",
        batch_request_id="r",
        conversations=(),
        address_keys=frozenset(),
        since=NOW,
    )
    times = [await fast.now(), (await fast.campaign("k"))[0], (await fast.look(look)).now]
    assert times == sorted(times)
    assert times[0] - await real.now() > 40 * DAY


@pytest.mark.parametrize("failure", [{"closeConnection": True}, {"errorCode": 10107}])
async def test_a_grouped_write_that_breaks_is_read_back(fragile, failure):
    """It is not written again, and what is not found under the token was not won."""
    store, fail = fragile
    made = many(5)
    await store.insert_conversations(made)
    await fail(1, "update", **failure)
    applied = await store.apply(changes_of(made, stage="a"), token="t")
    assert (applied.won, applied.refused) == ({}, {})
    found = await store.conversations([one.id for one in made])
    assert {(one.stage, one.version) for one in found} == {("intro", 0)}


async def test_a_grouped_write_without_a_majority_is_won_only_if_it_is_known(fragile):
    """It may be rolled back: won is what a majority has. It is written once, and not refused."""
    store, fail = fragile
    made = many(5)
    await store.insert_conversations(made)
    error = {"code": 64, "codeName": "WriteConcernFailed", "errmsg": "waiting timed out"}
    await fail(1, "update", writeConcernError=error)
    applied = await store.apply(changes_of(made, stage="a"), token="t")
    assert applied.refused == {}
    assert applied.won.keys() in ({one.id for one in made}, set())
    await store.insert_campaign(campaign())
    found = await store.conversations([one.id for one in made])
    assert {(one.stage, one.version) for one in found} == {("a", 1)}


async def test_reading_back_is_tried_until_it_answers(fragile):
    """The write has broken, and so have two of the reads that follow it."""
    store, fail = fragile
    made = many(3)
    await store.insert_conversations(made)
    await fail(3, "update", "find", closeConnection=True)
    assert (await store.apply(changes_of(made, stage="a"), token="t")).won == {}


async def test_single_writes_are_retried_by_the_driver(fragile):
    """One document each: the server knows whether it has been written."""
    store, fail = fragile
    made = many(3)
    await store.insert_campaign(campaign())
    await store.insert_conversations(made)
    await fail(1, "update", closeConnection=True)
    unlike = [Change(before=one, after=evolve(one, stage=one.recipient.id)) for one in made]
    assert len((await store.apply(unlike, token="t")).won) == 3
    await fail(2, "update", closeConnection=True)
    assert (await store.write_campaign(campaign(), campaign(name="x"))).version == 1


async def test_answers_in_a_group_are_written_again(fragile):
    """Writing one twice changes nothing."""
    store, fail = fragile
    documents = [{"_id": n} for n in range(3)]
    await store._database.conversation_updates.insert_many(documents)
    hints = await store.unanswered(Inbox.CONVERSATION_UPDATES, now=NOW, limit=9)
    await fail(1, "update", closeConnection=True)
    answers = [(hint.raw_id, {"status": "applied"}) for hint in hints]
    await store.answer(Inbox.CONVERSATION_UPDATES, answers)
    assert not await store.unanswered(Inbox.CONVERSATION_UPDATES, now=NOW, limit=9)


async def test_inserting_without_a_majority_is_unavailable(fragile):
    """Duplicates beside it do not hide that nobody knows what will stay."""
    store, fail = fragile
    await store.insert_conversations(many(1))
    error = {"code": 64, "codeName": "WriteConcernFailed", "errmsg": "waiting timed out"}
    await fail(1, "insert", writeConcernError=error)
    with pytest.raises(StoreUnavailableError):
        await store.insert_conversations(many(2))


async def test_an_answer_that_does_not_fit_stops_no_other(store, client, database_name):
    """The document is nearly full; its neighbour is answered."""
    inbox = client[database_name].batch_requests
    await inbox.insert_many([{"_id": 1, "x": "x" * 16_777_000}, {"_id": 2}])
    hints = await store.unanswered(Inbox.BATCH_REQUESTS, now=NOW, limit=9)
    answers = [(hint.raw_id, {"status": "accepted", "problems": ["p" * 9_000]}) for hint in hints]
    await store.answer(Inbox.BATCH_REQUESTS, answers)
    found = {each["_id"]: each.get("status") async for each in inbox.find({}, {"status": 1})}
    assert found == {1: None, 2: "accepted"}


@pytest.mark.parametrize("code", [13, 59])
async def test_a_command_that_is_refused_is_not_blamed_on_its_writes(fragile, code):
    """Without the right to write, no conversation is at fault."""
    store, fail = fragile
    await store.insert_conversations(many(2))
    await fail(9, "update", errorCode=code)
    with pytest.raises(StoreRefusedError, match=f"OperationFailure {code}"):
        await store.apply(changes_of(many(2), stage="a"), token="t")


@pytest.mark.parametrize("code", [91, 189, 10107, 11600, 13435, 50, 262, 134])
async def test_a_server_in_no_state_to_answer_is_unavailable(fragile, code):
    """Stopping, stepping down, too slow: the caller may come again."""
    store, fail = fragile
    await fail("alwaysOn", "find", errorCode=code)
    with pytest.raises(StoreUnavailableError), anyio.fail_after(10):
        await short(store.conversations)(["x"])


async def test_a_server_that_does_not_answer_is_unavailable_in_time(fragile):
    """Nothing waits without end."""
    store, fail = fragile
    await fail("alwaysOn", "find", blockConnection=True, blockTimeMS=5_000)
    with pytest.raises(StoreUnavailableError), anyio.fail_after(4):
        await short(store.conversations)(["x"])


def short(method):
    """Give a method less time than it has."""
    return calls.call(method.__wrapped__.__get__(method.__self__), 0.5)


async def test_no_server_is_unavailable():
    """Where nobody listens."""
    async with AsyncMongoClient("mongodb://127.0.0.1:1") as client:
        store = MongoStore(client[DATABASE], TimeScale())
        with pytest.raises(StoreUnavailableError, match="ServerSelectionTimeoutError"):
            await short(store.now)()


async def test_errors_hold_nothing_of_documents(fragile):
    """Neither their text, nor what they were raised from: it would be logged."""
    store, fail = fragile
    await store._database.messages.create_index("to", unique=True)
    await store.record(entries_of(many(1)))
    await fail(1, "update", errorCode=121)
    with pytest.raises(StoreRefusedError) as caught:
        await store.record(entries_of(many(2)))
    error = caught.value
    assert SECRET not in str(error)
    assert (error.__cause__, error.__suppress_context__) == (None, True)


async def test_a_cancellation_does_not_cut_through_a_command(store, client):
    """What was begun ends; a thousand of them leave the pool as it was."""
    await store.insert_conversations(many(20))
    ids = [one.id for one in many(20)]
    done = 0

    async def ask(seconds):
        nonlocal done
        with anyio.move_on_after(seconds):
            await store.conversations(ids)
            done += 1
            await anyio.sleep_forever()

    for _ in range(20):
        async with anyio.create_task_group() as tasks:
            for n in range(50):
                tasks.start_soon(ask, n / 10_000)
    assert done > 0
    with anyio.fail_after(5):
        assert len(await store.conversations(ids)) == 20
    pools = [server.pool for server in client._topology._servers.values()]
    assert [pool.active_sockets for pool in pools] == [0] * len(pools)
