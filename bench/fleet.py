"""Workers beside each other on one campaign: how fast they are together, and how much is in vain."""

import json
from contextlib import ExitStack
from time import monotonic

import anyio
from pymongo import AsyncMongoClient

from bench.progress import say
from bench.sizes import FLEET_RECIPIENTS as RECIPIENTS
from bench.sizes import FLEET_ROUNDS
from bench.world import Tail, has_heard, request, worker_process

#: One after the other, so that what the machine does besides meets all of them.
FLEETS = (1, 2, 4, 8)
#: Which are compared: the first ought not to be slower than the second.
PAIRS = ((2, 1), (4, 1), (8, 2))


def rate_of(workers):
    return f"messages/s, {workers} on one campaign"


def in_vain(workers):
    return f"% of decisions in vain, {workers} workers"


def ratio(pair):
    return "messages/s, {} workers / {}".format(*pair)


async def measure(uri, directory):
    """Give messages per second by the number of workers, and the share of decisions in vain."""
    figures = {name: [] for workers in FLEETS for name in (rate_of(workers), in_vain(workers))}
    figures |= {ratio(pair): [] for pair in PAIRS}
    for number in range(FLEET_ROUNDS):
        rates = {}
        for workers in FLEETS:
            seconds, stopped = await _lead(uri, directory, workers)
            rates[workers] = RECIPIENTS / seconds
            say(f"fleet: round {number + 1}, {workers} workers: {rates[workers]:,.0f} messages/s")
            decided = sum(line["conversations"] for line in stopped)
            wasted = sum(line["wasted"] for line in stopped)
            figures[rate_of(workers)].append(rates[workers])
            figures[in_vain(workers)].append(100 * wasted / decided)
        for many, few in PAIRS:
            figures[ratio((many, few))].append(rates[many] / rates[few])
    return figures


async def _lead(uri, directory, workers):
    """Give the seconds from a campaign's insertion to its last hand-off, and the workers' last words."""
    name = f"bench_fleet_{workers}"
    file = directory / f"{name}.jsonl"
    file.unlink(missing_ok=True)
    logs = [directory / f"{name}-{n}.log" for n in range(workers)]
    async with AsyncMongoClient(uri, w="majority") as client:
        with ExitStack() as stack:
            for log in logs:
                own = {"HEARTBEAT_FILE": f"{log}.heartbeat", "LOG_LEVEL": "INFO"}
                stack.enter_context(worker_process(uri, name, file, log=log, **own))
            while not all(has_heard(log, workers) for log in logs):
                await anyio.sleep(0.1)
            database = client[name]
            made = request("fleet", RECIPIENTS)
            recipients = made.pop("recipients")
            for at in range(0, RECIPIENTS, 10_000):
                await database.batch_recipients.insert_many(
                    {"batch_request_id": "fleet", **one} for one in recipients[at : at + 10_000]
                )
            began = monotonic()
            await database.batch_requests.insert_one(made | {"recipients_from": "batch_recipients"})
            await Tail(file).count(RECIPIENTS, seconds=1_200)
            seconds = monotonic() - began
        await client.drop_database(name)
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    return seconds, [line for line in lines if "wasted" in line]
