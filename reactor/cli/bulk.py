"""One thing done to many: asked for before, in batches, with progress, and a summary of answers."""

import sys
from collections import Counter
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from typing import Any

import anyio
import click
from attrs import define, field
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from reactor.cli.answers import FIRST_LOOK_SECONDS, LOOK_SECONDS
from reactor.cli.failure import Failure, UsageFailure
from reactor.cli.output import extended_json, stderr_console, text
from reactor.cli.session import Document, Session, read_settings, session
from reactor.cli.steer import ANSWERED_WELL

#: Documents that are read, written and waited for together.
BATCH = 500
#: Rows that people are shown unless they ask for more.
ROWS = 100
DUPLICATE_KEY = 11000

#: Is told how many more are done.
type Advance = Callable[[int], None]


@define
class Answered:
    """What came of updates that were inserted."""

    inserted: int = 0
    unanswered: int = 0
    answers: Counter[tuple[str, str]] = field(factory=Counter)


def connected[T](work: Callable[[Session], Awaitable[T]]) -> T:
    """
    Run one asynchronous step of a command with a session of its own, and give what it gave.

    A question between two steps is asked outside of them: an event loop that waits for a key is
    not to be interrupted.
    """

    async def run() -> T:
        async with session(read_settings()) as opened:
            return await work(opened)

    return anyio.run(run)


def agreed(question: str, *, yes: bool) -> None:
    """Ask whoever sits at the terminal; a script is not asked. `Failure`: the answer was no."""
    if yes or not sys.stdin.isatty():
        return
    if not click.confirm(question, err=True):
        raise Failure("Nothing was done.")


def which(named: Sequence[str], *, everything: bool, narrowed: bool) -> None:
    """See that either some are named, or all are meant. `UsageFailure`: neither, or both."""
    if named and (everything or narrowed):
        raise UsageFailure("Name some, or say --all; --all alone can be narrowed.")
    if not named and not everything:
        raise UsageFailure("Say which: name some, or say --all.")


@contextmanager
def progress(said: str, total: int | None = None) -> Iterator[Advance]:
    """Show on stderr how far it has come; nothing where that is no terminal."""
    console = stderr_console()
    if not console.is_terminal:
        yield lambda _: None
        return
    shown = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=30))
    with Progress(
        *shown, MofNCompleteColumn(), TimeElapsedColumn(), console=console, transient=True
    ) as bars:
        task = bars.add_task(said, total=total)
        yield lambda more: bars.advance(task, more)


async def batches[T](items: AsyncIterable[T], size: int = BATCH) -> AsyncIterator[list[T]]:
    batch: list[T] = []
    async for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


async def insert_new(
    collection: AsyncCollection[Document], documents: Sequence[Document]
) -> frozenset[int]:
    """Insert those whose `_id` is free; give the places of the others."""
    try:
        await collection.insert_many(documents, ordered=False)
    except BulkWriteError as error:
        errors = error.details.get("writeErrors") or [{}]
        if any(each.get("code") != DUPLICATE_KEY for each in errors):
            raise Failure(_refused(error)) from None
        return frozenset(each["index"] for each in errors)
    return frozenset()


async def insert_updates(
    session: Session,
    updates: AsyncIterable[list[Document]],
    seconds: float | None,
    advance: Advance,
) -> Answered:
    """
    Insert conversation updates, a batch at a time, and wait for the answers to each batch.

    After `seconds` without any answer it stops waiting, for this batch and those that come: they
    take effect as soon as a worker runs. None: it does not wait at all.
    """
    inbox, answered = session.inbox("conversation_updates"), Answered()
    waits = seconds
    async for batch in updates:
        try:
            await inbox.insert_many(batch, ordered=False)
        except BulkWriteError as error:
            raise Failure(_refused(error)) from None
        answered.inserted += len(batch)
        missing = {each["_id"] for each in batch}
        if waits is None:
            advance(len(batch))
        else:
            missing = await _answers(inbox, missing, waits, answered, advance)
            waits = None if missing else waits
        answered.unanswered += len(missing)
    return answered


async def _answers(
    inbox: AsyncCollection[Document],
    missing: set[object],
    seconds: float,
    answered: Answered,
    advance: Advance,
) -> set[object]:
    """Count answers as they come; give the ids of those that did not."""
    pause, deadline = FIRST_LOOK_SECONDS, anyio.current_time() + seconds
    while True:
        query = {"_id": {"$in": list(missing)}, "status": {"$exists": True}}
        found = await inbox.find(query, {"status": 1, "reason": 1}).to_list()
        for each in found:
            answered.answers[str(each["status"]), str(each.get("reason") or "")] += 1
        advance(len(found))
        missing = missing - {each["_id"] for each in found}
        if found:
            deadline = anyio.current_time() + seconds
        if not missing or anyio.current_time() >= deadline:
            return missing
        await anyio.sleep(min(pause, max(0.0, deadline - anyio.current_time())))
        pause = min(2 * pause, LOOK_SECONDS)


def report(results: Mapping[str, Answered], seconds: float | None) -> None:
    """Print how many were answered how. `Failure`: not all of them, or not all of them well."""
    problems = []
    for what, answered in results.items():
        for (status, reason), count in answered.answers.most_common():
            click.echo(f"{what}: {count} {text(status)}{reason and f', {text(reason)}'}")
        if seconds is None:
            click.echo(f"{what}: {answered.inserted} inserted")
        elif answered.unanswered:
            problems.append(
                f"{what}: {answered.unanswered} inserted, and not answered within {seconds:g} s. "
                "They take effect as soon as a worker runs."
            )
        if any(status not in ANSWERED_WELL for status, _ in answered.answers):
            problems.append(f"{what}: not all took effect")
    if problems:
        raise Failure("\n".join(problems))


async def print_ndjson(documents: AsyncIterable[Document]) -> None:
    async for document in documents:
        click.echo(extended_json(document, indent=None))


async def limited[T](items: AsyncIterable[T], limit: int | None) -> AsyncIterator[T]:
    """Give so many of them, all with None; more than there are rows to show is said on stderr."""
    count = 0
    async for item in items:
        if limit is not None and count == limit:
            click.echo(f"These are the first {limit}: --limit shows more.", err=True)
            return
        count += 1
        yield item


def limit_option[F: Callable[..., Any]](command: F) -> F:
    """Make the option `--limit`: for people so many rows, for a program all."""
    return click.option(
        "--limit",
        type=click.IntRange(min=1),
        metavar="N",
        help=f"At most so many; else {ROWS}, with --json all.",
    )(command)


def limit_of(limit: int | None, *, as_json: bool) -> int | None:
    return limit or (None if as_json else ROWS)


def _refused(error: BulkWriteError) -> str:
    codes = {str(each.get("code")) for each in error.details.get("writeErrors") or ()}
    why = f"code {', '.join(sorted(codes))}" if codes else "not acknowledged by the majority"
    return f"Refused by the database ({why}). `reactor init-db` renews its validators."
