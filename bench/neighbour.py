"""A channel beside one whose provider hangs: from a reply to the next hand-off, with it and without."""

import socket
from contextlib import contextmanager

import anyio
from pymongo import AsyncMongoClient

from bench.reaction import reply, submit
from bench.world import Tail, request, worker_process

ROUNDS = 4
SAMPLES = 100
WARM_UP = 20
BACKLOG = 2_000
PAUSE_SECONDS = 0.02


async def measure(uri, directory):
    """Give milliseconds without and with the outage, in turns."""
    file = directory / "neighbour.jsonl"
    samples = {"a reply, all channels well": [], "a reply, another channel's provider hangs": []}
    with (
        silence() as port,
        worker_process(
            uri,
            "bench_neighbour",
            file,
            CHANNEL_POST=f"http://127.0.0.1:{port}/",
            CHANNEL_POST_ALLOW_PRIVATE="1",
        ),
    ):
        async with AsyncMongoClient(uri, w="majority") as client:
            database, tail = client.bench_neighbour, Tail(file)
            await _replies(database, tail, "warm", WARM_UP)
            for number in range(ROUNDS):
                well, beside = samples.values()
                well += await _replies(database, tail, f"well{number}", SAMPLES)
                await _hang(database, f"hang{number}")
                beside += await _replies(database, tail, f"beside{number}", SAMPLES)
                await _cancel(database, f"hang{number}")
    return samples


@contextmanager
def silence():
    """Listen on a port, and never answer."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        yield listener.getsockname()[1]


async def _replies(database, tail, name, count):
    """Let so many people reply, one after the other."""
    taken = []
    for number in range(count):
        identity = f"{name}.{number}"
        await submit(database, tail, identity)
        taken.append(await reply(database, tail, identity))
        await anyio.sleep(PAUSE_SECONDS)
    return taken


async def _hang(database, name):
    made = request(name, BACKLOG)
    made["template"]["channel"] = "post"
    for number, recipient in enumerate(made["recipients"]):
        recipient["address"] = {"post": f"{name}.{number}"}
    await database.batch_requests.insert_one(made)
    # A large campaign is work, whatever its provider does: that is not what is measured.
    taken_up = {"batch_request_id": name, "slot": {"$ne": None}}
    while await database.conversations.count_documents(taken_up) < BACKLOG:
        await anyio.sleep(0.1)


async def _cancel(database, name):
    order = {"_id": name, "batch_request_id": name, "kind": "cancel"}
    await database.campaign_updates.insert_one(order)
    over = {"batch_request_id": name, "status": "cancelled", "all_closed": True}
    while not await database.campaigns.find_one(over):
        await anyio.sleep(0.1)
