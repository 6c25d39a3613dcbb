"""
Durations as documents and settings spell them: "90s", "2h", "P3D", or a number of seconds.

A day has 24 hours. Months and years are no durations, for they have no fixed length.
"""

import math
import re
from datetime import timedelta
from fractions import Fraction

from schemas.problems import show

#: Bounds every sum of a date and a duration far below the year 9999, where Python's dates end.
LONGEST = timedelta(days=36_525)
SHORT = r"([0-9]{1,15})([smhdw])"
ISO_8601 = (
    r"P(?=[0-9T])(?:([0-9]{1,15})W)?(?:([0-9]{1,15})D)?"
    r"(?:T(?=[0-9])(?:([0-9]{1,15})H)?(?:([0-9]{1,15})M)?(?:([0-9]{1,15}(?:\.[0-9]{1,9})?)S)?)?"
)

_MILLISECOND = timedelta(milliseconds=1)
_SECONDS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_SHORT = re.compile(SHORT)
_ISO_8601 = re.compile(ISO_8601)


def parse_duration(value: object) -> timedelta:
    """
    Read "90s", "15m", "2h", "3d", "1w", "PT1H30M", "P1W" or a number of seconds, to the nearest ms.

    ValueError: it is none of these, is negative, or is longer than 100 years.
    """
    seconds = _seconds(value)
    if seconds is None:
        raise ValueError(f"expected a duration like '2d', got {show(value)}")
    if seconds > LONGEST // timedelta(seconds=1):
        raise ValueError(f"expected a duration of at most 100 years, got {show(value)}")
    return timedelta(milliseconds=round(seconds * 1000))


def to_seconds(duration: timedelta) -> int | float:
    """Give the number of seconds, as an int where it is whole."""
    seconds = duration.total_seconds()
    return int(seconds) if seconds.is_integer() else seconds


def spell(duration: timedelta) -> str:
    """Give the duration in its largest whole unit: "2d", "90m"; "0.5s" where none is whole."""
    seconds = to_seconds(duration)
    for unit in "dhm":
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{seconds // _SECONDS[unit]}{unit}"
    return f"{seconds}s"


def _seconds(value: object) -> Fraction | int | float | None:
    if isinstance(value, str):
        return _from_text(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value < math.inf else None


def _from_text(text: str) -> Fraction | int | None:
    if short := _SHORT.fullmatch(text):
        number, unit = short.groups()
        return int(number) * _SECONDS[unit]
    if iso := _ISO_8601.fullmatch(text):
        return sum(
            Fraction(number) * length
            for number, length in zip(iso.groups(default="0"), _SECONDS.values(), strict=True)
        )
    return None
