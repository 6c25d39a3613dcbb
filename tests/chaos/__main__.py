"""
Do faults to real workers on a real replica set, and see what must hold.

    python -m tests.chaos [--seed N] [--seconds N] [--conversations N] [--directory DIR]
"""

import argparse
import random
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

from tests.chaos.run import Plan, play

#: Seeds are so short that one can say them.
SEEDS = 1_000_000


def main():
    """Play one plan; the exit code is 1 if something does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(SEEDS))
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--conversations", type=int, default=600)
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    plan = Plan(seed=options.seed, seconds=options.seconds, conversations=options.conversations)
    directory = options.directory or Path(tempfile.mkdtemp(prefix="reactor-chaos-"))
    directory.mkdir(parents=True, exist_ok=True)
    say(f"{plan}\nLogs and documents in {directory}")
    try:
        found = play(plan, directory.resolve())
    except Exception:  # noqa: BLE001 - whatever it is, the seed must be told
        found = [traceback.format_exc()]
    if found:
        say("\n".join(["", "DOES NOT HOLD:", *found, "", f"Again: {again(plan)}"]))
        say(f"Logs and documents are kept in {directory}")
        sys.exit(1)
    say(f"All holds. Again: {again(plan)}")
    if not options.directory:
        shutil.rmtree(directory)


def again(plan):
    """Say how to replay a plan."""
    return (
        f"make chaos SEED={plan.seed} SECONDS={plan.seconds:g} CONVERSATIONS={plan.conversations}"
    )


def say(text):
    """Print at once: whoever waits wants to see."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
