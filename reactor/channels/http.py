"""
`https://host/path`, `http://…` a POST of the JSON for each message, under its send key.

It uses the connection pool below httpx2 and not the client above it: what the client adds, namely
redirects, cookies, proxies of the environment, unpacking and a log line with the URL, must not
happen here.
"""

import base64
import re
from collections.abc import Iterator
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import ClassVar, Self

import anyio
import httpcore2
import httpx2
from attrs import define, field, frozen
from standardwebhooks import Webhook

from reactor import __version__
from reactor.channels.http_answer import Answer
from reactor.channels.http_network import CertificateError, CheckedNetwork, PrivateAddressError
from reactor.channels.protocol import as_json
from reactor.channels.public_addresses import is_local_name, is_public, literal
from reactor.channels.settings import ChannelSettings
from schemas.hand_off import HandOff, Outcome, OutcomeKind

CONCURRENCY = 16
#: Of an answer no more is read: bytes.
MAX_ANSWER = 64 * 1024
#: Seconds. Common servers close what was idle for five: a message must not meet that moment.
IDLE_SECONDS = 3.0

#: Shares of the time for one message: to wait for a free connection; until there is one; for all.
#: What is left after that is for the event loop, lest the guard in `hand_off` be there first.
POOL, CONNECTED, ALL = 0.3, 0.5, 0.9

#: Nothing of the message has left.
NOT_BEGUN = (httpcore2.ConnectError, httpcore2.ConnectTimeout, httpcore2.PoolTimeout)
#: Some of it has, or all.
CUT = (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.RemoteProtocolError)

HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?", re.IGNORECASE)
SECRET = re.compile(r"whsec_([A-Za-z0-9+/]+={0,2})")
#: Of a secret, after Standard Webhooks.
SECRET_BYTES = range(24, 65)

type Header = tuple[bytes, bytes]


