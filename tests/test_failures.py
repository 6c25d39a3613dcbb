"""Defects of our own: retried by the policy, then parked with their error, and no neighbour notices."""

import pytest

import reactor.at_once
import reactor.opening
import reactor.requests
import reactor.walk
from reactor.store.protocol import StoreUnavailableError
from tests.builders import recipient_document, template_document
from tests.world import world as make_world

TEMPLATE = template_document(
    stages=[{"id": "intro", "message": {"body": "Hello"}, "reply_within": "30d"}],
    max_duration="60d",
    retry={"max_attempts": 3, "initial_delay": "1m"},
)


@pytest.fixture
async def world(mongodb_uri, mongodb_client, database_name, tmp_path):
    """A world with a worker that works when it is told to."""
    async with make_world(mongodb_uri, mongodb_client, database_name, tmp_path) as made:
        yield made


@pytest.fixture
def defect(monkeypatch):
    """Make the decision fail for whatever the predicate says."""

    def install(fails):
        decide = reactor.walk.step

        def step(conversation, updates, entry, scene):
            if fails(conversation, updates):
                raise ZeroDivisionError("Ada Lovelace")
            return decide(conversation, updates, entry, scene)

        monkeypatch.setattr(reactor.walk, "step", step)

    return install


async def test_an_update_that_cannot_be_decided_is_parked(world, defect):
    """It waits between its tries, is parked with its error, and the next one is applied."""
    defect(lambda _, updates: any(update.text == "poison" for update in updates))
    await world.submit(2, template=TEMPLATE)
    poison = await world.tell("reply", text="poison")
    assert (poison["failures"], "status" in poison) == (1, False)
    await world.work()
    assert world.database.conversation_updates.find_one({"_id": "u1"})["failures"] == 1
    healthy = await world.tell("reply", "r1", text="well")
    assert healthy["status"] == "applied"
    for _ in range(2):
        await world.pass_time(minutes=5)
    parked = world.database.conversation_updates.find_one({"_id": "u1"})
    assert (parked["status"], parked["reason"]) == (
        "parked",
        "processing failed: ZeroDivisionError",
    )
    assert world.conversation()["status"] == "awaiting_reply"
    after = await world.tell("reply", text="well")
    assert after["status"] == "applied"


async def test_a_conversation_that_cannot_be_decided_is_parked(world, defect):
    """It is due again after each try, then `failed` with its error; `retry` brings it back."""
    await world.submit(2, template=TEMPLATE)
    broken = True
    defect(lambda conversation, _: broken and conversation.recipient.id == "r0")
    for days, failures in ((30, 1), (1, 2), (1, 3)):
        await world.pass_time(days=days, seconds=1)
        assert world.conversation()["failures"] == failures
    conversation = world.conversation()
    assert (conversation["status"], conversation["exit_reason"]) == ("failed", "failed_permanent")
    assert conversation["last_error"] == "ZeroDivisionError"
    assert world.conversation("r1")["exit_reason"] == "no_reply_exhausted"
    assert world.campaign()["status"] == "completed"
    broken = False
    answer = await world.tell("retry")
    assert answer["status"] == "applied"
    assert world.conversation()["exit_reason"] == "no_reply_exhausted"
    assert world.campaign()["status"] == "active"
    await world.pass_time(minutes=1)
    assert world.campaign()["status"] == "completed"
    assert world.campaign()["counts"]["by_exit_reason"] == {"no_reply_exhausted": 2}


async def test_a_request_that_cannot_be_processed_is_parked(world, monkeypatch):
    """It is tried again, then parked with its error, and starts nothing."""

    def accept(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(reactor.requests, "accept", accept)
    await world.submit(template=TEMPLATE)
    assert "status" not in world.answer()
    for _ in range(4):
        await world.pass_time(hours=1)
    answer = world.answer()
    assert answer["status"] == "parked"
    assert answer["problems"] == ["$: processing failed: ZeroDivisionError"]
    assert world.campaign() is None


async def test_a_batch_that_fails_is_split(world, monkeypatch):
    """The guilty conversation stands alone; its neighbours of the same batch are written to."""
    deliver = reactor.walk.deliver

    async def poisoned(engine, marked, meanwhile):
        if any(one.recipient.id == "r2" for one in marked.conversations.values()):
            raise ZeroDivisionError
        await deliver(engine, marked, meanwhile)

    monkeypatch.setattr(reactor.walk, "deliver", poisoned)
    monkeypatch.setattr(reactor.at_once, "deliver", poisoned)
    await world.submit(5, template=TEMPLATE)
    # What was marked in the batch that failed is taken over when its lease is over.
    await world.pass_time(minutes=1)
    written_to = {line["recipient_id"] for line in world.handed_off()}
    assert written_to == {"r0", "r1", "r3", "r4"}
    assert world.campaign()["status"] == "active"


async def test_a_campaign_that_cannot_be_worked_on_fails_alone(world, monkeypatch):
    """It is tried again, then ended with its error; the campaign beside it does not notice."""
    open_conversation = reactor.opening.open_conversation

    def poisoned(found, campaign, now):
        if campaign.batch_request_id == "poison":
            raise ZeroDivisionError
        return open_conversation(found, campaign, now)

    monkeypatch.setattr(reactor.opening, "open_conversation", poisoned)
    world.request = "poison"
    await world.submit(template=TEMPLATE)
    for _ in range(3):
        await world.pass_time(hours=1)
    campaign = world.campaign()
    assert (campaign["status"], campaign["last_error"]) == ("failed", "ZeroDivisionError")
    assert campaign["completed_at"] is not None
    assert "its campaign failed: ZeroDivisionError" in world.answer()["problems"][0]
    world.request = "healthy"
    other = [recipient_document(address={"email": "healthy@example.com"})]
    answer = await world.submit(other, template=TEMPLATE)
    assert answer["status"] == "accepted"
    assert len(world.handed_off()) == 1


@pytest.mark.parametrize("method", ["look", "take_tokens"])
async def test_what_was_not_handed_off_is_not_in_doubt(
    mongodb_uri, mongodb_client, database_name, tmp_path, monkeypatch, method
):
    """The database is away between mark and hand-off: nothing is held, although the policy is so."""
    settings = {"CHANNEL_EMAIL_ON_UNKNOWN": "hold", "CHANNEL_EMAIL_RATE": "100/s"}
    async with make_world(
        mongodb_uri, mongodb_client, database_name, tmp_path, **settings
    ) as world:
        store = type(world.worker.engine.store)
        there, away = getattr(store, method), [StoreUnavailableError("away")]

        async def called(*args):
            if away:
                raise away.pop()
            return await there(*args)

        monkeypatch.setattr(store, method, called)
        await world.submit(2, template=TEMPLATE)
        assert not world.handed_off()
        for recipient in ("r0", "r1"):
            slot = world.conversation(recipient)["slot"]
            assert (slot["state"], slot["uncertain"], slot["attempts"]) == ("reserved", False, 0)
        await world.pass_time(seconds=2)
        assert len(world.handed_off()) == 2
