"""`reactor dead`: what failed, was parked or is held, and having it tried again."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

import click
from rich.console import RenderableType

from reactor.cli.answers import timeout_option
from reactor.cli.bulk import limit_of, limit_option, limited, print_ndjson
from reactor.cli.dead_retry import Retry, retry_letters
from reactor.cli.dead_show import show_letter
from reactor.cli.group import InOrder
from reactor.cli.held import the_campaign_id
from reactor.cli.letters import REASONS, Kind, Letter, Selection, groups, letters
from reactor.cli.output import (
    columns,
    distance,
    moment,
    print_json,
    print_view,
    stdout_console,
    text,
)
from reactor.cli.session import Session, with_session
from reactor.cli.status import SHOWN_ID, WIDE

_reason = click.option(
    "--reason", type=click.Choice(REASONS), help="Only those, and of what failed its exit reason."
)


@click.group(cls=InOrder)
def dead() -> None:
    """
    See what could not be done, and have it tried again.

    Dead letters are what nobody goes on with alone: requests and updates that were `parked` because
    they could not be processed, conversations that have failed, and messages that are `held` because
    nobody knows what came of them (`reactor unknown` is about these).

    ID is the `_id` of a request or an update, a send key, or a conversation: its id, the first 4 or
    more characters of it, or BATCH_REQUEST/RECIPIENT. Where one may mean several, KIND:ID is one.
    """


@dead.command("list")
@click.argument("campaign", required=False)
@_reason
@click.option("--each", is_flag=True, help="Each of them, not how many are alike.")
@limit_option
@click.option("--json", "as_json", is_flag=True, help="Print Extended JSON (with --each: lines).")
def list_(
    campaign: str | None, *, reason: str | None, each: bool, limit: int | None, as_json: bool
) -> None:
    """
    List dead letters, how many are alike and one of them.

    All, or those of a campaign. The newest come first.
    """
    if each:
        _list_each(campaign, reason, limit_of(limit, as_json=as_json), as_json=as_json)
    else:
        _list_groups(campaign, reason, limit, as_json=as_json)


@dead.command()
@click.argument("letter", metavar="ID")
@click.option("--text", "content", is_flag=True, help="Show the texts of messages too.")
@click.option("--json", "as_json", is_flag=True, help="Print one document of Extended JSON.")
def show(letter: str, *, content: bool, as_json: bool) -> None:
    """
    Show one: where it stands, its error, its history, its messages.

    What is to be known before one decides whether to try it again.
    """
    show_letter(letter, content=content, as_json=as_json)


@dead.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that there are.")
@click.option("--campaign", metavar="CAMPAIGN", help="Of --all, those of this campaign.")
@_reason
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@timeout_option(30.0, "How long to wait without an answer of a worker.")
@click.option("--no-wait", is_flag=True, help="Insert the updates and go.")
def retry(**options: Any) -> None:
    """
    Have it tried again.

    A failed conversation goes back to where it stood, and what failed is sent under a new key. A
    parked document is as if it had just been inserted; a worker takes it at its next sweep. A
    message that is held is sent again, under its key: ask the provider first.
    """
    retry_letters(Retry(**options))


@with_session
async def _list_groups(
    session: Session, campaign: str | None, reason: str | None, limit: int | None, *, as_json: bool
) -> None:
    found = await groups(session, await _selection(session, campaign, reason))
    if limit:
        found = found[:limit]
    if as_json:
        print_json([group.document() for group in found])
        return
    rows = [(group.example, str(group.count)) for group in found]
    print_view(_table(rows, session.now) if rows else "no dead letters")


@with_session
async def _list_each(
    session: Session, campaign: str | None, reason: str | None, limit: int | None, *, as_json: bool
) -> None:
    selection = await _selection(session, campaign, reason)
    found: AsyncIterator[Letter] = limited(letters(session, selection), limit)
    if as_json:
        await print_ndjson(letter.document() async for letter in found)
        return
    rows = [(letter, None) async for letter in found]
    print_view(_table(rows, session.now) if rows else "no dead letters")


async def _selection(session: Session, campaign: str | None, reason: str | None) -> Selection:
    return Selection(
        campaign=await the_campaign_id(session, campaign), reason=reason, until=session.now
    )


def _table(rows: Sequence[tuple[Letter, str | None]], now: datetime) -> RenderableType:
    """Make the table of groups, or of letters where there are no counts."""
    counted = any(count is not None for _, count in rows)
    headings = ("number", "newest", "for example") if counted else ("when", "id")
    table = columns("kind", "request", *headings, "reason", right=["number"])
    table.columns[0].no_wrap = True
    for letter, count in rows:
        why = f"{letter.reason}: {letter.error}" if letter.error else letter.reason
        table.add_row(
            *(letter.kind.value, text(letter.request)),
            *((count or "",) if counted else ()),
            *(_when(letter, now), shown_id(letter), text(why)),
        )
    return table


def shown_id(letter: Letter) -> str:
    """Spell an id as short as a terminal has it; elsewhere in full."""
    if letter.kind in {Kind.CONVERSATION, Kind.MESSAGE} and stdout_console().is_terminal:
        return text(letter.id)[:SHOWN_ID]
    return text(letter.id)


def _when(letter: Letter, now: datetime) -> str:
    if isinstance(letter.at, datetime) and stdout_console().width < WIDE:
        return distance(letter.at - now)
    return moment(letter.at, now)
