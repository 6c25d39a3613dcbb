"""Timers: from a follow-up's due time to its hand-off, with the poll at a minute."""

import time

import anyio
from pymongo import AsyncMongoClient

from bench.world import Tail, request, worker_process

FOLLOW_UPS = 200
#: Seconds after the first message; spread, so that each is a timer of its own.
AFTER = 3.0
SPREAD = 0.025


async def measure(uri, directory):
    """Give milliseconds from due to hand-off; server and file are on this machine's one clock."""
    file = directory / "timers.jsonl"
    with worker_process(uri, "bench_timers", file, POLLING_INTERVAL_SECONDS="60"):
        async with AsyncMongoClient(uri, w="majority", tz_aware=True) as client:
            database = client.bench_timers
            tail = Tail(file)
            for number in range(FOLLOW_UPS):
                after = AFTER + number * SPREAD
                template = {
                    "stages": [
                        {
                            "id": "intro",
                            "message": {"body": "Hello"},
                            "follow_ups": [{"after": after, "message": {"body": "Still there?"}}],
                        }
                    ]
                }
                await database.batch_requests.insert_one(request(f"t{number}", 1, template))
            seen = {}
            while len(seen) < 2 * FOLLOW_UPS:
                lines = await tail.until(1)
                seen |= dict.fromkeys((line["key"] for line in lines), time.time())
            # The ledger follows the hand-off.
            query = {"_id": {"$in": list(seen)}}
            while await database.messages.count_documents(query) < len(seen):
                await anyio.sleep(0.01)
            lags = [
                (seen[one["_id"]] - one["due_at"].timestamp()) * 1000
                async for one in database.messages.find(query)
                if one["_id"].endswith("/1")
            ]
    return {"due to hand-off of a follow-up": lags}
