"""
Conversations that reactor has opened, and that all fall due at one moment: what a step begins with.

They are opened once, an hour ahead. Every contestant gets a copy in a database of its own, in which
only the hour is another: that moment is the zero of its clock.
"""

import time
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta

import anyio
from loguru import logger
from pymongo import AsyncMongoClient

from bench.null_channel import NULL, null_channel
from bench.world import request
from reactor.indexes import ensure_indexes
from reactor.settings import load_settings
from reactor.worker import assemble

MASTER = "bench_due"
COPIED = ("batch_requests", "campaigns", "channels")
#: Seconds between two looks at how far a contestant is: they are not to keep mongod busy.
LOOK_SECONDS = 0.05
#: From this share of the ledger on the looks are closer: the end is what is measured.
NEAR, NEAR_SECONDS = 0.95, 0.005
#: A contestant that takes longer is stuck.
MOST_SECONDS = 300


@asynccontextmanager
async def worker_here(uri, database, **settings):
    """Run a block with a worker in this process, whose messages go nowhere."""
    environ = {"MONGODB_URI": uri, "MONGODB_DB": database, "CHANNEL_EMAIL": NULL}
    logger.disable("reactor")
    try:
        async with AsyncExitStack() as stack:
            stack.enter_context(null_channel())
            yield await assemble(load_settings(environ | settings), stack)
    finally:
        logger.enable("reactor")


async def open_due(uri, recipients):
    """Have reactor open so many conversations, none of which is due before the next hour."""
    ahead = datetime.now(UTC) + timedelta(hours=1)
    made = request(MASTER, recipients)
    made["recipients"] = [one | {"scheduled_at": ahead} for one in made["recipients"]]
    async with AsyncMongoClient(uri, w="majority") as client:
        await client[MASTER].batch_requests.insert_one(made)
    async with worker_here(uri, MASTER) as worker:
        await worker.run_once()


async def copy_due(client, name, recipients, at):
    """Make a new database like that one, with its indexes, in which so many are due at a moment."""
    await client.drop_database(name)
    await ensure_indexes(client[name])
    for collection in COPIED:
        await _copy(client, name, collection, [])
    await fall_due(client, name, at, skip=0, limit=recipients)


async def fall_due(client, name, at, *, skip, limit):
    """Copy some of the conversations, to be due at a moment."""
    due = {"due_at": at, "wait_until": at, "recipient.scheduled_at": at}
    # By id, which is a digest: any part of them is like the whole.
    part = [{"$sort": {"_id": 1}}, {"$skip": skip}, {"$limit": limit}, {"$set": due}]
    await _copy(client, name, "conversations", part)


async def _copy(client, name, collection, pipeline):
    merge = {"$merge": {"into": {"db": name, "coll": collection}}}
    await (await client[MASTER][collection].aggregate([*pipeline, merge])).to_list()


async def all_done(database, recipients):
    """Wait until the ledger has all messages and no slot holds one; the moment, by this machine."""
    await all_counted(database.messages.estimated_document_count, recipients)
    held = {"slot.state": {"$type": "string"}}
    while await database.conversations.find_one(held, hint="address_keys"):
        await anyio.sleep(NEAR_SECONDS)
    return time.time()


async def all_counted(count, recipients):
    """Wait until there are so many messages; the moment, by this machine."""
    with anyio.fail_after(MOST_SECONDS):
        while (counted := await count()) < recipients:
            near = counted >= NEAR * recipients
            await anyio.sleep(NEAR_SECONDS if near else LOOK_SECONDS)
    return time.time()
