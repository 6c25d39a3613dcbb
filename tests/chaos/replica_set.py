"""A replica set of three real members, each behind a proxy."""

import os
import shutil
from contextlib import suppress
from functools import partial

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from reactor.embedded import REPLICA_SET, find_mongod
from schemas.documents import CODEC
from tests.chaos.processes import Process, free_port, until

MEMBERS = 3
#: Megabytes: so small that junk rolls it over in seconds, so large that a member that was away for a
#: fault's time finds its place again.
OPLOG = 48
MEGABYTE = 1_000_000
CHECKPOINT_SECONDS = 5
ANSWER_SECONDS = 120
FAIL_POINTS = ("failCommand", "onPrimaryTransactionalWrite")
#: A member that is called upon must answer soon, or counts as away.
IMPATIENT = {
    "directConnection": True,
    "connectTimeoutMS": 1_000,
    "serverSelectionTimeoutMS": 1_000,
    "socketTimeoutMS": 3_000,
    "retryReads": False,
    "retryWrites": False,
}


class Member(Process):
    """One mongod."""

    def __init__(self, number, directory, network):
        self.port = free_port()
        self.address = f"127.0.0.1:{network.add(self.port)}"
        self.name = f"member {number}"
        self.files = directory / f"member-{number}"
        self.files.mkdir()
        command = [
            *(find_mongod(os.environ), "--replSet", REPLICA_SET, "--dbpath", self.files),
            *("--bind_ip", "127.0.0.1", "--port", self.port, "--nounixsocket"),
            *("--wiredTigerCacheSizeGB", "0.25", "--oplogSize", OPLOG),
            *("--syncdelay", CHECKPOINT_SECONDS),
            *("--setParameter", "enableTestCommands=1"),
            # What dead connections have left is swept up before the end of a run.
            *("--setParameter", "cursorTimeoutMillis=30000"),
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
        ]
        super().__init__(command, directory / f"member-{number}.log")
        self.client = MongoClient(f"mongodb://127.0.0.1:{self.port}", **IMPATIENT)

    def admin(self, *command, **options):
        """Run a command on this member, past its proxy; None if it does not answer."""
        try:
            return self.client.admin.command(*command, **options)
        except PyMongoError:
            return None

    def oplog(self, end):
        """Give the time of its first operation (1), or of the last (-1)."""
        oplog = self.client.local["oplog.rs"]
        return oplog.find_one({}, {"ts": 1}, sort=[("$natural", end)])["ts"]

    def elected(self):
        """Give the id of its election if it believes that it is the primary, and answers."""
        if self.frozen or not self.is_alive():
            return None
        hello = self.admin("hello")
        return hello["electionId"] if hello and hello["isWritablePrimary"] else None

    def empty(self):
        """Throw its documents away: it fetches them from the others when it starts."""
        self.kill()
        shutil.rmtree(self.files)
        self.files.mkdir()


class ReplicaSet:
    """Its members, and whatever is to be known about all of them."""

    def __init__(self, directory, network, *, election_seconds):
        self.network = network
        self.members = [Member(number, directory, network) for number in range(MEMBERS)]
        self.election_seconds = election_seconds
        hosts = ",".join(member.address for member in self.members)
        self.uri = f"mongodb://{hosts}/?replicaSet={REPLICA_SET}"

    def __enter__(self):
        for member in self.members:
            member.start()
        for member in self.members:
            until(partial(member.admin, "ping"), ANSWER_SECONDS, f"{member.name} answers")
        self._initiate()
        self.wait_until_writable()
        return self

    def __exit__(self, *_):
        for member in self.members:
            member.client.close()
            if member.is_alive():
                member.kill()

    def _initiate(self):
        config = {
            "_id": REPLICA_SET,
            "members": [
                {"_id": number, "host": member.address}
                for number, member in enumerate(self.members)
            ],
            "settings": {
                "electionTimeoutMillis": int(self.election_seconds * 1_000),
                "heartbeatIntervalMillis": 1_000,
            },
        }
        options = IMPATIENT | {"socketTimeoutMS": ANSWER_SECONDS * 1_000}
        with MongoClient(f"mongodb://127.0.0.1:{self.members[0].port}", **options) as client:
            client.admin.command("replSetInitiate", config)

    def primary(self, seconds=ANSWER_SECONDS):
        """Wait for a primary, and give it: the one that was elected last."""
        return until(self.present_primary, seconds, "a primary")

    def present_primary(self):
        """Give the primary, or None where there is none just now."""
        elected = [(one, member) for member in self.members if (one := member.elected())]
        return max(elected, key=lambda pair: pair[0])[1] if elected else None

    def successor(self, primary, meanwhile):
        """Wait for another primary, and give it."""

        def other():
            elected = self.present_primary()
            return elected if elected is not primary else None

        return until(other, ANSWER_SECONDS, "another primary", meanwhile)

    def secondaries(self):
        """Give the others."""
        primary = self.primary()
        return [member for member in self.members if member is not primary]

    def wait_until_writable(self, seconds=ANSWER_SECONDS):
        """Wait until a write reaches the majority."""
        with MongoClient(self.uri, w="majority", serverSelectionTimeoutMS=2_000) as client:
            probe = client.chaos.probe.with_options(codec_options=CODEC)

            def written():
                with suppress(PyMongoError):
                    return probe.update_one({"_id": 0}, {"$inc": {"n": 1}}, upsert=True)

            until(written, seconds, "a write that the majority has")

    def roll_oplog_over(self, meanwhile=lambda: None):
        """Write junk until the oplog has lost all that is in it now; give how many MB that took."""
        primary = self.primary()
        last = primary.oplog(-1)
        with MongoClient(self.uri, w="majority") as client:
            junk = client.chaos.junk

            def more():
                for _ in range(OPLOG // 8):
                    junk.insert_one({"junk": b"x" * MEGABYTE})
                meanwhile()
                return primary.oplog(1) > last

            # Not even a full one loses what a crash would need: the next checkpoint ends that.
            until(more, ANSWER_SECONDS, "the oplog is rolled over")
            written = junk.estimated_document_count()
            client.chaos.drop_collection("junk")
        return written

    def heal(self, seconds=ANSWER_SECONDS):
        """Make every member run and follow; one that is too far behind begins anew."""
        self.network.heal()
        for member in self.members:
            if not member.is_alive():
                member.start()
            elif member.frozen:
                member.thaw()
        for member in self.members:
            for name in FAIL_POINTS:
                off = partial(member.admin, "configureFailPoint", name, mode="off")
                until(off, seconds, f"{member.name} answers")
        self.primary(seconds)
        for member in self.members:
            if is_stale(member):
                member.empty()
                member.start()


def is_stale(member):
    """Whether a member is so far behind that it can never follow again."""
    status = member.admin("replSetGetStatus")
    own = [one for one in status["members"] if one.get("self")] if status else []
    return any("stale" in one.get("infoMessage", "") for one in own)
