"""
Split the source of a template into Liquid's tokens, in time linear in its length.

Liquid's own lexer is quadratic in openings that are never closed and in runs of blanks: 20 KB of
`{{` hold it for fourteen seconds. Syntax: text, `{{ output }}`, `{% tag %}`, `{% raw %}`,
`{% comment %}`, and hyphens that trim the text beside them.
"""

import re
from collections.abc import Iterator

from liquid import Token
from liquid.exceptions import LiquidSyntaxError
from liquid.token import TOKEN_CONTENT, TOKEN_EXPRESSION, TOKEN_OUTPUT, TOKEN_TAG

MAX_BRACKETS = 50
"""Of one output or tag: the tokenizer of expressions looks ahead to the end at each of them."""

_OPENING = re.compile(r"\{[{%]-?")
_NAME = re.compile(r"#|\w+")
_VERBATIM = {
    "raw": re.compile(r"\{%-?\s*+(?P<end>end)raw\s*+(?P<trim>-?)%\}"),
    "comment": re.compile(r"\{%-?\s*+(?P<end>end)?comment\s*+(?P<trim>-?)%\}"),
}


def tokens(source: str) -> Iterator[Token]:
    """Raise LiquidSyntaxError for what is opened and never closed."""
    at = 0
    trim = False
    while opening := _OPENING.search(source, at):
        yield from _text(source, at, opening, trim=trim)
        inner, at = _inner(source, opening)
        trim = inner.endswith("-")
        markup = inner.removesuffix("-").strip()
        start = opening.end() + len(inner) - len(inner.lstrip())
        if opening[0].startswith("{{"):
            yield Token(TOKEN_OUTPUT, opening[0], opening.start(), source)
            yield Token(TOKEN_EXPRESSION, markup, start, source)
            continue
        tag = _tag(source, markup, start)
        if tag.value in _VERBATIM:
            closing = _closing(tag, at)
            if tag.value == "raw":
                yield Token(TOKEN_CONTENT, source[at : closing.start()], at, source)
            at, trim = closing.end(), bool(closing["trim"])
            continue
        yield tag
        expression = markup[len(tag.value) :].lstrip()
        if expression:
            yield Token(TOKEN_EXPRESSION, expression, start + len(markup) - len(expression), source)
    yield from _text(source, at, None, trim=trim)


def _text(source: str, at: int, opening: re.Match[str] | None, *, trim: bool) -> Iterator[Token]:
    text = source[at : opening.start()] if opening else source[at:]
    if trim:
        text = text.lstrip()
    if opening and opening[0].endswith("-"):
        text = text.rstrip()
    if text:
        yield Token(TOKEN_CONTENT, text, at, source)


def _inner(source: str, opening: re.Match[str]) -> tuple[str, int]:
    """Return what stands between the opening and its closing, and where the closing ends."""
    token = Token(TOKEN_OUTPUT, opening[0], opening.start(), source)
    closing = "}}" if opening[0].startswith("{{") else "%}"
    end = source.find(closing, opening.end())
    if end == -1:
        raise LiquidSyntaxError(f"'{opening[0][:2]}' without its '{closing}'", token=token)
    inner = source[opening.end() : end]
    if inner.count("(") + inner.count("[") > MAX_BRACKETS:
        raise LiquidSyntaxError(f"more than {MAX_BRACKETS} brackets in one expression", token=token)
    return inner, end + len(closing)


def _tag(source: str, markup: str, start: int) -> Token:
    name = _NAME.match(markup)
    if name is None:
        raise LiquidSyntaxError("missing tag name", token=Token(TOKEN_TAG, "", start, source))
    return Token(TOKEN_TAG, name[0], start, source)


def _closing(tag: Token, at: int) -> re.Match[str]:
    """Comments may stand within each other."""
    depth = 1
    for mark in _VERBATIM[tag.value].finditer(tag.source, at):
        depth += -1 if mark["end"] else 1
        if not depth:
            return mark
    raise LiquidSyntaxError(f"'{tag.value}' is never closed", token=tag)
