"""Where the program `reactor` begins and ends."""

import gc
import os
import sys

import click

from reactor.cli.commands import reactor
from reactor.cli.failure import ExitCode

#: New objects between two looks for garbage. A batch makes thousands that live for a few
#: milliseconds and hold no cycles: with Python's own 2,000 a fifteenth of the time is spent looking.
GARBAGE_OBJECTS = 20_000


def main() -> None:
    gc.set_threshold(GARBAGE_OBJECTS)
    sys.exit(_run())


def _run() -> int:
    """Run the command that was asked for, and give the exit code."""
    try:
        code = reactor.main(prog_name="reactor", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does. Python flushes once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    return code or 0


if __name__ == "__main__":
    main()
