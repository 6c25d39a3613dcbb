"""Liquid texts: what is checked, what is lacking, what is rendered, and what is refused."""

import os
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta, timezone
from types import MappingProxyType

import pytest
from bson import Decimal128, Int64, ObjectId
from hypothesis import given
from hypothesis import strategies as st

from handlers.liquid_environment import ENVIRONMENTS, MAX_STEPS, Escape, make_environment
from handlers.liquid_filters import MAX_OUTPUT
from handlers.rendering import (
    MAX_PROBLEMS,
    MAX_SOURCE,
    RenderError,
    _compiled,
    _required,
    _signature,
    check_template,
    lacking_variables,
    render,
    render_header,
    shown,
)

NOW = datetime(2026, 11, 23, 22, 30, 15, 7000, tzinfo=UTC)
SECRET = "s3cret"
RECIPIENT = {
    "id": "r1",
    "locale": "",
    "timezone": "Europe/Berlin",
    "first_name": "Ann",
    "full name": "Ann Lee",
    "vip": True,
    "nothing": None,
    "no": False,
    "void": "",
    "plan": {"name": "Pro", "price": 9.5, "since": datetime(2026, 1, 1, 23, 30, tzinfo=UTC)},
    "joined": datetime(2026, 7, 1, 12, 0, tzinfo=UTC),
    "naive": datetime(2026, 7, 1, 12, 0),  # noqa: DTZ001  # as a driver without time zones reads it
    "day": date(2026, 7, 1),
    "tags": ["b", "a", "b"],
    "orders": [{"id": 1, "to": "x"}, {"id": 2, "to": "y"}, {"id": 1}],
    "nested": [["a", 1], ["a", 1], [{"b": 2}]],
    "pair": ("x", "y"),
    "count": Int64(42),
    "key": ObjectId("65a1b2c3d4e5f60718293a4b"),
    "amount": Decimal128("12.30"),
    "path": "first_name",
    "html": "<b>\"&'</b>",
    "password": SECRET,
    "seconds": 0,
}
CONTEXT = {
    "recipient": RECIPIENT,
    "campaign": {"name": "renewal", "type": "email", "metadata": {"owner": "sales"}},
    "stage": {"id": "intro"},
    "reply": {"text": "", "intent": ""},
}


@pytest.fixture(autouse=True)
def _nothing_kept():
    """Keep no text compiled: a process that mutmut forks would find it made by the original."""
    for kept in (_compiled, _required, _signature):
        kept.cache_clear()
    ENVIRONMENTS.update({escape: make_environment(escape) for escape in Escape})


def rendered(source, *, zone="Europe/Berlin", escape=Escape.PLAIN, context=CONTEXT):
    """Render with what the tests of this module share."""
    return render(source, shown(context, zone), now=NOW, escape=escape)


