"""What an operator finds: a real worker, a provider that cuts and refuses, and a terminal."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from select import select

from bson import json_util

from reactor.cli.output import JSON_OPTIONS
from schemas.ids import conversation_id, send_key
from tests.builders import batch_request_document, recipient_document
from tests.receivers.running import http_receiver
from tests.test_cli import ROOT, ended, invoke, of_this_process, start

#: What the provider does about a recipient. It refuses for good, or hangs up on what it has read.
MODES = {"refused": "400", "cut": "cut", "cut-2": "cut"}


class Operated:
    """A database with a worker on it, as an operator sees it."""

    def __init__(self, database, environment, receiver):
        self.database = database
        self.environment = environment
        self.receiver = receiver

    def submit(self, request, *recipients):
        """Insert a request, and wait until nothing of it is on its way any more."""
        given = [recipient_document(each) for each in recipients]
        self.database.batch_requests.insert_one(batch_request_document(given, _id=request))
        for recipient in recipients:
            self.settled(request, recipient)

    def settled(self, request, recipient):
        """Wait until a conversation has no message on its way, or holds it; give it."""
        return self.until(
            {
                "_id": conversation_id(request, recipient),
                "message_count": {"$gt": 0},
                "$or": [{"slot": None}, {"slot.state": "unknown"}],
            }
        )

    def until(self, query, collection="conversations"):
        """Wait until there is such a document, and give it."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if found := self.database[collection].find_one(query):
                return found
            time.sleep(0.02)
        raise TimeoutError(query)

    def conversation(self, request, recipient):
        """Read a conversation."""
        return self.database.conversations.find_one({"_id": conversation_id(request, recipient)})

    def updates(self):
        """Read all updates that were inserted."""
        return list(self.database.conversation_updates.find())

    def requests(self, request, recipient, n=0):
        """Read how often the provider was given a message."""
        key = send_key(conversation_id(request, recipient), "intro", n)
        return [each["key"] for each in self.receiver.requests()].count(key)

    def heal(self):
        """Let the provider accept everything from now on."""
        self.receiver.set_mode("ok")

    def invoke(self, *arguments):
        """Run a command."""
        return invoke(*arguments, **self.environment)

    def json(self, *arguments):
        """Run a command that prints one document."""
        return json_util.loads(self.invoke(*arguments, "--json").stdout, json_options=JSON_OPTIONS)

    def lines(self, *arguments):
        """Run a command that prints a document on each line."""
        printed = self.invoke(*arguments, "--json").stdout
        return [json_util.loads(line, json_options=JSON_OPTIONS) for line in printed.splitlines()]


@contextmanager
def operated(database, environment, tmp_path):
    """Run a worker whose provider does as MODES says, and see that it stops in order."""
    with http_receiver(tmp_path, {"default": "ok", "by_recipient": MODES}) as receiver:
        environment = environment | {
            "CHANNEL_EMAIL": receiver.url,
            "CHANNEL_EMAIL_ALLOW_PRIVATE": "1",
            "CHANNEL_EMAIL_ON_UNKNOWN": "hold",
            "POLLING_INTERVAL_SECONDS": "1",
        }
        process = start("run", **environment, HEARTBEAT_FILE=str(tmp_path / "beat"))
        try:
            yield Operated(database, environment, receiver)
        finally:
            process.terminate()
            code, _, _ = ended(process)
    assert code == 0


def on_terminal(typed, *arguments, columns=100, **environment):
    """Run a command on a terminal where this is typed: the exit code, and what it showed."""
    leader, follower = os.openpty()
    given = of_this_process() | {"TERM": "xterm-256color", "COLUMNS": str(columns)}
    given |= {"NO_COLOR": "1"}
    command = [sys.executable, "-m", "reactor", *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, env=given | environment, stdin=follower, stdout=follower, stderr=follower
    ) as process:
        os.close(follower)
        os.write(leader, typed.encode())
        shown = b""
        try:
            while select([leader], [], [], 60)[0] and (part := os.read(leader, 65_536)):
                shown += part
        except OSError:  # Linux: the other end was closed
            process.wait()
        finally:
            # What still asks would ask for ever.
            process.kill()
            os.close(leader)
    return process.returncode, shown.decode()


def as_text(document):
    """Spell a document, to look for what must not be in it."""
    return json.dumps(document, default=str)
