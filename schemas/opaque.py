"""Objects that are only kept and shown: `metadata`, and a recipient's `attributes`."""

from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any

import bson
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from bson.errors import InvalidDocument

from schemas.problems import Fault, below, show
from schemas.values import read_mapping

MAX_DEPTH = 100
MAX_BYTES = 1_000_000
_CODEC: CodecOptions[dict[str, object]] = CodecOptions(
    uuid_representation=UuidRepresentation.STANDARD
)


def read_opaque(value: object, _: object = None) -> Mapping[str, Any]:
    """
    Read what is only kept and shown, never understood.

    A name that begins with `$` is refused: to MongoDB it is an operator, to drivers a reference.
    Names with dots are kept: we write such an object only as a whole.
    """
    opaque = read_mapping(value)
    _look_through(opaque, ())
    size = bson_size(opaque)
    if size > MAX_BYTES:
        raise ValueError(f"expected at most {MAX_BYTES} bytes, got {size}")
    return opaque


def bson_size(document: Mapping[str, Any]) -> int:
    """Give the size of a document in bytes. ValueError: it holds what BSON cannot."""
    try:
        return len(bson.encode(document, codec_options=_CODEC))
    except (InvalidDocument, OverflowError, RecursionError, TypeError, ValueError):
        raise ValueError("expected values that BSON can hold") from None


def _look_through(value: object, place: tuple[object, ...]) -> None:
    members: Iterable[tuple[object, object]]
    if isinstance(value, Mapping):
        for name in value:
            if isinstance(name, str) and name.startswith("$"):
                wrong = f"expected names that do not begin with '$', got {show(name)}"
                raise Fault(_path(place), wrong)
        members = value.items()
    elif isinstance(value, list | tuple):
        members = enumerate(value)
    elif isinstance(value, bson.DBRef):
        raise Fault(_path(place), "expected no reference (an object with '$ref')")
    else:
        return
    if len(place) >= MAX_DEPTH:
        # Without its path, which would be as long as the nesting is deep.
        raise ValueError(f"expected at most {MAX_DEPTH} levels of nesting")
    for name, member in members:
        if not isinstance(member, str):
            _look_through(member, (*place, name))


def _path(place: tuple[object, ...]) -> str:
    return reduce(below, place, "")
