"""What is parked at a gate: it holds up nobody, nobody turns in vain for it, and it leaves."""

from datetime import timedelta

import pytest
from attrs import evolve

from handlers.atom import settled
from reactor.gatekeeper import Permits, give_back
from schemas.conversation import WaitingFor
from schemas.converter import to_document
from schemas.hand_off import ChannelSpec, OnUnknown
from tests.builders import DAY, HOUR, NOW, campaign, conversation, slot
from tests.decided import paused
from tests.machine import Floor, Shift

MINUTE = timedelta(minutes=1)


def parked(number, *, still=False):
    """Make a conversation whose message waits at a gate; `still`: it is paused as well."""
    own = slot(held=WaitingFor.CIRCUIT, until=NOW + DAY, due_at=NOW - HOUR + number * MINUTE)
    made = conversation(f"r{number}", wait_until=NOW, due_at=NOW + DAY, slot=own, message_count=1)
    return settled(paused(made)) if still else made


@pytest.fixture
def floor():
    """Make a worker over a store in memory with an active campaign of these conversations."""
    made = []

    def make(*conversations, **changes):
        default = {"policy": OnUnknown.RESEND, "batch_size": 50, "workers": 1, "pace": (1.0, 1)}
        made.append(Floor(**default | changes))
        made[0].store.insert("campaigns", to_document(campaign(due_at=None)))
        for one in conversations:
            made[0].store.insert("conversations", to_document(one))
        return made[0]

    yield make
    made[0].close()


def shifts(floor, count, seconds):
    """Let the worker work so often, and time pass in between."""
    for _ in range(count):
        floor.work([Shift(worker=0)])
        floor.loop.seconds += seconds


def test_what_is_paused_is_in_nobodys_way(floor):
    """The first in the queue is paused: those behind it leave all the same."""
    made = floor(parked(0, still=True), parked(1), parked(2))
    shifts(made, 5, 10)
    accepted = [key.partition("/")[0] for key in made.store.seen.accepted]
    assert accepted == [parked(1).id, parked(2).id]


def test_nobody_turns_for_what_is_paused(floor):
    """A queue of paused ones only is empty: the worker rests."""
    made = floor(parked(0, still=True), batch_size=2, pace=(None, 1))
    shifts(made, 2, 10)
    assert made.lives[0].calls["load"] <= 2
    assert not made.store.seen.accepted


def test_a_paused_campaign_gets_no_turns_for_its_queue(floor):
    """They are taken up again after `resume`, and not before."""
    made = floor(parked(0))
    fields = {"status": "paused", "paused_at": NOW, "paused_from": "active"}
    made.store._of("campaigns").get(campaign().id).set(fields)
    shifts(made, 3, 100)
    engine = made.workers[0].engine
    assert engine.turns.next_due() is None or engine.turns.next_due() > made.loop.now() + MINUTE
    assert not made.store.seen.accepted
    order = {"_id": "o", "batch_request_id": campaign().batch_request_id, "kind": "resume"}
    made.store.insert("campaign_updates", order)
    shifts(made, 2, 10)
    assert len(made.store.seen.accepted) == 1


def test_what_is_parked_leaves_whoever_owns_it(floor):
    """Whoever has parked it knows of it, and its owner may not: nothing waits for a poll."""
    made = floor(*(parked(number) for number in range(8)), pace=(None, 1))
    share = made.workers[0].engine.share
    share.among("one", {"one", "two", "three"})
    owned = [number for number in range(8) if share.owns(parked(number).id)]
    assert 0 < len(owned) < 8
    shifts(made, 1, 0)
    assert len(made.store.seen.accepted) == 8


def test_a_campaign_that_is_over_is_forgotten(floor):
    """Its queue is nobody's any more."""
    made = floor(parked(0))
    made.store._of("campaigns").get(campaign().id).set({"status": "cancelled"})
    shifts(made, 3, 100)
    assert not made.workers[0].engine.watches["email"].queued
    assert made.store.one("campaigns", campaign().id)["completed_at"]


@pytest.mark.parametrize(
    ("seconds", "returned"),
    [(0.0, [9]), (0.25, [6]), (0.9, []), (10.0, [])],
    ids=["at once", "three have flowed in", "all have flowed in", "long ago"],
)
async def test_tokens_that_were_not_used_are_not_used_twice(floor, seconds, returned):
    """What has flowed in since they were taken is not put back on top of it."""
    made = floor(pace=(10.0, 10))
    engine, given = made.workers[0].engine, []

    class Bucket:
        async def return_tokens(self, spec, unused):
            given.append(unused)
            assert spec == ChannelSpec(
                name="email",
                address_kind="email",
                on_unknown=OnUnknown.RESEND,
                rate=10.0,
                burst=10,
            )

    engine = evolve(engine, store=Bucket())
    taken = engine.clock.monotonic() - seconds
    await give_back(engine, Permits(taken={"email": taken}), {"email": 9})
    assert given == returned
