"""What people and programs are shown: plain columns, times, Extended JSON."""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TextIO

import click
from bson import json_util
from bson.binary import UuidRepresentation
from rich.console import Console, RenderableType
from rich.table import Table

#: Not a terminal: nothing is folded or cut, whatever reads it wants whole lines.
UNFOLDED = 10_000
JSON_OPTIONS = json_util.JSONOptions(
    json_mode=json_util.JSONMode.RELAXED,
    datetime_representation=json_util.DatetimeRepresentation.ISO8601,
    uuid_representation=UuidRepresentation.STANDARD,
    tz_aware=True,
    tzinfo=UTC,
)
_UNITS = (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("min", timedelta(minutes=1)))


def stdout_console() -> Console:
    return _console(sys.stdout)


def stderr_console() -> Console:
    return _console(sys.stderr)


def _console(target: TextIO) -> Console:
    """Make a console on which text is text: no markup, no emoji, no guessed highlights."""
    plain = not target.isatty() or bool(os.environ.get("NO_COLOR"))
    return Console(
        file=target,
        color_system=None if plain else "auto",
        width=None if target.isatty() else UNFOLDED,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=not target.isatty(),
    )


def print_view(view: RenderableType) -> None:
    """Print to stdout; where that is no terminal, without the spaces that fill up columns."""
    console = stdout_console()
    if console.is_terminal:
        console.print(view)
        return
    with console.capture() as captured:
        console.print(view)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def columns(*headings: str, right: Iterable[str] = ()) -> Table:
    """Make an empty table without lines; the headings in `right` stand above numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    numbers = frozenset(right)
    for heading in headings:
        table.add_column(
            heading.upper(),
            justify="right" if heading in numbers else "left",
            no_wrap=heading in numbers,
            overflow="fold",
        )
    return table


def pairs(rows: Iterable[tuple[str, object]]) -> Table:
    """Make a table of names and what they stand for; rows without a value are left out."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value is not None and value != "":
            table.add_row(name, text(value))
    return table


def text(value: object) -> str:
    """Spell a value on one line; what would steer a terminal is shown, not obeyed."""
    spelled = "" if value is None else str(value)
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in spelled)


def moment(at: object, now: datetime) -> str:
    """Spell a time as `2026-11-25T14:05:00Z (in 2 d)`; empty where there is none."""
    if not isinstance(at, datetime):
        return text(at)
    return f"{at:%Y-%m-%dT%H:%M:%SZ} ({distance(at - now)})"


def distance(ahead: timedelta) -> str:
    """Spell how far away it is, in the largest unit with two of it: `in 47 h`, `3 d ago`."""
    away = abs(ahead)
    if away < timedelta(seconds=1):
        return "now"
    spelled = f"{round(away / timedelta(seconds=1))} s"
    for name, unit in _UNITS:
        if away >= 2 * unit:
            spelled = f"{round(away / unit)} {name}"
            break
    return f"in {spelled}" if ahead > timedelta(0) else f"{spelled} ago"


def tally(counts: object) -> str:
    """Spell counts as `3 awaiting_reply, 1 escalated`, the largest first; zeros are left out."""
    if not isinstance(counts, Mapping):
        return ""
    ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return ", ".join(f"{number} {name}" for name, number in ranked if number)


def extended_json(document: object, *, indent: int | None = 2) -> str:
    return json_util.dumps(document, json_options=JSON_OPTIONS, indent=indent, ensure_ascii=False)


def print_json(document: object) -> None:
    click.echo(extended_json(document))


def print_lines(lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(text(line))
