"""
Liquid as messages use it: no clock, no files, no values but those given, and an end to everything.

Left out are the tags `include` and `render` (files), `liquid` and `doc` (lexers of their own), and
the filters `safe` (nothing of a recipient enters HTML unescaped) and `strip_html` (quadratic in
what a recipient replies).
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from enum import Enum
from io import StringIO
from typing import Any, TextIO
from zoneinfo import ZoneInfo

from liquid import BoundTemplate, Environment, Mode, RenderContext, Token
from liquid.builtin.expressions.primitive import RangeLiteral
from liquid.builtin.tags.if_tag import IfTag
from liquid.builtin.tags.unless_tag import UnlessTag
from liquid.exceptions import LiquidError, UndefinedError
from liquid.token import TOKEN_EOF
from liquid.undefined import UNDEFINED, FalsyStrictUndefined, is_undefined
from liquid.utils import ReadOnlyChainMap

from handlers import liquid_filters, liquid_lexer
from handlers.liquid_filters import MAX_OUTPUT, SIZES, LocalTime, RefusedError, weigh

MAX_STEPS = 200_000
"""Of one rendering, at most some microseconds each: a part of the template in each iteration, and
256 characters, or 8 items, that are read, made or written."""
MAX_ASSIGNED = 1_000_000
"""Characters that the variables of a template hold together."""
MAX_RANGE = 1_000
"""Numbers of a range."""
MAX_BITS = 256
"""Of a whole number that a filter makes."""
MAX_BLOCKS = 20
"""Blocks within each other."""

_REMOVED_TAGS = ("include", "render", "liquid", "doc")
_REMOVED_FILTERS = ("safe", "strip_html")


class Escape(Enum):
    PLAIN = "plain"
    HTML = "html"


class Missing(FalsyStrictUndefined):
    """What a recipient lacks: false in a condition, replaced by `default`, else an error."""

    __slots__ = ()
    force_liquid_default = True


class BoundedRange(RangeLiteral):
    __slots__ = ()

    def _make_range(self, start: Any, stop: Any) -> range:
        numbers = super()._make_range(start, stop)
        if numbers.stop - numbers.start > MAX_RANGE:
            raise RefusedError(f"a range of more than {MAX_RANGE} numbers")
        return numbers


class Output(StringIO):
    """A text that refuses to grow beyond its room."""

    def __init__(self, room: int, charge: Callable[[int], None]) -> None:
        super().__init__()
        self.room = room
        self._charge = charge

    def write(self, text: str, /) -> int:
        self.room -= len(text)
        if self.room < 0:
            raise RefusedError(f"makes more than {MAX_OUTPUT} characters")
        self._charge(len(text))
        return super().write(text)


class MessageContext(RenderContext):
    """What one rendering may see, and how much of its allowance is left."""

    __slots__ = ("assigned", "now", "size", "steps", "zone")

    def __init__(
        self,
        template: BoundTemplate,
        values: Mapping[str, object],
        *,
        size: int,
        now: datetime,
        zone: ZoneInfo,
    ) -> None:
        """`values`: as `localised` has left them."""
        self.zone = zone
        self.now = LocalTime.of(now, zone)
        super().__init__(template, globals={**values, "now": self.now})
        # Without Liquid's own names, of which `now` and `today` read the clock.
        self.scope = ReadOnlyChainMap(self.locals, self.globals, self.counters)
        self.size = size
        self.steps = MAX_STEPS
        self.assigned = 0

    def charge(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise RefusedError(f"takes more than {MAX_STEPS} steps")

    def charge_characters(self, count: int) -> None:
        self.charge(count >> 8)

    def raise_for_loop_limit(self, length: int = 1) -> None:
        """Charge for a loop. Liquid's own limit knows no loops one after the other."""
        self.charge(length * self.size)

    def get(
        self, path: list[object], *, token: Token | None, default: object = UNDEFINED
    ) -> object:
        value = super().get(path, token=token, default=default)
        if isinstance(value, str | list | dict):
            self.charge_characters(len(value) * (1 if isinstance(value, str) else 32))
        return value

    def assign(self, key: str, val: Any) -> None:
        weight = weigh(val)
        self.charge_characters(weight)
        self.assigned += weight - (weigh(self.locals[key]) if key in self.locals else 0)
        if self.assigned > MAX_ASSIGNED:
            raise RefusedError(f"assigns more than {MAX_ASSIGNED} characters")
        self.locals[key] = val

    def get_buffer(self, buf: TextIO | None = None) -> StringIO:
        room = buf.room if isinstance(buf, Output) else MAX_OUTPUT
        return Output(room, self.charge_characters)

    def filter(self, name: str, token: Token | None) -> Callable[..., object]:
        apply = super().filter(name, token)

        def bounded(*values: object, **named: object) -> object:
            if name != "default":
                _check_given(*values, *named.values())
            try:
                if name in SIZES and SIZES[name](*values, **named) > MAX_OUTPUT:
                    raise RefusedError(f"makes more than {MAX_OUTPUT} characters")
                result = apply(*values, **named)
            except (RefusedError, UndefinedError):
                raise
            except Exception as error:
                raise RefusedError(f"'{name}' cannot use what it is given") from error
            self._check_made(result)
            return result

        return bounded

    def _check_made(self, result: object) -> None:
        if isinstance(result, int) and result.bit_length() > MAX_BITS:
            raise RefusedError(f"makes a number of more than {MAX_BITS} bits")
        weight = weigh(result)
        if weight > MAX_OUTPUT + 8:
            raise RefusedError(f"makes more than {MAX_OUTPUT} characters")
        self.charge_characters(weight)


def _check_given(*values: object) -> None:
    for value in values:
        if is_undefined(value):
            str(value)  # raises, where several filters would take it for 0 or ""
        elif isinstance(value, Mapping) and not isinstance(value, dict):
            raise RefusedError("a loop is not a value")


class StrictIf(IfTag):
    """`else if`, written for `elsif`, would lose its condition without a word."""

    mode = Mode.STRICT


class StrictUnless(UnlessTag):
    mode = Mode.STRICT


class MessageEnvironment(Environment):
    block_nesting_limit = MAX_BLOCKS
    context_depth_limit = 2 * MAX_BLOCKS  # out of reach: only blocks extend the context

    def setup_tags_and_filters(self, *, extra: bool = False) -> None:
        super().setup_tags_and_filters(extra=extra)
        for tag in _REMOVED_TAGS:
            del self.tags[tag]
        for name in _REMOVED_FILTERS:
            del self.filters[name]
        self.add_tag(StrictIf)
        self.add_tag(StrictUnless)
        self.filters |= {
            "date": liquid_filters.date,
            "map": liquid_filters.select,
            "uniq": liquid_filters.uniq,
        }

    def tokenizer(self) -> Callable[[str], Iterator[Token]]:
        return liquid_lexer.tokens

    def error(
        self,
        exc: type[LiquidError] | LiquidError,
        msg: str | None = None,
        token: Token | None = None,
    ) -> None:
        """Raise with a place: the end of an expression has none of its own."""
        if isinstance(exc, LiquidError) and exc.token and exc.token.kind == TOKEN_EOF:
            exc.token = None
        super().error(exc, msg, token)


def make_environment(escape: Escape) -> MessageEnvironment:
    return MessageEnvironment(undefined=Missing, autoescape=escape is Escape.HTML)


ENVIRONMENTS = {escape: make_environment(escape) for escape in Escape}
