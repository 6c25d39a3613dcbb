"""The doorbell: whatever becomes of the change stream, it is opened anew, and a sweep asked for."""

from contextlib import asynccontextmanager
from functools import partial

import anyio
import anyio.lowlevel
import bson
import pytest
from attrs import define, field
from bson.errors import InvalidBSON
from bson.raw_bson import RawBSONDocument
from pymongo.errors import AutoReconnect, OperationFailure, ServerSelectionTimeoutError

import reactor.listener
from reactor.database import connect_listener
from reactor.listener import STILL_SECONDS, Doorbell, Listener
from reactor.store.protocol import Inbox


@define
class Told:
    """What the listener told, in order."""

    hints: list = field(factory=list)
    opened: int = 0
    codes: list = field(factory=list)
    beats: int = 0
    heard: anyio.Event = field(factory=anyio.Event)

    def doorbell(self):
        """Make the doorbell that tells."""
        return Doorbell(
            announce=lambda inbox, hint: self.note(self.hints, (inbox, hint)),
            opened=self.open,
            beat=self.beat,
            restarted=lambda code: self.note(self.codes, code),
        )

    def note(self, kept, what):
        """Keep it, and wake whoever waits."""
        kept.append(what)
        self.heard.set()

    def open(self):
        """The stream is open."""
        self.opened += 1
        self.heard.set()

    def beat(self):
        """It is alive."""
        self.beats += 1

    async def until(self, condition):
        """Wait until something that was told makes it true."""
        with anyio.fail_after(60):
            while not condition():
                await self.heard.wait()
                self.heard = anyio.Event()


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Come back at once."""
    monkeypatch.setattr(reactor.listener, "BACKOFF_SECONDS", 0.01)


@asynccontextmanager
async def listening(uri, name):
    """Listen to a database as long as the block runs."""
    told = Told()
    async with (
        connect_listener(uri, worker="test") as client,
        anyio.create_task_group() as tasks,
    ):
        listener = Listener(client[name], told.doorbell(), "test", lambda: True)
        tasks.start_soon(listener.run)
        await told.until(lambda: told.opened)
        yield told
        tasks.cancel_scope.cancel()


async def test_it_tells_what_is_inserted(mongodb_uri, mongodb_client, database_name):
    """Of the three inboxes only, and whom it is about."""
    database = mongodb_client[database_name]
    async with listening(mongodb_uri, database_name) as told:
        database.conversations.insert_one({"_id": "c", "conversation_id": "c"})
        database.conversation_updates.insert_one({"_id": 1, "conversation_id": "c"})
        database.conversation_updates.update_one({"_id": 1}, {"$set": {"status": "applied"}})
        database.campaign_updates.insert_one({"_id": 2, "campaign_id": "k"})
        await told.until(lambda: len(told.hints) == 2)
    (updates, first), (orders, second) = told.hints
    assert (updates, first.conversation_id) == (Inbox.CONVERSATION_UPDATES, "c")
    assert (orders, second.campaign_id) == (Inbox.CAMPAIGN_UPDATES, "k")
    assert told.codes == []


async def test_a_database_that_is_dropped(mongodb_uri, mongodb_client, database_name):
    """The stream is invalid: another one hears what comes after."""
    database = mongodb_client[database_name]
    database.campaign_updates.insert_one({"_id": 1, "campaign_id": "k"})
    async with listening(mongodb_uri, database_name) as told:
        mongodb_client.drop_database(database_name)
        await told.until(lambda: told.opened == 2)
        database.campaign_updates.insert_one({"_id": 2, "campaign_id": "k"})
        await told.until(lambda: told.hints)
    assert told.codes == ["closed"]


async def test_a_collection_that_is_renamed_or_dropped(mongodb_uri, mongodb_client, database_name):
    """It is not the database: the stream goes on."""
    database = mongodb_client[database_name]
    database.campaign_updates.insert_one({"_id": 1})
    async with listening(mongodb_uri, database_name) as told:
        database.campaign_updates.rename("elsewhere")
        database.elsewhere.drop()
        database.campaign_updates.insert_one({"_id": 2, "campaign_id": "k"})
        await told.until(lambda: told.hints)
    assert (told.opened, told.codes) == (1, [])


async def test_a_cursor_that_is_killed(mongodb_uri, mongodb_client, database_name):
    """Nothing that is inserted around it goes unheard, or a sweep is asked for."""
    database = mongodb_client[database_name]
    async with listening(mongodb_uri, database_name) as told:
        idle = [
            {"$currentOp": {"idleCursors": True}},
            {"$match": {"cursor.cursorId": {"$ne": None}}},
        ]
        for operation in mongodb_client.admin.aggregate(idle):
            if operation["ns"].startswith(f"{database_name}."):
                collection = operation["ns"].removeprefix(f"{database_name}.")
                killed = [operation["cursor"]["cursorId"]]
                database.command("killCursors", collection, cursors=killed)
        database.campaign_updates.insert_one({"_id": 2, "campaign_id": "k"})
        await told.until(lambda: told.hints or told.opened > 1)


async def test_what_is_large_or_broken(mongodb_uri, mongodb_client, database_name):
    """Only ids come: neither size nor bytes that cannot be decoded end the stream."""
    database = mongodb_client[database_name]
    async with listening(mongodb_uri, database_name) as told:
        database.conversation_updates.insert_one({"_id": 1, "text": "x" * 15_000_000})
        broken = bson.encode({"_id": 2, "text": "broken"}).replace(b"broken", b"\xff" * 6)
        database.conversation_updates.insert_one(RawBSONDocument(broken))
        await told.until(lambda: len(told.hints) == 2)
    assert told.codes == []


# -- what a server on loopback does not do when asked to ---------------------------------------------


class Stream:
    """A stream of the driver's, which ends as it is told to."""

    def __init__(self, error, tokens):
        """`tokens` are those that it has, one after the other, until the error comes."""
        self.error, self.tokens, self.alive = error, list(tokens), True
        self.resume_token = self.tokens.pop(0)

    async def try_next(self):
        """Give no event."""
        if not self.tokens:
            if self.error is None:
                self.alive = False
                return
            raise self.error
        self.resume_token = self.tokens.pop(0)
        return

    async def close(self):
        """End it."""
        self.alive = False


