"""
What the walk needs of a database: every read and write, each a fixed number of commands.

Two stores keep this contract and one conformance suite holds both to it: `mongo` is the real one,
`memory` serves the property tests and simulation. Times are campaign time (see reactor.clock).
Documents that other programs write come back undecoded, one by one, so that one bad document stops
no other. Writes are majority-acknowledged, or followed in the same walk by one that is and that
carries them. A database that does not answer raises
`StoreUnavailableError`; whatever was written before that may or may not be there.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum, StrEnum
from functools import cached_property
from typing import Any, Protocol

from attrs import Factory, frozen

from schemas.campaign import Campaign, CampaignStatus, Counts, MessageCounts
from schemas.channel import Alert, ChannelState
from schemas.conversation import Conversation
from schemas.documents import decode
from schemas.hand_off import ChannelSpec
from schemas.ids import AgentId, CampaignId, ConversationId, SendKey
from schemas.message import LedgerEntry, Suppression
from schemas.transition import Report


class StoreUnavailableError(Exception):
    """The database did not answer in time, or not as a primary. Nothing is known of the write."""


class StoreRefusedError(Exception):
    """The database refused a command for what it is: no right to it, a document too large."""


class Inbox(StrEnum):
    """Collections that the agent inserts into and the worker answers."""

    BATCH_REQUESTS = "batch_requests"
    CONVERSATION_UPDATES = "conversation_updates"
    CAMPAIGN_UPDATES = "campaign_updates"


class Scope(Enum):
    """Which conversations of a campaign have work, besides those that were asked for by id."""

    #: `due_at` is past.
    DUE = "due"
    #: Only those whose slot is `sending` and whose lease is over (a paused campaign).
    LEASES = "leases"
    #: Every open one, due or not, and what else is due (a campaign that was ended).
    UNSETTLED = "unsettled"
    #: None: only those asked for.
    NAMED = "named"


@frozen
class RawDocument:
    """A document as it stands in the database, undecoded."""

    data: bytes

    @cached_property
    def document(self) -> Mapping[str, Any]:
        """Decode it, once. InvalidDocumentError: it is no valid BSON."""
        return decode(self.data)


@frozen(kw_only=True)
class Order:
    """Which conversations to load for one batch."""

    campaign: Campaign
    scope: Scope
    now: datetime
    #: Those with an unanswered update.
    named: frozenset[ConversationId] = frozenset()
    #: Those this worker has in flight: left out, unless they are named.
    exclude: frozenset[ConversationId] = frozenset()
    #: How many that are parked at a channel's gate may leave now, by channel; beside `limit`.
    queued: Mapping[str, int] = Factory(dict)
    #: Only those in these; None: in any. Named ones are loaded whatever theirs is.
    buckets: frozenset[int] | None = None
    #: If there is room left: those in these besides, if they have been due since then. Their owner
    #: begins with the most overdue, so these come from the other end.
    besides: frozenset[int] = frozenset()
    besides_since: datetime | None = None
    #: These and no others, which were read or made a moment ago: what belongs to them is read.
    known: tuple[Conversation, ...] | None = None
    #: And the unanswered updates of those, where they were read with them.
    known_updates: tuple[RawDocument, ...] | None = None
    limit: int


@frozen(kw_only=True)
class BrokenDocument:
    """One of our own documents that cannot be read; `id` as far as it could be."""

    id: object
    raw: RawDocument
    problem: str
    #: A newer worker wrote it: it is none of ours, and nothing is to be done about it.
    newer: bool = False


@frozen(kw_only=True)
class Found:
    """What was found for a turn, and is still to be read."""

    raws: Sequence[RawDocument]
    ids: frozenset[ConversationId]
    #: As in a batch.
    full: bool
    queued: Mapping[str, int]


@frozen(kw_only=True)
class Batch:
    """What one turn of one campaign works on."""

    conversations: tuple[Conversation, ...]
    #: As many had work as there was room for: there may be more.
    full: bool = False
    #: How many were found at each gate that was asked for.
    queued: Mapping[str, int] = Factory(dict)
    broken: tuple[BrokenDocument, ...] = ()
    #: Unanswered updates that are not waiting for a retry, of these conversations only.
    updates: tuple[RawDocument, ...] = ()
    #: Entries for the keys of slots whose lease or hold is over.
    ledger: Mapping[SendKey, LedgerEntry] = Factory(dict)


@frozen(kw_only=True)
class Change:
    """A conversation as it was read and as it is to become; `after.version` is set by the store."""

    before: Conversation
    after: Conversation


@frozen(kw_only=True)
class Applied:
    """What became of a batch of changes."""

    #: Written by us, as they now stand. The others lost the race: load again, decide again.
    won: Mapping[ConversationId, Conversation]
    #: Refused by the database for what they are (too large, say), each alone, with the error.
    refused: Mapping[ConversationId, str] = Factory(dict)


@frozen(kw_only=True)
class RejectedRecipient:
    batch_request_id: AgentId
    #: Index in `recipients`; None for `batch_recipients`.
    index: int | None
    #: Where it stood, whatever it was: makes the entry's `_id` with the request's.
    position: object
    recipient_id: object
    problem: str


@frozen(kw_only=True)
class RecipientPage:
    """Consecutive recipients of a request; a document is None where it cannot be decoded."""

    #: (position, document, problem): position is the index or the `_id`, both opaque.
    recipients: tuple[tuple[object, object, str | None], ...]
    #: None when there is no more: else the value of `after` for the next page.
    next_after: object = None


class Conflict(Enum):
    """Why a conversation was not inserted."""

    #: It is there already, from the same place in the request: opening was interrupted.
    SAME = "same"
    #: The request has this recipient id twice.
    RECIPIENT_ID = "recipient_id"
    #: Another recipient has one of its addresses.
    ADDRESS = "address"


@frozen(kw_only=True)
class Due:
    """A campaign that has work, or may have, and when."""

    campaign_id: CampaignId
    type: str
    status: CampaignStatus
    #: The campaign's own due time.
    due_at: datetime | None
    deadline_at: datetime
    #: Over, and only counted once more.
    completed_at: datetime | None
    #: Its conversations have all been opened.
    opened: bool
    #: Earliest `due_at` of its conversations (in a paused campaign: of slots that are `sending`).
    conversations_due_at: datetime | None
    #: Some are parked at a channel's gate.
    queued: bool = False


@frozen(kw_only=True)
class Addressees:
    """Recipients of one request: updates name a conversation so, too."""

    batch_request_id: AgentId
    recipient_ids: frozenset[str]


def recipients_of(request: AgentId, conversations: Iterable[Conversation]) -> Addressees:
    ids = frozenset(one.recipient.id for one in conversations)
    return Addressees(batch_request_id=request, recipient_ids=ids)


@frozen(kw_only=True)
class LookOrder:
    """What the last look must read again for a batch that was just marked `sending`."""

    campaign_id: CampaignId
    batch_request_id: AgentId
    conversations: Sequence[Conversation]
    #: All addresses that are about to be written to.
    address_keys: frozenset[str]
    #: Messages to them that were recorded since then are counted.
    since: datetime


@frozen(kw_only=True)
class UnansweredUpdate:
    """As much of an unanswered update as the last look needs."""

    id: object
    kind: object
    #: None for a campaign update.
    conversation_id: ConversationId | None = None
    #: `bounce` of a `bounced`.
    bounce: object = None


@frozen(kw_only=True)
class OnItsWay:
    """A message that is marked `sending`: through which channel, to somebody with these addresses."""

    channel: str
    address: Mapping[str, str]


@frozen(kw_only=True)
class Look:
    """Read after the mark, inboxes first: what was acknowledged before the mark is in here."""

    now: datetime
    updates: tuple[UnansweredUpdate, ...]
    campaign_updates: tuple[UnansweredUpdate, ...]
    suppressed: frozenset[str]
    campaign: Campaign | None
    conversations: Mapping[ConversationId, Conversation]
    #: Of the keys of slots with an earlier uncertain attempt.
    ledger: Mapping[SendKey, LedgerEntry] = Factory(dict)
    channels: Mapping[str, ChannelState] = Factory(dict)
    #: By address: messages that it got, or may have got, since `LookOrder.since`.
    got: Mapping[str, int] = Factory(dict)
    #: Messages of other campaigns that are on their way to a recipient with one of the addresses.
    others: tuple[OnItsWay, ...] = ()


@frozen(kw_only=True)
class Sight:
    """What a campaign's turn begins with, read in one command."""

    #: The server's time, as campaign time.
    now: datetime
    campaign: Campaign | BrokenDocument | None
    channels: Mapping[str, ChannelState]
    #: Of the conversations that were asked for, those that are its own.
    conversations: tuple[Conversation, ...] = ()
    broken: tuple[BrokenDocument, ...] = ()
    #: Their unanswered updates that are not waiting for a retry. None: not read, or not all.
    updates: tuple[RawDocument, ...] | None = None


