"""`reactor config | schema | version | health`: what needs no database."""

import os
import platform
import time
from importlib.metadata import version as version_of

import click

from reactor import __version__
from reactor.cli.failure import Failure
from reactor.cli.output import columns, print_json, print_view, text
from reactor.cli.session import read_settings
from schemas.json_schema import SCHEMAS, json_schema

HEALTHY_SECONDS = 30


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def config(*, as_json: bool) -> None:
    """
    Show the settings, and where each comes from.

    Secrets are masked.
    """
    settings = read_settings()
    shown = [
        {"name": name, "value": value, "from": _origin(name)}
        for name, value in settings.shown().items()
    ]
    if as_json:
        print_json({"settings": shown, "warnings": settings.warnings})
        return
    table = columns("setting", "value", "from")
    for setting in shown:
        table.add_row(*map(text, setting.values()))
    print_view(table)
    for warning in settings.warnings:
        click.echo(warning, err=True)


def _origin(name: str) -> str:
    return "environment" if os.environ.get(name, "").strip() else "default"


@click.command()
@click.argument("name", required=False, type=click.Choice(sorted(SCHEMAS)))
def schema(name: str | None) -> None:
    """
    Print the JSON Schema of what the agent writes.

    Without NAME it lists the names.
    """
    if name:
        print_json(json_schema(name))
        return
    for each in sorted(SCHEMAS):
        click.echo(each)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def version(*, as_json: bool) -> None:
    """Show the versions of reactor, Python and PyMongo."""
    versions = {
        "reactor": __version__,
        "python": platform.python_version(),
        "pymongo": version_of("pymongo"),
    }
    if as_json:
        print_json(versions)
        return
    for name, number in versions.items():
        click.echo(f"{name} {number}")


@click.command()
def health() -> None:
    """
    Say whether the worker lives.

    That is the one that shares this HEARTBEAT_FILE. The exit code is 1 if it gave no sign of life
    in the last 30 seconds. `worker.sh health` answers the same without Python, a hundred times
    faster.
    """
    path = read_settings().heartbeat_file
    try:
        # Files are dated by the machine's clock, so that is the one to compare with.
        age = round(time.time() - path.stat().st_mtime)  # noqa: TID251 -- see above
    except FileNotFoundError:
        raise Failure(f"no heartbeat: {path} is not there") from None
    if abs(age) > HEALTHY_SECONDS:
        raise Failure(f"the last heartbeat was {age} s ago: {path}")
    click.echo(f"alive: the last heartbeat was {age} s ago")
