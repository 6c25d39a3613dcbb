"""Suppressed addresses from CSV: line by line, so that neither size nor a bad line stops it."""

import csv
import re
from collections.abc import Iterator, Sequence
from typing import IO

import click
from attrs import define, field, frozen

from reactor.cli.bulk import insert_new, progress
from reactor.cli.failure import ExitCode, Failure
from reactor.cli.output import text
from reactor.cli.session import Session
from schemas.address import KIND, address_key, is_address_key
from schemas.converter import to_document
from schemas.message import Suppression

COLUMN = "address"
#: Addresses that are inserted together.
BATCH = 1_000
ASK_FOR_A_KIND = "expected KIND:ADDRESS, like sms:+4915112345678, or an e-mail address"

_WITH_KIND = re.compile(rf"({KIND}):(.*)", re.DOTALL)


@frozen(kw_only=True)
class Import:
    """What is asked for."""

    #: Of addresses that do not name theirs. None: an e-mail address is one, others are asked for.
    kind: str | None
    #: The heading of the addresses. None: `COLUMN`, or the first field where there is no heading.
    column: str | None
    reason: str
    dry_run: bool


@define
class _Done:
    lines: int = 0
    added: int = 0
    present: int = 0
    bad: int = 0
    #: By address key, so that one that comes twice is one.
    batch: dict[str, None] = field(factory=dict)


def read_address(address: str, kind: str | None = None) -> str:
    """
    Give the address key of what a person wrote, with its kind or without.

    ValueError: it is none; the text says what was expected.
    """
    if kind:
        return address_key(kind, address.strip().removeprefix(f"{kind}:"))
    if named := _WITH_KIND.fullmatch(address.strip()):
        return address_key(*named.groups())
    if "@" in address:
        return address_key("email", address)
    raise ValueError(ASK_FOR_A_KIND)


async def import_addresses(session: Session, file: IO[str], order: Import) -> None:
    """Insert what can be read, batch by batch, and say what cannot. Exits with 1 if there was any."""
    done = _Done()
    with progress("Reading") as advance:
        for line, address in _addresses(file, order):
            done.lines += 1
            advance(1)
            try:
                if isinstance(address, csv.Error):
                    raise address
                key = _key(address, order)
            except (csv.Error, ValueError) as error:
                done.bad += 1
                click.echo(f"{_name(file)}:{line}: {error}", err=True)
            else:
                done.present += key in done.batch
                done.batch[key] = None
            if len(done.batch) >= BATCH:
                await _write(session, order, done)
        await _write(session, order, done)
    added = "would be suppressed" if order.dry_run else "suppressed"
    click.echo(
        f"{_name(file)}: {done.added} {added}, {done.present} were already, {done.bad} bad, "
        f"of {done.lines} lines"
    )
    if done.bad:
        raise click.exceptions.Exit(ExitCode.FAILED)


async def _write(session: Session, order: Import, done: _Done) -> None:
    if not done.batch:
        return
    collection = session.inbox("suppressions")
    keys, done.batch = list(done.batch), {}
    if order.dry_run:
        present = await collection.count_documents({"_id": {"$in": keys}})
    else:
        documents = [
            to_document(Suppression(id=key, reason=order.reason, at=session.now)) for key in keys
        ]
        present = len(await insert_new(collection, documents))
    done.present += present
    done.added += len(keys) - present


def _key(address: str, order: Import) -> str:
    if not address.isprintable() and any("\udc80" <= each <= "\udcff" for each in address):
        raise ValueError("expected UTF-8")
    if not address.strip():
        raise ValueError("expected an address, got an empty field")
    return read_address(address, order.kind)


def _addresses(file: IO[str], order: Import) -> Iterator[tuple[int, str | csv.Error]]:
    """Yield each line's number and address, or why it has none. Lines without anything are none."""
    rows = _rows(file)
    number, first = next(rows, (1, []))
    if isinstance(first, csv.Error):
        raise Failure(f"{_name(file)}:{number}: {first}")
    place, is_heading = _place(first, order, f"{_name(file)}:{number}")
    if first and not is_heading:
        yield number, first[place]
    for number, row in rows:
        if isinstance(row, csv.Error):
            yield number, row
        else:
            yield number, row[place] if place < len(row) else ""


def _place(first: Sequence[str], order: Import, where: str) -> tuple[int, bool]:
    """Find which field has the addresses, and whether the first line is a heading."""
    wanted = [order.column] if order.column else [COLUMN, order.kind or "email"]
    headings = [heading.strip().casefold() for heading in first]
    for name in wanted:
        if name.casefold() in headings:
            return headings.index(name.casefold()), True
    if order.column and first:
        raise Failure(f"{where}: expected a heading {text(order.column)!r}, got none")
    # Of several fields, one that is no address is likely a heading that nobody told us about.
    if len(first) > 1 and not _is_address(first[0], order):
        raise Failure(
            f"{where}: expected a heading {COLUMN!r}, or an address in the first field "
            "(--column names the heading of the addresses, --kind their kind)"
        )
    return 0, False


def _is_address(value: str, order: Import) -> bool:
    try:
        return is_address_key(read_address(value, order.kind))
    except ValueError:
        return False


def _rows(file: IO[str]) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """Yield rows that are not empty, each with the number of its first line."""
    first = file.readline()
    delimiter = ";" if first.count(";") > first.count(",") else ","
    reader = csv.reader(_lines(first, file), delimiter=delimiter, skipinitialspace=True)
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, csv.Error(f"expected CSV: {error}")
            continue
        if any(cell.strip() for cell in row):
            yield number, row


def _lines(first: str, file: IO[str]) -> Iterator[str]:
    yield first
    yield from file


def _name(file: IO[str]) -> str:
    # Standard input with another encoding may have none.
    return text(getattr(file, "name", "<stdin>"))
