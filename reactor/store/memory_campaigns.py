"""Campaigns in memory."""

from collections import Counter
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

from reactor.store.base import broken, read_each
from reactor.store.hints import FEW, few
from reactor.store.memory_base import is_about, is_unanswered, raws_of
from reactor.store.memory_channels import MemoryChannels
from reactor.store.memory_documents import Fields, Stored
from reactor.store.overview import counts_of, date_of, due_of, message_counts_of
from reactor.store.patches import patch_between
from reactor.store.protocol import (
    Addressees,
    BrokenDocument,
    Due,
    Inbox,
    RawDocument,
    Scope,
    Sight,
)
from schemas.campaign import Campaign, CampaignStatus, Counts, MessageCounts
from schemas.conversation import Conversation, ConversationStatus, SlotState
from schemas.converter import InvalidDocumentError, NewerSchemaError
from schemas.evolving import evolve
from schemas.ids import CampaignId, ConversationId
from schemas.problems import SCHEMA_VERSION

_STANDING_STILL = {
    ConversationStatus.PENDING,
    ConversationStatus.AWAITING_REPLY,
    ConversationStatus.AWAITING_AGENT,
}


class MemoryCampaigns(MemoryChannels):
    async def now(self) -> datetime:
        await self._pause()
        return self._clock()

    async def campaign(
        self, campaign: CampaignId
    ) -> tuple[datetime, Campaign | BrokenDocument | None]:
        await self._pause()
        return self._clock(), self._campaign(campaign)

    async def sight(
        self,
        campaign: CampaignId,
        named: Collection[ConversationId] = (),
        addressees: Addressees | None = None,
    ) -> Sight:
        await self._pause()
        now = self._clock()
        found = [
            one
            for one in self._of("conversations").among(named)
            if one.fields.get("campaign_id") == campaign
        ]
        conversations, broke = read_each(Conversation, raws_of(found))
        return Sight(
            now=now,
            campaign=self._campaign(campaign),
            channels=self._states(),
            conversations=tuple(conversations),
            broken=tuple(broke),
            updates=self._few(named, addressees, now) if addressees else None,
        )

    def _few(
        self, named: Collection[ConversationId], addressees: Addressees, now: datetime
    ) -> tuple[RawDocument, ...] | None:
        found = self._of(Inbox.CONVERSATION_UPDATES).where(
            lambda fields: is_unanswered(fields) and is_about(fields, named, addressees)
        )
        return few(raws_of(found[:FEW]), now)

    def _campaign(self, campaign: CampaignId) -> Campaign | BrokenDocument | None:
        stored = self._of("campaigns").get(campaign)
        if stored is None:
            return None
        try:
            return self._templates.decoded(campaign, RawDocument(stored.raw), None)
        except (InvalidDocumentError, NewerSchemaError) as error:
            return broken(RawDocument(stored.raw), error)

    async def write_campaign(
        self,
        before: Campaign,
        after: Campaign,
        *,
        carried: bool = False,  # noqa: ARG002
    ) -> Campaign | None:
        await self._pause()
        stored = self._of("campaigns").get(before.id)
        if stored is None or stored.fields.get("version") != before.version:
            return None
        written = evolve(after, version=before.version + 1)
        stored.set({**patch_between(before, after).fields, "version": written.version})
        return written

    async def unfinished(self) -> tuple[Due, ...]:
        await self._pause()
        listed = []
        for stored in self._of("campaigns").where(
            lambda one: one.get("completed_at") is None or one.get("recount_at") is not None
        ):
            paused = stored.fields.get("status") == CampaignStatus.PAUSED
            scope = Scope.LEASES if paused else Scope.DUE
            try:
                identity = stored.fields["_id"]
                queued = any(
                    (one.fields.get("slot") or {}).get("held")
                    for one in self._conversations_of(identity)
                )
                listed.append(due_of(stored.fields, self._next(identity, scope), queued=queued))
            except InvalidDocumentError:
                continue
        return tuple(listed)

    async def next_due(
        self, campaign: CampaignId, scope: Scope, buckets: frozenset[int] | None = None
    ) -> datetime | None:
        await self._pause()
        return None if scope is Scope.NAMED else self._next(campaign, scope, buckets)

    def _next(
        self, campaign: CampaignId, scope: Scope, buckets: frozenset[int] | None = None
    ) -> datetime | None:
        times = (
            time_of(stored.fields, scope)
            for stored in self._conversations_of(campaign)
            if is_in(buckets, stored.fields)
        )
        return min((time for time in times if time), default=None)

    def _conversations_of(self, campaign: CampaignId) -> list[Stored]:
        return self._of("conversations").where(lambda one: one.get("campaign_id") == campaign)

    async def shift_waits(self, campaign: Campaign) -> None:
        await self._pause()
        for stored in self._conversations_of(campaign.id):
            fields = stored.fields
            stands_still = (
                fields["status"] in _STANDING_STILL
                and (fields["status"] != "pending" or fields["message_count"] > 0)
                and fields.get("pause") is None
            )
            rest = campaign.paused_total - fields["pause_seen"]
            known = fields.get("schema_version", 1) <= SCHEMA_VERSION
            if known and stands_still and date_of(fields.get("due_at")) and rest > 0:
                changed = _shifted(fields, timedelta(milliseconds=rest))
                stored.set({**changed, "pause_seen": campaign.paused_total})

    async def count(self, campaign: CampaignId) -> tuple[Counts, MessageCounts]:
        await self._pause()
        conversations = Counter(
            (one.fields["status"], one.fields["stage"], one.fields.get("exit_reason"))
            for one in self._conversations_of(campaign)
        )
        messages = Counter(
            one.fields["status"]
            for one in self._of("messages").where(lambda one: one.get("campaign_id") == campaign)
        )
        names = ("status", "stage", "exit_reason")
        return (
            counts_of((dict(zip(names, key, strict=True)), n) for key, n in conversations.items()),
            message_counts_of(({"status": status}, n) for status, n in messages.items()),
        )


def is_in(buckets: frozenset[int] | None, fields: Fields) -> bool:
    return buckets is None or fields.get("bucket") in buckets


def time_of(fields: Fields, scope: Scope) -> datetime | None:
    """Give when a conversation has work, as far as the scope looks at it."""
    if scope is not Scope.LEASES:
        return date_of(fields.get("due_at"))
    slot = fields.get("slot") or {}
    return date_of(slot.get("until")) if slot.get("state") == SlotState.SENDING else None


def _shifted(fields: Fields, rest: timedelta) -> Mapping[str, Any]:
    slot, wait_until = fields.get("slot"), fields.get("wait_until")
    if slot and slot["state"] == SlotState.RESERVED:
        slot = {**slot, "until": slot["until"] + rest}
    wait_until = wait_until and wait_until + rest
    due = slot["until"] if slot else wait_until
    return {
        "slot": slot,
        "wait_until": wait_until,
        "due_at": min(time for time in (due, fields["deadline_at"]) if time),
        "version": fields["version"] + 1,
    }
