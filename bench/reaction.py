"""Reaction: from an insert to the hand-off that follows, beside the least that it could take."""

import time

import anyio
from pymongo import AsyncMongoClient

from bench.figures import Figure
from bench.progress import say
from bench.sizes import REACTIONS
from bench.world import Tail, request, worker_process

WARM_UP = 30
#: What came before is recorded by then, and the worker has nothing to do.
PAUSE_SECONDS = 0.05
INSERTS = [{"$match": {"operationType": "insert"}}]
EVENT = "raw: insert to event"
RAW = "raw: insert, event, guarded write"
REQUEST = "request to first hand-off"
REPLY = "reply to next hand-off"


async def measure(uri, directory):
    """Give milliseconds: in each round a raw change stream, a request and its reply, in turn."""
    file = directory / "reaction.jsonl"
    taken = {name: [] for name in (EVENT, RAW, REQUEST, REPLY)}
    async with (
        AsyncMongoClient(uri, w="majority") as client,
        AsyncMongoClient(uri) as listening,
    ):
        database, tail = client.bench_reaction, Tail(file)
        with worker_process(uri, database.name, file):
            await database.batch_requests.insert_one(request("first", 1))
            await tail.until(1)
            say(f"reaction: {REACTIONS} rounds, one thing at a time")
            async with await listening[database.name].raw.watch(INSERTS) as stream:
                for number in range(WARM_UP + REACTIONS):
                    milliseconds = await _round(database, stream, tail, number)
                    if number >= WARM_UP:
                        for samples, each in zip(taken.values(), milliseconds, strict=True):
                            samples.append(each)
        await client.drop_database(database.name)
    return {name: Figure(unit="ms", samples=samples) for name, samples in taken.items()}


async def _round(database, stream, tail, number):
    """Take each of the measurements once, in the order of their names."""
    event, written = await _raw(database.raw, stream, number)
    await anyio.sleep(PAUSE_SECONDS)
    requested = await submit(database, tail, f"b{number}")
    await anyio.sleep(PAUSE_SECONDS)
    replied = await reply(database, tail, f"b{number}")
    await anyio.sleep(PAUSE_SECONDS)
    return event, written, requested, replied


async def _raw(collection, stream, number):
    """Insert a document, hear of it, and write it under its version, acknowledged by the majority."""
    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(collection.insert_one, {"_id": number, "version": 0})
        await stream.next()
        heard = time.perf_counter()
        guarded = {"_id": number, "version": 0}
        await collection.update_one(guarded, {"$set": {"state": "seen"}, "$inc": {"version": 1}})
        written = time.perf_counter()
    return (heard - began) * 1000, (written - began) * 1000


async def submit(database, tail, identity):
    """Insert a request for one person; the milliseconds until its message is handed off."""
    return await _until_handed_off(database.batch_requests, request(identity, 1), tail)


async def reply(database, tail, identity):
    """Insert that person's reply; the milliseconds until the next message is handed off."""
    update = {
        "_id": f"{identity}.reply",
        "batch_request_id": identity,
        "recipient_id": "r0",
        "kind": "reply",
        "text": "yes",
    }
    return await _until_handed_off(database.conversation_updates, update, tail)


async def _until_handed_off(collection, document, tail):
    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(collection.insert_one, document)
        await tail.until(1)
        seconds = time.perf_counter() - began
    return seconds * 1000
