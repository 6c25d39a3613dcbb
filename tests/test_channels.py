import json
import os
import resource
import subprocess
import sys
import threading
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone

import anyio
from attrs import evolve
from loguru import logger

from reactor.channels.file import FileChannel
from reactor.channels.protocol import as_json, hand_off
from reactor.channels.registry import CHANNELS, open_channels
from reactor.channels.settings import ChannelSettings
from schemas.hand_off import HandOff, Outcome, OutcomeKind

SENT = Outcome(kind=OutcomeKind.SENT)
MESSAGE = HandOff(
    key="conversation/intro/0",
    campaign_id="campaign",
    conversation_id="conversation",
    recipient_id="r1",
    channel="email",
    to="ada@example.com",
    subject="Grüße, \u2028 Ada 🎩",
    body='Line\nbreak and "quotes"',
    html=None,
    from_="team@example.com",
    reply_to=None,
    locale="de",
    in_reply_to=None,
    send_before=datetime(2026, 1, 2, 1, 0, tzinfo=timezone(timedelta(hours=1))),
    at=datetime(2026, 1, 1, 0, 0, 0, 5000, tzinfo=UTC),
    by="update-1",
)


def settings(path):
    """Settings of a channel that appends to a file."""
    return ChannelSettings(name="email", url=f"file:{path}")


def numbered(n, size=0):
    """Give a message of its own, with a body of some size."""
    return evolve(MESSAGE, key=f"conversation/intro/{n}", body="x" * size)


def keys(path):
    """Give the key of each line; fails if one is torn."""
    assert path.read_bytes().endswith(b"\n")
    return [json.loads(line)["key"] for line in path.read_bytes().splitlines() if line.strip()]


@contextmanager
def room_for(size):
    """No file of this process may grow beyond a size: the kernel writes what fits, then refuses."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class Custom:
    """A channel that does what a test says."""

    name = "custom"
    waits = True

    def __init__(self, send):
        self.send = send


def test_json_has_exactly_the_contract():
    """The fields and their order are what the agent's developers read in the contract."""
    text = as_json(MESSAGE).decode()
    assert json.loads(text) == {
        "key": "conversation/intro/0",
        "campaign_id": "campaign",
        "conversation_id": "conversation",
        "recipient_id": "r1",
        "channel": "email",
        "to": "ada@example.com",
        "subject": "Grüße, \u2028 Ada 🎩",
        "body": 'Line\nbreak and "quotes"',
        "html": None,
        "from": "team@example.com",
        "reply_to": None,
        "locale": "de",
        "in_reply_to": None,
        "send_before": "2026-01-02T00:00:00.000Z",
        "at": "2026-01-01T00:00:00.005Z",
    }
    assert list(json.loads(text)) == [
        *("key", "campaign_id", "conversation_id", "recipient_id", "channel", "to", "subject"),
        *("body", "html", "from", "reply_to", "locale", "in_reply_to", "send_before", "at"),
    ]
    assert "Grüße" in text
    assert "\n" not in text


def test_same_message_same_bytes():
    """What is handed off again is the same to the byte."""
    assert as_json(evolve(MESSAGE)) == as_json(MESSAGE)


async def test_file_appends(tmp_path):
    """Each message is a line behind what was there before, also after a restart."""
    path = tmp_path / "out.jsonl"
    for n in range(2):
        async with open_channels({"email": settings(path)}) as channels:
            assert await channels["email"].send(numbered(n)) == SENT
    assert keys(path) == ["conversation/intro/0", "conversation/intro/1"]
    assert path.stat().st_mode & 0o077 == 0


async def test_file_deleted_meanwhile(tmp_path):
    """After somebody removed the file, messages go to a new one and not to nowhere."""
    path = tmp_path / "out.jsonl"
    async with FileChannel(settings(path)) as channel:
        await channel.send(numbered(0))
        path.unlink()
        assert await channel.send(numbered(1)) == SENT
        assert keys(path) == ["conversation/intro/1"]
        path.unlink()
        tmp_path.rmdir()
        assert await channel.send(numbered(2)) == Outcome(kind=OutcomeKind.RETRY, error="ENOENT")
        tmp_path.mkdir()
        assert await channel.send(numbered(2)) == SENT
    assert keys(path) == ["conversation/intro/2"]


async def test_file_renamed_meanwhile(tmp_path):
    """A file that was moved away still gets every line: whoever moved it has it."""
    path, moved = tmp_path / "out.jsonl", tmp_path / "out.jsonl.1"
    async with FileChannel(settings(path)) as channel:
        await channel.send(numbered(0))
        path.rename(moved)
        await channel.send(numbered(1))
    assert len(keys(moved)) == 2


async def test_no_room_for_a_whole_line(tmp_path):
    """A line of which a part was written is retried; the part does not tear what comes next."""
    path = tmp_path / "out.jsonl"
    async with FileChannel(settings(path)) as channel:
        await channel.send(numbered(0))
        with room_for(path.stat().st_size + 100):
            partly = await channel.send(numbered(1, 500))
            fully = await channel.send(numbered(1, 500))
        assert partly == Outcome(kind=OutcomeKind.RETRY, error="partial write")
        assert fully == Outcome(kind=OutcomeKind.RETRY, error="EFBIG")
        assert b"intro/1" not in path.read_bytes()
        assert await channel.send(numbered(1, 500)) == SENT
    assert keys(path) == ["conversation/intro/0", "conversation/intro/1"]


