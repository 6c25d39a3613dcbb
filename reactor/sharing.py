"""
Which conversations a worker looks at first: buckets, shared among those that live.

Of those a few listen to a change stream, for the server reads all that is written once more for each
stream. What is inserted is shared among these, and so is what belongs to a whole campaign.

A hint and never a lock. Workers who overlap waste work and do no harm, and whatever its owner leaves
alone for a moment is looked at by another one.
"""

import hashlib
import zlib
from collections import deque
from collections.abc import Callable, Collection
from math import ceil
from time import monotonic

from attrs import define, field

from reactor.store.protocol import Hint, Inbox
from schemas.ids import BUCKETS, CampaignId, ConversationId, bucket

#: Seconds that its owner has for a document before others see whether it is answered.
OVERDUE_SECONDS = 0.5
MIN_LISTENERS = 2
#: Hints of others that are kept; the oldest go first, and are found by a sweep.
MAX_HINTS = 10_000


def ranked(workers: Collection[str], of: int | str) -> list[str]:
    """Order workers by rendezvous hashing: one that leaves moves no bucket but its own."""
    return sorted(workers, key=lambda one: _weight(one, of), reverse=True)


def _weight(worker: str, of: int | str) -> bytes:
    return hashlib.blake2b(f"{worker}/{of}".encode(), digest_size=8).digest()


def listeners(workers: Collection[str]) -> list[str]:
    """Choose those who listen: two, so that one can die, and a quarter of many."""
    return ranked(workers, "listens")[: max(MIN_LISTENERS, ceil(len(workers) / 4))]


@define
class Share:
    """What is this worker's own; alone, or knowing of no others, everything is."""

    monotonic: Callable[[], float] = monotonic
    #: None: all of them.
    buckets: frozenset[int] | None = None
    #: Those of which it is the first to take over what is overdue.
    next_in_line: frozenset[int] = frozenset()
    #: Whether it is one of those who listen, and whose documents and campaigns it then looks at
    #: first. None: everybody's.
    listens: bool = True
    hears: frozenset[int] | None = None
    #: Until when it begins all of a campaign, for it has opened it.
    _opened: dict[CampaignId, float] = field(factory=dict, init=False)
    _others: deque[tuple[float, Inbox, Hint]] = field(
        factory=lambda: deque(maxlen=MAX_HINTS), init=False
    )

    def among(self, me: str, workers: Collection[str], can_listen: Collection[str] = ()) -> None:
        """
        Take one's share among the workers that live.

        `can_listen`: whose change stream is switched on; nobody's: they share as if all listened.
        """
        workers = {me, *workers}
        if len(workers) == 1:
            self.buckets, self.next_in_line = None, frozenset()
            self.listens, self.hears = True, None
            return
        listening = listeners(can_listen or workers)
        self.listens = me in listening
        self.hears = frozenset(each for each in range(BUCKETS) if ranked(listening, each)[0] == me)
        ranks = {each: ranked(workers, each)[:2] for each in range(BUCKETS)}
        self.buckets = frozenset(each for each, (first, _) in ranks.items() if first == me)
        self.next_in_line = frozenset(each for each, (_, second) in ranks.items() if second == me)

    def opened(self, campaign_id: CampaignId) -> None:
        """Begin all of a campaign: until they look at it themselves, the others know nothing of it."""
        now = self.monotonic()
        self._opened = {each: until for each, until in self._opened.items() if until > now}
        self._opened[campaign_id] = now + OVERDUE_SECONDS

    def buckets_of(self, campaign_id: CampaignId) -> frozenset[int] | None:
        """Say which of a campaign's are this worker's own; None: all of them."""
        return None if self._opened.get(campaign_id, 0) > self.monotonic() else self.buckets

    @property
    def rest(self) -> frozenset[int]:
        """The buckets of all others."""
        return frozenset(range(BUCKETS)) - (self.buckets or frozenset(range(BUCKETS)))

    def owns(self, identity: CampaignId | ConversationId) -> bool:
        """Say whether this worker is the first to know what becomes of it."""
        return self.hears is None or _bucket_of(identity) in self.hears

    def is_ours(self, hint: Hint) -> bool:
        """Say whether it is for this worker to look at a document at once."""
        identity = hint.conversation_id or hint.campaign_id
        if identity is not None:
            return self.owns(identity)
        return self.hears is None or zlib.crc32(hint.raw_id.data) % BUCKETS in self.hears

    def leave(self, inbox: Inbox, hint: Hint) -> None:
        """Leave a document to its owner, for a moment."""
        self._others.append((self.monotonic() + OVERDUE_SECONDS, inbox, hint))

    def overdue(self, limit: int) -> list[tuple[Inbox, Hint]]:
        """Give what was left to others long enough ago, at most so much."""
        found: list[tuple[Inbox, Hint]] = []
        while self._others and len(found) < limit and self._others[0][0] <= self.monotonic():
            _, inbox, hint = self._others.popleft()
            found.append((inbox, hint))
        return found


def _bucket_of(identity: CampaignId | ConversationId) -> int:
    """Give the bucket of an id; of what is none of ours, some bucket."""
    try:
        return bucket(ConversationId(identity))
    except (ValueError, IndexError):
        return zlib.crc32(identity.encode(errors="replace")) % BUCKETS
