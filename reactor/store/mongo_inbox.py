"""Requests and updates: found, read and answered in MongoDB."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from bson.raw_bson import RawBSONDocument
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError

from reactor.store.base import Document, MongoBase
from reactor.store.calls import call, long_call
from reactor.store.hints import hint_of
from reactor.store.protocol import (
    Conflict,
    Hint,
    Inbox,
    RawDocument,
    RecipientPage,
    RejectedRecipient,
)
from schemas.batch_request import BATCH_RECIPIENTS
from schemas.campaign import Campaign
from schemas.conversation import Conversation
from schemas.converter import InvalidDocumentError, to_document
from schemas.documents import decode, id_filter, only_id
from schemas.ids import AgentId, CampaignId, ConversationId

#: Updates of one campaign that are read at once.
MAX_ORDERS = 1_000
DUPLICATE_KEY = 11000
_WHOM = ("conversation_id", "batch_request_id", "recipient_id", "campaign_id")


def is_due(now: datetime) -> dict[str, Any]:
    """Match documents that wait for nothing, or for a time that is past."""
    return {"$or": [{"due_at": None}, {"due_at": {"$lte": now}}]}


class MongoInbox(MongoBase):
    @call
    async def unanswered(self, inbox: Inbox, *, now: datetime, limit: int) -> tuple[Hint, ...]:
        cursor = self._raw[inbox].find(
            {"status": None, **is_due(now)}, projection=["_id", *_WHOM], limit=limit
        )
        return tuple(
            hint_of(inbox, document, only_id(bytes(document.raw)))
            for document in await cursor.to_list()
        )

    @call
    async def read(self, inbox: Inbox, raw_ids: Sequence[RawDocument]) -> tuple[RawDocument, ...]:
        query = {"$or": [id_filter(raw_id.data) for raw_id in raw_ids], "status": None}
        return tuple(await self._find(inbox, query)) if raw_ids else ()

    @call
    async def answer(
        self, inbox: Inbox, answers: Sequence[tuple[RawDocument, Mapping[str, object]]]
    ) -> None:
        writes = [
            UpdateOne({"$and": [id_filter(raw.data), {"status": None}]}, {"$set": fields})
            for raw, fields in answers
        ]
        await self._database[inbox].bulk_write(writes, ordered=False)

    @call
    async def campaign_updates(
        self, campaign: Campaign, *, now: datetime
    ) -> tuple[RawDocument, ...]:
        whose = [{"campaign_id": campaign.id}, {"batch_request_id": campaign.batch_request_id}]
        query = {"status": None, "$or": whose, "$and": [is_due(now)]}
        return tuple(await self._find(Inbox.CAMPAIGN_UPDATES, query, limit=MAX_ORDERS))

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
        query: Document = {"name": {"$eq": name}}
        if version is not None:
            query["version"] = {"$eq": version}
        found = await self._find("campaign_templates", query, sort={"version": -1}, limit=1)
        return found[0] if found else None

    @long_call
    async def count_batch_recipients(self, request: AgentId) -> int:
        return await self._database.batch_recipients.count_documents({"batch_request_id": request})

    @long_call
    async def recipients(
        self, request: AgentId, source: str, *, after: object, limit: int
    ) -> RecipientPage | None:
        if source == BATCH_RECIPIENTS:
            return await self._from_collection(request, after, limit)
        start = after if isinstance(after, int) else 0
        found = await self._raw.batch_requests.aggregate(
            [
                {"$match": {"_id": request}},
                {
                    "$project": {
                        "count": {"$size": "$recipients"},
                        "page": {"$slice": ["$recipients", start, limit]},
                    }
                },
            ]
        )
        requests = await found.to_list()
        if not requests:
            return None
        page = requests[0]["page"]
        end = start + len(page)
        return RecipientPage(
            recipients=tuple((start + at, *_read(one)) for at, one in enumerate(page)),
            next_after=end if end < requests[0]["count"] else None,
        )

    async def _from_collection(self, request: AgentId, after: object, limit: int) -> RecipientPage:
        query: Document = {"batch_request_id": request}
        if after is not None:
            # $expr compares across types, as the sort does; a plain $gt would see one type only.
            query["$expr"] = {"$gt": ["$_id", {"$literal": after}]}
        cursor = self._raw.batch_recipients.find(query, sort={"_id": 1}, limit=limit + 1)
        found = await cursor.to_list()
        page = found[:limit]
        return RecipientPage(
            recipients=tuple((_position(one), *_read(one)) for one in page),
            next_after=_position(page[-1]) if len(found) > limit else None,
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
            await self._database.campaigns.insert_one(to_document(campaign))
        except DuplicateKeyError:
            return False
        return True

    @long_call
    async def insert_conversations(
        self, conversations: Sequence[Conversation]
    ) -> Mapping[int, Conflict]:
        if not conversations:
            return {}
        try:
            await self._database.conversations.insert_many(
                [to_document(conversation) for conversation in conversations], ordered=False
            )
        except BulkWriteError as error:
            errors = error.details["writeErrors"]
            if any(each["code"] != DUPLICATE_KEY for each in errors):
                raise
            return await self._conflicts(conversations, [each["index"] for each in errors])
        return {}

    async def _conflicts(
        self, conversations: Sequence[Conversation], indexes: Sequence[int]
    ) -> Mapping[int, Conflict]:
        """Tell an interrupted opening from a recipient that is there twice."""
        refused = {index: conversations[index] for index in indexes}
        cursor = self._database.conversations.find(
            {"_id": {"$in": [one.id for one in refused.values()]}}, projection=["position"]
        )
        positions = {one["_id"]: one["position"] for one in await cursor.to_list()}
        return {index: _conflict(one, positions) for index, one in refused.items()}

    @long_call
    async def reject_recipients(self, rejected: Sequence[RejectedRecipient]) -> None:
        documents = [
            {
                "_id": {"r": one.batch_request_id, "p": one.position},
                "batch_request_id": one.batch_request_id,
                **({} if one.index is None else {"index": one.index}),
                "recipient_id": one.recipient_id,
                "problem": one.problem,
            }
            for one in rejected
        ]
        try:
            await self._database.rejected_recipients.insert_many(documents, ordered=False)
        except BulkWriteError as error:
            if any(each["code"] != DUPLICATE_KEY for each in error.details["writeErrors"]):
                raise

    @call
    async def rejected_recipients(
        self, request: AgentId, *, limit: int
    ) -> tuple[int, tuple[Mapping[str, object], ...]]:
        query = {"batch_request_id": request}
        collection = self._database.rejected_recipients
        count = await collection.count_documents(query)
        cursor = collection.find(query, sort={"index": 1}, limit=limit)
        entries = [
            {
                **({"index": one["index"]} if "index" in one else {}),
                "id": one["recipient_id"],
                "problem": one["problem"],
            }
            for one in await cursor.to_list()
        ]
        return count, tuple(entries)


def _conflict(one: Conversation, positions: Mapping[str, object]) -> Conflict:
    if one.id not in positions:
        return Conflict.ADDRESS
    return Conflict.SAME if positions[one.id] == one.position else Conflict.RECIPIENT_ID


def _position(document: RawBSONDocument) -> object:
    """Give a document's `_id` as it will be read from the conversation that it becomes."""
    return decode(only_id(bytes(document.raw)))["_id"]


def _read(element: object) -> tuple[object, str | None]:
    """Decode one recipient by itself."""
    if not isinstance(element, RawBSONDocument):
        return element, None
    try:
        return decode(bytes(element.raw)), None
    except InvalidDocumentError as error:
        return None, "; ".join(error.problems)
