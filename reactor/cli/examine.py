"""`reactor check`: whether a worker could work here, and what to do if not."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

import anyio
import click
import pymongo
from attrs import frozen
from pymongo import WriteConcern
from pymongo.errors import PyMongoError

from reactor.cli.failure import ExitCode, Failure
from reactor.cli.newer import newer_documents, spelled
from reactor.cli.output import stdout_console, text
from reactor.cli.session import (
    ANSWER_SECONDS,
    Session,
    need_uri,
    read_settings,
    reason,
    server_time,
    session,
)
from reactor.indexes import missing_indexes
from reactor.settings import Settings

OLDEST_SERVER = (6, 0)
SUPPORTED_SERVER = (7, 0)
MAX_CLOCK_DIFFERENCE = timedelta(seconds=5)
RETRY_SECONDS = 1.0


@frozen(kw_only=True)
class Finding:
    """What was looked at and found; with advice it is a failure."""

    subject: str
    found: str
    advice: str | None = None


@click.command()
@click.option(
    "--startup",
    is_flag=True,
    help="Only what a worker needs to start; try again until it is there.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    envvar="STARTUP_TIMEOUT_SECONDS",
    show_envvar=True,
    metavar="SECONDS",
    help="How long --startup tries.",
)
def check(*, startup: bool, timeout: float) -> None:
    """
    Say whether a worker could work here.

    Looks at settings, server, replica set, majority, clock, indexes, documents of a newer version
    and channels. Prints a line for
    each, and what to do about those that failed. The exit code is 1 if any failed, 2 if settings
    are wrong.
    """
    settings = read_settings()
    need_uri(settings)
    if startup:
        anyio.run(_start_up, settings, timeout)
    else:
        anyio.run(_check, settings)


async def _check(settings: Settings) -> None:
    failed = False
    async for finding in _findings(settings):
        failed = failed or finding.advice is not None
        _print(finding)
    if failed:
        raise click.exceptions.Exit(ExitCode.FAILED)


async def _start_up(settings: Settings, seconds: float) -> None:
    """Try until a worker could start; `Failure` when the time is over, with what failed last."""
    deadline = anyio.current_time() + seconds
    said = None
    while True:
        finding = await lacking(settings)
        if finding is None:
            return
        if finding.found != said:
            said = finding.found
            click.echo(f"Waiting for the database: {said}", err=True)
        if anyio.current_time() >= deadline:
            raise Failure(f"Not ready after {seconds:g} s. {finding.advice}")
        await anyio.sleep(min(RETRY_SECONDS, max(0.0, deadline - anyio.current_time())))


async def lacking(settings: Settings) -> Finding | None:
    """Give the first finding that keeps a worker from starting."""
    try:
        async with session(settings) as opened:
            finding = await _replica_set(opened)
    except Failure as failure:
        return _no_server(failure)
    return finding if finding.advice else None


async def _findings(settings: Settings) -> AsyncIterator[Finding]:
    yield _settings(settings)
    try:
        async with session(settings) as opened:
            for subject, probe in PROBES.items():
                try:
                    with pymongo.timeout(2 * ANSWER_SECONDS):
                        yield await probe(opened)
                except PyMongoError as error:
                    yield Finding(
                        subject=subject, found=reason(error), advice="see the server's log"
                    )
    except Failure as failure:
        yield _no_server(failure)
    yield _channels(settings)


def _print(finding: Finding) -> None:
    console = stdout_console()
    mark, style = ("failed", "bold red") if finding.advice else ("ok", "green")
    console.print(f"{mark:<7}", style=style, end="")
    console.print(f" {finding.subject:<12} {text(finding.found)}")
    if finding.advice:
        console.print(f"{'':21}{finding.advice}")


def _settings(settings: Settings) -> Finding:
    if settings.warnings:
        return Finding(
            subject="settings", found="; ".join(settings.warnings), advice="check the names"
        )
    return Finding(subject="settings", found="valid; `reactor config` shows them")


def _no_server(failure: Failure) -> Finding:
    advice = "Check MONGODB_URI, that the server runs, and that this machine may reach it."
    return Finding(subject="server", found=failure.message, advice=advice)


async def _server(opened: Session) -> Finding:
    started = time.monotonic()
    version = (await opened.database.command("buildInfo"))["version"]
    took = (time.monotonic() - started) * 1000
    found = f"MongoDB {version}, answers in {took:.0f} ms"
    number = tuple(int(part) for part in version.split(".")[:2])
    if number < OLDEST_SERVER:
        return Finding(subject="server", found=found, advice="Use MongoDB 7.0 or newer.")
    if number < SUPPORTED_SERVER:
        found += " (for production use 7.0 or newer)"
    return Finding(subject="server", found=found)


async def _replica_set(opened: Session) -> Finding:
    hello = await opened.database.command("hello")
    name = hello.get("setName")
    if not name:
        return Finding(
            subject="replica set",
            found="the server is no member of a replica set",
            advice="Start mongod with --replSet rs0 and run rs.initiate(); one member is enough.",
        )
    if not hello.get("isWritablePrimary"):
        return Finding(
            subject="replica set",
            found=f"{name}: {hello.get('me')} is not the primary",
            advice=f"Name the set in MONGODB_URI: replicaSet={name}, without directConnection.",
        )
    found = f"{name}, members {', '.join(hello.get('hosts', ()))}, primary {hello.get('me')}"
    return Finding(subject="replica set", found=found)


async def _majority(opened: Session) -> Finding:
    """Change nothing, with acknowledgement: that waits for all that was written before."""
    concern = WriteConcern("majority", wtimeout=int(ANSWER_SECONDS * 1000))
    requests = opened.database.get_collection("batch_requests", write_concern=concern)
    started = time.monotonic()
    try:
        await requests.update_one({"_id": ""}, {"$set": {"_id": ""}})
    except PyMongoError as error:
        advice = "Most members of the replica set must be up: rs.status() says which are not."
        return Finding(subject="majority", found=reason(error), advice=advice)
    took = (time.monotonic() - started) * 1000
    return Finding(subject="majority", found=f"acknowledges a write in {took:.0f} ms")


async def _clock(opened: Session) -> Finding:
    """Compare this machine's clock with the server's, to half of what the question took."""
    started = time.monotonic()
    server = await server_time(opened.database)
    asked = timedelta(seconds=(time.monotonic() - started) / 2)
    difference = datetime.now(UTC) - asked - server  # noqa: TID251 -- the clock that is compared
    spelled = f"{abs(difference) // timedelta(milliseconds=1)} ms"
    found = f"{spelled} {'ahead of' if difference > timedelta(0) else 'behind'} the server's"
    if abs(difference) <= MAX_CLOCK_DIFFERENCE:
        return Finding(subject="clock", found=found)
    advice = (
        "Campaigns go by the server's clock; logs and traces of this machine do not: set it (NTP)."
    )
    return Finding(subject="clock", found=found, advice=advice)


async def _indexes(opened: Session) -> Finding:
    missing = await missing_indexes(opened.database)
    if not missing:
        return Finding(subject="indexes", found="all there")
    names = ", ".join(f"{index.collection}.{index.name}" for index in missing)
    found = f"{len(missing)} missing: {names}"
    return Finding(subject="indexes", found=found, advice="Run `reactor init-db`.")


async def _documents(opened: Session) -> Finding:
    newer = await newer_documents(opened)
    if not newer:
        return Finding(subject="documents", found="none of a newer version")
    found = f"of a newer version: {spelled(newer)}"
    advice = "This version leaves them alone: run workers of the version that wrote them."
    return Finding(subject="documents", found=found, advice=advice)


def _channels(settings: Settings) -> Finding:
    if settings.channels:
        return Finding(subject="channels", found=", ".join(sorted(settings.channels)))
    advice = "Set one for each channel that templates name: CHANNEL_EMAIL=log: only logs."
    return Finding(subject="channels", found="none, every request will be rejected", advice=advice)


PROBES: dict[str, Callable[[Session], Awaitable[Finding]]] = {
    "server": _server,
    "replica set": _replica_set,
    "majority": _majority,
    "clock": _clock,
    "indexes": _indexes,
    "documents": _documents,
}
