"""What the parts of the MongoDB store share: the database, its time, and reading raw documents."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import ReadPreference, WriteConcern
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import BulkWriteError
from pymongo.read_concern import ReadConcern

from reactor.clock import TimeScale
from reactor.store.calls import is_unavailable, write_errors
from reactor.store.protocol import BrokenDocument, RawDocument
from reactor.store.raw import glance
from reactor.store.templates import Templates
from schemas.campaign import Campaign
from schemas.channel import ChannelState
from schemas.conversation import Conversation
from schemas.converter import (
    InvalidDocumentError,
    NewerSchemaError,
    from_document,
    refuse_newer,
)
from schemas.documents import CODEC
from schemas.evolving import evolve
from schemas.ids import CampaignId, ConversationId
from schemas.template import Template

type Document = dict[str, Any]

#: Raw, and with ids as they are when decoded: what is looked at is compared with them.
RAW: CodecOptions[RawBSONDocument] = CODEC.with_options(
    document_class=RawBSONDocument, unicode_decode_error_handler="replace"
)
DUPLICATE_KEY = 11000
#: Every document of `channels`, by its index: they are few.
CHANNELS: Sequence[Mapping[str, Any]] = ({"$match": {"_id": {"$type": "string"}}},)
#: Documents of one reply: as many as fit, so that a query is one command.
REPLY = 100_000


class MongoBase:
    def __init__(self, database: AsyncDatabase[Document], scale: TimeScale) -> None:
        self._scale = scale
        self._database = database.with_options(
            codec_options=CODEC,
            read_preference=ReadPreference.PRIMARY,
            write_concern=WriteConcern("majority"),
            # What the majority does not have yet is seen, too: a last look cannot see too much.
            read_concern=ReadConcern("local"),
        )
        # For what an answer or a mark follows on the same primary: the majority that these wait
        # for has it as well.
        self._carried = self._database.with_options(write_concern=WriteConcern(1))
        self._raw: AsyncDatabase[RawBSONDocument] = self._database.with_options(codec_options=RAW)
        # What is read back as won must not be rolled back afterwards.
        self._settled = self._raw.with_options(read_concern=ReadConcern("majority"))
        self._templates = Templates()

    async def _server_time(self) -> datetime:
        hello = await self._database.command("hello", codec_options=CODEC)
        return self._read_time(hello["localTime"])

    def _read_time(self, server: datetime) -> datetime:
        return self._scale.campaign_time(server.astimezone(UTC))

    async def _find(
        self, collection: str, query: Mapping[str, Any], **options: Any
    ) -> list[RawDocument]:
        cursor = self._raw[collection].find(query, batch_size=REPLY, **options)
        return [raw_of(document) for document in await cursor.to_list()]

    async def _aggregate(
        self, collection: str, pipeline: Sequence[Mapping[str, Any]]
    ) -> list[RawBSONDocument]:
        cursor = await self._raw[collection].aggregate(pipeline, batchSize=REPLY)
        return await cursor.to_list()

    async def _collect(
        self, sources: Mapping[str, Sequence[Mapping[str, Any]]]
    ) -> tuple[datetime, dict[str, list[RawDocument]]]:
        """
        Read several collections, each by its pipeline, and the server's time; one command.

        By `collection`, or by `collection:what` where more than one thing is read from it. They are
        read in their order, and none before those that stand before it (tests/test_store_mongo.py
        holds the server to that).
        """
        unions = [
            {
                "$unionWith": {
                    "coll": name.partition(":")[0],
                    "pipeline": [*pipeline, {"$project": {"_id": 0, name: "$$ROOT"}}],
                }
            }
            for name, pipeline in sources.items()
        ]
        time: Mapping[str, Any] = {"$documents": [{"now": "$$NOW"}]}
        cursor = await self._raw.aggregate([time, *unions], batchSize=REPLY)
        first, *rest = await cursor.to_list()
        found: dict[str, list[RawDocument]] = {collection: [] for collection in sources}
        for tagged in rest:
            for collection, document in tagged.items():
                found[collection].append(raw_of(document))
        return self._read_time(first["now"]), found

    def _states(self, raws: Sequence[RawDocument]) -> Mapping[str, ChannelState]:
        """Read what is known of channels; of one whose document cannot be read, nothing is."""
        states = {}
        for raw in raws:
            document = glance(raw.data)
            try:
                states[str(document.get("_id"))] = self._state(document)
            except InvalidDocumentError:
                continue
        return states

    def _state(self, document: Mapping[str, Any]) -> ChannelState:
        state = from_document(ChannelState, {"version": 0, **document})
        bucket = document.get("bucket")
        if not isinstance(bucket, float):
            return state
        full_at = self._read_time(datetime.fromtimestamp(bucket / 1_000, UTC))
        return evolve(state, tokens_from=full_at)

    async def _of_ids(self, ids: Collection[ConversationId]) -> tuple[Conversation, ...]:
        if not ids:
            return ()
        raws = await self._find("conversations", {"_id": {"$in": list(ids)}})
        return tuple(read_each(Conversation, raws)[0])

    async def _insert_new(
        self, database: AsyncDatabase[Document], collection: str, documents: Sequence[Document]
    ) -> list[int]:
        """Insert those whose unique keys are free; give the places of the others."""
        try:
            await database[collection].insert_many(documents, ordered=False)
        except BulkWriteError as error:
            if is_unavailable(error) or write_errors(error) != {DUPLICATE_KEY}:
                raise
            return [each["index"] for each in error.details["writeErrors"]]
        return []

    def _campaign(
        self, identity: CampaignId, raws: Sequence[RawDocument], known: Template | None
    ) -> Campaign | BrokenDocument | None:
        """Read what `campaign_by_id` gave; with `known`, that was without the template."""
        for raw in raws:
            try:
                return self._templates.decoded(identity, raw, known)
            except (InvalidDocumentError, NewerSchemaError) as error:
                return broken(raw, error)
        return None


def campaign_by_id(campaign: CampaignId, known: Template | None) -> list[Mapping[str, Any]]:
    """Match a campaign; its template, which is large and never changes, is read only once."""
    match: Mapping[str, Any] = {"$match": {"_id": {"$eq": campaign}}}
    return [match, {"$unset": "template"}] if known else [match]


def raw_of(document: RawBSONDocument) -> RawDocument:
    return RawDocument(bytes(document.raw))


def read_each[T](
    kind: type[T], raws: Sequence[RawDocument]
) -> tuple[list[T], list[BrokenDocument]]:
    """Read our own documents one by one: one that is broken stops no other."""
    read: list[T] = []
    broke: list[BrokenDocument] = []
    for raw in raws:
        try:
            refuse_newer(raw.document)
            read.append(from_document(kind, raw.document))
        except (InvalidDocumentError, NewerSchemaError) as error:
            broke.append(broken(raw, error))
    return read, broke


def broken(raw: RawDocument, error: InvalidDocumentError | NewerSchemaError) -> BrokenDocument:
    identity = glance(raw.data).get("_id")
    if isinstance(error, NewerSchemaError):
        return BrokenDocument(id=identity, raw=raw, problem=str(error), newer=True)
    return BrokenDocument(id=identity, raw=raw, problem="; ".join(error.problems[:3]))
