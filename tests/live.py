"""A worker as it really runs, in this process: change stream, timer, poll, until it is stopped."""

import json
from contextlib import asynccontextmanager

import anyio
from attrs import define

from reactor import worker
from reactor.settings import load_settings
from schemas.documents import CODEC
from schemas.ids import campaign_id

#: What the worker writes on a document; the rest of it may be impossible to read.
ANSWER = [
    *("status", "reason", "problems", "decided_at", "applied_at"),
    *("campaign_id", "counts", "rejected_recipients", "message_id"),
]


@define
class Live:
    """A database with a worker on it."""

    database: object
    file: object

    async def until(self, condition, seconds=30):
        """Wait until a condition holds, and give what it gave."""
        with anyio.fail_after(seconds):
            while not (found := condition()):  # noqa: ASYNC110 - a database, no event
                await anyio.sleep(0.01)
        return found

    async def answered(self, collection, identity):
        """Wait until a document is answered, and give it."""
        query = {"_id": identity, "status": {"$exists": True}}
        return await self.until(lambda: self.database[collection].find_one(query, ANSWER))

    async def completed(self, request):
        """Wait until a request's campaign is over, and give it."""
        query = {"_id": campaign_id(request), "completed_at": {"$ne": None}}
        return await self.until(lambda: self.database.campaigns.find_one(query))

    def lines(self):
        """Read what was handed off."""
        text = self.file.read_text() if self.file.exists() else ""
        return [json.loads(line) for line in text.splitlines()]


@asynccontextmanager
async def live(uri, client, name, directory, **settings):
    """Run a worker as long as the block runs, and see that it stops in order."""
    file = directory / "messages.jsonl"
    environ = {
        "MONGODB_URI": uri,
        "MONGODB_DB": name,
        "CHANNEL_EMAIL": f"file:{file}",
        "HEARTBEAT_FILE": str(directory / "heartbeat"),
    }
    stop, codes = anyio.Event(), []

    async def work():
        codes.append(await worker.run(load_settings(environ | settings), stop=stop))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        try:
            yield Live(client.get_database(name, codec_options=CODEC), file)
        finally:
            stop.set()
    assert codes == [0]
