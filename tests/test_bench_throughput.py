"""What reactor is compared with does the same work: the ceiling leaves the documents that reactor leaves."""

from datetime import UTC, datetime

import bson
import pytest
from pymongo import AsyncMongoClient

from bench.ceiling import Ceiling
from bench.due import copy_due, open_due, worker_here
from bench.recorded import Step, record_step

NAMES = ("bench_due", "bench_recorded", "bench_ceiling", "bench_reactor")


@pytest.fixture
def databases(mongodb_client):
    """Databases of the benchmark, gone after the test."""
    yield mongodb_client
    for name in NAMES:
        mongodb_client.drop_database(name)


async def test_the_ceiling_writes_what_reactor_writes(mongodb_uri, databases, tmp_path):
    """The same fields of as many bytes, in conversations and ledger, for every recipient."""
    await open_due(mongodb_uri, 20)
    (await record_step(mongodb_uri)).write(tmp_path / "step.bson")
    async with AsyncMongoClient(mongodb_uri, w="majority", tz_aware=True) as client:
        for name in ("bench_ceiling", "bench_reactor"):
            await copy_due(client, name, 20, datetime.now(UTC))
        step = Step.read(tmp_path / "step.bson")
        await Ceiling(client.bench_ceiling, step, batch=5, buckets=None).run(in_flight=3)
    async with worker_here(mongodb_uri, "bench_reactor") as worker:
        await worker.run_once()
    for collection in ("conversations", "messages"):
        ceiling, reactor = (
            [(each.keys(), len(bson.encode(each))) for each in found.find().sort("_id")]
            for found in (databases[name][collection] for name in NAMES[2:])
        )
        assert len(ceiling) == 20
        assert ceiling == reactor


def test_a_patch_that_is_recorded_is_the_patch(tmp_path):
    """What the contestants read is what was written."""
    step = Step(
        mark={"$inc": {"version": 1}}, clear=[{"$set": {"slot": None}}], entry={"_id": "a/b/0"}
    )
    step.write(tmp_path / "step.bson")
    assert Step.read(tmp_path / "step.bson") == step
