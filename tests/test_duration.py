"""Durations: what is read, what is refused, and how they are written."""

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.duration import LONGEST, parse_duration, spell, to_seconds

WHOLE_MS = st.integers(0, LONGEST // timedelta(milliseconds=1)).map(
    lambda ms: timedelta(milliseconds=ms)
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("2h", timedelta(hours=2)),
        ("3d", timedelta(days=3)),
        ("1w", timedelta(days=7)),
        ("0s", timedelta(0)),
        ("P3D", timedelta(days=3)),
        ("P1W", timedelta(days=7)),
        ("PT1H30M", timedelta(hours=1, minutes=30)),
        ("P1DT12H", timedelta(hours=36)),
        ("PT0.25S", timedelta(milliseconds=250)),
        (90, timedelta(seconds=90)),
        (1.5, timedelta(milliseconds=1500)),
        (0.0014, timedelta(milliseconds=1)),
        ("36525d", LONGEST),
    ],
)
def test_reads(value, expected):
    """Short and ISO 8601 spellings and seconds are read, to whole milliseconds."""
    assert parse_duration(value) == expected


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("soon", "'soon'"),
        ("", "''"),
        ("2", "'2'"),
        ("2D", "'2D'"),
        (" 2d", "' 2d'"),
        ("2d\n", r"'2d\n'"),
        ("-2d", "'-2d'"),
        ("1.5h", "'1.5h'"),
        ("\u0662d", "'\u0662d'"),
        ("P", "'P'"),
        ("PT", "'PT'"),
        ("P1DT", "'P1DT'"),
        ("P1Y", "'P1Y'"),
        ("P2M", "'P2M'"),
        (-1, "-1"),
        (True, "true"),
        (None, "null"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        ([], "a list"),
        ({}, "an object"),
    ],
)
def test_refuses(value, shown):
    """Whatever is no duration is refused, months and years too, and told what was expected."""
    with pytest.raises(ValueError, match="expected a duration") as refused:
        parse_duration(value)
    assert str(refused.value) == f"expected a duration like '2d', got {shown}"


@pytest.mark.parametrize(
    "value", ["36526d", "999999999999999w", 10**400, 3.2e9, "PT9999999999999H"]
)
def test_refuses_more_than_a_century(value):
    """A duration that could carry a date past Python's years is refused, however it is written."""
    with pytest.raises(ValueError, match="expected a duration of at most 100 years, got"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("duration", "spelled"),
    [
        (timedelta(days=14), "14d"),
        (timedelta(hours=36), "36h"),
        (timedelta(minutes=90), "90m"),
        (timedelta(seconds=61), "61s"),
        (timedelta(milliseconds=1500), "1.5s"),
        (timedelta(0), "0s"),
    ],
)
def test_spells(duration, spelled):
    """A duration is shown in its largest whole unit."""
    assert spell(duration) == spelled


@given(WHOLE_MS)
def test_seconds_come_back(duration):
    """The number of seconds that is stored is read as the same duration."""
    assert parse_duration(to_seconds(duration)) == duration


@given(st.integers(0, 36_525 * 86_400))
def test_spelling_comes_back(seconds):
    """What is shown of whole seconds could have been written."""
    duration = timedelta(seconds=seconds)
    assert parse_duration(spell(duration)) == duration
