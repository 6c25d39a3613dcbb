"""What the agent does, when, and to whom: all of it chosen by the seed before anything begins."""

import random
from datetime import timedelta

from attrs import frozen

from tests.builders import batch_request_document, recipient_document, template_document
from tests.chaos.poison import poison

#: Two hours of campaign time a second.
SCALE = 7_200
#: Seconds that a conversation may take.
LIFETIME = 96
REQUEST_SIZE = 60
INTENTS = ["interested", "not_interested", "question", "angry", "later", "other", None]
SHARE_GIVEN_TWICE = 0.1


def span(seconds):
    """Give a duration of campaign time that lasts so many seconds."""
    return f"{round(seconds * SCALE)}s"


def stage(identity, body, first, *rest, **more):
    """Make a stage with follow-ups after so many seconds each."""
    follow_ups = [
        {"after": span(seconds), "message": {"body": f"{body} Once more."}}
        for seconds in (first, *rest)
    ]
    return {
        "id": identity,
        "message": {"subject": "Your plan", "body": body},
        "follow_ups": follow_ups,
        "reply_within": span(6),
    } | more


TEMPLATE = template_document(
    max_duration=span(LIFETIME),
    retry={"max_attempts": 8, "initial_delay": span(0.5), "multiplier": 2, "max_delay": span(4)},
    agent={"deadline": span(6), "then": "escalate"},
    escalation={"deadline": span(6)},
    stages=[
        stage(
            "intro",
            "Hello {{ recipient.first_name }}.",
            8,
            8,
            on_reply=[
                {"intent": "interested", "then": {"go_to": "demo"}},
                {"intent": "not_interested", "then": "complete"},
                {"intent": "question", "then": "hold"},
                {"intent": "angry", "then": "escalate"},
                {"intent": "later", "then": "stay"},
                {"intent": "unclassified", "then": "hold"},
                {"then": "advance"},
            ],
            on_no_reply="advance",
        ),
        stage("demo", "You said: {{ reply.text }}.", 6, on_reply=[{"then": "advance"}]),
        {"id": "thanks", "final": True, "message": {"body": "Thanks, {{ recipient.first_name }}."}},
    ],
)


@frozen(order=True)
class Deed:
    """One thing that the agent does."""

    #: Seconds from the beginning.
    at: float
    #: Makes the order of what is done at one time the same in every run.
    number: int
    #: `insert`; `again`: the same once more; `anew`: put back as it was, without its answer.
    how: str
    collection: str
    id: str
    document: dict


class Script:
    """Chooses deeds."""

    def __init__(self, seed, seconds, conversations):
        self.chance = random.Random(f"{seed} agent")
        self.seconds = seconds
        self.deeds = []
        # The last ones begin early enough to be met by faults.
        last = seconds * 0.7
        requests = max(1, round(conversations / REQUEST_SIZE))
        for number in range(requests):
            size = conversations * (number + 1) // requests - conversations * number // requests
            self.campaign(f"request-{number}", last * number / requests, size)
        for number in range(2):
            at = seconds * (0.1 + 0.2 * number)
            for collection, identity, document in poison(number, "request-0"):
                self.add(at, collection, identity, document)
        self.deeds.sort()

    def add(self, at, collection, identity, document, *, how="insert"):
        """Do something at a time; in good time, too."""
        deed = Deed(min(at, self.seconds), len(self.deeds), how, collection, identity, document)
        self.deeds.append(deed)

    def give(self, at, collection, document):
        """Insert something; some of it is given twice."""
        self.add(at, collection, document["_id"], document)
        if self.chance.random() < SHARE_GIVEN_TWICE:
            for how in ("again", "anew"):
                later = at + self.chance.uniform(0, 10)
                self.add(later, collection, document["_id"], document, how=how)

    def campaign(self, request, at, size):
        """Insert a request, what its recipients do, and what becomes of the campaign."""
        recipients = [
            recipient_document(f"r{n}", address={"email": f"{request}.{n}@example.com"})
            for n in range(size)
        ]
        document = batch_request_document(recipients, _id=request, template=TEMPLATE)
        self.give(at, "batch_requests", document)
        for n in range(size):
            self.recipient(request, f"r{n}", at)
        kind = self.chance.choices(["", "pause", "retry", "cancel"], [60, 25, 10, 5])[0]
        begin = at + self.chance.uniform(1, 25)
        if kind:
            self.order(begin, request, kind)
        if kind == "pause":
            self.order(begin + self.chance.uniform(2, 8), request, "resume")

    def order(self, at, request, kind):
        """Insert an update of a campaign."""
        document = {"_id": f"{request}-{kind}", "batch_request_id": request, "kind": kind}
        self.give(at, "campaign_updates", document)

    def recipient(self, request, recipient, begin):
        """Choose what one recipient, or whoever speaks for them, does."""
        fates = {
            self.silent: 35,
            self.replies: 35,
            self.pauses: 8,
            self.is_escalated: 6,
            self.is_answered: 4,
            self.does: 12,
        }
        (fate,) = self.chance.choices(list(fates), list(fates.values()))
        fate({"batch_request_id": request, "recipient_id": recipient}, begin)

    def update(self, at, whom, name, **fields):
        """Insert an update of a conversation, and give its `_id`."""
        identity = f"{whom['batch_request_id']}-{whom['recipient_id']}-{name}"
        self.give(at, "conversation_updates", {"_id": identity, **whom, **fields})
        return identity

    def silent(self, whom, begin):
        """Nothing is heard of them."""

    def replies(self, whom, begin):
        """They reply, once or twice; what it means is known at once, or later."""
        at = begin + self.chance.uniform(0, 30)
        for number in range(self.chance.choice([1, 1, 2])):
            intent = self.chance.choice(INTENTS)
            known = {"intent": intent} if intent else {}
            reply = self.update(at, whom, f"reply-{number}", kind="reply", text="Well", **known)
            if intent is None:
                later = {"reply_id": reply, "intent": self.chance.choice(INTENTS[:-1])}
                self.update(at + 2, whom, f"meant-{number}", kind="reply", **later)
            at += self.chance.uniform(1, 15)

    def pauses(self, whom, begin):
        """Somebody stops it for a while."""
        at = begin + self.chance.uniform(0, 25)
        self.update(at, whom, "pause", kind="pause")
        self.update(at + self.chance.uniform(1, 8), whom, "resume", kind="resume")

    def is_escalated(self, whom, begin):
        """A human takes over, and may decide."""
        at = begin + self.chance.uniform(0, 25)
        self.update(at, whom, "escalate", kind="escalate")
        if self.chance.random() < 0.7:
            resolution = self.chance.choice(["stay", "advance", "complete", {"go_to": "demo"}])
            resolved = {"kind": "escalation_resolved", "resolution": resolution}
            self.update(at + self.chance.uniform(1, 8), whom, "resolved", **resolved)

    def is_answered(self, whom, begin):
        """The agent writes a message of its own."""
        at = begin + self.chance.uniform(1, 25)
        message = {"subject": "By hand", "body": "Dear you."}
        self.update(at, whom, "send", kind="send", message=message)

    def does(self, whom, begin):
        """Something that mostly ends it."""
        kinds = [
            "opted_out",
            "opted_out",
            "bounced",
            "goal_reached",
            "cancel",
            "retry",
            "delivered",
        ]
        kind = self.chance.choice(kinds)
        self.update(begin + self.chance.uniform(0, 30), whom, kind, kind=kind)


def epoch(now):
    """Give when campaign time and real time are the same."""
    return (now - timedelta(seconds=1)).isoformat()