def refused(source, **named):
    """Return the message of the error, which never quotes a recipient."""
    with pytest.raises(RenderError) as caught:
        rendered(source, **named)
    assert SECRET not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("", ""),
        ("plain } % { text", "plain } % { text"),
        ("{{ recipient.first_name }}", "Ann"),
        ("{{ recipient['full name'] }}", "Ann Lee"),
        ("{{ recipient[recipient.path] }}", "Ann"),
        ("{{ recipient.plan.name }} {{ recipient.plan.price }}", "Pro 9.5"),
        ("{{ recipient.tags }} {{ recipient.tags[0] }} {{ recipient.tags.last }}", "bab b b"),
        ("{{ recipient.pair | join: '-' }}{{ recipient.pair[1] }}", "x-yy"),
        ("{{ recipient.nothing }}{{ recipient.vip }}{{ recipient.count }}", "true42"),
        ("{{ recipient.count | plus: 1 }}", "43"),
        ("{{ recipient.key }} {{ recipient.amount }}", "65a1b2c3d4e5f60718293a4b 12.30"),
        ("{{ campaign.name }} {{ campaign.metadata.owner }} {{ stage.id }}", "renewal sales intro"),
        ("{% if reply.text == '' %}silent{% endif %}", "silent"),
        ("Grüße, 世界 مرحبا 👩‍👩‍👧\r\n\u200f", "Grüße, 世界 مرحبا 👩‍👩‍👧\r\n\u200f"),
        ("a {{- ' b ' -}} c", "a b c"),
        ("a {%- if true -%} b {%- endif -%} c", "abc"),
        ("{% raw %}{{ x }} {% y{% endraw -%} z", "{{ x }} {% yz"),
        ("{% comment %}{% comment %}{{ {% endcomment %}{% endcomment -%} x", "x"),
        ("{% # a remark %}x", "x"),
        (
            "{% for i in (1..3) %}{{ i }}{% unless forloop.last %},{% endunless %}{% endfor %}",
            "1,2,3",
        ),
        ("{% for i in recipient.void %}x{% else %}none{% endfor %}", "none"),
        ("{% assign a = 'x' %}{% assign a = a | append: 'y' %}{{ a }}", "xy"),
        ("{% capture a %}{{ recipient.first_name }}!{% endcapture %}{{ a }}", "Ann!"),
        ("{% for i in (1..2) %}{% cycle 'a', 'b' %}{% increment n %}{% endfor %}", "a0b1"),
        ("{% increment n %}{{ n }}{% decrement m %}{{ m }}{% assign n = 'x' %}{{ n }}", "01-1-1x"),
        ("{% case recipient.plan.name %}{% when 'Pro' %}pro{% endcase %}", "pro"),
        ("{{ recipient.tags | uniq | sort | join: ',' }}", "a,b"),
        ("{{ recipient.tags | join }}", "b a b"),
        ("{{ recipient.tags | join: separator: '+' }}", "b+a+b"),
        ("{{ recipient.orders | map: 'to' | compact | join }}", "x y"),
        ("{{ recipient.orders | map: 'to' | first | append: '' }}", "x"),
        ("{{ recipient.orders | uniq: 'id' | size }}", "2"),
        ("{{ recipient.nested[2] | uniq | size }}", "1"),
        ("{{ recipient.first_name | join: ',' }}", "Ann"),
        ("{{ 'aXbX' | replace: 'X', '-' }}", "a-b-"),
        ("{{ 'a-b' | replace: '-' }}", "ab"),
        ("{{ 2 | times: 3 }}{{ 0.1 | plus: 0.2 }}", "60.3"),
    ],
)
def test_rendered(source, text):
    """A text is rendered as Liquid has it, characters of every script unchanged."""
    assert rendered(source) == text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ now }}", "2026-11-23T23:30:15+01:00"),
        ("{{ 'now' | date }} {{ 'today' | date: '%H' }}", "2026-11-23T23:30:15+01:00 23"),
        ("{{ now | date: '%d %B' }}", "23 November"),
        (
            "{{ now | date: '%-d %e %k %l %P %^b %_m %-H %C %Y %y %%' }}",
            "23 23 23 11 pm NOV 11 23 20 2026 26 %",
        ),
        ("{{ now | date: '%s %L %N %z %:z %Z' }}", "1795473015 007 007000000 +0100 +01:00 CET"),
        ("{{ '2026-03-04T00:00' | date: '%-d.%-m. %_d %e %l %-H %_H' }}", "4.3.  4  4 12 0  0"),
        ("{{ '0099-01-02T03:00' | date: '%Y %C %k %l %L %N' }}", "0099 00  3  3 000 000000000"),
        ("{{ now | date: '%Q %100000000d é 日' }}", "%Q %100000000d é 日"),
        ("{{ now | date: '" + "%d" * 100 + "' }}", "23" * 100),
        ("{{ now | date: '' }}", "2026-11-23T23:30:15+01:00"),
        ("{{ recipient.joined }}", "2026-07-01T14:00:00+02:00"),
        ("{{ recipient.joined | date: '%H:%M' }}", "14:00"),
        ("{{ recipient.naive | date: '%H:%M' }}", "14:00"),
        ("{{ recipient.day | date: '%d %b' }}", "01 Jul"),
        ("{{ recipient.plan.since | date: '%F' }}", "2026-01-02"),
        ("{{ recipient.plan.since | append: '' }}", "2026-01-02T00:30:00+01:00"),
        ("{{ '2026-12-24' | date: '%A %F %H:%M' }}", "Thursday 2026-12-24 00:00"),
        ("{{ '2026-12-24T23:30:00Z' | date: '%F %H:%M' }}", "2026-12-25 00:30"),
        ("{{ 0 | date: '%F %H' }} {{ '86400' | date: '%F' }}", "1970-01-01 01 1970-01-02"),
        ("{{ 'next week' | date: '%F' }}{{ recipient.nothing | date: '%F' }}", "next week"),
        (
            "{{ recipient.plan | append: '' }}",
            "{'name': 'Pro', 'price': 9.5, 'since': '2026-01-02T00:30:00+01:00'}",
        ),
    ],
)
def test_times(source, text):
    """Times are shown in the recipient's zone, and `now` is the one given."""
    assert rendered(source) == text


def test_zone_of_each_rendering():
    """One text at once for two zones: neither sees the other's."""
    source = "{% for i in (1..50) %}{{ now | date: '%H' }}{% endfor %}"
    with ThreadPoolExecutor(8) as pool:
        zones = ["UTC", "Asia/Tokyo"] * 50
        texts = list(pool.map(lambda zone: rendered(source, zone=zone), zones))
    assert texts == ["22" * 50, "07" * 50] * 50


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ recipient.html }}", "&lt;b&gt;&#34;&amp;&#39;&lt;/b&gt;"),
        ("<p>{{ 'a<br>' }}</p>", "<p>a<br></p>"),
        ("{{ recipient.html | append: '<br>' }}", "&lt;b&gt;&#34;&amp;&#39;&lt;/b&gt;<br>"),
        (
            "{{ '<i>%</i>' | replace: '%', recipient.html }}",
            "<i>&lt;b&gt;&#34;&amp;&#39;&lt;/b&gt;</i>",
        ),
        (
            "{% capture x %}{{ recipient.html }}{% endcapture %}{{ x }}",
            "&lt;b&gt;&#34;&amp;&#39;&lt;/b&gt;",
        ),
        ("{{ recipient.html | escape }}", "&lt;b&gt;&#34;&amp;&#39;&lt;/b&gt;"),
        ("{{ now | date: '%d<sup>th</sup>' }}", "23<sup>th</sup>"),
        ("{{ recipient.tags | join }}{{ recipient.tags | join: '<br>' }}", "b a bb<br>a<br>b"),
        ("{{ now | date: recipient.html }}", "&lt;b&gt;&#34;&amp;&#39;&lt;/b&gt;"),
    ],
)
def test_html(source, text):
    """In HTML the text of the template is markup, and whatever a recipient brought is not."""
    assert rendered(source, escape=Escape.HTML) == text


