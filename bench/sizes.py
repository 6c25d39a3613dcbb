"""How much is measured: each number by the environment; REACTOR_BENCH_QUICK=1 is for trying it out."""

import os

QUICK = os.environ.get("REACTOR_BENCH_QUICK", "") not in {"", "0"}


#: What a number is in a full and in a quick run, by its name; and what it is in this one.
NUMBERS, GIVEN = {}, {}


def size(name, full, quick):
    """Give a number: REACTOR_BENCH_<name>, or else that of a full or a quick run."""
    (given,) = sizes(name, (full,), (quick,))
    return given


def sizes(name, full, quick):
    """Give several numbers, with commas between in the environment."""
    NUMBERS[name] = full, quick
    given = os.environ.get(f"REACTOR_BENCH_{name}")
    GIVEN[name] = quick if QUICK else full
    if given:
        GIVEN[name] = tuple(int(each) for each in given.split(","))
    return GIVEN[name]


#: Rounds of the reaction: raw, request, reply, and again.
REACTIONS = size("REACTIONS", 400, 60)
#: Follow-ups that fall due one after the other.
TIMERS = size("TIMERS", 100_000, 3_000)
#: Campaign time runs so much faster for them, by 2 at least: ten minutes of it are five.
TIMER_SCALE = size("TIMER_SCALE", 2, 2)
#: Conversations that are parked beside those that move, in a database each; smallest first.
PARKED = sizes("PARKED", (10_000, 100_000, 1_000_000), (2_000, 10_000))
#: Conversations that move in one round, and the rounds.
MOVING = size("MOVING", 5_000, 500)
SCALE_ROUNDS = size("SCALE_ROUNDS", 7, 3)
#: Recipients of the campaign that is opened.
OPENED = size("OPENED", 1_000_000, 10_000)
#: Recipients of the campaign that small ones come beside.
LARGE = size("LARGE", 100_000, 5_000)
#: Recipients of the campaign that one to eight workers are on, and the rounds.
FLEET_RECIPIENTS = size("FLEET_RECIPIENTS", 20_000, 1_000)
FLEET_ROUNDS = size("FLEET_ROUNDS", 3, 1)
#: Rounds of throughput, and conversations of a fast contestant in each; others have a part of them.
ROUNDS = size("ROUNDS", 3, 1)
STEPS = size("STEPS", 10_000, 1_000)
#: Parked beside a worker with nothing to do, and for how long it is watched.
IDLE_PARKED = size("IDLE_PARKED", 100_000, 2_000)
IDLE_SECONDS = size("IDLE_SECONDS", 30, 10)
