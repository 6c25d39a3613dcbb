"""The order of BSON values across types, as the server sorts them."""

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from bson.binary import UUID_SUBTYPE, Binary
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.objectid import ObjectId
from bson.timestamp import Timestamp


def bson_order(value: object) -> tuple[Any, ...]:
    """Give a key to sort by: the rank of the type, then what is compared within it."""
    if isinstance(value, bool):
        return _BOOLEAN, value
    for rank, (kinds, key) in enumerate(_TYPES):
        if isinstance(value, kinds):
            return rank, key(value)
    return len(_TYPES), repr(value)


def _number(value: Any) -> tuple[Any, ...]:
    number = value.to_decimal() if isinstance(value, Decimal128) else value
    # NaN comes before all numbers.
    return (0,) if math.isnan(number) else (1, number)


def _members(value: Mapping[str, object]) -> tuple[Any, ...]:
    ordered = [(name, bson_order(member)) for name, member in value.items()]
    return tuple((order[0], name.encode(), order[1]) for name, order in ordered)


def _binary(value: Any) -> tuple[Any, ...]:
    if isinstance(value, UUID):
        return len(value.bytes), UUID_SUBTYPE, value.bytes
    subtype = value.subtype if isinstance(value, Binary) else 0
    return len(value), subtype, bytes(value)


def _same(_: object) -> int:
    return 0


#: By rank.
_TYPES: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (MinKey, _same),
    (type(None), _same),
    ((int, float, Decimal128), _number),
    (str, lambda text: text.encode()),
    (Mapping, _members),
    ((list, tuple), lambda values: tuple(bson_order(value) for value in values)),
    ((UUID, bytes), _binary),
    (ObjectId, lambda identity: identity.binary),
    (bool, bool),
    (
        (datetime, DatetimeMS),
        lambda date: int(date if isinstance(date, DatetimeMS) else DatetimeMS(date)),
    ),
    (Timestamp, lambda stamp: (stamp.time, stamp.inc)),
    (MaxKey, _same),
)
#: To Python a bool is an int: it must not come under the numbers.
_BOOLEAN = [kinds for kinds, _ in _TYPES].index(bool)
