"""What is personal of a campaign leaves long after its end; the campaign and its counts stay."""

import random
from datetime import timedelta
from functools import partial

import anyio
import pytest
from attrs import evolve
from click.testing import CliRunner

import reactor.retention
from handlers.campaign import step
from handlers.retention import going, gone, may_go
from reactor.cli.commands import reactor as commands
from schemas.campaign import CampaignStatus
from schemas.hand_off import OnUnknown
from schemas.ids import conversation_id
from schemas.transition import Answer, Reason, Suppress
from schemas.update import Bounce, CampaignUpdate, CampaignUpdateKind, UpdateStatus
from tests.builders import (
    DAY,
    HOUR,
    NOW,
    batch_request_document,
    campaign,
    recipient_document,
    template_document,
)
from tests.decided import ended, scene, tell, update
from tests.machine import Fault, Floor, Shift
from tests.world import world as make_world

KEEP = 90 * DAY
OVER = {"status": CampaignStatus.COMPLETED, "completed_at": NOW - KEEP, "due_at": None}
TEMPLATE = template_document(
    stages=[{"id": "only", "final": True, "message": {"body": "Hello"}}],
    retry={"max_attempts": 1},
)
#: Collections of which nothing stays.
LEAVING = [
    *("conversations", "messages", "conversation_updates", "campaign_updates"),
    *("rejected_recipients", "batch_recipients"),
]
DAYS = DAY.total_seconds()


@pytest.mark.parametrize(
    ("changes", "may"),
    [
        ({}, True),
        ({"removing_since": NOW}, True),
        ({"completed_at": NOW - KEEP + timedelta(milliseconds=1)}, False),
        ({"completed_at": None, "status": CampaignStatus.CANCELLED}, False),
        ({"recount_at": NOW - HOUR}, False),
    ],
    ids=["over", "going", "too early", "not over", "to be counted"],
)
def test_when_they_may_go(changes, may):
    """So long after the end, when nobody may write to it any more."""
    assert may_go(campaign(**OVER | changes), NOW, KEEP) is may


def test_the_marks():
    """First that they are going, then that they are gone; nothing else changes."""
    over = campaign(**OVER)
    leaving = going(over, NOW)
    assert leaving == evolve(over, removing_since=NOW)
    assert gone(leaving, NOW + HOUR) == evolve(leaving, removed_at=NOW + HOUR)


@pytest.mark.parametrize("kind", CampaignUpdateKind)
def test_an_order_comes_too_late(kind):
    """Nothing is opened again whose conversations have left; each order is answered."""
    leaving = campaign(**OVER, removing_since=NOW)
    orders = [
        CampaignUpdate(id=identity, campaign_id=leaving.id, kind=kind, at=NOW)
        for identity in ("o1", "o2")
    ]
    transition = step(leaving, orders, NOW)
    assert transition.campaign == leaving
    late = Answer(status=UpdateStatus.IGNORED, reason=Reason.REMOVED)
    assert transition.answers == (("o1", late), ("o2", late))


@pytest.mark.parametrize(
    ("kind", "fields", "reason"),
    [
        ("reply", {"text": "Hello?"}, Reason.REMOVED),
        ("delivered", {}, Reason.REMOVED),
        ("retry", {}, Reason.REMOVED),
        ("bounced", {"bounce": Bounce.SOFT}, Reason.REMOVED),
        ("bounced", {}, Reason.SUPPRESSED),
        ("opted_out", {}, Reason.SUPPRESSED),
    ],
)
def test_an_update_comes_while_they_leave(kind, fields, reason):
    """Nothing is written of it but who must not be written to."""
    at = scene(**OVER, removing_since=NOW)
    transition = tell(ended("failed"), update(kind, **fields), at)
    assert transition.answer.reason == reason
    kept = reason is Reason.SUPPRESSED
    assert transition.answer.status is (UpdateStatus.APPLIED if kept else UpdateStatus.IGNORED)
    assert [type(effect) for effect in transition.effects] == [Suppress] * kept
    assert transition.conversation == ended("failed")


