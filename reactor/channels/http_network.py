"""
The network below the HTTP channel: connections to checked addresses only, and within a time.

What httpcore passes on as time-outs are moments here, in seconds of the event loop. So all that one
hand-off does is over by one moment, even if each answer of the receiver is a single byte that comes
just in time; and no cancellation ever passes through the pool, which might lose a connection by it.
"""

import socket
import ssl
from collections.abc import Iterable
from contextlib import contextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import anyio
import httpcore2
from attrs import frozen

from reactor.channels.public_addresses import Address, is_public

if TYPE_CHECKING:
    from collections.abc import Iterator


class HostUnknownError(httpcore2.ConnectError):
    """The name has no address, or none could be learnt."""


class PrivateAddressError(httpcore2.ConnectError):
    """The host has an address that is not a public one."""


class HandshakeError(httpcore2.ConnectError):
    """There was no agreement on TLS."""


class CertificateError(httpcore2.ConnectError):
    """The host does not prove to be who it is called."""


@frozen(eq=False)
class CheckedNetwork(httpcore2.AsyncNetworkBackend):
    """
    Connects to the very addresses that it has checked: a name that is looked up twice may have
    another address by then. Who is asked for, and who must prove to be it, is still the name.
    """

    allow_private: bool

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        addresses = await _addresses(host, port, timeout)
        # One private address among public ones is no accident either.
        if not self.allow_private and not all(is_public(address) for address in addresses):
            raise PrivateAddressError
        error: Exception = HostUnknownError()
        for tried, address in enumerate(addresses):
            share = _left(timeout) / (len(addresses) - tried)
            try:
                stream = await PLAIN.connect_tcp(
                    str(address), port, share, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as failed:
                error = failed
            else:
                return _TimelyStream(stream)
        raise error


@frozen(eq=False)
class _TimelyStream(httpcore2.AsyncNetworkStream):
    stream: httpcore2.AsyncNetworkStream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        with _tls_errors_as(httpcore2.ReadError):
            return await self.stream.read(max_bytes, _left(timeout))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        with _tls_errors_as(httpcore2.WriteError):
            await self.stream.write(buffer, _left(timeout))

    async def aclose(self) -> None:
        await self.stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
    ) -> httpcore2.AsyncNetworkStream:
        try:
            return _TimelyStream(
                await self.stream.start_tls(ssl_context, server_hostname, _left(timeout))
            )
        except httpcore2.ConnectError as error:
            if isinstance(error.__cause__, ssl.SSLCertVerificationError):
                raise CertificateError from error
            raise HandshakeError from error

    def get_extra_info(self, info: str) -> Any:
        return self.stream.get_extra_info(info)


PLAIN = httpcore2.AnyIOBackend()


def _left(moment: float | None) -> float:
    """Give the seconds until a moment; without one there is no time at all: somebody forgot it."""
    return max(0.0, (moment or 0.0) - anyio.current_time())


@contextmanager
def _tls_errors_as(kind: type[Exception]) -> "Iterator[None]":
    """Give the pool an error that it knows: anyio lets those of TLS through as they are."""
    try:
        yield
    except ssl.SSLError as error:
        raise kind from error


async def _addresses(host: str, port: int, moment: float | None) -> tuple[Address, ...]:
    """Look a name up; an address is its own, in whatever way it is spelt."""
    try:
        with anyio.fail_after(_left(moment)):
            found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError as error:
        raise httpcore2.ConnectTimeout from error
    except (OSError, UnicodeError) as error:
        raise HostUnknownError from error
    return tuple(dict.fromkeys(ip_address(place[0]) for *_, place in found))
