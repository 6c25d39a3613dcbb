"""Timers at scale: from a follow-up's due time to its hand-off, with the poll at a minute."""

import time
from datetime import UTC, datetime, timedelta

from pymongo import AsyncMongoClient

from bench.figures import Figure
from bench.parked import CHUNK, crowd, enter, park_each
from bench.progress import say
from bench.sizes import TIMER_SCALE, TIMERS
from bench.watch import memory
from bench.world import Tail, worker_process
from reactor.indexes import ensure_indexes

#: Campaign time between two of them, whatever their number: a hundred thousand in ten minutes.
GAP = timedelta(milliseconds=6)
AFTER = timedelta(hours=1)
TEMPLATE = {
    "stages": [
        {
            "id": "intro",
            "message": {"subject": "Hello {{ recipient.first_name }}", "body": "Hello"},
            "follow_ups": [{"after": AFTER.total_seconds(), "message": {"body": "Still there?"}}],
            "reply_within": "20d",
        }
    ]
}
#: For the worker to start, before the first one is due.
LEAD_SECONDS = 10
LAG = "due to hand-off of a follow-up"


async def measure(uri, directory):
    """Give real milliseconds from due to hand-off; server and file are on this machine's one clock."""
    file = directory / "timers.jsonl"
    async with AsyncMongoClient(uri, w="majority", tz_aware=True) as client:
        database, tail = client.bench_timers, Tail(file)
        say(f"timers: {TIMERS:,} conversations are made, each with a follow-up of its own time")
        due = await _park(database)
        first = min(due.values())
        epoch = _epoch(datetime.now(UTC), first)
        say(f"timers: they fall due within {TIMERS * GAP.total_seconds() / TIMER_SCALE:.0f} s")
        scaled = {"CAMPAIGN_TIME_SCALE": str(TIMER_SCALE), "CAMPAIGN_TIME_EPOCH": epoch.isoformat()}
        with worker_process(
            uri, database.name, file, POLLING_INTERVAL_SECONDS="60", **scaled
        ) as process:
            async with memory(process.pid) as resident:
                lags = await _lags(tail, due, epoch)
        await client.drop_database(database.name)
    return {
        LAG: Figure(unit="ms", samples=lags),
        "worker's memory, timers": Figure(unit="MB", samples=resident, over_time=True),
    }


def _epoch(now, first):
    """Say when campaign time began to run faster, such that the first is due in LEAD_SECONDS."""
    wanted = first - TIMER_SCALE * timedelta(seconds=LEAD_SECONDS)
    # epoch + scale * (now - epoch) = wanted
    return (now + (now - wanted) / (TIMER_SCALE - 1)).replace(microsecond=0)


async def _park(database):
    """Write conversations whose first messages were sent one after the other; due times by id."""
    await ensure_indexes(database)
    started_at = datetime.now(UTC).replace(microsecond=0)
    of, due = crowd("timers", TIMERS, TEMPLATE, started_at), {}
    await enter(database, of)
    for at in range(0, TIMERS, CHUNK):
        sent = {index: started_at + index * GAP for index in range(at, min(at + CHUNK, TIMERS))}
        for document in await park_each(database, of, sent):
            due[document["_id"]] = document["due_at"]
    return due


async def _lags(tail, due, epoch):
    """Give how late each was handed off."""
    lags, told = [], 0
    while len(lags) < len(due):
        await tail.grown()
        lines, seen = tail.lines(), time.time()
        for line in lines:
            due_at = epoch + (due[line["key"].partition("/")[0]] - epoch) / TIMER_SCALE
            lags.append((seen - due_at.timestamp()) * 1000)
        if len(lags) - told >= 10_000:
            told = len(lags)
            say(f"timers: {told:,} handed off")
    return lags
