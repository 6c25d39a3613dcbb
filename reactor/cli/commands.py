"""All commands of `reactor`, under one name."""

import click

from reactor.cli.about import config, health, schema, version
from reactor.cli.dead import dead
from reactor.cli.examine import check
from reactor.cli.group import InOrder
from reactor.cli.init_db import init_db
from reactor.cli.repair import repair
from reactor.cli.run import demo, run
from reactor.cli.show import show
from reactor.cli.status import status
from reactor.cli.steer import cancel, pause, resume
from reactor.cli.submit import submit
from reactor.cli.suppress import suppress
from reactor.cli.unknown import unknown
from reactor.cli.validate import validate
from reactor.cli.verify import verify


@click.group(
    cls=InOrder,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
def reactor() -> None:
    """
    Lead campaigns on MongoDB: batch requests in, conversations led to their end.

    Try it without a database: `reactor demo`.

    With one, set MONGODB_URI and a channel (CHANNEL_EMAIL=log: only logs), then `reactor check`,
    `reactor init-db` and `reactor run`; beside it `reactor submit FILE` and `reactor status`.
    `reactor config` lists all settings.

    Results go to stdout, all else to stderr. Exit codes: 0 done, 1 failed, 2 wrong arguments or
    settings, 3 not found, 130 interrupted.
    """


for command in (
    *(run, demo, submit, validate, status, show, pause, resume, cancel),
    *(suppress, unknown, dead, verify, repair),
    *(check, init_db, config, schema, health, version),
):
    reactor.add_command(command)
