"""`reactor run` and `reactor demo`: the engine itself."""

from functools import partial
from pathlib import Path

import anyio
import click
from loguru import logger

from reactor.cli.examine import lacking
from reactor.cli.failure import Failure
from reactor.cli.session import need_uri, read_settings, said_in_one_line
from reactor.environment import masked
from reactor.log import configure_logging
from reactor.settings import Settings


@click.command()
@click.option("--once", is_flag=True, help="Do what is due, then end.")
def run(*, once: bool) -> None:
    """
    Work, until told to stop.

    Turns batch requests into campaigns and leads their conversations. Runs until SIGTERM or Ctrl-C,
    then finishes what it has in flight; a second signal ends it at once. Any number of workers may
    share a database. Settings come from the environment: see `reactor config`.
    """
    settings = read_settings()
    uri = need_uri(settings)
    for warning in settings.warnings:
        click.echo(warning, err=True)
    configure_logging(settings)
    logger.info("Database {} at {}", settings.mongodb_db, masked(uri))
    with said_in_one_line(uri):
        code = anyio.run(_work, settings, once)
    raise click.exceptions.Exit(code)


async def _work(settings: Settings, once: bool) -> int:  # noqa: FBT001 -- anyio.run passes no names
    if finding := await lacking(settings):
        raise Failure(f"{finding.found}. {finding.advice}")
    from reactor.worker import run as work  # noqa: PLC0415 -- its imports take longer than `--help`

    return await work(settings, once=once)


@click.command()
@click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    default=40.0,
    show_default=True,
    help="About how long it takes.",
)
@click.option("--recipients", type=click.IntRange(min=1), default=100, show_default=True)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="A new directory for its messages, log and database; else one is made.",
)
def demo(*, seconds: float, recipients: int, directory: Path | None) -> None:
    """
    Watch a whole campaign on a MongoDB of its own.

    Weeks pass in seconds. Nothing needs to be set, and nothing is sent: messages go to a file.
    """
    from reactor.demo import run_demo  # noqa: PLC0415 -- see above

    play = partial(run_demo, seconds=seconds, recipients=recipients, directory=directory)
    raise click.exceptions.Exit(anyio.run(play))
