"""Whole lives of campaigns, told beforehand; who works on them, and who dies, says a seed."""

import random

from attrs import define, evolve, field, frozen

from schemas.hand_off import OnUnknown
from schemas.ids import conversation_id
from tests.builders import DAY, batch_request_document, recipient_document
from tests.machine import Fault, Floor, Shift

REQUEST = "q"
RECIPIENTS = [
    *(recipient_document(f"r{n}") for n in range(5)),
    recipient_document("r5", timezone="Mars/Base"),
    recipient_document("r6", address={"email": "R0@example.com "}),
]
TEMPLATE = {
    "name": "renewal",
    "channel": "email",
    "max_duration": "30d",
    "retry": {"max_attempts": 5, "initial_delay": "10s"},
    "agent": {"deadline": "1d", "then": "escalate"},
    "escalation": {"deadline": "2d"},
    "stages": [
        {
            "id": "intro",
            "message": {"subject": "Plan at {{ now }}", "body": "Hello {{ recipient.first_name }}"},
            "follow_ups": [
                {"after": "2d", "message": {"body": "Still there, {{ recipient.first_name }}?"}},
                {"after": "1d", "message": {"body": "Last call", "ttl": "6h"}},
            ],
            "reply_within": "3d",
            "on_reply": [
                {"intent": "unclassified", "then": "hold"},
                {"intent": "yes", "then": "advance"},
                {"intent": "back", "then": {"go_to": "intro"}},
                {"then": "escalate"},
            ],
        },
        {"id": "thanks", "final": True, "message": {"body": "Thanks for {{ reply.text }}"}},
    ],
}
#: Past a lease of 30 s, and whatever waits for it.
PAST_LEASE = 40.0
#: What the channel does with a message, mostly what it should.
FATES = ["sent"] * 8 + [
    *("retry", "later", "lost", "cut", "slow", "refused", "limited", "silent", "broken")
]
#: What most shifts meet is nothing.
DELAYS = [0.0, 0.0, 0.005, 31.0]
PARTS = ["any"] * 4 + ["send", "apply", "look", "record", "answer", "write_campaign"]
MOMENTS = ["before", "halfway", "after"]
#: Store calls that take effect one by one of what they are given; and those that do all at once.
DIVISIBLE = {
    *("answer", "apply", "check_suppressions", "insert_conversations", "record"),
    *("reject_recipients", "report", "suppress"),
}
WRITES = {
    *("insert_campaign", "raise_alert", "return_tokens", "shift_waits", "take_tokens"),
    *("write_campaign", "write_channel"),
    *DIVISIBLE,
}
#: Steps of a schedule, after the first.
STRETCH = 4


@define
class World:
    """A floor, and the agent before it."""

    floor: Floor
    #: What the first worker called in each step, where nobody died.
    called: list = field(factory=list)
    _inserted: int = field(default=0, init=False)

    @property
    def store(self):
        """What all of them write to."""
        return self.floor.store

    def insert(self, collection, **fields):
        """Insert an update of an identity of its own."""
        self._inserted += 1
        document = {"_id": f"u{self._inserted}", "batch_request_id": REQUEST} | fields
        self.store.insert(collection, document)


@frozen
class Step:
    """Time passes, the agent does something, and the workers work."""

    seconds: float
    acts: tuple = ()
    fates: tuple = ()


def step(*acts, after=60.0, fates=()):
    """Make a step that begins so many seconds after the last."""
    return Step(after, acts, fates)


def submit(template=TEMPLATE, **changes):
    """The agent inserts the request."""
    document = batch_request_document(RECIPIENTS, _id=REQUEST, template=template, **changes)
    return lambda world: world.store.insert("batch_requests", document)


def tell(kind, recipient, **fields):
    """The agent tells something about a recipient's conversation."""
    return lambda world: world.insert(
        "conversation_updates", recipient_id=recipient, kind=kind, **fields
    )


def order(kind):
    """The agent orders something for the whole campaign."""
    return lambda world: world.insert("campaign_updates", kind=kind)


def suppress(recipient):
    """The agent knows somebody who must not be written to."""
    document = {"_id": f"email:{recipient}@example.com", "reason": "asked by phone"}
    return lambda world: world.store.insert("suppressions", document)


def report(kind, recipient, key="intro/0"):
    """A gateway reports on a message, if the channel ever took it."""
    identity = conversation_id(REQUEST, recipient)

    def reported(world):
        if f"{identity}/{key}" in world.store.seen.accepted:
            tell(kind, recipient, message_id=f"{identity}/{key}")(world)

    return reported


