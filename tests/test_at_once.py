"""A small request is opened and begun in the turn that accepts it: what is marked, and what is not."""

from datetime import timedelta

import anyio
import pytest

from schemas.ids import conversation_id
from tests.builders import recipient_document, template_document
from tests.invariants import check_invariants
from tests.world import world as make_world

TEMPLATE = template_document(stages=[{"id": "intro", "message": {"body": "Hello"}}])


@pytest.fixture
def at(mongodb_uri, mongodb_client, database_name, tmp_path):
    """Make a world with these settings."""
    return lambda **settings: make_world(
        mongodb_uri, mongodb_client, database_name, tmp_path, **settings
    )


def states(world):
    """Give how each conversation's message stands: its slot's state and attempts; None: it has left."""
    return {
        one["recipient"]["id"]: one["slot"] and (one["slot"]["state"], one["slot"]["attempts"])
        for one in world.database.conversations.find()
    }


async def test_one_write_opens_and_marks(at):
    """Insertion and mark are one version, the outcome is the next."""
    async with at() as world:
        answer = await world.submit(3, template=TEMPLATE)
        assert (answer["status"], len(world.handed_off())) == ("accepted", 3)
        assert {one["version"] for one in world.database.conversations.find()} == {1}
        assert world.campaign()["status"] == "active"
        check_invariants(world.database, world.handed_off())


async def test_as_many_as_the_channel_takes(at):
    """The others wait at the gate, were never marked in vain, and leave when it opens."""
    limited = {"CHANNEL_EMAIL_RATE": "1/s", "CHANNEL_EMAIL_BURST": "2"}
    async with at(**limited) as world:
        await world.submit(4, template=TEMPLATE)
        assert len(world.handed_off()) == 2
        assert sorted(filter(None, states(world).values())) == [("reserved", 0)] * 2
        # Its tokens flow by the server's clock.
        with anyio.fail_after(30):
            while len(world.handed_off()) < 4:
                await world.pass_time(seconds=1)
        assert {one["attempts"] for one in world.database.messages.find()} == {1}
        check_invariants(world.database, world.handed_off())


async def test_who_begins_later_is_not_marked(at):
    """A recipient with a time of its own is only opened."""
    async with at() as world:
        later = await world.worker.engine.store.now() + timedelta(hours=1)
        people = [recipient_document("r0"), recipient_document("r1", scheduled_at=later)]
        await world.submit(people, template=TEMPLATE)
        assert len(world.handed_off()) == 1
        assert states(world) == {"r0": None, "r1": None}
        assert world.conversation("r1")["message_count"] == 0
        await world.pass_time(hours=2)
        assert len(world.handed_off()) == 2


@pytest.mark.parametrize("kind", ["opted_out", "cancel"])
async def test_an_early_word_stops_the_first_message(at, kind):
    """It was there before the conversation: the last look sees it, and the next turn applies it."""
    async with at() as world:
        early = await world.insert(kind, "r1")
        await world.submit(2, template=TEMPLATE)
        for _ in range(3):
            await world.pass_time(seconds=2)
        assert {line["recipient_id"] for line in world.handed_off()} == {"r0"}
        answer = world.database.conversation_updates.find_one({"_id": early})
        assert answer["status"] == "applied"
        assert world.conversation("r1")["status"] in {"completed", "cancelled"}
        identity = conversation_id("r", "r1")
        assert not world.database.messages.find_one({"conversation_id": identity, "status": "sent"})
        check_invariants(world.database, world.handed_off())
