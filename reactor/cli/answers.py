"""Waiting for what a worker answers on a document."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import anyio
import click
from pymongo.asynchronous.collection import AsyncCollection

from reactor.cli.output import stderr_console

type Document = dict[str, Any]

FIRST_LOOK_SECONDS = 0.05
LOOK_SECONDS = 0.5


async def answers_to(
    inbox: AsyncCollection[Document], ids: Sequence[object], seconds: float
) -> Mapping[object, Document]:
    """Wait until all these have a `status`, or the time is over; what there is, by `_id`."""
    deadline = anyio.current_time() + seconds
    query = {"_id": {"$in": list(ids)}, "status": {"$exists": True}}
    expected = len(set(ids))
    pause = FIRST_LOOK_SECONDS
    with _spinner("Waiting for a worker's answer (Ctrl-C ends only the waiting)"):
        while True:
            answers = await inbox.find(query).to_list()
            if len(answers) == expected or anyio.current_time() >= deadline:
                return {answer["_id"]: answer for answer in answers}
            await anyio.sleep(min(pause, max(0.0, deadline - anyio.current_time())))
            pause = min(2 * pause, LOOK_SECONDS)


def timeout_option[F: Callable[..., Any]](default: float, meaning: str) -> Callable[[F], F]:
    """Make the option `--timeout SECONDS`."""
    return click.option(
        "--timeout",
        type=click.FloatRange(min=0),
        default=default,
        show_default=True,
        metavar="SECONDS",
        help=meaning,
    )


@contextmanager
def _spinner(said: str) -> Iterator[None]:
    """Show on stderr that something is waited for; nothing where that is no terminal."""
    console = stderr_console()
    if not console.is_terminal:
        yield
        return
    with console.status(said):
        yield
