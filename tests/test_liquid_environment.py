"""What one rendering may see and take: its steps, its variables, its output, its filters."""

from datetime import UTC, datetime
from io import StringIO
from types import MappingProxyType
from zoneinfo import ZoneInfo

import pytest
from liquid.exceptions import UndefinedError

from handlers.liquid_environment import (
    MAX_ASSIGNED,
    MAX_BITS,
    MAX_BLOCKS,
    MAX_RANGE,
    MAX_STEPS,
    BoundedRange,
    Escape,
    MessageContext,
    Missing,
    make_environment,
)
from handlers.liquid_filters import MAX_OUTPUT, RefusedError, date, select, uniq
from handlers.rendering import check_template, render, shown

NOW = datetime(2026, 11, 23, 22, 30, tzinfo=UTC)


def scope(size=1, *, escape=Escape.PLAIN, **values):
    """Make the context of a rendering of a template of this size, with these values."""
    template = make_environment(escape).from_string("")
    return MessageContext(template, values, size=size, now=NOW, zone=ZoneInfo("Europe/Berlin"))


def refused(act, *values):
    """Return why the act is refused."""
    with pytest.raises(RefusedError) as caught:
        act(*values)
    assert caught.value.token is None
    return caught.value.args[0]


def taken(context):
    """Return how many steps a rendering has taken."""
    return MAX_STEPS - context.steps


def test_steps():
    """A rendering may take so many steps, and not one more."""
    context = scope()
    context.charge(MAX_STEPS)
    assert refused(context.charge, 1) == "takes more than 200000 steps"


@pytest.mark.parametrize(("count", "steps"), [(0, 0), (255, 0), (256, 1), (511, 1), (1024, 4)])
def test_steps_of_characters(count, steps):
    """Each 256 characters are a step."""
    context = scope()
    context.charge_characters(count)
    assert taken(context) == steps


def test_steps_of_a_loop():
    """A loop takes the template's size for each of its iterations."""
    context = scope(7)
    context.raise_for_loop_limit(3)
    assert taken(context) == 21
    context.raise_for_loop_limit()
    assert taken(context) == 28


@pytest.mark.parametrize(
    ("value", "steps"),
    [
        (10**100, 0),
        ("a" * 255, 0),
        ("a" * 256, 1),
        (["a" * 256] * 7, 0),
        ([1] * 8, 1),
        ([1] * 63, 7),
        ({str(n): n for n in range(16)}, 2),
    ],
)
def test_steps_of_reading(value, steps):
    """Reading takes a step for 256 characters of a text, and for 8 items."""
    context = scope(value=value, outer={"inner": value})
    assert context.get(["value"], token=None) == value
    assert taken(context) == steps
    assert context.get(["outer", "inner"], token=None) == value
    assert taken(context) == 2 * steps


def test_reading_what_is_not_there():
    """What is not there is a default where one is given, else it is missing."""
    context = scope(a={})
    assert context.get(["a", "b"], token=None, default=7) == 7
    assert isinstance(context.get(["a", "b"], token=None), Missing)
    assert isinstance(context.get(["b"], token=None), Missing)
    assert taken(context) == 0


