"""`reactor verify` and `reactor repair`, on a database that a worker has made and somebody broke."""

import json
import secrets
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from reactor.cli import remedies, suspects
from reactor.store.mongo import MongoStore
from reactor.store.places import rejected_id
from schemas.documents import CODEC
from schemas.ids import campaign_id, conversation_id, send_key
from tests.builders import batch_request_document, recipient_document, template_document
from tests.dead_letters import on_terminal
from tests.invariants import check_invariants
from tests.live import live
from tests.test_cli import invoke
from tests.world import world as make_world

FOLLOWED = template_document(
    stages=[
        {
            "id": "intro",
            "message": {"body": "Hello"},
            "follow_ups": [{"after": "2d", "message": {"body": "Still there?"}}],
            "reply_within": "9d",
        }
    ]
)
SHORT = template_document(stages=[{"id": "only", "final": True, "message": {"body": "Hello"}}])
OPEN, SUPPRESSED, REPLIED = (conversation_id("r", f"r{n}") for n in range(3))
OVER = conversation_id("over", "r5")
HOUR = timedelta(hours=1)
#: One look more, at once.
NOW = ("--patience", "0")
FIRST, SECOND = send_key(OPEN, "intro", 0), send_key(OPEN, "intro", 1)


async def make(uri, client, name, directory):
    """
    Let a worker make two campaigns.

    Of the first, one recipient has had a follow-up, one has opted out, one has replied, one was
    rejected; the second is over.
    """
    async with make_world(uri, client, name, directory) as world:
        recipients = [recipient_document(f"r{n}") for n in range(3)]
        twin = recipient_document("twin", address={"email": "r0@example.com"})
        await world.submit([*recipients, twin], template=FOLLOWED)
        await world.tell("opted_out", "r1")
        await world.tell("reply", "r2", text="yes")
        await world.pass_time(days=2)
        world.request = "over"
        await world.submit([recipient_document("r5")], template=SHORT)
        await world.pass_time(minutes=2)


@pytest.fixture(scope="module")
def made(mongodb_uri, mongodb_client, tmp_path_factory):
    """Give the database, and the environment of a command that works on it."""
    name = f"test_{secrets.token_hex(6)}"
    directory = tmp_path_factory.mktemp("world")
    anyio.run(make, mongodb_uri, mongodb_client, name, directory)
    database = mongodb_client.get_database(name, codec_options=CODEC)
    yield database, {"MONGODB_URI": mongodb_uri, "MONGODB_DB": name}
    mongodb_client.drop_database(name)


@pytest.fixture
def database(made):
    """Give the test the database, and put all of it back afterwards."""
    database, _ = made
    names = database.list_collection_names()
    before = {name: list(database[name].find()) for name in names}
    yield database
    for name, documents in before.items():
        database[name].delete_many({})
        if documents:
            database[name].insert_many(documents)


@pytest.fixture
def run(made):
    """Give how a command is run."""
    _, environment = made
    return lambda *arguments: invoke(*arguments, **environment)


def found(result):
    """Give what was found, as (invariant, what it is about)."""
    documents = [json.loads(line) for line in result.stdout.splitlines()]
    return [
        (one["invariant"], one["message_id"] or one["conversation_id"] or one["campaign_id"])
        for one in documents
    ]


def change(collection, identity, **fields):
    """Make a break that sets fields of a document."""

    def broken(database):
        result = database[collection].update_one({"_id": identity}, {"$set": fields})
        assert result.modified_count

    return broken


def copy(collection, identity, **fields):
    """Make a break that inserts a document like another."""

    def broken(database):
        document = database[collection].find_one({"_id": identity})
        database[collection].insert_one(document | fields)

    return broken


def remove(collection, **query):
    """Make a break that removes documents."""

    def broken(database):
        assert database[collection].delete_many(query).deleted_count

    return broken


def later(collection, identity, field, since, span):
    """Make a break that sets a time by another one of the same document."""

    def broken(database):
        document = database[collection].find_one({"_id": identity})
        database[collection].update_one(
            {"_id": identity}, {"$set": {field: document[since] + span}}
        )

    return broken


