"""Timers: from a follow-up's due time to its hand-off, with the poll at a minute."""

import time
from datetime import UTC

from bench.world import Tail, request, worker_process

from pymongo import AsyncMongoClient

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
            lags = []
            seen = {}
            while len(lags) < FOLLOW_UPS:
                for line in await tail.until(1):
                    now = time.time()
                    identity = line["conversation_id"]
                    if identity not in seen:
                        seen[identity] = line
                        continue
                    ledger = await _entry(database, line["key"])
                    due = ledger["due_at"].replace(tzinfo=UTC).timestamp()
                    lags.append((now - due) * 1000)
    return {"due to hand-off of a follow-up": lags}


async def _entry(database, key):
    while True:
        entry = await database.messages.find_one({"_id": key})
        if entry:
            return entry


