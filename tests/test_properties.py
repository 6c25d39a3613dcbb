"""
Every decision, in any order: one conversation, told anything at any time, by workers that die.

Only the pure functions are driven here, with a ledger and a channel that are plain dictionaries;
that the worker keeps to them is held by the invariants over the store.
"""

from datetime import timedelta

from attrs import evolve
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from handlers import campaign as campaigns
from handlers.conversation import hands_off
from handlers.hand_off import hand_off_of
from handlers.last_look import Seen, verdict
from handlers.outcome import on_outcome
from handlers.scene import Lease
from schemas.action import ADVANCE, COMPLETE, ESCALATE, HOLD, STAY, go_to
from schemas.campaign import CampaignStatus
from schemas.channel import ChannelState, Circuit, CircuitState
from schemas.conversation import WaitingFor
from schemas.hand_off import Gate, OnUnknown, Outcome, OutcomeKind
from schemas.ids import campaign_id
from schemas.message import ACCEPTED, RANK, MessageStatus
from schemas.transition import Record, Report
from schemas.update import (
    Bounce,
    CampaignUpdate,
    CampaignUpdateKind,
    OptOutScope,
    Resolve,
    UpdateKind,
)
from tests.builders import DAY, HOUR, NOW, REQUEST
from tests.decided import (
    MINUTE,
    TEMPLATE,
    check,
    entry,
    pass_on,
    pending,
    scene,
    update,
    works,
)

TEN_DAYS = 10 * DAY
SPANS = st.sampled_from([timedelta(seconds=1), MINUTE, HOUR, DAY, 3 * DAY])
INTENTS = st.sampled_from([None, "away", "next", "interested", "again", "human", "no"])
ACTIONS = st.sampled_from([ADVANCE, COMPLETE, ESCALATE, HOLD, STAY, go_to("intro")])
RESOLUTIONS = st.sampled_from([ADVANCE, COMPLETE, STAY, go_to("intro")])
#: What ends a conversation comes late, so that the others come to something.
ENDINGS = {UpdateKind.OPTED_OUT, UpdateKind.BOUNCED, UpdateKind.CANCEL, UpdateKind.GOAL_REACHED}
KINDS = st.sampled_from([kind for kind in UpdateKind if kind not in ENDINGS])
HELD = {WaitingFor.RATE_LIMIT, WaitingFor.CIRCUIT, WaitingFor.CHANNEL}
MOSTLY, SELDOM = st.sampled_from([True] * 3 + [False]), st.sampled_from([False] * 3 + [True])
SENT, RETRY, UNKNOWN = OutcomeKind.SENT, OutcomeKind.RETRY, OutcomeKind.UNKNOWN
#: What a worker sees, and whether the channel has accepted the message.
OUTCOMES = [
    (SENT, True),
    (SENT, True),
    (RETRY, False),
    (UNKNOWN, True),
    (UNKNOWN, False),
    (OutcomeKind.REFUSED, False),
    (OutcomeKind.RATE_LIMITED, False),
    (OutcomeKind.CHANNEL_FAILED, False),
]
#: Kinds that say one thing of a few.
CHOICES = {
    UpdateKind.OPTED_OUT: ("scope", OptOutScope),
    UpdateKind.UNKNOWN_RESOLVED: ("outcome", Resolve),
}
#: What stops a message after its mark, beside what the last look sees here.
WITHHELD = [OutcomeKind.HELD_BACK] * 7 + [OutcomeKind.RUNAWAY_GUARD]
#: What the gate says at a step: mostly nothing.
GATES = st.sampled_from([None, None, None, *(why for why in WaitingFor if why in HELD)])
#: What is known of the channel.
STATES = [
    works(),
    works(succeeded_at=NOW - DAY),
    works(circuit=Circuit(state=CircuitState.OPEN, since=NOW, until=NOW + HOUR, openings=1)),
    ChannelState(id="email"),
]
OWN = evolve(TEMPLATE, max_messages=9, max_duration=TEN_DAYS)