@define
class HttpChannel:
    own: ClassVar[frozenset[str]] = frozenset({"concurrency", "secret", "allow_private"})
    waits: ClassVar[bool] = True
    settings: ChannelSettings
    _target: "_Target" = field(init=False, repr=False)
    _signers: tuple[Webhook, ...] = field(init=False, repr=False)
    _pool: httpcore2.AsyncConnectionPool | None = field(init=False, default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        self._target = _target(self.settings)
        self._signers = tuple(_signers(self.settings))

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def concurrency(self) -> int:
        return self.settings.concurrency or CONCURRENCY

    async def __aenter__(self) -> Self:
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=httpcore2.default_ssl_context(),
            max_connections=self.concurrency,
            keepalive_expiry=IDLE_SECONDS,
            network_backend=CheckedNetwork(self.settings.allow_private),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            await self._pool.aclose()
        self._pool = None

    async def send(self, hand_off: HandOff) -> Outcome:
        try:
            answer = await self._post(as_json(hand_off), hand_off.key)
        except PrivateAddressError:
            switch = f"{self.settings.variable}_ALLOW_PRIVATE"
            why = f"the host has a private address, and {switch} is off"
            return Outcome(kind=OutcomeKind.CHANNEL_FAILED, error=why)
        except CertificateError as error:
            return Outcome(kind=OutcomeKind.CHANNEL_FAILED, error=type(error).__name__)
        except NOT_BEGUN as error:
            return Outcome(kind=OutcomeKind.RETRY, error=type(error).__name__)
        except CUT as error:
            return Outcome(kind=OutcomeKind.UNKNOWN, error=type(error).__name__)
        return answer.outcome(_wall_clock())

    async def _post(self, body: bytes, key: str) -> Answer:
        if self._pool is None:
            raise RuntimeError("the channel is not open")
        now, whole = anyio.current_time(), self.settings.timeout_seconds
        over = now + ALL * whole
        # Moments, but for the first: see http_network.py.
        times = {"pool": POOL * whole, "connect": now + CONNECTED * whole}
        times |= {"write": over, "read": over}
        async with self._pool.stream(
            "POST",
            self._target.url,
            headers=[*self._target.headers, *self._headers(body, key)],
            content=body,
            extensions={"timeout": times},
        ) as response:
            return Answer(
                status=response.status,
                headers={  # of several of a name the first one
                    name.decode("latin-1").lower(): value.decode("latin-1")
                    for name, value in reversed(response.headers)
                },
                body=await _beginning(response),
            )

    def _headers(self, body: bytes, key: str) -> Iterator[Header]:
        yield b"Idempotency-Key", key.encode()
        yield b"webhook-id", key.encode()
        if self._signers:
            now = _wall_clock()
            signatures = [signer.sign(key, now, body.decode()) for signer in self._signers]
            yield b"webhook-timestamp", str(int(now.timestamp())).encode()
            yield b"webhook-signature", " ".join(signatures).encode()


@frozen
class _Target:
    """Where all messages go, and the headers that all of them have."""

    url: httpcore2.URL
    headers: tuple[Header, ...]


def _target(settings: ChannelSettings) -> _Target:
    """Read the URL; ValueError says what was expected, and never quotes it."""
    try:
        url = httpx2.URL(settings.url)
    except httpx2.InvalidURL:
        raise ValueError(f"expected {settings.scheme}://host/path, or host:port") from None
    host = url.raw_host.decode("ascii")
    address = literal(host)
    if address is None and not HOST.fullmatch(host):
        raise ValueError(f"expected {settings.scheme}://host/path, with the name of a host")
    if url.port is not None and not 0 < url.port < 2**16:
        raise ValueError("expected a port from 1 to 65535")
    if "#" in settings.url:
        raise ValueError("expected no fragment: # and what follows it never reach the receiver")
    private = is_local_name(host) if address is None else not is_public(address)
    if private and not settings.allow_private:
        switch = f"{settings.variable}_ALLOW_PRIVATE"
        raise ValueError(f"expected a public host; {switch}=1 allows private ones")
    return _Target(
        httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
        tuple(_constant_headers(url)),
    )


def _constant_headers(url: httpx2.URL) -> Iterator[Header]:
    yield b"Host", url.netloc
    yield b"User-Agent", f"reactor/{__version__}".encode()
    yield b"Content-Type", b"application/json"
    yield b"Accept", b"application/json"
    yield b"Accept-Encoding", b"identity"  # nothing is unpacked, so nothing can swell
    if url.userinfo:
        user = f"{url.username}:{url.password}".encode()
        yield b"Authorization", b"Basic " + base64.b64encode(user)


def _signers(settings: ChannelSettings) -> Iterator[Webhook]:
    """Give one for each secret: the library reads almost anything as a key, so it is read here."""
    if settings.secret is None:
        return
    keys = [_key(secret) for secret in settings.secret.split()]
    if not keys or not all(len(key) in SECRET_BYTES for key in keys):
        raise ValueError(
            f"expected {settings.variable}_SECRET to be whsec_ and {SECRET_BYTES.start} to"
            f" {SECRET_BYTES.stop - 1} bytes in base64, or two such with a space between"
        )
    yield from (Webhook(key) for key in keys)


def _key(secret: str) -> bytes:
    """Give the bytes of a secret; none if it is malformed."""
    found = SECRET.fullmatch(secret)
    try:
        return base64.b64decode(found[1] + "==") if found else b""
    except ValueError:
        return b""


async def _beginning(response: httpcore2.Response) -> bytes:
    """Read an answer up to a size. Its status was told already, whatever becomes of the rest."""
    body = bytearray()
    with suppress(*CUT):
        async with aclosing(response.aiter_stream()) as parts:
            async for part in parts:
                body += part
                if len(body) > MAX_ANSWER:
                    break
    return bytes(body[:MAX_ANSWER])


def _wall_clock() -> datetime:
    """Give the time that receivers compare with theirs. No decision depends on it, nor does a body."""
    return datetime.now(UTC)  # noqa: TID251 - the server's time would be older by a whole batch
