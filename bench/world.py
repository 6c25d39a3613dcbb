"""The world of a benchmark: an embedded replica set, a worker process, a file channel."""

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio

from bench.watch import bell_of

SILENT = {
    "stages": [
        {
            "id": "intro",
            "message": {"subject": "Hello {{ recipient.first_name }}", "body": "Hello"},
            "reply_within": "20d",
            "on_reply": [{"then": {"go_to": "intro"}}],
        }
    ]
}


#: Between two looks at how many messages there are: to be rung for each takes from what is measured.
COUNT_SECONDS = 0.005


def recipient(identity, index):
    """Make a recipient of a request, as an agent writes them."""
    return {
        "id": f"r{index}",
        "address": {"email": f"{identity}.{index}@example.com"},
        "attributes": {"first_name": "Ada"},
    }


def request(identity, recipients, template=None, **changes):
    """Make a batch request with so many recipients."""
    return {
        "_id": identity,
        "name": "bench",
        "type": "bench",
        "template": {"name": "bench", "channel": "email", **(template or SILENT)},
        "recipients": [recipient(identity, index) for index in range(recipients)],
    } | changes


@contextmanager
def worker_process(uri, database, file, log=None, module="reactor", **settings):
    """
    Run `reactor run` as a process of its own, until the block ends.

    `log`: what it says. `module`: what stands in for reactor, with more channels, say.
    """
    environ = os.environ | {
        "MONGODB_URI": uri,
        "MONGODB_DB": database,
        "CHANNEL_EMAIL": f"file:{file}",
        "LOG_LEVEL": "WARNING",
        "HEARTBEAT_FILE": f"{file}.heartbeat",
    }
    with ExitStack() as stack:
        stderr = stack.enter_context(Path(log).open("wb")) if log else None
        command = [sys.executable, "-m", module, "run"]
        process = subprocess.Popen(command, env=environ | settings, stderr=stderr)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def has_heard(log, workers):
    """Say whether a worker has logged that so many share what is to be done."""
    return any(json.loads(line).get("workers") == workers for line in log.read_text().splitlines())


class Tail:
    """
    Reads the channel's file as it grows; the time of a line is when it was seen.

    The kernel rings (inotify), so waiting costs nothing, and a line is seen as soon as an event of a
    change stream is that this process waits for. Where there is no inotify it looks again and again.
    """

    def __init__(self, file):
        """Watch a file, which is made if it is not there yet."""
        self.file = Path(file)
        self.file.touch()
        self.rest = b""
        # Descriptors, which last as long as the process.
        self.reader = os.open(self.file, os.O_RDONLY)
        self.bell = bell_of(self.file)

    def raw_lines(self):
        """Give the lines that are new, as they are."""
        while grown := os.read(self.reader, 1 << 20):
            self.rest += grown
        *whole, self.rest = self.rest.split(b"\n")
        return [line for line in whole if line.strip()]

    def lines(self):
        """Give the lines that are new."""
        return [json.loads(line) for line in self.raw_lines()]

    async def grown(self):
        """Wait until the file may have grown since it was read."""
        if self.bell is None:
            await anyio.sleep(0.0005)
            return
        await anyio.wait_readable(self.bell)
        os.read(self.bell, 65_536)

    async def until(self, count, seconds=60):
        """Wait until so many more lines have come."""
        found = self.lines()
        with anyio.fail_after(seconds):
            while len(found) < count:
                await self.grown()
                found += self.lines()
        return found

    async def count(self, count, seconds=60):
        """Wait until so many more lines have come, seldom looking, and not reading what they say."""
        found = len(self.raw_lines())
        with anyio.fail_after(seconds):
            while found < count:
                await anyio.sleep(COUNT_SECONDS)
                found += len(self.raw_lines())
