"""What came of a hand-off. An outcome is an event: decided against the conversation as it is now."""

from datetime import timedelta

from handlers.act import Cause, act
from handlers.atom import (
    DUE,
    Acted,
    caught_up,
    closed,
    given_up,
    in_its_visit,
    settled,
    under_pause,
)
from handlers.gates import barred, parked
from handlers.moves import moved
from handlers.scene import Scene
from handlers.sending import marked, slot_of
from handlers.stages import stage_of, wait_after
from schemas.action import ActionKind
from schemas.campaign import CampaignStatus
from schemas.channel import CircuitState
from schemas.conversation import (
    Conversation,
    ConversationStatus,
    ExitReason,
    Slot,
    SlotState,
    Unsent,
    Visit,
    WaitingFor,
)
from schemas.evolving import evolve
from schemas.hand_off import Gate, OnUnknown, Outcome, OutcomeKind
from schemas.ids import stable_fraction
from schemas.message import ACCEPTED, LedgerEntry, MessageStatus
from schemas.template import RetryPolicy
from schemas.transition import Reason, Record, Transition

S = ConversationStatus
_BARRED = {
    OutcomeKind.SUPPRESSED: ExitReason.SUPPRESSED,
    OutcomeKind.RUNAWAY_GUARD: ExitReason.RUNAWAY_GUARD,
}
#: How long a message that the last look withdrew waits for what it saw to be applied.
WITHDRAWN_FOR = timedelta(seconds=1)
#: Of a delay: retries of many conversations spread over the last fifth of it.
JITTER = 0.2
_FAILURES = {
    OutcomeKind.REFUSED: ExitReason.FAILED_PERMANENT,
    OutcomeKind.TEMPLATE_ERROR: ExitReason.TEMPLATE_ERROR,
}


def on_outcome(conversation: Conversation, outcome: Outcome, scene: Scene) -> Transition:
    """Decide what a hand-off's outcome leads to; the slot is the one that was handed off."""
    conversation = caught_up(conversation, scene.campaign, scene.now)
    slot = slot_of(conversation)
    if slot.reported and outcome.kind in {OutcomeKind.RETRY, OutcomeKind.UNKNOWN}:
        outcome = Outcome(kind=OutcomeKind.WAS_SENT)
    match outcome.kind:
        case OutcomeKind.SENT:
            record = _sent(slot, scene, provider_id=outcome.provider_id)
            transition = _accepted(conversation, slot, scene, record)
        case OutcomeKind.WAS_SENT:
            transition = _accepted(conversation, slot, scene)
        case OutcomeKind.RETRY:
            transition = _retry(conversation, slot, outcome, scene)
        case OutcomeKind.UNKNOWN:
            transition = _unknown(conversation, slot, outcome, scene)
        case OutcomeKind.RATE_LIMITED | OutcomeKind.CHANNEL_FAILED:
            transition = _not_its_fault(conversation, slot, outcome, scene)
        case OutcomeKind.REFUSED | OutcomeKind.TEMPLATE_ERROR:
            exit_reason = _FAILURES[outcome.kind]
            transition = _failed(conversation, slot, exit_reason, outcome.error, scene)
        case _:
            transition = _withheld(conversation, slot, outcome, scene)
    return evolve(transition, conversation=settled(transition.conversation))


def on_lease_over(
    conversation: Conversation, entry: LedgerEntry | None, scene: Scene
) -> Transition:
    """Take over a message whose worker died, or whose hold is over. The ledger is asked first."""
    slot = slot_of(conversation)
    if entry and entry.status in ACCEPTED:
        return _accepted(conversation, slot, scene)
    if entry and entry.status is MessageStatus.FAILED and entry.attempts == slot.attempts:
        # That of a message which nobody wanted any more names no exit reason.
        known = (reason for reason in ExitReason if reason == entry.reason)
        exit_reason = next(known, ExitReason.FAILED_PERMANENT)
        return _failed(conversation, slot, exit_reason, entry.error, scene)
    if slot.state is SlotState.UNKNOWN:
        return _failed(conversation, slot, ExitReason.FAILED_PERMANENT, "outcome unknown", scene)
    lost = Outcome(kind=OutcomeKind.UNKNOWN, error="the worker died during the hand-off")
    again = (
        conversation.is_open
        and slot.wanted
        and not conversation.pause
        and scene.campaign.status is CampaignStatus.ACTIVE
        and _policy(slot, scene) is OnUnknown.RESEND
        and slot.attempts - slot.spared < scene.template.retry.max_attempts
    )
    if again and (gate := scene.gates.get(slot.channel)):
        return parked(conversation, evolve(slot, uncertain=True), gate, scene.now)
    if again:
        return Transition(
            conversation=marked(conversation, slot, scene.lease), reason=Reason.MESSAGE_MARKED
        )
    return _unknown(conversation, slot, lost, scene)


