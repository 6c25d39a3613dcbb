"""The witness: a store and a channel that write down what happened, and what must not have."""

import json
from collections import Counter
from datetime import datetime, timedelta

from attrs import define, evolve, field, frozen

from handlers.conversation import hands_off
from handlers.gates import PROBES
from handlers.last_look import stops, stops_campaign
from reactor.channels.protocol import as_json
from reactor.store.ledgering import GOT
from reactor.store.memory import MemoryStore
from reactor.store.memory_documents import Stored
from schemas.channel import ChannelState, CircuitState
from schemas.conversation import ConversationStatus, SlotState
from schemas.hand_off import ChannelSpec, OnUnknown
from schemas.ids import campaign_id, conversation_id
from schemas.message import ACCEPTED

CHANNEL_TIMEOUT = timedelta(seconds=10)
#: What an update led to that was applied and stops nothing.
STAYED = {"reply_stayed", "reply_noted"}
#: What may have undone an update that stopped a message.
UNDOING = {
    "pause": ("resume", "retry"),
    "escalate": ("escalation_resolved",),
    "reply": ("reply", "escalation_resolved"),
}


#: Fates that never count as an attempt, and those that do where the channel works for others.
SPARED = {"limited", "silent", "broken"}
REFUSED = {"retry", "later"}
DAY = timedelta(days=1)
CLOSED = CircuitState.CLOSED


@frozen
class Limits:
    """What all workers together must keep to."""

    spec: ChannelSpec
    most_a_day: int


@frozen
class Tried:
    """A hand-off: what came of it, and what its worker had read of the channel by then."""

    at: int
    fate: str
    known: ChannelState | None


@frozen
class Mark:
    """A message was marked `sending`; what had been applied by then."""

    at: int
    applied: tuple
    #: When the lease is over.
    until: datetime


@frozen
class Inserted:
    """An update as the agent inserted it."""

    at: int
    document: dict
    about: str


class MemoryDatabase:
    """As much of a database as the checks of tests.invariants ask for."""

    def __init__(self, store):
        self.store = store

    def __getattr__(self, name):
        """Give a collection."""
        return MemoryCollection(self.store, name)


@frozen
class MemoryCollection:
    store: MemoryStore
    name: str

    def find(self, query=None):
        """Find by the equality of fields; a document without an answer has no status."""
        return [
            one
            for one in self.store.documents(self.name)
            if all(one.get(name) == value for name, value in (query or {}).items())
        ]

    def count_documents(self, query):
        """Count what `find` finds."""
        return len(self.find(query))


class WitnessedStore(MemoryStore):
    """The store in memory, with the order of everything that was written."""

    def __init__(self, clock, pause, limits):
        super().__init__(clock, pause)
        self.seen = Witness(self, limits)

    def insert(self, collection, document):
        """Insert as the agent does: acknowledged, from here on it counts."""
        inserted = super().insert(collection, document)
        if inserted:
            self.seen.inserted(collection, document)
        return inserted

    def replace(self, collection, document):
        """Replace as the agent may: a copy without the answer."""
        present, copy = self._of(collection).get(document["_id"]), Stored.of(document)
        present.raw, present.fields = copy.raw, copy.fields
        self.seen.inserted(collection, document)

    def one(self, collection, identity):
        """Give a document's fields, None where there is none."""
        stored = self._of(collection).get(identity)
        return stored and stored.fields

    async def apply(self, changes, *, token):
        """Write down what was marked by it."""
        applied = await super().apply(changes, token=token)
        for change in changes:
            after = applied.won.get(change.before.id)
            if after:
                self.seen.applied(change.before, after)
        return applied

    async def insert_conversations(self, conversations, *, carried=False):
        """Write down what was inserted with its message marked."""
        conflicts = await super().insert_conversations(conversations, carried=carried)
        for index, one in enumerate(conversations):
            if index not in conflicts and one.slot:
                assert not carried
                self.seen.applied(evolve(one, slot=None), one)
        return conflicts

    async def record(self, entries):
        """Write down what was recorded as sent."""
        await super().record(entries)
        self.seen.recorded(entries)

    async def suppress(self, suppressions):
        """Write down which addresses are suppressed from here on."""
        await super().suppress(suppressions)
        for one in suppressions:
            self.seen.suppressed.setdefault(one.id, self.seen.count())

    async def look(self, order):
        """Write down what a worker then knows of the channel."""
        look = await super().look(order)
        for one in look.conversations.values():
            if one.slot:
                self.seen.looks[one.slot.key(one.id)] = look.now, look.channels.get("email")
        return look

    async def write_channel(self, before, after):
        """Write down when the circuit was not closed, and who was let through it."""
        written = await super().write_channel(before, after)
        if written:
            self.seen.channel(before.circuit, after.circuit)
        return written

    async def write_campaign(self, before, after, *, carried=False):
        """Write down which campaigns have been completed, whatever became of them later."""
        written = await super().write_campaign(before, after, carried=carried)
        if written and written.completed_at:
            self.seen.completed.add(written.id)
        return written


