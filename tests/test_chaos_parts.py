"""The parts of the fault suite: the seed chooses, the network cuts, and the judge notices."""

import random
import socket
import threading

import pytest

from tests.chaos import judge
from tests.chaos.evidence import evidence
from tests.chaos.faults import DATABASE
from tests.chaos.nemesis import Bag
from tests.chaos.network import CLIENT, FROM, TO, Network
from tests.chaos.processes import until
from tests.chaos.script import Script


def test_the_seed_alone_says_what_the_agent_does():
    """Two scripts by one seed are the same to the last document; by another they are not."""
    one, same, other = (Script(seed, 60, 200).deeds for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert {deed.how for deed in one} == {"insert", "again", "anew"}
    assert {deed.collection for deed in one} == {
        "batch_requests",
        "conversation_updates",
        "campaign_updates",
    }


def test_every_fault_comes_once_before_any_comes_again():
    """The bag is emptied in an order that the seed says."""
    bags = [Bag(random.Random(7), DATABASE) for _ in range(2)]
    one, same = ([bag.pick().name for _ in range(2 * len(DATABASE))] for bag in bags)
    assert one == same
    assert len(set(one[: len(DATABASE)])) == len(DATABASE)


class Echo:
    """Answers what it is told, and keeps it."""

    def __init__(self):
        self.heard = b""
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        """Serve one connection after the other, until the server is closed."""
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=[connection], daemon=True).start()

    def serve(self, connection):
        """Answer until the other side has gone."""
        with connection:
            while data := said(connection):
                self.heard += data
                connection.sendall(data)


def said(connection):
    """Give what the other side says; nothing if it has gone."""
    try:
        return connection.recv(100)
    except ConnectionError:
        return b""


@pytest.fixture
def echo():
    """Run a server that echoes."""
    made = Echo()
    yield made
    made.server.close()


def connect(port):
    """Connect, with the patience that a slow machine needs."""
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def hears_nothing(connection):
    """See that nothing comes, for a moment."""
    connection.settimeout(0.3)
    with pytest.raises(TimeoutError):
        connection.recv(100)
    connection.settimeout(20)


def test_what_is_cut_is_swallowed_and_then_reset(echo):
    """One way or both; whoever has lost bytes is reset afterwards, and nobody else is."""
    with Network() as network:
        port = network.add(echo.port)
        with connect(port) as client:
            client.sendall(b"one")
            assert said(client) == b"one"
            network.cut(echo.port, CLIENT, FROM)
            client.sendall(b"two")
            (link,) = network.proxies[echo.port].links
            until(lambda: link.holed, 20, "the answer is lost")
            assert echo.heard == b"onetwo"
            hears_nothing(client)
            network.heal()
            with pytest.raises(ConnectionResetError):
                client.recv(100)
        with connect(port) as client:
            client.sendall(b"three")
            assert said(client) == b"three"
            network.cut(echo.port, CLIENT, TO)
            client.sendall(b"four")
            hears_nothing(client)
            assert echo.heard == b"onetwothree"


def test_members_are_known_by_what_they_say_first(echo):
    """A member that is cut off is not a client, nor another member."""
    with Network() as network:
        port = network.add(echo.port)
        network.cut(echo.port, 20_001, TO, FROM)
        for number, passes in ((20_001, False), (20_002, True), (None, True)):
            hello = b"hostInfo\x00\x0c\x00\x00\x00host:%d\x00" % number if number else b"hello"
            with connect(port) as who:
                who.sendall(hello)
                if passes:
                    assert said(who) == hello
                    continue
                hears_nothing(who)


def test_a_reset_breaks_the_connections_of_clients(echo):
    """Not those of members."""
    with Network() as network:
        port = network.add(echo.port)
        with connect(port) as client, connect(port) as member:
            client.sendall(b"hello")
            member.sendall(b"hostInfo\x00\x0c\x00\x00\x00host:20001\x00")
            assert said(client)
            assert said(member)
            network.reset()
            with pytest.raises(ConnectionResetError):
                client.recv(100)
            member.sendall(b"still here")
            assert said(member) == b"still here"


def line(key, *, sha256="a", mode="ok", at=100.0):
    """Make a line of the receiver's log."""
    return {"key": key, "sha256": sha256, "accepted": mode == "ok", "mode": mode, "at": at}


def entry(key, status="sent", **changes):
    """Make a ledger entry."""
    default = {"_id": key, "conversation_id": "c", "body": "Hello", "reason": None}
    return default | {"status": status} | changes