def all_of(*breaks):
    """Make a break of several."""

    def broken(database):
        for each in breaks:
            each(database)

    return broken


def with_slot(identity, state, **fields):
    """Make a break that puts the last message of a conversation back into its slot."""

    def broken(database):
        one = database.conversations.find_one({"_id": identity})
        slot = {"stage": "intro", "n": one["message_count"] - 1, "step": 0, "channel": "email"}
        slot |= dict.fromkeys(("decided_at", "due_at", "until"), one["status_since"])
        slot |= {"state": state, "attempts": 1}
        change("conversations", identity, slot=slot, due_at=slot["until"], **fields)(database)

    return broken


def alike(identity, number=0, stage="intro"):
    """Give the `_id` of a message of a conversation."""
    return {"_id": send_key(identity, stage, number)}


CAMPAIGN, COMPLETED = campaign_id("r"), campaign_id("over")
OF_REPLIED = send_key(REPLIED, "intro", 0)
OF_SUPPRESSED = send_key(SUPPRESSED, "intro", 0)
REOPENED = {"status": "awaiting_reply", "exit_reason": None}
#: What is broken: how, and what verify must name.
BREAKS = {
    "a conversation is lost": (
        all_of(remove("conversations", _id=REPLIED), remove("messages", conversation_id=REPLIED)),
        ("I1", CAMPAIGN),
    ),
    "rejected, and with a conversation": (
        lambda database: database.rejected_recipients.insert_one(
            {"_id": rejected_id("r", 0), "batch_request_id": "r", "index": 0}
        ),
        ("I1", OPEN),
    ),
    "open in a completed campaign": (
        all_of(
            change("conversations", OVER, **REOPENED),
            later("conversations", OVER, "due_at", "deadline_at", -HOUR),
        ),
        ("I1", OVER),
    ),
    "a slot in a completed campaign": (with_slot(OVER, "sending"), ("I1", OVER)),
    "an open one has an end": (change("conversations", OPEN, exit_reason="replied"), ("I1", OPEN)),
    "a closed one has none": (change("conversations", REPLIED, exit_reason=None), ("I1", REPLIED)),
    "counts of a completed campaign": (
        change("campaigns", COMPLETED, **{"counts.open": 7}),
        ("I1", COMPLETED),
    ),
    "messages of a completed campaign": (
        change("campaigns", COMPLETED, **{"messages.sent": 7}),
        ("I1", COMPLETED),
    ),
    "what cannot be read": (change("conversations", OPEN, status="somehow"), ("I1", OPEN)),
    "an entry that cannot be read": (change("messages", FIRST, status="somehow"), ("I1", FIRST)),
    "a campaign that cannot be read": (
        change("campaigns", CAMPAIGN, recipient_count="many"),
        ("I1", CAMPAIGN),
    ),
    "a key without its entry": (remove("messages", _id=FIRST), ("I2", OPEN)),
    "two entries with one n": (
        copy("messages", FIRST, _id=send_key(OPEN, "other", 0)),
        ("I2", OPEN),
    ),
    "an entry that was never reserved": (
        copy("messages", FIRST, **alike(OPEN, 7)),
        ("I2", send_key(OPEN, "intro", 7)),
    ),
    "an entry of nobody": (
        copy("messages", FIRST, _id="nobody/intro/0", conversation_id="nobody"),
        ("I2", "nobody/intro/0"),
    ),
    "due never": (change("conversations", OPEN, due_at=None), ("I3", OPEN)),
    "due after its deadline": (
        later("conversations", OPEN, "due_at", "deadline_at", HOUR),
        ("I3", OPEN),
    ),
    "closed, and due": (
        later("conversations", REPLIED, "due_at", "deadline_at", -HOUR),
        ("I3", REPLIED),
    ),
    "a lease that nobody takes over": (
        all_of(
            with_slot(OPEN, "sending"),
            later("conversations", OPEN, "slot.until", "created_at", -HOUR),
            later("conversations", OPEN, "due_at", "created_at", -HOUR),
        ),
        ("I3", OPEN),
    ),
    "a campaign that is never looked at": (
        change("campaigns", CAMPAIGN, due_at=None),
        ("I3", CAMPAIGN),
    ),
    "an unfinished campaign with nothing to do": (
        change("campaigns", COMPLETED, status="active", completed_at=None),
        ("I3", COMPLETED),
    ),
    "sent before the one before": (
        later("messages", SECOND, "sent_at", "due_at", -10 * 24 * HOUR),
        ("I4", SECOND),
    ),
    "reserved after the end": (
        later("messages", OF_REPLIED, "due_at", "sent_at", 72 * HOUR),
        ("I5", OF_REPLIED),
    ),
    "reserved after the opt-out": (
        all_of(
            change("conversations", SUPPRESSED, **REOPENED),
            later("conversations", SUPPRESSED, "due_at", "deadline_at", -HOUR),
            later("messages", OF_SUPPRESSED, "due_at", "sent_at", HOUR),
        ),
        ("I5", OF_SUPPRESSED),
    ),
    "sent without a body": (change("messages", FIRST, body=None), ("I6", FIRST)),
    "taken, and called cancelled": (
        change("messages", FIRST, status="cancelled", provider_id="p"),
        ("I6", FIRST),
    ),
    "the last message was not accepted": (
        change("messages", SECOND, status="failed"),
        ("I6", SECOND),
    ),
    "held, and called failed": (
        all_of(
            with_slot(OPEN, "unknown", last_message=None),
            change("messages", SECOND, status="failed"),
        ),
        ("I6", SECOND),
    ),
}


