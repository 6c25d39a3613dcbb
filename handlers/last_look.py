"""The last look (I5): what stops a message that is marked `sending` from being handed off."""

from datetime import datetime, timedelta

from attrs import frozen

from schemas.campaign import Campaign, CampaignStatus
from schemas.conversation import Conversation, Slot
from schemas.hand_off import Outcome, OutcomeKind
from schemas.ids import stable_fraction
from schemas.message import ACCEPTED, LedgerEntry, MessageStatus
from schemas.update import Bounce, CampaignUpdateKind, UpdateKind

#: Unanswered updates of these kinds stop a message, whatever they will lead to. One that turns out
#: to change nothing costs a second; one that is overlooked cannot be taken back.
STOPPING = frozenset(
    {
        UpdateKind.REPLY,
        UpdateKind.OPTED_OUT,
        UpdateKind.CANCEL,
        UpdateKind.GOAL_REACHED,
        UpdateKind.PAUSE,
        UpdateKind.ESCALATE,
    }
)
DAY = timedelta(days=1)
#: Before a message is looked at again that others on their way leave no room for: a second, and
#: longer the longer it has waited already.
AGAIN = timedelta(seconds=1)
AGAIN_SHARE = 1 / 8
AGAIN_MOST = timedelta(minutes=10)
#: Of a campaign that may send: active, or pending its opening, beside which first messages leave.
_SENDING = frozenset({CampaignStatus.ACTIVE, CampaignStatus.PENDING})
CAMPAIGN_STOPPING = frozenset({CampaignUpdateKind.PAUSE, CampaignUpdateKind.CANCEL})


def stops(kind: object, bounce: object = None) -> bool:
    """Say whether an unanswered conversation update stops a message; raw values, maybe malformed."""
    if not isinstance(kind, str):
        return False
    return kind in STOPPING or (kind == UpdateKind.BOUNCED and bounce != Bounce.SOFT)


def stops_campaign(kind: object) -> bool:
    return isinstance(kind, str) and kind in CAMPAIGN_STOPPING


@frozen(kw_only=True)
class Seen:
    """What was read after the mark."""

    now: datetime
    #: None: it is gone.
    campaign: Campaign | None
    #: An unanswered update of the conversation or the campaign stops it.
    stopped: bool
    suppressed: bool
    #: Messages that the address got within a day, in all campaigns; and such as may be on their way.
    sent_today: int = 0
    on_their_way: int = 0
    most_a_day: int = 1_000_000
    #: The ledger's word, asked where an earlier attempt is uncertain.
    entry: LedgerEntry | None = None


def verdict(conversation: Conversation, slot: Slot, seen: Seen) -> Outcome | None:
    """Give the outcome that takes the place of a hand-off; None: it may go."""
    if seen.entry and seen.entry.status in ACCEPTED:
        return Outcome(kind=OutcomeKind.WAS_SENT)
    stopped = (
        seen.stopped
        or seen.campaign is None
        or seen.campaign.status not in _SENDING
        or not conversation.is_open
        or conversation.pause is not None
        or not slot.wanted
        or seen.now >= conversation.deadline_at
    )
    if stopped:
        return Outcome(kind=OutcomeKind.WITHDRAWN)
    if seen.suppressed:
        return Outcome(kind=OutcomeKind.SUPPRESSED)
    if slot.send_before and seen.now > slot.send_before:
        return Outcome(kind=OutcomeKind.TOO_LATE)
    return _guarded(conversation, slot, seen)


def _counted(entry: LedgerEntry | None, now: datetime) -> bool:
    """Say whether an earlier attempt at this very message is among what was sent today."""
    if entry is None or entry.recorded_at is None:
        return False
    return entry.status is MessageStatus.UNKNOWN and entry.recorded_at >= now - DAY


def _guarded(conversation: Conversation, slot: Slot, seen: Seen) -> Outcome | None:
    """I9: no address gets more than so many messages a day, whatever all the templates say."""
    sent = seen.sent_today - _counted(seen.entry, seen.now)
    if sent >= seen.most_a_day:
        return Outcome(kind=OutcomeKind.RUNAWAY_GUARD)
    if sent + seen.on_their_way >= seen.most_a_day:
        # Others that look at the same time may not go either: each looks again at its own time.
        apart = stable_fraction(slot.key(conversation.id))
        again = max(AGAIN, min((seen.now - slot.due_at) * AGAIN_SHARE, AGAIN_MOST))
        return Outcome(kind=OutcomeKind.WITHDRAWN, retry_after=again * (1 + apart))
    return None