def test_plain_is_not_escaped():
    """A plain text shows a value as it is."""
    assert rendered("{{ recipient.html }}") == RECIPIENT["html"]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% if recipient.x %}a{% else %}b{% endif %}", "b"),
        ("{% unless recipient.x.y.z %}a{% endunless %}", "a"),
        ("{% if recipient.x or recipient.vip %}a{% endif %}", "a"),
        ("{% if recipient.x == nil %}a{% endif %}{% if recipient.x != nil %}b{% endif %}", "a"),
        ("{% if recipient.x and recipient.x > 3 %}a{% endif %}", ""),
        ("{{ recipient.x | default: 'you' | upcase }}", "YOU"),
        ("{{ recipient.x | default: recipient.y | default: 'z' }}", "z"),
        ("{{ recipient.nothing | default: 'z' }}{{ recipient.void | default: 'y' }}", "zy"),
        ("{{ recipient.no | default: true, allow_false: true }}", "false"),
        ("{% assign x = recipient.x %}{% if x %}a{% endif %}", ""),
    ],
)
def test_missing_is_false_and_has_a_default(source, text):
    """What a recipient lacks may be tested, and replaced by a default."""
    assert rendered(source) == text


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ recipient.x }}", "'recipient.x' is missing (line 1, column 4)"),
        ("é\n {{ recipient.plan.x.y }}", "'recipient.plan.x.y' is missing (line 2, column 5)"),
        ("a\nb\n\n{{ recipient.x }}", "'recipient.x' is missing (line 4, column 4)"),
        (
            "{{ recipient." + "x" * 91 + " }}",
            "'recipient." + "x" * 90 + "' is missing (line 1, column 4)",
        ),
        ("{{ recipient['a b'].c }}", "'recipient['a b'].c' is missing (line 1, column 4)"),
        (
            "{{ recipient[recipient.password] }}",
            "'recipient[recipient.password]' is missing (line 1, column 4)",
        ),
        ("{{ recipient.tags[7] }}", "'recipient.tags[7]' is missing (line 1, column 4)"),
        ("{{ ['no root'] }}", "a variable is missing (line 1, column 4)"),
        (
            "{{ recipient.x | upcase | default: 'a' }}",
            "'recipient.x' is missing (line 1, column 4)",
        ),
        ("{{ recipient.x | times: 2 }}", "'recipient.x' is missing (line 1, column 4)"),
        ("{{ recipient.x | date: '%d' }}", "'recipient.x' is missing (line 1, column 4)"),
        ("{{ 'a' | append: recipient.x }}", "'recipient.x' is missing (line 1, column 18)"),
        (
            "{{ now | date: '" + "%d" * 100 + "a' }}",
            "a format of more than 200 characters (line 1, column 10)",
        ),
        ("{% for i in recipient.x %}{% endfor %}", None),
        (
            "{% for i in (1..recipient.x) %}{% endfor %}",
            "'recipient.x' is missing (line 1, column 17)",
        ),
        ("{% for i in (1..1) %}{{ forloop.parentloop.x }}{% endfor %}", None),
        ("{{ today }}", "'today' is missing (line 1, column 4)"),
        ("{{ partial }}", "'partial' is missing (line 1, column 4)"),
        ("{{ recipient.password | shout }}", "unknown filter 'shout' (line 1, column 25)"),
        (
            "{{ recipient.password | divided_by: 0 }}",
            "'divided_by' cannot use what it is given (line 1, column 25)",
        ),
        ("{{ recipient.password | map: 'x' }}", "takes a list of objects (line 1, column 25)"),
        (
            "{{ recipient.password | base64_decode }}",
            "'base64_decode' cannot use what it is given (line 1, column 25)",
        ),
        (
            "{{ 99999999999999999 | date: '%d' }}",
            "'date' cannot use what it is given (line 1, column 24)",
        ),
        (
            "{{ recipient.tags | date: '%d' }}",
            "'date' cannot use what it is given (line 1, column 21)",
        ),
        (
            "{{ 'x' | upcase: environment: 1 }}",
            "'upcase' cannot use what it is given (line 1, column 10)",
        ),
        (
            "{{ 'x' | replace: environment: 1 }}",
            "'replace' cannot use what it is given (line 1, column 10)",
        ),
        (
            "{{ 'now' | date: context: 1 }}",
            "'date' cannot use what it is given (line 1, column 12)",
        ),
        (
            "{% for i in (1..2) %}{{ forloop | join }}{% endfor %}",
            "a loop is not a value (line 1, column 35)",
        ),
        (
            "{% if recipient.password < 3 %}{% endif %}",
            "values of these types do not go together (line 1, column 26)",
        ),
        (
            "{% if recipient.count contains 3 %}{% endif %}",
            "values of these types do not go together (line 1, column 23)",
        ),
        ("a{% break %}", "'break' outside of a loop (line 1, column 5)"),
        ("{% if %}", "missing expression (line 1, column 4)"),
    ],
)
def test_errors_name_the_place_and_no_value(source, message):
    """A rendering that fails says where, in the words of the template alone."""
    text = refused(source)
    if message:
        assert text == message