def report_settles(conversation: Conversation, scene: Scene) -> Acted:
    """A report says that the held message was accepted: go on as from its outcome."""
    transition = _accepted(conversation, slot_of(conversation), scene)
    return transition.conversation, transition.effects


def assumed_sent(conversation: Conversation, scene: Scene) -> Acted:
    """A human says that the held message was sent: go on as from its outcome."""
    slot = slot_of(conversation)
    record = _sent(slot, scene, reason=OnUnknown.ASSUME_SENT)
    transition = _accepted(conversation, slot, scene, record)
    return transition.conversation, transition.effects


def retry_delay(policy: RetryPolicy, attempts: int, salt: str) -> timedelta:
    """Give the delay after the n-th attempt: exponential, capped, with jitter that has no chance in it."""
    exponent = min(attempts - 1, 100)
    seconds = policy.initial_delay.total_seconds() * min(policy.multiplier**exponent, 1e12)
    capped = min(seconds, policy.max_delay.total_seconds())
    spread = 1 - JITTER * stable_fraction(f"{salt}#{attempts}")
    return timedelta(milliseconds=round(capped * spread * 1000))


def _policy(slot: Slot, scene: Scene) -> OnUnknown:
    spec = scene.channels.get(slot.channel)
    return spec.on_unknown if spec else OnUnknown.RESEND


def _sent(
    slot: Slot, scene: Scene, *, provider_id: str | None = None, reason: str | None = None
) -> Record:
    return Record(
        slot=slot,
        status=MessageStatus.SENT,
        at=scene.now,
        provider_id=provider_id,
        reason=reason,
    )


def _accepted(conversation: Conversation, slot: Slot, scene: Scene, *records: Record) -> Transition:
    conversation = evolve(conversation, slot=None, last_message=slot.ref())
    return _gone_on(conversation, slot, Reason.MESSAGE_SENT, scene, *records)


def _gone_on(
    conversation: Conversation, slot: Slot, reason: Reason, scene: Scene, *records: Record
) -> Transition:
    """Go on after a message that was accepted, or is passed over because it is too late."""
    if not conversation.is_open or not slot.wanted:
        # Counted all the same: whoever comes back to this visit does not send it again.
        if in_its_visit(conversation):
            conversation = evolve(conversation, visit=_counted(conversation, slot))
        return Transition(conversation=conversation, reason=reason, effects=records)
    conversation, effects = under_pause(
        conversation, scene.now, lambda inner: _after_message(inner, slot, reason, scene)
    )
    return Transition(conversation=conversation, reason=reason, effects=(*records, *effects))


def _after_message(conversation: Conversation, slot: Slot, reason: Reason, scene: Scene) -> Acted:
    stage, sent = stage_of(scene.template, slot.stage), reason is Reason.MESSAGE_SENT
    by = DUE if slot.by is None else slot.by
    if slot.step is None:
        reason = Reason.AGENT_MESSAGE_SENT if sent else reason
    else:
        reason = Reason.FOLLOW_UP_SENT if sent and slot.step else reason
    visit = _counted(conversation, slot)
    wait_until = scene.now + wait_after(stage, visit)
    conversation = evolve(conversation, visit=visit, wait_until=wait_until)
    conversation = moved(conversation, S.AWAITING_REPLY, reason, at=scene.now, by=by)
    if slot.step is not None and stage.final:
        return closed(conversation, ExitReason.FINAL_STAGE, now=scene.now, by=by)
    if slot.then is None or slot.then.kind is ActionKind.STAY:
        return conversation, ()
    replied = ExitReason.REPLIED if conversation.reply else ExitReason.NO_REPLY_EXHAUSTED
    return act(conversation, slot.then, Cause(by=by, exit_reason=replied), scene)


