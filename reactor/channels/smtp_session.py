"""
One connection to an SMTP server: opened, secured, logged in, and given one message after another.

Whatever stops a message has its outcome here. Errors have codes only: the text of a server may quote
an address.
"""

import errno
import re
import ssl
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, cast

import anyio
from aiosmtplib import (
    SMTP,
    SMTPAuthenticationError,
    SMTPException,
    SMTPResponse,
    SMTPResponseException,
    SMTPServerDisconnected,
)
from anyio import CancelScope
from anyio.lowlevel import checkpoint_if_cancelled
from attrs import define

from reactor.channels.mime import Letter
from reactor.channels.smtp_url import Server, StartTls
from schemas.hand_off import Outcome, OutcomeKind

COMPLETED, CLOSING_DOWN = 250, 421
#: What must follow MAIL and RCPT, the second for a recipient who has moved; and DATA.
TAKEN, GO_ON = frozenset({COMPLETED, 251}), frozenset({354})
CODES, NEGATIVE, FOR_NOW = range(100, 600), range(400, 600), range(400, 500)
#: To whatever command, they speak of the channel: authentication or encryption is required.
UNAUTHENTICATED = frozenset({530, 534, 535, 538})
#: Seconds between two looks whether a large message has left: aiosmtplib does not tell.
DRAIN_PAUSE = 0.01
#: Seconds that a server has to say goodbye.
QUIT_SECONDS = 1.0

_LINE_START_DOT = re.compile(rb"(?m)^\.")
_ENHANCED = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}(?![0-9.])")
#: Where servers tell under which id they have queued a message: Postfix; Exim; Amazon SES.
PROVIDER_ID = re.compile(
    r"(?:queued as |\bid=|\AOk )(?P<id>[A-Za-z0-9][A-Za-z0-9_.\-]{3,127})(?![^\s,;)])",
    re.IGNORECASE,
)


class UnfitServerError(SMTPException):
    """The server cannot do what the channel's URL asks for."""


@define
class Progress:
    """How far the hand-over of one message has come, and until when it may take."""

    scope: CancelScope
    #: When it is over at the latest; the scope ends sooner until the final dot is sent.
    end: float
    #: "" while it waits for a free connection.
    phase: str = ""
    #: From here on the server may have accepted the message.
    dot_sent: bool = False

    def send_dot(self) -> None:
        self.phase = "waiting for the answer to the message"
        self.dot_sent = True
        self.scope.deadline = self.end

    def stopped(self, error: str) -> Outcome:
        kind = OutcomeKind.UNKNOWN if self.dot_sent else OutcomeKind.RETRY
        return Outcome(kind=kind, error=f"{error} while {self.phase}")


@define
class Session:
    """An open connection."""

    client: SMTP
    #: Nothing is left of a message that was not accepted.
    _clean: bool = True
    idle_since: float = 0.0

    @property
    def is_open(self) -> bool:
        return self.client.is_connected

    async def hand_over(self, letter: Letter, progress: Progress) -> Outcome:
        """Hand a message over; afterwards the connection is open only if it is good for another."""
        progress.phase = "handing over"
        try:
            return await self._transaction(letter, progress)
        except SMTPResponseException:
            # What comes next may answer what was asked before.
            self.abort()
            return progress.stopped("malformed reply")
        except (SMTPException, OSError):
            self.abort()
            return progress.stopped("connection lost")

    async def _transaction(self, letter: Letter, progress: Progress) -> Outcome:
        if letter.needs_utf8 and not self.client.supports_extension("smtputf8"):
            why = "the server takes no addresses beyond ASCII (SMTPUTF8)"
            return Outcome(kind=OutcomeKind.REFUSED, error=why)
        if not self._clean:
            await self.client.rset()
        self._clean = False
        for command, expected in self._commands(letter):
            reply = await self.client.execute_command(*command)
            if reply.code not in expected:
                return _not_accepted(reply)
        reply = await self._content(letter, progress)
        if reply.code == CLOSING_DOWN:
            self.abort()
        if reply.code != COMPLETED:
            return _not_accepted(reply)
        self._clean = True
        return Outcome(kind=OutcomeKind.SENT, provider_id=_queue_id(reply) or letter.message_id)

    def _commands(self, letter: Letter) -> Iterator[tuple[tuple[bytes, ...], frozenset[int]]]:
        options = []
        if self.client.supports_extension("size"):
            # Who finds it too large says so before it is sent.
            options.append(f"SIZE={len(letter.content)}".encode())
        if letter.needs_utf8:
            options += [b"SMTPUTF8", b"BODY=8BITMIME"]
        yield (b"MAIL", f"FROM:<{letter.sender}>".encode(), *options), TAKEN
        yield (b"RCPT", f"TO:<{letter.to}>".encode()), TAKEN
        yield (b"DATA",), GO_ON

    async def _content(self, letter: Letter, progress: Progress) -> SMTPResponse:
        """
        Send the message, and when all of it has left, the dot that ends it.

        Not by aiosmtplib's `data`, which does not tell whether it came to the dot.
        """
        protocol, transport = self.client.protocol, cast("Any", self.client.transport)
        if protocol is None:
            raise SMTPServerDisconnected("lost")
        protocol.write(_LINE_START_DOT.sub(b"..", letter.content))
        while self.is_open and transport.get_write_buffer_size():  # noqa: ASYNC110 - nothing tells
            await anyio.sleep(DRAIN_PAUSE)
        # A time-out that has come meanwhile must not let the dot slip through.
        await checkpoint_if_cancelled()
        protocol.write(b".\r\n")  # raises if the connection is lost: then there was no dot
        progress.send_dot()
        return await protocol.read_response()

    async def quit(self) -> None:
        """Say goodbye and close, within a time."""
        try:
            with anyio.move_on_after(QUIT_SECONDS), suppress(SMTPException, OSError):
                await self.client.execute_command(b"QUIT")
        finally:
            self.abort()

    def abort(self) -> None:
        abort(self.client)


