"""`reactor status`: campaigns, and how far one has come."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import anyio
import click
from attrs import frozen
from rich.console import Group, RenderableType
from rich.live import Live

from reactor.cli.failure import UsageFailure
from reactor.cli.find import find_campaigns, not_found, only, request_ids
from reactor.cli.newer import newer_documents, spelled
from reactor.cli.output import (
    columns,
    distance,
    extended_json,
    moment,
    pairs,
    print_json,
    print_view,
    stdout_console,
    tally,
    text,
)
from reactor.cli.session import Document, Session, with_session
from reactor.cli.status_channels import read_channels, render_channels

WATCH_SECONDS = 1.0
BAR_WIDTH = 30
SHOWN_ID = 8
#: Columns of a terminal that shows times in full beside all else.
WIDE = 120
#: A campaign carries its whole template: for a list, only what a row shows.
ROW = {"_id": 1, "batch_request_id": 1, "name": 1, "type": 1, "status": 1, "counts": 1}
ROW |= {
    "messages": 1,
    "counted_at": 1,
    "created_at": 1,
    "started_at": 1,
    "deadline_at": 1,
    "completed_at": 1,
}

type Render = Callable[[Any, datetime], RenderableType]


@frozen(kw_only=True)
class View:
    """What is shown, and how: `of` is the campaign's reference, or how many of the list."""

    read: Callable[[Session, Any], Awaitable[Any]]
    render: Render
    of: str | int


@click.command()
@click.argument("campaign", required=False)
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Of the list."
)
@click.option("--watch", is_flag=True, help="Keep showing it, until the campaign is completed.")
@click.option("--channels", is_flag=True, help="Only the channels and the open alerts.")
@click.option("--json", "as_json", is_flag=True, help="Print Extended JSON (with --watch: lines).")
def status(campaign: str | None, *, limit: int, watch: bool, channels: bool, as_json: bool) -> None:
    """
    Show campaigns, or how far one has come.

    Without CAMPAIGN they are listed, the newest first, and then the channels, as far as anything is
    known of them, and the alerts that are open. With --json the list has campaigns alone; channels
    and alerts are what --channels prints.

    CAMPAIGN is a campaign's id, the first 4 or more characters of it, its batch request's id, or
    its name where only one has it. Times are UTC, as the database has them. Counts are those that
    the worker last took.
    """
    if channels and campaign is not None:
        raise UsageFailure("Channels are those of all campaigns: say CAMPAIGN or --channels.")
    if campaign is not None:
        view = View(read=_one, render=_render_one, of=campaign)
    elif channels:
        view = View(read=_channels, render=_render_channels, of=limit)
    else:
        # What programs read of campaigns is a list of them.
        view = View(read=_list if as_json else _all, render=_render_all, of=limit)
    _status(view, as_json=as_json, watch=watch)


@with_session
async def _status(session: Session, view: View, *, as_json: bool, watch: bool) -> None:
    async def read() -> Any:
        return await view.read(session, view.of)

    render = view.render
    if watch:
        await _watch(session, read, render, as_json=as_json)
    elif as_json:
        print_json(await read())
    else:
        print_view(render(await read(), session.now))


async def _list(session: Session, limit: int) -> list[Document]:
    campaigns = session.database["campaigns"].find({}, ROW)
    return await campaigns.sort([("created_at", -1), ("_id", 1)]).limit(limit).to_list()


async def _all(session: Session, limit: int) -> Document:
    return {
        "campaigns": await _list(session, limit),
        "newer": await newer_documents(session),
        **await read_channels(session),
    }


async def _channels(session: Session, _: object) -> Document:
    return await read_channels(session)


async def _one(session: Session, reference: str) -> Document:
    """Read a campaign with its request's problems; without a campaign, the request alone."""
    requests = session.database["batch_requests"]
    answer = {"problems": 1, "rejected_recipients": 1, "status": 1, "name": 1, "decided_at": 1}
    if found := await find_campaigns(session.database, reference):
        campaign = only(found, "campaign", reference)
        request = await requests.find_one({"_id": campaign["batch_request_id"]}, answer)
        newer = await newer_documents(session, campaign["_id"])
        return {"campaign": campaign, "batch_request": request, "newer": newer}
    request = await requests.find_one({"_id": {"$in": list(request_ids(reference))}}, answer)
    if request is None:
        raise not_found("campaign", reference)
    return {"campaign": None, "batch_request": request}


async def _watch(
    session: Session, read: Callable[[], Awaitable[Any]], render: Render, *, as_json: bool
) -> None:
    """Show it again and again: in place on a terminal, else (and as JSON) when it has changed."""
    console = stdout_console()
    if not as_json and console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            async for found in _looks(read):
                now = await session.time()
                live.update(render(found, now), refresh=True)
        return
    before = None
    async for found in _looks(read):
        if found == before:
            continue
        before = found
        if as_json:
            click.echo(extended_json(found, indent=None))
        else:
            print_view(render(found, await session.time()))


