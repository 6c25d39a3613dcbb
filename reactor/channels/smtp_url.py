"""
Which server `smtp://user:password@host:587` and `smtps://…` name.

`smtp:` begins in the clear; `?starttls=` says what becomes of it: `required`, the default with a
user; `opportunistic`, encrypted if the server offers it, the default without; `off`. There is no way
to do without verifying a certificate: one that is not public is trusted by SSL_CERT_FILE.
"""

import re
from enum import StrEnum
from urllib.parse import SplitResult, unquote, urlsplit

import idna
from attrs import field, frozen

SUBMISSION, SUBMISSIONS = 587, 465
HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*|[0-9a-f:.]*:[0-9a-f:.]*")


class StartTls(StrEnum):
    REQUIRED = "required"
    OPPORTUNISTIC = "opportunistic"
    OFF = "off"


@frozen(kw_only=True)
class Server:
    host: str
    port: int
    implicit_tls: bool
    starttls: StartTls
    username: str | None = field(repr=False)
    password: str | None = field(repr=False)


def read_server(url: str) -> Server:
    """Read a channel's URL. ValueError says what was expected, and never quotes it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("expected smtp://user:password@host:port, percent-encoded") from None
    if parts.path not in {"", "/"} or "#" in url:
        raise ValueError(
            "expected nothing after host and port; / and # in a password as %2F and %23"
        )
    if port == 0:
        raise ValueError("expected a port from 1 to 65535")
    username, password = _user(parts)
    implicit_tls = parts.scheme == "smtps"
    return Server(
        host=_host(parts),
        port=port or (SUBMISSIONS if implicit_tls else SUBMISSION),
        implicit_tls=implicit_tls,
        starttls=_starttls(parts, username),
        username=username,
        password=password,
    )


def _host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    try:
        host = host if host.isascii() else idna.encode(host, uts46=True).decode()
    except UnicodeError:
        host = ""
    if not HOST.fullmatch(host):
        raise ValueError("expected smtp://host or smtp://user:password@host:port, with a host")
    return host


def _user(parts: SplitResult) -> tuple[str | None, str | None]:
    if "@" not in parts.netloc:
        return None, None
    try:
        user = unquote(parts.username or "", errors="strict")
        password = unquote(parts.password or "", errors="strict")
    except UnicodeDecodeError:
        user = password = ""
    if not user or not password or re.search(r"[\x00-\x1f\x7f]", user + password):
        raise ValueError("expected user:password before the @, as percent-encoded UTF-8")
    return user, password


def _starttls(parts: SplitResult, username: str | None) -> StartTls:
    if parts.scheme == "smtps":
        if parts.query:
            raise ValueError("expected no ? in smtps://, which is always encrypted")
        return StartTls.OFF
    if not parts.query:
        return StartTls.OPPORTUNISTIC if username is None else StartTls.REQUIRED
    name, _, word = parts.query.partition("=")
    if name != "starttls" or word not in set(StartTls):
        raise ValueError(f"expected ?starttls={'|'.join(StartTls)} and nothing else after the ?")
    return StartTls(word)
