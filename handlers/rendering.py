"""
Liquid texts of messages: checked on acceptance, rendered alike whenever they are rendered.

Variables: `recipient`, `campaign`, `stage`, `reply`, `now`, and the names a text makes itself.
"""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence, Sized
from datetime import datetime
from functools import lru_cache
from itertools import islice
from zoneinfo import ZoneInfo

import attrs
from liquid import BoundTemplate, Token
from liquid.builtin.expressions import Filter, KeywordArgument
from liquid.exceptions import (
    LiquidError,
    LiquidInterrupt,
    LiquidTypeError,
    UndefinedError,
    UnknownFilterError,
)

from handlers.liquid_environment import ENVIRONMENTS, Escape, MessageContext
from handlers.liquid_filters import RefusedError, localised
from handlers.liquid_survey import Segment, Segments, Survey, survey

MAX_SOURCE = 100_000
"""Characters of one Liquid text."""
MAX_PROBLEMS = 20
"""Reported of one text."""

# What may stand behind the first dot; None: anything.
_ROOTS: dict[Segment, tuple[str, ...] | None] = {
    "recipient": None,
    "campaign": ("name", "type", "metadata"),
    "stage": ("id",),
    "reply": ("text", "intent"),
    "now": (),
}

_ENDS: dict[Segment, Segment] = {"first": 0, "last": -1}
_WRITTEN = re.compile(r"[\w-]+\??(?:\.[\w-]+\??|\[(?:[^\[\]]|\[[^\[\]]*\])*\])*")
_IDENTIFIER = re.compile(r"[^\W\d][\w-]*")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class RenderError(Exception):
    """Says what and where, in the words of the template, never with a value."""


@attrs.frozen(kw_only=True)
class _Compiled:
    template: BoundTemplate
    survey: Survey


def check_template(source: str) -> tuple[str, ...]:
    """Return the problems of one Liquid text, each a sentence with its line and column."""
    try:
        found = _compiled(source, Escape.PLAIN).survey
    except RenderError as error:
        return (str(error),)
    return tuple(islice(_problems(found, source), MAX_PROBLEMS))


def lacking_variables(sources: Sequence[str], recipient: Mapping[str, object]) -> tuple[str, ...]:
    """Return the paths, like `recipient.first_name`, that the texts need and `recipient` lacks."""
    return tuple(
        written for written, path in _required(tuple(sources)) if not _has(recipient, path)
    )


@attrs.frozen(kw_only=True)
class Shown:
    """What a text may show, reduced to what Liquid knows: once for all texts of a message."""

    values: Mapping[str, object]
    #: Of the times in it, and of `now`.
    zone: ZoneInfo


def shown(context: Mapping[str, object], zone: str) -> Shown:
    """Reduce a context, with its times in `zone`. Raises RenderError."""
    try:
        here = ZoneInfo(zone)
        values = {name: localised(value, here) for name, value in context.items()}
    except Exception as error:  # noqa: BLE001  # the cause may quote values, so it ends here
        raise RenderError(_sentence(_reason(error, None), "", None)) from None
    return Shown(values=values, zone=here)


def render(source: str, of: Shown, *, now: datetime, escape: Escape) -> str:
    """Return the text. Raises RenderError."""
    compiled = _compiled(source, escape)
    size = compiled.survey.size
    token = None
    try:
        scope = MessageContext(compiled.template, of.values, size=size, now=now, zone=of.zone)
        buffer = scope.get_buffer()
        for node in compiled.template.nodes:
            token = node.token
            node.render(scope, buffer)
    except Exception as error:  # noqa: BLE001  # the cause may quote values, so it ends here
        place = getattr(error, "token", None) or token
        raise RenderError(_sentence(_reason(error, place), source, place)) from None
    return buffer.getvalue()


def render_header(source: str, of: Shown, *, now: datetime) -> str:
    """Render one line: nothing of a recipient begins another header."""
    text = render(source, of, now=now, escape=Escape.PLAIN)
    return _CONTROLS.sub(" ", text).strip()


@lru_cache(maxsize=2048)  # of some 20 KB
def _compiled(source: str, escape: Escape) -> _Compiled:
    """Raise RenderError for whatever the text does to the parser, recursion included."""
    try:
        if len(source) > MAX_SOURCE:
            raise RefusedError(f"longer than {MAX_SOURCE} characters")
        template = ENVIRONMENTS[escape].from_string(source)
        return _Compiled(template=template, survey=survey(template))
    except Exception as error:  # noqa: BLE001  # see above
        known = isinstance(error, LiquidError) and type(error) is not LiquidError
        text = str(error.args[0])[:200] if known else "nested too deeply, or malformed"
        raise RenderError(_sentence(text, source, getattr(error, "token", None))) from None


