"""Environment variables: how a class says which it is read from, how they are read and shown."""

import math
import os
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import attrs
from attrs import field, frozen

NONE = "none"
ONE_DAY = 86_400
DATABASE_BYTES = 63


@frozen(kw_only=True)
class Variable:
    """A variable and what it is for."""

    name: str
    #: ValueError: what was expected.
    parse: Callable[[str], Any]
    meaning: str
    #: The default, for people; None: as it is.
    told: str | None = None
    #: The value is not shown but through this.
    mask: Callable[[str], str] | None = None


@frozen
class Reader:
    """Reads variables one by one and keeps what is wrong with them."""

    #: The environment, without what is empty.
    given: Mapping[str, str]
    #: By variable.
    problems: dict[str, str] = field(factory=dict, init=False)

    def read(self, variable: Variable, attribute: str, name: str | None = None) -> dict[str, Any]:
        """Give the attribute with its value; nothing if the variable is not set, or is wrong."""
        name = name or variable.name
        if name not in self.given:
            return {}
        text = self.given[name]
        try:
            return {attribute: variable.parse(text)}
        except ValueError as error:
            shown = "" if variable.mask else f"={text!r}"
            self.problems[name] = f"{name}{shown}: {error}"
            return {}


@frozen(kw_only=True)
class SettingDoc:
    """A variable, for people."""

    name: str
    default: str
    meaning: str


def read_from(
    name: str,
    parse: Callable[[str], Any],
    meaning: str,
    *,
    told: str | None = None,
    mask: Callable[[str], str] | None = None,
) -> dict[object, Variable]:
    """Give the metadata of an attrs field that is read from a variable."""
    return {Variable: Variable(name=name, parse=parse, meaning=meaning, told=told, mask=mask)}


def variables(cls: type[attrs.AttrsInstance]) -> dict[str, Variable]:
    """Give the fields of a class that are read from variables, with these."""
    return {a.name: a.metadata[Variable] for a in attrs.fields(cls) if Variable in a.metadata}


def documentation(cls: type[attrs.AttrsInstance], prefix: str = "") -> tuple[SettingDoc, ...]:
    """Tell about the variables that a class is read from."""
    defaults = {name: show(a.default) for name, a in attrs.fields_dict(cls).items()}
    return tuple(
        SettingDoc(name=prefix + v.name, default=v.told or defaults[name], meaning=v.meaning)
        for name, v in variables(cls).items()
    )


def show(value: Any, mask: Callable[[str], str] | None = None) -> str:
    """Give a value as it would be written in the environment."""
    match value:
        case None:
            return NONE
        case bool():
            return "on" if value else "off"
        case float():
            return f"{value:g}"
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case _:
            return mask(str(value)) if mask else str(value)


def masked(url: str) -> str:
    """Give a URL without its secrets: user, password, query."""
    without_user = re.sub(r"^([^:]*:/*).*@", r"\1***@", url, flags=re.DOTALL)
    return re.sub(r"\?.*", "?***", without_user, flags=re.DOTALL)


def hidden(_: str) -> str:
    """Give nothing of a secret but that there is one."""
    return "***"


def scheme_only(url: str) -> str:
    """Give the scheme of a URL of which nothing else is known."""
    found = re.match(r"[A-Za-z][A-Za-z0-9+.-]*:(//)?", url)
    return f"{found.group()}…" if found else "…"


def one_of[E: StrEnum](words: type[E]) -> Callable[[str], E]:
    """Read a word of an enumeration, in whatever case."""
    known = {word.value.lower(): word for word in words}

    def parse(text: str) -> E:
        if text.lower() not in known:
            raise ValueError(f"expected one of {', '.join(words)}")
        return known[text.lower()]

    return parse


def whole(least: int, most: int) -> Callable[[str], int]:
    """Read a whole number between these."""

    def parse(text: str) -> int:
        if not (re.fullmatch(r"[0-9]{1,9}", text) and least <= int(text) <= most):
            raise ValueError(f"expected a whole number from {least} to {most}")
        return int(text)

    return parse


def positive(text: str) -> float:
    number = _number(text)
    if not number > 0:
        raise ValueError("expected a number greater than 0")
    return number


def seconds(text: str) -> float:
    number = _number(text)
    if not number > 0:
        raise ValueError("expected a number of seconds greater than 0")
    if number > ONE_DAY:
        raise ValueError(f"expected at most {ONE_DAY} seconds, one day")
    return number


def on_off(text: str) -> bool:
    if text.lower() not in {"on", "off"}:
        raise ValueError("expected on or off")
    return text.lower() == "on"


def mongodb_uri(text: str) -> str:
    if not re.match(r"mongodb(\+srv)?://[^/]", text):
        raise ValueError("expected mongodb://HOST or mongodb+srv://HOST")
    return text


def database_name(text: str) -> str:
    if not re.fullmatch(r"[^/\\. \"$*<>:|?\x00]+", text) or len(text.encode()) > DATABASE_BYTES:
        raise ValueError(f'expected up to {DATABASE_BYTES} bytes, none of / \\ . " $ * < > : | ?')
    if text in {"admin", "config", "local"}:
        raise ValueError("expected a database of its own, this one is MongoDB's")
    return text


def file_path(text: str) -> Path:
    path = Path(text).absolute()
    if path.is_dir() or not (path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK)):
        raise ValueError("expected the path of a file, in a directory that can be written to")
    return path


def moment(text: str) -> datetime:
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        given = datetime.min  # noqa: DTZ901 - as wrong as one without a zone
    if given.tzinfo is None:
        raise ValueError("expected a date with its zone, like 2026-01-01T00:00:00Z")
    return given.astimezone(UTC).replace(microsecond=given.microsecond // 1000 * 1000)


def _number(text: str) -> float:
    """Give NaN for what is no finite number: it compares with nothing."""
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan
