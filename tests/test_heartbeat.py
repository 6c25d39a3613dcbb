import anyio
import pytest
from loguru import logger

from reactor.heartbeat import Heartbeat


class Clock:
    """Seconds that pass when a test says so."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    """A clock of the test's own."""
    return Clock()


@pytest.fixture
def heartbeat(tmp_path, clock):
    """A heartbeat with nothing to watch yet."""
    return Heartbeat(tmp_path / "alive", clock)


@pytest.fixture
def warnings():
    """What is logged meanwhile: messages with their fields."""
    seen = []
    sink = logger.add(lambda m: seen.append((m.record["message"], m.record["extra"])))
    yield seen
    logger.remove(sink)


def touched(heartbeat):
    """Whether a touch made the file, which is removed again."""
    heartbeat.touch()
    existed = heartbeat.file.exists()
    heartbeat.file.unlink(missing_ok=True)
    return existed


def test_every_part_must_move(heartbeat, clock):
    """One late part is enough to stop the heartbeat, and its next progress brings it back."""
    timer, listener = heartbeat.part("timer", 10), heartbeat.part("listener", 30)
    clock.now += 10
    assert touched(heartbeat)
    clock.now += 1
    listener()
    assert not touched(heartbeat)
    timer()
    assert touched(heartbeat)
    clock.now += 31
    timer()
    assert not touched(heartbeat)


def test_part_that_never_reports(heartbeat, clock):
    """A part that hangs from the start is late as well."""
    heartbeat.part("dispatcher", 5)
    assert touched(heartbeat)
    clock.now += 5.1
    assert not touched(heartbeat)


def test_late_part_is_logged_once(heartbeat, clock, warnings):
    """The log says which part stopped, each time it stops."""
    beat = heartbeat.part("timer", 5)
    for _ in range(2):
        clock.now += 6
        heartbeat.touch()
        heartbeat.touch()
        beat()
        heartbeat.touch()
    fields = {"part": "timer", "limit_seconds": 5}
    assert warnings == [("No progress: the heartbeat stops", fields)] * 2


def test_file_that_cannot_be_touched(tmp_path, warnings):
    """A full or missing disk costs the heartbeat, not the work."""
    Heartbeat(tmp_path / "gone" / "alive").touch()
    assert [message for message, _ in warnings] == ["The heartbeat file cannot be touched"]


async def test_run_touches_at_once(heartbeat):
    """A worker that has just started is alive."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(heartbeat.run)
        with anyio.fail_after(5):
            while not heartbeat.file.exists():
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
