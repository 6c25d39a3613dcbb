"""Reaction: from an insert to the first hand-off, beside the raw change stream of the same run."""

import time

import anyio
from pymongo import AsyncMongoClient

from bench.world import Tail, request, worker_process

WARM_UP = 30
SAMPLES = 300
PAUSE_SECONDS = 0.02


async def measure(uri, directory):
    """Give milliseconds by what was measured: lists of samples."""
    file = directory / "reaction.jsonl"
    with worker_process(uri, "bench_reaction", file):
        async with AsyncMongoClient(uri, w="majority") as client:
            database = client.bench_reaction
            tail = Tail(file)
            await database.batch_requests.insert_one(request("first", 1))
            await tail.until(1)
            raw, requests, replies = [], [], []
            async with await database.raw.watch(max_await_time_ms=1000) as stream:
                for number in range(WARM_UP + SAMPLES):
                    samples = (
                        await _raw(database, stream, number),
                        await submit(database, tail, f"b{number}"),
                        await reply(database, tail, f"b{number}"),
                    )
                    if number >= WARM_UP:
                        raw.append(samples[0])
                        requests.append(samples[1])
                        replies.append(samples[2])
                    await anyio.sleep(PAUSE_SECONDS)
    return {
        "raw change stream (insert to event)": raw,
        "request to first hand-off": requests,
        "reply to next hand-off": replies,
    }


async def _raw(database, stream, number):
    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(database.raw.insert_one, {"_id": number})
        await stream.next()
    return (time.perf_counter() - began) * 1000


async def submit(database, tail, identity):
    """Insert a request for one person; the milliseconds until its message is handed off."""
    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(database.batch_requests.insert_one, request(identity, 1))
        await tail.until(1)
    return (time.perf_counter() - began) * 1000


async def reply(database, tail, identity):
    """Insert that person's reply; the milliseconds until the next message is handed off."""
    update = {
        "_id": f"{identity}.reply",
        "batch_request_id": identity,
        "recipient_id": "r0",
        "kind": "reply",
        "text": "yes",
    }
    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(database.conversation_updates.insert_one, update)
        await tail.until(1)
    return (time.perf_counter() - began) * 1000
