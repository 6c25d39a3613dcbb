"""
One step as reactor writes it: the patches of mark and clear, and the entry of the ledger.

Recorded while a worker leads one conversation through it, so that whoever is compared with reactor
writes what reactor writes, whatever that is today.
"""

from datetime import UTC, datetime
from pathlib import Path

import bson
from attrs import asdict, frozen
from pymongo import AsyncMongoClient

from bench.commands import commands_sent
from bench.due import copy_due, worker_here
from schemas.documents import CODEC

#: What the mark makes due by the end of its lease must not fall due during the benchmark.
LEASE_SECONDS = "86400"


@frozen
class Step:
    """What is written for each conversation: two updates of it, and an entry."""

    mark: object
    clear: object
    entry: object

    @classmethod
    def read(cls, file):
        return cls(**bson.decode(Path(file).read_bytes(), CODEC))

    def entry_for(self, conversation):
        """Make the entry of this conversation's message."""
        identity, recipient = conversation["_id"], conversation["recipient"]["id"]
        stage_and_n = self.entry["_id"].partition("/")[2]
        (key,) = conversation["address_keys"]
        return self.entry | {
            "_id": f"{identity}/{stage_and_n}",
            "conversation_id": identity,
            "recipient_id": recipient,
            "address": key,
            "to": key.partition(":")[2],
        }

    def write(self, file):
        Path(file).write_bytes(bson.encode(asdict(self), codec_options=CODEC))


async def record_step(uri, database="bench_recorded"):
    """Lead one conversation through a step, and give what was written."""
    with commands_sent() as commands:
        async with AsyncMongoClient(uri, w="majority") as client:
            await copy_due(client, database, 1, datetime.now(UTC))
        async with worker_here(uri, database, LEASE_SECONDS=LEASE_SECONDS) as worker:
            del commands[:]
            await worker.run_once()
    mark, clear = (each["updates"][0]["u"] for each in _of(commands, "update", "conversations"))
    (insert,) = _of(commands, "insert", "messages")
    return Step(mark=mark, clear=clear, entry=insert["documents"][0])


def _of(commands, name, collection):
    return [each for each in commands if each.get(name) == collection]
