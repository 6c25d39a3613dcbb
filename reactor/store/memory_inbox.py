"""Requests and updates in memory."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from bson.raw_bson import RawBSONDocument

from reactor.store.base import RAW
from reactor.store.bson_order import bson_order
from reactor.store.hints import hint_of, is_put_off
from reactor.store.memory_base import MemoryBase, earliest, is_unanswered, raws_of
from reactor.store.mongo_inbox import MAX_ORDERS
from reactor.store.places import (
    conflict,
    read_inline,
    read_recipient,
    rejected_document,
    rejected_shown,
)
from reactor.store.protocol import (
    Conflict,
    Hint,
    Inbox,
    RawDocument,
    RecipientPage,
    RejectedRecipient,
)
from reactor.store.raw import glance, position_of, unwrapped
from schemas.batch_request import BATCH_RECIPIENTS
from schemas.campaign import Campaign
from schemas.conversation import Conversation
from schemas.converter import to_document
from schemas.documents import only_id
from schemas.ids import AgentId, CampaignId, ConversationId


class MemoryInbox(MemoryBase):
    async def unanswered(self, inbox: Inbox, *, now: datetime, limit: int) -> tuple[Hint, ...]:
        await self._pause()
        found = self._of(inbox).where(
            lambda fields: is_unanswered(fields) and not is_put_off(fields, now)
        )
        return tuple(hint_of(inbox, one.fields, one.identity) for one in found[:limit])

    async def read(self, inbox: Inbox, raw_ids: Sequence[RawDocument]) -> tuple[RawDocument, ...]:
        await self._pause()
        found = [self._of(inbox).by_raw_id(raw_id.data) for raw_id in raw_ids]
        return tuple(raws_of(one for one in found if one and is_unanswered(one.fields)))

    async def waiting(
        self, inbox: Inbox, raw_ids: Sequence[RawDocument]
    ) -> tuple[RawDocument, ...]:
        return tuple(RawDocument(only_id(raw.data)) for raw in await self.read(inbox, raw_ids))

    async def answer(
        self,
        inbox: Inbox,
        answers: Sequence[tuple[RawDocument, Mapping[str, object]]],
        *,
        carried: bool = False,  # noqa: ARG002
    ) -> None:
        await self._pause()
        for raw, fields in answers:
            stored = self._of(inbox).by_raw_id(raw.data)
            if stored and is_unanswered(stored.fields):
                stored.set(fields)

    async def campaign_updates(
        self, campaign: Campaign, *, now: datetime
    ) -> tuple[RawDocument, ...]:
        await self._pause()
        found = self._of(Inbox.CAMPAIGN_UPDATES).where(
            lambda fields: (
                is_unanswered(fields)
                and (
                    fields.get("campaign_id") == campaign.id
                    or fields.get("batch_request_id") == campaign.batch_request_id
                )
            )
        )
        return earliest(found, now, MAX_ORDERS)

    async def campaigns_of(
        self, conversations: Collection[ConversationId]
    ) -> Mapping[ConversationId, CampaignId]:
        await self._pause()
        found = self._of("conversations").among(conversations)
        return {one.fields["_id"]: one.fields["campaign_id"] for one in found}

    async def template(self, name: str, version: int | None) -> RawDocument | None:
        await self._pause()
        found = self._of("campaign_templates").where(
            lambda fields: (
                fields.get("name") == name
                and isinstance(fields.get("version"), int | float)
                and version in (None, fields["version"])
            )
        )
        highest = sorted(found, key=lambda one: one.fields["version"])[-1:]
        return next(iter(raws_of(highest)), None)

    async def count_batch_recipients(self, request: AgentId) -> int:
        await self._pause()
        return len(self._placed(request))

    def _placed(self, request: AgentId) -> list[RawDocument]:
        found = self._of("batch_recipients").where(
            lambda fields: fields.get("batch_request_id") == request
        )
        return raws_of(sorted(found, key=lambda one: bson_order(one.fields.get("_id"))))

    async def recipients(
        self, request: AgentId, source: str, *, after: object, limit: int
    ) -> RecipientPage | None:
        await self._pause()
        if source == BATCH_RECIPIENTS:
            return self._from_collection(request, after, limit)
        stored = self._of(Inbox.BATCH_REQUESTS).get(request)
        if stored is None:
            return None
        elements = RawBSONDocument(stored.raw, RAW).get("recipients")
        inline = elements if isinstance(elements, list) else []
        start = after if isinstance(after, int) else 0
        page = inline[start : start + limit]
        end = start + len(page)
        return RecipientPage(
            recipients=tuple((start + at, *read_inline(one)) for at, one in enumerate(page)),
            next_after=end if end < len(inline) else None,
        )

    def _from_collection(self, request: AgentId, after: object, limit: int) -> RecipientPage:
        found = self._placed(request)
        if after is not None:
            place = bson_order(glance(unwrapped(after))["_id"])
            found = [one for one in found if bson_order(glance(one.data)["_id"]) > place]
        page = found[:limit]
        return RecipientPage(
            recipients=tuple((position_of(raw.data), *read_recipient(raw.data)) for raw in page),
            next_after=position_of(page[-1].data) if len(found) > limit else None,
        )

    async def suppressed(self, address_keys: Collection[str]) -> frozenset[str]:
        await self._pause()
        return frozenset(one.fields["_id"] for one in self._of("suppressions").among(address_keys))

    async def insert_campaign(self, campaign: Campaign) -> bool:
        await self._pause()
        return self._of("campaigns").insert(to_document(campaign))

    async def insert_conversations(
        self,
        conversations: Sequence[Conversation],
        *,
        carried: bool = False,  # noqa: ARG002 - here, every write is the majority's
    ) -> Mapping[int, Conflict]:
        await self._pause()
        collection, conflicts = self._of("conversations"), {}
        for index, one in enumerate(conversations):
            present = collection.get(one.id)
            if present:
                conflicts[index] = conflict(one, {one.id: present.fields.get("position")})
            elif self._has_address_of(one):
                conflicts[index] = conflict(one, {})
            else:
                collection.insert(to_document(one))
        return conflicts

    def _has_address_of(self, one: Conversation) -> bool:
        return any(
            stored.fields.get("campaign_id") == one.campaign_id
            and not set(one.address_keys).isdisjoint(stored.fields.get("address_keys") or ())
            for stored in self._of("conversations")
        )

    async def reject_recipients(self, rejected: Sequence[RejectedRecipient]) -> None:
        await self._pause()
        for one in rejected:
            self._of("rejected_recipients").insert(rejected_document(one))

    async def rejected_recipients(
        self, request: AgentId, *, limit: int
    ) -> tuple[int, tuple[Mapping[str, object], ...]]:
        await self._pause()
        found = self._of("rejected_recipients").where(
            lambda fields: fields.get("batch_request_id") == request
        )
        found.sort(key=lambda one: bson_order(one.fields.get("index")))
        return len(found), tuple(rejected_shown(one.fields) for one in found[:limit])
