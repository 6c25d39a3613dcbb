"""
Simulation: the real dispatch loop, and everything that may come between two of its awaits.

`pytest "tests/test_simulation.py::test_a_schedule[everything-417]"` runs one schedule alone.
REACTOR_SCHEDULES says how many there are: 20,000 in a night find more than hundreds at noon.
"""

import os
from time import perf_counter

import pytest
from loguru import logger

import handlers.circuit
import reactor.batches
import reactor.opening
from tests.conftest import SCHEDULES
from tests.rest import agree, come_to_rest
from tests.simulation import EVERYTHING, LIVES, faults, live_through, scheduled

#: Seeds that failed once, by life: they are run always.
REGRESSIONS = []
COUNT = int(os.environ.get("REACTOR_SCHEDULES", "600"))
NAMES = list(LIVES)
SEEDS = dict.fromkeys([*REGRESSIONS, *((NAMES[at % len(NAMES)], at) for at in range(COUNT))])


@pytest.fixture(autouse=True, scope="module")
def small_world():
    """Few recipients make several chunks, and an outage; and nobody reads what is logged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reactor.opening, "CHUNK", 2)
        patch.setattr(handlers.circuit, "MIN_RECIPIENTS", 2)
        # While a worker is stopped in a call its loop goes on: that finds nothing, and takes long.
        patch.setattr(reactor.batches, "PATIENCE_SECONDS", 2.0)
        logger.disable("reactor")
        yield
        logger.enable("reactor")


@pytest.fixture(scope="module")
def pace(pytestconfig):
    """Keep how many seconds each schedule took, for the summary."""
    seconds = []
    yield seconds
    pytestconfig.stash[SCHEDULES] = f"{len(seconds)} schedules in {sum(seconds):.0f} s"


@pytest.mark.parametrize(("life", "seed"), SEEDS, ids=[f"{life}-{seed}" for life, seed in SEEDS])
def test_a_schedule(life, seed, pace):
    """Whatever workers meet, and whenever the agent acts: all comes to its end, and all agrees."""
    began = perf_counter()
    world = scheduled(LIVES[life], seed)
    try:
        come_to_rest(world.floor)
        agree(world.floor)
    finally:
        world.floor.close()
    pace.append(perf_counter() - began)


def ended(life, fault=None, at=None):
    """Lead a life to its end; what came of each recipient, and what each got."""
    world = live_through(life, fault, at)
    try:
        come_to_rest(world.floor)
        agree(world.floor)
    finally:
        world.floor.close()
    assert world.store.seen.totals["deaths"] == (fault is not None)
    exits = {
        one["recipient"]["id"]: one["exit_reason"] for one in world.store.documents("conversations")
    }
    return world, exits, set(world.store.seen.accepted)


@pytest.mark.parametrize("at", range(len(EVERYTHING)))
def test_death_at_every_await(at):
    """Wherever in a step a worker dies, another one brings everybody to the same end."""
    world, exits, got = ended(EVERYTHING)
    for fault in faults(world.called[at]):
        try:
            _, exits_after, got_after = ended(EVERYTHING, fault, at)
            assert exits_after == exits
            assert got_after == got
        except BaseException as error:
            error.add_note(f"{fault} in step {at}")
            raise


def test_a_schedule_is_repeatable():
    """The same seed leads the same life, call by call."""
    for life, steps in LIVES.items():
        worlds = [scheduled(steps, 7) for _ in range(2)]
        one, other = ((w.floor.loop.seconds, w.store.seen.happened) for w in worlds)
        assert one == other, life
        for world in worlds:
            world.floor.close()
