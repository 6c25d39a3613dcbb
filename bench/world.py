"""The world of a benchmark: an embedded replica set, a worker process, a file channel."""

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio

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


def request(identity, recipients, template=None, **changes):
    """Make a batch request with so many recipients."""
    return {
        "_id": identity,
        "name": "bench",
        "type": "bench",
        "template": {"name": "bench", "channel": "email", **(template or SILENT)},
        "recipients": [
            {
                "id": f"r{index}",
                "address": {"email": f"{identity}.{index}@example.com"},
                "attributes": {"first_name": "Ada"},
            }
            for index in range(recipients)
        ],
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
    """Reads the channel's file as it grows; the time of a line is when it was seen."""

    def __init__(self, file):
        """Wait for the file to appear; it may not be there yet."""
        self.file = Path(file)
        self.read = 0
        self.rest = b""

    def lines(self):
        """Give the lines that are new."""
        if not self.file.exists():
            return []
        with self.file.open("rb") as file:
            file.seek(self.read)
            grown = file.read()
        self.read += len(grown)
        *whole, self.rest = (self.rest + grown).split(b"\n")
        return [json.loads(line) for line in whole if line.strip()]

    async def until(self, count, seconds=60):
        """Wait until so many more lines have come."""
        found = []
        with anyio.fail_after(seconds):
            while len(found) < count:
                found += self.lines()
                await anyio.sleep(0.0005)
        return found