async def test_no_space_left(tmp_path):
    """A full disk is no loss: the message may be handed off later."""
    channel = FileChannel(settings(tmp_path / "out.jsonl"))
    channel.path = "/dev/full"  # settings would refuse it, but no other disk is full for certain
    async with channel:
        assert await channel.send(MESSAGE) == Outcome(kind=OutcomeKind.RETRY, error="ENOSPC")


async def test_behind_a_part_of_another_worker(tmp_path):
    """A worker that was killed within a line does not tear the next one's."""
    path = tmp_path / "out.jsonl"
    path.write_bytes(b'{"key": "torn')
    async with FileChannel(settings(path)) as channel:
        assert await channel.send(numbered(0)) == SENT
        assert await channel.send(numbered(1)) == SENT
    *torn, first, second = path.read_bytes().splitlines()
    assert [json.loads(line)["key"][-1] for line in (first, second)] == ["0", "1"]
    assert len(torn) == 1


async def write_many(path, worker):
    """Append many messages, in a process of its own, as soon as all may."""
    async with FileChannel(settings(path)) as channel:
        sys.stdin.readline()
        for n in range(2000):
            await channel.send(numbered(f"{worker}-{n}", 50 + n % 7000))


def test_several_workers_append(tmp_path):
    """Lines of several processes, long and short, stand whole beside each other, each once."""
    path = tmp_path / "out.jsonl"
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, path, str(n)],
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        for n in range(3)
    ]
    for worker in workers:
        worker.stdin.write(b"go\n")
        worker.stdin.close()
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    expected = Counter(f"conversation/intro/{w}-{n}" for w in range(3) for n in range(2000))
    assert Counter(keys(path)) == expected


async def test_log_channel_shows_no_content():
    """A log line has the key, the channel, the campaign and a length: nothing of the message."""
    seen = []
    sink = logger.add(seen.append)
    try:
        async with open_channels({"sms": ChannelSettings(name="sms", url="log:")}) as channels:
            assert await channels["sms"].send(MESSAGE) == SENT
    finally:
        logger.remove(sink)
    (line,) = seen
    assert line.record["extra"] == {
        "key": "conversation/intro/0",
        "channel": "sms",
        "campaign_id": "campaign",
        "body_length": len(MESSAGE.body),
    }
    assert "ada" not in str(line)


async def test_unexpected_exception_is_unknown():
    """A defect in a channel is an unknown outcome, named by its class and quoting nothing."""

    async def send(message):
        raise KeyError(message.to)

    outcome = await hand_off(Custom(send), MESSAGE, 5)
    assert outcome == Outcome(kind=OutcomeKind.UNKNOWN, error="KeyError")


async def test_timeout_is_unknown():
    """A channel that does not answer in time is cut off, and nobody knows what it did."""
    cut_off = anyio.Event()

    async def send(message):
        try:
            await anyio.sleep_forever()
        finally:
            cut_off.set()

    outcome = await hand_off(Custom(send), MESSAGE, 0.01)
    assert outcome == Outcome(kind=OutcomeKind.UNKNOWN, error="TimeoutError")
    assert cut_off.is_set()


async def test_cancellation_does_not_cut_through():
    """A worker that stops lets a hand-off come to its end, and learns what came of it."""
    began, may_end, outcomes = anyio.Event(), anyio.Event(), []

    async def send(message):
        began.set()
        await may_end.wait()
        return SENT

    async def deliver():
        outcomes.append(await hand_off(Custom(send), MESSAGE, 30))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(deliver)
        await began.wait()
        tasks.cancel_scope.cancel()
        may_end.set()
    assert outcomes == [SENT]


async def test_outcome_is_passed_on():
    """What a channel says came of a message is what the worker gets."""
    said = Outcome(kind=OutcomeKind.RETRY, retry_after=timedelta(seconds=9), error="busy")

    async def send(message):
        return said

    assert await hand_off(Custom(send), MESSAGE, 5) is said


async def test_one_that_never_waits_is_given_no_time():
    """It has no time-out to be cut off by; what it should not raise is an outcome all the same."""
    answers = [SENT, ZeroDivisionError()]

    async def send(message):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    channel = Custom(send)
    channel.waits = False
    assert await hand_off(channel, MESSAGE, 0) is SENT
    failed = await hand_off(channel, MESSAGE, 0)
    assert failed == Outcome(kind=OutcomeKind.UNKNOWN, error="ZeroDivisionError")


async def test_every_scheme_opens(tmp_path):
    """Each channel in the table can be opened, used and closed under its own name."""
    hosts = {scheme: f"{scheme}://example.com" for scheme in ("http", "https", "smtp", "smtps")}
    urls = {"file": f"file:{tmp_path}/out", "log": "log:"} | hosts
    assert set(urls) == set(CHANNELS)
    configured = {name: ChannelSettings(name=name, url=url) for name, url in urls.items()}
    async with open_channels(configured) as channels:
        assert {name: channel.name for name, channel in channels.items()} == {
            name: name for name in urls
        }
        for name in urls.keys() - hosts.keys():
            assert await hand_off(channels[name], MESSAGE, 5) == SENT


async def test_file_is_quick_enough_for_the_event_loop(tmp_path):
    """A batch of a hundred stays far below what would hold up anything else."""
    threads = threading.active_count()
    async with FileChannel(settings(tmp_path / "out.jsonl")) as channel:
        started = anyio.current_time()
        for n in range(100):
            await channel.send(numbered(n, 1000))
        assert anyio.current_time() - started < 0.25
    assert threading.active_count() <= threads


if __name__ == "__main__":
    anyio.run(write_many, *sys.argv[1:])
