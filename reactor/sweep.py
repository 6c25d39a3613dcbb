"""The sweep: finds in the documents all that has work. Start-up, poll and repair are the same."""

from collections import Counter

from attrs import define, field

from reactor.engine import Engine
from reactor.retention import find_removable
from reactor.sharing import OVERDUE_SECONDS
from reactor.store.protocol import Hint, Inbox
from reactor.store.raw import glance
from schemas.address import key_problem
from schemas.campaign import CampaignStatus

#: Unanswered documents that one sweep takes from an inbox.
LIMIT = 1_000


@define
class Sweep:
    """Sweeps, and counts what it finds that the change stream should have announced."""

    engine: Engine
    #: Raw ids that the last sweep found before the stream had told about them.
    _unannounced: set[bytes] = field(factory=set, init=False)
    _announced: dict[bytes, None] = field(factory=dict, init=False)

    def announced(self, hint: Hint) -> None:
        """The stream told about a document."""
        self._announced[hint.raw_id.data] = None
        if len(self._announced) > 10 * LIMIT:
            del self._announced[next(iter(self._announced))]

    async def run(self) -> None:
        """Sweep once. An inbox with more than LIMIT documents asks for another sweep."""
        engine, turns = self.engine, self.engine.turns
        turns.swept()
        now = await engine.store.now()
        engine.clock.note(now)
        found: list[Hint] = []
        for inbox in Inbox:
            hints = await engine.store.unanswered(inbox, now=now, limit=LIMIT)
            if len(hints) >= LIMIT:
                turns.want_sweep()
            for hint in hints:
                announce(engine, inbox, hint)
            found.extend(hints)
        self._judge(found)
        await self._check_suppressions()
        await find_removable(engine, now)
        unfinished = await engine.store.unfinished()
        for due in unfinished:
            times = [time for time in (due.due_at, due.conversations_due_at) if time]
            if times:
                turns.due(due.campaign_id, min(times))
            if due.completed_at:
                continue
            if due.queued:
                for watch in engine.watches.values():
                    watch.queued.setdefault(due.campaign_id)
                turns.ready(due.campaign_id)
            if due.conversations_due_at is None and due.status is not CampaignStatus.SCHEDULED:
                # None may be open: whoever closed the last one died before it was completed.
                turns.ready(due.campaign_id)
        active = Counter(due.type for due in unfinished if due.status is CampaignStatus.ACTIVE)
        engine.telemetry.set_active(active)

    async def _check_suppressions(self) -> None:
        """What somebody added, and can suppress nothing, says so."""
        store = self.engine.store
        raws = await store.unchecked_suppressions(limit=LIMIT)
        if len(raws) >= LIMIT:
            self.engine.turns.want_sweep()
        checked = [(raw, key_problem(glance(raw.data).get("_id"))) for raw in raws]
        if checked:
            await store.check_suppressions(checked)

    def _judge(self, found: list[Hint]) -> None:
        """
        Count what an earlier sweep found and the stream has still not announced.

        A document that was inserted a moment ago is in the sweep before it is in the stream.
        """
        if not self.engine.share.listens:
            # Nothing is announced to it, and what it finds is no fault of a stream's.
            self._unannounced.clear()
            return
        missed = self._unannounced - self._announced.keys()
        if missed:
            self.engine.telemetry.rescued(len(missed))
        self._unannounced = {hint.raw_id.data for hint in found} - self._announced.keys()


def announce(engine: Engine, inbox: Inbox, hint: Hint) -> None:
    """Have a document looked at, whoever found it; by its owner first."""
    if engine.share.is_ours(hint):
        look_at(engine, inbox, hint)
        return
    engine.share.leave(inbox, hint)
    now = engine.clock.now()
    if hint.campaign_id and now:
        # What its owner makes of it may be work for all.
        engine.turns.due(hint.campaign_id, now + engine.scale.campaign_span(OVERDUE_SECONDS))


def look_at(engine: Engine, inbox: Inbox, hint: Hint) -> None:
    """Have a document looked at by this worker."""
    if inbox is Inbox.BATCH_REQUESTS:
        engine.turns.request(hint.raw_id)
    elif hint.campaign_id is not None:
        engine.turns.order(hint.campaign_id, [hint.raw_id])
    else:
        engine.turns.update(hint)
