"""What a survey finds in a template: the variables it uses, its filters, names and size."""

import pytest

from handlers.liquid_environment import ENVIRONMENTS, Escape
from handlers.liquid_survey import survey
from handlers.rendering import check_template


def surveyed(source):
    """Survey a source."""
    return survey(ENVIRONMENTS[Escape.PLAIN].from_string(source))


@pytest.mark.parametrize(
    ("source", "uses"),
    [
        ("{% if true %}x{% endif %}", []),
        ("{{ recipient.a[0]['b c'] }}", [("recipient", "a", 0, "b c")]),
        ("{{ recipient[recipient.b].c }}", [("recipient", None, "c"), ("recipient", "b")]),
        ("{% if a[b] %}{% endif %}", [("a", None), ("b",)]),
        ("{% if a == b[c] and d contains e %}{% endif %}", ["a", ("b", None), "c", "d", "e"]),
        ("{% unless a %}{{ b }}{% elsif c %}{{ d }}{% else %}{{ e }}{% endunless %}", "abcde"),
        ("{% case a %}{% when b, c %}{{ d }}{% else %}{{ e }}{% endcase %}", "abcde"),
        ("{% for x in a limit: b offset: c %}{{ d }}{% else %}{{ e }}{% endfor %}", "abcde"),
        ("{% tablerow x in (a..b) cols: c %}{{ d }}{% endtablerow %}{{ e }}", "abcde"),
        ("{{ a | append: b | default: c, allow_false: d }}{% echo e %}", "abcde"),
        ("{% assign x = a %}{% capture y %}{{ b }}{% endcapture %}{% cycle c: d, e %}", "abcde"),
        ("{% ifchanged %}{{ a }}{% endifchanged %}{% increment x %}{% decrement y %}", "a"),
    ],
)
def test_uses(source, uses):
    """Every variable is found, wherever it stands, in the order of the text."""
    expected = [use if isinstance(use, tuple) else (use,) for use in uses]
    assert [use.segments for use in surveyed(source).uses] == expected


@pytest.mark.parametrize(
    ("source", "local"),
    [
        ("{{ i }}{% for i in i %}{{ i }}{{ forloop.i }}{% endfor %}{{ i }}", [0, 0, 1, 1, 0]),
        ("{% tablerow i in i %}{{ i }}{{ tablerowloop }}{% endtablerow %}{{ i }}", [0, 1, 1, 0]),
        (
            "{% for i in a %}{% for j in i %}{{ j[i] }}{% endfor %}{{ j }}{% endfor %}",
            [0, 1, 1, 1, 0],
        ),
        ("{% for i in a %}{% if i %}{{ i[i] }}{% endif %}{{ a.i }}{% endfor %}", [0, 1, 1, 1, 0]),
        ("{% assign i = 1 %}{{ i }}{% capture j %}{% endcapture %}{{ j }}", [0, 0]),
    ],
)
def test_local(source, local):
    """A loop's variables are its own within it, and nowhere else."""
    assert [use.local for use in surveyed(source).uses] == local


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("{{ a }}", []),
        ("{% assign a = 1 %}{% capture b %}{% assign c = 1 %}{% endcapture %}", "abc"),
        ("{% increment a %}{% decrement b %}{% for c in (1..2) %}{% endfor %}", "abc"),
        ("{% tablerow a in (1..2) %}{% assign b = 1 %}{% endtablerow %}{% assign c = 1 %}", "abc"),
    ],
)
def test_names(source, names):
    """The names that a template makes itself are found where it makes them."""
    found = surveyed(source).names
    assert [name for name, _ in found] == list(names)
    assert [source[token.start_index] for _, token in found] == list(names)


@pytest.mark.parametrize(
    ("source", "filters"),
    [
        ("{{ 'a' }}", []),
        ("{{ 'a' | append: 'b' | upcase }}{{ 'a' | size }}", ["append", "upcase", "size"]),
        (
            "{% assign a = 'b' | shout %}{% for i in a %}{{ i | last }}{% endfor %}",
            ["shout", "last"],
        ),
    ],
)
def test_filters(source, filters):
    """Every filter is found, each where it is applied, known or not."""
    found = surveyed(source).filters
    assert [applied.name for applied in found] == filters
    assert all(source.startswith(each.name, each.token.start_index) for each in found)


@pytest.mark.parametrize(
    ("source", "size"),
    [
        ("", 0),
        ("a", 1),
        ("{{ 1 }}", 3),
        ("{{ recipient.a }}", 3),
        ("{{ recipient[recipient.b].c }}", 4),
        ("{{ 'a' | append: 'b' | upcase }}", 6),
        ("{% if a %}x{% endif %}", 5),
        ("{% if a and b or c == nil %}{% elsif 'a' != 'b' %}y{% else %}{% endif %}", 18),
        ("{% unless a %}{% elsif b %}{% else %}{% endunless %}", 9),
        ("{% for i in (1..3) limit: 2 %}{{ i }}{% endfor %}", 10),
        ("{{ '" + "a" * 255 + "' }}", 3),
        ("{{ '" + "a" * 256 + "' }}", 4),
        ("{{ 'a' | append: '" + "a" * 1023 + "' }}", 8),
        ("{% if '" + "a" * 512 + "' == 'b' %}{% endif %}", 9),
    ],
)
def test_size(source, size):
    """Each node, expression and filter counts as one, and so do 256 characters of a constant."""
    assert surveyed(source).size == size


def within(path, count):
    """Write a path in the brackets of another, again and again."""
    return path + f"[{path}" * count + "]" * count


DEEP = {
    "and": (lambda n: "{% if true" + " and true" * n + " %}{% endif %}", 60),
    "or": (lambda n: "{% if true" + " or true" * n + " %}{% endif %}", 60),
    "unless": (lambda n: "{% unless a" + " and a" * n + " %}{% endunless %}", 60),
    "elsif": (lambda n: "{% if a %}{% elsif a" + " or a" * n + " %}{% endif %}", 60),
    "a test for nil": (lambda n: "{% if " + "a and " * n + "a == nil %}{% endif %}", 59),
    "not nil": (lambda n: "{% if " + "a or " * n + "a != nil and a %}{% endif %}", 58),
    "compared": (lambda n: "{% if " + "a and " * n + "a == 1 %}{% endif %}", 59),
    "brackets": (lambda n: "{% if " + "a and " * 20 + within("a", n) + " > 1 %}{% endif %}", 39),
    "brackets, and": (
        lambda n: "{% if " + "a and " * 20 + within("a", n) + " > 1 and a %}{% endif %}",
        38,
    ),
    "a range": (
        lambda n: "{% if " + "a and " * 20 + f"(1..{within('a', n)}) == 1" + " %}{% endif %}",
        38,
    ),
}


@pytest.mark.parametrize("name", DEEP)
def test_depth(name):
    """An expression is refused where it is nested more deeply than 60, and no sooner."""
    write, most = DEEP[name]
    assert surveyed(write(most)).size > most
    (problem,) = check_template(write(most + 1))
    assert problem.startswith("nested too deeply (line 1, column ")


def test_place_of_depth():
    """The place is that of the first expression that is too deep."""
    source = "\n{% if true" + " and true" * 61 + " %}{% endif %}"
    assert check_template(source) == ("nested too deeply (line 2, column 547)",)
    source = "\n{% if " + "a and " * 20 + within("a", 40) + " > 1 %}{% endif %}"
    assert check_template(source) == ("nested too deeply (line 2, column 207)",)
