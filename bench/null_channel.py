"""
`null:` a channel that takes every message and does nothing: what is measured is reactor alone.

`python -m bench.null_channel run` is `reactor run`, with this channel in the table.
"""

from contextlib import contextmanager
from typing import ClassVar

from attrs import frozen

from reactor.__main__ import main
from reactor.channels.registry import CHANNELS
from reactor.channels.settings import ChannelSettings
from schemas.hand_off import Outcome, OutcomeKind

NULL = "null:"
SENT = Outcome(kind=OutcomeKind.SENT)


@frozen
class NullChannel:
    own: ClassVar[frozenset[str]] = frozenset()
    waits: ClassVar[bool] = False
    settings: ChannelSettings
    concurrency = 1

    @property
    def name(self):
        return self.settings.name

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        pass

    async def send(self, hand_off):  # noqa: ARG002 -- nothing is what it does with it
        return SENT


@contextmanager
def null_channel():
    """Have it in the table of channels, for a block."""
    CHANNELS["null"] = NullChannel
    try:
        yield
    finally:
        del CHANNELS["null"]


if __name__ == "__main__":
    with null_channel():
        main()