def test_everything_holds(database, run):
    """Of what a worker has made nothing is wrong: neither of one campaign, nor of all."""
    assert database.rejected_recipients.count_documents({}) == 1
    result = run("verify", "--all")
    assert result.stdout == "2 campaigns, 4 conversations: everything holds\n"
    assert (result.exit_code, result.stderr) == (0, "")
    result = run("verify", "over", "--json")
    assert (result.exit_code, result.stdout) == (0, "")


@pytest.mark.parametrize("broken", BREAKS)
def test_what_is_broken_is_named(database, run, broken):
    """Each break is named, with its invariant and what it is about, and the exit code is 1."""
    breaks, expected = BREAKS[broken]
    breaks(database)
    result = run("verify", "--all", "--json", "--patience", "0")
    assert expected in found(result), result.output
    assert result.exit_code == 1


def test_a_line_says_what_and_how_to_look_at_it(database, run):
    """The invariant, what it is about, what was expected and found, and a command that works."""
    change("conversations", OPEN, due_at=None)(database)
    result = run("verify", CAMPAIGN[:8], "--patience", "0")
    line, campaign, summary = result.stdout.splitlines()
    assert campaign.startswith(f"I3 {CAMPAIGN}: campaign that is active: expected completed, ")
    assert line.startswith(f"I3 {OPEN}: due time of an open conversation: expected at most 20")
    assert summary == "1 campaigns, 3 conversations: 2 findings"
    *_, command = line.rstrip(")").partition("(reactor ")
    assert run(*command.split()).exit_code == 0
    change("campaigns", COMPLETED, **{"counts.open": 7})(database)
    line, _ = run("verify", "over", "--patience", "0").stdout.splitlines()
    *_, command = line.rstrip(")").partition("(reactor ")
    assert run(*command.split()).exit_code == 0


def test_what_is_right_when_it_is_looked_at_again_is_right(database, run, monkeypatch):
    """What was caught in motion, a conversation and its campaign, is not called wrong."""
    stored = database.conversations.find_one({"_id": OPEN})
    change("conversations", OPEN, due_at=None)(database)
    change("campaigns", COMPLETED, **{"counts.open": 7})(database)
    look_again = suspects.Verifier.look_again

    async def mended(self, *arguments):
        change("conversations", OPEN, due_at=stored["due_at"])(database)
        change("campaigns", COMPLETED, **{"counts.open": 0})(database)
        monkeypatch.setattr(suspects.Verifier, "look_again", look_again)
        return await look_again(self, *arguments)

    monkeypatch.setattr(suspects.Verifier, "look_again", mended)
    result = run("verify", "r", "--patience", "20")
    assert (result.exit_code, result.stdout.splitlines()) == (
        0,
        ["1 campaigns, 3 conversations: everything holds"],
    )


