"""All that a run is made of: members, network, workers, receiver, agent; and its time line."""

import json
import sys
import time
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

from pymongo import MongoClient

from schemas.documents import CODEC
from tests.chaos.fleet import Fleet
from tests.chaos.network import Network
from tests.chaos.processes import ROOT, Process
from tests.chaos.replica_set import ReplicaSet
from tests.chaos.script import SCALE, epoch
from tests.receivers.running import http_receiver

DATABASE = "chaos_campaigns"
POLL_SECONDS = 0.1


class World:
    """Everything, while it runs."""

    def __init__(self, stack, directory, *, election_seconds, settings=None, clocks=True):
        self.directory = directory
        self.began = time.monotonic()
        self.timeline = []
        self._beats = []
        self.network = stack.enter_context(Network())
        self.members = stack.enter_context(
            ReplicaSet(directory, self.network, election_seconds=election_seconds)
        )
        self.receiver = stack.enter_context(http_receiver(directory))
        self.client = stack.enter_context(MongoClient(self.members.uri, w="majority"))
        # Some documents cannot be decoded as they are.
        codec = CODEC.with_options(unicode_decode_error_handler="replace")
        self.database = self.client.get_database(DATABASE, codec_options=codec)
        environ = {
            "MONGODB_URI": self.members.uri,
            "MONGODB_DB": DATABASE,
            "CHANNEL_EMAIL": self.receiver.url,
            "CAMPAIGN_TIME_SCALE": str(SCALE),
            "CAMPAIGN_TIME_EPOCH": epoch(datetime.now(UTC)),
        }
        self.fleet = stack.enter_context(
            Fleet(directory, environ | (settings or {}), clocks=clocks)
        )
        self.say("all work")

    def say(self, what):
        """Add a line to the time line."""
        line = f"{time.monotonic() - self.began:7.1f}  {what}"
        self.timeline.append(line)
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    def start_agent(self, stack, seed, seconds, conversations):
        """Start the agent; its log is what was acknowledged."""
        log = self.directory / "agent.jsonl"
        words = [self.members.uri, DATABASE, seed, seconds, conversations, log]
        agent = Process(
            [sys.executable, "-m", "tests.chaos.agent", *words],
            self.directory / "agent.log",
            environ={"PYTHONPATH": str(ROOT)},
        )
        agent.start()
        stack.callback(agent.stop)
        return agent

    def acknowledged(self):
        """Give what the agent knows to be there, oldest first."""
        log = self.directory / "agent.jsonl"
        return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]

    def pause(self, seconds):
        """Let time pass; whoever has to be looked after is."""
        end = time.monotonic() + seconds
        while (rest := end - time.monotonic()) > 0:
            self.meanwhile()
            time.sleep(min(rest, POLL_SECONDS))

    def meanwhile(self):
        """Look after the workers, and do what is to be done again and again."""
        self.fleet.tend()
        now = time.monotonic()
        for beat in self._beats:
            if now >= beat["next"]:
                beat["next"] = now + beat["seconds"]
                beat["do"]()

    @contextmanager
    def every(self, seconds, do):
        """Do something every so many seconds, as long as the block lasts."""
        beat = {"seconds": seconds, "do": do, "next": 0.0}
        self._beats.append(beat)
        try:
            yield
        finally:
            self._beats.remove(beat)

    def memory(self):
        """Give the memory of each worker, in MB."""
        return [worker.memory() if worker.is_alive() else 0.0 for worker in self.fleet.workers]

    def cursors(self, member):
        """Give the cursors of workers that a member has open, as (whose, id)."""
        admin = member.client.admin
        pipeline = [
            {"$currentOp": {"allUsers": True, "idleCursors": True, "localOps": True}},
            {"$match": {"cursor.cursorId": {"$exists": True}, "appName": {"$regex": "^reactor/"}}},
        ]
        return [(one["appName"], one["cursor"]["cursorId"]) for one in admin.aggregate(pipeline)]

    def kill_streams(self):
        """Kill the workers' change streams, and give how many there were."""
        member = self.members.primary()
        cursors = [cursor for _, cursor in self.cursors(member)]
        database = member.client[DATABASE]
        if cursors:
            database.command("killCursors", "$cmd.aggregate", cursors=cursors)
        return len(cursors)


@contextmanager
def world(directory, **options):
    """Make a world; all of it is ended with the block."""
    with ExitStack() as stack:
        yield World(stack, directory, **options)
