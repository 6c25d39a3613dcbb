"""What a parsed template uses, found without rendering it: variables, filters, names of its own."""

from collections.abc import Iterable

import attrs
from liquid import BoundTemplate, Token
from liquid.ast import ConditionalBlockNode, Node
from liquid.builtin.expressions import BooleanExpression, Filter, FilteredExpression, Nil, Path
from liquid.builtin.expressions.logical import (
    EqExpression,
    LogicalAndExpression,
    LogicalOrExpression,
    NeExpression,
)
from liquid.builtin.expressions.primitive import RangeLiteral, StringLiteral
from liquid.builtin.tags.if_tag import IfNode
from liquid.builtin.tags.unless_tag import UnlessNode
from liquid.context import RenderContext
from liquid.exceptions import LiquidSyntaxError
from liquid.expression import Expression

from handlers.liquid_environment import BoundedRange

MAX_DEPTH = 60
"""Of an expression. Liquid recurses: without it the caller's stack decides what can be rendered."""

type Segment = str | int | None
type Segments = tuple[Segment, ...]


@attrs.frozen(kw_only=True)
class Use:
    """A variable where it stands. A segment that is itself computed is None."""

    token: Token
    segments: Segments
    local: bool = attrs.field(default=False)
    may_be_missing: bool = attrs.field(default=False)


@attrs.frozen(kw_only=True)
class Survey:
    """`names` are those that the template makes itself; `size` counts its parts."""

    uses: tuple[Use, ...]
    filters: tuple[Filter, ...]
    names: tuple[tuple[str, Token], ...]
    size: int


@attrs.frozen(kw_only=True)
class _Place:
    """What holds here: names of the blocks around, and paths that a condition found true."""

    names: frozenset[str] = frozenset()
    present: frozenset[Segments] = frozenset()

    def where(self, tested: Iterable[Segments]) -> "_Place":
        return attrs.evolve(self, present=self.present | frozenset(tested))


class _Surveyor:
    def __init__(self, template: BoundTemplate) -> None:
        self.context = RenderContext(template)
        self.uses: list[Use] = []
        self.filters: list[Filter] = []
        self.names: list[tuple[str, Token]] = []
        self.size = 0

    def node(self, node: Node, place: _Place) -> None:
        self.size += 1
        match node:
            case IfNode() | UnlessNode():
                self.condition(node.condition, place)
                tested = place.where(_affirmed(node.condition))
                unless = isinstance(node, UnlessNode)
                self.node(node.consequence, place if unless else tested)
                for alternative in node.alternatives:
                    self.node(alternative, tested if unless else place)
                if node.default:
                    self.node(node.default, tested if unless else place)
            case ConditionalBlockNode():
                self.condition(node.expression, place)
                self.node(node.block, place.where(_affirmed(node.expression)))
            case _:
                self._other(node, place)

    def _other(self, node: Node, place: _Place) -> None:
        for expression in node.expressions():
            self.expression(expression, place)
        self.names += [(str(name), name.token) for name in node.template_scope()]
        own = tuple(node.block_scope())
        self.names += [(str(name), name.token) for name in own[:1]]
        inside = attrs.evolve(place, names=place.names.union(map(str, own)))
        for child in node.children(self.context):
            self.node(child, inside)

    def condition(self, expression: Expression, place: _Place, depth: int = 0) -> None:
        """Allow a condition to test what is missing, not to compare it."""
        _check_depth(expression, depth)
        match expression:
            case BooleanExpression():
                self.condition(expression.expression, place)
            case LogicalAndExpression() | LogicalOrExpression():
                self.condition(expression.left, place, depth + 1)
                both = isinstance(expression, LogicalAndExpression)
                right = place.where(_affirmed(expression.left)) if both else place
                self.condition(expression.right, right, depth + 1)
            case EqExpression(right=Nil()) | NeExpression(right=Nil()):
                self.condition(expression.left, place, depth + 1)
            case Path():
                self._path(expression, place, may_be_missing=True)
            case _:
                self.expression(expression, place, depth)
        self.size += 1

    def expression(self, expression: Expression, place: _Place, depth: int = 0) -> None:
        _check_depth(expression, depth)
        self.size += 1
        match expression:
            case Path():
                self._path(expression, place, depth=depth)
            case FilteredExpression():
                self._filtered(expression, place)
            case _:
                self._bound(expression)
                for child in expression.children():
                    self.expression(child, place, depth + 1)

    def _bound(self, expression: Expression) -> None:
        """Exchange the parser's ranges, of which `reversed` lists a billion numbers."""
        if isinstance(expression, RangeLiteral):
            expression.__class__ = BoundedRange
        elif isinstance(expression, StringLiteral):
            self.size += len(expression.value) >> 8

    def _filtered(self, expression: FilteredExpression, place: _Place) -> None:
        filters = expression.filters or []
        self._operand(expression.left, place, filters[:1])
        for number, applied in enumerate(filters, 1):
            self.size += 1
            self.filters.append(applied)
            following = filters[number : number + 1] if applied.name == "default" else []
            for argument in applied.children():
                self._operand(argument, place, following)

    def _operand(self, operand: Expression, place: _Place, following: list[Filter]) -> None:
        if isinstance(operand, Path) and any(each.name == "default" for each in following):
            self._path(operand, place, may_be_missing=True)
        else:
            self.expression(operand, place)

    def _path(
        self, path: Path, place: _Place, *, depth: int = 0, may_be_missing: bool = False
    ) -> None:
        segments = _segments(path)
        known = any(tested[: len(segments)] == segments for tested in place.present)
        use = Use(
            token=path.token,
            segments=segments,
            local=segments[0] in place.names,
            may_be_missing=may_be_missing or known,
        )
        self.uses.append(use)
        for inner in path.children():
            self.expression(inner, place, depth + 1)


def survey(template: BoundTemplate) -> Survey:
    """Walk a template, and bound its ranges. Raises LiquidSyntaxError for one nested too deeply."""
    surveyor = _Surveyor(template)
    for node in template.nodes:
        surveyor.node(node, _Place())
    return Survey(
        uses=tuple(surveyor.uses),
        filters=tuple(surveyor.filters),
        names=tuple(surveyor.names),
        size=surveyor.size,
    )


def _affirmed(expression: Expression) -> tuple[Segments, ...]:
    """Return the paths that are there where this condition is true."""
    match expression:
        case BooleanExpression():
            return _affirmed(expression.expression)
        case LogicalAndExpression():
            return _affirmed(expression.left) + _affirmed(expression.right)
        case NeExpression(left=Path() as path, right=Nil()) | (Path() as path):
            return (_segments(path),)
        case _:
            return ()


def _segments(path: Path) -> Segments:
    return tuple(None if isinstance(segment, Path) else segment for segment in path.path)


def _check_depth(expression: Expression, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise LiquidSyntaxError("nested too deeply", token=expression.token)