def test_unknown_zone_and_unreadable_time():
    """What no check foresaw ends as the same error, without its cause."""
    with pytest.raises(
        RenderError, match=r"cannot be rendered \(ZoneInfoNotFoundError\)"
    ) as caught:
        rendered("x", zone="No/Where")
    assert caught.value.__cause__ is None
    ends = {"recipient": {"at": datetime.max.replace(tzinfo=timezone(-timedelta(hours=5)))}}
    assert refused("x", context=ends) == "cannot be rendered (OverflowError)"


def test_header_is_one_line():
    """Nothing a recipient brings ends the line of a header."""
    name = "Ann\r\nBcc: x@example.com\x00\x85\u2028 Lee\t"
    context = {"recipient": {"name": name}}
    text = render_header(" Hi {{ recipient.name }}\n", shown(context, "UTC"), now=NOW)
    assert text == "Hi Ann Bcc: x@example.com  Lee"


@pytest.mark.parametrize(
    "source",
    [
        "Hi {{ recipient.first_name }}",
        "{{ recipient['a b'].c[0] | default: 'x' }} {{ now | date: '%d' }} {{ 'now' | date }}",
        "{{ campaign.name }}{{ campaign.type }}{{ campaign['metadata'].x.y }}{{ stage.id }}",
        "{{ reply.text | truncate: 80 }}{{ reply.intent | truncate: 9, '…' }}",
        "{% for i in recipient.items %}{{ i.name }}{{ forloop.index }}{% endfor %}",
        "{% for i in (1..2) %}{% if seen %}{% endif %}{% assign seen = true %}{% endfor %}",
        "{% tablerow i in (1..2) cols: 2 %}{{ i }}{{ tablerowloop.col }}{% endtablerow %}",
        "{% capture a %}x{% endcapture %}{{ a }}{% increment n %}{{ n }}",
        "{% if a == 1 %}{% elsif recipient.b %}{% else %}{% endif %}{% assign a = 1 %}",
        "{% unless recipient.a %}{% elsif recipient.b %}{{ recipient.b }}{% else %}{% endunless %}",
        "{% case recipient.a %}{% when 1, 2 %}{% else %}{% endcase %}{% echo recipient.a %}",
        "{{ recipient.a | default: true, allow_false: true }}",
        "{% raw %}{{ unknown | unknown }}{% endraw %}{% comment %}{% nonsense %}{% endcomment %}",
        "",
    ],
)
def test_no_problems(source):
    """What can be rendered is not complained of."""
    assert check_template(source) == ()


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{{ first_name }}", "unknown variable 'first_name' (line 1, column 4)"),
        ("a\nb {{ 'x' | append: name }}", "unknown variable 'name' (line 2, column 20)"),
        ("{{ recipient[key] }}", "unknown variable 'key' (line 1, column 14)"),
        ("{% if name %}{% endif %}", "unknown variable 'name' (line 1, column 7)"),
        (
            "{% for i in (1..2) %}{% endfor %}{{ forloop.index }}",
            "unknown variable 'forloop' (line 1, column 37)",
        ),
        ("{{ [recipient.id] }}", "a variable without a name (line 1, column 4)"),
        (
            "{{ campaign.id }}",
            "'campaign' has no such field, but name and type and metadata (line 1, column 4)",
        ),
        ("{{ stage['name'] }}", "'stage' has no such field, but id (line 1, column 4)"),
        (
            "{{ reply[recipient.id] }}",
            "'reply' has no such field, but text and intent (line 1, column 4)",
        ),
        ("{{ now.year }}", "'now' has no such field, but none at all (line 1, column 4)"),
        ("{{ 'a' | shout }}", "unknown filter 'shout' (line 1, column 10)"),
        ("{{ recipient.html | safe }}", "unknown filter 'safe' (line 1, column 21)"),
        ("{{ 'a' | append }}", "'append': missing a required argument: 'arg' (line 1, column 10)"),
        ("{{ 'a' | upcase: 1 }}", "'upcase': too many positional arguments (line 1, column 10)"),
        (
            "{{ 'a' | date: context: 1 }}",
            "'date': got an unexpected keyword argument 'context' (line 1, column 10)",
        ),
        (
            "{{ recipient.tags | join: environment: 1 }}",
            "'join': got an unexpected keyword argument 'environment' (line 1, column 21)",
        ),
        ("{% shout %}", "unexpected tag 'shout' (line 1, column 4)"),
        ("{% " + "x" * 300 + " %}", "unexpected tag '" + "x" * 184 + " (line 1, column 4)"),
        ("{% if a" + " or a" * 9000 + " %}{% endif %}", "nested too deeply, or malformed"),
        ("{% include 'a' %}", "unexpected tag 'include' (line 1, column 4)"),
        ("{% render 'a' %}", "unexpected tag 'render' (line 1, column 4)"),
        ("{% layout 'a' %}", "unexpected tag 'layout' (line 1, column 4)"),
        ("{% extends 'a' %}", "unexpected tag 'extends' (line 1, column 4)"),
        ("{% %}", "missing tag name (line 1, column 4)"),
        ("{{ }}", "expected a primitive expression, found end of expression (line 1, column 4)"),
        ("a {{ b", "'{{' without its '}}' (line 1, column 3)"),
        ("a {% b", "'{%' without its '%}' (line 1, column 3)"),
        ("{% raw %}", "'raw' is never closed (line 1, column 4)"),
        (
            "{% comment %}{% comment %}{% endcomment %}",
            "'comment' is never closed (line 1, column 4)",
        ),
        ("{{ a b }}", "expected end of expression, found word (line 1, column 6)"),
        ("{{ a | }}", "expected word, found end of expression (line 1, column 4)"),
        ("{% if true %}\nx", "expected tag endif, found end of expression (line 2, column 2)"),
        ("{% if true %}{% else if false %}{% endif %}", None),
        ("{% unless true %}{% else %}{% else %}{% endunless %}", None),
        ("{% assign recipient = 1 %}", "the name 'recipient' is taken (line 1, column 11)"),
        ("{% for now in (1..2) %}{% endfor %}", "the name 'now' is taken (line 1, column 8)"),
        ("{{ " + "9" * 5000 + " }}", None),
        ("x" * (MAX_SOURCE + 1), f"longer than {MAX_SOURCE} characters"),
        (
            "{{ " + "a[" * 51 + "]" * 51 + " }}",
            "more than 50 brackets in one expression (line 1, column 1)",
        ),
    ],
)
def test_problems(source, problem):
    """Each problem is one sentence with its place."""
    (found,) = check_template(source)
    if problem:
        assert found == problem


