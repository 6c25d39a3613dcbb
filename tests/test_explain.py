"""
Every command of a worker's whole life is a scan of an index, and sorted by it.

A campaign is led from its request to the removal of what was personal of it, with all that can happen
to it on the way, on a database with thousands of others' documents; what the worker has sent is then
explained there, each command and each pipeline within it.
"""

from datetime import UTC, datetime
from functools import partial

import anyio
import pytest

from bench.parked import crowd, enter, park
from reactor.cli.session import Session
from reactor.cli.verify import Progress, findings
from reactor.database import connect
from reactor.store.mongo import MongoStore
from reactor.store.protocol import Store
from schemas.documents import CODEC
from tests.builders import recipient_document
from tests.explain import Explainable, collection_scans, explained, stages_of
from tests.world import world

STAGES = [
    {
        "id": "intro",
        "message": {"subject": "Hello {{ recipient.first_name }}", "body": "Hello"},
        "follow_ups": [{"after": "2d", "message": {"body": "Still there?"}}],
        "reply_within": "3d",
        "on_reply": [
            {"intent": "interested", "then": "advance"},
            {"intent": "unclassified", "then": "hold"},
            {"then": "escalate"},
        ],
        "on_no_reply": "advance",
    },
    {"id": "offer", "message": {"body": "This is it"}, "reply_within": "3d"},
]
TEMPLATE = {"name": "life", "channel": "email", "stages": STAGES}
BROKEN = {
    "name": "broken",
    "channel": "sms",
    "retry": {"max_attempts": 1},
    "stages": [{"id": "only", "message": {"body": "Hello"}, "final": True}],
}
SETTINGS = {
    "CHANNEL_EMAIL_RATE": "10/s",
    # Nobody listens there.
    "CHANNEL_SMS": "http://127.0.0.1:9/",
    "CHANNEL_SMS_ALLOW_PRIVATE": "1",
}
OTHERS = 4
EACH = 300
#: Sorts that no index gives, with the reason: the key that they sort by.
COMPUTED = {
    "_takes_effect_at": "by `at`, or now without: of the unanswered updates of one batch or campaign",
}
#: Methods of the store for when a race was lost or something went wrong: tests/test_indexes.py explains what
#: they send.
SELDOM = {"channels", "conversations", "ledger", "return_tokens"}


@pytest.fixture
def sent(monkeypatch):
    """Keep what a worker sends."""
    kept = Explainable()
    monkeypatch.setattr("reactor.worker.connect", partial(connect, event_listeners=[kept]))
    return kept


@pytest.fixture
def called(monkeypatch):
    """Note which methods of the store are used."""
    names = set()
    for name in vars(Store):
        if not name.startswith("_"):
            monkeypatch.setattr(MongoStore, name, _noted(names, name, getattr(MongoStore, name)))
    return names


def _noted(names, name, method):
    def noting(*arguments, **named):
        names.add(name)
        return method(*arguments, **named)

    return noting


async def fill(database, started_at, name):
    """Insert the documents of other campaigns, open and waiting, and many that were answered."""
    for number in range(OTHERS):
        of = crowd(f"{name}{number}", EACH, TEMPLATE, started_at)
        await enter(database, of)
        await park(database, of, range(EACH), started_at)
    now = datetime.now(UTC)
    over = [
        {"_id": f"{name}{n}", "status": "completed", "completed_at": now, "removed_at": now}
        | {"batch_request_id": f"over{n}", "schema_version": 1}
        for n in range(300)
    ]
    await database.campaigns.insert_many(over)
    of_others = {
        inbox: [
            {"_id": f"{name}{n}", "status": "applied", "applied_at": now}
            | {"batch_request_id": f"{name}{n % OTHERS}", "recipient_id": f"r{n}"}
            | {"conversation_id": f"c{n}", "campaign_id": f"k{n % OTHERS}"}
            for n in range(1_000)
        ]
        for inbox in ("conversation_updates", "campaign_updates")
    } | {
        "batch_recipients": [
            {"_id": f"{name}{n}", "batch_request_id": f"q{n % 9}"} for n in range(999)
        ],
        "rejected_recipients": [
            {"_id": f"{name}{n}", "batch_request_id": f"q{n % 9}", "index": n} for n in range(999)
        ],
        "campaign_templates": [{"name": f"{name}{n}", "version": n} for n in range(200)],
        "suppressions": [
            {"_id": f"email:{name}{n}", "reason": "r", "at": now, "checked": True}
            for n in range(999)
        ],
    }
    for collection, documents in of_others.items():
        await database[collection].insert_many(documents)


