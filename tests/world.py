"""A world for end-to-end tests: a real database, a real worker, and a clock that tests move."""

import json
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

from attrs import define, field

from reactor.clock import TimeScale
from reactor.settings import load_settings
from reactor.worker import Worker, assemble
from schemas.documents import CODEC
from schemas.ids import campaign_id, conversation_id
from tests.builders import batch_request_document


class MovedTime(TimeScale):
    """Campaign time that runs like the server's, and is moved on by the test."""

    ahead = timedelta(0)

    def campaign_time(self, server):
        """Give the server's time, moved."""
        return super().campaign_time(server + MovedTime.ahead)


@define
class World:
    """One request and its campaign, seen as the agent sees them."""

    database: object
    worker: Worker
    directory: Path
    request: object = "r"
    updates: int = field(default=0)

    async def work(self):
        """Let the worker do all that there is to do now."""
        await self.worker.run_once()

    async def pass_time(self, **span):
        """Let time pass, then the worker do what has fallen due."""
        MovedTime.ahead += timedelta(**span)
        await self.work()

    async def submit(self, recipients=1, **changes):
        """Insert a request as an agent does, and let the worker take it."""
        self.database.batch_requests.insert_one(
            batch_request_document(recipients, **{"_id": self.request} | changes)
        )
        await self.work()
        return self.answer()

    async def tell(self, kind, recipient="r0", **fields):
        """Insert a conversation update, let the worker take it, and give its answer."""
        identity = await self.insert(kind, recipient, **fields)
        await self.work()
        return self.database.conversation_updates.find_one({"_id": identity})

    async def insert(self, kind, recipient="r0", **fields):
        """Insert a conversation update."""
        self.updates += 1
        update = {
            "_id": f"u{self.updates}",
            "batch_request_id": self.request,
            "recipient_id": recipient,
            "kind": kind,
        }
        self.database.conversation_updates.insert_one(update | fields)
        return (update | fields)["_id"]

    async def order(self, kind, **fields):
        """Insert a campaign update, let the worker take it, and give its answer."""
        self.updates += 1
        identity = f"u{self.updates}"
        self.database.campaign_updates.insert_one(
            {"_id": identity, "batch_request_id": self.request, "kind": kind} | fields
        )
        await self.work()
        return self.database.campaign_updates.find_one({"_id": identity})

    def answer(self):
        """Read the request, with its answer."""
        return self.database.batch_requests.find_one({"_id": self.request})

    def campaign(self):
        """Read the campaign."""
        return self.database.campaigns.find_one({"_id": campaign_id(self.request)})

    def conversation(self, recipient="r0"):
        """Read a recipient's conversation."""
        identity = conversation_id(self.request, recipient)
        return self.database.conversations.find_one({"_id": identity})

    def reasons(self, recipient="r0"):
        """Read what happened in a conversation, in order."""
        return [entry["reason"] for entry in self.conversation(recipient)["history"]]

    def messages(self, recipient="r0"):
        """Read a conversation's messages from the ledger, by n."""
        found = self.database.messages.find({"recipient_id": recipient})
        return sorted(found, key=lambda message: int(message["_id"].rsplit("/", 1)[1]))

    def handed_off(self):
        """Read what the channel was given, in order."""
        file = self.directory / "messages.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line) for line in lines]


@asynccontextmanager
async def world(uri, client, name, directory, **settings):
    """Make a world in a database of its own."""
    MovedTime.ahead = timedelta(0)
    environ = {
        "MONGODB_URI": uri,
        "MONGODB_DB": name,
        "CHANNEL_EMAIL": f"file:{directory}/messages.jsonl",
    }
    async with AsyncExitStack() as stack:
        worker = await assemble(load_settings(environ | settings), stack, MovedTime())
        yield World(client.get_database(name, codec_options=CODEC), worker, directory)
