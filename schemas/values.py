"""
Reading single values of documents, strictly: nothing is taken for what it is not.

Each reader raises ValueError, "expected …, got …".
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from bson.binary import UUID_SUBTYPE, Binary
from bson.datetime_ms import DatetimeMS
from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.tz_util import utc as _BSON_UTC  # noqa: N812 -- a constant
from cattrs import Converter

from schemas.action import Action, ActionKind, go_to
from schemas.address import KIND, MAX_ADDRESS
from schemas.duration import parse_duration
from schemas.ids import AgentId
from schemas.problems import Fault, below, show
from schemas.template import NAME

MAX_ID = 500
MAX_MEMBERS = 1_000
#: Dates end here, so that no sum with a duration passes the year 9999, where Python's dates end.
FIRST_DATE = datetime(1970, 1, 1, tzinfo=UTC)
LAST_DATE = datetime(3000, 1, 1, tzinfo=UTC)

_STAGE = re.compile(NAME)
_KIND = re.compile(KIND)
_WORDS = {kind.value: Action(kind) for kind in ActionKind if kind is not ActionKind.GO_TO}
_ACTIONS = f"{' | '.join(_WORDS)} | {{go_to: stage}}"


def register_scalars(converter: Converter) -> None:
    """Replace the readers of cattrs, which make a string or a number of anything."""
    # By class, for so are those they replace. That of str is asked for its enums as well.
    converter.register_structure_hook(str, read_text)
    converter.register_structure_hook(int, read_int)
    converter.register_structure_hook(float, read_float)
    converter.register_structure_hook(bool, read_bool)


def read_string(value: object, _: object = None) -> str:
    # Exactly str: bson's Code is a str as well.
    if type(value) is str:
        return value
    hint = ": write it in quotes" if isinstance(value, bool) else ""
    raise ValueError(f"expected a string, got {show(value)}{hint}")


def read_int(value: object, _: object = None) -> int:
    if type(value) is int and -(2**63) <= value < 2**63:
        return value
    if type(value) is Int64 or (type(value) is float and value.is_integer()):
        number = int(value)
        if -(2**63) <= number < 2**63:
            return number
    raise ValueError(f"expected an integer, got {show(value)}")


def read_float(value: object, _: object = None) -> float:
    if type(value) in {int, Int64, float} and -math.inf < value < math.inf:  # type: ignore[operator]
        return float(value)  # type: ignore[arg-type]
    raise ValueError(f"expected a number, got {show(value)}")


def read_bool(value: object, _: object = None) -> bool:
    if type(value) is bool:
        return value
    raise ValueError(f"expected true or false, got {show(value)}")


def read_stored_date(value: object, _: object = None) -> datetime:
    """Read an aware date, as UTC and in whole milliseconds."""
    if type(value) is datetime and value.tzinfo is _BSON_UTC and not value.microsecond % 1000:
        # What bson calls UTC is another object: comparing dates that have the same one is faster.
        return value.replace(tzinfo=UTC)
    if not isinstance(value, datetime):
        if isinstance(value, DatetimeMS):
            raise ValueError("expected a date in the years 1 to 9999, got one beyond them")  # noqa: TRY004
        kind = "string " if isinstance(value, str) else ""
        raise ValueError(f"expected a date, got {kind}{show(value)}")  # noqa: TRY004
    if value.tzinfo is None:
        raise ValueError("expected a date with a time zone, got one without")
    value = value.astimezone(UTC)
    excess = value.microsecond % 1000
    return value - timedelta(microseconds=excess) if excess else value


def read_date(value: object, _: object = None) -> datetime:
    """Read a date that an agent wrote: one from 1970 to 2999."""
    date = read_stored_date(value)
    if not FIRST_DATE <= date < LAST_DATE:
        raise ValueError(f"expected a date from 1970 to 2999, got one in the year {date.year}")
    return date


def read_id(value: object, _: object = None) -> AgentId:
    """Read what an agent may use as `_id`."""
    if type(value) is str:
        if 1 <= len(value) <= MAX_ID:
            return value
        raise ValueError(f"expected a string of 1 to {MAX_ID} characters, got {len(value)}")
    if isinstance(value, ObjectId | UUID):
        return value
    if isinstance(value, Binary) and value.subtype == UUID_SUBTYPE and len(value) == 16:  # noqa: PLR2004
        return UUID(bytes=bytes(value))
    raise ValueError(f"expected a string, an ObjectId or a UUID, got {show(value)}")


def read_action(value: object, _: object = None) -> Action:
    """Read a word, or `{go_to: stage}`."""
    if type(value) is str and value in _WORDS:
        return _WORDS[value]
    if not isinstance(value, Mapping):
        raise ValueError(f"expected {_ACTIONS}, got {show(value)}")  # noqa: TRY004
    names = [name for name in value if not is_private(name)]
    if names != ["go_to"]:
        raise ValueError(f"expected {_ACTIONS}, got an object with other fields than go_to")
    stage = value["go_to"]
    if type(stage) is not str or not _STAGE.fullmatch(stage):
        raise Fault(".go_to", f"expected the id of a stage, got {show(stage)}")
    return go_to(stage)


def write_action(action: Action) -> str | dict[str, str | None]:
    return {"go_to": action.stage} if action.kind is ActionKind.GO_TO else action.kind.value


def _word(value: object) -> str:
    word = read_string(value)
    if not word:
        raise ValueError("expected a string that is not empty")
    return word


def _address(value: object) -> str:
    address = read_string(value)
    if len(address) > MAX_ADDRESS:
        raise ValueError(f"expected at most {MAX_ADDRESS} characters, got {len(address)}")
    return address


def read_text(value: object, kind: Any) -> str:
    """Read a string, or a member of an enum of strings by its value."""
    return read_string(value) if kind is str else read_enum(value, kind)


def read_enum(value: object, kind: type[StrEnum]) -> StrEnum:
    try:
        return kind(value)  # type: ignore[arg-type]
    except ValueError:
        raise ValueError(f"expected {' | '.join(kind)}, got {show(value)}") from None


def read_recipient_id(value: object) -> str:
    identity = read_string(value)
    if 1 <= len(identity) <= MAX_ID:
        return identity
    raise ValueError(f"expected 1 to {MAX_ID} characters, got {len(identity)}")


def read_duration(value: object, _: object = None) -> timedelta:
    return parse_duration(value)


def read_anything(value: object, _: object = None) -> object:
    return value


def read_list(value: object, _: object = None) -> tuple[object, ...]:
    """Read a list of anything."""
    if isinstance(value, list | tuple):
        return tuple(value)
    raise ValueError(f"expected a list, got {show(value)}")


def read_members(value: object) -> tuple[object, ...]:
    """Read a list of what is looked at one by one, which must not take for ever."""
    members = read_list(value)
    if len(members) > MAX_MEMBERS:
        raise ValueError(f"expected at most {MAX_MEMBERS} entries, got {len(members)}")
    return members


def read_mapping(value: object, _: object = None) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    raise ValueError(f"expected an object, got {show(value)}")


def read_words(value: object, _: object = None) -> tuple[str, ...]:
    """Read one string or several. An empty list is refused: it would mean "any", unsaid."""
    if not isinstance(value, list | tuple):
        return (_word(value),)
    if not value:
        raise ValueError("expected a string or a list of strings, got an empty list")
    return tuple(gather(_word, enumerate(read_members(value))).values())


def read_address(value: object, _: object = None) -> Mapping[str, str]:
    """Read addresses by their kind, as given."""
    mapping = read_mapping(value)
    for kind in mapping:
        if not is_private(kind) and not (isinstance(kind, str) and _KIND.fullmatch(kind)):
            raise Fault(below("", kind), "expected an address kind like email, sms or push-token")
    given = ((kind, address) for kind, address in mapping.items() if not is_private(kind))
    return gather(_address, given)


def gather[K, T](read: Callable[[object], T], members: Iterable[tuple[K, object]]) -> dict[K, T]:
    """Read every member, and raise all that is wrong with them together."""
    found: dict[K, T] = {}
    faults: list[Exception] = []
    for name, member in members:
        try:
            found[name] = read(member)
        except ValueError as error:
            faults.append(Fault(below("", name), str(error)))
    if faults:
        raise ExceptionGroup("members", faults)
    return found


def is_private(name: object) -> bool:
    """Tell whether a field is its writer's own, and to be ignored."""
    return isinstance(name, str) and name.startswith("_")
