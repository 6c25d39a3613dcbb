"""What reactor is compared with does the same work: the ceiling leaves the documents that reactor leaves."""

import json
from datetime import UTC, datetime

import bson
import pytest
from pymongo import AsyncMongoClient

from bench.ceiling import Ceiling
from bench.commands import commands_sent
from bench.due import copy_due, open_due, worker_here
from bench.recorded import Step, record_step

NAMES = ("bench_due", "bench_recorded", "bench_ceiling", "bench_reactor")


@pytest.fixture
def databases(mongodb_client):
    """Databases of the benchmark, gone after the test."""
    yield mongodb_client
    for name in NAMES:
        mongodb_client.drop_database(name)


async def _both(uri, recipients, **settings):
    """Let both lead the same conversations through a step; give the commands of each."""
    await open_due(uri, recipients)
    step = await record_step(uri)
    in_flight = settings.pop("in_flight")
    with commands_sent() as of_ceiling:
        async with AsyncMongoClient(uri, w="majority", tz_aware=True) as client:
            for name in ("bench_ceiling", "bench_reactor"):
                await copy_due(client, name, recipients, datetime.now(UTC))
            await Ceiling(client.bench_ceiling, step, buckets=None, **settings).run(in_flight)
    with commands_sent() as of_reactor:
        async with worker_here(uri, "bench_reactor") as worker:
            await worker.run_once()
    return of_ceiling, of_reactor


def _looks(commands):
    """Give the aggregations over several collections, but for dates, and the order of ids."""
    return [
        json.dumps(_in_order(each["pipeline"]), default=lambda _: "a date")
        for each in commands
        if each.get("aggregate") == 1
    ]


def _in_order(value):
    if isinstance(value, dict):
        return {str(key): _in_order(each) for key, each in value.items()}
    if isinstance(value, list):
        return sorted(value) if isinstance(value[0], str) else [_in_order(each) for each in value]
    return value


async def test_the_ceiling_looks_as_reactor_looks(mongodb_uri, databases):
    """The command of its last look is a command of reactor."""
    of_ceiling, of_reactor = map(_looks, await _both(mongodb_uri, 5, batch=5, in_flight=1))
    assert len(of_ceiling) == 1
    assert set(of_ceiling) <= set(of_reactor)


async def test_the_ceiling_writes_what_reactor_writes(mongodb_uri, databases):
    """The same fields of as many bytes, in conversations and ledger, for every recipient."""
    await _both(mongodb_uri, 20, batch=5, in_flight=3)
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
