"""The ledger, the suppressions and the last look, in MongoDB."""

from collections.abc import Mapping, Sequence

from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from reactor.store.base import NOW, Document, read_each
from reactor.store.calls import call
from reactor.store.mongo_conversations import MongoConversations
from reactor.store.mongo_inbox import DUPLICATE_KEY
from reactor.store.protocol import Look, LookOrder, RawDocument, UnansweredUpdate
from schemas import ids
from schemas.campaign import Campaign
from schemas.conversation import Conversation
from schemas.converter import to_document
from schemas.documents import decode
from schemas.ids import ConversationId, SendKey
from schemas.message import RANK, LedgerEntry, MessageStatus, Suppression
from schemas.transition import Report

#: What belongs to the status: kept where a higher status stays.
_OF_STATUS = frozenset({"status", "reason", "error"})


class MongoLedger(MongoConversations):
    @call
    async def suppress(self, suppressions: Sequence[Suppression]) -> None:
        await self._database.suppressions.bulk_write(
            [
                UpdateOne({"_id": one["_id"]}, {"$setOnInsert": one}, upsert=True)
                for one in map(to_document, suppressions)
            ],
            ordered=False,
        )

    @call
    async def record(self, entries: Sequence[LedgerEntry]) -> None:
        documents = [to_document(entry) for entry in entries]
        try:
            await self._database.messages.insert_many(documents, ordered=False)
        except BulkWriteError as error:
            errors = error.details["writeErrors"]
            if any(each["code"] != DUPLICATE_KEY for each in errors):
                raise
            known = [documents[each["index"]] for each in errors]
            merges = [merge for document in known for merge in _merged(document)]
            await self._database.messages.bulk_write(merges, ordered=True)

    @call
    async def report(
        self, reports: Sequence[Report], about: Mapping[SendKey, Conversation]
    ) -> None:
        writes = []
        for one in reports:
            conversation = about[one.key]
            stub = {
                "campaign_id": conversation.campaign_id,
                "batch_request_id": conversation.batch_request_id,
                "conversation_id": conversation.id,
                "recipient_id": conversation.recipient.id,
            }
            status = {"status": one.status.value}
            writes += [
                UpdateOne({"_id": one.key}, {"$setOnInsert": stub | status}, upsert=True),
                UpdateOne({"_id": one.key, **_not_above(one.status)}, {"$set": status}),
            ]
        await self._database.messages.bulk_write(writes, ordered=True)

    @call
    async def look(self, order: LookOrder) -> Look:
        # Inboxes first: what is applied between two of these reads is in the documents.
        updates = await self._unanswered_updates(order)
        orders = await self._unanswered_orders(order)
        suppressed = await self._find(
            "suppressions", {"_id": {"$in": list(order.address_keys)}}, projection=["_id"]
        )
        cursor = await self._raw.campaigns.aggregate(
            [
                {"$match": {"_id": {"$eq": order.campaign_id}}},
                *self._without_known_template(order.campaign_id),
                {"$set": {NOW: "$$NOW"}},
            ]
        )
        campaigns = [decode(bytes(found.raw)) for found in await cursor.to_list()]
        raws = await self._find(
            "conversations", {"_id": {"$in": [one.id for one in order.conversations]}}
        )
        conversations = {one.id: one for one in read_each(Conversation, raws)[0]}
        uncertain = [
            one.slot.key(one.id)
            for one in conversations.values()
            if one.slot and one.slot.uncertain
        ]
        now = self._read_time(campaigns[0].pop(NOW)) if campaigns else await self._server_time()
        campaign = self._campaign(campaigns[0], RawDocument(b"")) if campaigns else None
        return Look(
            now=now,
            updates=updates,
            campaign_updates=orders,
            suppressed=frozenset(decode(one.data)["_id"] for one in suppressed),
            campaign=campaign if isinstance(campaign, Campaign) else None,
            conversations=conversations,
            ledger=await self._entries_of(uncertain),
        )

    async def _unanswered_updates(self, order: LookOrder) -> tuple[UnansweredUpdate, ...]:
        by_recipient = {one.recipient.id: one.id for one in order.conversations}
        whose = [
            {"conversation_id": {"$in": list(by_recipient.values())}},
            {
                "batch_request_id": order.batch_request_id,
                "recipient_id": {"$in": list(by_recipient)},
            },
        ]
        cursor = self._raw.conversation_updates.find(
            {"status": None, "$or": whose},
            projection=["kind", "conversation_id", "recipient_id", "bounce"],
        )
        return tuple(
            UnansweredUpdate(
                id=one["_id"],
                kind=one.get("kind"),
                conversation_id=_whom(one, by_recipient),
                bounce=one.get("bounce"),
            )
            for one in await cursor.to_list()
        )

    async def _unanswered_orders(self, order: LookOrder) -> tuple[UnansweredUpdate, ...]:
        whose = [{"campaign_id": order.campaign_id}, {"batch_request_id": order.batch_request_id}]
        cursor = self._raw.campaign_updates.find(
            {"status": None, "$or": whose}, projection=["kind"]
        )
        return tuple(
            UnansweredUpdate(id=one["_id"], kind=one.get("kind")) for one in await cursor.to_list()
        )


def _whom(
    update: Mapping[str, object], by_recipient: Mapping[str, ConversationId]
) -> ConversationId | None:
    named = update.get("conversation_id")
    if isinstance(named, str):
        return ids.ConversationId(named)
    return by_recipient.get(str(update.get("recipient_id")))


def _not_above(status: MessageStatus) -> Document:
    below = [each.value for each in MessageStatus if RANK[each] <= RANK[status]]
    return {"status": {"$in": below}}


def _merged(document: Document) -> list[UpdateOne]:
    """Merge an entry into the one that is there: a lower status never undoes a higher."""
    status = MessageStatus(document["status"])
    given = {name: value for name, value in document.items() if value is not None}
    rest = {name: value for name, value in given.items() if name not in _OF_STATUS}
    return [
        UpdateOne({"_id": document["_id"]}, {"$set": rest}),
        UpdateOne({"_id": document["_id"], **_not_above(status)}, {"$set": given}),
    ]
