"""
Two workers open a campaign: nobody is there twice, and no early update is taken for one about nobody.

The list of suppressions changes meanwhile, or updates were there before the conversations.
"""

import pytest

from schemas.hand_off import OnUnknown
from tests.builders import batch_request_document, recipient_document, update_document
from tests.invariants import accounting
from tests.machine import Fault, Floor, Shift
from tests.witness import MemoryDatabase

#: Of up to so many recipients, all are read and sorted out with the request.
BATCH = 10
SUPPRESSION = {"_id": "email:r0@example.com", "reason": "asked by phone"}


def opened(count, when, seed, shifts):
    """Open a campaign, and let the suppression come at a call of the workers."""
    world = Floor(policy=OnUnknown.RESEND, batch_size=BATCH, workers=2)
    recipients = [recipient_document(f"r{n}") for n in range(count)]
    world.store.insert("batch_requests", batch_request_document(recipients, _id="q"))
    world.loop.agenda.append((when, lambda: world.store.insert("suppressions", SUPPRESSION)))
    world.work(shifts, seed)
    for _ in range(3):
        world.loop.seconds += 100
        world.work([Shift(worker=1)])
    (campaign,) = world.store.documents("campaigns")
    conversations = world.store.documents("conversations")
    assert campaign["opened"]
    accounting(MemoryDatabase(world.store), campaign, conversations)
    world.close()
    return len(conversations)


@pytest.mark.parametrize(
    ("count", "calls"), [(BATCH, range(3, 20)), (BATCH + 1, range(15, 30))], ids=["few", "more"]
)
def test_whoever_opens_a_recipient_it_is_decided_once(count, calls):
    """At any call, in orders of which each was once a way to be there twice, and after a death."""
    seen = set()
    for when in calls:
        for seed in (12, 22, 41, 49, 52, 53, 55):
            death = Fault(part="insert_conversations", call=1, moment="after", death=True)
            seen.add(opened(count, when, seed, [Shift(worker=0), Shift(worker=1)]))
            seen.add(opened(count, when, seed, [Shift(worker=0, fault=death), Shift(worker=1)]))
    assert seen == {count - 1, count}


EARLY = {
    "conversation_updates": update_document("opted_out", batch_request_id="q"),
    "campaign_updates": {"_id": "pause-1", "batch_request_id": "q", "kind": "pause"},
}


@pytest.mark.parametrize("inbox", EARLY)
def test_an_early_update_finds_what_was_opened_while_it_was_looked_up(inbox):
    """One worker looks for its subject in vain, the other ends the opening: it is not rejected."""
    for seed in range(100):
        world = Floor(policy=OnUnknown.RESEND, batch_size=50, workers=2)
        world.store.insert("batch_requests", batch_request_document(3, _id="q"))
        world.store.insert(inbox, EARLY[inbox])
        world.work([Shift(worker=0), Shift(worker=1)], seed)
        for _ in range(3):
            world.loop.seconds += 100
            world.work([Shift(worker=1)])
        (update,) = world.store.documents(inbox)
        assert update["status"] == "applied", (seed, update["reason"])
        world.close()