def _counted(conversation: Conversation, slot: Slot) -> Visit:
    if slot.step is None:
        return conversation.visit
    return evolve(conversation.visit, messages=slot.step + 1)


def _failed(
    conversation: Conversation,
    slot: Slot,
    exit_reason: ExitReason,
    error: str | None,
    scene: Scene,
) -> Transition:
    record = given_up(slot, MessageStatus.FAILED, scene.now, exit_reason, error)
    conversation = evolve(conversation, slot=None, last_error=error)
    if not conversation.is_open or not slot.wanted:
        return Transition(
            conversation=conversation, reason=Reason.MESSAGE_GIVEN_UP, effects=(record,)
        )
    conversation = _keeping_text(conversation, slot)
    conversation, effects = closed(conversation, exit_reason, now=scene.now, by=DUE)
    return Transition(conversation=conversation, reason=Reason.FAILED, effects=(record, *effects))


def _keeping_text(conversation: Conversation, slot: Slot) -> Conversation:
    """Keep what the agent wrote of a message that fails: a `retry` sends it."""
    if slot.text is None or slot.by is None or slot.then is None:
        return conversation
    unsent = Unsent(text=slot.text, by=slot.by, then=slot.then)
    return evolve(conversation, unsent=unsent)


def _dropped(
    conversation: Conversation, slot: Slot, status: MessageStatus, outcome: Outcome, scene: Scene
) -> Transition:
    """Clear the slot of a message that nobody wants any more."""
    record = given_up(slot, status, scene.now, Reason.MESSAGE_GIVEN_UP, outcome.error)
    return Transition(
        conversation=evolve(conversation, slot=None),
        reason=Reason.MESSAGE_GIVEN_UP,
        effects=(record,),
    )


def _retry(conversation: Conversation, slot: Slot, outcome: Outcome, scene: Scene) -> Transition:
    if not conversation.is_open or not slot.wanted:
        return _dropped(conversation, slot, MessageStatus.FAILED, outcome, scene)
    if not _counts(slot, outcome, scene):
        slot = evolve(slot, spared=slot.spared + 1)
    if slot.attempts - slot.spared >= scene.template.retry.max_attempts:
        return _failed(conversation, slot, ExitReason.FAILED_RETRIES, outcome.error, scene)
    return _tried_again(conversation, slot, outcome, scene)


def _tried_again(
    conversation: Conversation, slot: Slot, outcome: Outcome, scene: Scene
) -> Transition:
    delay = retry_delay(scene.template.retry, slot.attempts, slot.key(conversation.id))
    until = scene.now + max(delay, outcome.retry_after or delay)
    reserved = evolve(slot, state=SlotState.RESERVED, until=until, token=None, tried_at=scene.now)
    return Transition(
        conversation=evolve(conversation, slot=reserved, last_error=outcome.error),
        reason=Reason.MESSAGE_RETRIED,
    )


def _counts(slot: Slot, outcome: Outcome, scene: Scene) -> bool:
    """
    Say whether a failed attempt counts against the message's policy.

    It does where the channel has worked since the attempt before: then it is about this message.
    What may have been sent counts always, but for probes of an open circuit.
    """
    state = scene.states.get(slot.channel)
    if state is None:
        return outcome.kind is OutcomeKind.UNKNOWN
    if state.circuit.state is not CircuitState.CLOSED:
        return False
    since = slot.tried_at or slot.decided_at
    works = state.succeeded_at is not None and state.succeeded_at >= since
    return works or outcome.kind is OutcomeKind.UNKNOWN


