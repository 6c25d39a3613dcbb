"""A campaign whose counts do not agree is not completed: an alert says so, until they do."""

import pytest
from attrs import evolve
from loguru import logger

from reactor.completion import AGAIN_SECONDS
from tests.builders import recipient_document, template_document
from tests.invariants import check_invariants
from tests.test_cli import invoke
from tests.world import world as make_world

OPEN = "1 conversations are open, and none of them is due"
TEMPLATE = template_document(
    stages=[{"id": "intro", "message": {"body": "Hello"}, "reply_within": "2d"}]
)


@pytest.fixture
async def world(mongodb_uri, mongodb_client, database_name, tmp_path):
    """A world with a campaign of two, of whom one has replied; three are not opened in one piece."""
    settings = {"MAX_CONVERSATIONS_PER_BATCH": "2"}
    async with make_world(mongodb_uri, mongodb_client, database_name, tmp_path, **settings) as made:
        await made.submit(2, template=TEMPLATE)
        await made.tell("reply", "r1", text="yes")
        yield made


@pytest.fixture
def told(monkeypatch, world):
    """Give what is counted and logged about alerts."""
    told = []
    monkeypatch.setattr(
        type(world.worker.engine.telemetry), "alert", lambda _, *about: told.append(about)
    )
    sink = logger.add(lambda line: told.append(line.record["message"]), level="ERROR")
    yield told
    logger.remove(sink)


WHY = "2 recipients, but 0 rejected and 1 conversations"


async def test_one_that_is_missing(world, told):
    """It is not completed, told about once, shown, looked at again, and then completed."""
    lost = world.conversation("r1")
    world.database.conversations.delete_one({"_id": lost["_id"]})
    for _ in range(3):
        await world.pass_time(days=2)
        assert (world.campaign()["status"], world.campaign()["completed_at"]) == ("active", None)
    (alert,) = world.database.alerts.find()
    assert (alert["campaign_id"], alert["reason"]) == (world.campaign()["_id"], WHY)
    assert (alert["channel"], alert["resolved_at"]) == (None, None)
    assert told == [
        "A campaign is not completed: its counts do not agree",
        ("campaign_discrepancy",),
    ]
    world.database.conversations.insert_one(lost)
    await world.pass_time(seconds=AGAIN_SECONDS + 1)
    assert world.campaign()["status"] == "completed"
    assert world.campaign()["discrepancy_at"] is None
    (alert,) = world.database.alerts.find()
    assert alert["resolved_at"] > alert["at"]
    assert alert["reason"] == WHY
    check_invariants(world.database, world.handed_off())


async def test_one_that_is_open_and_never_due(world, told):
    """Nobody forgets it: the campaign waits for it, and goes on when it is due."""
    one = world.conversation()
    world.database.conversations.update_one({"_id": one["_id"]}, {"$set": {"due_at": None}})
    await world.pass_time(days=3)
    assert world.campaign()["completed_at"] is None
    (alert,) = world.database.alerts.find()
    assert alert["reason"] == OPEN
    world.database.conversations.update_one(
        {"_id": one["_id"]}, {"$set": {"due_at": one["due_at"]}, "$inc": {"version": 1}}
    )
    await world.pass_time(minutes=2)
    assert world.campaign()["status"] == "completed"
    (alert,) = world.database.alerts.find()
    assert alert["resolved_at"]
    assert len(told) == 2


async def test_lost_races_are_no_discrepancy(world, told):
    """What was opened again while it was counted is none: whoever counted loses, and looks again."""
    store = world.worker.engine.store
    count = type(store).count

    async def counted(self, campaign):
        type(store).count = count
        counts, messages = await count(self, campaign)
        world.database.campaigns.update_one({}, {"$inc": {"version": 1}})
        return evolve(counts, open=1), messages

    await world.pass_time(hours=1)
    type(store).count = counted
    try:
        await world.pass_time(days=3)
    finally:
        type(store).count = count
    assert world.campaign()["status"] == "completed"
    assert (told, world.database.alerts.count_documents({})) == ([], 0)


async def test_it_costs_nothing_where_all_is_well(world, monkeypatch):
    """A campaign is completed with the commands that it took before: no alert is looked for."""
    store = world.worker.engine.store
    monkeypatch.setattr(type(store), "raise_alert", None)
    await world.pass_time(days=3)
    assert world.campaign()["status"] == "completed"


async def test_a_request_that_is_gone_is_no_discrepancy(world, told, monkeypatch):
    """A campaign that failed while it was opened has fewer conversations, and ends."""
    monkeypatch.setattr("reactor.opening.CHUNK", 1)
    world.request = "gone"
    opened = [recipient_document(f"g{n}") for n in range(3)]
    store, recipients = world.worker.engine.store, type(world.worker.engine.store).recipients

    async def gone(self, request, source, *, after, limit):
        if after is not None:
            return None
        return await recipients(self, request, source, after=after, limit=limit)

    monkeypatch.setattr(type(store), "recipients", gone)
    await world.submit(opened, template=TEMPLATE)
    await world.pass_time(minutes=1)
    assert (world.campaign()["status"], bool(world.campaign()["completed_at"])) == ("failed", True)
    assert world.database.conversations.count_documents({"batch_request_id": "gone"}) == 1
    assert (told, world.database.alerts.count_documents({})) == ([], 0)


def test_it_is_shown(mongodb_uri, mongodb_client, database_name):
    """`reactor status` has the campaign that an open alert is about."""
    mongodb_client[database_name].alerts.insert_one(
        {"_id": "a", "kind": "campaign_discrepancy", "campaign_id": "the-campaign", "reason": WHY}
    )
    environment = {"MONGODB_URI": mongodb_uri, "MONGODB_DB": database_name}
    output = invoke("status", **environment).output
    assert "the-campaign" in output
    assert WHY in output
