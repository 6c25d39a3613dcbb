"""
A receiver of HTTP hand-offs on the loopback, which does what its mode says, and keeps a log.

    python tests/receivers/http_receiver.py --port 0 --log FILE [--mode MODE] [--latency SECONDS]

It prints its port, then the port where it is told what to do, which listens in every mode:

    POST /_mode   a mode, or {"default": MODE, "by_recipient": {RECIPIENT: MODE}}

Each request that was received in full becomes one line of FILE, on the disk before it is answered:
key, sha256 of the body, at, accepted, mode, connection (a number), method, path, headers,
recipient_id. A mode is a word, for some with an argument behind a colon:

    ok             accepts, answers 200 with a provider_id
    body:JSON      the same, with this answer
    slow[:N]       the same, after N seconds (1)
    accept-500     accepts, answers 500
    cut            accepts, closes without an answer
    stall          accepts, answers 200 and never ends the body
    huge           accepts, answers 200 with a body without end
    NNN[:VALUE]    answers this status, with this Retry-After
    redirect:URL   answers 307
    hang           never answers
    drip           answers with headers without end, a byte at a time
    refuse         does not listen, and closes what is open
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import ssl
import sys
import time
from pathlib import Path

#: Modes that take the message, and say so in the log.
ACCEPTING = {"ok", "body", "slow", "accept-500", "cut", "stall", "huge"}
MODES = ACCEPTING | {"redirect", "hang", "drip", "refuse"}


class Log:
    """Lines on the disk. Those that come while it is being written are written together."""

    def __init__(self, file, *, fsync):
        self.file = file
        self.fsync = fsync
        self.waiting = []
        self.writing = False

    async def write(self, entry):
        """Write a line; it is on the disk when this returns."""
        done = asyncio.get_running_loop().create_future()
        self.waiting.append((json.dumps(entry).encode() + b"\n", done))
        if not self.writing:
            await self._write_all()
        await done

    async def _write_all(self):
        self.writing = True
        while self.waiting:
            batch, self.waiting = self.waiting, []
            self.file.write(b"".join(line for line, _ in batch))
            if self.fsync:
                await asyncio.to_thread(os.fsync, self.file.fileno())
            for _, done in batch:
                done.set_result(None)
        self.writing = False


class Receiver:
    """Takes requests, and does what the rules say."""

    def __init__(self, options, log):
        self.log = log
        self.latency = options.latency
        self.port = options.port
        self.tls = None
        if options.tls:
            self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self.tls.load_cert_chain(options.tls)
        self.rules = {"default": options.mode, "by_recipient": {}}
        self.server = None
        self.open = set()
        self.connections = 0

    async def obey(self, rules):
        """Follow new rules, from the next request on."""
        self.rules = rules
        if rules["default"] != "refuse":
            await self.listen()
        elif self.server:
            self.server.close()
            self.server = None
            for writer in tuple(self.open):
                writer.transport.abort()

    async def listen(self):
        """Listen, always on the same port."""
        if self.server is None:
            self.server = await asyncio.start_server(
                self.serve, "127.0.0.1", self.port, ssl=self.tls, backlog=1024
            )
            self.port = self.server.sockets[0].getsockname()[1]

    async def serve(self, reader, writer):
        """Answer the requests of one connection."""
        self.connections += 1
        number = self.connections
        self.open.add(writer)
        try:
            while request := await read_request(reader):
                if not await self.answer(request, number, reader, writer):
                    break
        except (OSError, asyncio.IncompleteReadError):
            pass  # the other side is gone
        finally:
            self.open.discard(writer)
            writer.transport.abort()

    async def answer(self, request, number, reader, writer):
        """Log a request and answer it; false if the connection is not to be used again."""
        recipient = recipient_of(request["body"])
        mode = self.rules.get("by_recipient", {}).get(recipient, self.rules["default"])
        word, _, argument = mode.partition(":")
        await self.log.write(
            {
                "key": request["headers"].get("idempotency-key"),
                "sha256": hashlib.sha256(request["body"]).hexdigest(),
                "at": time.time(),
                "accepted": word in ACCEPTING,
                "mode": mode,
                "connection": number,
                "method": request["method"],
                "path": request["path"],
                "headers": request["headers"],
                "recipient_id": recipient,
            }
        )
        pause = self.latency + (float(argument or 1) if word == "slow" else 0)
        if pause:
            await asyncio.sleep(pause)
        if word == "cut":
            return False
        if word in {"hang", "stall", "huge", "drip"}:
            await never_end(word, reader, writer)
            return False
        writer.write(answer_to(request, word, argument))
        await writer.drain()
        return True


async def read_request(reader):
    """Give the next request with its body, or none if there is no other."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, path, _ = first.split(" ")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return {"method": method, "path": path, "headers": headers, "body": body}


