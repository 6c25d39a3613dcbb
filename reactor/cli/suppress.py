"""`reactor suppress`: the addresses that must not be written to, whoever asks."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import IO, Any

import click

from reactor.cli.bulk import insert_new, limit_of, limit_option, limited, print_ndjson
from reactor.cli.failure import NotFoundFailure, UsageFailure
from reactor.cli.group import InOrder
from reactor.cli.output import columns, moment, print_view, text
from reactor.cli.session import Document, Session, with_session
from reactor.cli.suppress_import import Import, import_addresses, read_address
from schemas.address import KIND
from schemas.converter import to_document
from schemas.message import Suppression

REASON = "operator"

_addresses = click.argument("addresses", metavar="ADDRESS...", nargs=-1, required=True)
_reason = click.option(
    "--reason", default=REASON, show_default=True, help="Why; of those that are new."
)


@click.group(cls=InOrder)
def suppress() -> None:
    """
    Keep the list of addresses that must not be written to.

    Opt-outs and hard bounces add to it by themselves. Nobody on it is written to, by any campaign;
    a conversation that would write ends with `suppressed`.

    ADDRESS is KIND:ADDRESS, like email:ada@example.com or sms:+4915112345678; an e-mail address
    needs no kind.
    """


@suppress.command()
@_addresses
@_reason
def add(addresses: tuple[str, ...], *, reason: str) -> None:
    """
    Suppress addresses.

    One that is suppressed already keeps its reason and its date.
    """
    _add(_keys(addresses), reason)


@suppress.command()
@_addresses
def remove(addresses: tuple[str, ...]) -> None:
    """
    Take addresses off the list.

    Think before you do: whoever has opted out is written to again. The exit code is 3 if one was
    not on it.
    """
    _remove(_keys(addresses))


@suppress.command("list")
@click.argument("prefix", required=False, default="")
@limit_option
@click.option("--json", "as_json", is_flag=True, help="Print lines of Extended JSON.")
def list_(prefix: str, *, limit: int | None, as_json: bool) -> None:
    """
    List suppressed addresses, in their order.

    PREFIX is what they begin with: `sms:`, `email:ada@`.
    """
    _list(prefix, limit_of(limit, as_json=as_json), as_json=as_json)


@suppress.command("import")
@click.argument("file", type=click.File(encoding="utf-8-sig", errors="surrogateescape"))
@click.option("--kind", help="Of addresses that do not name theirs, like email or sms.")
@click.option("--column", help="Where the addresses stand: its heading.  [default: address]")
@_reason
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def import_(file: IO[str], **options: Any) -> None:
    """
    Suppress the addresses of a CSV file.

    FILE (`-`: standard input) is UTF-8, its fields separated by commas or semicolons. Without a
    heading `address`, or that of --column, addresses are taken from the first field. A line that is
    wrong is named on stderr, and the others are imported; the exit code is then 1.
    """
    order = Import(**options)
    if order.kind is not None and not re.fullmatch(KIND, order.kind):
        raise UsageFailure("--kind: expected letters, digits, _ and -, like email or sms")
    _import(file, order)


@with_session
async def _import(session: Session, file: IO[str], order: Import) -> None:
    await import_addresses(session, file, order)


@with_session
async def _add(session: Session, keys: Sequence[str], reason: str) -> None:
    collection = session.inbox("suppressions")
    documents = [
        to_document(Suppression(id=key, reason=reason, at=session.now))
        for key in dict.fromkeys(keys)
    ]
    present = await insert_new(collection, documents)
    kept = [documents[place]["_id"] for place in sorted(present)]
    found = {each["_id"]: each async for each in collection.find({"_id": {"$in": kept}})}
    for place, document in enumerate(documents):
        key = document["_id"]
        said = f"is suppressed already{_why(session, found.get(key, {}))}"
        click.echo(f"{text(key)}: {said if place in present else 'suppressed'}")


@with_session
async def _remove(session: Session, keys: Sequence[str]) -> None:
    collection, absent = session.inbox("suppressions"), 0
    for key in dict.fromkeys(keys):
        removed = await collection.find_one_and_delete({"_id": key})
        if removed:
            click.echo(f"{text(key)}: removed, was suppressed{_why(session, removed)}")
        else:
            absent += 1
            click.echo(f"{text(key)}: is not suppressed", err=True)
    if absent:
        raise NotFoundFailure(f"{absent} of {len(set(keys))} were not on the list")


def _why(session: Session, suppression: Mapping[str, Any]) -> str:
    at, reason = suppression.get("at"), suppression.get("reason")
    since = f" since {moment(at, session.now)}" if at else ""
    return f"{since}{f', {text(reason)}' if reason else ''}"


@with_session
async def _list(session: Session, prefix: str, limit: int | None, *, as_json: bool) -> None:
    found = limited(_beginning(session, prefix), limit)
    if as_json:
        await print_ndjson(found)
        return
    table = columns("address", "reason", "since", "by")
    async for each in found:
        since = moment(each.get("at"), session.now)
        table.add_row(text(each["_id"]), text(each.get("reason")), since, text(each.get("by")))
    print_view(table if table.rows else "nobody is suppressed")


async def _beginning(session: Session, prefix: str) -> AsyncIterator[Document]:
    query = {"_id": {"$gte": prefix, "$lt": f"{prefix}\U0010ffff"}} if prefix else {}
    async for each in session.database["suppressions"].find(query).sort("_id", 1):
        yield each


def _keys(addresses: Sequence[str]) -> list[str]:
    """Read all of them. `UsageFailure`: some are wrong, a line for each; nothing is done then."""
    keys, problems = [], []
    for address in addresses:
        try:
            keys.append(read_address(address))
        except ValueError as error:
            problems.append(f"{text(address)}: {error}")
    if problems:
        raise UsageFailure("\n".join(problems))
    return keys
