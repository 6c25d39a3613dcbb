"""Requests and updates: found, read and answered in MongoDB."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import bson
from loguru import logger
from pymongo import UpdateMany, UpdateOne
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import BulkWriteError, DuplicateKeyError

from reactor.store.base import Document, MongoBase, raw_of
from reactor.store.calls import call, is_unavailable, long_call, repeated, write_errors
from reactor.store.hints import hint_of
from reactor.store.places import (
    conflict,
    read_inline,
    read_recipient,
    rejected_document,
    rejected_shown,
)
from reactor.store.protocol import (
    Addressees,
    Conflict,
    Hint,
    Inbox,
    RawDocument,
    RecipientPage,
    RejectedRecipient,
)
from reactor.store.raw import glance, ids_filter, literal, position_of, unwrapped
from schemas.batch_request import BATCH_RECIPIENTS
from schemas.campaign import Campaign
from schemas.conversation import Conversation
from schemas.converter import to_document
from schemas.documents import CODEC, only_id
from schemas.ids import AgentId, CampaignId, ConversationId

#: Updates of one campaign that are read at once.
MAX_ORDERS = 1_000
_AT = "_takes_effect_at"
_WHOM = ("conversation_id", "batch_request_id", "recipient_id", "campaign_id")


def not_put_off(now: datetime) -> Document:
    """Match documents that wait for nothing, or for a time that is past; $nor uses no index."""
    return {"$nor": [{"due_at": {"$gt": now}}]}


def earliest(query: Document, now: datetime, limit: int) -> list[Mapping[str, Any]]:
    """Give the first by the order in which they take effect: one without `at` is of now."""
    return [
        {"$match": query | not_put_off(now)},
        {"$set": {_AT: {"$ifNull": ["$at", now]}}},
        {"$sort": {_AT: 1, "_id": 1}},
        {"$limit": limit},
        {"$unset": _AT},
    ]


def addressed(
    conversations: Collection[ConversationId], recipients: Addressees
) -> list[Mapping[str, Any]]:
    """Match updates of these conversations, in either form of address."""
    return [
        {"conversation_id": {"$in": list(conversations)}},
        {
            "batch_request_id": recipients.batch_request_id,
            "recipient_id": {"$in": list(recipients.recipient_ids)},
        },
    ]


class MongoInbox(MongoBase):
    @call
    async def unanswered(self, inbox: Inbox, *, now: datetime, limit: int) -> tuple[Hint, ...]:
        # What is no date puts nothing off.
        query = {"status": None, "due_at": {"$not": {"$gt": now}}}
        found = await self._find(inbox, query, projection=_WHOM, limit=limit)
        return tuple(hint_of(inbox, glance(raw.data), only_id(raw.data)) for raw in found)

    @call
    async def read(self, inbox: Inbox, raw_ids: Sequence[RawDocument]) -> tuple[RawDocument, ...]:
        query = {"$and": [ids_filter(raw_ids), {"status": None}]}
        return tuple(await self._find(inbox, query)) if raw_ids else ()

    @call
    async def waiting(
        self, inbox: Inbox, raw_ids: Sequence[RawDocument]
    ) -> tuple[RawDocument, ...]:
        if not raw_ids:
            return ()
        query = {"$and": [ids_filter(raw_ids), {"status": None}]}
        found = await self._find(inbox, query, projection=("_id",))
        return tuple(RawDocument(only_id(raw.data)) for raw in found)

    @call
    async def answer(
        self,
        inbox: Inbox,
        answers: Sequence[tuple[RawDocument, Mapping[str, object]]],
        *,
        carried: bool = False,
    ) -> None:
        if not answers:
            return
        # In a group, one without room for its answer would keep those after it from theirs.
        database = self._carried if carried else self._database
        if not await self._write_answers(database, inbox, _grouped_answers(answers)):
            return
        alone = [_answer(fields, [raw]) for raw, fields in answers]
        codes = await self._write_answers(database, inbox, alone)
        # The others were written. This one has no room for an answer, whoever gives it.
        log = logger.bind(inbox=inbox.value, code=min(codes))
        log.error("An answer does not fit into its document")

    async def _write_answers(
        self,
        database: AsyncDatabase[Document],
        inbox: Inbox,
        writes: Sequence[UpdateOne | UpdateMany],
    ) -> frozenset[int]:
        """Write answers, each once only: what has one is left as it is; the codes of refusals."""
        try:
            await repeated(lambda: database[inbox].bulk_write(writes, ordered=False))
        except BulkWriteError as error:
            if is_unavailable(error):
                raise
            return write_errors(error)
        return frozenset()

    @call
    async def campaign_updates(
        self, campaign: Campaign, *, now: datetime
    ) -> tuple[RawDocument, ...]:
        whose = [{"campaign_id": campaign.id}, {"batch_request_id": campaign.batch_request_id}]
        pipeline = earliest({"status": None, "$or": whose}, now, MAX_ORDERS)
        found = await self._aggregate(Inbox.CAMPAIGN_UPDATES, pipeline)
        return tuple(raw_of(document) for document in found)

    @call
    async def campaigns_of(
        self, conversations: Collection[ConversationId]
    ) -> Mapping[ConversationId, CampaignId]:
        if not conversations:
            return {}
        cursor = self._database.conversations.find(
            {"_id": {"$in": list(conversations)}}, projection=["campaign_id"]
        )
        return {one["_id"]: one["campaign_id"] for one in await cursor.to_list()}

    @call
    async def template(self, name: str, version: int | None) -> RawDocument | None:
        wanted = {"$type": "number"} if version is None else {"$eq": version}
        query = {"name": {"$eq": name}, "version": wanted}
        sort = {"name": 1, "version": -1}
        found = await self._find("campaign_templates", query, sort=sort, limit=1)
        return found[0] if found else None

    @long_call
    async def count_batch_recipients(self, request: AgentId) -> int:
        query = {"batch_request_id": {"$eq": request}}
        return await self._database.batch_recipients.count_documents(query)

    @long_call
    async def recipients(
        self, request: AgentId, source: str, *, after: object, limit: int
    ) -> RecipientPage | None:
        if source == BATCH_RECIPIENTS:
            return await self._from_collection(request, after, limit)
        start = after if isinstance(after, int) else 0
        # A request that was replaced since may have anything there.
        inline = {"$cond": [{"$isArray": "$recipients"}, "$recipients", []]}
        requests = await self._aggregate(
            Inbox.BATCH_REQUESTS,
            [
                {"$match": {"_id": {"$eq": request}}},
                {
                    "$project": {
                        "count": {"$size": inline},
                        "page": {"$slice": [inline, start, limit]},
                    }
                },
            ],
        )
        if not requests:
            return None
        page = requests[0]["page"]
        end = start + len(page)
        return RecipientPage(
            recipients=tuple((start + at, *read_inline(one)) for at, one in enumerate(page)),
            next_after=end if end < requests[0]["count"] else None,
        )

    async def _from_collection(self, request: AgentId, after: object, limit: int) -> RecipientPage:
        query: Document = {"batch_request_id": {"$eq": request}}
        if after is not None:
            # $expr compares across types, as the sort does; a plain $gt would see one type only.
            query["$expr"] = {"$gt": ["$_id", literal(unwrapped(after))]}
        # By the whole index: by `_id` alone, the one of all requests would do as well.
        sort = {"batch_request_id": 1, "_id": 1}
        found = await self._find("batch_recipients", query, sort=sort, limit=limit + 1)
        page = found[:limit]
        return RecipientPage(
            recipients=tuple((position_of(raw.data), *read_recipient(raw.data)) for raw in page),
            next_after=position_of(page[-1].data) if len(found) > limit else None,
        )

    @call
    async def suppressed(self, address_keys: Collection[str]) -> frozenset[str]:
        if not address_keys:
            return frozenset()
        cursor = self._database.suppressions.find(
            {"_id": {"$in": list(address_keys)}}, projection=["_id"]
        )
        return frozenset(one["_id"] for one in await cursor.to_list())

    @call
    async def insert_campaign(self, campaign: Campaign) -> bool:
        try:
            await self._carried.campaigns.insert_one(to_document(campaign))
        except DuplicateKeyError:
            return False
        self._templates.note(campaign)
        return True

    @long_call
    async def insert_conversations(
        self, conversations: Sequence[Conversation], *, carried: bool = False
    ) -> Mapping[int, Conflict]:
        if not conversations:
            return {}
        database = self._carried if carried else self._database
        documents = [to_document(conversation) for conversation in conversations]
        present = await self._insert_new(database, "conversations", documents)
        return await self._conflicts(conversations, present) if present else {}

    async def _conflicts(
        self, conversations: Sequence[Conversation], indexes: Sequence[int]
    ) -> Mapping[int, Conflict]:
        """Tell an interrupted opening from a recipient that is there twice."""
        refused = {index: conversations[index] for index in indexes}
        cursor = self._database.conversations.find(
            {"_id": {"$in": [one.id for one in refused.values()]}}, projection=["position"]
        )
        positions = {one["_id"]: one["position"] for one in await cursor.to_list()}
        return {index: conflict(one, positions) for index, one in refused.items()}

    @long_call
    async def reject_recipients(self, rejected: Sequence[RejectedRecipient]) -> None:
        if rejected:
            documents = [rejected_document(one) for one in rejected]
            await self._insert_new(self._carried, "rejected_recipients", documents)

    @call
    async def rejected_recipients(
        self, request: AgentId, *, limit: int
    ) -> tuple[int, tuple[Mapping[str, object], ...]]:
        query = {"batch_request_id": {"$eq": request}}
        count = await self._database.rejected_recipients.count_documents(query)
        sort = {"batch_request_id": 1, "index": 1}
        found = await self._find("rejected_recipients", query, sort=sort, limit=limit)
        return count, tuple(rejected_shown(glance(raw.data)) for raw in found)


def _grouped_answers(
    answers: Sequence[tuple[RawDocument, Mapping[str, object]]],
) -> list[UpdateOne | UpdateMany]:
    """Put together what is answered alike: one write for many costs a tenth."""
    alike: dict[bytes, tuple[Mapping[str, object], list[RawDocument]]] = {}
    for raw, fields in answers:
        alike.setdefault(bson.encode(fields, codec_options=CODEC), (fields, []))[1].append(raw)
    return [_answer(fields, raws) for fields, raws in alike.values()]


def _answer(fields: Mapping[str, object], raws: Sequence[RawDocument]) -> UpdateOne | UpdateMany:
    which = {"$and": [ids_filter(raws), {"status": None}]}
    return (UpdateMany if len(raws) > 1 else UpdateOne)(which, {"$set": fields})