def recipient_of(body):
    """Give the recipient of a message, if the body is one."""
    try:
        return json.loads(body).get("recipient_id")
    except (ValueError, AttributeError):
        return None


def answer_to(request, word, argument):
    """Give the bytes of an answer, those of accepted messages with a cookie that must not come back."""
    if word == "redirect":
        return response(307, b"", f"Location: {argument}")
    if word.isdigit():
        headers = [f"Retry-After: {argument}"] if argument else []
        return response(int(word), b"not accepted", *headers)
    if word == "accept-500":
        return response(500, b"accepted, in truth")
    key = request["headers"].get("idempotency-key", "")
    named = json.dumps({"provider_id": "p-" + hashlib.sha256(key.encode()).hexdigest()[:12]})
    return response(200, (argument if word == "body" else named).encode(), "Set-Cookie: s=1")


def response(status, body, *headers):
    """Give an answer that leaves the connection open."""
    lines = [f"HTTP/1.1 {status} .", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def never_end(word, reader, writer):
    """Say what the mode says, until the other side has had enough."""
    if word == "stall":
        writer.write(b"HTTP/1.1 200 .\r\nContent-Length: 99\r\n\r\n{")
    if word == "huge":
        writer.write(b"HTTP/1.1 200 .\r\n\r\n")
    if word == "drip":
        writer.write(b"HTTP/1.1 200 .\r\nX-Long: ")
    while word in {"huge", "drip"}:
        writer.write(b"x" * (1 if word == "drip" else 65536))
        await writer.drain()
        await asyncio.sleep(0.02 if word == "drip" else 0)
    while await reader.read(65536):
        pass


def rules_of(text):
    """Read a mode or rules; ValueError if there is no such mode."""
    rules = json.loads(text) if text.startswith("{") else {"default": text}
    for mode in (rules["default"], *rules.get("by_recipient", {}).values()):
        word = mode.partition(":")[0]
        if word not in MODES and not (word.isdigit() and len(word) == 3):
            raise ValueError(f"unknown mode: {mode}")
    return rules


async def control(receiver, reader, writer):
    """Obey one request, and answer when it is obeyed."""
    request = await read_request(reader)
    try:
        await receiver.obey(rules_of(request["body"].decode()))
        writer.write(response(204, b""))
    except (ValueError, KeyError) as error:
        writer.write(response(400, str(error).encode()))
    with contextlib.suppress(OSError):
        await writer.drain()
    writer.close()


async def main():
    """Receive until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", required=True)
    parser.add_argument("--mode", default="ok")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before every answer")
    parser.add_argument("--tls", help="a PEM file with a key and its certificates")
    parser.add_argument("--no-fsync", action="store_true")
    options = parser.parse_args()
    rules = rules_of(options.mode)
    with Path(options.log).open("ab", buffering=0) as file:
        await receive(options, rules, Log(file, fsync=not options.no_fsync))


async def receive(options, rules, log):
    """Listen on both ports, and print them."""
    receiver = Receiver(options, log)
    await receiver.listen()  # also to refuse: the port is to be known
    await receiver.obey({"by_recipient": {}, **rules})
    controller = await asyncio.start_server(
        lambda reader, writer: control(receiver, reader, writer), "127.0.0.1", 0
    )
    sys.stdout.write(f"{receiver.port}\n{controller.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await controller.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