@pytest.mark.parametrize(
    ("lines", "entries", "finding"),
    [
        ([], [entry("c/intro/0")], "lost"),
        ([line("c/intro/0", mode="503")], [entry("c/intro/0")], "lost"),
        ([line("c/intro/0")], [], "not in the ledger"),
        ([line("c/intro/0")], [entry("c/intro/0", "failed")], "not called so"),
        ([line("c/intro/0", mode="hang")], [entry("c/intro/0", "failed")], "not called so"),
        ([line("c/intro/0")], [entry("c/intro/0", "cancelled")], "I6"),
        (
            [line("c/intro/0"), line("c/intro/0", sha256="b")],
            [entry("c/intro/0")],
            "one key, two bodies",
        ),
        (
            [line("c/intro/1"), line("c/intro/0")],
            [entry("c/intro/0"), entry("c/intro/1")],
            "I4",
        ),
    ],
)
def test_the_judge_notices(mongodb_client, database_name, lines, entries, finding):
    """What was lost, doubled, out of order, or is called something else than it is."""
    database = mongodb_client[database_name]
    if entries:
        database.messages.insert_many(entries)
    found = judge.judge(database, lines, []).findings
    assert any(finding in one for one in found), found


def test_what_was_refused_may_be_cancelled(mongodb_client, database_name):
    """A message that the receiver has refused was not sent: it may fail, or be cancelled."""
    database = mongodb_client[database_name]
    lines = [line("c/intro/0", mode="503"), line("d/intro/0", mode="429:1")]
    database.messages.insert_many([entry("c/intro/0", "cancelled"), entry("d/intro/0", "failed")])
    assert judge.judge(database, lines, []).findings == []


def test_evidence_shows_all_of_a_conversation(mongodb_client, database_name):
    """Its documents, by its id or by a send key, and what the receiver has seen."""
    database = mongodb_client[database_name]
    whom = {"batch_request_id": "b", "recipient": {"id": "r0"}}
    database.conversations.insert_one({"_id": "c", "status": "completed", **whom})
    database.messages.insert_one(entry("c/intro/0"))
    update = {"_id": "u", "batch_request_id": "b", "recipient_id": "r0", "kind": "reply"}
    database.conversation_updates.insert_one(update)
    lines = [line("c/intro/0", mode="hang"), line("d/intro/0")]
    shown = "\n".join(evidence(database, lines, ["c/intro/0", "c"]))
    for part in ("'completed'", "'c/intro/0'", "'reply'", "hang"):
        assert shown.count(part) == 1, part
    assert "d/intro/0" not in shown


def test_the_judge_knows_what_was_acknowledged(mongodb_client, database_name):
    """What the agent was told is there must be there, and answered."""
    database = mongodb_client[database_name]
    database.batch_requests.insert_one({"_id": "there", "status": "accepted"})
    database.batch_requests.insert_one({"_id": "unanswered"})
    acknowledged = [
        {"collection": "batch_requests", "_id": identity, "how": "insert", "at": 0.0}
        for identity in ("there", "unanswered", "gone")
    ]
    assert judge.unanswered(database, acknowledged) == [
        ("batch_requests", "gone"),
        ("batch_requests", "unanswered"),
    ]


def test_the_judge_knows_what_should_have_been_taken(mongodb_client, database_name):
    """Nothing is rejected that was inserted in good order; poison is."""
    updates = mongodb_client[database_name].conversation_updates
    for identity in ("good", "poison-0-kind"):
        updates.insert_one({"_id": identity, "status": "rejected", "reason": "no"})
    assert list(judge.wrongly_rejected(updates.database)) == ["good"]


def test_the_judge_knows_when_somebody_has_opted_out(mongodb_client, database_name):
    """A late duplicate is harmless; a new message long afterwards is not."""
    database = mongodb_client[database_name]
    whom = {"batch_request_id": "b"}
    database.conversations.insert_one({"_id": "c", **whom, "recipient": {"id": "r0"}})
    opt_out = {"_id": "u", **whom, "recipient_id": "r0", "kind": "opted_out"}
    database.conversation_updates.insert_one(opt_out)
    acknowledged = [{"collection": "conversation_updates", "_id": "u", "how": "insert", "at": 50.0}]
    times = {"c/intro/0": [10.0, 1_000.0], "c/intro/1": [51.0], "c/intro/2": [1_000.0]}
    witness = judge.hand_offs([line(key, at=at) for key, each in times.items() for at in each])
    assert judge.after_opt_out(database, witness, acknowledged) == ["c/intro/2"]