def test_problems_are_reported_together():
    """An author sees all of them at once, up to a number."""
    assert check_template("{{ a }}\n{{ b | c }}") == (
        "unknown variable 'a' (line 1, column 4)",
        "unknown variable 'b' (line 2, column 4)",
        "unknown filter 'c' (line 2, column 8)",
    )
    assert len(check_template("{{ a }}" * 1000)) == MAX_PROBLEMS


@pytest.mark.parametrize(
    ("source", "lacking"),
    [
        ("{{ recipient.a }}{{ recipient.a | upcase }}{{ recipient.id }}", ["a"]),
        ("{{ recipient.plan.x }}{{ recipient.plan.name }}{{ recipient.x.y }}", ["plan.x", "x.y"]),
        ("{{ recipient['a b'] }}{{ recipient['full name'] }}{{ recipient['1'] }}", None),
        ("{{ recipient.nothing }}{{ recipient.no }}{{ recipient.void }}", []),
        ("{{ recipient }}{{ campaign.x }}{{ recipient[recipient.path] }}", []),
        ("{{ recipient[recipient.a] }}{{ recipient.b[recipient.id].c }}", ["a", "b"]),
        ("{{ recipient.a | default: 'x' }}{{ recipient.b | upcase | default: 'x' }}", ["b"]),
        ("{{ 'x' | default: recipient.a }}", ["a"]),
        ("{{ recipient.a | default: recipient.b | default: 'x' }}", []),
        ("{{ recipient.a | default: recipient.b | append: 'x' }}", ["b"]),
        ("{{ 'x' | append: recipient.a | default: 'y' }}", ["a"]),
        ("{{ 'x' | default: recipient.a | upcase | default: 'y' }}", ["a"]),
        ("{% assign x = recipient.a | default: 'y' %}{% assign z = recipient.b %}", ["b"]),
        ("{% if recipient.a %}{% elsif recipient.b %}{% endif %}", []),
        ("{% unless recipient.a or recipient.b and recipient.c %}{% endunless %}", []),
        ("{% if recipient.a %}{{ recipient.a }}{{ recipient.b }}{% endif %}", ["b"]),
        ("{% if recipient.a %}{% for i in (1..2) %}{{ recipient.a }}{% endfor %}{% endif %}", []),
        ("{% if recipient.a %}{% else %}{{ recipient.a }}{% endif %}", ["a"]),
        ("{% if recipient.a %}{% endif %}{{ recipient.a }}", ["a"]),
        (
            "{% if recipient.a %}{% elsif recipient.b %}{{recipient.a}}{{recipient.b}}{% endif %}",
            ["a"],
        ),
        ("{% if recipient.a and recipient.b %}{{ recipient.a }}{{ recipient.b }}{% endif %}", []),
        ("{% if recipient.a or recipient.b %}{{ recipient.a }}{% endif %}", ["a"]),
        ("{% if recipient.a and recipient.a > 3 %}{% endif %}", []),
        ("{% if recipient.a or recipient.a > 3 %}{% endif %}", ["a"]),
        ("{% unless recipient.a %}{{ recipient.a }}{% endunless %}", ["a"]),
        ("{% unless recipient.a %}x{% else %}{{ recipient.a }}{% endunless %}", []),
        ("{% unless recipient.a %}x{% elsif true %}{{ recipient.a }}{% endunless %}", []),
        (
            "{% if recipient.a.b %}{{ recipient.a.b }}{{recipient.a}}{{recipient.a.c}}{% endif %}",
            ["a.c"],
        ),
        (
            "{% if recipient.a != nil %}{{ recipient.a }}{% elsif recipient.b == nil %}{% endif %}",
            [],
        ),
        ("{% if recipient.a == 'x' %}{{ recipient.a }}{% endif %}", ["a"]),
        (
            "{% if recipient.a contains 'x' %}{% endif %}{% case recipient.b %}{% endcase %}",
            ["a", "b"],
        ),
        ("{% for i in recipient.a limit: recipient.b %}{{ i.c }}{% endfor %}", ["a", "b"]),
        ("{% for i in (1..recipient.a) %}{% endfor %}", ["a"]),
        ("{% cycle recipient.a, recipient.b %}{% echo recipient.c %}", ["a", "b", "c"]),
        ("{{ recipient.tags.size }}{{ recipient.tags.first }}{{ recipient.orders.last.id }}", []),
        (
            "{{ recipient.first_name.size }}{{ recipient.plan.size }}{{ recipient.count.size }}",
            ["count.size"],
        ),
        ("{{ recipient.tags[2] }}{{ recipient.tags[-3] }}{{ recipient.pair[1] }}", []),
        ("{{ recipient.first_name.first }}{{ recipient.tags.x }}", ["first_name.first", "tags.x"]),
        ("{{ broken", []),
    ],
)
def test_lacking(source, lacking):
    """A path is lacking where it is used without a default and without a test."""
    found = lacking_variables([source], MappingProxyType(RECIPIENT))
    if lacking is None:
        assert found == ("recipient['a b']", "recipient['1']")
    else:
        assert found == tuple(f"recipient.{path}" for path in lacking)


