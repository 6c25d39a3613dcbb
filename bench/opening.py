"""Opening a large campaign from `batch_recipients`: how long it takes, and what memory."""

from datetime import UTC, datetime, timedelta
from time import perf_counter

import anyio
from pymongo import AsyncMongoClient, WriteConcern

from bench.figures import Figure
from bench.parked import CHUNK
from bench.progress import say
from bench.sizes import OPENED
from bench.watch import growth, memory
from bench.world import recipient, request, worker_process

LOOK_SECONDS = 1.0
#: It starts long after it is opened: what is measured is the opening alone.
STARTS_IN = timedelta(days=20)
NAME = f"opening {OPENED:,} recipients"
MEMORY = f"worker's memory, {NAME}"
GROWTH = f"growth of memory, {NAME}"


async def measure(uri, directory):
    """Give recipients per second, second by second, the time of the whole, and the worker's memory."""
    async with AsyncMongoClient(uri, w="majority") as client:
        database = client.bench_opening
        with worker_process(uri, database.name, directory / "opening.jsonl") as process:
            async with memory(process.pid) as resident:
                say(f"opening: {OPENED:,} recipients are inserted")
                await insert_recipients(database, "opening", OPENED)
                say("opening: the request is inserted")
                starts = datetime.now(UTC) + STARTS_IN
                made = from_collection("opening") | {"scheduled_at": starts}
                began = perf_counter()
                await database.batch_requests.insert_one(made)
                rates = await _opened(database)
                seconds = perf_counter() - began
        await client.drop_database(database.name)
    return {
        NAME: Figure(unit="s", samples=[seconds]),
        f"{NAME}, per second": Figure(unit="/s", samples=rates, over_time=True),
        MEMORY: Figure(unit="MB", samples=resident, over_time=True),
        GROWTH: Figure(unit="times", samples=[growth(resident)]),
    }


async def insert_recipients(database, identity, count):
    """Insert the recipients of a request that names them by `recipients_from`."""
    inserted = database.get_collection("batch_recipients", write_concern=WriteConcern(1))
    for at in range(0, count, CHUNK):
        people = [recipient(identity, index) for index in range(at, min(at + CHUNK, count))]
        await inserted.insert_many({"batch_request_id": identity, **person} for person in people)


def from_collection(identity):
    """Make a request whose recipients are in their collection."""
    made = request(identity, 0) | {"recipients_from": "batch_recipients"}
    del made["recipients"]
    return made


async def _opened(database):
    """Wait until all are opened; give how many were in each second."""
    rates, before, at, told = [], 0, perf_counter(), 0
    while not await database.campaigns.find_one({"opened": True}, ["_id"]):
        await anyio.sleep(LOOK_SECONDS)
        count, now = await database.conversations.estimated_document_count(), perf_counter()
        rates.append((count - before) / (now - at))
        before, at = count, now
        if count - told >= 100_000:
            told = count
            say(f"opening: {count:,} of {OPENED:,}")
    # The last one is of a part of a second.
    return rates[:-1] or rates
