"""What the parts of the MongoDB store share: the database, its time, and reading raw documents."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from bson.raw_bson import RawBSONDocument
from pymongo import WriteConcern
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.read_concern import ReadConcern

from reactor.clock import TimeScale
from reactor.store.protocol import BrokenDocument, RawDocument
from schemas.campaign import Campaign
from schemas.converter import InvalidDocumentError, from_document
from schemas.documents import CODEC, TOLERANT, decode

type Document = dict[str, Any]

#: The server's time, read with a document.
NOW = "_now"
#: Pinned templates that are kept, so that they are not read again with each batch.
TEMPLATES = 256


class MongoBase:
    def __init__(self, database: AsyncDatabase[Document], scale: TimeScale) -> None:
        majority = WriteConcern("majority")
        self._scale = scale
        self._database = database.with_options(codec_options=CODEC, write_concern=majority)
        self._raw: AsyncDatabase[RawBSONDocument] = database.with_options(
            codec_options=TOLERANT, write_concern=majority
        )
        self._settled = self._raw.with_options(read_concern=ReadConcern("majority"))
        self._templates: OrderedDict[str, Document] = OrderedDict()

    async def _server_time(self) -> datetime:
        hello = await self._database.command("hello", codec_options=CODEC)
        return self._read_time(hello["localTime"])

    def _read_time(self, server: datetime) -> datetime:
        return self._scale.campaign_time(server)

    async def _find(
        self, collection: str, query: Mapping[str, Any], **options: Any
    ) -> list[RawDocument]:
        cursor = self._raw[collection].find(query, **options)
        return [raw_of(document) for document in await cursor.to_list()]

    def _campaign(self, document: Document, raw: RawDocument) -> Campaign | BrokenDocument:
        """Read a campaign; its template may have been left out because it is known."""
        identity = document.get("_id")
        if "template" in document:
            self._templates[str(identity)] = document["template"]
            if len(self._templates) > TEMPLATES:
                self._templates.popitem(last=False)
        elif str(identity) in self._templates:
            document["template"] = self._templates[str(identity)]
        try:
            return from_document(Campaign, document)
        except InvalidDocumentError as error:
            return BrokenDocument(id=identity, raw=raw, problem="; ".join(error.problems[:3]))

    def _without_known_template(self, campaign: str) -> list[Mapping[str, Any]]:
        """Leave out of a pipeline's documents what never changes and is known already."""
        return [{"$unset": "template"}] if campaign in self._templates else []


def raw_of(document: RawBSONDocument) -> RawDocument:
    return RawDocument(bytes(document.raw))


def read_each[T](
    kind: type[T], raws: Sequence[RawDocument]
) -> tuple[list[T], list[BrokenDocument]]:
    """Read our own documents one by one: one that is broken stops no other."""
    read: list[T] = []
    broken: list[BrokenDocument] = []
    for raw in raws:
        identity: object = None
        try:
            document = decode(raw.data)
            identity = document.get("_id")
            read.append(from_document(kind, document))
        except InvalidDocumentError as error:
            problem = "; ".join(error.problems[:3])
            broken.append(BrokenDocument(id=identity, raw=raw, problem=problem))
    return read, broken