def test_lacking_in_several_texts():
    """A path is named once, in the order of the texts; one out of range is lacking too."""
    sources = ("{{ recipient.b }}{{ recipient.a }}", "{{ recipient.a }}{{ recipient.tags[3] }}")
    expected = ("recipient.b", "recipient.a", "recipient.tags[3]")
    assert lacking_variables(sources, RECIPIENT) == expected
    assert lacking_variables(sources, {**RECIPIENT, "a": 1, "b": None, "tags": list("abcd")}) == ()
    assert lacking_variables((), RECIPIENT) == ()
    assert lacking_variables(("{{ broken", sources[1]), RECIPIENT) == expected[1:]


@pytest.mark.parametrize(
    "source",
    [
        "{{ recipient.first_name }}{{ recipient.plan.name | upcase }}",
        "{% if recipient.vip %}{{ recipient.vip }}{% else %}{{ recipient.first_name }}{% endif %}",
        "{% unless recipient.a %}x{% else %}{{ recipient.a }}{% endunless %}",
        "{{ recipient.a | default: recipient.b | default: 'x' }}",
        "{% if recipient.a and recipient.a.b != nil %}{{ recipient.a.b }}{% endif %}",
        "{{ recipient.tags.first }}{{ recipient.tags.size }}{{ recipient.tags[-1] }}",
    ],
)
@given(
    recipient=st.dictionaries(
        st.sampled_from(["first_name", "vip", "plan", "a", "b", "tags"]),
        st.none()
        | st.booleans()
        | st.text()
        | st.lists(st.text())
        | st.dictionaries(st.sampled_from(["name", "b"]), st.none() | st.text()),
    )
)
def test_who_lacks_nothing_can_be_rendered(source, recipient):
    """A recipient accepted today is not refused weeks later."""
    if not lacking_variables([source], recipient):
        rendered(source, context={"recipient": recipient})


def doubled(operation, times=40):
    """Apply a filter to its own result, again and again."""
    return "{% assign s = 'aaaaaaaaaa' %}" + ("{% assign s = s | " + operation + " %}") * times


def listed(count, letters="a"):
    """Make a long list from a short text."""
    return "{% assign l = '" + letters * count + "' | split: 'a' %}"


