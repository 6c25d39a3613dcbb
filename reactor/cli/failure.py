"""How a command ends that cannot do what it was asked: lines on stderr and an exit code."""

from enum import IntEnum
from typing import IO, Any

import click


class ExitCode(IntEnum):
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    INTERRUPTED = 130


class Failure(click.ClickException):
    """Ends the command; the message is for people and says what to do."""

    exit_code = ExitCode.FAILED

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(self.message, file=file, err=file is None)


class UsageFailure(Failure):
    """Wrong arguments, or settings."""

    exit_code = ExitCode.USAGE


class NotFoundFailure(Failure):
    """What was named is not there."""

    exit_code = ExitCode.NOT_FOUND
