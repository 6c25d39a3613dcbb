"""What a newer worker wrote is left alone: neither processed nor failed, counted, and said once."""

import anyio
import pytest
from click.testing import CliRunner
from loguru import logger

import reactor.newer
from reactor.cli.commands import reactor as commands
from reactor.newer import Newer
from schemas.hand_off import OnUnknown
from schemas.ids import campaign_id, conversation_id
from tests.builders import DAY, batch_request_document, recipient_document
from tests.machine import Floor, Shift
from tests.world import world as make_world

DAYS = DAY.total_seconds()
CAMPAIGN = campaign_id("q")
THEIRS = conversation_id("q", "r1")


@pytest.fixture
def world():
    """Three conversations that have begun, and a worker; one was then written by a newer worker."""
    made = Floor(policy=OnUnknown.RESEND, batch_size=2, workers=2)
    recipients = [recipient_document(f"r{n}") for n in range(3)]
    made.store.insert("batch_requests", batch_request_document(recipients, _id="q"))
    made.work([Shift(worker=0)])
    written(made, "conversations", THEIRS, schema_version=2, novelty="of theirs")
    yield made
    made.close()


@pytest.fixture
def said():
    """Keep what is logged."""
    lines = []
    sink = logger.add(lines.append, format="{level} {message}")
    yield lines
    logger.remove(sink)


def written(world, collection, identity, **fields):
    """Write to a document as a newer worker does."""
    stored = world.store._of(collection).get(identity)
    stored.set({**fields, "version": stored.fields["version"] + 1})


def pass_days(world, days):
    """Let days pass, one by one, and a worker do what has fallen due."""
    for _ in range(days):
        world.loop.seconds += DAYS
        world.work([Shift(worker=0)])


def reply(world, recipient):
    """Somebody replies."""
    update = {"_id": recipient, "batch_request_id": "q", "recipient_id": recipient}
    world.store.insert("conversation_updates", update | {"kind": "reply", "text": "Yes"})


def test_the_others_go_on(world, said):
    """Whatever it is told and however long it takes; its campaign is not over while it is not."""
    counted = []
    world.workers[0].engine.telemetry.newer = counted.append
    before = world.store.one("conversations", THEIRS)
    for recipient in ("r0", "r1"):
        reply(world, recipient)
    pass_days(world, 35)
    found = {one["recipient"]["id"]: one for one in world.store.documents("conversations")}
    assert found["r1"] == before
    assert (found["r0"]["exit_reason"], found["r2"]["exit_reason"]) == (
        "replied",
        "no_reply_exhausted",
    )
    assert world.store.one("conversation_updates", "r0")["status"] == "applied"
    assert world.store.one("conversation_updates", "r1").get("status") is None
    assert world.store.one("campaigns", CAMPAIGN)["completed_at"] is None
    assert sum(counted) == 1
    assert sum("newer schema version" in line for line in said) == 1
    assert not world.store.seen.violations


def test_a_newer_worker_ends_it(world):
    """Then the campaign is over for an older one, too."""
    pass_days(world, 6)
    closed = {"status": "completed", "exit_reason": "replied", "due_at": None}
    written(world, "conversations", THEIRS, **closed)
    pass_days(world, 1)
    campaign = world.store.one("campaigns", CAMPAIGN)
    assert campaign["completed_at"]
    assert campaign["counts"]["by_exit_reason"] == {"no_reply_exhausted": 2, "replied": 1}


@pytest.mark.parametrize("kind", ["pause", "cancel"])
def test_an_order_for_the_campaign(world, kind):
    """It takes effect on what is ours; the rest of the campaign is for a newer worker to end."""
    before = world.store.one("conversations", THEIRS)
    world.store.insert("campaign_updates", {"_id": "o1", "batch_request_id": "q", "kind": kind})
    world.work([Shift(worker=0)])
    world.store.insert("campaign_updates", {"_id": "o2", "batch_request_id": "q", "kind": "resume"})
    pass_days(world, 8)
    assert world.store.one("conversations", THEIRS) == before
    campaign = world.store.one("campaigns", CAMPAIGN)
    assert (campaign["completed_at"], campaign["all_closed"]) == (None, False)
    statuses = {one["status"] for one in world.store.documents("conversations")}
    ours = "completed" if kind == "pause" else "cancelled"
    assert statuses == {ours, "awaiting_reply"}


def test_more_than_can_be_kept_in_mind(world, monkeypatch):
    """A campaign with many of them is left alone altogether."""
    monkeypatch.setattr(reactor.newer, "MANY", 0)
    pass_days(world, 1)
    reply(world, "r1")
    world.work([Shift(worker=0)])
    before = world.store.documents("conversations")
    pass_days(world, 5)
    assert world.store.documents("conversations") == before


def test_a_campaign_of_theirs(world, said):
    """Nothing of it is touched."""
    written(world, "campaigns", CAMPAIGN, schema_version=2, template={"of": "another kind"})
    reply(world, "r0")
    names = ("campaigns", "conversations", "conversation_updates", "messages")
    before = [world.store.documents(name) for name in names]
    pass_days(world, 35)
    assert [world.store.documents(name) for name in names] == before
    assert sum("newer schema version" in line for line in said) == 1
    assert not any(line.startswith("ERROR") for line in said)


def test_what_is_known_of_them():
    """Each is counted once; once none has work any more, nothing is known."""
    newer = Newer()
    assert newer.meet("c", ["a", "b"]) == 2
    assert newer.meet("c", ["b", "d"]) == 1
    assert newer.meet("c", []) == 0
    assert newer.of("c") == {"a", "b", "d"}
    assert not newer.are_many("c")
    newer.forget("c")
    assert newer.of("c") == frozenset()


async def test_a_person_is_told(mongodb_uri, mongodb_client, database_name, tmp_path):
    """`status` and `check` say how many there are; on MongoDB, too, they are left alone."""
    environ = {"MONGODB_URI": mongodb_uri, "MONGODB_DB": database_name, "CHANNEL_EMAIL": "log:"}

    async def said(*arguments):
        invoked = await anyio.to_thread.run_sync(
            lambda: CliRunner().invoke(commands, arguments, env=environ)
        )
        return invoked.exit_code, invoked.output

    async with make_world(mongodb_uri, mongodb_client, database_name, tmp_path) as made:
        await made.submit(2)
        _, listed = await said("status")
        assert "newer version" not in listed
        code, checked = await said("check")
        assert (code, "none of a newer version" in checked) == (0, True)
        theirs = {"_id": conversation_id("r", "r1")}
        made.database.conversations.update_one(theirs, {"$set": {"schema_version": 2}})
        before = made.conversation("r1")
        await made.pass_time(days=6)
        await made.pass_time(days=40)
        assert made.conversation("r1") == before
        assert made.conversation("r0")["status"] == "completed"
        assert made.campaign()["completed_at"] is None
        assert "Documents of a newer version: conversations 1" in (await said("status"))[1]
        assert "conversations 1" in (await said("status", "r"))[1]
        code, checked = await said("check")
        assert (code, "of a newer version: conversations 1" in checked) == (1, True)
