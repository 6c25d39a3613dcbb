"""
An SMTP server for tests, in a process of its own: takes messages, or does what a mode says.

    python tests/receivers/smtp_receiver.py --log FILE [--mode MODE] [--auth USER:PASSWORD]
        [--tls CERTIFICATE KEY | --starttls CERTIFICATE KEY] [--no-utf8]

It listens on the loopback only, on a free port: its first line. After that it reads lines and
answers each with a line: a mode's name is the mode from now on; `drop` closes all connections;
`open` answers with their number. It ends with its input. Each message that it has accepted is a line
of JSON in the log.

Modes, each with the moment at which it shows:

    ok              250 with the id under which the message is queued
    ok-no-id        250 without one
    slow            250, half a second after the dot
    moved           251 to RCPT, then as ok
    greylist        451 to RCPT
    550             550 to RCPT, quoting the address
    550-mail        550 to MAIL
    550-data        550 after the dot
    452-data        452 after the dot
    530             530 to MAIL
    421             421 to MAIL, then the connection is closed
    421-data        421 after the dot, then the connection is closed
    421-greeting    421 instead of a greeting
    554-greeting    554 instead of a greeting
    nonsense        speaks another protocol
    mute            no greeting at all
    one-each        421 to the second MAIL of a connection, then it is closed
    auth-fail       535 to AUTH
    auth-cut        535 to AUTH, then the connection is closed
    auth-later      454 to AUTH
    hang-early      no answer to RCPT
    stall           354 to DATA, and no more is read
    hang            no answer to the dot; the message is not accepted
    cut-early       the connection is closed at RCPT
    cut-data        the connection is closed after 354
    cut             the message is accepted, and the connection closed without an answer
    strange         299 to the dot
    hang-quit       no answer to QUIT
    refuse          nobody listens
"""

# ruff: noqa: ARG002, N802 - aiosmtpd decides how its hooks are called
# ruff: noqa: T201 - what it prints is how it is spoken with

import argparse
import asyncio
import base64
import contextlib
import hashlib
import itertools
import json
import os
import socket
import ssl
import sys
import time
import warnings
from email import message_from_bytes, policy

from aiosmtpd.smtp import SMTP, AuthResult

MODES = {line.split()[0] for line in __doc__.split("shows:")[1].splitlines() if line.strip()}
GREETINGS = {
    "421-greeting": b"421 4.3.2 closing\r\n",
    "554-greeting": b"554 5.7.1 no\r\n",
    "nonsense": b"SSH-2.0-OpenSSH_9.9\r\n",
}
TO_MAIL = {"550-mail": "550 5.7.1 not <{}>", "530": "530 5.7.0 log in", "421": "421 4.3.2 closing"}
TO_RCPT = {
    "greylist": "451 4.7.1 later, <{}>",
    "550": "550 5.1.1 no such user <{}>",
    "moved": "251 will forward",
}
TO_DOT = {
    "550-data": "550 5.7.1 spam",
    "452-data": "452 4.3.1 full",
    "421-data": "421 4.3.2 closing",
    "strange": "299 so what",
}
CLOSING = {"421", "421-data", "one-each"}