def abort(client: SMTP) -> None:
    """Close at once. `close` would first send what waits: the rest of a message that is given up."""
    if client.transport is not None:
        cast("Any", client.transport).abort()
    client.close()


async def open_session(server: Server, context: ssl.SSLContext) -> Session:
    """Connect, encrypt and log in; whatever it raises, `not_connected` knows what that means."""
    client = SMTP(
        hostname=server.host,
        port=server.port,
        use_tls=server.implicit_tls,
        start_tls=False,
        tls_context=context,
        timeout=None,  # the whole has one
    )
    try:
        await client.connect()
        await client.ehlo()
        if await _encrypted(client, server.starttls):
            await client.ehlo()
        if server.username is not None:
            await _log_in(client, server.username, server.password or "")
    except BaseException:
        abort(client)
        raise
    return Session(client)


async def _encrypted(client: SMTP, starttls: StartTls) -> bool:
    """Encrypt if the server offers it and we want it. A certificate is verified in any case."""
    if starttls is StartTls.OFF:
        return False
    if not client.supports_extension("starttls"):
        if starttls is StartTls.REQUIRED:
            raise UnfitServerError("the server offers no STARTTLS, and it is required")
        return False
    await client.starttls()
    return True


async def _log_in(client: SMTP, username: str, password: str) -> None:
    """Try each way to log in that both know. aiosmtplib's `login` forgets a refusal before a cut."""
    ways = {"cram-md5": client.auth_crammd5, "plain": client.auth_plain, "login": client.auth_login}
    refusal: SMTPException = UnfitServerError("the server offers no way to log in that we know")
    for way in client.supported_auth_methods:
        try:
            await ways[way](username, password)
        except SMTPAuthenticationError as error:
            refusal = error
        except SMTPServerDisconnected as error:
            raise (refusal if isinstance(refusal, SMTPAuthenticationError) else error) from None
        else:
            return
    raise refusal


def not_connected(error: Exception) -> Outcome:
    """Tell what it means that no connection came about: is it for now, or must somebody mend it."""
    cause = error if isinstance(error, ssl.SSLError) else error.__cause__
    match cause or error:
        case ssl.SSLCertVerificationError() as wrong:
            return _channel_failed(f"certificate not verified: {wrong.verify_message}")
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            pass
        case ssl.SSLError() as wrong:
            return _channel_failed(f"no TLS: {wrong.reason or type(wrong).__name__}")
        case SMTPResponseException() as refused:
            codes = _codes(SMTPResponse(refused.code, refused.message))
            return (
                Outcome(kind=OutcomeKind.RETRY, error=codes)
                if refused.code in FOR_NOW
                else _channel_failed(codes)
            )
        case UnfitServerError() as unfit:
            return _channel_failed(unfit.message)
        case _:
            pass
    number = cause.errno if isinstance(cause, OSError) else None
    name = errno.errorcode.get(number or 0, type(cause or error).__name__)
    return Outcome(kind=OutcomeKind.RETRY, error=f"not connected: {name}")


def _channel_failed(error: str) -> Outcome:
    return Outcome(kind=OutcomeKind.CHANNEL_FAILED, error=error)


def _not_accepted(reply: SMTPResponse) -> Outcome:
    if reply.code not in NEGATIVE:
        raise SMTPResponseException(reply.code, "neither yes nor no")
    if reply.code in UNAUTHENTICATED:
        return _channel_failed(_codes(reply))
    later = reply.code in FOR_NOW
    return Outcome(kind=OutcomeKind.RETRY if later else OutcomeKind.REFUSED, error=_codes(reply))


def _codes(reply: SMTPResponse) -> str:
    if reply.code not in CODES:
        return "malformed SMTP reply"
    enhanced = _ENHANCED.match(reply.message)
    return f"SMTP {reply.code} {enhanced[0]}" if enhanced else f"SMTP {reply.code}"


def _queue_id(reply: SMTPResponse) -> str | None:
    found = PROVIDER_ID.search(reply.message)
    return found["id"] if found else None
