"""
Workers that kill themselves at their k-th step, forked from a process that has imported all already.

    python tests/killed_worker.py

A line on its input begins a worker, a child process: `Life` says what the line holds. A worker is
assembled as for `reactor run --once`, with the real database and the real channel; only its time is
moved. To each further line, `{"ahead": SECONDS}`, it answers when it has done all that there is to do
at that time. It ends with the line `{}`, or by SIGKILL from its own hand. Then the answer is
`{"ended": EXIT_CODE}`, and the next line begins another.

Its steps, each of which is written down before the worker may die there:

- a command to the database: before it is sent, and after its answer was read;
- a hand-off to the channel: before it begins, and after it ended, nothing of it recorded;
- a write to the connection to the receiver, a read from it: before, and after.
"""

import gc
import json
import os
import re
import signal
import sys
import threading
import traceback
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import anyio
import httpcore2
from attrs import define, field, frozen
from loguru import logger
from pymongo import monitoring

from reactor.channels.http import HttpChannel
from reactor.channels.http_network import _TimelyStream as Connection
from reactor.settings import load_settings
from reactor.worker import assemble
from schemas.hand_off import OnUnknown
from tests.builders import batch_request_document, update_document
from tests.machine import Floor, Shift
from tests.world import MovedTime

LINE = 65_536


@frozen(kw_only=True)
class Life:
    """How long a worker lives."""

    environ: dict
    #: The step at which it dies, counted from 1; 0: none.
    die_at: int
    #: An expression that finds the steps that are counted.
    counts: str
    #: Whether the steps of its start are counted, the making of indexes.
    from_birth: bool
    #: A file for the steps that were counted, one a line.
    trace: str
    #: A file for what it logs as an error.
    errors: str


@define
class Steps(monitoring.CommandListener):
    """Counts steps, writes them down, and dies at one of them."""

    life: Life
    file: int
    counting: bool
    _count: int = field(default=0, init=False)
    #: The commands under way.
    _names: dict = field(factory=dict, init=False)

    def reach(self, step):
        """Take one step; it may be the last."""
        if not self.counting or not re.match(self.life.counts, step):
            return
        self._count += 1
        os.write(self.file, f"{step}\n".encode())
        if self._count == self.life.die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def started(self, event):
        """A command is about to be sent."""
        what = event.command[event.command_name]
        name = f"{event.command_name} {what}" if isinstance(what, str) else event.command_name
        self._names[event.request_id] = name
        self.reach(f"before {name}")

    def succeeded(self, event):
        """Its answer was read."""
        self.reach(f"after {self._names.pop(event.request_id)}")

    def failed(self, event):
        """Its answer was an error."""
        self.succeeded(event)

    def watch(self, kind, method, name):
        """Make the beginnings and the ends of a method's calls steps."""
        original = getattr(kind, method)

        async def watched(this, argument, *rest, **more):
            named = name(argument)
            self.reach(f"before {named}")
            result = await original(this, argument, *rest, **more)
            self.reach(f"after {named}")
            return result

        setattr(kind, method, watched)


async def live(life, steps):
    """Work whenever told to, until the end."""
    async with AsyncExitStack() as stack:
        worker = await assemble(load_settings(life.environ), stack, MovedTime())
        steps.counting = True
        say({"born": os.getpid()})
        while order := heard():
            MovedTime.ahead = timedelta(seconds=order["ahead"])
            await worker.run_once()
            say({"worked": True})
        # What is left is to close connections.
        steps.counting = False


def be_born(life):
    """Be a worker, in a process of its own."""
    logger.add(life.errors, level="ERROR", backtrace=False, diagnose=False)
    file = os.open(life.trace, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    steps = Steps(life=life, file=file, counting=life.from_birth)
    monitoring.register(steps)
    steps.watch(HttpChannel, "send", lambda hand_off: f"hand-off {hand_off.key}")
    steps.watch(Connection, "write", lambda _: "write to the receiver")
    steps.watch(Connection, "read", lambda _: "read from the receiver")
    anyio.run(live, life, steps)


def say(answer):
    """Answer in one line."""
    os.write(1, json.dumps(answer).encode() + b"\n")


def heard():
    """Hear one line, and nothing of what comes after it: that may be for another process."""
    return json.loads(os.read(0, LINE) or b"{}")


def warm_up():
    """Do once what is slow the first time: converters are made, texts are read, certificates."""
    logger.remove()
    floor = Floor(policy=OnUnknown.RESEND, batch_size=10, workers=1)
    floor.store.insert("batch_requests", batch_request_document(1))
    floor.work([Shift(worker=0)])
    floor.store.insert("conversation_updates", update_document(text="yes"))
    floor.work([Shift(worker=0)])
    floor.close()
    context = httpcore2.default_ssl_context()
    httpcore2.default_ssl_context = lambda: context
    gc.collect()
    gc.freeze()


def main():
    """Bring forth one worker after the other, until the input ends."""
    warm_up()
    if threading.active_count() != 1:
        sys.exit("a process with threads cannot be forked")
    say({"ready": os.getpid()})
    while given := heard():
        if child := os.fork():
            _, status = os.waitpid(child, 0)
            say({"ended": os.waitstatus_to_exitcode(status)})
            continue
        code = 1
        try:
            be_born(Life(**given))
            code = 0
        except BaseException:  # noqa: BLE001 - a child must not go on as its parent
            with Path(given["errors"]).open("a") as errors:
                traceback.print_exc(file=errors)
        finally:
            os._exit(code)


if __name__ == "__main__":
    main()
