"""A world in which nothing happens any more but time: all of it ends, and all of it agrees."""

from datetime import timedelta

from handlers.gates import allowance
from reactor.recount import ABANDONED_SECONDS
from schemas.conversation import MAX_HISTORY
from tests.invariants import accounting, honesty, keys, liveness, nothing_dropped, order
from tests.machine import Shift
from tests.verified import verified
from tests.witness import MemoryDatabase

#: Left to this, a world is stuck.
MAX_ROUNDS = 400


def come_to_rest(floor):
    """Let everything end."""
    loop = floor.loop
    floor.post.fates.clear()
    floor.post.outage = 0.0, "sent"
    for act in [each[1] for each in loop.agenda]:
        act()
    loop.agenda = []
    stood = 0
    for _ in range(MAX_ROUNDS):
        before = _at_an_open_gate(floor)
        floor.work([Shift(worker=0), Shift(worker=1)])
        stood = stood + 1 if before and before <= _parked(floor.store) else 0
        assert stood < 3, "I3 nobody leaves an open gate"
        _completed_by_a_sweep(floor)
        times = _unsettled(floor.store)
        if times is None:
            _recount(floor)
            return
        later = [time for time in times if time > loop.now()]
        wait = min(later) - loop.now() if later else timedelta(seconds=1)
        loop.seconds += wait.total_seconds() + 0.001
    raise AssertionError(f"I3 stuck: {times}")


def agree(floor, claimed=frozenset()):
    """
    I1 to I9 of a world at rest.

    `claimed`: conversations of which something was reported that may not be true.
    """
    store, seen = floor.store, floor.store.seen
    assert not seen.violations, seen.violations
    assert not seen.too_fast()
    database, lines = MemoryDatabase(store), list(seen.accepted.values())
    conversations = store.documents("conversations")
    messages = {one["_id"]: one for one in store.documents("messages")}
    for campaign in store.documents("campaigns"):
        mine = [one for one in conversations if one["campaign_id"] == campaign["_id"]]
        assert campaign["completed_at"]
        accounting(database, campaign, mine)
        for one in mine:
            keys(campaign, one, undecided(one, messages))
            liveness(campaign, one)
            assert one["slot"] is None
            assert len(one["history"]) <= MAX_HISTORY
        assert verified(floor, campaign, mine, list(messages.values())) == []
    # An alert would say that counts did not agree, and they do.
    assert all(one["kind"] == "circuit_opened" for one in store.documents("alerts"))
    nothing_dropped(database)
    order(lines)
    honesty(lines, {k: m for k, m in messages.items() if m["conversation_id"] not in claimed})
    _honest(store, messages)
    _opted_out(store)


def undecided(conversation, messages):
    """
    Leave out what was never reserved.

    Effects come before the conversation's write: a step that reserved a message and gave it up at
    once, and then lost its race, has entered it as cancelled.
    """
    return {
        key: one
        for key, one in messages.items()
        if (one["status"], one["attempts"]) != ("cancelled", 0)
        or int(key.rsplit("/", 1)[1]) < conversation["message_count"]
    }


def _parked(store):
    """Give what is parked and could leave, were its gate open."""
    active = {one["_id"] for one in store.documents("campaigns") if one["status"] == "active"}
    return {
        (one["_id"], one["slot"]["n"])
        for one in store.documents("conversations")
        if one["slot"]
        and one["slot"]["held"]
        and one["campaign_id"] in active
        and one["status"] != "paused"
    }


def _at_an_open_gate(floor):
    """Give what is parked although its gate is open."""
    state = floor.store._states().get("email")
    allowed = allowance(floor.specs["email"], state, floor.loop.now())
    return _parked(floor.store) if allowed is None or allowed.count else set()


def _completed_by_a_sweep(floor):
    """I3: no campaign waits for its deadline when none of its conversations is left."""
    if _left_over(floor.store):
        floor.work([Shift(worker=0), Shift(worker=1)])
    assert not _left_over(floor.store)


def _left_over(store):
    """Give the campaigns that have nothing to do and are not completed."""
    busy = {one["campaign_id"] for one in store.documents("conversations") if one["due_at"]}
    return [
        campaign["_id"]
        for campaign in store.documents("campaigns")
        if campaign["opened"]
        and campaign["_id"] not in busy
        and campaign["status"] != "scheduled"
        and not (campaign["open_until"] or campaign["completed_at"])
    ]


def _recount(floor):
    """Let a recount that was begun and never finished be given up, and begun again."""
    floor.loop.seconds += ABANDONED_SECONDS + 1
    floor.work([Shift(worker=at) for at in range(len(floor.workers))])


def _unsettled(store):
    """Give when there is something to do; None: never again."""
    found = [
        one for one in store.documents("campaigns") if one["due_at"] or not one["completed_at"]
    ]
    found += [one for one in store.documents("conversations") if one["due_at"]]
    for inbox in ("conversation_updates", "campaign_updates", "batch_requests"):
        found += [one for one in store.documents(inbox) if one.get("status") is None]
    return [one["due_at"] for one in found if one.get("due_at")] if found else None


def _honest(store, messages):
    """I2, I6: what was reserved has an entry; what was taken or recorded as sent stays so."""
    seen = store.seen
    assert seen.reserved <= set(messages)
    for key, message in messages.items():
        if key in seen.accepted:
            assert message["status"] not in {"cancelled", "failed"}, message
        if key in seen.sent:
            assert message["status"] in {"sent", "delivered", "bounced"}, message
            assert message["body"], message
    for update in store.documents("conversation_updates"):
        if update["kind"] == "delivered" and update["status"] == "applied":
            key = update.get("message_id")
            assert key is None or messages[key]["status"] in {"delivered", "bounced"}


def _opted_out(store):
    """I5: an opt-out that was answered has its suppression."""
    suppressed = {one["_id"] for one in store.documents("suppressions")}
    for update in store.documents("conversation_updates"):
        if update.get("kind") == "opted_out" and update["status"] == "applied":
            assert f"email:{update['recipient_id']}@example.com" in suppressed