def floor(workers=2, retention=KEEP):
    """Make a floor from which campaigns leave."""
    return Floor(policy=OnUnknown.RESEND, batch_size=50, workers=workers, retention=retention)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Several batches to remove little."""
    monkeypatch.setattr(reactor.retention, "BATCH", 2)


def insert(world, identity, kind, **fields):
    """Insert an update of a conversation, or of the campaign."""
    collection = "conversation_updates" if "recipient_id" in fields else "campaign_updates"
    document = {"_id": identity, "batch_request_id": "q", "kind": kind} | fields
    world.store.insert(collection, document)


def over(world):
    """Lead a campaign to its end, with all that may belong to one, and its last recount."""
    recipients = [recipient_document(f"r{n}") for n in range(4)]
    recipients.append(recipient_document("r4", timezone="Mars/Base"))
    document = batch_request_document(recipients, _id="q", template=TEMPLATE)
    world.store.insert("batch_requests", document)
    world.post.fates.append("refused")
    insert(world, "early", "opted_out", recipient_id="r3")
    insert(world, "o1", "pause")
    insert(world, "o2", "resume")
    for _ in range(3):
        world.work([Shift(worker=0)])
        world.loop.seconds += 100
    direct = {"_id": "late", "conversation_id": conversation_id("q", "r1"), "kind": "delivered"}
    world.store.insert("conversation_updates", direct)
    for _ in range(3):
        world.work([Shift(worker=0)])
        world.loop.seconds += 100
    return one(world)


def one(world):
    """Give the campaign."""
    (found,) = (c for c in world.store.documents("campaigns") if c["batch_request_id"] == "q")
    return found


def gone_for_good(world, before):
    """What was personal is gone; what the campaign came to is what it was."""
    after = one(world)
    assert after["removed_at"] >= after["removing_since"]
    for collection in LEAVING:
        assert world.store.documents(collection) == [], collection
    marks = {"removing_since", "removed_at", "version", "counting_at"}
    assert {k: v for k, v in after.items() if k not in marks} == {
        k: v for k, v in before.items() if k not in marks
    }
    (request,) = world.store.documents("batch_requests")
    assert request["status"] == "accepted"
    assert request["counts"] == {"recipients": 5, "rejected": 1}
    assert request["recipients"] == request["rejected_recipients"] == []
    assert [s["_id"] for s in world.store.documents("suppressions")] == ["email:r3@example.com"]
    assert not world.store.seen.violations


def test_they_stay_as_long_as_they_should():
    """To the second; and for ever where nothing is to leave."""
    for retention, leaves in ((KEEP, True), (None, False)):
        world = floor(retention=retention)
        before = over(world)
        present = {name: world.store.documents(name) for name in LEAVING}
        rest = before["completed_at"] + KEEP - world.loop.now()
        world.loop.seconds += rest.total_seconds() - 1
        world.work([Shift(worker=0)])
        assert {name: world.store.documents(name) for name in LEAVING} == present
        world.loop.seconds += 1 if leaves else 1_000 * DAYS
        world.work([Shift(worker=0)])
        if leaves:
            gone_for_good(world, before)
        else:
            assert {name: world.store.documents(name) for name in LEAVING} == present
            assert one(world)["removing_since"] is None
        world.close()


def test_a_worker_dies_over_it():
    """At any of its calls, before, halfway and after: another one finishes it."""
    for moment in ("before", "halfway", "after"):
        for call in range(1, 200):
            world = floor()
            before = over(world)
            world.loop.seconds += 90 * DAYS
            death = Fault(part="any", call=call, moment=moment, death=True)
            world.work([Shift(worker=0, fault=death)])
            died = world.store.seen.totals["deaths"]
            if one(world)["removing_since"] is None:
                assert len(world.store.documents("conversations")) == 4
            world.work([Shift(worker=1)])
            gone_for_good(world, before)
            world.close()
            if not died:
                break
        else:
            raise AssertionError("it never worked in peace")


@pytest.mark.parametrize("seed", range(40))
def test_several_workers_and_late_updates(seed):
    """Whatever comes while it leaves is answered, and an opt-out is kept; twice removed is removed."""
    world, draw = floor(workers=3), random.Random(seed)
    before = over(world)
    world.loop.seconds += 90 * DAYS
    told = [
        *({"kind": "reply", "recipient_id": "r0", "text": "Hello?"} for _ in range(3)),
        *({"kind": kind, "recipient_id": "r1"} for kind in ("delivered", "retry", "opted_out")),
        *({"kind": kind} for kind in ("retry", "cancel")),
    ]
    for at, fields in enumerate(told):
        when = draw.randrange(1, 150)
        world.loop.agenda.append(
            (when, lambda at=at, fields=fields: insert(world, f"u{at}", **fields))
        )
    world.work([Shift(worker=n) for n in range(3)], seed)
    for _ in range(3):
        world.loop.seconds += 100 + 90 * DAYS
        world.work([Shift(worker=n) for n in range(3)], seed)
    after = one(world)
    assert after["removed_at"]
    assert after["counts"]["recipients"] == before["counts"]["recipients"]
    assert world.store.documents("conversations") == world.store.documents("messages") == []
    suppressed = {each["_id"] for each in world.store.documents("suppressions")}
    for each in world.store.documents("conversation_updates"):
        assert each["reason"] in {"removed", "suppressed", "no such conversation"}
        if each["reason"] == "suppressed":
            assert "email:r1@example.com" in suppressed
    for each in world.store.documents("campaign_updates"):
        assert (each["status"], each["reason"]) == ("ignored", "removed")
    assert not world.store.seen.violations
    world.close()


def test_another_campaign_does_not_wait_for_it():
    """Between two batches the others have their turns."""
    world = floor()
    over(world)
    world.loop.seconds += 90 * DAYS
    live = batch_request_document([recipient_document("n")], _id="live", template=TEMPLATE)
    world.store.insert("batch_requests", live)
    world.work([Shift(worker=0)])
    (message,) = world.store.documents("messages")
    assert message["sent_at"] < one(world)["removed_at"]
    world.close()


async def test_a_person_is_told(mongodb_uri, mongodb_client, database_name, tmp_path):
    """On MongoDB, too, all of it leaves; the commands say that it did, and when."""
    limits = {"RETENTION_DAYS": "1"}
    async with make_world(mongodb_uri, mongodb_client, database_name, tmp_path, **limits) as made:
        await made.submit(3, template=TEMPLATE)
        await made.tell("delivered")
        await made.order("cancel")
        await made.pass_time(minutes=5)
        before = made.campaign()
        await made.pass_time(days=1)
        after = made.campaign()
        assert after["removed_at"]
        assert (after["counts"], after["messages"]) == (before["counts"], before["messages"])
        for collection in LEAVING:
            assert made.database[collection].count_documents({}) == 0, collection
        assert made.answer()["recipients"] == []
        assert made.answer()["counts"] == {"recipients": 3, "rejected": 0}
        late = await made.tell("retry")
        assert (late["status"], late["reason"]) == ("rejected", "no such conversation")
        order = await made.order("retry")
        assert (order["status"], order["reason"]) == ("ignored", "removed")
        environ = {"MONGODB_URI": mongodb_uri, "MONGODB_DB": database_name}

        async def said(*arguments):
            invoke = partial(CliRunner().invoke, commands, arguments, env=environ)
            return (await anyio.to_thread.run_sync(invoke)).output

        assert "Removed" in await said("status", "r")
        assert "its conversations were removed" in await said("show", "r/r0")
        assert "no conversation 'r9/r0' here (say" in await said("show", "r9/r0")