def test_assigned():
    """A variable takes steps to make, and all of them together so many characters and no more."""
    context = scope()
    context.assign("a", "x" * 248)
    assert (context.get(["a"], token=None), taken(context)) == ("x" * 248, 1)
    for name in "abcde":
        context.assign(name, "x" * (MAX_ASSIGNED // 5 - 8))
    assert context.assigned == MAX_ASSIGNED
    context.assign("a", "")
    context.assign("a", "x" * (MAX_ASSIGNED // 5 - 8))
    assert context.assigned == MAX_ASSIGNED
    assert refused(context.assign, "f", "") == "assigns more than 1000000 characters"
    assert "f" not in context.locals


def test_output():
    """A text may become so long, and no longer; each 256 characters written are a step."""
    context = scope()
    buffer = context.get_buffer()
    assert buffer.write("a" * 300) == 300
    assert taken(context) == 1
    assert buffer.write("b" * (MAX_OUTPUT - 300)) == MAX_OUTPUT - 300
    assert refused(buffer.write, "c") == "makes more than 200000 characters"
    assert buffer.getvalue() == "a" * 300 + "b" * (MAX_OUTPUT - 300)


def test_output_within():
    """What is captured has the room that the text around it has left."""
    context = scope()
    outer = context.get_buffer()
    outer.write("a" * 10)
    inner = context.get_buffer(outer)
    inner.write("b" * (MAX_OUTPUT - 10))
    assert refused(inner.write, "c") == "makes more than 200000 characters"
    assert outer.room == MAX_OUTPUT - 10
    assert context.get_buffer(StringIO("a" * 10)).room == MAX_OUTPUT


@pytest.mark.parametrize(
    ("name", "values", "result"),
    [
        ("plus", (2**MAX_BITS - 2, 1), 2**MAX_BITS - 1),
        ("minus", (1 - 2**MAX_BITS, 0), 1 - 2**MAX_BITS),
        ("append", ("a" * MAX_OUTPUT, ""), "a" * MAX_OUTPUT),
        ("replace", ("a" * 2000, "a", "b" * 100), "b" * MAX_OUTPUT),
        ("join", (["a" * 632] * 312, "b"), "b".join(["a" * 632] * 312)),
        ("split", ("ab" * 22_220 + "a", "b"), ["a"] * 22_221),
        ("join", (5, ","), "5"),
    ],
)
def test_filter(name, values, result):
    """A filter may make what fits."""
    assert scope().filter(name, None)(*values) == result


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("plus", (2**MAX_BITS - 1, 1), "makes a number of more than 256 bits"),
        ("minus", (-(2**MAX_BITS), 0), "makes a number of more than 256 bits"),
        ("append", ("a" * MAX_OUTPUT, "b"), "makes more than 200000 characters"),
        ("replace", ("a" * 2000 + "X", "a", "b" * 101), "makes more than 200000 characters"),
        ("join", (["a" * 632] * 311 + ["a" * 633], "b"), "makes more than 200000 characters"),
        ("split", ("ab" * 22_223, "b"), "makes more than 200000 characters"),
        ("divided_by", (1, 0), "'divided_by' cannot use what it is given"),
        ("append", (), "'append' cannot use what it is given"),
        ("replace", ("a",), "'replace' cannot use what it is given"),
        ("map", ([1], "a"), "takes a list of objects"),
    ],
)
def test_filter_refused(name, values, text):
    """A filter that makes too much, or cannot use what it is given, says so without a value."""
    assert refused(scope().filter(name, None), *values) == text


def test_named_arguments():
    """What a filter is given by name counts as what it is given by place."""
    join, numbers = scope().filter("join", None), range(1, MAX_RANGE + 1)
    assert join(["a", "b"], separator="-") == "a-b"
    text = refused(lambda: join(numbers, separator="x" * 195))
    assert text == "makes more than 200000 characters"
    assert refused(lambda: join([], separator=MappingProxyType({}))) == "a loop is not a value"


def test_steps_of_a_filter():
    """What a filter makes takes a step for 256 characters, and so do 32 of its parts."""
    context = scope()
    context.filter("append", None)("a" * 247, "b")
    assert taken(context) == 1
    context.filter("split", None)("a" * 29, "")
    assert taken(context) == 2
    context.filter("plus", None)(1, 2)
    assert taken(context) == 2


def test_filter_is_given_what_is_there():
    """Neither what is missing nor a loop is given to a filter, but for a default."""
    context = scope()
    missing = context.get(["x"], token=None)
    with pytest.raises(UndefinedError):
        context.filter("append", None)(missing, "a")
    with pytest.raises(UndefinedError):
        context.filter("append", None)("a", missing)
    with pytest.raises(UndefinedError):
        context.filter("join", None)(["a"], separator=missing)
    assert context.filter("default", None)(missing, "a") == "a"
    assert context.filter("append", None)({"a": 1}, "") == "{'a': 1}"
    loop = MappingProxyType({"index": 1})
    assert refused(context.filter("append", None), loop, "a") == "a loop is not a value"
    assert refused(context.filter("append", None), "a", loop) == "a loop is not a value"


@pytest.mark.parametrize(
    ("start", "stop", "numbers"),
    [
        (1, MAX_RANGE, range(1, MAX_RANGE + 1)),
        (-5, MAX_RANGE - 6, range(-5, MAX_RANGE - 5)),
        ("2", "3", range(2, 4)),
        (3, 1, range(0)),
        (0, MAX_RANGE, None),
        (-5, MAX_RANGE - 5, None),
        (1, 10**400, None),
    ],
)
def test_range(start, stop, numbers):
    """A range may have so many numbers and no more, wherever it begins."""
    between = BoundedRange(None, None, None)
    if numbers is None:
        assert refused(between._make_range, start, stop) == "a range of more than 1000 numbers"
    else:
        assert between._make_range(start, stop) == numbers


def test_blocks():
    """So many blocks may stand within each other, and can be rendered; one more is refused."""
    source = "{% for i in (1..1) %}" * MAX_BLOCKS + "a" + "{% endfor %}" * MAX_BLOCKS
    assert render(source, shown({}, "UTC"), now=NOW, escape=Escape.PLAIN) == "a"
    (problem,) = check_template("{% if true %}" + source + "{% endif %}")
    assert problem.startswith("block nesting limit reached (line 1, column ")


def test_environments():
    """Only HTML is escaped; both kinds have our filters, none of the tags for files, no `safe`."""
    plain, html = (make_environment(escape) for escape in Escape)
    assert (plain.autoescape, html.autoescape) == (False, True)
    for environment in (plain, html):
        assert environment.undefined is Missing
        assert not {"include", "render", "liquid", "doc", "extends", "block"} & set(
            environment.tags
        )
        assert not {"safe", "strip_html", "t", "json"} & set(environment.filters)
        assert {"if", "unless", "for", "assign", "capture", "#"} <= set(environment.tags)
        own = {"date": date, "map": select, "uniq": uniq}
        assert {name: environment.filters[name] for name in own} == own