BOMBS = {
    "nested loops": "{% for i in (1..999) %}{% for j in (1..999) %}{{ 1 }}{% endfor %}{% endfor %}",
    "loops in a row": "{% for i in (1..999) %}{{ '' }}{% endfor %}" * 2000,
    "long loop body": "{% for i in (1..1000) %}" + "{% if i %}{% endif %}" * 4000 + "{% endfor %}",
    "table": "{% tablerow i in (1..1000000) %}{% endtablerow %}",
    "range": "{{ (1..1000000000) | join }}",
    "range in a condition": "{% if (1..1000000000) contains 'x' %}{% endif %}",
    "reversed range": "{% for i in (1..1000000000) reversed %}{% endfor %}",
    "range of a variable": "{% assign n = 1000000000 %}{% for i in (1..n) reversed %}{% endfor %}",
    "range without end": "{{ (1.." + "9" * 400 + ") | size }}",
    "output": "{% for i in (1..1000) %}" + "a" * 1000 + "{% endfor %}",
    "captured": "{% for i in (1..1000) %}{% capture x %}"
    + "a" * 90_000
    + "{% endcapture %}{% endfor %}",
    "changed": "{% for i in (1..1000) %}{% ifchanged %}"
    + "a" * 90_000
    + "{% endifchanged %}{% endfor %}",
    "append": doubled("append: s") + "{{ s }}",
    "replace": doubled("replace: '', s", 6),
    "join": listed(19_000) + doubled("append: s", 12) + "{{ l | join: s }}",
    "join of a range": doubled("append: s", 12) + "{{ (1..1000) | join: s }}",
    "concat": "{% assign s = 'x,y' | split: ',' %}" + "{% assign s = s | concat: s %}" * 40,
    "escape": doubled("escape | append: s", 30),
    "url_encode": "{% assign s = '&&&&' %}" + "{% assign s = s | url_encode | append: s %}" * 20,
    "times": "{% assign s = 9 %}" + "{% assign s = s | times: s %}" * 40 + "{{ s }}",
    "digits": "{{ " + "9" * 90_000 + " }}",
    "variables": "".join(f"{{% assign a{n} = recipient.long %}}" for n in range(30)),
    "uniq": listed(19_000, "ba") + "{% for i in (1..1000) %}{% assign m = l | uniq %}{% endfor %}",
    "sort": listed(19_000, "ba") + "{% for i in (1..1000) %}{% assign m = l | sort %}{% endfor %}",
    "cycle": listed(90_000) + "{% for i in (1..1000) %}{% cycle '', l, l %}{% endfor %}",
    "comparison": listed(19_000)
    + "{% assign m = l | reverse %}"
    + "{% for i in (1..1000) %}"
    + "{% if l == m %}{% endif %}" * 9
    + "{% endfor %}",
    "contains": "{% for i in (1..1000) %}"
    + ("{% if '" + "a" * 9000 + "' contains 'ab' %}{% endif %}") * 9
    + "{% endfor %}",
    "long format": "{% assign f = '"
    + "%c" * 9000
    + "' %}"
    + "{% for i in (1..1000) %}{% assign x = now | date: f %}{% endfor %}",
    "blocks": "{% if true %}" * 150 + "{% endif %}" * 150,
    "loops within": "{% for i in (1..2) %}" * 150 + "{% endfor %}" * 150,
    "conditions": "{% if true" + " and true" * 150 + " %}{% endif %}",
    "more conditions": "{% if true" + " or true" * 9000 + " %}{% endif %}",
    "indexes": "{{ " + "recipient[" * 9000 + " }}",
    "brackets": "{{ " + "[" * 90_000 + " }}",
    "parentheses": "{{ " + "(" * 90_000 + " }}",
    "openings": "{{" * 50_000,
    "tag openings": "{%" * 50_000,
    "raw": "{% raw %}" * 11_000,
    "comments": "{% comment %}" * 7000,
    "blanks": "{{" + " " * 90_000 + "}}",
    "blanks in a tag": "{% if" + " " * 90_000 + "%}",
    "long source": "{{ '' }}" * 1_000_000,
    "a list given": "{% for i in (1..1000) %}{% assign x = recipient.list | sort %}{% endfor %}",
}


BOMBED = {"recipient": {"long": "a" * 50_000, "list": [str(n) for n in range(5000)]}}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_fail_fast(name):
    """Whatever a text asks for, it is refused long before what it asks for could be done."""
    started = time.process_time()
    check_template(BOMBS[name])
    refused(BOMBS[name], context=BOMBED)
    # A fraction of a second each; without the limits, minutes, or all memory.
    assert time.process_time() - started < 20


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_fail_small(name):
    """Whatever a text asks for, it is refused before it holds much memory."""
    tracemalloc.start()
    try:
        check_template(BOMBS[name])
        refused(BOMBS[name], context=BOMBED)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50_000_000


