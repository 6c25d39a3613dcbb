"""
Reading and judging what is to be verified, each thing once.

Everything is read with majority, and a conversation before its entries: these may be newer, and are
then looked at again.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from attrs import define, field
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.read_concern import ReadConcern

from handlers.verify import Beside, judge
from handlers.verify_campaign import Tally, judge_campaign
from reactor.cli.bulk import BATCH
from reactor.cli.session import Document
from reactor.clock import TimeScale
from reactor.store.mongo import MongoStore
from reactor.store.places import rejected_id
from reactor.store.protocol import BrokenDocument, Scope
from schemas.campaign import Campaign
from schemas.converter import InvalidDocumentError, from_document
from schemas.documents import CODEC
from schemas.evolving import evolve
from schemas.finding import Finding, Invariant, SeenConversation, SeenEntry
from schemas.ids import CampaignId, ConversationId, SendKey

#: The clocks of two servers may be apart by so much.
SKEW_SECONDS = 1.0
MAJORITY = ReadConcern("majority")
NAMES = (
    *("status", "exit_reason", "due_at", "wait_until", "deadline_at", "status_since", "failures"),
    *("slot.stage", "slot.n", "slot.state", "slot.until", "pause.until", "message_count"),
    *("last_message", "batch_request_id", "position"),
    *("address_keys",),
)
FIELDS = dict.fromkeys(NAMES, 1)
STRAY = {"conversation_id": 1}
ENTRY: Mapping[str, Any] = {
    **dict.fromkeys(("conversation_id", "status", "address", "attempts", "due_at"), 1),
    **dict.fromkeys(("sent_at", "reason", "provider_id"), 1),
    # Not the text itself: nobody needs to see it, and it is large.
    "has_body": {"$eq": [{"$type": "$body"}, "string"]},
}


class _MajorityStore(MongoStore):
    """Reads nothing that may be rolled back."""

    def __init__(self, database: AsyncDatabase[Document], scale: TimeScale) -> None:
        super().__init__(database, scale)
        self._raw = self._settled
        self._database = self._database.with_options(read_concern=MAJORITY)


@define(kw_only=True)
class Evidence:
    database: AsyncDatabase[Document]
    scale: TimeScale
    lease_seconds: float
    #: A lease that is over for so long is taken over by nobody.
    long_seconds: float
    store: MongoStore = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.database = self.database.with_options(codec_options=CODEC, read_concern=MAJORITY)
        self.store = _MajorityStore(self.database, self.scale)

    async def is_leaving(self, campaign: CampaignId) -> bool:
        """Say whether what is personal of it is being removed, or has been: then little agrees."""
        leaving = {"_id": campaign, "removing_since": {"$type": "date"}}
        return await self.database.campaigns.find_one(leaving, {"_id": 1}) is not None

    async def conversations(
        self, campaign_id: CampaignId, documents: Sequence[Document]
    ) -> list[Finding]:
        """Judge a batch, each with its entries, which are read after it."""
        entries: dict[str, list[SeenEntry]] = defaultdict(list)
        query = {"conversation_id": {"$in": [document["_id"] for document in documents]}}
        found: list[Finding] = []
        async for entry in self.database.messages.find(query, ENTRY, batch_size=BATCH):
            try:
                entries[entry["conversation_id"]].append(_read(SeenEntry, entry))
            except InvalidDocumentError as error:
                problem, owner = "; ".join(error.problems), entry["conversation_id"]
                found.append(_unreadable(campaign_id, problem, owner, entry["_id"]))
        rejected = await self._rejected(documents)
        suppressed = await self._suppressed(documents)
        # Last: what was closed or completed meanwhile was so after its conversations were.
        now, campaign = await self.store.campaign(campaign_id)
        if not isinstance(campaign, Campaign):
            return found
        beside = Beside(
            campaign=campaign,
            now=now,
            skew=self.scale.campaign_span(SKEW_SECONDS),
            lease=self.scale.campaign_span(self.lease_seconds),
            long=self.scale.campaign_span(self.long_seconds),
            suppressed=suppressed,
        )
        for document in documents:
            identity = document["_id"]
            try:
                one = _read(SeenConversation, document)
            except InvalidDocumentError as error:
                found.append(_unreadable(campaign_id, "; ".join(error.problems), identity))
                continue
            known = evolve(beside, rejected=identity in rejected)
            found += judge(one, entries[identity], known)
        return found

    async def _rejected(self, documents: Sequence[Document]) -> frozenset[ConversationId]:
        """
        Find those whose place in the request is that of a rejected recipient.

        Not by the recipient's id: of two with the same, one is rejected.
        """
        places = {
            rejected_id(document.get("batch_request_id"), document.get("position")): document["_id"]
            for document in documents
        }
        query = {"_id": {"$in": list(places)}}
        found = await self.database.rejected_recipients.find(query, {"_id": 1}).to_list()
        return frozenset(places[each["_id"]] for each in found)

    async def _suppressed(self, documents: Sequence[Document]) -> Mapping[str, datetime]:
        """Find which of their addresses are suppressed by an update, and when it was answered."""
        keys = {key for document in documents for key in document.get("address_keys") or ()}
        query: Document = {"_id": {"$in": list(keys)}, "by": {"$ne": None}}
        suppressions = await self.database.suppressions.find(query, {"by": 1}).to_list()
        by = {each["by"] for each in suppressions}
        query = {"_id": {"$in": list(by)}, "applied_at": {"$type": "date"}}
        updates = self.database.conversation_updates.find(query, {"applied_at": 1})
        answered = {each["_id"]: each["applied_at"] async for each in updates}
        return {one["_id"]: answered[one["by"]] for one in suppressions if one["by"] in answered}

    async def strays(self, campaign: CampaignId, entries: Sequence[Document]) -> list[Finding]:
        """Find entries of conversations that do not exist."""
        owners = list({entry.get("conversation_id") for entry in entries})
        found = self.database.conversations.find({"_id": {"$in": owners}}, {"_id": 1})
        present = {each["_id"] async for each in found}
        return [
            Finding(
                invariant=Invariant.KEYS,
                campaign_id=campaign,
                message_id=entry["_id"],
                what="the conversation of an entry",
                expected=str(entry.get("conversation_id")),
                found="none",
            )
            for entry in entries
            if entry.get("conversation_id") not in present
        ]

    async def campaign(self, campaign_id: CampaignId) -> list[Finding]:
        """Judge the campaign itself, if it does not change while it is counted."""
        _, campaign = await self.store.campaign(campaign_id)
        if isinstance(campaign, BrokenDocument):
            return [_unreadable(campaign_id, campaign.problem)]
        if campaign is None:
            return []
        tally = await self.tally(campaign)
        now, after = await self.store.campaign(campaign_id)
        return list(judge_campaign(campaign, tally, now)) if after == campaign else []

    async def tally(self, campaign: Campaign) -> Tally:
        counts, messages = await self.store.count(campaign.id)
        rejected = await self.database.rejected_recipients.count_documents(
            {"batch_request_id": campaign.batch_request_id}
        )
        return Tally(
            conversations=sum(counts.by_status.values()),
            rejected=rejected,
            unsettled=await self.store.next_due(campaign.id, Scope.DUE) is not None,
            counts=counts,
            messages=messages,
        )


def _read[T](kind: type[T], document: Document) -> T:
    return from_document(kind, {**document, "id": document["_id"]})


def _unreadable(
    campaign: CampaignId,
    problem: str,
    conversation: ConversationId | None = None,
    message: SendKey | None = None,
) -> Finding:
    return Finding(
        invariant=Invariant.ACCOUNTING,
        campaign_id=campaign,
        conversation_id=conversation,
        message_id=message,
        what="a document of ours",
        expected="one that can be read",
        found=problem,
    )
