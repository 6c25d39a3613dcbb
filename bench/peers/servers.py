"""Servers that peers need: in temporary directories, on sockets of the file system, by process id."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 30


def find(program):
    """Give the path of a server's program; None: it is not installed."""
    # Debian's packages keep some of PostgreSQL's off the PATH.
    beside = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    return shutil.which(program) or (str(beside[-1]) if beside else None)


@contextmanager
def redis():
    """Run a Redis that keeps what a queue gives it; give its socket."""
    with _home() as home:
        socket = home / "redis.sock"
        options = ["--port", "0", "--unixsocket", socket, "--dir", home]
        # An append-only file, synced every second: what Redis itself advises.
        options += ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
        with _running([find("redis-server"), *options], signal.SIGTERM):
            _wait_for(socket.exists)
            yield socket


@contextmanager
def postgres():
    """Run a PostgreSQL that keeps its promises, as it does by default; give its socket's directory."""
    user = _unprivileged()
    with _home(user) as home:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": home,
            # As much as the mongod that it is compared with may hold.
            "shared_buffers": "512MB",
            "max_connections": 200,
            # No checkpoint in the middle of a round.
            "max_wal_size": "4GB",
        }
        data, given = home / "data", {"user": user, "cwd": home}
        made = [
            find("initdb"),
            "-D",
            data,
            "-U",
            "bench",
            "-E",
            "UTF8",
            "--locale=C",
            "-A",
            "trust",
        ]
        subprocess.run(made, check=True, capture_output=True, **given)
        options = [f"--{name}={value}" for name, value in settings.items()]
        # SIGINT: it ends its sessions, and itself.
        with _running([find("postgres"), "-D", data, *options], signal.SIGINT, **given):
            _wait_for(
                lambda: (
                    not subprocess.run(
                        [*psql(home), "-c", ""], capture_output=True, check=False
                    ).returncode
                )
            )
            yield home


def psql(home):
    """Give the command that talks to that PostgreSQL."""
    return [
        find("psql"),
        "-h",
        home,
        "-U",
        "bench",
        "-d",
        "postgres",
        "-qAtX",
        "-v",
        "ON_ERROR_STOP=1",
    ]


def _unprivileged():
    """Give whom PostgreSQL is to run as, which refuses root; None: whoever we are."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@contextmanager
def _home(user=None):
    """Give a directory of short path: the path of a socket must be."""
    with tempfile.TemporaryDirectory(prefix="reactor-peer-") as path:
        if user:
            shutil.chown(path, user)
        yield Path(path)


@contextmanager
def _running(command, stop, **options):
    """Run a server as long as the block runs, in a session of its own: Ctrl-C is not for it."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, **options
        )
        try:
            yield
        finally:
            process.send_signal(stop)
            process.wait(30)


def _wait_for(is_ready):
    deadline = time.monotonic() + START_SECONDS
    while not is_ready():
        if time.monotonic() > deadline:
            raise TimeoutError("a server of a peer did not start")
        time.sleep(0.02)