class Receiver:
    """What all connections share."""

    def __init__(self, arguments):
        self.mode = arguments.mode
        self.auth = arguments.auth
        self.log = os.open(arguments.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.numbers = itertools.count(1)
        self.queued = itertools.count(1)
        self.open = set()
        self.port = 0
        self.server = None
        self.tls = arguments.tls and context(*arguments.tls)
        self.starttls = arguments.starttls and context(*arguments.starttls)
        self.utf8 = arguments.utf8

    def connection(self):
        return Connection(self)

    async def listen(self):
        listening = socket.create_server(("127.0.0.1", self.port))
        self.port = listening.getsockname()[1]
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(self.connection, sock=listening, ssl=self.tls)

    def drop(self):
        for connection in tuple(self.open):
            connection.transport.close()

    async def change(self, word):
        if word == "open":
            return str(len(self.open))
        if word == "drop":
            self.drop()
            return word
        if word not in MODES:
            return f"unknown: {word}"
        self.mode = word
        if word == "refuse" and self.server:
            self.server.close()
            self.server = None
            self.drop()
        elif word != "refuse" and not self.server:
            await self.listen()
        return word

    def record(self, session, envelope):
        """Accept a message: it is on the disk before anybody is told."""
        raw = envelope.original_content
        headers = message_from_bytes(raw, policy=policy.default)
        number = next(self.queued)
        line = {
            "key": headers["X-Send-Key"],
            "message_id": headers["Message-ID"],
            "sha256": hashlib.sha256(raw).hexdigest(),
            "raw": base64.b64encode(raw).decode(),
            "mail_from": envelope.mail_from,
            "rcpt_tos": envelope.rcpt_tos,
            "utf8": envelope.smtp_utf8,
            "user": session.auth_data and session.auth_data.decode(),
            "encrypted": bool(session.ssl or self.tls),
            "connection": session.number,
            "queue_id": f"Q{number:07}",
            "at": time.time(),
        }
        os.write(self.log, json.dumps(line).encode() + b"\n")
        os.fsync(self.log)
        return line["queue_id"]


class Connection(SMTP):
    """One connection, to a receiver that may change its mode at any time."""

    def __init__(self, receiver):
        self.receiver = receiver
        self.number = next(receiver.numbers)
        self.mails = 0
        super().__init__(
            self,
            hostname="receiver.test",
            enable_SMTPUTF8=receiver.utf8,
            tls_context=receiver.starttls,
            require_starttls=False,
            auth_required=receiver.auth is not None,
            auth_require_tls=receiver.starttls is not None,
            authenticator=self.authenticate,
            loop=asyncio.get_running_loop(),
        )

    @property
    def mode(self):
        return self.receiver.mode

    def connection_made(self, transport):
        super().connection_made(transport)
        self.session.number = self.number
        self.receiver.open.add(self)

    def connection_lost(self, error):
        self.receiver.open.discard(self)
        super().connection_lost(error)

    async def _handle_client(self):
        if self.mode in GREETINGS:
            self._writer.write(GREETINGS[self.mode])
        elif self.mode != "mute":
            return await super()._handle_client()
        return await asyncio.Event().wait()

    def authenticate(self, server, session, envelope, mechanism, data):
        mode = self.mode
        if mode == "auth-later":
            return AuthResult(success=False, handled=False, message="454 4.7.0 later")
        if mode == "auth-cut":
            self._writer.write(b"535 5.7.8 no\r\n")
            self.transport.close()
            return AuthResult(success=False, handled=True)
        given = f"{data.login.decode()}:{data.password.decode()}"
        if mode == "auth-fail" or given != (self.receiver.auth or given):
            return AuthResult(success=False, handled=False)
        return AuthResult(success=True, auth_data=data.login)

    async def push(self, status):
        await super().push(status)
        closing = isinstance(status, str) and status.startswith("421 ")
        if closing and self.mode in CLOSING and self.transport:
            self.transport.close()

    async def handle_MAIL(self, server, session, envelope, address, options):
        self.mails += 1
        if self.mode == "one-each" and self.mails > 1:
            return TO_MAIL["421"]
        if self.mode in TO_MAIL:
            return TO_MAIL[self.mode].format(address)
        envelope.mail_from = address
        return "250 2.1.0 Ok"

    async def handle_RCPT(self, server, session, envelope, address, options):
        if self.mode == "cut-early":
            self.transport.close()
        if self.mode in {"cut-early", "hang-early"}:
            await asyncio.Event().wait()
        answer = TO_RCPT.get(self.mode, "250 2.1.5 Ok").format(address)
        if answer.startswith("25"):
            envelope.rcpt_tos.append(address)
        return answer

    async def smtp_DATA(self, arg):
        if self.mode in {"stall", "cut-data"}:
            await self.push("354 go on")
            self.transport.pause_reading()
            if self.mode == "cut-data":
                self.transport.abort()
            await asyncio.Event().wait()
        await super().smtp_DATA(arg)

    async def smtp_QUIT(self, arg):
        if self.mode == "hang-quit":
            await asyncio.Event().wait()
        await super().smtp_QUIT(arg)

    async def handle_DATA(self, server, session, envelope):
        if self.mode == "hang":
            await asyncio.Event().wait()
        if self.mode == "slow":
            await asyncio.sleep(0.5)
        if self.mode in TO_DOT:
            return TO_DOT[self.mode]
        queue_id = self.receiver.record(session, envelope)
        if self.mode == "cut":
            self.transport.close()
            await asyncio.Event().wait()
        return "250 Ok" if self.mode == "ok-no-id" else f"250 2.0.0 Ok: queued as {queue_id}"


def context(certificate, key):
    """Encrypt with these files."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate, key)
    return made


async def serve(arguments):
    """Listen, say where, and do as the input says, to its end."""
    receiver = Receiver(arguments)
    await receiver.listen()
    print(receiver.port, flush=True)
    if receiver.mode == "refuse":
        await receiver.change("refuse")
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        print(await receiver.change(line.decode().strip()), flush=True)


def main():
    """Read the arguments, and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", required=True)
    parser.add_argument("--mode", default="ok", choices=sorted(MODES))
    parser.add_argument("--auth", metavar="USER:PASSWORD")
    parser.add_argument("--tls", nargs=2, metavar=("CERTIFICATE", "KEY"))
    parser.add_argument("--starttls", nargs=2, metavar=("CERTIFICATE", "KEY"))
    parser.add_argument("--no-utf8", dest="utf8", action="store_false")
    warnings.simplefilter("ignore")  # it is told in advance that logging in unencrypted is unsafe
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
