"""Workers as processes of their own, as operators run them."""

import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
STOP_SECONDS = 30


@contextmanager
def workers(count, uri, database_name, directory, **settings):
    """Run so many workers, whose logs are worker-N.log; they stop in order at the end, or are killed."""
    environ = os.environ | {"MONGODB_URI": uri, "MONGODB_DB": database_name} | settings
    environ.setdefault("LOG_LEVEL", "WARNING")
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                _worker(environ, directory / f"heartbeat-{n}", directory / f"worker-{n}.log")
            )
            for n in range(count)
        ]


@contextmanager
def _worker(environ, heartbeat, log):
    environ = {**environ, "HEARTBEAT_FILE": str(heartbeat)}
    command = [sys.executable, "-m", "reactor", "run"]
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, env=environ, cwd=ROOT, stderr=stderr)
    try:
        yield process
        process.terminate()
        process.wait(STOP_SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert process.returncode in {0, -9}, log.read_text()
