"""The invariants I1 to I9, held against workers that die, stop, overlap and are told anything."""

from datetime import timedelta

import bson
import pytest
from attrs import evolve
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from loguru import logger

import handlers.atom
import handlers.circuit
import handlers.due
import handlers.gates
import handlers.last_look
import handlers.outcome
import reactor.delivery
import reactor.gatekeeper
import reactor.opening
import reactor.walk
from schemas.converter import to_document
from schemas.hand_off import OnUnknown
from schemas.ids import conversation_id
from schemas.transition import Record
from tests.builders import batch_request_document, recipient_document
from tests.invariants import liveness
from tests.machine import Fault, Floor, Shift
from tests.rest import agree, come_to_rest
from tests.verified import verified
from tests.witness import WitnessedStore

RECIPIENTS = ["r0", "r1", "r2", "r3"]
INTENTS = ["yes", "demo", "back", "stop", "out_of_office", "help", None]
ON_REPLY = [
    {"intent": "unclassified", "then": "hold"},
    {"intent": "out_of_office", "then": "stay"},
    {"intent": "demo", "then": {"go_to": "demo"}},
    {"intent": "back", "then": {"go_to": "intro"}},
    {"intent": "stop", "then": "complete"},
    {"intent": "yes", "then": "advance"},
    {"then": "escalate"},
]
ACTIONS = ["advance", "complete", "escalate", {"go_to": "demo"}]
#: Seconds; 31 is past a lease.
SPANS = [1, 31, 600, 7_200, 86_400, 3 * 86_400]


def template(wish):
    """Make a template with three stages from what was drawn."""
    follow_ups = [
        {"after": "2d", "message": {"body": "Still there, {{ recipient.first_name }}?"}},
        {"after": "1d", "message": {"body": "Last call", "ttl": "1h"}},
    ]
    intro = {"subject": "Plan at {{ now }}", "body": "Hello {{ recipient.first_name }}"}
    return {
        "name": "renewal",
        "channel": "email",
        "max_duration": wish["max_duration"],
        "max_messages": wish["max_messages"],
        "retry": {"max_attempts": wish["max_attempts"], "initial_delay": "10s"},
        "agent": {"deadline": "1d", "then": wish["then"]},
        "escalation": {"deadline": "2d"},
        "stages": [
            {
                "id": "intro",
                "message": intro,
                "follow_ups": follow_ups,
                "reply_within": "3d",
                "on_reply": ON_REPLY,
                "on_no_reply": wish["on_no_reply"],
            },
            {
                "id": "demo",
                "message": {"body": "You said {{ reply.text }}, {{ now }}"},
                "reply_within": "1d",
                "on_reply": ON_REPLY,
            },
            {"id": "thanks", "final": True, "message": {"body": "Thanks for {{ reply.text }}"}},
        ],
    }


