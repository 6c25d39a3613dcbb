"""Idle: what a worker costs that has nothing to do, with many who wait."""

from datetime import UTC, datetime

import anyio
from pymongo import AsyncMongoClient

from bench.figures import Figure
from bench.parked import CHUNK, crowd, enter, park
from bench.progress import say
from bench.scale import TEMPLATE
from bench.sizes import IDLE_PARKED, IDLE_SECONDS
from bench.watch import cpu_seconds
from bench.world import worker_process
from reactor.indexes import ensure_indexes

#: After its start, before it is watched.
SETTLE_SECONDS = 5
WINDOWS = 5
SHARE = "idle worker, share of a core"
#: What this program asks itself.
OWN = {"serverStatus", "endSessions"}


async def measure(uri, directory):
    """Give the share of a core in per cent, by parts of the time, and commands per second by name."""
    async with AsyncMongoClient(uri, w="majority") as client:
        database = client.bench_idle
        say(f"idle: {IDLE_PARKED:,} are parked")
        await ensure_indexes(database)
        now = datetime.now(UTC).replace(microsecond=0)
        of = crowd("idle", IDLE_PARKED, TEMPLATE, now)
        await enter(database, of)
        for at in range(0, IDLE_PARKED, CHUNK):
            await park(database, of, range(at, min(at + CHUNK, IDLE_PARKED)), now)
    with worker_process(uri, "bench_idle", directory / "idle.jsonl") as process:
        await anyio.sleep(SETTLE_SECONDS)
        say(f"idle: the worker is watched for {IDLE_SECONDS} s")
        before, shares = await _commands(uri), []
        for _ in range(WINDOWS):
            used = cpu_seconds(process.pid)
            await anyio.sleep(IDLE_SECONDS / WINDOWS)
            shares.append((cpu_seconds(process.pid) - used) / (IDLE_SECONDS / WINDOWS) * 100)
        after = await _commands(uri)
    async with AsyncMongoClient(uri) as client:
        await client.drop_database("bench_idle")
    rates = {name: (count - before.get(name, 0)) / IDLE_SECONDS for name, count in after.items()}
    return {SHARE: Figure(unit="%", samples=shares)} | {
        f"idle worker, {name}": Figure(unit="/s", samples=[rate])
        for name, rate in sorted(rates.items())
        if rate and name not in OWN
    }


async def _commands(uri):
    """Count the server's commands so far; on a client that is closed again, so it asks nothing else."""
    async with AsyncMongoClient(uri) as client:
        status = await client.admin.command("serverStatus")
    commands = status["metrics"]["commands"]
    return {name: each["total"] for name, each in commands.items() if isinstance(each, dict)}