@lru_cache(maxsize=4096)
def _required(sources: tuple[str, ...]) -> tuple[tuple[str, Segments], ...]:
    """Return what is used below `recipient`, once each, in the order of the texts."""
    paths: dict[Segments, None] = {}
    for source in sources:
        try:
            uses = _compiled(source, Escape.PLAIN).survey.uses
        except RenderError:
            continue  # has no variables, and is a problem of its own
        paths |= dict.fromkeys(
            _static(use.segments[1:])
            for use in uses
            if use.segments[0] == "recipient" and not use.may_be_missing
        )
    return tuple((_dotted(path), path) for path in paths)


def _static(path: Segments) -> Segments:
    """Cut before the first segment that only a recipient decides."""
    return path[: path.index(None)] if None in path else path


def _dotted(path: Segments) -> str:
    return "recipient" + "".join(
        f".{part}" if isinstance(part, str) and _IDENTIFIER.fullmatch(part) else f"[{part!r}]"
        for part in path
    )


def _has(value: object, path: Segments) -> bool:
    try:
        for segment in path:
            value = _member(value, segment)
    except LookupError:
        return False
    return True


def _member(value: object, segment: Segment) -> object:
    """Look up as Liquid does. Raises LookupError."""
    if isinstance(value, Mapping) and segment in value:
        return value[segment]
    if segment == "size" and isinstance(value, Sized):
        return len(value)
    if isinstance(value, list | tuple):
        index = _ENDS.get(segment, segment)
        if isinstance(index, int):
            return value[index]
    raise LookupError


def _problems(found: Survey, source: str) -> Iterator[str]:
    own = {name for name, _ in found.names}
    for name, token in found.names:
        if name in _ROOTS:
            yield _sentence(f"the name '{name}' is taken", source, token)
    for use in found.uses:
        if not use.local and use.segments[0] not in own:
            for text in _unknown(use.segments):
                yield _sentence(text, source, use.token)
    for applied in found.filters:
        for text in _misapplied(applied):
            yield _sentence(text, source, applied.token)


def _unknown(segments: Segments) -> Iterator[str]:
    root, *rest = segments
    if root is None:
        yield "a variable without a name"
    elif root not in _ROOTS:
        yield f"unknown variable '{root}'"
    elif rest:
        members = _ROOTS[root]
        if members is not None and rest[0] not in members:
            yield f"'{root}' has no such field, but {' and '.join(members) or 'none at all'}"


def _misapplied(applied: Filter) -> Iterator[str]:
    filters = ENVIRONMENTS[Escape.PLAIN].filters
    if applied.name not in filters:
        yield f"unknown filter '{applied.name}'"
        return
    named = [each.name for each in applied.args if isinstance(each, KeywordArgument)]
    values = range(1 + len(applied.args) - len(named))
    try:
        _signature(applied.name).bind(*values, **dict.fromkeys(named))
    except TypeError as error:
        yield f"'{applied.name}': {error}"


@lru_cache(maxsize=128)
def _signature(name: str) -> inspect.Signature:
    """Return what a text may give to a filter: not what Liquid gives it."""
    signature = inspect.signature(ENVIRONMENTS[Escape.PLAIN].filters[name])
    given = {"context", "environment"}
    parameters = [each for each in signature.parameters.values() if each.name not in given]
    return signature.replace(parameters=parameters)


def _reason(error: Exception, token: Token | None) -> str:
    """Name the cause without the words of the library, which may quote values."""
    if isinstance(error, UndefinedError) and token:
        written = _WRITTEN.match(token.source, token.start_index)
        return f"'{written[0][:100]}' is missing" if written else "a variable is missing"
    if isinstance(error, RefusedError | UnknownFilterError):
        return str(error.args[0])
    if isinstance(error, LiquidTypeError):
        return "values of these types do not go together"
    if isinstance(error, LiquidInterrupt):
        return f"'{error}' outside of a loop"
    return f"cannot be rendered ({type(error).__name__})"


def _sentence(text: str, source: str, token: Token | None) -> str:
    """Count lines and columns from 1. What has no place of its own is wrong at the end."""
    if token is None:
        return text
    start = token.start_index if token.start_index >= 0 else len(source)
    before = source[:start]
    line = before.count("\n") + 1
    column = start - before.rfind("\n")
    return f"{text} (line {line}, column {column})"
