"""The tokens of a template's source, each with its place."""

import pytest
from liquid.exceptions import LiquidSyntaxError

from handlers.liquid_lexer import MAX_BRACKETS, tokens


def split(source):
    """List the tokens of a source: kind, value, and where it starts."""
    found = list(tokens(source))
    assert all(token.source is source for token in found)
    return [(token.kind, token.value, token.start_index) for token in found]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("", []),
        ("a\n", [("content", "a\n", 0)]),
        ("{{a}}", [("output", "{{", 0), ("expression", "a", 2)]),
        ("{%if a%}", [("tag", "if", 2), ("expression", "a", 5)]),
        ("{{ }}", [("output", "{{", 0), ("expression", "", 3)]),
        ("{% endif %}", [("tag", "endif", 3)]),
        ("{%# a remark %}", [("tag", "#", 2), ("expression", "a remark", 4)]),
        ("{% a-b %}", [("tag", "a", 3), ("expression", "-b", 4)]),
        (
            "x {{  'a' }} }} %} {",
            [
                ("content", "x ", 0),
                ("output", "{{", 2),
                ("expression", "'a'", 6),
                ("content", " }} %} {", 12),
            ],
        ),
        (
            "é\n{%  assign x   =   1  %}{% endif %}",
            [
                ("content", "é\n", 0),
                ("tag", "assign", 6),
                ("expression", "x   =   1", 13),
                ("tag", "endif", 29),
            ],
        ),
    ],
)
def test_tokens(source, expected):
    """Text, outputs and tags come in their order, without the blanks around what is inside."""
    assert split(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            " a {{- b -}} c {{ d }} ",
            [
                ("content", " a", 0),
                ("output", "{{-", 3),
                ("expression", "b", 7),
                ("content", "c ", 12),
                ("output", "{{", 15),
                ("expression", "d", 18),
                ("content", " ", 22),
            ],
        ),
        (
            "{%- if  a -%}\n b \n{%- endif -%}\nc\n",
            [
                ("tag", "if", 4),
                ("expression", "a", 8),
                ("content", "b", 13),
                ("tag", "endif", 22),
                ("content", "c\n", 31),
            ],
        ),
        (
            "{{ a -}} \n {{- -1 }}",
            [
                ("output", "{{", 0),
                ("expression", "a", 3),
                ("output", "{{-", 11),
                ("expression", "-1", 15),
            ],
        ),
        ("{{ a --}} b", [("output", "{{", 0), ("expression", "a -", 3), ("content", "b", 9)]),
        ("{{-}} b", [("output", "{{-", 0), ("expression", "", 3), ("content", " b", 5)]),
    ],
)
def test_hyphens(source, expected):
    """A hyphen at an end of an output or tag trims the text on that side, and only that."""
    assert split(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% raw %} {{ x {% endraw %} y", [("content", " {{ x ", 9), ("content", " y", 27)]),
        (
            "a {%- raw -%} {% b {%- endraw -%} c",
            [("content", "a", 0), ("content", " {% b ", 13), ("content", "c", 33)],
        ),
        (
            "{{ a -}}{% raw %} b{% endraw %} c",
            [
                ("output", "{{", 0),
                ("expression", "a", 3),
                ("content", " b", 17),
                ("content", " c", 31),
            ],
        ),
        ("{%raw%}{% end raw %}{%-endraw  %}", [("content", "{% end raw %}", 7)]),
        ("{% raw %}{% raw %}{% endraw %}a", [("content", "{% raw %}", 9), ("content", "a", 30)]),
        ("{% comment %}{{ {% endcomment -%} y", [("content", "y", 33)]),
        ("{% comment -%} {% endcomment %} y", [("content", " y", 31)]),
        (
            "{% comment %}{%comment%}a{% endcomment %}b{% endcomment %}c{% comment %}{%endcomment%}",
            [("content", "c", 58)],
        ),
    ],
)
def test_verbatim(source, expected):
    """What is raw is text, and what is a comment is nothing; comments may hold comments."""
    assert split(source) == expected


@pytest.mark.parametrize(
    ("source", "text", "kind", "at"),
    [
        ("a {{ b", "'{{' without its '}}'", "output", 2),
        ("{{ a }}{{- b %}", "'{{' without its '}}'", "output", 7),
        ("a {%- b }}", "'{%' without its '%}'", "output", 2),
        ("{{{% a", "'{{' without its '}}'", "output", 0),
        ("{{}", "'{{' without its '}}'", "output", 0),
        ("a{%  %}", "missing tag name", "tag", 5),
        ("{%--%}", "missing tag name", "tag", 3),
        ("{% 'a' %}", "missing tag name", "tag", 3),
        ("a {% raw %}{% endcomment %}", "'raw' is never closed", "tag", 5),
        ("{% comment %}{% comment %}{% endcomment %}", "'comment' is never closed", "tag", 3),
    ],
)
def test_never_closed(source, text, kind, at):
    """What is opened and never closed, or is a tag without a name, is an error at its place."""
    with pytest.raises(LiquidSyntaxError) as caught:
        split(source)
    assert caught.value.args == (text,)
    token = caught.value.token
    assert (token.kind, token.start_index, token.source) == (kind, at, source)
    assert source.startswith(token.value, at)


@pytest.mark.parametrize("brackets", ["[", "(", "[("])
def test_brackets(brackets):
    """One output or tag has so many brackets and no more; the next may have as many."""
    most = brackets * (MAX_BRACKETS // len(brackets))
    assert len(split(f"{{{{{most}}}}}{{% if {most} %}}")) == 4
    for source in (f"a{{{{{most}[}}}}", f"a{{% if ({most} %}}"):
        with pytest.raises(LiquidSyntaxError) as caught:
            split(source)
        assert caught.value.args == (f"more than {MAX_BRACKETS} brackets in one expression",)
        assert caught.value.token.start_index == 1
