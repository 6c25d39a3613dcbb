"""Fairness: a campaign of one, again and again, while one of a hundred thousand is worked on."""

import json
from time import perf_counter

import anyio
from attrs import define, field
from pymongo import AsyncMongoClient

from bench.figures import Figure
from bench.opening import from_collection, insert_recipients
from bench.progress import say
from bench.sizes import LARGE
from bench.world import COUNT_SECONDS, Tail, request, worker_process

PAUSE_SECONDS = 0.2
WHILE_OPENED = f"a campaign of one, while {LARGE:,} are opened"
WHILE_SENT = f"a campaign of one, while {LARGE:,} are sent"


@define
class Seen:
    """What was handed off so far."""

    tail: Tail
    large: int = 0
    #: Small campaigns that are waited for, by the address of their recipient.
    small: dict = field(factory=dict)

    async def run(self):
        """Read the channel's file until cancelled."""
        while True:
            await anyio.sleep(COUNT_SECONDS)
            for line in self.tail.raw_lines():
                # To read what each says would take from what is measured.
                if b'"small.' not in line:
                    self.large += 1
                elif (event := self.small.pop(json.loads(line)["to"], None)) is not None:
                    event.set()


async def measure(uri, directory):
    """Give milliseconds from a small campaign's insertion to its message."""
    file = directory / "fairness.jsonl"
    samples = {WHILE_OPENED: [], WHILE_SENT: []}
    async with AsyncMongoClient(uri, w="majority") as client:
        database, seen = client.bench_fairness, Seen(Tail(file))
        say(f"fairness: a campaign of {LARGE:,} is inserted")
        await insert_recipients(database, "large", LARGE)
        with worker_process(uri, database.name, file):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(seen.run)
                await _small(database, seen, "small.warm")
                await database.batch_requests.insert_one(from_collection("large"))
                while not await database.conversations.find_one({"batch_request_id": "large"}):
                    await anyio.sleep(0.01)
                await _beside(database, seen, samples)
                tasks.cancel_scope.cancel()
        await client.drop_database(database.name)
    return {name: Figure(unit="ms", samples=each) for name, each in samples.items() if each}


async def _beside(database, seen, samples):
    """Insert one small campaign after the other, until the large one has left."""
    number = 0
    while seen.large < LARGE:
        name = WHILE_SENT if seen.large else WHILE_OPENED
        samples[name].append(await _small(database, seen, f"small.{number}"))
        number += 1
        if number % 100 == 0:
            say(f"fairness: {number} small ones, {seen.large:,} messages of the large one")
        await anyio.sleep(PAUSE_SECONDS)


async def _small(database, seen, identity):
    made, event = request(identity, 1), anyio.Event()
    seen.small[made["recipients"][0]["address"]["email"]] = event
    began = perf_counter()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(database.batch_requests.insert_one, made)
        with anyio.fail_after(60):
            await event.wait()
        seconds = perf_counter() - began
    return seconds * 1000