def _not_its_fault(
    conversation: Conversation, slot: Slot, outcome: Outcome, scene: Scene
) -> Transition:
    """Try again later what was not accepted for what others have sent, or for the channel itself."""
    if not conversation.is_open or not slot.wanted:
        return _dropped(conversation, slot, MessageStatus.FAILED, outcome, scene)
    slot = evolve(slot, spared=slot.spared + 1)
    tried = _tried_again(conversation, slot, outcome, scene)
    if outcome.kind is OutcomeKind.RATE_LIMITED:
        return tried
    conversation, again = tried.conversation, slot_of(tried.conversation)
    gate = Gate(until=again.until, why=WaitingFor.CIRCUIT)
    gate = barred(scene.states.get(slot.channel), scene.now) or gate
    return parked(conversation, again, gate, scene.now)


def _unknown(conversation: Conversation, slot: Slot, outcome: Outcome, scene: Scene) -> Transition:
    """Resolve an outcome that nobody knows by the channel's policy."""
    doubtful = evolve(slot, uncertain=True)
    if not conversation.is_open or not slot.wanted:
        return _dropped(conversation, doubtful, MessageStatus.UNKNOWN, outcome, scene)
    match _policy(slot, scene):
        case OnUnknown.ASSUME_SENT:
            record = _sent(slot, scene, reason=OnUnknown.ASSUME_SENT)
            return _accepted(conversation, slot, scene, record)
        case OnUnknown.HOLD:
            until = scene.now + scene.template.escalation.deadline
            held = evolve(doubtful, state=SlotState.UNKNOWN, until=until, token=None)
            record = given_up(
                doubtful, MessageStatus.UNKNOWN, scene.now, OnUnknown.HOLD, outcome.error
            )
            return Transition(
                conversation=evolve(conversation, slot=held, last_error=outcome.error),
                reason=Reason.MESSAGE_HELD,
                effects=(record,),
            )
        case _:
            return _retry(conversation, doubtful, outcome, scene)


def _withheld(conversation: Conversation, slot: Slot, outcome: Outcome, scene: Scene) -> Transition:
    """The last look stopped it: marked, not handed off."""
    wanted = conversation.is_open and slot.wanted
    if not wanted:
        return _dropped(conversation, slot, MessageStatus.CANCELLED, outcome, scene)
    if outcome.kind is OutcomeKind.TOO_LATE:
        return too_late(conversation, slot, scene, outcome.error)
    # Not handed off: the mark was none.
    unmarked = evolve(slot, attempts=slot.attempts - 1)
    if outcome.kind is OutcomeKind.HELD_BACK:
        busy = Gate(until=scene.now + WITHDRAWN_FOR, why=WaitingFor.CHANNEL)
        return parked(conversation, unmarked, outcome.gate or busy, scene.now)
    if outcome.kind is OutcomeKind.WITHDRAWN:
        until = scene.now + (outcome.retry_after or WITHDRAWN_FOR)
        again = evolve(unmarked, state=SlotState.RESERVED, until=until, token=None)
        return Transition(
            conversation=evolve(conversation, slot=again), reason=Reason.MESSAGE_WITHDRAWN
        )
    record = given_up(slot, MessageStatus.CANCELLED, scene.now, outcome.kind, outcome.error)
    exit_reason = _BARRED[outcome.kind]
    conversation = evolve(conversation, slot=None)
    if exit_reason is ExitReason.RUNAWAY_GUARD:
        conversation = _keeping_text(conversation, slot)
    conversation, effects = closed(conversation, exit_reason, now=scene.now, by=DUE)
    reason = Reason(conversation.history[-1].reason)
    return Transition(conversation=conversation, reason=reason, effects=(record, *effects))


def too_late(
    conversation: Conversation, slot: Slot, scene: Scene, error: str | None = None
) -> Transition:
    """Cancel a message whose time to live is over, and go on as if it had been sent."""
    kind = OutcomeKind.TOO_LATE
    record = given_up(slot, MessageStatus.CANCELLED, scene.now, kind, error)
    conversation = evolve(conversation, slot=None)
    return _gone_on(conversation, slot, Reason.MESSAGE_TOO_LATE, scene, record)
