"""Counts for the agent: how often, for whom, and by how many workers they are made."""

import pytest

from reactor.counting import INTERVAL_SECONDS, SHARE, SMALL, Changed
from reactor.recount import recount
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


async def test_one_worker_counts(mongodb_uri, mongodb_client, database_name, tmp_path, seconds):
    """A worker whose last change is in another's recount does not count again."""
    async with make_world(mongodb_uri, mongodb_client, database_name, tmp_path) as world:
        await world.submit(2)
        engine = world.worker.engine
        identity = world.campaign()["_id"]
        mine, other = Changed(seconds), Changed(seconds)
        mine.note(identity)
        other.note(identity)
        seconds.now += 10
        await recount(engine.store, mine, engine.scale, identity, 1_000.0)
        counted = world.campaign()
        assert mine.due(everything=True) == []
        await recount(engine.store, other, engine.scale, identity, 1_000.0)
        assert other.due(everything=True) == []
        assert world.campaign() == counted
        other.note(identity)
        await recount(engine.store, other, engine.scale, identity, seconds.now + 10)
        assert world.campaign()["version"] > counted["version"]
