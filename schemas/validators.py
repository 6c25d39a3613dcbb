"""Validators for what a type cannot say. Each tells people and JSON Schema what was expected."""

import re
from collections.abc import Callable, Mapping, Sized
from datetime import timedelta
from typing import Any

from attrs import frozen

from schemas.action import Action, ActionKind
from schemas.duration import spell
from schemas.problems import show


@frozen
class Check:
    """A validator of an attrs field. None passes: where it may stand, the type says."""

    #: As JSON Schema spells them, lengths as `minLength` and `maxLength` whatever the type.
    keywords: Mapping[str, Any]
    #: Gives "expected …, got …", or None where nothing is wrong.
    problem: Callable[[Any], str | None]

    def __call__(self, _: object, __: object, value: Any) -> None:
        if value is not None and (problem := self.problem(value)):
            raise ValueError(problem)


def length(low: int = 0, high: int | None = None) -> Check:
    """Accept texts of so many characters, lists and mappings of so many entries."""

    def problem(value: Sized) -> str | None:
        if low <= len(value) and (high is None or len(value) <= high):
            return None
        noun = "characters" if isinstance(value, str) else "entries"
        return f"expected {_range(low, high)} {noun}, got {len(value)}"

    return Check({"minLength": low, "maxLength": high}, problem)


def between(low: int, high: int | None = None) -> Check:
    """Accept numbers from `low` to `high`."""

    def problem(value: float) -> str | None:
        if low <= value and (high is None or value <= high):
            return None
        return f"expected {_range(low, high)}, got {show(value)}"

    return Check({"minimum": low, "maximum": high}, problem)


def matching(pattern: str) -> Check:
    """Accept texts that are, as a whole, of this form."""
    compiled = re.compile(pattern)

    def problem(value: str) -> str | None:
        if compiled.fullmatch(value):
            return None
        return f"expected a text of the form {pattern}, got {show(value)}"

    return Check({"pattern": pattern}, problem)


def one_of(*words: str) -> Check:
    def problem(value: str) -> str | None:
        return None if value in words else f"expected {' | '.join(words)}, got {show(value)}"

    return Check({"enum": list(words)}, problem)


def actions(allowed: frozenset[ActionKind]) -> Check:
    """Accept these actions only."""
    words = [kind.value for kind in ActionKind if kind in allowed]
    spelled = " | ".join("{go_to: stage}" if word == "go_to" else word for word in words)

    def problem(value: Action) -> str | None:
        return None if value.kind in allowed else f"expected {spelled}, got {value.kind.value!r}"

    return Check({"actions": words}, problem)


def _longer_than_zero(value: timedelta) -> str | None:
    if value > timedelta(0):
        return None
    return f"expected a duration longer than zero, got {spell(value)}"


longer_than_zero = Check({}, _longer_than_zero)


def _range(low: int, high: int | None) -> str:
    if high is None:
        return f"at least {low}"
    return f"{low} to {high}" if low else f"at most {high}"
