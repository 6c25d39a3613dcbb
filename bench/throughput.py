"""
Throughput: steps per second from the moment when all falls due, beside what else could do a step.

A step takes one recipient through: load, mark, last look, hand-off, ledger, clear. Every contestant
does it in every round, one after the other, so that what the machine does besides meets them all;
each ratio is of one round.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import anyio
from attrs import field, frozen
from pymongo import AsyncMongoClient

from bench.due import all_done, copy_due, open_due
from bench.null_channel import NULL
from bench.recorded import record_step
from bench.world import has_heard, worker_process

ROUNDS = int(os.environ.get("REACTOR_BENCH_ROUNDS", "3"))
#: Steps of a fast contestant; of one that takes one recipient at a time, and of most others, a part.
STEPS = int(os.environ.get("REACTOR_BENCH_STEPS", "10000"))
ONE_BY_ONE = max(1, STEPS // 10)
#: Seconds from the copy to the moment: whoever is not ready by then is a failure of the benchmark.
LEAD_SECONDS = float(os.environ.get("REACTOR_BENCH_LEAD", "6"))

DEFAULTS = (100, 4)
#: Found by trying: see README.
TUNED = (500, 4)


@frozen
class Contestant:
    """Somebody who does steps."""

    name: str
    steps: int
    #: Seconds for the steps, on the server and in the directory of this measurement.
    run: Callable[[str, Path], float]
    #: Names of those whom it is compared with, round by round.
    beside: tuple[str, ...] = field(default=())


async def measure(uri, directory):
    """Give steps per second of each contestant, and ratios, a sample each round."""
    contestants = _contestants()
    await open_due(uri, STEPS)
    (await record_step(uri)).write(directory / "step.bson")
    samples = {f"steps/s, {one.name}": [] for one in contestants}
    for _ in range(ROUNDS):
        for one in contestants:
            seconds = await one.run(uri, directory)
            samples[f"steps/s, {one.name}"].append(one.steps / seconds)
            print(f"  {one.steps / seconds:>8,.0f} steps/s  {one.name}", file=sys.stderr)
    return samples | _ratios(contestants, samples)


def _ratios(contestants, samples):
    return {
        f"{one.name} / {other}": [
            mine / theirs
            for mine, theirs in zip(
                samples[f"steps/s, {one.name}"], samples[f"steps/s, {other}"], strict=True
            )
        ]
        for one in contestants
        for other in one.beside
    }


def _contestants():
    found = []
    for kind, (batch, in_flight) in {"at defaults": DEFAULTS, "tuned": TUNED}.items():
        for processes, suffix in {1: "", 2: ", two processes"}.items():
            ceiling = f"ceiling ({batch} per batch, {in_flight} in flight){suffix}"
            run = partial(_ceiling, batch=batch, in_flight=in_flight, processes=processes)
            found.append(Contestant(ceiling, STEPS, run))
            run = partial(_reactor, batch=batch, in_flight=in_flight, processes=processes)
            beside = (ceiling,) if suffix else (ceiling, "polling baseline")
            found.append(Contestant(f"reactor {kind}{suffix}", STEPS, run, beside))
    return [*found, Contestant("polling baseline", ONE_BY_ONE, _polling)]


async def _ceiling(uri, directory, batch, in_flight, processes):
    programs = [("bench.ceiling", batch, in_flight, n, processes) for n in range(processes)]
    return await _race(uri, STEPS, lambda *world: _programs(programs, directory, *world))


async def _polling(uri, directory):
    programs = [("bench.polling",)]
    return await _race(uri, ONE_BY_ONE, lambda *world: _programs(programs, directory, *world))


async def _reactor(uri, directory, batch, in_flight, processes):
    settings = {
        "CHANNEL_EMAIL": NULL,
        "LOG_LEVEL": "INFO",
        "MAX_CONVERSATIONS_PER_BATCH": str(batch),
        "WORKER_THREADS": str(in_flight),
    }
    return await _race(uri, STEPS, lambda *world: _workers(processes, settings, directory, *world))


async def _race(uri, steps, start):
    """Let it loose on a copy of its own; the seconds from the moment to the last of its writes."""
    name = "bench_race"
    async with AsyncMongoClient(uri, w="majority") as client:
        at = time.time() + LEAD_SECONDS
        await copy_due(client, name, steps, datetime.fromtimestamp(at, UTC))
        with start(uri, name, at) as are_ready:
            while not are_ready():
                if time.time() > at:
                    raise TimeoutError("not ready when all fell due: raise REACTOR_BENCH_LEAD")
                await anyio.sleep(0.05)
            ended = await all_done(client[name], steps)
        await client.drop_database(name)
    return ended - at


@contextmanager
def _programs(programs, directory, uri, name, at):
    """Run programs of ours on the copy, as processes."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, uri, name, directory / "step.bson"]
            + [str(each) for each in (at, *arguments)],
            stdout=subprocess.PIPE,
        )
        for module, *arguments in programs
    ]
    try:
        yield lambda: all(process.stdout.readline() for process in processes)
    finally:
        for process in processes:
            process.terminate()
            process.wait(30)
            process.stdout.close()


@contextmanager
def _workers(count, settings, directory, uri, name, at):
    """Run workers of reactor on the copy; ready is who knows of all the others."""
    logs = [directory / f"worker-{number}.log" for number in range(count)]
    with ExitStack() as stack:
        for log in logs:
            process = worker_process(
                *(uri, name, log, log),
                module="bench.null_channel",
                **settings,
                HEARTBEAT_FILE=f"{log}.heartbeat",
            )
            stack.enter_context(process)
        yield lambda: all(has_heard(log, count) for log in logs)
