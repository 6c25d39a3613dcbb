"""Conversations, the ledger and the last look in memory."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from reactor.store.base import read_each
from reactor.store.ledgering import GOT, merged, noted_problem, other, read_unanswered, stub
from reactor.store.memory_base import earliest, is_about, is_unanswered, raws_of
from reactor.store.memory_campaigns import MemoryCampaigns, is_in, time_of
from reactor.store.memory_documents import Fields, Stored, TooLargeError
from reactor.store.mongo_conversations import (
    MAX_UPDATES,
    OPEN,
    UNWRITABLE,
    besides,
    found_in,
    of_others,
    overdue_keys,
)
from reactor.store.overview import date_of
from reactor.store.patches import once_each, patch_between
from reactor.store.protocol import (
    Applied,
    Batch,
    BrokenDocument,
    Change,
    Found,
    Inbox,
    Look,
    LookOrder,
    Order,
    RawDocument,
    Scope,
    UnansweredUpdate,
    recipients_of,
)
from schemas.campaign import Campaign
from schemas.conversation import MAX_HISTORY, Conversation, ConversationStatus, SlotState
from schemas.converter import to_document
from schemas.evolving import evolve
from schemas.ids import AgentId, CampaignId, ConversationId, SendKey
from schemas.message import LedgerEntry, Suppression
from schemas.transition import Report


class MemoryConversations(MemoryCampaigns):
    async def find(self, order: Order) -> Found:
        await self._pause()
        return self._found(order)

    async def load(self, order: Order, found: Found | None = None) -> Batch:
        await self._pause()
        if order.known is not None:
            return self._batch(order, order.known)
        found = found or self._found(order)
        conversations, broken = read_each(Conversation, found.raws)
        return evolve(
            self._batch(order, conversations),
            full=found.full,
            queued=found.queued,
            broken=tuple(broken),
        )

    def _found(self, order: Order) -> Found:
        queues = {name: self._queue(order, name) for name in order.queued}
        due = self._in_scope(order)
        if order.besides and (rest := order.limit - len(order.named) - len(due)) > 0:
            due += self._in_scope(besides(order, rest), last_first=True)
        found = [one for queue in queues.values() for one in queue]
        found += [one for one in due if one not in found]
        found += [
            one
            for one in self._of("conversations").among(order.named)
            if one.fields.get("campaign_id") == order.campaign.id
        ]
        return found_in(
            raws_of(found),
            full=len(due) + len(order.named) >= order.limit,
            queued={name: len(queue) for name, queue in queues.items()},
        )

    def _batch(self, order: Order, conversations: Sequence[Conversation]) -> Batch:
        """Find what belongs to conversations."""
        updates = order.known_updates
        if updates is None:
            request = order.campaign.batch_request_id
            updates = earliest(self._updates_of(request, conversations), order.now, MAX_UPDATES)
        return Batch(
            conversations=tuple(conversations),
            updates=updates,
            ledger=self._entries(overdue_keys(conversations, order.now)),
        )

    def _in_scope(self, order: Order, *, last_first: bool = False) -> list[Stored]:
        """Find what has work, most overdue first, or last."""
        limit = order.limit - len(order.named)
        if order.scope is Scope.NAMED or limit <= 0:
            return []
        without = order.exclude | order.named
        found = [
            (time, one)
            for one in self._conversations_of(order.campaign.id)
            if one.fields["_id"] not in without
            and is_in(order.buckets, one.fields)
            and (time := _time_in(order, one.fields))
        ]
        found.sort(key=lambda each: each[0], reverse=last_first)
        return [one for _, one in found][:limit]

    def _queue(self, order: Order, channel: str) -> list[Stored]:
        """Find what is parked at a channel's gate: one's own first, then the others'."""
        asked = order.queued[channel]
        found = self._parked(order, channel)[:asked]
        if len(found) < asked and (others := of_others(order)):
            found += self._parked(others, channel)[::-1][: asked - len(found)]
        return found

    def _parked(self, order: Order, channel: str) -> list[Stored]:
        without = order.exclude | order.named
        found = [
            (slot["due_at"], one)
            for one in self._conversations_of(order.campaign.id)
            if one.fields["_id"] not in without
            and is_in(order.buckets, one.fields)
            and (slot := one.fields.get("slot"))
            and slot["channel"] == channel
            and slot.get("held")
            and one.fields.get("pause") is None
        ]
        found.sort(key=lambda each: each[0])
        return [one for _, one in found]

    def _updates_of(
        self, request: AgentId, conversations: Collection[Conversation]
    ) -> list[Stored]:
        ids = {one.id for one in conversations}
        recipients = recipients_of(request, conversations)
        return self._of(Inbox.CONVERSATION_UPDATES).where(
            lambda fields: is_unanswered(fields) and is_about(fields, ids, recipients)
        )

    def _entries(self, keys: Collection[SendKey]) -> Mapping[SendKey, LedgerEntry]:
        entries, _ = read_each(LedgerEntry, raws_of(self._of("messages").among(keys)))
        return {entry.id: entry for entry in entries}

    async def failed_before(
        self, campaign: CampaignId, before: datetime, *, now: datetime, limit: int
    ) -> tuple[Conversation, ...]:
        await self._pause()
        found = [
            one
            for one in self._conversations_of(campaign)
            if one.fields["status"] == ConversationStatus.FAILED
            and one.fields["status_since"] < before
            and one.fields["deadline_at"] > now
        ]
        found.sort(key=lambda one: one.fields["status_since"])
        return tuple(read_each(Conversation, raws_of(found[:limit]))[0])

    async def conversations(self, ids: Collection[ConversationId]) -> tuple[Conversation, ...]:
        await self._pause()
        return tuple(read_each(Conversation, raws_of(self._of("conversations").among(ids)))[0])

    async def apply(self, changes: Sequence[Change], *, token: str) -> Applied:
        await self._pause()
        won: dict[ConversationId, Conversation] = {}
        refused: dict[ConversationId, str] = {}
        for identity, change in once_each(changes).items():
            stored = self._of("conversations").get(identity)
            version = change.before.version
            if stored is None or stored.fields.get("version") != version:
                continue
            try:
                stored.set(_fields(stored, change) | {"written_by": token, "version": version + 1})
            except (TooLargeError, *UNWRITABLE) as error:
                refused[identity] = type(error).__name__
            else:
                won[identity] = evolve(change.after, version=version + 1)
        return Applied(won=won, refused=refused)

    async def note_failure(self, broken: BrokenDocument, fields: Mapping[str, object]) -> None:
        await self._pause()
        stored = self._of("conversations").by_raw_id(broken.raw.data)
        if stored:
            stored.set(fields)

    async def unchecked_suppressions(self, *, limit: int) -> tuple[RawDocument, ...]:
        await self._pause()
        found = self._of("suppressions").where(lambda fields: fields.get("checked") is None)
        return tuple(RawDocument(one.identity) for one in found[:limit])

    async def check_suppressions(self, checked: Sequence[tuple[RawDocument, str | None]]) -> None:
        await self._pause()
        for raw, problem in checked:
            if stored := self._of("suppressions").by_raw_id(raw.data):
                stored.set(noted_problem(problem))

    async def look(self, order: LookOrder) -> Look:
        await self._pause()
        by_recipient = {one.recipient.id: one.id for one in order.conversations}
        updates = self._updates_of(order.batch_request_id, order.conversations)
        ids = [one.id for one in order.conversations]
        campaign = self._campaign(order.campaign_id)
        present, _ = read_each(Conversation, raws_of(self._of("conversations").among(ids)))
        keys = [
            one.slot.key(one.id) for one in order.conversations if one.slot and one.slot.uncertain
        ]
        return Look(
            now=self._clock(),
            updates=tuple(read_unanswered(raw, by_recipient) for raw in raws_of(updates)),
            campaign_updates=self._orders_of(order),
            suppressed=frozenset(
                one.fields["_id"] for one in self._of("suppressions").among(order.address_keys)
            ),
            campaign=campaign if isinstance(campaign, Campaign) else None,
            conversations={one.id: one for one in present},
            ledger=self._entries(keys),
            channels=self._states(),
            got=self._got(order),
            others=tuple(other(one.fields) for one in self._on_their_way(order)),
        )

    def _got(self, order: LookOrder) -> Mapping[str, int]:
        def counts(fields: Fields) -> bool:
            at = date_of(fields.get("recorded_at"))
            in_time = at is not None and at >= order.since
            return in_time and fields["status"] in GOT and fields["address"] in order.address_keys

        return Counter(one.fields["address"] for one in self._of("messages").where(counts))

    def _on_their_way(self, order: LookOrder) -> list[Stored]:
        return self._of("conversations").where(
            lambda fields: (
                fields.get("campaign_id") != order.campaign_id
                and not order.address_keys.isdisjoint(fields.get("address_keys") or ())
                and _may_be_on_its_way(fields.get("slot") or {})
            )
        )

    def _orders_of(self, order: LookOrder) -> tuple[UnansweredUpdate, ...]:
        found = self._of(Inbox.CAMPAIGN_UPDATES).where(
            lambda fields: (
                is_unanswered(fields)
                and (
                    fields.get("campaign_id") == order.campaign_id
                    or fields.get("batch_request_id") == order.batch_request_id
                )
            )
        )
        return tuple(read_unanswered(raw, {}) for raw in raws_of(found))

    async def suppress(self, suppressions: Sequence[Suppression]) -> None:
        await self._pause()
        for one in suppressions:
            self._of("suppressions").insert(to_document(one))

    async def record(self, entries: Sequence[LedgerEntry]) -> None:
        await self._pause()
        self._merge(entries)

    async def report(
        self, reports: Sequence[Report], about: Mapping[SendKey, Conversation]
    ) -> None:
        await self._pause()
        self._merge([stub(report, about[report.key]) for report in reports])

    def _merge(self, entries: Sequence[LedgerEntry]) -> None:
        for entry in entries:
            stored = self._of("messages").get(entry.id)
            if stored:
                stored.set(merged(stored.fields, entry))
            else:
                self._of("messages").insert(to_document(entry))

    async def ledger(self, keys: Collection[SendKey]) -> Mapping[SendKey, LedgerEntry]:
        await self._pause()
        return self._entries(keys)


def _time_in(order: Order, fields: Fields) -> datetime | None:
    """Give the time by which a conversation has work; None: it has none."""
    time = time_of(fields, order.scope)
    if time is None or time <= order.now:
        return time
    return time if order.scope is Scope.UNSETTLED and fields.get("status") in OPEN else None


def _fields(stored: Stored, change: Change) -> dict[str, Any]:
    patch = patch_between(change.before, change.after)
    fields = dict(patch.fields)
    if patch.history:
        entries = [*(stored.fields.get("history") or ()), *patch.history]
        fields["history"] = entries[-MAX_HISTORY:]
    return fields


def _may_be_on_its_way(slot: Fields) -> bool:
    state, uncertain = slot.get("state"), bool(slot.get("uncertain"))
    return state == SlotState.SENDING or (state == SlotState.RESERVED and uncertain)