@define
class Witness:
    """Numbers what happens, and judges every hand-off at the moment it begins (I2, I4, I5, I6)."""

    store: WitnessedStore
    limits: Limits
    happened: int = 0
    marks: dict = field(factory=dict)
    updates: dict = field(factory=dict)
    orders: dict = field(factory=dict)
    suppressed: dict = field(factory=dict)
    sent: dict = field(factory=dict)
    completed: set = field(factory=set)
    reserved: set = field(factory=set)
    bodies: dict = field(factory=dict)
    last: dict = field(factory=dict)
    attempts: Counter = field(factory=Counter)
    #: By key: the last hand-off, and what was read of the channel by the last look before it.
    tried: dict = field(factory=dict)
    looks: dict = field(factory=dict)
    #: Hand-offs by second; those that began with it may be of the second before.
    within: Counter = field(factory=Counter)
    begins: Counter = field(factory=Counter)
    #: When the circuit was last not closed; probes that were begun, and their messages.
    down_at: int = 0
    down: bool = False
    probes: int = 0
    probing: int = 0
    #: By address: the messages that it got for certain; when, and when that was known.
    got: dict = field(factory=dict)
    #: Keys that the channel took, in order, as it would have written them.
    accepted: dict = field(factory=dict)
    violations: list = field(factory=list)
    totals: Counter = field(factory=Counter)

    def count(self):
        """Number the next thing that happens."""
        self.happened += 1
        return self.happened

    def inserted(self, collection, document):
        """Take note of what the agent was acknowledged."""
        at = self.count()
        request = document.get("batch_request_id")
        if collection == "conversation_updates":
            about = conversation_id(request, str(document.get("recipient_id")))
            self.updates[document["_id"]] = Inserted(at, document, about)
        elif collection == "campaign_updates":
            self.orders[document["_id"]] = Inserted(at, document, campaign_id(request))
        elif collection == "suppressions":
            self.suppressed.setdefault(document["_id"], at)

    def applied(self, before, after):
        """Take note of a conversation's write."""
        at, slot = self.count(), after.slot
        if slot:
            self.reserved.add(slot.key(after.id))
        self._attempts_are_few(before, after)
        failed = after.status is ConversationStatus.FAILED and after.status is not before.status
        if failed and before.slot and before.slot.key(after.id) in self.sent:
            self.violation("I6 failed though recorded as sent", before.slot.key(after.id))
        if hands_off(before, after):
            self.marks[slot.key(after.id)] = Mark(at, after.applied, slot.until)

    def recorded(self, entries):
        """Take note of outcomes; a report of what the channel never took is the agent's mistake."""
        at = self.count()
        for entry in entries:
            true = entry.id in self.accepted or entry.reason == OnUnknown.ASSUME_SENT
            if entry.status in ACCEPTED and true:
                self.sent.setdefault(entry.id, at)
            if entry.status in GOT and entry.id in self.accepted:
                self._of(entry.address)[entry.id] = entry.recorded_at, at

    def violation(self, what, about):
        """Something happened that must not."""
        self.violations.append(f"{what}: {about}")

    def begun(self):
        """Take note of a hand-off that begins now, as its worker sees it."""
        now = self.store._clock()
        (self.within if now.microsecond else self.begins)[self.second()] += 1

    def second(self):
        """Give the present second."""
        return int(self.store._clock().timestamp())

    def channel(self, before, after):
        """Take note of the circuit."""
        at = self.count()
        if CircuitState.OPEN in {before.state, after.state} or after.state is not CLOSED:
            self.down_at = at
        self.down = after.state is not CLOSED
        if after.state is CircuitState.HALF_OPEN and after.until != before.until:
            self.probes += 1

    def hand_off(self, message, fate):
        """Judge a hand-off that begins now."""
        self.totals["hand-offs"] += 1
        key, conversation = message.key, message.conversation_id
        mark, n = self.marks.get(key), int(key.rsplit("/", 1)[1])
        if mark is None:
            self.violation("I2 handed off without a mark", key)
            return
        if self.store._clock() + CHANNEL_TIMEOUT > mark.until:
            self.violation("I4 handed off with too little of the lease left", key)
        if self.bodies.setdefault(key, message) != message:
            self.violation("I2 two bodies for one key", key)
        if n < self.last.get(conversation, 0):
            self.violation("I4 handed off after a later message", key)
        self.last[conversation] = max(n, self.last.get(conversation, 0))
        if self.sent.get(key, mark.at) < mark.at:
            self.violation("I6 handed off again though recorded as sent", key)
        self._attempted(message, fate)
        self._gate(key)
        self._guard(message, mark)
        self._last_look(message, mark)

    def _attempted(self, message, fate):
        """I9: a message has as many attempts as its policy says, and those that are not its fault."""
        key, last = message.key, self.tried.get(message.key)
        if last and last.fate not in SPARED | REFUSED and self._was_down(last.at):
            self.attempts[key] -= 1  # as a probe, or while it was known to be down
        _, known = self.looks.get(key, (None, None))
        self.tried[key] = Tried(self.count(), fate, known)
        self.attempts[key] += 1
        template = self.store.one("campaigns", message.campaign_id)["template"]
        if self.attempts[key] > template["retry"]["max_attempts"]:
            self.violation("I9 more hand-offs than attempts", key)
        self.attempts[key] -= fate in SPARED | REFUSED

    def _was_down(self, since):
        return self.down or self.down_at > since

    def _attempts_are_few(self, before, after):
        """I9: attempts that count are no more than the policy's; they count where others get through."""
        own, slot = before.slot, after.slot
        if slot is None:
            return
        key = slot.key(after.id)
        template = self.store.one("campaigns", after.campaign_id)["template"]
        if slot.attempts - slot.spared > template["retry"]["max_attempts"]:
            self.violation("I9 more attempts than the policy's", key)
        if own is None or own.n != slot.n:
            return
        if own.state is SlotState.UNKNOWN and slot.state is not SlotState.UNKNOWN:
            self.attempts[key] = 0  # a human has said so
            self.tried.pop(key, None)
        if slot.state is SlotState.RESERVED and slot.uncertain:
            for taken in self.got.values():
                taken.pop(key, None)  # nobody counts what may have been sent and waits
        last = self.tried.get(key)
        if own.state is SlotState.SENDING and slot.spared > own.spared and last:
            state, since = last.known, own.tried_at or own.decided_at
            sure = state and state.circuit.state is CLOSED and not self._was_down(last.at)
            if last.fate in REFUSED and sure and (state.succeeded_at or since) > since:
                self.violation("I9 an attempt at a channel that works did not count", key)

    def _gate(self, key):
        """Nothing goes through an open circuit but a few probes at a time, nor into a silence."""
        now, state = self.looks.get(key, (None, None))
        if state is None:
            return
        circuit = state.circuit
        if state.not_before and state.not_before > now:
            self.violation("handed off although silence was asked for", key)
        if circuit.state is CLOSED:
            return
        if circuit.until > now:
            self.violation("handed off through an open circuit", key)
        self.probing += 1
        self.totals["probes"] += 1
        if self.probing > PROBES * self.probes:
            self.violation("more probes than may go", key)

    def _guard(self, message, mark):
        """I9: no address gets more than so many messages a day, as far as it was known at the mark."""
        earliest = self.store._clock() - DAY
        others = [
            key
            for key, (when, known) in self._of(f"{message.channel}:{message.to}").items()
            if key != message.key and when > earliest and known < mark.at
        ]
        if len(others) >= self.limits.most_a_day:
            self.violation("I9 more than so many to one address", message.key)

    def _of(self, address):
        return self.got.setdefault(address, {})

    def too_fast(self):
        """Give by how many messages a span of whole seconds had more than rate and burst allow."""
        spec, level, worst, last = self.limits.spec, 0.0, 0.0, None
        if not spec.rate:
            return 0.0
        for second in sorted(self.within.keys() | self.begins.keys()):
            gap = second - last - 1 if last is not None else 0
            level = max(0.0, level - gap * spec.rate) + self.begins[second]
            level = max(0.0, level) + self.within[second] - spec.rate
            worst, last = max(worst, level), second
        return max(0.0, worst - spec.burst - 1e-6)

    def _last_look(self, message, mark):
        """I5: whatever was acknowledged before the mark wins."""
        if self.suppressed.get(f"{message.channel}:{message.to}", mark.at) < mark.at:
            self.violation("I5 sent to a suppressed address", message.key)
        for update in self.updates.values():
            document = update.document
            stopping = stops(document.get("kind"), document.get("bounce"))
            mine = update.about == message.conversation_id
            if mine and stopping and update.at < mark.at and self._stands(update, mark.applied):
                self.violation(f"I5 sent after {document['kind']} {document['_id']}", message.key)
        for order in self.orders.values():
            document = order.document
            mine = order.about == message.campaign_id
            if mine and stops_campaign(document.get("kind")) and order.at < mark.at:
                self._ordered(message, order)

    def _stands(self, update, applied):
        """Say whether an update that stops messages was overlooked, and nothing undid it."""
        document = update.document
        identity = document["_id"]
        if identity in applied:
            return False
        conversation = self.store.one("conversations", update.about)
        answer = self.store.one("conversation_updates", identity)
        if answer.get("status") is None and identity not in conversation["applied"]:
            return True
        led_to = {one["reason"] for one in conversation["history"] if one["by"] == identity}
        if answer.get("status") in {"ignored", "rejected"} or led_to & STAYED:
            return False
        undoing = UNDOING.get(document["kind"], ())
        undone = any(
            one.about == update.about and one.document["kind"] in undoing and one is not update
            for one in self.updates.values()
        )
        return not undone and not self._over(document)

    def _ordered(self, message, order):
        """Say it where a campaign was paused or cancelled before the mark."""
        document, campaign = order.document, self.store.one("campaigns", order.about)
        answer = self.store.one("campaign_updates", document["_id"])
        if answer.get("status") in {"ignored", "rejected"}:
            return
        waits = answer.get("status") is None and document["_id"] not in campaign["applied"]
        over = document["kind"] == "pause" and (self._over(document) or self._resumed(order))
        if waits or not (over or order.about in self.completed):
            self.violation(f"I5 sent after the campaign's {document['kind']}", message.key)

    def _over(self, document):
        until = document.get("until")
        return isinstance(until, datetime) and until <= self.store._clock()

    def _resumed(self, order):
        return any(
            one.about == order.about and one.document["kind"] == "resume"
            for one in self.orders.values()
        )

    def take(self, message):
        """The channel has it now."""
        self.accepted.setdefault(message.key, json.loads(as_json(message)))
        self._of(f"{message.channel}:{message.to}").setdefault(
            message.key, (self.store._clock(), 0)
        )