class Decisions(RuleBasedStateMachine):
    @initialize(policy=st.sampled_from(OnUnknown), state=st.sampled_from(STATES))
    def begin(self, policy, state):
        """A conversation in a campaign of ten days."""
        self.state = state
        self.now, self.policy, self.tokens = NOW, policy, 0
        self.made = pending(deadline_at=NOW + TEN_DAYS)
        fields = {"template": OWN, "deadline_at": NOW + TEN_DAYS}
        self.campaign = scene(**fields).campaign
        self.told, self.unanswered = 0, []
        #: Ledger entries; what the channel got and accepted; hand-offs whose outcome is not known.
        self.ledger, self.given, self.accepted, self.flying = {}, {}, set(), None

    def scene(self, why=None):
        """Set the scene for one step, under a lease of its own; `why` the gate is closed."""
        self.tokens += 1
        gates = {"email": Gate(until=self.now + MINUTE, why=why)} if why else {}
        at = scene(now=self.now, policy=self.policy, gates=gates, states=[self.state])
        lease = Lease(token=f"t{self.tokens}", until=self.now + MINUTE)
        return evolve(at, campaign=self.campaign, lease=lease)

    # -- the agent and the world -------------------------------------------------------------------
    @rule(kind=KINDS, intent=INTENTS, then=ACTIONS, resolution=RESOLUTIONS, data=st.data())
    def tell(self, kind, intent, then, resolution, data):
        """Insert an update of any kind: about anything that was, or never was."""
        self.insert(kind, data, intent=intent, then=then, resolution=resolution)

    def insert(self, kind, data, *, intent=None, then=STAY, resolution=STAY):
        """Insert an update, with whatever belongs to its kind."""
        self.told += 1
        fields = {"id": f"u{self.told}", "at": self.now}
        known = st.sampled_from([None, *(f"u{n}" for n in range(1, self.told))])
        match kind:
            case UpdateKind.REPLY:
                fields["intent"] = intent
                fields["reply_id"] = data.draw(known) if data.draw(SELDOM) else None
            case UpdateKind.SEND:
                fields |= {"then": then, "in_reply_to": None}
                if data.draw(SELDOM):
                    fields["in_reply_to"] = data.draw(known)
            case UpdateKind.ESCALATION_RESOLVED:
                fields["resolution"] = resolution
            case UpdateKind.PAUSE:
                fields["until"] = data.draw(st.sampled_from([None, self.now + DAY]))
            case _ if kind in CHOICES:
                name, choices = CHOICES[kind]
                fields[name] = data.draw(st.sampled_from(choices))
            case UpdateKind.DELIVERED | UpdateKind.BOUNCED if not self.accepted:
                return
            case UpdateKind.DELIVERED:
                fields["message_id"] = data.draw(st.sampled_from(sorted(self.accepted)))
            case UpdateKind.BOUNCED:
                fields["message_id"] = data.draw(st.sampled_from(sorted(self.accepted)))
                fields["bounce"] = data.draw(st.sampled_from(Bounce))
        self.unanswered.append(update(kind, **fields))

    @rule(span=SPANS)
    def wait(self, span):
        """Let time pass; leases run out, waits end."""
        self.now += span
        if self.made.is_open and self.made.due_at > self.now and span > DAY:
            self.now = self.made.due_at

    @rule(state=st.sampled_from(STATES))
    def change(self, state):
        """Know something else of the channel from now on."""
        self.state = state

    @rule(kind=st.sampled_from(["pause", "resume", "resume", "retry"]))
    def order(self, kind):
        """Order something about the campaign."""
        self.follow(kind)

    @precondition(lambda self: self.told > 9)
    @rule(kind=st.sampled_from(sorted(ENDINGS)), data=st.data())
    def end(self, kind, data):
        """Insert an update that ends the conversation."""
        self.insert(kind, data)

    @precondition(lambda self: self.told > 12)
    @rule()
    def cancel(self):
        """Cancel the campaign."""
        self.follow("cancel")

    def follow(self, kind):
        """Apply an order."""
        self.told += 1
        order = CampaignUpdate(
            id=f"o{self.told}",
            campaign_id=campaign_id(REQUEST),
            kind=CampaignUpdateKind(kind),
            at=self.now,
        )
        self.campaign = campaigns.step(self.campaign, [order], self.now).campaign

    # -- workers -----------------------------------------------------------------------------------
    @rule(data=st.data(), dies=SELDOM, why=GATES)
    def work(self, data, dies, why):
        """Decide a step; `dies`: after the effects, and before the conversation is written."""
        self.campaign = campaigns.step(self.campaign, [], self.now).campaign
        at, before = self.scene(why), self.made
        slot = before.slot
        known = self.ledger.get(slot.key(before.id)) if slot else None
        result = pass_on(before, *self.unanswered, at=at, ledger=known)
        self.write(result.effects)
        if dies:
            return
        self.made = result.conversation
        answered = dict(result.answers)
        if data.draw(MOSTLY):  # else it dies before it answers
            self.unanswered = [one for one in self.unanswered if one.id not in answered]
        if hands_off(before, self.made):
            assert not why  # nothing passes a closed gate
            self.look(data)

    def look(self, data):
        """Take the last look at what was marked; hand it off, or not."""
        slot = self.made.slot
        key = slot.key(self.made.id)
        seen = Seen(
            now=self.now,
            campaign=self.campaign,
            stopped=data.draw(SELDOM),
            suppressed=data.draw(st.sampled_from([False] * 15 + [True])),
            entry=self.ledger.get(key) if slot.uncertain else None,
        )
        outcome = verdict(self.made, slot, seen)
        if outcome is None and data.draw(SELDOM):
            outcome = Outcome(kind=data.draw(st.sampled_from(WITHHELD)))
        if outcome is None:
            outcome = self.hand_off(key, slot, data)
        self.flying = (slot.token, outcome)
        if data.draw(MOSTLY):
            self.record(dies=False)

    def hand_off(self, key, slot, data):
        """Give it to the channel, which writes down what it gets."""
        message = hand_off_of(self.made, slot, self.campaign, self.scene().channels)
        assert self.given.setdefault(key, message) == message  # one body per key
        assert all(slot.n >= int(other.rsplit("/", 1)[1]) for other in self.given)  # I4
        assert slot.attempts - slot.spared <= OWN.retry.max_attempts
        assert self.campaign.status is CampaignStatus.ACTIVE
        kind, accepted = data.draw(st.sampled_from(OUTCOMES))
        if accepted:
            self.accepted.add(key)
        return Outcome(kind=kind, error="no")

    @precondition(lambda self: self.flying)
    @rule(dies=SELDOM)
    def late(self, dies):
        """Record an outcome that came late."""
        self.record(dies=dies)

    def record(self, *, dies):
        """Record an outcome, ledger first; one whose slot was taken over is dropped."""
        (token, outcome), self.flying = self.flying, None
        if self.made.slot is None or self.made.slot.token != token:
            return
        at, before = self.scene(), self.made
        transition = on_outcome(before, outcome, at)
        check(before, transition.conversation, at, transition.effects)
        self.write(transition.effects)
        if not dies:
            self.made = transition.conversation

    @precondition(lambda self: self.flying)
    @rule()
    def die(self):
        """Forget the outcome of a hand-off, with the worker that had it."""
        self.flying = None

    def write(self, effects):
        """Merge records and reports into the ledger, by rank."""
        for effect in effects:
            if isinstance(effect, Record):
                key, attempts, reason = self.key(effect.slot), effect.slot.attempts, effect.reason
            elif isinstance(effect, Report):
                key, attempts, reason = effect.key, None, None
            else:
                continue
            known = self.ledger.get(key)
            if known is None or RANK[effect.status] >= RANK[known.status]:
                self.ledger[key] = entry(
                    effect.status, id=key, attempts=attempts, reason=reason and str(reason)
                )

    def key(self, slot):
        """Give the send key of a slot."""
        return slot.key(self.made.id)

    # -- what must hold ----------------------------------------------------------------------------
    @invariant()
    def honest(self):
        """What the channel has accepted is nowhere called cancelled or failed (I6)."""
        for key, known in getattr(self, "ledger", {}).items():
            if known.status in {MessageStatus.CANCELLED, MessageStatus.FAILED}:
                assert key not in self.accepted
            if known.status in ACCEPTED and known.reason != OnUnknown.ASSUME_SENT:
                assert key in self.accepted

    def teardown(self):
        """Left alone, the conversation ends by its deadline, and every key has its entry."""
        if not hasattr(self, "made"):
            return
        self.flying, self.state = None, works()
        for _ in range(100):
            if self.made.due_at is None and not self.unanswered:
                break
            self.now = max(self.now, self.made.due_at or self.now)
            self.settle()
        assert not self.made.is_open
        assert self.made.slot is None
        assert self.made.waiting_for == ()
        keys = sorted(int(key.rsplit("/", 1)[1]) for key in self.ledger)
        assert keys == list(range(self.made.message_count))

    def settle(self):
        """Decide a step, without anybody who dies; every hand-off is lost."""
        self.campaign = campaigns.step(self.campaign, [], self.now).campaign
        slot = self.made.slot
        known = self.ledger.get(self.key(slot)) if slot else None
        result = pass_on(self.made, *self.unanswered, at=self.scene(), ledger=known)
        answered = dict(result.answers)
        self.unanswered = [one for one in self.unanswered if one.id not in answered]
        self.write(result.effects)
        if not result.reasons:  # the campaign is paused: that ends with the deadline
            self.now = self.made.deadline_at
        self.made = result.conversation


TestDecisions = Decisions.TestCase
