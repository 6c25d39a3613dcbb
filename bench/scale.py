"""Scale: what a step costs with ten thousand, and with a million, that wait beside those that move."""

from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from time import perf_counter

import anyio
from attrs import define, field
from pymongo import AsyncMongoClient

from bench.figures import Figure
from bench.parked import CHUNK, Crowd, crowd, enter, park
from bench.progress import say
from bench.sizes import MOVING, PARKED, SCALE_ROUNDS
from bench.watch import growth, memory
from bench.world import Tail, worker_process
from reactor.indexes import ensure_indexes
from schemas.ids import conversation_id

AFTER = timedelta(days=10)
TEMPLATE = {
    "stages": [
        {
            "id": "intro",
            "message": {"subject": "Hello {{ recipient.first_name }}", "body": "Hello"},
            "follow_ups": [{"after": AFTER.total_seconds(), "message": {"body": "Still there?"}}],
            "reply_within": "5d",
        }
    ]
}
#: Half of what is parked is in the campaign of those that move, the rest in so many others.
OTHERS = 10
ROUND_SECONDS = 600


def step(parked):
    """Name the figure for so many parked ones."""
    return f"a step, {parked:,} parked"


def ratio(parked):
    """Name the figure of what a step then costs beside one with the fewest."""
    return f"{step(parked)} / {min(PARKED):,} parked"


def memory_of(parked):
    return f"worker's memory, {parked:,} parked"


def growth_of(parked):
    return f"growth of memory, {parked:,} parked"


@define
class World:
    """A database with so many that wait, a worker on it, and the campaign of those that move."""

    parked: int
    database: object
    tail: Tail
    moving: Crowd
    #: The next recipient's index.
    index: int
    resident: list = field(factory=list)
    milliseconds: list = field(factory=list)


async def measure(uri, directory):
    """Give milliseconds per step by what is parked; a database and a worker each, in turns."""
    async with AsyncMongoClient(uri, w="majority", tz_aware=True) as client:
        worlds = [await _make(client, directory, parked) for parked in sorted(PARKED)]
        async with AsyncExitStack() as stack:
            for world in worlds:
                process = stack.enter_context(
                    worker_process(uri, world.database.name, world.tail.file)
                )
                world.resident = await stack.enter_async_context(memory(process.pid))
            for number in range(SCALE_ROUNDS + 1):
                say(
                    f"scale: round {number} of {SCALE_ROUNDS}, {MOVING:,} move in each of {len(worlds)}"
                )
                # The first one warms up, and each begins a round as often as the others.
                for world in worlds[number % len(worlds) :] + worlds[: number % len(worlds)]:
                    milliseconds = await _move(world, number)
                    if number:
                        world.milliseconds.append(milliseconds)
        for world in worlds:
            await client.drop_database(world.database.name)
    figures = {}
    for world in worlds:
        figures[step(world.parked)] = Figure(unit="ms", samples=world.milliseconds)
        figures[memory_of(world.parked)] = Figure(unit="MB", samples=world.resident, over_time=True)
        figures[growth_of(world.parked)] = Figure(unit="times", samples=[growth(world.resident)])
    first, *larger = worlds
    for world in larger:
        # Of one round, whatever the machine did besides in it.
        rounds = zip(world.milliseconds, first.milliseconds, strict=True)
        samples = [mine / least for mine, least in rounds]
        figures[ratio(world.parked)] = Figure(unit="times", samples=samples)
    return figures


async def _make(client, directory, parked):
    database = client[f"bench_scale_{parked}"]
    await ensure_indexes(database)
    now = datetime.now(UTC).replace(microsecond=0)
    started_at, here = now - AFTER - timedelta(days=1), parked // 2
    moving = crowd("moving", here + (SCALE_ROUNDS + 1) * MOVING, TEMPLATE, started_at)
    rest = (parked - here) // OTHERS
    others = [crowd(f"other{number}", rest, TEMPLATE, started_at) for number in range(OTHERS)]
    made = 0
    for of, count in ((moving, here), *((other, rest) for other in others)):
        await enter(database, of)
        for at in range(0, count, CHUNK):
            # Each thousand with its own second.
            sent_at = now + timedelta(seconds=at // CHUNK)
            await park(database, of, range(at, min(at + CHUNK, count)), sent_at)
            made += CHUNK
            if made % 100_000 == 0:
                say(f"scale: {made:,} of {parked:,} parked")
    file = directory / f"{database.name}.jsonl"
    return World(parked=parked, database=database, tail=Tail(file), moving=moving, index=here)


async def _move(world, number):
    """Have follow-ups fall due, wake the worker, and give the milliseconds that each took."""
    database, request = world.database, world.moving.campaign.batch_request_id
    overdue = datetime.now(UTC).replace(microsecond=0) - AFTER - timedelta(seconds=1)
    indexes = range(world.index, world.index + MOVING)
    world.index += MOVING
    for at in range(0, MOVING, CHUNK):
        await park(database, world.moving, indexes[at : at + CHUNK], overdue)
    # They were written behind the worker's back. An order that changes nothing has it look at the
    # campaign.
    bell = {"_id": f"bell{number}", "batch_request_id": request, "kind": "resume"}
    began = perf_counter()
    await database.campaign_updates.insert_one(bell)
    await world.tail.count(MOVING, seconds=ROUND_SECONDS)
    seconds = perf_counter() - began
    ids = [conversation_id(request, f"r{index}") for index in indexes]
    while await database.conversations.count_documents(
        {"_id": {"$in": ids}, "slot": {"$ne": None}}
    ):
        await anyio.sleep(0.1)
    return seconds * 1000 / MOVING
