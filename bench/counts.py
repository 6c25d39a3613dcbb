"""
What a step costs that no machine changes: commands to the server, and Python instructions.

`python -m bench counts` measures; `python -m bench.counts --write` renews bench/counts.json, which
tests/test_bench_counts.py holds the code to. A worker in this process takes conversations through
that are due, at the defaults of its settings, and has led others before: texts are compiled, and
converters made.
"""

import json
import platform
import sys
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import anyio
from pymongo import AsyncMongoClient

from bench.commands import commands_sent
from bench.due import copy_due, fall_due, open_due, worker_here
from reactor.embedded import embedded_server

FILE = Path(__file__).with_name("counts.json")
ROOT = Path(__file__).parents[1]
OURS = tuple(f"{ROOT / package}/" for package in ("handlers", "reactor", "schemas"))
#: attrs and cattrs make code for our classes, and name it so.
MADE = ("<attrs generated ", "<cattrs generated ")

DATABASE = "bench_counts"
WARM_UP = 200
#: For the commands, which cost little to count; and for the instructions, of which each is a call.
STEPS, WATCHED_STEPS = 1_000, 200
#: For sys.monitoring; debugger, coverage and profilers have others.
TOOL = 4
#: That are named, of those with the most instructions.
MODULES = 20
#: Of every client of a database; how many there are depends on the time that passes.
OF_THE_DRIVER = {"hello", "ping", "endSessions"}


async def measure(uri, directory):
    """Give commands per 1,000 steps and instructions per step, each a list of one sample."""
    found, _ = await count(uri)
    return {
        "commands per 1,000 steps": [found["commands_per_1000_steps"]],
        "Python instructions per step": [found["instructions_per_step"]],
    }


async def count(uri):
    """Lead conversations through a step; what that costs, and the instructions by module."""
    await open_due(uri, WARM_UP + STEPS + WATCHED_STEPS)
    async with AsyncMongoClient(uri, w="majority") as client:
        await copy_due(client, DATABASE, WARM_UP, datetime.now(UTC))
        with commands_sent() as commands:
            async with worker_here(uri, DATABASE) as worker:
                await worker.run_once()
                await fall_due(client, DATABASE, datetime.now(UTC), skip=WARM_UP, limit=STEPS)
                del commands[:]
                await worker.run_once()
                kinds = Counter(_kind(each) for each in commands)
                skip = WARM_UP + STEPS
                await fall_due(client, DATABASE, datetime.now(UTC), skip=skip, limit=WATCHED_STEPS)
                with instructions_of_ours() as instructions:
                    await worker.run_once()
        if await client[DATABASE].messages.count_documents({}) != skip + WATCHED_STEPS:
            raise RuntimeError("not every conversation was led through its step")
        await client.drop_database(DATABASE)
    by_kind = {kind: kinds[kind] for kind in sorted(kinds) if kind not in OF_THE_DRIVER}
    found = {
        "python": platform.python_version().rpartition(".")[0],
        "instructions_per_step": round(instructions.total() / WATCHED_STEPS),
        "commands_per_1000_steps": sum(by_kind.values()),
        "commands": by_kind,
    }
    return found, instructions


@contextmanager
def instructions_of_ours():
    """Count the instructions of our modules that run within the block, by module."""
    counted, names, monitoring = Counter(), {}, sys.monitoring

    def one(code, offset):
        name = names.get(code)
        if name is None:
            name = names[code] = _module(code.co_filename)
        if not name:
            # Of a library, and never to be told of again.
            return monitoring.DISABLE
        counted[name] += 1
        return None

    monitoring.use_tool_id(TOOL, __name__)
    try:
        monitoring.register_callback(TOOL, monitoring.events.INSTRUCTION, one)
        monitoring.set_events(TOOL, monitoring.events.INSTRUCTION)
        yield counted
    finally:
        monitoring.set_events(TOOL, 0)
        monitoring.free_tool_id(TOOL)


def _module(filename):
    """Give a module's name, or what code was made for; nothing for code that is not ours."""
    if filename.startswith(OURS):
        return str(Path(filename).relative_to(ROOT))
    return next((made.strip("< ") for made in MADE if filename.startswith(made)), "")


def _kind(command):
    """Name a command, with its collection; `several`, if it is an aggregation over more than one."""
    name, target = next(iter(command.items()))
    if name in OF_THE_DRIVER:
        return name
    return f"{name} {target if isinstance(target, str) else 'several'}"


async def _main():
    async with embedded_server() as server:
        found, instructions = await count(server.uri)
    for module, number in instructions.most_common(MODULES):
        print(f"{number / WATCHED_STEPS:>8,.0f} instructions per step  {module}", file=sys.stderr)
    text = json.dumps(found, indent=2) + "\n"
    print(text, end="")
    if "--write" in sys.argv[1:]:
        FILE.write_text(text)


if __name__ == "__main__":
    anyio.run(_main)
