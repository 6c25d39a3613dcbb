"""
Which campaign is worked on next: in fair turns, bounded, and known by ids only.

Nothing here is the truth: whatever is forgotten, a sweep finds again in the documents. Plain data
without I/O; the dispatcher asks it, the listener, the timer and the sweep tell it.
"""

import heapq
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime

import anyio
from attrs import define, field, frozen

from reactor.store.protocol import Addressees, Hint, RawDocument
from schemas.conversation import Conversation
from schemas.ids import AgentId, CampaignId, ConversationId

#: Hints that are kept; beyond, they are dropped and a sweep is asked for.
MAX_HINTS = 10_000
#: Conversations of which it is remembered whose they are: an answer often follows a message soon.
MAX_KNOWN = 20_000


@frozen(kw_only=True)
class Turn:
    """One turn of one campaign."""

    campaign_id: CampaignId
    #: Conversations that were asked for by id.
    named: frozenset[ConversationId] = frozenset()
    #: Campaign updates wait; `orders` has the raw ids of those that were announced.
    ordered: bool = False
    orders: tuple[RawDocument, ...] = ()
    #: Nothing else is known to wait: neither is anything due, nor has something else come to an end.
    only_named: bool = False
    #: Then: who the named ones are, if that is remembered of all.
    addressees: Addressees | None = None


@define
class _Waiting:
    """What is known to wait for a campaign's next turn."""

    #: In the order in which they came.
    named: dict[ConversationId, None] = field(factory=dict)
    ordered: bool = False
    orders: dict[bytes, RawDocument] = field(factory=dict)
    #: There is work besides.
    due: bool = False