def test_another_thing_that_is_wrong_later_is_not_the_same(database, run, monkeypatch):
    """Only what looks wrong each time, in the same way, is wrong."""
    change("conversations", OPEN, due_at=None)(database)
    look_again = suspects.Verifier.look_again

    async def moved(self, *arguments):
        copy("messages", FIRST, **alike(OPEN, 7))(database)
        later("conversations", OPEN, "due_at", "deadline_at", -30 * 24 * HOUR)(database)
        return await look_again(self, *arguments)

    monkeypatch.setattr(suspects.Verifier, "look_again", moved)
    assert run("verify", "r", "--patience", "0").exit_code == 0


def test_all_is_wrong(database, run, monkeypatch):
    """However much is wrong, all of it is named, once, and --limit names less."""
    monkeypatch.setattr(suspects, "SUSPECTS", 1)
    database.conversations.update_many({}, {"$set": {"message_count": 21}})
    copy("messages", FIRST, _id="nobody/intro/0", conversation_id="nobody")(database)
    named = found(run("verify", "--all", "--json", "--patience", "0"))
    assert {about for _, about in named} >= {OPEN, SUPPRESSED, REPLIED, OVER, "nobody/intro/0"}
    assert len(named) == len(set(named))
    limited = run("verify", "--all", "--patience", "0", "--limit", "2")
    assert len(limited.stdout.splitlines()) == 3
    assert "--limit shows more" in limited.stderr
    assert limited.exit_code == 1


def test_progress_is_shown_on_a_terminal(made):
    """How many conversations there are, and how many were looked at."""
    _, environment = made
    code, shown = on_terminal("", "verify", "--all", **environment)
    assert code == 0
    assert "everything holds" in shown
    assert "Verifying" in shown


def test_a_campaign_that_is_removed_is_passed_over(database, run):
    """What has left is not missed, and not counted again; neither is what is leaving."""
    change("campaigns", COMPLETED, removing_since=datetime.now(UTC))(database)
    for collection in ("conversations", "messages"):
        database[collection].delete_many({"campaign_id": COMPLETED})
    result = run("verify", "--all", *NOW)
    assert (result.exit_code, result.stdout) == (
        0,
        "2 campaigns, 3 conversations: everything holds\n",
    )
    assert run("repair", "--all", *NOW).stdout == "nothing is to be put right\n"


def test_a_removal_that_begins_meanwhile(database, run, monkeypatch):
    """What was found before it began is not said, and nothing is repaired."""
    BREAKS["messages of a completed campaign"][0](database)
    mark = change("campaigns", COMPLETED, removing_since=datetime.now(UTC))
    look_again, put_right = suspects.Verifier.look_again, remedies.put_right

    async def leaving(self, *arguments):
        found = await look_again(self, *arguments)
        mark(database)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(suspects.Verifier, "look_again", leaving)
        assert run("verify", "over", *NOW).exit_code == 0
    database.campaigns.update_one({"_id": COMPLETED}, {"$unset": {"removing_since": ""}})

    async def late(*arguments):
        mark(database)
        await put_right(*arguments)

    monkeypatch.setattr("reactor.cli.repair.put_right", late)
    assert run("repair", "over", *NOW).exit_code == 1
    assert database.campaigns.find_one({"_id": COMPLETED})["messages"]["sent"] == 7


def test_without_indexes(mongodb_uri, mongodb_client, database_name):
    """Where there is no index to read by, it says what makes one."""
    mongodb_client[database_name].campaigns.insert_one({"_id": "c"})
    environment = {"MONGODB_URI": mongodb_uri, "MONGODB_DB": database_name}
    result = invoke("verify", "--all", **environment)
    assert result.exit_code == 1
    assert "reactor init-db" in result.stderr


def test_usage(run):
    """Without arguments it says what to say; of both only one; a campaign that is not there is 3."""
    neither = run("verify")
    assert neither.exit_code == 2
    assert "--all" in neither.stderr
    assert run("verify", "r", "--all").exit_code == 2
    assert run("verify", "nothing").exit_code == 3


