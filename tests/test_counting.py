"""Counts for the agent: how often, for whom, and by how many workers they are made."""

from datetime import timedelta

import pytest

from reactor.counting import INTERVAL_SECONDS, SHARE, SMALL, Changed
from reactor.recount import ABANDONED_SECONDS, recount
from schemas.evolving import evolve
from tests.world import world as make_world


class Seconds:
    """A monotonic clock that a test moves."""

    def __init__(self):
        """Begin at some time."""
        self.now = 1_000.0

    def __call__(self):
        """Read it."""
        return self.now


@pytest.fixture
def seconds():
    """A clock."""
    return Seconds()


@pytest.fixture
def changed(seconds):
    """What a worker has changed, by that clock."""
    return Changed(seconds)


def test_nothing_is_counted_where_nothing_changed(changed, seconds):
    """A campaign is due after the interval, and once counted not again without a change."""
    assert changed.due() == []
    changed.note("c")
    assert changed.due() == []
    seconds.now += INTERVAL_SECONDS
    assert changed.due() == [("c", 1_000.0)]
    changed.counted("c", seconds.now, 10)
    seconds.now += 1_000
    assert changed.due() == []
    assert changed.due(everything=True) == []


def test_a_change_during_a_recount_is_counted_again(changed, seconds):
    """What was written after a recount began may not be in it."""
    changed.note("c")
    seconds.now += INTERVAL_SECONDS
    began = seconds.now
    seconds.now += 0.5
    changed.note("c")
    changed.counted("c", began, 10)
    assert changed.due() == []
    seconds.now += INTERVAL_SECONDS
    assert changed.due() == [("c", began + 0.5)]


@pytest.mark.parametrize(
    ("conversations", "rest"), [(SMALL, INTERVAL_SECONDS), (SMALL + 1, 3 / SHARE)]
)
def test_a_long_recount_of_a_large_campaign_is_seldom(changed, seconds, conversations, rest):
    """Up to 100,000 conversations counts stay fresh; above, a twentieth of the time is the limit."""
    changed.note("c")
    began = seconds.now
    seconds.now += 3
    changed.counted("c", began, conversations)
    changed.note("c")
    seconds.now += rest - 0.001
    assert changed.due() == []
    seconds.now += 0.001
    assert len(changed.due()) == 1


def test_a_forgotten_campaign_is_not_counted(changed):
    """One that is over was counted for the last time, and a recount that ends late is no error."""
    changed.note("c")
    changed.forget("c")
    changed.counted("c", 0.0, 1)
    assert changed.due(everything=True) == []


@pytest.fixture
async def world(mongodb_uri, mongodb_client, database_name, tmp_path):
    """A campaign of two that is counted."""
    async with make_world(mongodb_uri, mongodb_client, database_name, tmp_path) as world:
        await world.submit(2)
        yield world


@pytest.fixture
def workers(world, changed, seconds):
    """Two workers that have both written to the campaign."""
    engine = world.worker.engine
    both = [evolve(engine, changed=each) for each in (changed, Changed(seconds))]
    for each in both:
        each.changed.note(world.campaign()["_id"])
    seconds.now += 10
    return both


async def test_one_worker_counts(world, workers):
    """A worker whose last change is in another's recount does not count again."""
    mine, other = workers
    identity = world.campaign()["_id"]
    await recount(mine, identity, 1_000.0)
    counted = world.campaign()
    assert mine.changed.due(everything=True) == []
    await recount(other, identity, 1_000.0)
    assert other.changed.due(everything=True) == []
    assert world.campaign() == counted


async def test_many_workers_count_as_often_as_one(world, workers, seconds):
    """Another's recount that lacks a later change puts ours off; at the end nothing is."""
    mine, other = workers
    identity = world.campaign()["_id"]
    await recount(mine, identity, 1_000.0)
    counted = world.campaign()
    other.changed.note(identity)
    later = seconds.now + 1
    await recount(other, identity, later)
    assert world.campaign() == counted
    assert other.changed.due() == []
    await recount(other, identity, later, everything=True)
    assert world.campaign()["counting_at"] > counted["counting_at"]
    await _begin(world, seconds=INTERVAL_SECONDS, finished=True)
    recounted = world.campaign()
    await recount(mine, identity, later)
    assert world.campaign()["counting_at"] > recounted["counting_at"]


@pytest.mark.parametrize(
    ("recipients", "seconds_ago", "is_taken_over"),
    [
        (SMALL, INTERVAL_SECONDS - 1, False),
        (SMALL, INTERVAL_SECONDS, True),
        (SMALL + 1, ABANDONED_SECONDS - 1, False),
        (SMALL + 1, ABANDONED_SECONDS, True),
    ],
)
async def test_a_recount_under_way_is_left_alone(
    world, workers, seconds, recipients, seconds_ago, is_taken_over
):
    """That of a large campaign takes its time; whoever began it may have died over it."""
    identity = world.campaign()["_id"]
    world.database.campaigns.update_one(
        {"_id": identity}, {"$set": {"recipient_count": recipients}}
    )
    await _begin(world, seconds=seconds_ago, finished=False)
    begun = world.campaign()
    await recount(workers[0], identity, seconds.now)
    assert (world.campaign()["version"] > begun["version"]) == is_taken_over


async def _begin(world, *, seconds, finished):
    """Have a recount begun so long ago by another worker."""
    now = await world.worker.engine.store.now()
    began = now - timedelta(seconds=seconds)
    counted = began if finished else began - timedelta(seconds=1)
    world.database.campaigns.update_one({}, {"$set": {"counting_at": began, "counted_at": counted}})