DAYS = DAY.total_seconds()
#: Everything that a campaign may live through, each in its order.
EVERYTHING = (
    step(submit(), fates=("sent", "retry", "lost", "sent", "cut")),
    step(after=600),
    step(tell("reply", "r0", intent="yes", text="the fish"), tell("opted_out", "r1"), after=3_600),
    step(order("pause")),
    step(tell("reply", "r2", intent="back", text="again")),
    step(order("resume"), after=3_600),
    step(tell("pause", "r3"), tell("escalate", "r2")),
    step(tell("send", "r4", message={"body": "By hand"}), report("delivered", "r0")),
    step(tell("escalation_resolved", "r2", resolution="stay"), tell("resume", "r3"), after=7_200),
    step(suppress("r3"), after=1.5 * DAYS),
    step(after=1.2 * DAYS, fates=("later", "sent")),
    step(after=900),
    step(tell("reply", "r2", text="what is it?"), report("delivered", "r3"), after=3_600),
    step(report("bounced", "r0"), tell("retry", "r1"), order("retry")),
    step(after=1.5 * DAYS),
)
#: It ends before its time, in trouble.
CANCELLED = (
    step(submit(), fates=("slow", "broken", "broken", "retry", "sent")),
    step(tell("reply", "r0", intent="yes", text="the fish"), tell("pause", "r2")),
    step(order("pause"), tell("goal_reached", "r1"), after=2 * DAYS),
    step(order("cancel"), tell("opted_out", "r2")),
    step(order("retry"), report("delivered", "r0"), report("bounced", "r3")),
)
#: All that can fail does, and is put back.
RETRIED = (
    step(submit({**TEMPLATE, "retry": {"max_attempts": 1}}), fates=("refused",) * 4 + ("lost",)),
    step(order("retry"), tell("opted_out", "r0"), after=600),
    step(tell("cancel", "r1"), tell("reply", "r2", intent="yes"), fates=("refused", "sent")),
    step(tell("retry", "r2"), report("delivered", "r3"), after=600, fates=("refused", "retry")),
    step(after=4 * DAYS),
    step(order("retry"), tell("retry", "r3")),
)
LIVES = {"everything": EVERYTHING, "cancelled": CANCELLED, "retried": RETRIED}


def live_through(life, fault=None, at=None):
    """
    Lead a life to where its plan ends, by one worker; the world.

    It dies of the fault in step number `at`, and another takes over.
    """
    world = World(Floor(policy=OnUnknown.RESEND, batch_size=50, workers=2))
    for number, each in enumerate(life):
        world.floor.loop.seconds += each.seconds
        world.floor.post.fates.extend(each.fates)
        for act in each.acts:
            act(world)
        shift = Shift(worker=0)
        world.floor.work([evolve(shift, fault=fault) if number == at else shift])
        world.called.append(world.floor.lives[0].named)
        world.floor.loop.seconds += PAST_LEASE
        world.floor.work([Shift(worker=1)])
    return world


def scheduled(life, seed):
    """
    Lead a stretch of a life, by workers in whatever trouble the seed says; the world.

    Many short schedules find more in a minute than few long ones.
    """
    draw = random.Random(seed)
    world = World(
        Floor(
            policy=draw.choice(list(OnUnknown)),
            batch_size=draw.choice([50, 2]),
            workers=3,
            pace=draw.choice([(None, 1), (None, 1), (0.5, 1), (2.0, 3)]),
        )
    )
    loop = world.floor.loop
    begins = draw.randrange(1, len(life) - STRETCH + 2)
    for each in (life[0], *life[begins : begins + STRETCH]):
        loop.seconds += each.seconds * draw.choice([1.0, 1.0, 0.1])
        world.floor.post.fates.extend(draw.sample(FATES, 2) if draw.random() < 0.3 else each.fates)
        for act in each.acts:
            _at(loop, draw.choice([0, draw.randrange(1, 80)]), act, world)
        workers = draw.sample(range(3), draw.choice([1, 2, 2, 3]))
        world.floor.work([_shift(draw, worker) for worker in workers], seed=draw.randrange(1 << 30))
    return world


def faults(called):
    """Give every way to die in a step: at each call before, halfway and after it took effect."""
    for number, name in enumerate((name for name in called if name != "send"), 1):
        # After a read nothing is different from before the next call.
        for moment in MOMENTS if name in WRITES else MOMENTS[:1]:
            if moment != "halfway" or name in DIVISIBLE:
                yield Fault(part="any", call=number, moment=moment, death=True)
    for number in range(1, called.count("send") + 1):
        for moment in ("before", "after"):
            yield Fault(part="send", call=number, moment=moment, death=True)


def _at(loop, when, act, world):
    """The agent acts now, or while the workers work: at a number of calls."""
    if when:
        loop.agenda.append((when, lambda: act(world)))
    else:
        act(world)


def _shift(draw, worker):
    """One in three workers meets something."""
    fault = stall = None
    if draw.random() < 0.3:
        part = draw.choice(PARTS)
        fault = Fault(
            part=part,
            call=draw.randrange(1, 40 if part == "any" else 4),
            moment=draw.choice(MOMENTS),
            death=draw.random() < 0.7,
        )
    elif draw.random() < 0.1:
        stall = draw.choice(PARTS[4:]), draw.randrange(1, 4), draw.choice([5, 25, 40])
    return Shift(worker=worker, delay=draw.choice(DELAYS), fault=fault, stall=stall)
