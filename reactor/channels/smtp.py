"""
`smtp://user:password@host:587`, `smtps://…` an e-mail for each message, over connections that stay.

The key is in its Message-ID and in X-Send-Key; but no server promises to take a key only once.
"""

import ssl
from types import TracebackType
from typing import ClassVar, Self

import anyio
from aiosmtplib import SMTPException
from anyio.abc import TaskGroup
from attrs import define, field

from reactor.channels.mime import (
    Letter,
    LetterError,
    Mailbox,
    mailbox,
    unsubscribe_template,
    write_letter,
)
from reactor.channels.settings import ChannelSettings
from reactor.channels.smtp_session import Progress, Session, not_connected, open_session
from reactor.channels.smtp_url import Server, read_server
from schemas.hand_off import HandOff, Outcome, OutcomeKind

CONCURRENCY = 4
#: Servers close what is idle for some minutes, and count what is open.
IDLE_SECONDS = 30.0

#: Shares of the time for one message: until the final dot; for all. An answer to the dot that does
#: not come in time makes the outcome unknown, so none is sent when little time is left for it. What
#: is left after that is for the event loop, lest the guard in `hand_off` be there first.
BEFORE_DOT, ALL = 0.6, 0.9


@define
class SmtpChannel:
    own: ClassVar[frozenset[str]] = frozenset({"concurrency", "sender", "unsubscribe_url"})
    waits: ClassVar[bool] = True
    settings: ChannelSettings
    idle_seconds: float = IDLE_SECONDS
    _server: Server = field(init=False)
    _sender: Mailbox | None = field(init=False)
    _unsubscribe: str | None = field(init=False)
    _context: ssl.SSLContext | None = field(init=False, default=None)
    _tasks: TaskGroup | None = field(init=False, default=None)
    _slots: anyio.Semaphore = field(init=False)
    #: Open and free, the one that was used last at the end.
    _idle: list[Session] = field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        sender, url = self.settings.sender, self.settings.unsubscribe_url
        self._server = read_server(self.settings.url)
        self._sender = mailbox(sender, f"{self.settings.variable}_FROM") if sender else None
        self._unsubscribe = None
        if url:
            self._unsubscribe = unsubscribe_template(
                url, f"{self.settings.variable}_UNSUBSCRIBE_URL"
            )
        self._slots = anyio.Semaphore(self.concurrency)

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def concurrency(self) -> int:
        return self.settings.concurrency or CONCURRENCY

    async def __aenter__(self) -> Self:
        # In a thread: it reads all certificates of the system, or those of SSL_CERT_FILE.
        self._context = await anyio.to_thread.run_sync(ssl.create_default_context)
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self._close_idle)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._context = None
        idle, self._idle = self._idle, []
        with anyio.CancelScope(shield=True):
            await _quit(idle)
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()
            # Without the error of the block, which it would wrap in a group.
            await self._tasks.__aexit__(None, None, None)
            self._tasks = None

    async def send(self, hand_off: HandOff) -> Outcome:
        now, whole = anyio.current_time(), self.settings.timeout_seconds
        try:
            letter = write_letter(hand_off, self._sender, self._unsubscribe)
        except LetterError as error:
            return Outcome(kind=OutcomeKind.REFUSED, error=str(error))
        scope = anyio.CancelScope(deadline=now + BEFORE_DOT * whole)
        progress = Progress(scope, end=now + ALL * whole)
        with scope:
            async with self._slots:
                return await self._handed_over(letter, progress)
        if not progress.phase:
            return Outcome(kind=OutcomeKind.RATE_LIMITED, error="no free connection")
        return progress.stopped("time-out")

    async def _handed_over(self, letter: Letter, progress: Progress) -> Outcome:
        """Hand over on a connection that is open. If the server has left it meanwhile, on a new one."""
        if session := self._free():
            outcome = await self._over(session, letter, progress)
            gone = outcome.kind is OutcomeKind.RETRY and not session.is_open
            if not gone or progress.dot_sent:
                return outcome
        progress.phase = "connecting"
        if self._context is None:
            raise RuntimeError("the channel is not open")
        try:
            session = await open_session(self._server, self._context)
        except (SMTPException, OSError) as error:
            return not_connected(error)
        return await self._over(session, letter, progress)

    async def _over(self, session: Session, letter: Letter, progress: Progress) -> Outcome:
        try:
            outcome = await session.hand_over(letter, progress)
        except BaseException:
            # Cancelled: what the server says next is an answer that nobody waits for.
            session.abort()
            raise
        if session.is_open and self._context is not None:
            session.idle_since = anyio.current_time()
            self._idle.append(session)
        else:
            session.abort()
        return outcome

    def _free(self) -> Session | None:
        while self._idle:
            session = self._idle.pop()
            if session.is_open:
                return session
            session.abort()
        return None

    async def _close_idle(self) -> None:
        while True:
            await anyio.sleep(self.idle_seconds / 4)
            since = anyio.current_time() - self.idle_seconds
            old = [session for session in self._idle if session.idle_since < since]
            self._idle = [session for session in self._idle if session.idle_since >= since]
            await _quit(old)


async def _quit(sessions: list[Session]) -> None:
    async with anyio.create_task_group() as tasks:
        for session in sessions:
            tasks.start_soon(session.quit)
