"""A rate for four workers together: how many messages leave in each second."""

from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import anyio
from pymongo import AsyncMongoClient

from bench.world import Tail, request, worker_process

RATE = 200
SECONDS = 20
WORKERS = 4


async def measure(uri, directory):
    """Give the messages of each full second, by the server's clock: the limit is 200."""
    file = directory / "rate.jsonl"
    settings = {"CHANNEL_EMAIL_RATE": f"{RATE}/s"}
    with ExitStack() as stack:
        for number in range(WORKERS):
            beat = {"HEARTBEAT_FILE": f"{file}.heartbeat{number}"}
            stack.enter_context(worker_process(uri, "bench_rate", file, **settings, **beat))
        async with AsyncMongoClient(uri, w="majority", tz_aware=True) as client:
            beats = [Path(f"{file}.heartbeat{number}") for number in range(WORKERS)]
            while not all(beat.exists() for beat in beats):
                await anyio.sleep(0.1)
            await client.bench_rate.batch_requests.insert_one(request("rate", RATE * SECONDS))
            tail, seen = Tail(file), Counter()
            while seen.total() < RATE * SECONDS:
                seen[int(anyio.current_time())] += len(await tail.until(1))
    first, last = min(seen), max(seen)
    return {
        f"messages in a second, of {RATE} allowed": [seen[s] for s in range(first + 1, last)],
    }
