"""Filters of our own, and what they reckon with: weights, sizes, times."""

import time
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from zoneinfo import ZoneInfo

import pytest

from handlers.liquid_filters import (
    LocalTime,
    localised,
    select,
    size_of_join,
    size_of_replace,
    uniq,
    weigh,
)

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 7, 1, 12, 0, 1, 2000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "weight"),
    [
        (None, 8),
        (10**100, 8),
        ("", 8),
        ("abc", 11),
        ([], 8),
        (["ab", 1], 26),
        (("a", ["b"]), 34),
        ({}, 8),
        ({"a": "bcd", "e": ["f"]}, 54),
        (range(1, 4), 32),
        (range(0), 8),
    ],
)
def test_weigh(value, weight):
    """A value weighs what it prints, and eight for each of its parts, itself among them."""
    assert weigh(value) == weight


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ((["a", "b"], ", "), 30),
        ((["a", "b"],), 28),
        ((("a", "b"), 12), 30),
        ((range(1, 4), "abc"), 41),
        (("ab", "-"), 11),
        (("", "--"), 10),
        ((5, "-"), 9),
    ],
)
def test_size_of_join(given, size):
    """What `join` makes is as long as its items, and the separator as often as there are items."""
    assert size_of_join(*given) == size


@pytest.mark.parametrize(
    ("given", "size"),
    [
        (("aXbX", "X", "---"), 6),
        (("aXbX", "X"), 0),
        (("abc", "", "--"), 8),
        ((1121, 1, 10), 6),
        (("abc", "x", "-"), 0),
    ],
)
def test_size_of_replace(given, size):
    """What `replace` adds is what it puts in, as often as it finds what it looks for."""
    assert size_of_replace(*given) == size


@pytest.mark.parametrize(
    ("value", "known"),
    [
        (None, None),
        (True, True),
        (1.5, 1.5),
        ("a", "a"),
        (("a", (1,)), ["a", [1]]),
        (MappingProxyType({1: ("a",)}), {"1": ["a"]}),
        (date(2026, 7, 1), "2026-07-01"),
        (Decimal("1.50"), "1.50"),
        (b"a", "b'a'"),
    ],
)
def test_localised(value, known):
    """A value becomes what Liquid knows: its lists and objects anew, times here, the rest text."""
    found = localised(value, BERLIN)
    assert found == known
    assert type(found) is type(known)


def test_localised_times():
    """Every time in a value is the recipient's, however deep it stands."""
    value = {"at": NOON, "list": [NOON, (NOON, {1: NOON})]}
    shown = "'2026-07-01T14:00:01+02:00'"
    expected = f"{{'at': {shown}, 'list': [{shown}, [{shown}, {{'1': {shown}}}]]}}"
    assert str(localised(value, BERLIN)) == expected


@pytest.fixture
def _elsewhere(monkeypatch):
    """Put the machine into a zone that is neither UTC nor the recipient's."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize(
    ("moment", "shown"),
    [
        (NOON, "2026-07-01T14:00:01+02:00"),
        (NOON.replace(tzinfo=None), "2026-07-01T14:00:01+02:00"),
        (NOON.replace(tzinfo=timezone(timedelta(hours=5))), "2026-07-01T09:00:01+02:00"),
        (datetime(2026, 10, 25, 0, 30, tzinfo=UTC), "2026-10-25T02:30:00+02:00"),
        (datetime(2026, 10, 25, 1, 30, tzinfo=UTC), "2026-10-25T02:30:00+01:00"),
    ],
)
def test_local_time(moment, shown):
    """A time is the recipient's, to the second, and UTC where it had no zone, on any machine."""
    local = LocalTime.of(moment, BERLIN)
    assert (type(local), str(local), repr(local)) == (LocalTime, shown, repr(shown))
    assert (
        local.timestamp() == (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    )
    assert local.tzinfo is BERLIN


@pytest.mark.parametrize(
    ("items", "given", "distinct"),
    [
        (["b", "a", "b"], (), ["b", "a"]),
        ([1, 1.0, "1", None, None, [2], {"a": 1}, {"a": 1}], (), [1, "1", None, 2, {"a": 1}]),
        ([{"a": 1, "b": 1}, {"a": 1, "b": 2}], ("a",), [{"a": 1, "b": 1}]),
        ([{"a": 1}, {"b": 2}, {}], ("a",), [{"a": 1}, {"b": 2}]),
        ([{"1": 1}, {"1": 1}], (1,), [{"1": 1}]),
        ("ab", (), ["ab"]),
    ],
)
def test_uniq(items, given, distinct):
    """Of equal items the first is kept, or of those with an equal member."""
    assert uniq(items, *given) == distinct


def test_select():
    """Of each object one member is taken, nil where there is none."""
    assert select([{"a": 1, "1": 2}, {}], "a") == [1, None]
    assert select({"1": 2}, 1) == [2]
