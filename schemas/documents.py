"""BSON in: the one way in which documents are decoded, and how to find those that cannot be."""

import struct
from collections.abc import Mapping
from typing import Any

import bson
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument

from schemas.problems import InvalidDocumentError

#: Aware dates, UUIDs of the standard form; a date beyond Python's years becomes a DatetimeMS.
CODEC: CodecOptions[dict[str, Any]] = CodecOptions(
    tz_aware=True,
    uuid_representation=UuidRepresentation.STANDARD,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)
#: For what is passed on and not read: a driver that looks inside must not stumble.
TOLERANT: CodecOptions[RawBSONDocument] = CodecOptions(
    document_class=RawBSONDocument,
    unicode_decode_error_handler="replace",
    datetime_conversion=DatetimeConversion.DATETIME_MS,
)
#: Sizes of values by element type: those that are always the same, and what there is beside the
#: length that others begin with.
_FIXED = {0x01: 8, 0x06: 0, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8}
_FIXED |= {0x13: 16, 0x7F: 0, 0xFF: 0}
_BESIDE_LENGTH = {0x02: 4, 0x03: 0, 0x04: 0, 0x05: 5, 0x0C: 16, 0x0D: 4, 0x0E: 4, 0x0F: 0}
_REGEX = 0x0B


def decode(raw: bytes) -> dict[str, Any]:
    """Decode a document. InvalidDocumentError: it is no valid BSON; the text has nothing of it."""
    try:
        return bson.decode(raw, CODEC)
    except Exception as error:  # noqa: BLE001 -- bson raises many kinds, all about these bytes
        why = "a text that is not UTF-8" if "utf-8" in str(error) else type(error).__name__
        raise InvalidDocumentError([f"$: not valid BSON: {why}"]) from None


def id_filter(raw: bytes) -> Mapping[str, Any]:
    """
    Give the filter that finds the document again by its `_id`, even one that cannot be decoded.

    ValueError: there is no `_id`, or the bytes are no document.
    """
    kind, value = _found_identity(raw)
    # $eq, so that no `_id` is taken for an operator.
    equal = _document(bytes([kind]) + b"$eq\0" + value)
    return RawBSONDocument(_document(b"\x03_id\0" + equal), TOLERANT)


def only_id(raw: bytes) -> bytes:
    """
    Cut a document down to its `_id`, byte for byte.

    ValueError: there is no `_id`, or the bytes are no document.
    """
    kind, value = _found_identity(raw)
    return _document(bytes([kind]) + b"_id\0" + value)


def _found_identity(raw: bytes) -> tuple[int, bytes]:
    try:
        return _identity(raw)
    except (LookupError, ValueError, struct.error):
        raise ValueError("expected a document with an _id") from None


def _document(elements: bytes) -> bytes:
    return struct.pack("<i", len(elements) + 5) + elements + b"\0"


def _identity(raw: bytes) -> tuple[int, bytes]:
    """Find the type and the bytes of `_id`, passing over what stands before it."""
    at = 4
    while kind := raw[at]:
        start = raw.index(b"\0", at + 1) + 1
        end = start + _width(kind, raw, start)
        if raw[at + 1 : start] == b"_id\0" and end < len(raw):
            return kind, raw[start:end]
        at = end
    raise KeyError("_id")


def _width(kind: int, raw: bytes, start: int) -> int:
    """Give the size of a value, by its type: see bsonspec.org."""
    if kind in _FIXED:
        return _FIXED[kind]
    if kind == _REGEX:
        pattern_end = raw.index(b"\0", start)
        return raw.index(b"\0", pattern_end + 1) + 1 - start
    length: int = struct.unpack_from("<i", raw, start)[0]
    if length < 0:
        raise ValueError("expected a length of at least 0")
    return length + _BESIDE_LENGTH[kind]