@define(kw_only=True)
class Turns:
    #: MAX_CONCURRENT_CAMPAIGNS and MAX_CONVERSATIONS_PER_BATCH.
    max_campaigns: int
    batch_size: int
    #: Called when there may be something new to do.
    wake: Callable[[], None]
    #: Set when the inboxes must be swept again: hints were dropped, say.
    sweep_wanted: anyio.Event = field(factory=anyio.Event)
    #: Conversations that batches of this worker hold.
    in_flight: set[ConversationId] = field(factory=set)
    _waiting: dict[CampaignId, _Waiting] = field(factory=dict)
    _queue: deque[CampaignId] = field(factory=deque)
    _running: Counter[CampaignId] = field(factory=Counter)
    _timers: list[tuple[datetime, CampaignId]] = field(factory=list)
    _due: dict[CampaignId, datetime] = field(factory=dict)
    _later: list[tuple[datetime, CampaignId, ConversationId]] = field(factory=list)
    _requests: dict[bytes, RawDocument] = field(factory=dict)
    _updates: dict[bytes, Hint] = field(factory=dict)
    _held: int = 0
    _loading: dict[CampaignId, anyio.Lock] = field(factory=dict)
    _whose: dict[ConversationId, tuple[CampaignId, AgentId, str]] = field(factory=dict)

    # -- told ------------------------------------------------------------------------------------
    def request(self, raw_id: RawDocument) -> None:
        """A batch request waits."""
        if raw_id.data not in self._requests and self._room():
            self._requests[raw_id.data] = raw_id
            self.wake()

    def update(self, hint: Hint) -> None:
        """An update waits, of a conversation whose campaign may have to be looked up, or of none."""
        whose = self._whose.get(hint.conversation_id) if hint.conversation_id else None
        if hint.conversation_id and whose:
            self.name(whose[0], [hint.conversation_id])
        elif hint.raw_id.data not in self._updates and self._room():
            self._updates[hint.raw_id.data] = hint
            self.wake()

    def belongs(self, one: Conversation) -> None:
        """Remember whose a conversation is: that never changes."""
        if one.id not in self._whose:
            if len(self._whose) >= MAX_KNOWN:
                del self._whose[next(iter(self._whose))]
            self._whose[one.id] = one.campaign_id, one.batch_request_id, one.recipient.id

    def gone(self, conversations: Iterable[ConversationId]) -> None:
        """They are no more: whoever writes about them hears of that when they are looked up."""
        for conversation in conversations:
            if self._whose.pop(conversation, None):
                self.want_sweep()

    def order(self, campaign_id: CampaignId, raw_ids: Iterable[RawDocument] = ()) -> None:
        """Campaign updates wait."""
        waiting = self._queued(campaign_id)
        waiting.ordered = True
        for raw_id in raw_ids:
            if raw_id.data not in waiting.orders and self._room():
                waiting.orders[raw_id.data] = raw_id

    def name(self, campaign_id: CampaignId, conversations: Iterable[ConversationId]) -> None:
        """Conversations of a campaign have something to be decided."""
        waiting = self._queued(campaign_id)
        for conversation in conversations:
            if conversation not in waiting.named and self._room():
                waiting.named[conversation] = None

    def name_later(
        self, campaign_id: CampaignId, conversations: Iterable[ConversationId], at: datetime
    ) -> None:
        """They are to be looked at again, at a campaign time."""
        for conversation in conversations:
            if self._room():
                heapq.heappush(self._later, (at, campaign_id, conversation))

    def ready(self, campaign_id: CampaignId) -> None:
        """A campaign has work now."""
        self._queued(campaign_id).due = True

    def due(self, campaign_id: CampaignId, due_at: datetime) -> None:
        """
        A campaign has work at this time; what is known to come earlier stays.

        Two turns of a campaign may overlap, and the later word is not the newer one. A timer that
        rings in vain costs a look, one that was lost costs a conversation its time.
        """
        known = self._due.get(campaign_id)
        if known is None or due_at < known:
            self._due[campaign_id] = due_at
            heapq.heappush(self._timers, (due_at, campaign_id))
            self.wake()

    def want_sweep(self) -> None:
        self.sweep_wanted.set()

    def swept(self) -> None:
        """A sweep begins: whoever wants one from now on wants another."""
        self.sweep_wanted = anyio.Event()

    # -- asked -----------------------------------------------------------------------------------
    def next_due(self) -> datetime | None:
        """Give the earliest time that something is to be done at."""
        while self._timers and self._due.get(self._timers[0][1]) != self._timers[0][0]:
            heapq.heappop(self._timers)
        return min((heap[0][0] for heap in (self._timers, self._later) if heap), default=None)

    def ring(self, now: datetime) -> None:
        """Make ready whatever has fallen due."""
        while (due_at := self.next_due()) is not None and due_at <= now:
            if self._later and self._later[0][0] == due_at:
                _, campaign_id, conversation = heapq.heappop(self._later)
                self._held -= 1
                self.name(campaign_id, [conversation])
            else:
                _, campaign_id = heapq.heappop(self._timers)
                del self._due[campaign_id]
                self.ready(campaign_id)

    def take_request(self) -> RawDocument | None:
        """Give the batch request that has waited longest."""
        if not self._requests:
            return None
        self._held -= 1
        return self._requests.pop(next(iter(self._requests)))

    def take_updates(self) -> tuple[Hint, ...]:
        """Give the updates to be looked up next, at most ten batches of them."""
        keys = list(self._updates)[: 10 * self.batch_size]
        self._held -= len(keys)
        return tuple(self._updates.pop(key) for key in keys)

    def take(self) -> Turn | None:
        """Give the campaign that has waited longest a turn, unless enough are worked on."""
        for _ in range(len(self._queue)):
            campaign_id = self._queue.popleft()
            if not self._running[campaign_id] and len(+self._running) >= self.max_campaigns:
                self._queue.append(campaign_id)
                continue
            self._running[campaign_id] += 1
            return self._turn(campaign_id)
        return None

    def join(self, campaign_id: CampaignId) -> Turn:
        """Give a campaign a turn out of its order, which is counted like any other."""
        self._running[campaign_id] += 1
        return Turn(campaign_id=campaign_id)

    def done(self, turn: Turn) -> None:
        self._release(turn.campaign_id)

    @contextmanager
    def aside(self, campaign_id: CampaignId) -> Iterator[None]:
        """Give its place to another campaign while its batch is at a channel."""
        self._release(campaign_id)
        try:
            yield
        finally:
            self._running[campaign_id] += 1

    @asynccontextmanager
    async def loading(self, campaign_id: CampaignId) -> AsyncIterator[None]:
        """One at a time: what a turn loads, the campaign's next one leaves out as in flight."""
        lock = self._loading.setdefault(campaign_id, anyio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not (lock.locked() or lock.statistics().tasks_waiting):
                self._loading.pop(campaign_id, None)

    def _release(self, campaign_id: CampaignId) -> None:
        self._running[campaign_id] -= 1
        self._running += Counter()
        self.wake()

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is worked on, whatever falls due later."""
        return not (self._queue or self._requests or self._updates or self._running)

    def _turn(self, campaign_id: CampaignId) -> Turn:
        waiting = self._waiting.pop(campaign_id)
        named = list(waiting.named)
        orders = tuple(waiting.orders.values())
        self._held -= len(named) + len(orders)
        if rest := named[self.batch_size :]:
            self.name(campaign_id, rest)
        named = named[: self.batch_size]
        only_named = not (waiting.ordered or waiting.due)
        return Turn(
            campaign_id=campaign_id,
            named=frozenset(named),
            ordered=waiting.ordered,
            orders=orders,
            only_named=only_named,
            addressees=self._addressees(named) if only_named else None,
        )

    def _addressees(self, named: Sequence[ConversationId]) -> Addressees | None:
        known = [whose for one in named if (whose := self._whose.get(one))]
        if not known or len(known) < len(named):
            return None
        recipients = frozenset(recipient for _, _, recipient in known)
        return Addressees(batch_request_id=known[0][1], recipient_ids=recipients)

    def _queued(self, campaign_id: CampaignId) -> _Waiting:
        waiting = self._waiting.get(campaign_id)
        if waiting is None:
            waiting = self._waiting[campaign_id] = _Waiting()
            self._queue.append(campaign_id)
            self.wake()
        return waiting

    def _room(self) -> bool:
        if self._held < MAX_HINTS:
            self._held += 1
            return True
        self.want_sweep()
        return False
