"""Commands under one name, listed in the order in which they were added."""

import click


class InOrder(click.Group):
    """Lists its commands as they were added: the most wanted first."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's
        return list(self.commands)
