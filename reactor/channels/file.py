"""
`file:PATH` one JSON line for each message, appended; several workers may share the file.

The file system must be a local one, where an append is atomic. A line was handed off when the
operating system has it: it survives the end of the worker, not a loss of power.
"""

import errno
import fcntl
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from attrs import define, field

from reactor.channels.protocol import as_json
from reactor.channels.settings import ChannelSettings
from schemas.hand_off import HandOff, Outcome, OutcomeKind

SENT = Outcome(kind=OutcomeKind.SENT)
FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


@define
class FileChannel:
    own: ClassVar[frozenset[str]] = frozenset()
    waits: ClassVar[bool] = False
    settings: ChannelSettings
    path: Path = field(init=False)
    _descriptor: int | None = field(init=False, default=None)
    #: It writes in the event loop, so nothing is gained by more.
    concurrency = 1

    def __attrs_post_init__(self) -> None:
        self.path = _writable(self.settings.url_rest)

    @property
    def name(self) -> str:
        return self.settings.name

    async def __aenter__(self) -> Self:
        self._opened()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    async def send(self, hand_off: HandOff) -> Outcome:
        # In the event loop: it takes microseconds, and the way to a thread takes longer.
        try:
            whole = _append(self._opened(), as_json(hand_off) + b"\n")
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, type(error).__name__)
            return Outcome(kind=OutcomeKind.RETRY, error=name)
        return SENT if whole else Outcome(kind=OutcomeKind.RETRY, error="partial write")

    def _opened(self) -> int:
        """Give the descriptor, of a new file if ours was deleted: nobody would read it any more."""
        if self._descriptor is not None and os.fstat(self._descriptor).st_nlink == 0:
            self._close()
        if self._descriptor is None:
            self._descriptor = os.open(self.path, FLAGS, 0o600)
        return self._descriptor

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None


def _append(descriptor: int, line: bytes) -> bool:
    """Append a line; False if there was room for a part of it only, which is then blanked out."""
    written = os.write(descriptor, line)
    # Only now is it known where the line begins: other workers append to the same file.
    start = os.lseek(descriptor, 0, os.SEEK_CUR) - written
    if written < len(line):
        _blank(descriptor, start, written)
        return False
    if start == 0 or os.pread(descriptor, 1, start - 1) == b"\n":
        return True
    # It stands behind a part of somebody else's. It ended that line: once more, on its own.
    return _append(descriptor, line)


def _blank(descriptor: int, start: int, length: int) -> None:
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~os.O_APPEND)  # else a write has no place
    try:
        os.pwrite(descriptor, b" " * (length - 1) + b"\n", start)
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)


def _writable(url_rest: str) -> Path:
    """Read what follows `file:`; ValueError if no line could be appended there."""
    if url_rest.startswith("//") and not url_rest.startswith("///"):
        raise ValueError("expected file:PATH or file:///PATH, without a host")
    path = Path(url_rest.removeprefix("//")).absolute()
    if not url_rest or path.is_dir():
        raise ValueError("expected file:PATH, the path of a file")
    if not path.exists():
        if not (path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK)):
            raise ValueError(f"expected a directory that can be written to, {path.parent} is not")
    elif not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("expected a regular file, not a pipe or a device")
    elif not os.access(path, os.R_OK | os.W_OK):
        raise ValueError("expected a file that can be read and written")
    return path
