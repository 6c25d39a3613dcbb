"""A rate for four workers together: how many messages leave in each second."""

from collections import Counter
from contextlib import ExitStack

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
            await anyio.sleep(3)  # all four are there
            await client.bench_rate.batch_requests.insert_one(request("rate", RATE * SECONDS))
            tail, seen = Tail(file), Counter()
            while seen.total() < RATE * SECONDS:
                seen[int(anyio.current_time())] += len(await tail.until(1))
    first, last = min(seen), max(seen)
    return {
        f"messages in a second, of {RATE} allowed": [seen[s] for s in range(first + 1, last)],
    }
