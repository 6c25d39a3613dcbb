"""
Filters that are pure and bounded where Liquid's own are not.

Liquid's `date` reads the clock and the zone of the machine, `replace` and `join` grow with the
product of what they are given, `uniq` takes quadratic time, and `map` makes objects that print
their address.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, tzinfo
from functools import partial
from typing import Protocol, Self

from liquid import Markup
from liquid.exceptions import FilterArgumentError
from liquid.filter import sequence_filter, with_context

MAX_OUTPUT = 200_000
"""Characters of a rendered text, and of any value on the way to it."""


MAX_FORMAT = 200
"""Characters of the format of a date."""


class RefusedError(FilterArgumentError):
    """A template asks for what it may not have. Its text quotes nothing but the template."""

    def __init__(self, text: str) -> None:
        super().__init__(text, token=None)


class LocalTime(datetime):
    """A time in the recipient's zone, which prints itself in ISO 8601."""

    @classmethod
    def of(cls, moment: datetime, zone: tzinfo) -> Self:
        """Take a time without a zone for UTC, as BSON has it, not for the machine's."""
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        local = aware.astimezone(zone)
        return cls.combine(local.date(), local.timetz())

    def __str__(self) -> str:
        return self.isoformat(timespec="seconds")

    def __repr__(self) -> str:
        return repr(str(self))


class HasClock(Protocol):
    """What one rendering takes for the time, and for here."""

    now: LocalTime
    zone: tzinfo


#: What most values are.
_PLAIN = frozenset({str, int, float, bool, type(None)})


def localised(value: object, zone: tzinfo) -> object:
    """Reduce a value to what Liquid knows, with every time in `zone`; the rest becomes text."""
    if type(value) in _PLAIN:
        return value
    match value:
        case str() | int() | float():
            return value
        case datetime():
            return LocalTime.of(value, zone)
        # Nearly every one is a dict: to ask the abstract class takes longer than all the rest.
        case dict() | Mapping():
            return {str(key): localised(inner, zone) for key, inner in value.items()}
        case list() | tuple():
            return [localised(inner, zone) for inner in value]
        case _:
            return str(value)


def weigh(value: object) -> int:
    """Return about how many characters a value prints, and eight for each of its parts."""
    if isinstance(value, str):
        return 8 + len(value)
    if isinstance(value, dict):
        return 8 + sum(map(weigh, value)) + sum(map(weigh, value.values()))
    if isinstance(value, list | tuple):
        return 8 + sum(map(weigh, value))
    return 8 + 8 * len(value) if isinstance(value, range) else 8


@with_context
def date(value: object, fmt: object = None, *, context: HasClock) -> object:
    """
    Show a time in the recipient's zone; without a format in ISO 8601.

    Times are datetimes, `now`, `today`, Unix seconds, and ISO 8601 texts, which are of that zone
    unless they name another. What is no time stays as it is.
    """
    moment = _moment(value, context)
    if moment is None:
        return value
    if not fmt:
        return str(moment)
    if len(str(fmt)) > MAX_FORMAT:
        raise RefusedError(f"a format of more than {MAX_FORMAT} characters")
    text = _DIRECTIVE.sub(partial(_field, moment), str(fmt))
    return Markup(text) if isinstance(fmt, Markup) else text


def _moment(value: object, clock: HasClock) -> LocalTime | None:
    if isinstance(value, LocalTime):
        return value
    if value in {"now", "today"}:
        return clock.now
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, int | float):
        return LocalTime.fromtimestamp(value, clock.zone)
    try:
        written = datetime.fromisoformat(str(value).strip())
    except ValueError:
        return None
    aware = written if written.tzinfo else written.replace(tzinfo=clock.zone)
    return LocalTime.of(aware, clock.zone)


_DIRECTIVE = re.compile(r"%([-^_]?)(:z|[aAbBcCdDeFgGhHIjklLmMnNpPrRsStTuUVwWxXyYzZ%])")

# What strftime lacks, or does otherwise elsewhere; its `%s` even takes the machine's zone.
_FIELDS: dict[str, Callable[[datetime], str]] = {
    "C": lambda moment: f"{moment.year // 100:02}",
    "L": lambda moment: f"{moment.microsecond // 1000:03}",
    "N": lambda moment: f"{moment.microsecond * 1000:09}",
    "P": lambda moment: f"{moment:%p}".lower(),
    "Y": lambda moment: f"{moment.year:04}",
    "e": lambda moment: f"{moment.day:2}",
    "k": lambda moment: f"{moment.hour:2}",
    "l": lambda moment: f"{moment.hour % 12 or 12:2}",
    "s": lambda moment: str(int(moment.timestamp())),
}


def _field(moment: datetime, match: re.Match[str]) -> str:
    flag, name = match.groups()
    text = _FIELDS[name](moment) if name in _FIELDS else moment.strftime(f"%{name}")
    if flag == "-":
        return text.lstrip(" 0") or "0"
    if flag == "_":
        return (text.lstrip("0") or "0").rjust(len(text))
    return text.upper() if flag == "^" else text


def size_of_replace(val: object, seq: object, sub: object = "") -> int:
    return str(val).count(str(seq)) * len(str(sub))


def size_of_join(left: object, separator: object = " ") -> int:
    count = len(left) if isinstance(left, list | tuple | range) else 1
    return weigh(left) + count * len(str(separator))


SIZES: dict[str, Callable[..., int]] = {"join": size_of_join, "replace": size_of_replace}
"""About the size of what they make, told before the work: it is the product of what they are given."""


@sequence_filter
def uniq(items: list[object], key: object = None) -> list[object]:
    distinct: dict[object, object] = {}
    for item in items:
        value = item if key is None else _member(item, key)
        mark = value if isinstance(value, str | int | float) else (repr(value),)
        distinct.setdefault(mark, item)
    return list(distinct.values())


@sequence_filter
def select(items: list[object], key: object) -> list[object]:
    """Liquid's `map`, with nil for what is not there."""
    return [_member(item, key) for item in items]


def _member(item: object, key: object) -> object:
    if not isinstance(item, dict):
        raise RefusedError("takes a list of objects")
    return item.get(str(key))
