"""A worker that dies at any of its calls to the database: nothing is lost, nothing is doubled."""

import pytest
from attrs import evolve

import reactor.opening
from tests.builders import recipient_document, template_document
from tests.invariants import check_invariants
from tests.world import world as make_world

TEMPLATE = template_document(
    stages=[
        {
            "id": "intro",
            "message": {"body": "Hello {{ recipient.first_name }}"},
            "on_reply": [{"then": "advance"}],
        },
        {"id": "thanks", "final": True, "message": {"body": "Thanks for {{ reply.text }}"}},
    ]
)
RECIPIENTS = [
    recipient_document("r0"),
    recipient_document("r1", timezone="Mars/Base"),
    recipient_document("r2"),
    recipient_document("r3", address={"email": "r2@example.com"}),
    recipient_document("r4"),
]


class CrashError(BaseException):
    """The process is gone, here."""


class Crashing:
    """A store that dies at its k-th call: before it reaches the database, or after it came back."""

    def __init__(self, store, at, *, after):
        """Count calls from 1."""
        self.store, self.at, self.after, self.calls = store, at, after, 0

    def __getattr__(self, name):
        """Pass on every call but the k-th."""
        method = getattr(self.store, name)

        async def called(*args, **kwargs):
            self.calls += 1
            crashes = self.calls == self.at
            if crashes and not self.after:
                raise CrashError
            result = await method(*args, **kwargs)
            if crashes:
                raise CrashError
            return result

        return called


def mortal(world, at, *, after):
    """Give the world's worker a store that dies; the store, to see whether it has."""
    store = Crashing(world.worker.engine.store, at, after=after)
    return store, evolve(world.worker, engine=evolve(world.worker.engine, store=store))


async def campaign(world, at, *, after):
    """Lead a campaign to its end with one death on the way; False: it was not reached."""
    store, worker = mortal(world, at, after=after)
    healthy = world.worker
    died = False
    for step in range(2):
        world.worker = worker if not died else healthy
        try:
            if step == 0:
                await world.submit(RECIPIENTS, template=TEMPLATE)
            else:
                for number in (0, 2, 4):
                    await world.insert("reply", f"r{number}", text=f"the fish {number}")
                await world.work()
        except (BaseExceptionGroup, CrashError):
            died = True
        world.worker = evolve(healthy, engine=evolve(healthy.engine, turns=fresh(healthy)))
        healthy = world.worker
        await world.work()
        # A message whose worker died is taken over when its lease ends.
        await world.pass_time(minutes=1)
    assert store.calls >= at or not died
    return died


def fresh(worker):
    """Give a restarted worker's turns: nothing is remembered."""
    turns = worker.engine.turns
    return type(turns)(
        max_campaigns=turns.max_campaigns, batch_size=turns.batch_size, wake=turns.wake
    )


@pytest.mark.parametrize("batch_size", ["100", "4"], ids=["opened at once", "in pieces"])
async def test_death_at_every_call(
    mongodb_uri, mongodb_client, database_name, tmp_path, monkeypatch, batch_size
):
    """Wherever it dies, the next worker brings the campaign to the same end."""
    monkeypatch.setattr(reactor.opening, "CHUNK", 2)
    settings = {"MAX_CONVERSATIONS_PER_BATCH": batch_size}
    for after in (False, True):
        at = 0
        died = True
        while died:
            at += 1
            directory = tmp_path / f"{at}-{after}"
            directory.mkdir()
            async with make_world(
                mongodb_uri, mongodb_client, database_name, directory, **settings
            ) as world:
                died = await campaign(world, at, after=after)
                check(world, (at, after))
            for name in mongodb_client[database_name].list_collection_names():
                mongodb_client[database_name][name].delete_many({})
        assert at > 20


def check(world, where):
    """Hold a finished campaign to what must hold."""
    check_invariants(world.database, world.handed_off())
    answer, done = world.answer(), world.campaign()
    assert answer["counts"] == {"recipients": 5, "rejected": 2}, where
    assert [one["index"] for one in answer["rejected_recipients"]] == [1, 3], where
    assert done["status"] == "completed", where
    assert done["counts"]["by_exit_reason"] == {"final_stage": 3}, where
    assert done["messages"] == {"sent": 6, "failed": 0, "unknown": 0, "cancelled": 0}, where
    bodies = {}
    for line in world.handed_off():
        assert bodies.setdefault(line["key"], line) == line, where
    assert len(bodies) == 6, where
    ledger = {one["_id"]: one for one in world.database.messages.find()}
    assert set(ledger) == set(bodies), where
    for number in (0, 2, 4):
        assert world.reasons(f"r{number}") == [
            "opened",
            "message_sent",
            "stage_advanced",
            "message_sent",
            "completed",
        ], where
        texts = [one["body"] for one in world.messages(f"r{number}")]
        assert texts == ["Hello Ada", f"Thanks for the fish {number}"], where
    unanswered = world.database.conversation_updates.count_documents({"status": None})
    assert unanswered == 0, where