def test_limits_do_not_hinder():
    """A long text, and a table of some hundred rows, stay far below the limits."""
    assert len(rendered("a" * MAX_SOURCE)) == MAX_SOURCE
    rows = {"recipient": {"rows": [{"n": n, "name": "x" * 40} for n in range(400)]}}
    row = "<tr><td>{{ row.n | plus: 1 }}</td><td>{{ row.name | escape }}</td></tr>"
    source = "{{ 'x' | upcase }}" * 50 + "{% for row in recipient.rows %}" + row + "{% endfor %}"
    assert rendered(source, context=rows).endswith(f"<tr><td>400</td><td>{'x' * 40}</td></tr>")


def test_limits_are_named():
    """The error says which limit it was."""
    assert f"more than {MAX_STEPS} steps" in refused(BOMBS["loops in a row"])
    assert f"more than {MAX_OUTPUT} characters" in refused(BOMBS["output"])
    assert "a range of more than" in refused(BOMBS["reversed range"])
    assert "block nesting limit" in refused(BOMBS["blocks"])


def test_variables_may_be_assigned_again():
    """Only what the variables hold at once is counted, so a loop may build up a text."""
    append = "{% for i in (1..1000) %}{% assign s = s | append: 'abcdefgh' %}{% endfor %}"
    assert rendered("{% assign s = '' %}" + append + "{{ s | size }}") == "8000"


def test_compiled_once():
    """A text is parsed once for each way of escaping it."""
    source = "{{ recipient.first_name }} compiled once"
    before = _compiled.cache_info().misses
    for _ in range(3):
        rendered(source)
        check_template(source)
        lacking_variables([source], RECIPIENT)
        rendered(source, escape=Escape.HTML)
    assert _compiled.cache_info().misses == before + 2


PROGRAM = """
from datetime import UTC, datetime
from handlers.rendering import Escape, render, shown
recipient = {
    "tags": ["x", "y"],
    "rows": [{"b": 1}, {}],
    "d": {"k": {"z": 1, "a": 2}},
    "at": datetime(2026, 1, 1),
}
source = '''{{ recipient.tags | uniq }} {{ recipient.rows | map: 'b' | append: '' }}
{{ recipient.d }}
{{ now }} {{ now | date: '%c %s %Z' }} {{ 0 | date: '%c' }} {{ '2026-01-01' | date: '%s' }}
{{ recipient.at }}
{% for i in recipient.d %}{{ i }}{{ forloop.first }}{% endfor %}{{ 0.1 | times: 3 }}{{ empty }}'''
now = datetime(2026, 11, 23, tzinfo=UTC)
print(render(source, shown({"recipient": recipient}, "Asia/Tokyo"), now=now, escape=Escape.HTML))
"""


def test_same_in_every_process():
    """Neither the seed of hashes nor the zone of the machine shows in a text."""
    texts = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": "C.UTF-8"},
            check=True,
            capture_output=True,
        ).stdout
        for seed, zone in (("1", "UTC"), ("2", "America/New_York"))
    }
    (text,) = texts
    assert b"2026-11-23T09:00:00+09:00" in text


FRAGMENTS = st.sampled_from(
    [
        "{{", "}}", "{%", "%}", "{%-", "-%}", "{{ recipient.", "recipient", ".id", "['a b']",
        "[0]", "[", "]", "(1..3)", " | ", "upcase", "date: '%d'", "default: 'x'", "replace: '', ",
        "times: 99", "split: ''", "join", "uniq", "{% if ", "{% endif %}", "{% else %}",
        "{% elsif ", "{% unless ", "{% endunless %}", "{% for i in ", "{% endfor %}",
        "{% break %}", "{% assign a = ", "{% capture a %}", "{% endcapture %}", "{% raw %}",
        "{% endraw %}", "{% comment %}", "{% endcomment %}", "{% case ", "{% when ",
        "{% endcase %}", "{% cycle ", "{% tablerow i in ", "{% endtablerow %}",
        "{% increment a %}", "{% ifchanged %}", "{% endifchanged %}", "{% echo ", " and ", " or ",
        " == ", " contains ", " < ", "nil", "blank", "empty", "true", "now", "'now'", "'a'", "1",
        "1.5", "-", "#", "\n", " ", "reversed", "limit: 1", "forloop", "\u202e", "é",
    ]
)  # fmt: skip


@given(st.text() | st.lists(FRAGMENTS, max_size=30).map("".join), st.sampled_from(Escape))
def test_any_text(source, escape):
    """Any text is rendered or refused, with a problem or an error, and every time alike."""
    problems = check_template(source)
    assert all(isinstance(problem, str) for problem in problems)
    lacking_variables([source], RECIPIENT)

    def outcome():
        try:
            return rendered(source, escape=escape)
        except RenderError as error:
            return error.args

    first = outcome()
    _compiled.cache_clear()
    assert outcome() == first
    assert check_template(source) == problems


@given(st.text())
def test_any_value(value):
    """A value is shown as it is, in HTML never as markup, in a header on one line."""
    context = {"recipient": {"v": value}}
    source = "{{ recipient.v }}"
    assert rendered(source, context=context) == value
    assert not {"<", ">", '"', "'"} & set(rendered(source, context=context, escape=Escape.HTML))
    header = render_header(source, shown(context, "UTC"), now=NOW)
    assert header.splitlines() in ([], [header])
