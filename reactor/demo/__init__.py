"""
The demo: a whole campaign of a hundred recipients, from request to completion, within a minute.

A MongoDB of its own, one worker, campaign time that runs thousands of times faster than the clock,
and players: recipients, agent, human. Nothing leaves the machine, for the channel is a file.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from reactor.demo.play import Play, Venue
from reactor.demo.report import DATABASE, print_farewell
from reactor.demo.request import RequestError, read_request
from reactor.embedded import EmbeddedServerError, embedded_server

#: Not a terminal: whatever reads it wants whole lines.
UNFOLDED = 200


async def run_demo(
    *, seconds: float = 40.0, recipients: int = 100, directory: Path | None = None
) -> int:
    """
    Play the campaign in about so many seconds, and give the exit code.

    0: completed; 1: not, or it could not begin; 130: interrupted. `directory` must be new or empty,
    and keeps the messages, the worker's log and the database. Without it one is made, which keeps
    all but the database, for that is large.
    """
    console = _console()
    try:
        request = read_request(recipients)
        home = _home(directory)
        console.print(f"Starting a MongoDB in {home} ...", soft_wrap=True)
        try:
            async with embedded_server(home / DATABASE) as server:
                venue = Venue(home=home, uri=server.uri, request=request, seconds=seconds)
                code = await Play(venue, console).run()
        finally:
            if directory is None:
                shutil.rmtree(home / DATABASE, ignore_errors=True)
    except (RequestError, EmbeddedServerError, DirectoryError) as error:
        console.print(str(error), soft_wrap=True)
        return 1
    print_farewell(console, home)
    return code


class DirectoryError(Exception):
    """The directory cannot be used; the text says why."""


def _home(directory: Path | None) -> Path:
    if directory is None:
        return Path(tempfile.mkdtemp(prefix="reactor-demo-"))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise DirectoryError(f"{directory}: expected a new or an empty directory")
    except OSError as error:
        raise DirectoryError(f"{directory}: {error.strerror}") from None
    return directory.resolve()


def _console() -> Console:
    """Make a console that takes nothing in a recipient's name for markup."""
    terminal = sys.stdout.isatty()
    return Console(
        file=sys.stdout,
        force_terminal=terminal,
        width=None if terminal else UNFOLDED,
        markup=False,
        emoji=False,
        highlight=False,
    )
