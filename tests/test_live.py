"""The worker as it runs: what wakes it, what it leaves behind, what it costs."""

from collections import Counter
from itertools import islice

import anyio
import pytest

from bench.commands import commands_sent
from tests.builders import (
    batch_request_document,
    recipient_document,
    template_document,
    update_document,
)
from tests.live import live

STAGES = [
    {
        "id": "intro",
        "message": {"body": "Hello"},
        "follow_ups": [{"after": "4s", "message": {"body": "Still there?"}}],
        "reply_within": "2s",
        "on_reply": [{"then": "advance"}],
    },
    {"id": "thanks", "final": True, "message": {"body": "Thanks: {{ reply.text }}"}},
]


@pytest.fixture
def run(mongodb_uri, mongodb_client, database_name, tmp_path):
    """Run a worker with these settings on the test's database."""

    def start(**settings):
        return live(mongodb_uri, mongodb_client, database_name, tmp_path, **settings)

    return start


async def campaign_of_three(world):
    """Lead one who stays silent, one who replies and one who opts out to the end."""
    request = batch_request_document(3, template=template_document(stages=STAGES))
    world.database.batch_requests.insert_one(request)
    recorded = {"status": "awaiting_reply"}
    await world.until(lambda: world.database.conversations.count_documents(recorded) == 3)
    for number, update in enumerate(
        ({"recipient_id": "r1", "kind": "reply", "text": "yes"}, {"recipient_id": "r2"})
    ):
        world.database.conversation_updates.insert_one(
            {"_id": number, "kind": "opted_out", "batch_request_id": request["_id"]}
            | {"_id": f"u{number}"}
            | update
        )
    await world.completed(request["_id"])
    return documents(world.database)


def documents(database):
    """Give all that must be alike however it came about: everything but times and tokens."""
    return {
        "campaign": [
            (one["status"], one["completion_reason"], one["counts"], one["messages"])
            for one in database.campaigns.find()
        ],
        "conversations": {
            one["recipient"]["id"]: (
                one["status"],
                one["exit_reason"],
                [(entry["reason"], entry["stage"], entry["by"]) for entry in one["history"]],
            )
            for one in database.conversations.find()
        },
        "messages": {
            one["_id"]: (one["status"], one["body"], one["attempts"])
            for one in database.messages.find()
        },
        "updates": {
            one["_id"]: (one["status"], one["reason"])
            for one in database.conversation_updates.find()
        },
    }


async def test_stream_and_poll_alone_come_to_the_same(run, mongodb_client, database_name):
    """Without the stream the poll does all work, without the poll the stream and the timer do."""
    async with run(CHANGE_STREAM="off", POLLING_INTERVAL_SECONDS="0.2") as world:
        by_poll = await campaign_of_three(world)
    mongodb_client.drop_database(database_name)
    world.file.unlink()
    async with run(POLLING_INTERVAL_SECONDS="3600") as world:
        by_stream = await campaign_of_three(world)
    assert by_poll == by_stream
    assert by_stream["conversations"]["r0"][1] == "no_reply_exhausted"
    assert by_stream["conversations"]["r1"][1] == "final_stage"
    assert by_stream["conversations"]["r2"][1] == "opted_out"


async def test_the_stream_is_opened_before_the_first_sweep(run, mongodb_client, database_name):
    """What was inserted before the start, and what is inserted after it, are both found."""
    early = batch_request_document(1, _id="early")
    mongodb_client[database_name].batch_requests.insert_one(early)
    async with run(POLLING_INTERVAL_SECONDS="3600") as world:
        await world.answered("batch_requests", "early")
        other = [recipient_document(address={"email": "other@example.com"})]
        late = batch_request_document(other, _id="late")
        world.database.batch_requests.insert_one(late)
        await world.answered("batch_requests", "late")


async def test_counts_are_fresh_within_seconds(run):
    """The agent reads counts from the campaign, a few seconds after something changed."""
    async with run() as world:
        world.database.batch_requests.insert_one(batch_request_document(20))

        def counted():
            campaign = world.database.campaigns.find_one()
            return campaign and campaign["counts"]["by_status"] == {"awaiting_reply": 20}

        await world.until(lambda: len(world.lines()) == 20)
        await world.until(counted, seconds=5)


async def test_an_idle_worker_asks_for_nothing_but_the_stream(run):
    """Between two polls only signs of life and the awaits of the change stream reach the server."""
    with commands_sent() as commands:
        async with run(POLLING_INTERVAL_SECONDS="3600") as world:
            world.database.batch_requests.insert_one(batch_request_document(1))
            await world.until(lambda: len(world.lines()) == 1)
            # The last recount is over 2 s after the last change.
            await anyio.sleep(4)
            commands.clear()
            await anyio.sleep(5)
            counts = Counter(name for name, _ in map(kind_of, commands))
    assert set(counts) == {"getMore", "update", "aggregate"}
    assert max(counts.values()) <= 7


def kind_of(command):
    """Give a command's name, and the collection that it is about."""
    return next(iter(command.items()))


SEVERAL = 1
"""What an aggregation over several collections has for a name."""
#: At the same time, as far as they stand in one set. Answers are written after the hand-off.
UNTIL_FIRST_HAND_OFF = [
    {("find", "batch_requests"), ("aggregate", SEVERAL)},
    {("find", "suppressions")},
    {("insert", "campaigns")},
    {("insert", "conversations")},
    {("aggregate", SEVERAL)},
]
UNTIL_NEXT_HAND_OFF = [
    {("aggregate", SEVERAL)},
    {("update", "conversations")},
    {("aggregate", SEVERAL)},
]


def stages(sent, expected):
    """Part what was sent as it is expected."""
    rest = iter(sent)
    return [set(islice(rest, len(each))) for each in expected]


async def test_few_commands_stand_before_a_hand_off(run):
    """What a request said, and what was read or written a moment ago, is not read again."""

    def counted():
        return world.database.campaigns.find_one()["messages"]["sent"] == 1

    def sent():
        kinds = map(kind_of, list(commands))
        return [one for one in kinds if one[0] != "getMore" and one[1] != "workers"]

    with commands_sent() as commands:
        async with run(POLLING_INTERVAL_SECONDS="3600") as world:
            # The sweep at its start is over.
            await world.until(lambda: ("aggregate", "campaigns") in sent())
            commands.clear()
            again = {"id": "intro", "message": {"body": "Hello"}}
            again["on_reply"] = [{"then": {"go_to": "intro"}}]
            request = batch_request_document(1, template=template_document(stages=[again]))
            world.database.batch_requests.insert_one(request)
            await world.until(lambda: len(world.lines()) == 1)
            assert stages(sent(), UNTIL_FIRST_HAND_OFF) == UNTIL_FIRST_HAND_OFF
            await world.until(counted, seconds=5)
            commands.clear()
            world.database.conversation_updates.insert_one(update_document())
            await world.until(lambda: len(world.lines()) == 2)
            assert stages(sent(), UNTIL_NEXT_HAND_OFF) == UNTIL_NEXT_HAND_OFF


async def test_a_campaign_ends_with_its_last_message(run):
    """Not when the leases are over that another turn saw while it was on its way."""
    final = {"id": "intro", "message": {"body": "Hello"}, "final": True}
    template = template_document(stages=[final])
    async with run(MAX_CONVERSATIONS_PER_BATCH="20", LEASE_SECONDS="600") as world:
        for number in range(3):
            request = batch_request_document(200, _id=f"r{number}", template=template)
            world.database.batch_requests.insert_one(request)
            await world.completed(f"r{number}")
