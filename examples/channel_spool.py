"""
`spool:DIRECTORY` a JSON file for each message, for whoever empties the directory.

A file's name is the digest of its send key: a message that is handed off again replaces itself.
"""

import errno
import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import anyio.to_thread
from attrs import define, field

from reactor.channels.protocol import as_json
from reactor.channels.settings import ChannelSettings
from schemas.hand_off import HandOff, Outcome, OutcomeKind


@define
class SpoolChannel:
    #: Settings that it has beside those of every channel: CHANNEL_<NAME>_CONCURRENCY.
    own: ClassVar[frozenset[str]] = frozenset({"concurrency"})
    waits: ClassVar[bool] = True
    settings: ChannelSettings
    directory: Path = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.directory = Path(self.settings.url_rest).absolute()
        writable = os.access(self.directory, os.W_OK | os.X_OK)
        if not (self.settings.url_rest and self.directory.is_dir() and writable):
            raise ValueError("expected spool:DIRECTORY, one that can be written to")

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def concurrency(self) -> int:
        return self.settings.concurrency or 4

    async def __aenter__(self) -> Self:
        return self  # what it holds open it would open here

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass  # and close here

    async def send(self, hand_off: HandOff) -> Outcome:
        # In a thread, for it waits for the disk. One that takes too long is left to itself.
        try:
            await anyio.to_thread.run_sync(self._write, hand_off, abandon_on_cancel=True)
        except OSError as failed:
            name = errno.errorcode.get(failed.errno or 0, type(failed).__name__)
            return Outcome(kind=OutcomeKind.RETRY, error=name)
        return Outcome(kind=OutcomeKind.SENT)

    def _write(self, hand_off: HandOff) -> None:
        name = hashlib.sha256(hand_off.key.encode()).hexdigest()
        unfinished = self.directory / f".{name}"
        with unfinished.open("wb") as file:
            file.write(as_json(hand_off))
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(self.directory / f"{name}.json")