@frozen(kw_only=True)
class Tokens:
    """What a channel's bucket gave."""

    granted: int
    #: Real seconds until those that were granted expire, with their second.
    lasts_seconds: float
    #: As it then stands, with the time at which it did.
    state: ChannelState
    now: datetime


@frozen(kw_only=True)
class Member:
    """What a worker tells the others with its sign of life."""

    #: Its change stream is switched on.
    can_listen: bool = True
    #: How many requests and orders it has heard of: where that moves, there may be work for all.
    heard: int = 0


@frozen(kw_only=True)
class Hint:
    """An unanswered document: whom it is about."""

    raw_id: RawDocument
    #: Set for conversation updates that say whom they are about.
    conversation_id: ConversationId | None = None
    #: Set for campaign updates that say so, and for requests: the campaign that will follow.
    campaign_id: CampaignId | None = None


class Store(Protocol):
    """The ledger of everything. Every method is a fixed number of commands, whatever the batch."""

    async def now(self) -> datetime:
        """Give the server's time as campaign time, whole milliseconds."""

    # -- workers ---------------------------------------------------------------------------------
    async def beat(self, worker: str, member: Member, *, gone_seconds: float) -> dict[str, Member]:
        """Note that a worker lives, by the server's clock; give those that did so not longer ago."""

    async def leave(self, worker: str) -> None:
        """Note that a worker is no more."""

    # -- inboxes ---------------------------------------------------------------------------------
    async def unanswered(self, inbox: Inbox, *, now: datetime, limit: int) -> tuple[Hint, ...]:
        """Find documents without `status` whose `due_at` is absent or past; ids only."""

    async def read(self, inbox: Inbox, raw_ids: Sequence[RawDocument]) -> tuple[RawDocument, ...]:
        """Read whole documents; those that are gone or answered are left out."""

    async def waiting(
        self, inbox: Inbox, raw_ids: Sequence[RawDocument]
    ) -> tuple[RawDocument, ...]:
        """Say which of these have no answer yet; ids only."""

    async def answer(
        self,
        inbox: Inbox,
        answers: Sequence[tuple[RawDocument, Mapping[str, object]]],
        *,
        carried: bool = False,
    ) -> None:
        """
        Set fields on documents that have no `status` yet, by their raw `_id`; one command.

        `carried`: not waited for on a majority, because a later write is.
        """

    async def campaign_updates(
        self, campaign: Campaign, *, now: datetime
    ) -> tuple[RawDocument, ...]:
        """Read a campaign's unanswered updates, at most 1,000."""

    async def campaigns_of(
        self, conversations: Collection[ConversationId]
    ) -> Mapping[ConversationId, CampaignId]:
        """Say to which campaign each belongs; those that do not exist are absent."""

    # -- requests and opening --------------------------------------------------------------------
    async def template(self, name: str, version: int | None) -> RawDocument | None:
        """Read a campaign template; without a version the highest."""

    async def count_batch_recipients(self, request: AgentId) -> int: ...

    async def recipients(
        self, request: AgentId, source: str, *, after: object, limit: int
    ) -> RecipientPage | None:
        """
        Read recipients after a position (None: from the start). None: the request is gone.

        `batch_recipients` go by `_id` in BSON order across types.
        """

    async def suppressed(self, address_keys: Collection[str]) -> frozenset[str]: ...

    async def insert_campaign(self, campaign: Campaign) -> bool:
        """Insert it; False if it is there already."""

    async def insert_conversations(
        self, conversations: Sequence[Conversation], *, carried: bool = False
    ) -> Mapping[int, Conflict]:
        """
        Insert those that are new; an entry by index for each that was not.

        `carried`: a later write carries them to the majority.
        """

    async def reject_recipients(self, rejected: Sequence[RejectedRecipient]) -> None:
        """Enter each in `rejected_recipients`, once."""

    async def rejected_recipients(
        self, request: AgentId, *, limit: int
    ) -> tuple[int, tuple[Mapping[str, object], ...]]:
        """Count them, and give the first by index as `{index, id, problem}` (no index: absent)."""

    # -- campaigns -------------------------------------------------------------------------------
    async def campaign(
        self, campaign: CampaignId
    ) -> tuple[datetime, Campaign | BrokenDocument | None]:
        """Read the server's time and the campaign in one command."""

    async def sight(
        self,
        campaign: CampaignId,
        named: Collection[ConversationId] = (),
        addressees: Addressees | None = None,
    ) -> Sight:
        """
        Read the server's time, a campaign, all channels and conversations in one command.

        `addressees`: who the named ones are; then their updates are read as well.
        """

    async def write_campaign(
        self, before: Campaign, after: Campaign, *, carried: bool = False
    ) -> Campaign | None:
        """
        Write what differs, guarded by `before.version`; the campaign as it now stands, or None.

        `carried`: not waited for on a majority, because a later write is.
        """

    async def unfinished(self) -> tuple[Due, ...]:
        """List all campaigns that are not over, or not counted, with their due times; one command."""

    async def next_due(
        self, campaign: CampaignId, scope: Scope, buckets: frozenset[int] | None = None
    ) -> datetime | None:
        """
        Give the earliest `due_at` of its conversations in the buckets (None: in all of them).

        DUE, None: no conversation is unsettled.

        LEASES: of slots that are `sending` only. UNSETTLED: as DUE. NAMED: None.
        """

    async def removable(self, before: datetime, *, limit: int) -> tuple[CampaignId, ...]:
        """
        Find campaigns over by then, of which not all has left; those that ended first come first.

        Those of a newer version are not ours.
        """

    async def remove(self, campaign: Campaign, *, limit: int) -> int:
        """
        Remove what belongs to a campaign for good: at most so many documents; how many.

        Conversations (each with its updates), messages, answered updates, rejected recipients,
        recipients. 0: nothing was left but what its request says of recipients, and nothing is now.
        """

    async def shift_waits(self, campaign: Campaign) -> None:
        """
        After a pause: move on the waits (not escalations, not closed) that do not count it in yet.

        One grouped write guarded by `pause_seen`: adds `paused_total - pause_seen` to `wait_until`
        and to the `until` of a reserved slot, derives `due_at` from them (the slot's `until` where
        there is a slot, else `wait_until`; never after `deadline_at`) and raises the version. Those
        that are paused by themselves, escalated, closed or not begun stay as they are. It is for those who
        read `due_at`; decisions catch up by themselves.
        """

    async def count(self, campaign: CampaignId) -> tuple[Counts, MessageCounts]:
        """Recount; `recipients` and `rejected` stay 0, the caller knows them."""

    # -- conversations ---------------------------------------------------------------------------
    async def find(self, order: Order) -> Found:
        """Find named conversations and those in scope, most overdue first."""

    async def load(self, order: Order, found: Found | None = None) -> Batch:
        """Load what was found, or is to be found first, and the updates that belong to it."""

    async def failed_before(
        self, campaign: CampaignId, before: datetime, *, now: datetime, limit: int
    ) -> tuple[Conversation, ...]:
        """Load `failed` conversations whose `status_since` is earlier and whose deadline is not over."""

    async def conversations(self, ids: Collection[ConversationId]) -> tuple[Conversation, ...]: ...

    async def apply(self, changes: Sequence[Change], *, token: str) -> Applied:
        """
        Write each change, guarded by the version it was read at; all of its effects or none.

        Identical patches go as one grouped write under `token`; what was won is what is read back
        under it. A change that the database refuses stands alone in `refused`.
        """

    async def note_failure(self, broken: BrokenDocument, fields: Mapping[str, object]) -> None:
        """Set fields on a conversation that cannot be read, by its raw `_id`."""

    # -- ledger ----------------------------------------------------------------------------------
    async def look(self, order: LookOrder) -> Look:
        """Take the last look: inboxes, suppressions, campaign, conversations, in this order."""

    async def suppress(self, suppressions: Sequence[Suppression]) -> None:
        """Add addresses; one that is there keeps its first reason."""

    async def unchecked_suppressions(self, *, limit: int) -> tuple[RawDocument, ...]:
        """Find suppressions that nobody has looked at; ids only."""

    async def check_suppressions(self, checked: Sequence[tuple[RawDocument, str | None]]) -> None:
        """Note on each that it was looked at, and what is wrong with its `_id`; one command."""

    async def record(self, entries: Sequence[LedgerEntry]) -> None:
        """Enter outcomes, merged by rank with what is there; a stub is filled in."""

    async def report(
        self, reports: Sequence[Report], about: Mapping[SendKey, Conversation]
    ) -> None:
        """Merge delivery reports by rank; a stub where the entry has not come."""

    # -- channels --------------------------------------------------------------------------------
    async def channels(self) -> tuple[datetime, Mapping[str, ChannelState]]:
        """Read the server's time and what is known of every channel."""

    async def write_channel(self, before: ChannelState, after: ChannelState) -> bool:
        """Write circuit, success and silence, guarded by the version; a bucket is left as it is."""

    async def take_tokens(self, spec: ChannelSpec, wanted: int) -> Tokens:
        """Take as many as there are of `wanted` from a bucket that holds `burst` and fills by `rate`."""

    async def return_tokens(self, spec: ChannelSpec, unused: int) -> None:
        """Put back what was taken and will not be used."""

    async def raise_alert(self, alert: Alert) -> bool:
        """Enter it, or note that it is over; False: it was there already."""

    async def ledger(self, keys: Collection[SendKey]) -> Mapping[SendKey, LedgerEntry]: ...