async def lead(led):
    """Lead a campaign through everything that can come of it."""
    people = [recipient_document(f"r{n}") for n in range(12)] + [{"id": "nobody", "address": {}}]
    answer = await led.submit(people, template=TEMPLATE)
    assert answer["status"] == "accepted", answer
    assert answer["counts"] == {"recipients": 13, "rejected": 1}
    await led.pass_time(minutes=1)
    for kind, who, fields in (
        ("reply", "r0", {"text": "yes", "intent": "interested"}),
        ("reply", "r1", {"text": "?"}),
        ("send", "r1", {"message": {"body": "What would you like to know?"}}),
        ("reply", "r2", {"text": "no!", "intent": "complaint"}),
        ("escalation_resolved", "r2", {"resolution": "stay"}),
        ("opted_out", "r3", {}),
        ("bounced", "r4", {}),
        ("delivered", "r5", {}),
        ("pause", "r6", {}),
        ("resume", "r6", {}),
        ("goal_reached", "r7", {}),
        ("cancel", "r8", {}),
        ("reply", "nobody", {"text": "I am none of them"}),
    ):
        assert (await led.tell(kind, who, **fields))["status"] in {"applied", "rejected"}
    await led.order("pause")
    await led.pass_time(hours=5)
    await led.order("resume")
    # A document that nobody can read.
    led.database.conversations.update_one(
        {"_id": led.conversation("r9")["_id"]}, {"$set": {"message_count": "many"}}
    )
    await led.pass_time(days=3)
    for minute in range(5):
        await led.pass_time(minutes=minute)


async def others(led, database):
    """Take the other ways: recipients apart, a named template, a channel that fails, a cancellation."""
    template = {**TEMPLATE, "name": "named", "version": 3}
    await database.campaign_templates.insert_one(template)
    # One of them twice: it is rejected.
    await database.batch_recipients.insert_many(
        {"_id": f"own{at}", "batch_request_id": "apart", **recipient_document(f"a{n}")}
        for at, n in enumerate([*range(600), 0])
    )
    await database.suppressions.insert_one({"_id": "email:a5@example.com", "reason": "asked"})
    named = {"recipients": None, "template": None, "template_ref": {"name": "named"}}
    led.request = "apart"
    apart = {**named, "recipients_from": "batch_recipients"}
    led.database.batch_requests.insert_one(_request("apart", **apart))
    await led.work()
    await led.order("cancel")
    await led.pass_time(minutes=5)
    led.request = "failing"
    sms = [{"id": f"s{n}", "address": {"sms": f"+1415555{n:04}"}} for n in range(30)]
    await led.submit(sms, template=BROKEN)
    for _ in range(3):
        await led.pass_time(minutes=20)
    await led.order("retry")
    await led.pass_time(minutes=20)
    led.request = "strict"
    twice = [recipient_document("x"), recipient_document("x")]
    answer = await led.submit(twice, template=TEMPLATE, on_invalid_recipient="reject")
    assert answer["status"] == "rejected"


def _request(identity, **fields):
    made = {"_id": identity, "schema_version": 1, "name": identity, "type": "life"} | fields
    return {name: value for name, value in made.items() if value is not None}


