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
    """Run so many workers; they stop in order at the end, or are killed."""
    environ = os.environ | {"MONGODB_URI": uri, "MONGODB_DB": database_name} | settings
    environ.setdefault("LOG_LEVEL", "WARNING")
    with ExitStack() as stack:
        yield [
            stack.enter_context(_worker(environ, directory / f"heartbeat-{n}"))
            for n in range(count)
        ]


@contextmanager
def _worker(environ, heartbeat):
    environ = {**environ, "HEARTBEAT_FILE": str(heartbeat)}
    command = [sys.executable, "-m", "reactor", "run"]
    process = subprocess.Popen(command, env=environ, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    said = []
    try:
        yield process
        process.terminate()
        said.append(process.communicate(timeout=STOP_SECONDS)[1])
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode in {0, -9}, said
