"""
The ceiling: a bare PyMongo program that does the reads and writes of a step, and nothing else.

Per batch: load what is due, mark it, take the last look (the command of
reactor/store/mongo_ledger.py), enter the ledger, clear. It decides nothing and renders nothing,
decodes only ids, and writes what reactor writes (bench/recorded.py). It is what a driver program
could do at best with these commands on this machine: reactor's distance from it is what its own
decisions, documents and promises cost. tests/test_bench_throughput.py holds it to reactor's commands.

`python -m bench.ceiling URI DATABASE STEP_FILE AT BATCH IN_FLIGHT PART PARTS`
"""

import sys
from datetime import UTC, datetime, timedelta

import anyio
from bson.raw_bson import RawBSONDocument
from pymongo import AsyncMongoClient

from bench.begin import ready_until
from bench.recorded import Step
from reactor.indexes import UNANSWERED
from reactor.store.ledgering import GOT
from schemas.ids import BUCKETS

#: Documents of one reply: as many as fit, so that a query is one command.
REPLY = 100_000


class Ceiling:
    def __init__(self, database, step, batch, buckets):
        self.database = database
        self.raw = database.with_options(
            codec_options=database.codec_options.with_options(document_class=RawBSONDocument)
        )
        self.step = step
        self.batch = batch
        #: Its share, beside other processes. None: all.
        self.buckets = buckets
        self.campaign = None
        #: Loaded and not yet marked: still due, and not to be loaded again.
        self.loaded = set()
        self.loading = anyio.Lock()

    async def run(self, in_flight):
        self.campaign = await self.database.campaigns.find_one()
        async with anyio.create_task_group() as tasks:
            for _ in range(in_flight):
                tasks.start_soon(self.work)

    async def work(self):
        """Take batch after batch through, until nothing is due."""
        while True:
            async with self.loading:
                conversations = await self.load()
                ids = [each["_id"] for each in conversations]
                self.loaded.update(ids)
            if not conversations:
                return
            await self.write(ids, 0, self.step.mark)
            self.loaded.difference_update(ids)
            await self.look(conversations, ids)
            entries = [self.step.entry_for(each) for each in conversations]
            await self.database.messages.insert_many(entries, ordered=False)
            await self.write(ids, 1, self.step.clear)

    async def load(self):
        query = {
            "campaign_id": self.campaign["_id"],
            "due_at": {"$lte": datetime.now(UTC), "$type": "date"},
        }
        if self.buckets is not None:
            query["bucket"] = {"$in": self.buckets}
        if self.loaded:
            query["$nor"] = [{"_id": {"$in": list(self.loaded)}}]
        cursor = self.raw.conversations.find(
            query, sort={"due_at": 1}, limit=self.batch, batch_size=REPLY
        )
        return await cursor.to_list()

    async def write(self, ids, version, patch):
        result = await self.database.conversations.update_many(
            {"_id": {"$in": ids}, "version": version}, patch
        )
        if result.matched_count != len(ids):
            raise RuntimeError("two tasks had the same conversation")

    async def look(self, conversations, ids):
        campaign, request = self.campaign["_id"], self.campaign["batch_request_id"]
        recipients = [each["recipient"]["id"] for each in conversations]
        keys = [key for each in conversations for key in each["address_keys"]]
        updates = [
            {"conversation_id": {"$in": ids}},
            {"batch_request_id": request, "recipient_id": {"$in": recipients}},
        ]
        orders = [{"campaign_id": campaign}, {"batch_request_id": request}]
        on_its_way = {
            "address_keys": {"$in": keys},
            "slot.state": {"$type": "string"},
            "$or": [
                {"slot.state": "sending"},
                {"slot.state": "reserved", "slot.uncertain": True},
            ],
            "campaign_id": {"$ne": campaign},
        }
        got = {
            "address": {"$in": keys},
            "recorded_at": {"$gte": datetime.now(UTC) - timedelta(days=1)},
            "status": {"$in": GOT},
        }
        versions = {"_id": None, "all": {"$push": {"_id": "$_id", "version": "$version"}}}
        said = {"$project": dict.fromkeys(("kind", "conversation_id", "recipient_id", "bounce"), 1)}
        whose = {"$project": {"recipient.address": 1, "slot.channel": 1}}
        await self.collect(
            {
                "conversation_updates": [{"$match": UNANSWERED | {"$or": updates}}, said],
                "campaign_updates": [{"$match": UNANSWERED | {"$or": orders}}, said],
                "conversations:others": [{"$match": on_its_way}, whose],
                "suppressions": [{"$match": {"_id": {"$in": keys}}}],
                "campaigns": [{"$match": {"_id": {"$eq": campaign}}}, {"$unset": "template"}],
                "conversations": [{"$match": {"_id": {"$in": ids}}}, {"$group": versions}],
                "channels": [{"$match": {"_id": {"$type": "string"}}}],
                "messages:got": [
                    {"$match": got},
                    {"$group": {"_id": "$address", "count": {"$sum": 1}}},
                ],
            }
        )

    async def collect(self, sources):
        unions = [
            {
                "$unionWith": {
                    "coll": name.partition(":")[0],
                    "pipeline": [*pipeline, {"$project": {"_id": 0, name: "$$ROOT"}}],
                }
            }
            for name, pipeline in sources.items()
        ]
        time = {"$documents": [{"now": "$$NOW"}]}
        cursor = await self.raw.aggregate([time, *unions], batchSize=REPLY)
        return await cursor.to_list()


async def main(uri, name, file, at, *numbers):
    batch, in_flight, part, parts = map(int, numbers)
    buckets = list(range(part, BUCKETS, parts)) if parts > 1 else None
    async with AsyncMongoClient(uri, w="majority", tz_aware=True) as client:
        await ready_until(at, client, in_flight)
        await Ceiling(client[name], Step.read(file), batch, buckets).run(in_flight)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