async def live(led, database):
    """Let the worker run as it really does, beside another one that gives a sign of life."""
    stop = anyio.Event()
    # It dies at once, and what was its own is taken over.
    other = {"_id": "another", "seen_at": datetime.now(UTC)}
    await database.workers.insert_one(other)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(led.worker.run, stop, signals=False))
        for number in range(8):
            await database.batch_requests.insert_one(
                _request(f"live{number}", template=TEMPLATE, recipients=[recipient_document()])
            )
        accepted = {"_id": {"$regex": "^live"}, "status": "accepted"}
        with anyio.fail_after(60):
            while await database.batch_requests.count_documents(accepted) < 8:  # noqa: ASYNC110
                await anyio.sleep(0.05)
        stop.set()


def within(command):
    """Give a command, and each pipeline that runs within it as a command of its own."""
    yield command
    for stage in command.get("pipeline", ()):
        if union := stage.get("$unionWith"):
            yield from within(_alone(union["coll"], union["pipeline"]))
        if lookup := stage.get("$lookup"):
            joined = {"$match": {lookup["foreignField"]: "a campaign"}}
            yield from within(_alone(lookup["from"], [joined, *lookup["pipeline"]]))


def _alone(collection, pipeline):
    return {"aggregate": collection, "pipeline": list(pipeline), "cursor": {}}


def shape(value):
    """Give what commands of one kind have in common: all but their values."""
    match value:
        case dict():
            return tuple((name, shape(each)) for name, each in value.items())
        case list():
            return tuple(dict.fromkeys(shape(each) for each in value))
    return type(value).__name__


def sorts(command):
    """Give the keys that a command sorts by, itself or in its pipeline."""
    own = [command["sort"]] if command.get("sort") else []
    return own + [stage["$sort"] for stage in command.get("pipeline", ()) if "$sort" in stage]


def distinct(commands):
    """Give one command of each kind."""
    kinds = {}
    for command in commands:
        for each in within(command):
            for one in explained(each):
                name = next(iter(one))
                kinds.setdefault((name, one[name], shape(one)), one)
    return list(kinds.values())


async def test_every_command_of_a_life_is_a_scan_of_an_index(
    sent, called, mongodb_uri, mongodb_client, database_name, tmp_path
):
    """Whatever a worker looks for, it finds by an index; what it wants in order comes in order."""
    started_at = datetime.now(UTC).replace(microsecond=0)
    async with (
        connect(mongodb_uri, worker="test", event_listeners=[sent]) as client,
        world(mongodb_uri, mongodb_client, database_name, tmp_path, **SETTINGS) as led,
    ):
        database = client.get_database(database_name, codec_options=CODEC)
        await fill(database, started_at, "before")
        await led.worker.engine.store.now()
        sent.kept.clear()
        await lead(led)
        await others(led, database)
        await live(led, database)
        settings = led.worker.settings
        session = Session(settings=settings, database=database, now=datetime.now(UTC))
        [each async for each in findings(session, None, 0, Progress())]
        await led.pass_time(days=40)
        await led.pass_time(days=100)
        for _ in range(3):
            await led.work()
        assert led.database.campaigns.find_one({"batch_request_id": "r"})["removed_at"]
        commands = distinct(sent.kept)
        # What has left is there again, for the planner to choose from.
        await fill(database, started_at, "after")
        wrong = [each for one in commands if (each := await _wrong(database, one))]
    assert [str(each) for each in wrong] == []
    assert len(commands) > 60
    public = {name for name in vars(Store) if not name.startswith("_")}
    assert public - called <= SELDOM


async def _wrong(database, command):
    """Say what is wrong with a command's plan; None: nothing."""
    plan = await database.command("explain", command, verbosity="executionStats")
    stages = stages_of(plan)
    if "COLLSCAN" in stages or collection_scans(plan):
        return "scans a collection", command
    keys = [name for keys in sorts(command) for name in keys]
    if COMPUTED.keys().isdisjoint(keys) and ("SORT" in stages or _sorted_later(plan)):
        return "sorts in memory", command
    return None


def _sorted_later(plan):
    """Say whether a pipeline sorts what its query has given."""
    return any("$sort" in stage for stage in plan.get("stages", ()))
