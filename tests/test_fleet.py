"""Workers as processes beside each other: they share, take over, and leave in order."""

import json
import signal
import time
from collections import Counter

from reactor.sharing import listeners
from tests.builders import batch_request_document, recipient_document, template_document
from tests.invariants import check_invariants
from tests.receivers.running import http_receiver
from tests.workers import workers

ONE_MESSAGE = template_document(
    stages=[{"id": "intro", "message": {"body": "Hello {{ recipient.first_name }}"}, "final": True}]
)
ASKING = template_document(
    stages=[
        {
            "id": "intro",
            "message": {"body": "Hello {{ recipient.first_name }}"},
            "on_reply": [{"then": "advance"}],
        },
        {"id": "thanks", "final": True, "message": {"body": "Thanks for {{ reply.text }}"}},
    ]
)


def until(condition, seconds=120):
    """Wait until it holds, and give what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def submit(database, count, template):
    """Insert a request with so many recipients."""
    people = [recipient_document(f"r{n}") for n in range(count)]
    database.batch_requests.insert_one(batch_request_document(people, template=template))


def reply(database, numbers):
    """Let recipients reply."""
    database.conversation_updates.insert_many(
        {
            "_id": f"u{n}",
            "batch_request_id": batch_request_document(0)["_id"],
            "recipient_id": f"r{n}",
            "kind": "reply",
            "text": f"the fish {n}",
        }
        for n in numbers
    )


def accepted(receiver):
    """Count what the receiver took, by send key."""
    return Counter(one["key"] for one in receiver.requests() if one["accepted"])


def lines(receiver):
    """Give what it took, as the channel `file:` writes it."""
    return [
        {"key": one["key"], "conversation_id": one["key"].split("/")[0], "body": one["sha256"]}
        for one in receiver.requests()
        if one["accepted"]
    ]


def test_one_is_killed_and_the_others_go_on(mongodb_uri, mongodb_client, database_name, tmp_path):
    """Replies to the dead worker's conversations are answered, too; every key arrives once."""
    database, count = mongodb_client[database_name], 300
    settings = {"CHANNEL_EMAIL_ALLOW_PRIVATE": "1", "POLLING_INTERVAL_SECONDS": "3600"}
    with (
        http_receiver(tmp_path) as receiver,
        workers(
            3, mongodb_uri, database_name, tmp_path, CHANNEL_EMAIL=receiver.url, **settings
        ) as fleet,
    ):
        until(lambda: database.workers.count_documents({}) == 3)
        submit(database, count, ASKING)
        until(lambda: accepted(receiver).total() == count)
        until(lambda: not database.conversations.count_documents({"slot": {"$ne": None}}))
        fleet[0].send_signal(signal.SIGKILL)
        fleet[0].wait()
        reply(database, range(count))
        until(lambda: database.campaigns.find_one({"completed_at": {"$ne": None}}))
        # Whoever was killed said no farewell, and is not waited for.
        assert database.workers.count_documents({}) == 3
    assert set(accepted(receiver).values()) == {1}
    assert accepted(receiver).total() == 2 * count
    check_invariants(database, lines(receiver))
    assert database.workers.count_documents({}) == 1


def test_a_few_listen_and_all_work(mongodb_uri, mongodb_client, database_name, tmp_path):
    """Two streams for four workers; when both who listen are killed, the others hear what comes then."""
    database, count = mongodb_client[database_name], 4_000
    file = tmp_path / "sent.jsonl"
    settings = {
        "CHANNEL_EMAIL": f"file:{file}",
        "LOG_LEVEL": "INFO",
        "MAX_CONVERSATIONS_PER_BATCH": "50",
        "POLLING_INTERVAL_SECONDS": "3600",
    }
    with workers(4, mongodb_uri, database_name, tmp_path, **settings) as fleet:
        until(lambda: database.workers.count_documents({}) == 4)
        until(lambda: len(streams(mongodb_client, database_name)) == 2)
        listening = set(listeners([one["_id"] for one in database.workers.find()]))
        until(lambda: streams(mongodb_client, database_name) == listening)
        submit(database, count, ASKING)
        until(lambda: file.exists() and len(file.read_text().splitlines()) == count)
        for process in fleet:
            if any(f"-{process.pid}-" in name for name in listening):
                process.kill()
                process.wait()
        reply(database, range(count // 10))
        answered = {"status": {"$exists": True}}
        until(lambda: database.conversation_updates.count_documents(answered) == count // 10)
    for n, process in enumerate(fleet):
        lines = (tmp_path / f"worker-{n}.log").read_text().splitlines()
        stopped = [one for one in map(json.loads, lines) if "wasted" in one]
        assert bool(stopped) == (process.returncode == 0)
        # More than the replies, of which another one may have answered all.
        assert all(one["conversations"] > count // 10 for one in stopped)
    sent = [json.loads(line) for line in file.read_text().splitlines()]
    assert len({one["key"] for one in sent}) == len(sent) == count + count // 10
    check_invariants(database, sent)


def streams(client, database_name):
    """Give the workers that have a change stream on the database."""
    pipeline = [
        {"$currentOp": {"allUsers": True, "idleCursors": True}},
        {"$match": {"cursor.cursorId": {"$exists": True}, "appName": {"$regex": "/listener$"}}},
    ]
    found = [one for one in client.admin.aggregate(pipeline) if database_name in one["ns"]]
    return {one["appName"].split("/")[1] for one in found}


def test_one_that_stops_gives_back_what_it_has_not_begun(
    mongodb_uri, mongodb_client, database_name, tmp_path
):
    """Its channel is slow: it ends within its grace, in order, and nothing waits for its leases."""
    database, count = mongodb_client[database_name], 60
    with http_receiver(tmp_path, "slow:0.5") as receiver:
        settings = {
            "CHANNEL_EMAIL": receiver.url,
            "CHANNEL_EMAIL_ALLOW_PRIVATE": "1",
            "CHANNEL_EMAIL_CONCURRENCY": "1",
            "CHANNEL_TIMEOUT_SECONDS": "2",
            "LEASE_SECONDS": "600",
            "SHUTDOWN_GRACE_SECONDS": "5",
        }
        with workers(1, mongodb_uri, database_name, tmp_path, **settings) as (worker,):
            submit(database, count, ONE_MESSAGE)
            until(lambda: accepted(receiver))
            began = time.monotonic()
            worker.terminate()
            assert worker.wait(60) == 0
            # It did not wait for the end of sixty half seconds.
            assert time.monotonic() - began < 15
        begun = accepted(receiver)
        assert 0 < len(begun) < count
        slots = Counter(
            (one["slot"] or {"state": None})["state"] for one in database.conversations.find()
        )
        assert slots == {None: len(begun), "reserved": count - len(begun)}
        receiver.set_mode("ok")
        with workers(1, mongodb_uri, database_name, tmp_path, **settings):
            until(lambda: database.campaigns.find_one({"completed_at": {"$ne": None}}))
    assert set(accepted(receiver).values()) == {1}
    assert len(accepted(receiver)) == count
    check_invariants(database, lines(receiver))
