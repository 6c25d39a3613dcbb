"""
Does a conversation, with its part of the ledger, keep the invariants? Documents in, findings out.

Only what the documents alone prove is called wrong, and only if no crash, race or late report can
leave it so. Whoever asks has read the conversation before its entries: an entry may be newer.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from attrs import Factory, frozen

from schemas.campaign import Campaign
from schemas.conversation import SlotState
from schemas.evolving import evolve
from schemas.finding import Finding, Invariant, Remedy, SeenConversation, SeenEntry
from schemas.hand_off import OnUnknown
from schemas.ids import SendKey, read_send_key
from schemas.message import ACCEPTED, MessageStatus

#: What left, or may have left.
_LEFT = ACCEPTED | {MessageStatus.UNKNOWN}


@frozen(kw_only=True)
class Beside:
    """What else is known when a conversation is judged."""

    campaign: Campaign
    now: datetime
    #: How far the clocks of two servers may be apart.
    skew: timedelta
    lease: timedelta
    #: A lease that is over for so long is taken over by nobody.
    long: timedelta
    #: Its place in the request is that of a rejected recipient.
    rejected: bool = False
    #: Addresses that are suppressed by an update, and when that was answered.
    suppressed: Mapping[str, datetime] = Factory(dict)


def judge(
    one: SeenConversation, entries: Sequence[SeenEntry], beside: Beside
) -> tuple[Finding, ...]:
    """Say what does not hold of a conversation and its entries in the ledger."""
    ledger = _Ledger.of(one, entries)
    drafts = (
        *_accounting(one, beside),
        *_keys(one, ledger, beside),
        *_due(one, beside),
        *_lease(one, beside),
        *_order(ledger, beside),
        *_last_look(one, ledger, beside),
        *_outcomes(one, ledger),
    )
    return tuple(
        Finding(
            invariant=draft.invariant,
            campaign_id=beside.campaign.id,
            conversation_id=one.id,
            message_id=draft.key,
            what=draft.what,
            expected=_spelled(draft.expected),
            found=_spelled(draft.found),
            remedy=draft.remedy,
        )
        for draft in drafts
    )


@frozen
class _Draft:
    invariant: Invariant
    what: str
    expected: object
    found: object
    key: SendKey | None = None
    remedy: Remedy = Remedy.PERSON


@frozen(kw_only=True)
class _Ledger:
    by_number: Mapping[int, Sequence[SeenEntry]]
    #: Those whose key is none of this conversation's.
    strange: Sequence[SeenEntry]

    @classmethod
    def of(cls, one: SeenConversation, entries: Sequence[SeenEntry]) -> "_Ledger":
        by_number: dict[int, list[SeenEntry]] = {}
        strange = []
        for entry in entries:
            if known := read_send_key(one.id, entry.id):
                by_number.setdefault(known[1], []).append(entry)
            else:
                strange.append(entry)
        return cls(by_number=by_number, strange=strange)

    @property
    def in_order(self) -> Iterator[SeenEntry]:
        for number in sorted(self.by_number):
            yield from self.by_number[number]


def _spelled(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    return "none" if value is None else str(value)


def _never_left(entry: SeenEntry) -> bool:
    """Say whether it may be of a step that lost its race: another message has this n later."""
    return entry.status is MessageStatus.CANCELLED and not entry.attempts


def _accounting(one: SeenConversation, beside: Beside) -> Iterator[_Draft]:
    i1 = Invariant.ACCOUNTING
    if beside.rejected:
        yield _Draft(i1, "its recipient", "not rejected", "rejected", remedy=Remedy.REJECTION)
    if one.is_open and one.exit_reason:
        yield _Draft(i1, "exit reason of an open conversation", None, one.exit_reason)
    if not one.is_open and not one.exit_reason:
        yield _Draft(i1, "exit reason of a closed conversation", "one", None)
    if beside.campaign.completed_at and one.is_open:
        yield _Draft(i1, "status in a completed campaign", "a final one", one.status)
    if beside.campaign.completed_at and one.slot:
        found = f"{one.slot.stage}/{one.slot.n} {one.slot.state}"
        remedy = Remedy.PERSON if one.is_open else Remedy.DUE_TIME
        yield _Draft(i1, "slot in a completed campaign", None, found, remedy=remedy)


def _keys(one: SeenConversation, ledger: _Ledger, beside: Beside) -> Iterator[_Draft]:
    i2, count, most = Invariant.KEYS, one.message_count, beside.campaign.template.max_messages
    for entry in ledger.strange:
        yield _Draft(i2, "send key", f"{one.id}/<stage>/<n>", entry.id, entry.id)
    for number, entries in ledger.by_number.items():
        real = [entry for entry in entries if not _never_left(entry)]
        if number >= count and real:
            yield _Draft(i2, "n of an entry", f"below {count}", number, real[0].id)
        if len(real) > 1:
            found = ", ".join(entry.id for entry in real)
            yield _Draft(i2, f"entries with n = {number}", "one", found)
    if one.slot and one.slot.n != count - 1:
        yield _Draft(i2, "n in the slot", f"the last, {count - 1}", one.slot.n)
    there = set(ledger.by_number)
    # One that is held was entered before.
    if one.slot and one.slot.state is not SlotState.UNKNOWN:
        there.add(one.slot.n)
    if missing := [number for number in range(min(count, most)) if number not in there]:
        found = f"none for n = {', '.join(map(str, missing))}"
        yield _Draft(i2, "entries in the ledger", f"one for each n below {count}", found)
    if count > most:
        what = "messages of a conversation"
        yield _Draft(Invariant.BOUNDED, what, f"at most {most}", count)


def _due(one: SeenConversation, beside: Beside) -> Iterator[_Draft]:
    i3, due_at, remedy = Invariant.LIVENESS, one.due_at, Remedy.DUE_TIME
    if not one.is_open:
        settled = one.slot.until if one.slot else None
        if due_at != settled:
            what = "due time of a closed conversation"
            yield _Draft(i3, what, settled, due_at, remedy=remedy)
        return
    if one.deadline_at > beside.campaign.deadline_at:
        at_most = f"at most the campaign's, {_spelled(beside.campaign.deadline_at)}"
        yield _Draft(i3, "deadline", at_most, one.deadline_at)
    latest = _latest(one)
    # What could not be processed is tried again when its policy says so, whatever it waits for.
    late = due_at is not None and due_at > latest and not one.failures
    if due_at is None or late:
        what = "due time of an open conversation"
        at_most = f"at most {_spelled(latest)}"
        yield _Draft(i3, what, at_most, due_at, remedy=remedy)


def _latest(one: SeenConversation) -> datetime:
    """Give when an open conversation must have work."""
    times = [one.deadline_at, one.pause.until if one.pause else None]
    if one.slot and (one.slot.state is not SlotState.RESERVED or not one.pause):
        times.append(one.slot.until)
    if not one.slot and not one.pause:
        times.append(one.wait_until)
    return min(time for time in times if time)


def _lease(one: SeenConversation, beside: Beside) -> Iterator[_Draft]:
    slot = one.slot
    if slot is None or slot.state is SlotState.RESERVED or one.failures:
        return
    if slot.until < beside.now - beside.long:
        what = f"end of the {'lease' if slot.state is SlotState.SENDING else 'hold'}"
        yield _Draft(Invariant.LIVENESS, what, "taken over by a worker", slot.until)


def _order(ledger: _Ledger, beside: Beside) -> Iterator[_Draft]:
    # A report may say itself when it was sent: only what a worker has seen counts.
    sent = [one for one in ledger.in_order if one.status is MessageStatus.SENT and one.sent_at]
    for before, after in pairwise(sent):
        if before.sent_at and after.sent_at and after.sent_at < before.sent_at - beside.skew:
            expected = f"after that of {before.id}, {_spelled(before.sent_at)}"
            yield _Draft(Invariant.ORDER, "time of sending", expected, after.sent_at, after.id)


def _last_look(one: SeenConversation, ledger: _Ledger, beside: Beside) -> Iterator[_Draft]:
    """
    A message falls due no later than it is reserved: one that fell due later was reserved later.

    When it was recorded proves nothing: its worker may have been stopped after the hand-off.
    """
    closed_at = None if one.is_open else one.status_since
    for entry in ledger.in_order:
        if entry.status not in _LEFT or entry.due_at is None:
            continue
        answered_at = beside.suppressed.get(entry.address or "")
        for since, moment, span in (
            (closed_at, "the end of the conversation", beside.skew),
            (answered_at, "the suppression of its address", beside.lease + beside.skew),
        ):
            if since and entry.due_at > since + span:
                what, expected = f"a message that fell due after {moment}", _spelled(since)
                draft = _Draft(Invariant.LAST_LOOK, what, f"before {expected}", entry.due_at)
                yield evolve(draft, key=entry.id)


def _outcomes(one: SeenConversation, ledger: _Ledger) -> Iterator[_Draft]:
    i6, slot = Invariant.OUTCOME, one.slot
    in_slot = slot.n if slot else None
    for number, entries in ledger.by_number.items():
        for entry in entries:
            accepted = entry.status in ACCEPTED
            said = entry.reason == OnUnknown.ASSUME_SENT or number == in_slot
            if accepted and not entry.has_body and not said:
                yield _Draft(
                    i6, f"body of a message that was {entry.status}", "one", None, entry.id
                )
            if entry.provider_id and not accepted:
                what = "status of a message that the provider took"
                yield _Draft(i6, what, "sent", entry.status, entry.id)
    held = slot if slot and slot.state is SlotState.UNKNOWN else None
    for ref, what, right in (
        (held, "status of a held message", _LEFT),
        (one.last_message, "status of the last message that was accepted", ACCEPTED),
    ):
        for entry in ledger.by_number.get(ref.n, ()) if ref else ():
            if entry.status not in right and not _never_left(entry):
                expected = " or ".join(sorted(right))
                yield _Draft(i6, what, expected, entry.status, entry.id)
