"""BSON that is passed on as it stands: ids of documents that may be undecodable."""

import struct
from collections.abc import Iterable, Mapping
from typing import Any

import bson
from bson.binary import USER_DEFINED_SUBTYPE, Binary
from bson.raw_bson import RawBSONDocument

from reactor.store.protocol import RawDocument
from schemas.documents import CODEC, TOLERANT, decode, only_id
from schemas.problems import InvalidDocumentError

#: Decodes what is valid BSON but for its texts: those come with replacement characters.
GLANCE = CODEC.with_options(unicode_decode_error_handler="replace")


def glance(raw: bytes) -> dict[str, Any]:
    """Look at a document as far as it can be read; at one that is no BSON at all, as empty."""
    try:
        return bson.decode(raw, GLANCE)
    except Exception:  # noqa: BLE001 -- bson raises many kinds, all about these bytes
        return {}


def ids_filter(documents: Iterable[RawDocument]) -> Mapping[str, Any]:
    """Give the filter that finds documents by their ids, even such as cannot be decoded."""
    ids = [_element(only_id(document.data)) for document in documents]
    array = _document((kind, str(at).encode(), value) for at, (kind, value) in enumerate(ids))
    among = _document([(0x04, b"$in", array)])
    return RawBSONDocument(_document([(0x03, b"_id", among)]), TOLERANT)


def position_of(raw: bytes) -> object:
    """
    Give a document's `_id` as a value that says where it stands and can be stored.

    One that cannot be decoded, and null, which would say "from the start", come wrapped.
    """
    identity = only_id(raw)
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
    """Give the value of `{_id: …}` as a constant of the aggregation language."""
    kind, value = _element(identity)
    return RawBSONDocument(_document([(kind, b"$literal", value)]), TOLERANT)


def _is_wrapped(position: object) -> bool:
    return isinstance(position, Binary) and position.subtype == USER_DEFINED_SUBTYPE


def _element(identity: bytes) -> tuple[int, bytes]:
    """Give type and value of what `{_id: …}` holds: after its length, the type and `_id`."""
    return identity[4], identity[9:-1]


def _document(elements: Iterable[tuple[int, bytes, bytes]]) -> bytes:
    inside = b"".join(bytes([kind]) + name + b"\0" + value for kind, name, value in elements)
    return struct.pack("<i", len(inside) + 5) + inside + b"\0"
