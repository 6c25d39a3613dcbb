"""
The baseline: the worker that one writes first. It polls, and takes one conversation at a time.

Read what is due, decide, update it under its version, enter the ledger: three commands for each,
with the documents of reactor and its indexes, and decoded.

`python -m bench.polling URI DATABASE STEP_FILE AT`
"""

import sys
from datetime import UTC, datetime

import anyio
from pymongo import AsyncMongoClient

from bench.begin import ready_until
from bench.recorded import Step

POLL_SECONDS = 1.0


async def main(uri, name, file, at):
    step = Step.read(file)
    async with AsyncMongoClient(uri, w="majority", tz_aware=True) as client:
        campaign = await client[name].campaigns.find_one()
        await ready_until(at, client, in_flight=1)
        while True:
            while await _take_one(client[name], campaign["_id"], step):
                pass
            await anyio.sleep(POLL_SECONDS)


async def _take_one(database, campaign, step):
    due = {"campaign_id": campaign, "due_at": {"$lte": datetime.now(UTC), "$type": "date"}}
    one = await database.conversations.find_one(due, sort={"due_at": 1})
    if one is None:
        return False
    guard = {"_id": one["_id"], "version": one["version"]}
    result = await database.conversations.update_one(guard, step.clear)
    if result.matched_count:
        await database.messages.insert_one(step.entry_for(one))
    return True


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
