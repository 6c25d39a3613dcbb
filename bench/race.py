"""A race: programs are let loose on conversations that fall due at one moment, and are timed."""

import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

import anyio
from pymongo import AsyncMongoClient

from bench.due import all_done, copy_due
from bench.null_channel import NULL
from bench.world import has_heard, worker_process

DATABASE = "bench_race"
#: Seconds from the copy to the moment; whoever is not ready by then gets twice as many.
LEADS = (5, 10, 20, 40)


async def race(uri, steps, started):
    """Give the seconds from the moment to the last write of what `started(uri, name, at)` runs."""
    async with AsyncMongoClient(uri, w="majority") as client:
        for lead in LEADS:
            at = time.time() + lead
            await copy_due(client, DATABASE, steps, datetime.fromtimestamp(at, UTC))
            with started(uri, DATABASE, at) as are_ready:
                while not are_ready():
                    await anyio.sleep(0.05)
                if time.time() < at:
                    return await all_done(client[DATABASE], steps) - at
    raise TimeoutError("a contestant was never ready when all fell due")


async def race_of_programs(uri, directory, steps, *programs):
    """Race programs of this package, each a module and its arguments, in a process of its own."""

    @contextmanager
    def started(*world):
        with ExitStack() as stack:
            running = [
                stack.enter_context(_program(directory, module, *world, *arguments))
                for module, *arguments in programs
            ]
            yield lambda: all(process.stdout.readline() == b"ready\n" for process in running)

    return await race(uri, steps, started)


async def race_of_workers(uri, directory, steps, *, batch, in_flight, processes):
    """Race workers of reactor, with a channel that does nothing."""
    logs = [directory / f"worker-{number}.log" for number in range(processes)]

    @contextmanager
    def started(uri, name, at):
        with ExitStack() as stack:
            for log in logs:
                log.unlink(missing_ok=True)
                process = worker_process(
                    *(uri, name, log, log),
                    module="bench.null_channel",
                    CHANNEL_EMAIL=NULL,
                    LOG_LEVEL="INFO",
                    HEARTBEAT_FILE=f"{log}.heartbeat",
                    MAX_CONVERSATIONS_PER_BATCH=str(batch),
                    WORKER_THREADS=str(in_flight),
                )
                stack.enter_context(process)
            # Ready is who knows of all the others.
            yield lambda: all(has_heard(log, processes) for log in logs)

    return await race(uri, steps, started)


@contextmanager
def _program(directory, module, uri, name, at, *arguments):
    command = [sys.executable, "-m", module, uri, name, directory / "step.bson"]
    command += [str(each) for each in (at, *arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.terminate()
