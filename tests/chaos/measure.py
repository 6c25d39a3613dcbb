"""
What faults cost, in seconds: each done alone, under a steady load.

    python -m tests.chaos.measure [NAME ...]
"""

import itertools
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.fleet import CLOCKS, SETTINGS
from tests.chaos.load import PACE, Load
from tests.chaos.processes import until
from tests.chaos.world import world as make_world

#: The server's default.
ELECTION_SECONDS = 10
LEASE_SECONDS = float(SETTINGS["LEASE_SECONDS"])
LOAD_SECONDS = 25
#: The receiver takes so long, so that there are messages in hand at any time.
LATENCY = "slow:0.3"
#: So slow that messages wait within their worker.
SLOW = "slow:1"
#: For everybody else, while one is gone.
WITHIN_SECONDS = 4.0
#: The worker whose hand-offs are known by their signatures: its clock is off.
MARKED = 1


def longest_gap(times, since):
    """Give the longest time without a hand-off from then on."""
    later = [since, *sorted(at for at in times if at > since)]
    return max((b - a for a, b in itertools.pairwise(later)), default=0.0)


def held_by_the_dead(load):
    """Give the conversations whose messages nobody is handing off: their worker is gone."""
    sending = {one["_id"]: one["slot"]["token"] for one in load.conversations(**SENDING)}
    load.world.pause(2)
    return [
        one["_id"]
        for one in load.conversations(**SENDING)
        if sending.get(one["_id"]) == one["slot"]["token"]
    ]


SENDING = {"slot.state": "sending"}


def worker_killed(world):
    """Kill -9 of one of four workers: how long others are late, how long its own messages are."""
    load = Load(world, "worker-killed", LOAD_SECONDS)
    killed = time.time()
    world.fleet.workers[3].kill()
    interrupted = held_by_the_dead(load)
    load.wait()
    keys = {f"{identity}/intro/0" for identity in interrupted}
    late, accepted = load.lateness(), load.accepted()
    near = [
        seconds
        for key, (due, seconds) in late.items()
        if key not in keys and killed - 1 < due < killed + WITHIN_SECONDS
    ]
    world.fleet.workers[3].start()
    again = last_accepted(world, keys)
    return {
        "messages interrupted": len(keys),
        "of these accepted at last, s after the kill": f"{max(again, default=killed) - killed:.1f}",
        "others, late at most, s": f"{max(near):.2f} (of {len(near)})",
        "longest time without a hand-off, s": f"{longest_gap(accepted.values(), killed):.2f}",
    }


def last_accepted(world, keys):
    """Give when each key was accepted for the last time."""
    lines = world.receiver.requests()
    return {x["key"]: x["at"] for x in lines if x["accepted"] and x["key"] in keys}.values()


def primary_steps_down(world):
    """ReplSetStepDown: how long nothing is handed off."""
    return fail_over(world, lambda member: member.admin("replSetStepDown", 10))


def primary_killed(world):
    """Kill -9 of the primary: the same."""
    return fail_over(world, lambda member: member.kill())


def primary_frozen(world):
    """SIGSTOP of the primary: the same."""
    return fail_over(world, lambda member: member.freeze())


def fail_over(world, fault):
    """Do something to the primary; give the longest time without work."""
    number = world.database.batch_requests.count_documents({})
    load = Load(world, f"fail-over-{number}", LOAD_SECONDS)
    began, before = time.time(), world.members.primary()
    fault(before)
    load.wait()
    gap = longest_gap(load.accepted().values(), began)
    after = world.members.primary()
    world.members.heal()
    world.members.wait_until_writable()
    return {
        "from one to another": f"{before.name}, {after.name}",
        "longest time without a hand-off, s": f"{gap:.1f}",
        "election time-out, s": ELECTION_SECONDS,
    }


def worker_frozen(world):
    """SIGSTOP of a worker past its leases, then SIGCONT: what it still hands off and writes."""
    world.receiver.set_mode(SLOW)
    load = Load(world, "worker-frozen", LOAD_SECONDS)
    worker = world.fleet.workers[MARKED]
    worker.freeze()
    interrupted = held_by_the_dead(load)
    keys = {f"{identity}/intro/0" for identity in interrupted}
    of_them = {"_id": {"$in": interrupted}}
    settled = of_them | {"slot": None}
    conversations = world.database.conversations
    until(
        lambda: conversations.count_documents(settled) == len(interrupted),
        60,
        "taken over",
        world.meanwhile,
    )
    before = snapshot(world, of_them, keys)
    woken = time.time()
    worker.thaw()
    load.wait()
    world.pause(LEASE_SECONDS)
    after = snapshot(world, of_them, keys)
    world.receiver.set_mode(LATENCY)
    mine = [line for line in world.receiver.requests() if line["at"] > woken and is_marked(line)]
    begun = {line["key"] for line in mine if signed_at(line) >= int(woken)}
    ended = {line["key"] for line in mine if signed_at(line) < int(woken)}
    again = [one for one in after.values() if (one.get("attempts") or 0) > 1]
    return {
        "messages interrupted": len(keys),
        "of these handed off again by others": len(again),
        "of these begun by the woken worker all the same": len(keys & begun),
        "of these begun before it was frozen, and arrived when it woke up": len(keys & ended),
        "documents of these that it has changed": sum(before[one] != after[one] for one in before),
        "other messages that it handed off from then on": len(begun - keys),
    }


def signed_at(line):
    """Give when the marked worker has begun a hand-off, in whole seconds of everybody's clock."""
    return float(line["headers"]["webhook-timestamp"]) - CLOCKS[MARKED]


def is_marked(line):
    """Say whether a hand-off is the marked worker's: by all others' clocks it was signed elsewhen."""
    return abs(signed_at(line) - line["at"]) < abs(CLOCKS[MARKED]) / 2


def snapshot(world, of_them, keys):
    """Give conversations and ledger entries as they are."""
    database = world.database
    messages = database.messages.find({"_id": {"$in": list(keys)}})
    return {one["_id"]: one for one in [*database.conversations.find(of_them), *messages]}


SCENARIOS = (worker_killed, worker_frozen, primary_steps_down, primary_killed, primary_frozen)


@contextmanager
def measured():
    """Make a world to measure in, at real time."""
    with tempfile.TemporaryDirectory(prefix="reactor-chaos-") as directory:
        real = {"CAMPAIGN_TIME_SCALE": "1", "LOG_LEVEL": "WARNING"}
        options = {"election_seconds": ELECTION_SECONDS, "settings": real}
        with make_world(Path(directory), **options) as world:
            world.receiver.set_mode(LATENCY)
            yield world


def main(names):
    """Measure what is named, or all."""
    with measured() as world:
        world.say(f"{PACE} messages a second, leases of {LEASE_SECONDS:g} s")
        for scenario in SCENARIOS:
            if names and scenario.__name__ not in names:
                continue
            for name, value in scenario(world).items():
                world.say(f"{scenario.__name__.replace('_', ' ')}: {name}: {value}")


if __name__ == "__main__":
    main(sys.argv[1:])