MOVING = template_document(
    stages=[
        {
            "id": "intro",
            "message": {"body": "Hello"},
            "follow_ups": [
                {"after": "12h", "message": {"body": "Still there?"}},
                {"after": "12h", "message": {"body": "Last call"}},
            ],
            "reply_within": "12h",
            "on_reply": [{"intent": "more", "then": {"go_to": "thanks"}}, {"then": "complete"}],
        },
        {"id": "thanks", "final": True, "message": {"body": "Thanks"}},
    ]
)


async def test_while_workers_work(mongodb_uri, mongodb_client, database_name, tmp_path):
    """Of a campaign in motion, with replies and opt-outs, nothing is ever called wrong."""
    epoch = datetime.now(UTC).isoformat()
    scale = {"CAMPAIGN_TIME_SCALE": "28800", "CAMPAIGN_TIME_EPOCH": epoch}
    environment = {"MONGODB_URI": mongodb_uri, "MONGODB_DB": database_name} | scale
    looks = []

    async with live(mongodb_uri, mongodb_client, database_name, tmp_path, **scale) as world:
        recipients = [recipient_document(f"r{n}") for n in range(300)]
        world.database.batch_requests.insert_one(
            batch_request_document(recipients, _id="q", template=MOVING)
        )
        await world.until(lambda: world.database.conversations.find_one({"slot": {"$ne": None}}))
        while not world.database.campaigns.find_one({"completed_at": {"$ne": None}}):
            world.database.conversation_updates.insert_many(
                {
                    "batch_request_id": "q",
                    "recipient_id": f"r{len(looks) * 10 + n}",
                    "kind": "opted_out" if n % 2 else "reply",
                    **({} if n % 2 else {"text": "yes", "intent": "more"}),
                }
                for n in range(10)
            )
            result = await anyio.to_thread.run_sync(
                lambda: invoke("verify", "--all", "--patience", "5", **environment)
            )
            assert (result.exit_code, result.stderr) == (0, ""), result.output
            looks.append(result.stdout)
        assert len(looks) > 3
        result = await anyio.to_thread.run_sync(lambda: invoke("verify", "q", **environment))
        assert result.exit_code == 0


# -- repair ------------------------------------------------------------------------------------------
SAFE = (
    "rejected, and with a conversation",
    "a slot in a completed campaign",
    "counts of a completed campaign",
    "messages of a completed campaign",
    "due never",
    "due after its deadline",
    "closed, and due",
    "a campaign that is never looked at",
)
#: What verify finds, and repair must not touch.
FOR_A_PERSON = (
    "a conversation is lost",
    "open in a completed campaign",
    "what cannot be read",
    "an entry that cannot be read",
    "a key without its entry",
    "two entries with one n",
    "an entry of nobody",
    "a lease that nobody takes over",
    "sent before the one before",
    "reserved after the end",
    "taken, and called cancelled",
)


def everything(database):
    """Read all documents."""
    return {name: list(database[name].find()) for name in database.list_collection_names()}


@pytest.mark.parametrize("broken", SAFE)
def test_what_is_safe_is_put_right(database, run, broken):
    """It is listed, and done when it is told to; afterwards everything holds."""
    BREAKS[broken][0](database)
    messages = list(database.messages.find())
    before = everything(database)
    planned = run("repair", "--all", "--dry-run", *NOW)
    assert planned.exit_code == 0
    assert planned.stdout.endswith("found, nothing was done\n")
    assert everything(database) == before
    done = run("repair", "--all", *NOW)
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith(" put right, 0 left\n")
    verified = run("verify", "--all", *NOW)
    assert verified.exit_code == 0, verified.output
    # Nothing is sent, cancelled or forgotten.
    assert list(database.messages.find()) == messages
    assert run("repair", "--all").stdout == "nothing is to be put right\n"


@pytest.mark.parametrize("broken", FOR_A_PERSON)
def test_what_is_not_safe_is_left_to_a_person(database, run, broken):
    """It is listed with what a person can do; nothing is written, and the exit code is 1."""
    breaks, (_, about) = BREAKS[broken]
    breaks(database)
    before = everything(database)
    result = run("repair", "--all", *NOW)
    assert result.exit_code == 1
    assert about in result.stdout
    assert ": for a person: " in result.stdout
    after = everything(database)
    if broken == "open in a completed campaign":
        # What is counted again is true, whatever becomes of it.
        del before["campaigns"], after["campaigns"]
    assert after == before


