"""`reactor unknown`: messages whose outcome nobody knows, and a person's word on them."""

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Any

import click
from attrs import frozen
from bson.objectid import ObjectId
from rich.console import RenderableType

from reactor.cli.answers import timeout_option
from reactor.cli.bulk import (
    Answered,
    agreed,
    batches,
    connected,
    insert_updates,
    limit_of,
    limit_option,
    limited,
    print_ndjson,
    progress,
    report,
    which,
)
from reactor.cli.group import InOrder
from reactor.cli.held import Held, held_messages, the_campaign_id, the_held
from reactor.cli.output import columns, distance, moment, print_view, stdout_console, text
from reactor.cli.session import Document, Session, with_session
from reactor.cli.status import SHOWN_ID, WIDE
from schemas.ids import CampaignId
from schemas.update import Resolve, UpdateKind


@frozen(kw_only=True)
class Order:
    """What is decided about which messages."""

    outcome: Resolve
    keys: tuple[str, ...]
    everything: bool
    campaign: str | None
    timeout: float
    no_wait: bool
    yes: bool

    @property
    def said(self) -> str:
        return self.outcome.value.replace("_", "-")

    @property
    def seconds(self) -> float | None:
        return None if self.no_wait else self.timeout


def _deciding[F: Callable[..., Any]](command: F) -> F:
    """Make the arguments and options of a decision."""
    for option in (
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option("--no-wait", is_flag=True, help="Insert the updates and go."),
        timeout_option(30.0, "How long to wait without an answer of a worker."),
        click.option("--campaign", metavar="CAMPAIGN", help="Of --all, those of this campaign."),
        click.option("--all", "everything", is_flag=True, help="All that are held."),
        click.argument("keys", metavar="[KEY]...", nargs=-1),
    ):
        command = option(command)
    return command


@click.group(cls=InOrder)
def unknown() -> None:
    """
    Decide about messages whose outcome nobody knows.

    A worker died during a hand-off, or a provider gave no answer, and the channel's ON_UNKNOWN says
    `hold`: nobody knows whether the message left. Ask the provider, by the send key, and say here
    what is to become of it. Without a word the conversation fails when the hold ends.

    KEY is a send key, or its conversation: the id, the first 4 or more characters of it, or
    BATCH_REQUEST/RECIPIENT.
    """


@unknown.command("list")
@click.argument("campaign", required=False)
@limit_option
@click.option("--json", "as_json", is_flag=True, help="Print lines of Extended JSON.")
def list_(campaign: str | None, *, limit: int | None, as_json: bool) -> None:
    """List messages that are held, all or those of a campaign."""
    _list(campaign, limit_of(limit, as_json=as_json), as_json=as_json)


@unknown.command()
@_deciding
def resend(**options: Any) -> None:
    """
    Send a message again, under its key.

    If it had left after all, the recipient gets it twice, unless the provider drops a key that it
    has seen.
    """
    _decide(Order(outcome=Resolve.RESEND, **options))


@unknown.command("assume-sent")
@_deciding
def assume_sent(**options: Any) -> None:
    """
    Take a message for sent, and go on.

    If it had not left, the recipient never gets it.
    """
    _decide(Order(outcome=Resolve.ASSUME_SENT, **options))


@with_session
async def _list(
    session: Session, reference: str | None, limit: int | None, *, as_json: bool
) -> None:
    campaign = await the_campaign_id(session, reference)
    found = limited(held_messages(session, campaign), limit)
    if as_json:
        await print_ndjson(held.document() async for held in found)
        return
    rows = [held async for held in found]
    print_view(_table(rows, session.now) if rows else "no message is held")


def _table(rows: Sequence[Held], now: datetime) -> RenderableType:
    table = columns(
        *("conversation", "key", "channel", "since", "until", "tries", "error"), right=["tries"]
    )
    for held in rows:
        # What begins the conversation's id is enough to name it.
        key = held.conversation[:SHOWN_ID] if stdout_console().is_terminal else held.key
        table.add_row(
            *(text(f"{held.request}/{held.recipient}"), text(key), text(held.channel)),
            *(_at(held.since, now), _at(held.until, now)),
            *(text(held.attempts), text(held.error)),
        )
    return table


def _at(at: datetime | None, now: datetime) -> str:
    if isinstance(at, datetime) and stdout_console().width < WIDE:
        return distance(at - now)
    return moment(at, now)


def _decide(order: Order) -> None:
    which(order.keys, everything=order.everything, narrowed=order.campaign is not None)
    named, campaign, count = connected(lambda session: _meant(session, order))
    if not count:
        click.echo("no message is held")
        return
    if order.everything:
        agreed(f"{order.said}: {count} messages?", yes=order.yes)

    async def decided(session: Session) -> Answered:
        meant = _each(named) if named else held_messages(session, campaign)
        with progress(order.said, count) as advance:
            updates = batches(resolutions(meant, order.outcome))
            return await insert_updates(session, updates, order.seconds, advance)

    report({order.said: connected(decided)}, order.seconds)


async def _meant(session: Session, order: Order) -> tuple[list[Held], CampaignId | None, int]:
    """Find those that are named, or else the campaign and how many there are."""
    named = {held.key: held for key in order.keys for held in [await the_held(session, key)]}
    if named:
        return list(named.values()), None, len(named)
    campaign, count = await the_campaign_id(session, order.campaign), 0
    async for _ in held_messages(session, campaign):
        count += 1
    return [], campaign, count


async def resolutions(messages: AsyncIterator[Held], outcome: Resolve) -> AsyncIterator[Document]:
    """Make an update for each; it names the message, so that no later one is decided about."""
    async for held in messages:
        yield {
            "_id": ObjectId(),
            "conversation_id": held.conversation,
            "kind": UpdateKind.UNKNOWN_RESOLVED.value,
            "message_id": held.key,
            "outcome": outcome.value,
        }


async def _each(messages: Sequence[Held]) -> AsyncIterator[Held]:
    for held in messages:
        yield held