WISHES = st.fixed_dictionaries(
    {
        "max_duration": st.sampled_from(["30d", "3d"]),
        "max_messages": st.sampled_from([20, 3]),
        "max_attempts": st.sampled_from([3, 1, 2]),
        "then": st.sampled_from(ACTIONS),
        "on_no_reply": st.sampled_from(ACTIONS),
    }
)
#: Recipients beside those four.
MORE = [
    recipient_document("r4"),
    recipient_document("r0"),
    recipient_document("r5", timezone="Mars/Base"),
    recipient_document("r6", address={"email": "R0@example.com "}),
    recipient_document("r7", attributes={}),
    {"id": 7},
]
#: Where something happens: at the k-th call of all, or of one method.
PLACES = st.tuples(st.just("any"), st.integers(1, 30)) | st.tuples(
    st.sampled_from(["send", "apply", "look", "record", "answer", "write_campaign"]),
    st.integers(1, 3),
)
FAULTS = st.builds(
    lambda place, moment, death: Fault(part=place[0], call=place[1], moment=moment, death=death),
    place=PLACES,
    moment=st.sampled_from(["after", "before", "halfway"]),
    death=st.sampled_from([True, True, False]),
)
STALLS = st.builds(lambda place, seconds: (*place, seconds), PLACES, st.sampled_from([5, 25, 40]))
SHIFTS = st.lists(
    st.builds(
        Shift,
        worker=st.integers(0, 2),
        delay=st.sampled_from([0.0, 0.0, 0.005, 31.0, 45.0]),
        fault=st.none() | FAULTS,
        stall=st.none() | STALLS,
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda shift: shift.worker,
)
#: What the channel does with the next messages.
FATES = st.lists(
    st.sampled_from(
        [
            *("sent", "retry", "later", "lost", "cut", "slow", "refused"),
            *("limited", "silent", "broken"),
        ]
    ),
    max_size=5,
) | st.just(["slow"] * 4)
#: Messages in a second and at once; mostly as many as come.
PACES = st.sampled_from([(None, 1), (None, 1), (0.5, 1), (2.0, 3)])
SEED = st.integers(0, 999)
#: Number of store calls after which the agent does it; 0 is now.
WHEN = st.sampled_from([0, 0]) | st.integers(1, 60)
RECIPIENT = st.sampled_from(RECIPIENTS)


class Machine(RuleBasedStateMachine):
    """Everything that may happen to requests, and what must hold whatever does."""

    #: Pace and bound that are always drawn; None: any.
    pace, most_a_day = None, None

    def __init__(self):
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(reactor.opening, "CHUNK", 2)
        # There are few recipients: two that fail are an outage.
        self.patch.setattr(handlers.circuit, "MIN_RECIPIENTS", 2)
        self.steps = []
        self.patch.setattr(reactor.walk, "step", self.stepped(reactor.walk.step))
        self.requests = []
        self.inserted = 0
        self.claimed = set()
        self.floor = None
        logger.disable("reactor")

    def stepped(self, step):
        """Remember some decisions, to take them again."""

        def remembering(conversation, updates, entry, scene):
            decided = step(conversation, updates, entry, scene)
            if len(self.steps) < 200:
                self.steps.append((step, (conversation, tuple(updates), entry, scene), decided))
            return decided

        return remembering

    @initialize(
        policy=st.sampled_from(OnUnknown),
        batch_size=st.sampled_from([50, 2]),
        pace=PACES,
        most_a_day=st.sampled_from([50, 50, 50, 2]),
        shared=st.booleans(),
        wish=WISHES,
    )
    def begin(self, policy, batch_size, pace, most_a_day, shared, wish):
        """Three workers, who share the conversations or not, and a first request."""
        self.floor = Floor(
            policy=policy,
            batch_size=batch_size,
            workers=3,
            pace=self.pace or pace,
            most_a_day=self.most_a_day or most_a_day,
            shared=shared,
        )
        self.store, self.seen = self.floor.store, self.floor.store.seen
        self.submit(wish=wish, more=[], delay=None, when=0)

    # -- the agent -------------------------------------------------------------------------------
    def act(self, when, what):
        """Do it now, or while the workers work."""
        if when:
            self.floor.loop.agenda.append((when, what))
        else:
            what()

    def insert(self, collection, when, **document):
        """Insert an update under an identity of its own."""
        self.inserted += 1
        identity = f"u{self.inserted}"
        document = {"_id": identity} | {k: v for k, v in document.items() if v is not None}
        self.act(when, lambda: self.store.insert(collection, document))
        return identity

    def tell(self, kind, recipient, when=0, **fields):
        """Insert an update of a conversation of the last request."""
        return self.insert(
            "conversation_updates",
            when,
            batch_request_id=self.requests[-1],
            recipient_id=recipient,
            kind=kind,
            **fields,
        )

    def later(self, seconds):
        """Give a time from now; None for none."""
        return seconds and self.floor.loop.now() + timedelta(seconds=seconds)

    @precondition(lambda self: len(self.requests) < 3)
    @rule(
        wish=WISHES,
        more=st.lists(st.sampled_from(MORE), max_size=4),
        delay=st.sampled_from([None, 3600]),
        when=WHEN,
    )
    def submit(self, wish, more, delay, when):
        """Insert a request, maybe with recipients that cannot be led through it."""
        identity = f"q{len(self.requests)}"
        self.requests.append(identity)
        recipients = [*map(recipient_document, RECIPIENTS), *more]
        changes = {"_id": identity, "template": template(wish)}
        if delay:
            changes["scheduled_at"] = self.later(delay)
        document = batch_request_document(recipients, **changes)
        self.act(when, lambda: self.store.insert("batch_requests", document))

    @rule(
        recipient=RECIPIENT,
        intent=st.sampled_from(INTENTS),
        ago=st.sampled_from([None, None, -3600, 60]),
        when=WHEN,
    )
    def reply(self, recipient, intent, ago, when):
        """Somebody replies."""
        at = self.later(ago)
        text = f"the text {self.inserted}"
        self.tell("reply", recipient, when, text=text, intent=intent, at=at)

    @rule(recipient=RECIPIENT, intent=st.sampled_from(INTENTS), when=WHEN)
    def classify(self, recipient, intent, when):
        """The last reply is classified later, by somebody who was slow."""
        about = conversation_id(self.requests[-1], recipient)
        found = [
            one.document["_id"]
            for one in self.seen.updates.values()
            if one.about == about
            and one.document["kind"] == "reply"
            and not one.document.get("reply_id")
        ]
        self.tell("reply", recipient, when, intent=intent, reply_id=(found or ["nothing"])[-1])

    @rule(
        recipient=RECIPIENT,
        then=st.sampled_from([None, "advance", "complete", {"go_to": "nowhere"}, "hold"]),
        answers=st.booleans(),
        when=WHEN,
    )
    def send(self, recipient, then, answers, when):
        """The agent writes itself."""
        present = self.store.one("conversations", conversation_id(self.requests[-1], recipient))
        reply = (present or {}).get("reply")
        in_reply_to = reply["id"] if answers and reply else None
        message = {"body": f"I say {self.inserted}"}
        self.tell("send", recipient, when, message=message, then=then, in_reply_to=in_reply_to)

    @precondition(lambda self: self.seen.accepted)
    @rule(kind=st.sampled_from(["delivered", "bounced"]), at=st.integers(0, 5), when=WHEN)
    def report(self, kind, at, when):
        """What the channel took is reported on."""
        taken = list(self.seen.accepted.values())
        line = taken[-1 - at % len(taken)]
        self.insert(
            "conversation_updates",
            when,
            conversation_id=line["conversation_id"],
            kind=kind,
            message_id=line["key"],
        )

    @rule(recipient=RECIPIENT, bounce=st.sampled_from([None, "hard", "soft"]), when=WHEN)
    def claim(self, recipient, bounce, when):
        """A report about the last message, true or not."""
        self.claimed.add(conversation_id(self.requests[-1], recipient))
        kind = "bounced" if bounce else "delivered"
        self.tell(kind, recipient, when, bounce=bounce)

    @rule(
        recipient=RECIPIENT,
        kind=st.sampled_from(["escalate", "opted_out", "goal_reached", "cancel", "retry"]),
        when=WHEN,
    )
    def decide(self, recipient, kind, when):
        """The agent orders something."""
        self.tell(kind, recipient, when)

    @rule(recipient=RECIPIENT, to=st.sampled_from(["stay", *ACTIONS]), when=WHEN)
    def resolve(self, recipient, to, when):
        """Somebody resolves an escalation."""
        self.tell("escalation_resolved", recipient, when, resolution=to)

    @rule(
        recipient=RECIPIENT,
        outcome=st.sampled_from(["resend", "assume_sent"]),
        names_it=st.booleans(),
        when=WHEN,
    )
    def resolve_doubt(self, recipient, outcome, names_it, when):
        """Somebody decides about a message whose outcome nobody knows; or about one that has none."""
        about = {"batch_request_id": self.requests[-1], "recipient_id": recipient}
        for one in self.store.documents("conversations"):
            slot = one["slot"]
            if slot and slot["state"] == "unknown":
                about = {"batch_request_id": one["batch_request_id"]}
                about["recipient_id"] = one["recipient"]["id"]
                key = f"{one['_id']}/{slot['stage']}/{slot['n']}"
                about["message_id"] = key if names_it else None
        self.insert("conversation_updates", when, kind="unknown_resolved", outcome=outcome, **about)

    @rule(
        recipient=RECIPIENT,
        kind=st.sampled_from(["pause", "pause", "resume"]),
        until=st.sampled_from([None, 60, 86_400]),
        when=WHEN,
    )
    def pause(self, recipient, kind, until, when):
        """A conversation is to stand still, or to go on."""
        self.tell(kind, recipient, when, until=self.later(until) if kind == "pause" else None)

    @rule(
        kind=st.sampled_from(["pause", "resume", "resume", "retry", "cancel"]),
        until=st.sampled_from([None, 600]),
        when=WHEN,
    )
    def order(self, kind, until, when):
        """Something is ordered for a whole campaign."""
        request, until = self.requests[-1], self.later(until) if kind == "pause" else None
        self.insert("campaign_updates", when, batch_request_id=request, kind=kind, until=until)

    @rule(recipient=st.sampled_from([*RECIPIENTS, "r9"]), when=WHEN)
    def suppress(self, recipient, when):
        """The agent knows somebody who must not be written to."""
        document = {"_id": f"email:{recipient}@example.com", "reason": "asked by phone"}
        self.act(when, lambda: self.store.insert("suppressions", document))

    @precondition(lambda self: self.seen.updates or self.seen.orders)
    @rule(at=st.integers(0, 5), when=WHEN)
    def again(self, at, when):
        """An update comes again, without its answer."""
        known = [("conversation_updates", one) for one in self.seen.updates.values()]
        known += [("campaign_updates", one) for one in self.seen.orders.values()]
        collection, one = known[-1 - at % len(known)]
        self.act(when, lambda: self.store.replace(collection, one.document))

    @rule(at=st.integers(0, 2))
    def submit_again(self, at):
        """A request comes again, without its answer."""
        present = self.store.one("batch_requests", self.requests[at % len(self.requests)])
        if present:
            answer = {"status", "decided_at", "campaign_id", "problems", "counts"}
            copy = {k: v for k, v in present.items() if k not in {*answer, "rejected_recipients"}}
            self.store.replace("batch_requests", copy)

    @rule(
        fields=st.sampled_from(
            [
                {"kind": "dance"},
                {"kind": "reply", "text": 5},
                {"kind": "pause", "until": "tomorrow"},
                {"kind": "send"},
                {"kind": "opted_out", "at": "now", "colour": 1},
            ]
        ),
        recipient=st.sampled_from(["r0", "nobody"]),
        campaign=st.booleans(),
        when=WHEN,
    )
    def stray(self, fields, recipient, campaign, when):
        """Something malformed, or about nobody."""
        request = self.requests[-1] if recipient != "nobody" else "nothing"
        about = {"batch_request_id": request, **fields}
        if campaign:
            self.insert("campaign_updates", when, **about)
        else:
            self.insert("conversation_updates", when, recipient_id=recipient, **about)

    # -- the world -------------------------------------------------------------------------------
    @rule(
        seconds=st.sampled_from([20, 100, 7_200]),
        fate=st.sampled_from(["broken", "retry", "cut", "silent"]),
    )
    def outage(self, seconds, fate):
        """From now on the channel fails, for so long."""
        self.floor.post.outage = self.floor.loop.seconds + seconds, fate

    @rule(seconds=st.sampled_from(SPANS), seed=SEED)
    def wait(self, seconds, seed):
        """Time passes, and two workers do what has fallen due."""
        self.floor.loop.seconds += seconds
        self.floor.work([Shift(worker=0), Shift(worker=1)], seed)

    @rule(seconds=st.sampled_from(SPANS), shifts=SHIFTS, fates=FATES, seed=SEED)
    def wait_for_trouble(self, seconds, shifts, fates, seed):
        """Time passes, then workers die, are stopped, and meet a channel that fails."""
        self.floor.loop.seconds += seconds
        self.work(shifts, fates, seed)

    @rule(shifts=SHIFTS, fates=FATES, seed=SEED)
    def work(self, shifts, fates, seed):
        """Workers work at the same time; some die, some are stopped."""
        self.floor.post.fates.extend(fates)
        self.floor.work(shifts, seed)

    @rule(shifts=SHIFTS, seed=SEED)
    def work_on(self, shifts, seed):
        """They do so with whatever the channel still has in store."""
        self.floor.work(shifts, seed)

    # -- what must hold --------------------------------------------------------------------------
    @invariant()
    def hand_offs(self):
        """I2, I4, I5, I6, I9: no hand-off was one that must not be."""
        if self.floor:
            assert not self.seen.violations, self.seen.violations

    @invariant()
    def documents(self):
        """I2, I3: open conversations are due in time, and no key is lost, at any moment."""
        if not self.floor:
            return
        campaigns = {one["_id"]: one for one in self.store.documents("campaigns")}
        messages = {one["_id"]: one for one in self.store.documents("messages")}
        for one in self.store.documents("conversations"):
            liveness(campaigns[one["campaign_id"]], one)
        in_slots = {
            f"{one['_id']}/{one['slot']['stage']}/{one['slot']['n']}"
            for one in self.store.documents("conversations")
            if one["slot"]
        }
        assert self.seen.reserved <= messages.keys() | in_slots
        for campaign in campaigns.values():
            mine = [
                one
                for one in self.store.documents("conversations")
                if one["campaign_id"] == campaign["_id"]
            ]
            assert verified(self.floor, campaign, mine, list(messages.values())) == []

    def teardown(self):
        """Nothing happens any more but time: all comes to its end, and all agrees."""
        try:
            if self.floor:
                come_to_rest(self.floor)
                agree(self.floor, self.claimed)
                self.replayed()
        finally:
            logger.enable("reactor")
            self.patch.undo()
            if self.floor:
                self.floor.close()

    def replayed(self):
        """I8: the same decision again is the same, to the byte."""
        for step, given, decided in self.steps:
            again = step(*given)
            assert again == decided
            assert bson.encode(to_document(again.conversation)) == bson.encode(
                to_document(decided.conversation)
            )


def without_last_look(patch):
    """Hand off whatever was marked."""
    patch.setattr(reactor.delivery, "verdict", lambda *_: None)


def without_lease_check(patch):
    """Hand off however late it is."""
    hand_off = reactor.delivery._hand_off_each

    def late(engine, marked, batch, rest):
        return hand_off(engine, evolve(marked, since=marked.since + 1e9), batch, rest)

    patch.setattr(reactor.delivery, "_hand_off_each", late)


def without_doubt(patch):
    """Forget that an earlier attempt was uncertain."""

    def given_up(slot, status, now, reason, error=None):
        return Record(slot=slot, status=status, at=now, reason=reason, error=error)

    patch.setattr(handlers.atom, "given_up", given_up)
    patch.setattr(handlers.outcome, "given_up", given_up)


def without_unwanted(patch):
    """Forget a message in flight when the conversation moves on."""
    drop = handlers.atom.dropped_slot
    patch.setattr(
        handlers.atom, "dropped_slot", lambda one, *why: (evolve(drop(one, *why)[0], slot=None), ())
    )


def without_guard(patch):
    """Write whatever version a conversation has."""
    apply = WitnessedStore.apply

    async def forced(store, changes, *, token):
        present = [store.one("conversations", each.before.id)["version"] for each in changes]
        forced = [
            evolve(each, before=evolve(each.before, version=version))
            for each, version in zip(changes, present, strict=True)
        ]
        return await apply(store, forced, token=token)

    patch.setattr(WitnessedStore, "apply", forced)


def without_tokens(patch):
    """Let as many through as ask."""
    take = WitnessedStore.take_tokens

    async def taken(store, spec, wanted):
        return evolve(await take(store, spec, wanted), granted=wanted)

    patch.setattr(WitnessedStore, "take_tokens", taken)


def without_circuit(patch):
    """Hand off whatever is known of the channel."""
    patch.setattr(handlers.gates, "barred", lambda *_: None)
    patch.setattr(reactor.gatekeeper, "barred", lambda *_: None)


def without_daily_bound(patch):
    """Write to an address as often as the templates say."""
    patch.setattr(handlers.last_look, "_guarded", lambda *_: None)


def sparing_all(patch):
    """Count no attempt, whoever is to blame."""
    patch.setattr(handlers.outcome, "_counts", lambda *_: False)


class Unlimited(Machine):
    """As many messages as come."""

    pace, most_a_day = (None, 1), 50


class Bounded(Unlimited):
    """Few messages a day to an address."""

    most_a_day = 2


@pytest.mark.parametrize(
    ("without", "machine"),
    [
        (without_last_look, Unlimited),
        (without_lease_check, Unlimited),
        (without_doubt, Machine),
        (without_unwanted, Unlimited),
        (without_guard, Unlimited),
        (without_tokens, Machine),
        (without_circuit, Machine),
        (without_daily_bound, Bounded),
        (sparing_all, Unlimited),
    ],
)
def test_each_rule_is_needed(without, machine, monkeypatch):
    """With one rule switched off, the machine finds what breaks."""
    without(monkeypatch)
    found = settings(
        BROAD, max_examples=3000, derandomize=True, database=None, phases=[Phase.generate]
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=found)


BROAD = settings(
    max_examples=max(200, settings().max_examples),
    stateful_step_count=50,
    suppress_health_check=list(HealthCheck),
    deadline=None,
)
Machine.TestCase.settings = BROAD
# As much as it does, under coverage and beside other work, it is no hang.
TestInvariants = pytest.mark.timeout(900)(Machine.TestCase)