async def _looks(read: Callable[[], Awaitable[Any]]) -> Any:
    while True:
        found = await read()
        yield found
        if _is_over(found):
            return
        await anyio.sleep(WATCH_SECONDS)


def _is_over(found: Any) -> bool:
    if isinstance(found, list) or "campaign" not in found:
        return False
    if found["campaign"] is None:
        return "status" in found["batch_request"]
    return found["campaign"].get("completed_at") is not None


def _render_all(found: Mapping[str, Any], now: datetime) -> RenderableType:
    parts = render_channels(found, now)
    if found["newer"]:
        parts += ["", f"Documents of a newer version: {spelled(found['newer'])}"]
    campaigns = _render_list(found["campaigns"], now)
    return Group(campaigns, *parts) if parts else campaigns


def _render_channels(found: Mapping[str, Any], now: datetime) -> RenderableType:
    _, *parts = render_channels(found, now) or ("", "nothing is known of channels")
    return Group(*parts)


def _render_list(campaigns: Sequence[Document], now: datetime) -> RenderableType:
    if not campaigns:
        return "no campaigns"
    wide = stdout_console().width >= WIDE
    numbers = ("open", "of", "sent", "failed")
    table = columns("campaign", "request", "name", "status", *numbers, "started", right=numbers)
    for each in campaigns:
        counts, messages = each.get("counts") or {}, each.get("messages") or {}
        started = each.get("started_at")
        table.add_row(
            text(each["_id"])[:SHOWN_ID],
            text(each.get("batch_request_id")),
            text(each.get("name")),
            text(each.get("status")),
            text(counts.get("open")) if each.get("counted_at") else "",
            text(counts.get("recipients")),
            text(messages.get("sent")),
            text(messages.get("failed")),
            distance(started - now)
            if isinstance(started, datetime) and not wide
            else moment(started, now),
        )
    return table


def _render_one(found: Mapping[str, Any], now: datetime) -> RenderableType:
    request = found["batch_request"] or {}
    campaign = found["campaign"]
    if campaign is None:
        rows = [
            ("Batch request", request["_id"]),
            ("Name", request.get("name")),
            ("Status", request.get("status", "not answered yet")),
            ("Decided", moment(request.get("decided_at"), now)),
        ]
        return Group(pairs(rows), *_problems(request))
    facts = [*_facts(campaign, now), ("Of a newer version", spelled(found["newer"]))]
    return Group(pairs(facts), "", _funnel(campaign), *_problems(request))


def _facts(campaign: Mapping[str, Any], now: datetime) -> Iterator[tuple[str, object]]:
    counts = campaign.get("counts") or {}
    yield "Campaign", campaign["_id"]
    yield "Batch request", campaign.get("batch_request_id")
    yield "Name", campaign.get("name")
    yield "Type", campaign.get("type")
    yield "Template", _template(campaign)
    yield "Status", campaign.get("status")
    yield "Paused until", moment(campaign.get("paused_until"), now)
    yield "Scheduled", moment(campaign.get("scheduled_at"), now)
    yield "Started", moment(campaign.get("started_at"), now)
    yield "Deadline", moment(campaign.get("deadline_at"), now)
    yield "Completed", moment(campaign.get("completed_at"), now)
    yield "Because", campaign.get("completion_reason")
    removing = moment(campaign.get("removing_since"), now)
    yield "Removed", moment(campaign.get("removed_at"), now) or (removing and f"since {removing}")
    yield (
        "Recipients",
        f"{counts.get('recipients', 0)}, {counts.get('rejected', 0)} of them rejected",
    )
    yield "Open", counts.get("open") if campaign.get("counted_at") else None
    yield "By status", tally(counts.get("by_status"))
    yield "By exit reason", tally(counts.get("by_exit_reason"))
    yield "Messages", tally(campaign.get("messages"))
    yield "Counted", moment(campaign.get("counted_at"), now) or "not yet"
    yield "Last error", campaign.get("last_error")


def _template(campaign: Mapping[str, Any]) -> str:
    template = campaign.get("template") or {}
    return f"{template.get('name')}, version {template.get('version')}"


def _funnel(campaign: Mapping[str, Any]) -> RenderableType:
    """Show the conversations at each stage, in the template's order."""
    at = dict((campaign.get("counts") or {}).get("by_stage") or {})
    stages = [stage["id"] for stage in (campaign.get("template") or {}).get("stages", ())]
    table = columns("stage", "conversations", "", right=["conversations"])
    largest = max([*at.values(), 1])
    for stage in [*stages, *sorted(at.keys() - set(stages))]:
        number = at.get(stage, 0)
        table.add_row(text(stage), str(number), "█" * round(BAR_WIDTH * number / largest))
    return table


def _problems(request: Mapping[str, Any]) -> Iterator[str]:
    problems = [text(problem) for problem in request.get("problems") or ()]
    problems += [
        f"recipient {rejected.get('id')!r}: {text(rejected.get('problem'))}"
        for rejected in request.get("rejected_recipients") or ()
    ]
    if problems:
        yield ""
        yield "Problems"
        yield from (f"  {problem}" for problem in problems)