class Database:
    """Opens streams, or fails to, and remembers how it was asked."""

    def __init__(self, ends, enough):
        """The last of `ends` comes when the listener has done what it should."""
        self.ends, self.enough, self.asked = list(ends), enough, []

    async def watch(self, pipeline, **options):
        """Open one."""
        self.asked.append((pipeline, options))
        if not self.ends:
            self.enough.set()
            raise AutoReconnect("for ever")
        end = self.ends.pop(0)
        if callable(end):
            raise end()
        return Stream(*end)


async def listened(ends, monotonic=None, wanted=lambda: True):
    """Listen until all has ended; what was told, and how streams were asked for."""
    enough, told = anyio.Event(), Told()
    database = Database(ends, enough)
    listener = Listener(database, told.doorbell(), "test", wanted)
    if monotonic:
        listener.monotonic = monotonic
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.run)
        with anyio.fail_after(30):
            await enough.wait()
        tasks.cancel_scope.cancel()
    asked = database.asked[: 1 + len(ends)]
    del told.codes[len(ends) :]
    return told, asked


CODES = [280, 286, 136, 10334, 260, 9, 40647, 43, 91, 112, 11600, 13388, None]


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("where", ["opening", "reading"])
async def test_one_rule_for_every_code(code, where):
    """Lost history, a token that is none, an event too large: at the present, never by a token."""
    error = partial(OperationFailure, "no", code)
    end = error if where == "opening" else (error(), [1, 2])
    told, asked = await listened([end])
    assert told.codes == [code or "OperationFailure"]
    assert told.opened == (where == "reading")
    assert asked == [asked[0]] * 2
    assert not {"resume_after", "start_after", "start_at_operation_time"} & asked[0][1].keys()


@pytest.mark.parametrize(
    "error",
    [AutoReconnect("a"), ServerSelectionTimeoutError("b"), InvalidBSON("c"), ValueError("d")],
    ids=lambda error: type(error).__name__,
)
async def test_one_rule_for_whatever_is_raised(error):
    """What nobody has thought of ends a stream, and not the worker."""
    told, _ = await listened([(error, [1, 2]), (error, [1])])
    assert told.codes == [type(error).__name__] * 2
    assert told.opened == 2


async def test_a_stream_that_just_ends():
    """As after an invalidate."""
    told, _ = await listened([(None, [1, 2])])
    assert (told.codes, told.opened) == (["closed"], 1)


async def test_what_is_not_wanted_any_more(monkeypatch):
    """Others listen now: it ends without trouble and is alive all the same; then it is opened anew."""
    monkeypatch.setattr(reactor.listener, "UNWANTED_SECONDS", 0.01)
    # Opened, read once, and wanted again after having been asked three times.
    answers = iter([True, True, False, False, False, False, True])
    told, asked = await listened([(None, range(500))], wanted=lambda: next(answers, True))
    assert told.opened == 1
    # Trouble has only the second one, which cannot be opened.
    assert told.codes == ["AutoReconnect"]
    assert len(asked) == 2
    assert told.beats == 3


async def test_a_token_that_stands_still():
    """Nothing comes from the server, not even its no-op: the stream is taken for dead."""
    ticks = iter(range(0, 100_000, int(STILL_SECONDS) // 3))
    told, _ = await listened([(ValueError("not reached"), [7] * 1_000)], lambda: next(ticks))
    assert told.codes == ["SilentStreamError"]
    assert told.beats < 10


async def test_a_token_that_moves():
    """However quiet it is."""
    ticks = iter(range(0, 1_000_000, int(STILL_SECONDS) // 3))
    told, _ = await listened([(None, range(500))], lambda: next(ticks))
    assert told.codes == ["closed"]
    assert told.beats == 500


async def test_trouble_that_goes_on_is_left_alone_for_longer(monkeypatch):
    """Each pause is twice the last, up to a limit; and no two workers come back together."""
    pauses = []

    async def note(seconds):
        pauses.append(seconds)
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(reactor.listener.anyio, "sleep", note)
    monkeypatch.setattr(reactor.listener, "BACKOFF_SECONDS", 1.0)
    await listened([partial(OperationFailure, "no", 286)] * 8)
    full = [1, 2, 4, 8, 15, 15, 15, 15]
    assert all(each / 2 <= pause <= each for each, pause in zip(full, pauses, strict=False))
    assert len(set(pauses)) == len(pauses)
