"""Two workers open a campaign while the list of suppressions changes: nobody is there twice."""

from schemas.hand_off import OnUnknown
from tests.builders import batch_request_document, recipient_document
from tests.invariants import accounting
from tests.machine import Fault, Floor, Shift
from tests.witness import MemoryDatabase

SUPPRESSION = {"_id": "email:r0@example.com", "reason": "asked by phone"}


def opened(when, seed, shifts):
    """Open a campaign, and let the suppression come at a call of the workers."""
    world = Floor(policy=OnUnknown.RESEND, batch_size=50, workers=2)
    recipients = [recipient_document(f"r{n}") for n in range(3)]
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


def test_whoever_opens_a_recipient_it_is_decided_once():
    """At any call, in orders of which each was once a way to be there twice, and after a death."""
    seen = set()
    for when in range(15, 30):
        for seed in (12, 22, 41, 49, 52, 53, 55):
            death = Fault(part="insert_conversations", call=1, moment="after", death=True)
            seen.add(opened(when, seed, [Shift(worker=0), Shift(worker=1)]))
            seen.add(opened(when, seed, [Shift(worker=0, fault=death), Shift(worker=1)]))
    assert seen == {2, 3}
