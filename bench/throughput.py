"""
Throughput: steps per second from the moment when all falls due, beside what else could do a step.

A step takes one recipient through: load, mark, last look, hand-off, ledger, clear. Every contestant
does it in every round, one after the other, so that what the machine does besides meets them all;
each ratio is of one round. What stands behind each figure: docs/benchmarks.md.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from attrs import frozen

from bench.due import open_due
from bench.peers.contestants import PEERS
from bench.progress import say
from bench.race import race_of_programs, race_of_workers
from bench.recorded import record_step
from bench.sizes import ROUNDS, STEPS

#: What part of the steps the baseline does.
ONE_BY_ONE = 0.1

#: MAX_CONVERSATIONS_PER_BATCH and WORKER_THREADS.
SETTINGS = {"at defaults": (100, 4), "tuned": (500, 4)}
PROCESSES = {1: "", 2: ", two processes"}
POLLING = "polling baseline"


def reactor(kind, processes=1):
    return f"reactor {kind}{PROCESSES[processes]}"


def ceiling(kind, processes=1):
    batch, in_flight = SETTINGS[kind]
    return f"ceiling ({batch} per batch, {in_flight} in flight){PROCESSES[processes]}"


def ratio(one, other):
    return f"{one} / {other}"


#: How much at least, by ratio.
LEAST = {
    ratio(reactor("at defaults"), ceiling("at defaults")): 0.5,
    ratio(reactor("tuned"), ceiling("tuned")): 0.6,
    ratio(reactor("tuned", 2), ceiling("tuned", 2)): 0.8,
    ratio(reactor("at defaults", 2), reactor("at defaults")): 1,
    ratio(reactor("tuned"), "Graphile Worker"): 2,
    ratio(reactor("tuned"), "Agenda"): 20,
    ratio(reactor("tuned"), "Celery"): 20,
    ratio(reactor("tuned"), "Procrastinate"): 20,
    ratio(reactor("tuned"), POLLING): 10,
}


@frozen
class Contestant:
    name: str
    #: Seconds for so many steps, on the server and in the directory of this measurement.
    run: Callable[[str, Path, int], Awaitable[float]]
    #: The part of the steps that it does.
    share: float = 1
    #: Whom it is compared with, by name.
    beside: tuple[str, ...] = ()

    @property
    def steps(self):
        return max(1, int(STEPS * self.share))


async def measure(uri, directory):
    """
    Give steps per second of each contestant, and ratios, a sample each round.

    A peer that is not installed has no sample, and a name that says what would install it.
    """
    missing = {peer: lacking for peer in PEERS if (lacking := peer.missing())}
    contestants = _contestants([peer for peer in PEERS if peer not in missing])
    await open_due(uri, STEPS)
    (await record_step(uri)).write(directory / "step.bson")
    rounds = [await _round(uri, directory, contestants) for _ in range(ROUNDS)]
    rates = {f"steps/s, {name}": [each[name] for each in rounds] for name in rounds[0]}
    lacks = {f"steps/s, {peer.name} (missing: {what})": [] for peer, what in missing.items()}
    ratios = {
        ratio(one.name, other): [each[one.name] / each[other] for each in rounds]
        for one in contestants
        for other in one.beside
    }
    return rates | lacks | ratios


async def _round(uri, directory, contestants):
    rates = {}
    for one in contestants:
        rates[one.name] = one.steps / await one.run(uri, directory, one.steps)
        say(f"{rates[one.name]:>8,.0f} steps/s, {one.name}")
    return rates


def _contestants(peers):
    """Give all, reactor beside its ceiling: the same batches, as many in flight and processes."""
    others = [Contestant(POLLING, _polling, ONE_BY_ONE)]
    others += [Contestant(peer.name, peer.run, peer.share) for peer in peers]
    found = []
    for kind, (batch, in_flight) in SETTINGS.items():
        for processes in PROCESSES:
            given = {"batch": batch, "in_flight": in_flight, "processes": processes}
            above = ceiling(kind, processes)
            found.append(Contestant(above, partial(_ceiling, **given)))
            beside = [each.name for each in others] if processes == 1 else [reactor(kind)]
            run = partial(race_of_workers, **given)
            found.append(Contestant(reactor(kind, processes), run, 1, (above, *beside)))
    return [*found, *others]


async def _ceiling(uri, directory, steps, *, batch, in_flight, processes):
    programs = [("bench.ceiling", batch, in_flight, part, processes) for part in range(processes)]
    return await race_of_programs(uri, directory, steps, *programs)


async def _polling(uri, directory, steps):
    return await race_of_programs(uri, directory, steps, ("bench.polling",))
