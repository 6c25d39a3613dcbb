"""A steady load for measurements: so many first messages fall due each second, and nothing else happens."""

from datetime import UTC, datetime, timedelta

from tests.builders import batch_request_document, recipient_document, template_document
from tests.chaos.processes import until

#: Messages that fall due each second.
PACE = 50
#: Until the request is opened.
AHEAD_SECONDS = 4
TEMPLATE = template_document(
    stages=[
        {
            "id": "intro",
            "message": {"subject": "Your plan", "body": "Hello {{ recipient.first_name }}"},
            "reply_within": "10h",
        }
    ]
)


class Load:
    """One request, whose messages fall due one after the other."""

    def __init__(self, world, name, seconds):
        self.world = world
        self.name = name
        self.count = round(seconds * PACE)
        self.start = datetime.now(UTC) + timedelta(seconds=AHEAD_SECONDS)
        world.database.batch_requests.insert_one(self.request())
        accepted = {"_id": name, "status": "accepted"}
        until(lambda: world.database.batch_requests.find_one(accepted), 60, "accepted")
        world.pause(max(0.0, (self.start - datetime.now(UTC)).total_seconds()) + 2)

    def request(self):
        """Make the request."""
        recipients = [
            recipient_document(
                f"r{n}",
                address={"email": f"{self.name}.{n}@example.com"},
                scheduled_at=self.start + timedelta(seconds=n / PACE),
            )
            for n in range(self.count)
        ]
        return batch_request_document(recipients, _id=self.name, template=TEMPLATE)

    def conversations(self, **query):
        """Find conversations of this load."""
        return list(self.world.database.conversations.find({"batch_request_id": self.name} | query))

    def wait(self):
        """Wait until every message was sent."""
        sent = {"batch_request_id": self.name, "status": "sent"}
        messages = self.world.database.messages
        until(
            lambda: messages.count_documents(sent) == self.count,
            120,
            "all sent",
            self.world.meanwhile,
        )

    def accepted(self):
        """Give when each key was first accepted by the receiver, Unix time."""
        mine = {f"{one['_id']}/intro/0" for one in self.conversations()}
        first = {}
        for line in self.world.receiver.requests():
            if line["accepted"] and line["key"] in mine:
                first.setdefault(line["key"], line["at"])
        return first

    def lateness(self):
        """Give, for each key, when it fell due (Unix time) and how many seconds later it arrived."""
        accepted = self.accepted()
        due = {
            one["_id"]: one["due_at"].timestamp()
            for one in self.world.database.messages.find({"batch_request_id": self.name})
        }
        return {key: (due[key], at - due[key]) for key, at in accepted.items()}