def test_repair_for_programs(database, run):
    """A line for each finding: what is done about it, and whether it is done."""
    BREAKS["due never"][0](database)
    BREAKS["a key without its entry"][0](database)
    result = run("repair", "r", "--json", *NOW)
    shown = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(one["invariant"], one["remedy"], one["done"]) for one in shown] == [
        ("I2", "person", False),
        ("I3", "due_time", True),
        ("I3", "person", True),
    ]
    assert "provider" in shown[0]["advice"]
    assert result.exit_code == 1


def test_whoever_is_faster_wins(database, run, monkeypatch):
    """What was changed meanwhile is not written to, and said to be left."""
    BREAKS["due never"][0](database)
    load = MongoStore.conversations

    async def slow(self, ids):
        found = await load(self, ids)
        database.conversations.update_one({"_id": OPEN}, {"$inc": {"version": 1}})
        return found

    monkeypatch.setattr(MongoStore, "conversations", slow)
    result = run("repair", "r", *NOW)
    assert result.exit_code == 1
    assert f"left: I3 {OPEN}: " in result.stdout
    assert database.conversations.find_one({"_id": OPEN})["due_at"] is None


def test_a_campaign_that_changes_meanwhile_is_left(database, run, monkeypatch):
    """A due time is given to no conversation whose campaign may end meanwhile."""
    BREAKS["due never"][0](database)

    async def lost(*_, **__):
        return None

    monkeypatch.setattr(MongoStore, "write_campaign", lost)
    assert run("repair", "r", *NOW).exit_code == 1
    assert database.conversations.find_one({"_id": OPEN})["due_at"] is None


def test_repair_asks_on_a_terminal(made, database):
    """Nothing is done without a yes."""
    BREAKS["due never"][0](database)
    before = everything(database)
    _, environment = made
    code, shown = on_terminal("n\n", "repair", "r", *NOW, **environment)
    assert code == 1
    assert "Put 1 right?" in shown
    assert everything(database) == before
    code, shown = on_terminal("y\n", "repair", "r", *NOW, **environment)
    assert (code, "2 put right, 0 left" in shown) == (0, True)


def test_there_is_more_to_repair(database, run, monkeypatch):
    """One run holds so many findings; whoever runs it again puts the rest right."""
    monkeypatch.setattr("reactor.cli.repair.MOST", 1)
    BREAKS["due after its deadline"][0](database)
    BREAKS["closed, and due"][0](database)
    for _ in range(2):
        result = run("repair", "r", *NOW)
        assert (result.exit_code, "run it again" in result.stderr) == (1, True)
        assert result.stdout.endswith("1 put right, 0 left\n")
    assert run("repair", "r", *NOW).stdout == "nothing is to be put right\n"


def test_usage_of_repair(run):
    """It is told what to repair, as `verify` is told what to verify."""
    assert run("repair").exit_code == 2
    assert run("repair", "nothing").exit_code == 3


async def test_what_was_repaired_goes_on(mongodb_uri, mongodb_client, database_name, tmp_path):
    """A conversation that was due never is led to its end, its messages sent once each."""
    environment = {"MONGODB_URI": mongodb_uri, "MONGODB_DB": database_name}
    async with make_world(mongodb_uri, mongodb_client, database_name, tmp_path) as world:
        await world.submit(2, template=FOLLOWED)
        change("conversations", world.conversation()["_id"], due_at=None)(world.database)
        await world.tell("reply", "r1", text="yes")
        await world.pass_time(minutes=2)
        (alert,) = world.database.alerts.find()
        assert alert["resolved_at"] is None
        result = await anyio.to_thread.run_sync(
            lambda: invoke("repair", "--all", *NOW, **environment)
        )
        assert result.exit_code == 0, result.output
        for _ in range(3):
            await world.pass_time(days=5)
        assert world.campaign()["status"] == "completed"
        assert [each["status"] for each in world.messages()] == ["sent", "sent"]
        check_invariants(world.database, world.handed_off())
        (alert,) = world.database.alerts.find()
        assert alert["resolved_at"]
