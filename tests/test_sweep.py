"""What a sweep finds that the change stream should have announced is counted, and nothing else."""

import pytest
from attrs import evolve

from reactor.store.protocol import Inbox
from reactor.sweep import Sweep
from reactor.telemetry import Telemetry
from schemas.hand_off import OnUnknown
from tests.builders import NOW, update_document
from tests.machine import Floor


class Told(Telemetry):
    """Remembers how many subjects were rescued."""

    def __init__(self):
        """None so far."""
        self.subjects = 0

    def rescued(self, subjects):
        """Note them."""
        self.subjects += subjects

    def set_active(self, active):
        """It is not looked at."""


@pytest.fixture
def floor():
    """Make a worker over a store in memory in which an update waits."""
    made = Floor(policy=OnUnknown.RESEND, batch_size=50, workers=1)
    made.store.insert("conversation_updates", update_document())
    yield made
    made.close()


@pytest.mark.parametrize(
    ("workers", "can_listen", "is_announced", "rescued"),
    [
        ({"a"}, {"a"}, False, 1),
        ({"a"}, {"a"}, True, 0),
        ({"a", "b", "c"}, {"a", "b"}, False, 1),
        ({"a", "b", "c"}, {"b", "c"}, False, 0),
    ],
    ids=["alone and not announced", "announced", "one that listens", "others listen"],
)
def test_what_was_not_announced(floor, workers, can_listen, is_announced, rescued):
    """Only by the second sweep: the stream may be a moment behind the first."""
    told = Told()
    engine = evolve(floor.workers[0].engine, telemetry=told)
    engine.share.among("a", workers, can_listen)

    async def sweep_twice():
        sweep = Sweep(engine)
        await sweep.run()
        assert told.subjects == 0
        waiting = await engine.store.unanswered(Inbox.CONVERSATION_UPDATES, now=NOW, limit=9)
        assert len(waiting) == 1
        for hint in waiting if is_announced else ():
            sweep.announced(hint)
        await sweep.run()

    floor.loop.run_until_complete(sweep_twice())
    assert told.subjects == rescued
