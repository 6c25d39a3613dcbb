"""Counts of a completed campaign stay true, whatever comes late and whoever dies over it."""

import pytest

from schemas.hand_off import OnUnknown
from tests.builders import batch_request_document, recipient_document, template_document
from tests.invariants import accounting
from tests.machine import Fault, Floor, Shift
from tests.witness import MemoryDatabase

TEMPLATE = template_document(
    stages=[{"id": "only", "final": True, "message": {"body": "Hello"}}],
    retry={"max_attempts": 1},
)
#: What changes a count although all is over: a conversation's end, or a message's.
LATE = {
    "another end": ("refused", ["retry", "opted_out"]),
    "open again": ("refused", ["retry"]),
    "a report": ("lost", ["delivered"]),
}
#: Past every lease, and past the recount that follows.
LATER = 100.0


def floor():
    """Two workers."""
    return Floor(policy=OnUnknown.RESEND, batch_size=50, workers=2)


def update(floor, at, kind):
    """Tell something about the only recipient, or about its only message."""
    told = {"_id": f"u{at}", "batch_request_id": "q", "recipient_id": "r0", "kind": kind}
    if kind == "delivered":
        (message,) = floor.store.documents("messages")
        told["message_id"] = message["_id"]
    floor.store.insert("conversation_updates", told)


def over(floor, fate):
    """Lead a campaign to its end, and its last recount."""
    document = batch_request_document([recipient_document("r0")], _id="q", template=TEMPLATE)
    floor.store.insert("batch_requests", document)
    floor.post.fates.append(fate)
    for _ in range(3):
        floor.work([Shift(worker=0)])
        floor.loop.seconds += LATER
    return campaign(floor)


def campaign(floor):
    """Give the only campaign."""
    (document,) = floor.store.documents("campaigns")
    return document


def check(floor):
    """The campaign is over, it agrees with its conversations, and nobody has to look again."""
    one = campaign(floor)
    assert one["completed_at"]
    assert one["due_at"] is None
    accounting(MemoryDatabase(floor.store), one, floor.store.documents("conversations"))


@pytest.mark.parametrize("kind", LATE)
def test_a_worker_dies_over_something_late(kind):
    """At any of its calls, before and after: another one counts, and nothing stays due."""
    fate, kinds = LATE[kind]
    changed = set()
    for moment in ("before", "after"):
        for call in range(1, 200):
            world = floor()
            before = over(world, fate)
            check(world)
            for at, each in enumerate(kinds):
                update(world, at, each)
            world.work(
                [Shift(worker=0, fault=Fault(part="any", call=call, moment=moment, death=True))]
            )
            died = world.store.seen.totals["deaths"]
            for _ in range(3):
                world.loop.seconds += LATER
                world.work([Shift(worker=1)])
            check(world)
            after = campaign(world)
            changed.add(
                (before["counts"]["by_status"], before["messages"])
                != (after["counts"]["by_status"], after["messages"])
            )
            world.close()
            if not died:
                break
        else:
            raise AssertionError("it never worked in peace")
    assert changed == {True}


def test_a_stream_of_reports_costs_a_write_a_lease():
    """The campaign is no hot document: reports within a lease move its recount once."""
    world = floor()
    over(world, "lost")
    before = campaign(world)["version"]
    for at in range(10):
        update(world, at, "delivered")
        world.work([Shift(worker=0)])
    marks = campaign(world)
    world.loop.seconds += LATER
    world.work([Shift(worker=0)])
    check(world)
    # Each run ends with a recount of its own: claimed, and written.
    assert marks["version"] - before <= 1 + 2 * 10
    world.close()
