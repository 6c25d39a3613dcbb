"""BSON that is passed on as it stands: ids of documents that may be undecodable."""

import struct
from collections.abc import Iterable, Mapping
from typing import Any

import bson
from bson.binary import USER_DEFINED_SUBTYPE, Binary
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument

from reactor.store.protocol import RawDocument
from schemas.documents import CODEC, decode, id_filter
from schemas.problems import InvalidDocumentError

#: For what is only looked at: whom a document is about, its status. A text that is no UTF-8 comes
#: with replacement characters.
TOLERANT: CodecOptions[dict[str, Any]] = CODEC.with_options(unicode_decode_error_handler="replace")
#: For what comes from the database: documents whose insides are left as they are.
UNDECODED: CodecOptions[RawBSONDocument] = CODEC.with_options(
    document_class=RawBSONDocument, unicode_decode_error_handler="replace"
)


def glance(raw: bytes) -> dict[str, Any]:
    """Decode what is valid BSON but for its texts."""
    return bson.decode(raw, TOLERANT)


def raw_id(raw: bytes) -> RawDocument:
    """Give `{_id: …}` of a document."""
    kind, value = _id_element(raw)
    return RawDocument(_document([(kind, b"_id", value)]))


def ids_filter(documents: Iterable[RawDocument]) -> Mapping[str, Any]:
    """Give the filter that finds documents by their ids, even such as cannot be decoded."""
    ids = [_id_element(document.data) for document in documents]
    array = _document((kind, str(at).encode(), value) for at, (kind, value) in enumerate(ids))
    among = _document([(0x04, b"$in", array)])
    return RawBSONDocument(_document([(0x03, b"_id", among)]), UNDECODED)


def position_of(raw: bytes) -> object:
    """
    Give a document's `_id` as a value that says where it stands and can be stored.

    One that cannot be decoded, and null, which would say "from the start", come wrapped.
    """
    identity = raw_id(raw).data
    try:
        position = decode(identity)["_id"]
    except InvalidDocumentError:
        return Binary(identity, USER_DEFINED_SUBTYPE)
    if position is None or _is_wrapped(position):
        return Binary(identity, USER_DEFINED_SUBTYPE)
    return position


def unwrapped(position: object) -> bytes:
    """Give `{_id: …}` for what `position_of` gave."""
    if isinstance(position, Binary) and _is_wrapped(position):
        return bytes(position)
    return bson.encode({"_id": position}, codec_options=CODEC)


def literal(identity: bytes) -> Mapping[str, Any]:
    """Give the `_id` of a document as a constant of the aggregation language."""
    kind, value = _id_element(identity)
    return RawBSONDocument(_document([(kind, b"$literal", value)]), UNDECODED)


def _is_wrapped(position: object) -> bool:
    return isinstance(position, Binary) and position.subtype == USER_DEFINED_SUBTYPE


def _id_element(raw: bytes) -> tuple[int, bytes]:
    """Give type and value of `_id`."""
    equal: bytes = id_filter(raw)["_id"].raw
    start = equal.index(b"\0", 5) + 1
    return equal[4], equal[start:-1]


def _document(elements: Iterable[tuple[int, bytes, bytes]]) -> bytes:
    inside = b"".join(bytes([kind]) + name + b"\0" + value for kind, name, value in elements)
    return struct.pack("<i", len(inside) + 5) + inside + b"\0"
