import base64
import hashlib
import json
import logging
import socket
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import IPv4Address, IPv6Network, ip_address
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
import trustme
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger
from standardwebhooks import Webhook, WebhookVerificationError

from reactor import __version__
from reactor.channels.http import HttpChannel
from reactor.channels.http_answer import Answer
from reactor.channels.protocol import as_json, hand_off
from reactor.channels.public_addresses import is_public, literal
from reactor.channels.registry import make_channel
from reactor.channels.settings import ChannelSettings
from reactor.log import configure_logging
from reactor.settings import LogLevel, Settings
from schemas.hand_off import HandOff, Outcome, OutcomeKind
from tests.receivers.running import http_receiver

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MESSAGE = HandOff(
    key="conversation/intro/0",
    campaign_id="campaign",
    conversation_id="conversation",
    recipient_id="r1",
    channel="email",
    to="ada@example.com",
    subject="Grüße, Ada 🎩",
    body="Line\nbreak",
    html=None,
    from_=None,
    reply_to=None,
    locale="de",
    in_reply_to=None,
    send_before=None,
    at=NOW,
)
SECRETS = tuple("whsec_" + base64.b64encode(bytes([n]) * 32).decode() for n in range(2))
#: Withdrawn from all routing, but public by its number.
PUBLIC = "192.88.99.1"
#: A name that no resolver knows but the one of a test.
NAME = "receiver.example"


def settings(url, **changes):
    """Settings of a channel that may reach the loopback."""
    given_ = {"allow_private": True, "timeout_seconds": 10.0} | changes
    return ChannelSettings(name="email", url=url, **given_)


def numbered(n, recipient="r1"):
    """Give a message of its own."""
    return evolve(MESSAGE, key=f"conversation/intro/{n}", recipient_id=recipient)


def outcome(kind, error=None, **rest):
    """Give an outcome; seconds for `retry_after`."""
    if "retry_after" in rest:
        rest["retry_after"] = timedelta(seconds=rest["retry_after"])
    return Outcome(kind=kind, error=error, **rest)


def provider_id(key):
    """Give the identity that the receiver makes of a key."""
    return "p-" + hashlib.sha256(key.encode()).hexdigest()[:12]


def sent(key=MESSAGE.key):
    """Give the outcome of what the receiver has accepted."""
    return outcome(OutcomeKind.SENT, provider_id=provider_id(key))


def connections(channel):
    """Give what is in the channel's pool."""
    return channel._pool.connections


def open_files():
    """Count what this process has open."""
    return len(list(Path("/dev/fd").iterdir()))


@asynccontextmanager
async def nothing_leaks():
    """Fail if something stays open that was not open before."""
    before = open_files()
    yield
    with anyio.fail_after(2):  # sockets are closed in one of the event loop's next turns
        while open_files() > before:
            await anyio.lowlevel.checkpoint()


@pytest.fixture
def receiver(tmp_path):
    """A receiver that accepts everything, until it is told otherwise."""
    with http_receiver(tmp_path) as running:
        yield running


@pytest.fixture
def resolver(monkeypatch):
    """A resolver that knows one more name, with the addresses of its list: one answer for each."""
    genuine, answers, asked = socket.getaddrinfo, [], []

    def resolve(host, port, *rest, **named):
        text = host.decode() if isinstance(host, bytes) else host
        if text != NAME:
            return genuine(host, port, *rest, **named)
        asked.append(text)
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(found, Exception):
            raise found
        stream = (socket.SOCK_STREAM, 6, "")
        return [
            (socket.AF_INET6, *stream, (each, port, 0, 0))
            if ":" in each
            else (socket.AF_INET, *stream, (each, port))
            for each in found
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    resolve.answers, resolve.asked = answers, asked
    return resolve


@pytest.fixture
def logged(capsys):
    """Gives what was logged, with everything switched on; then puts back what was there."""
    root, handlers, level = logging.getLogger(), logging.getLogger().handlers[:], logging.root.level
    configure_logging(Settings(log_level=LogLevel.TRACE))
    yield lambda: capsys.readouterr().err
    logger.remove()
    logger.configure(patcher=lambda _: None)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("pymongo.command").setLevel(logging.NOTSET)


MODES = {
    "ok": sent(),
    "slow:0.1": sent(),
    'body:{"provider_id": "x"}': outcome(OutcomeKind.SENT, provider_id="x"),
    "stall": outcome(OutcomeKind.SENT),
    "huge": outcome(OutcomeKind.SENT),
    "204": outcome(OutcomeKind.SENT),
    "429": outcome(OutcomeKind.RATE_LIMITED, "HTTP 429"),
    "429:7": outcome(OutcomeKind.RATE_LIMITED, "HTTP 429", retry_after=7),
    "408": outcome(OutcomeKind.RETRY, "HTTP 408"),
    "425:1": outcome(OutcomeKind.RETRY, "HTTP 425", retry_after=1),
    "500": outcome(OutcomeKind.RETRY, "HTTP 500"),
    "503:30": outcome(OutcomeKind.RETRY, "HTTP 503", retry_after=30),
    "accept-500": outcome(OutcomeKind.RETRY, "HTTP 500"),
    "401:5": outcome(OutcomeKind.CHANNEL_FAILED, "HTTP 401"),
    "403": outcome(OutcomeKind.CHANNEL_FAILED, "HTTP 403"),
    "405": outcome(OutcomeKind.CHANNEL_FAILED, "HTTP 405"),
    "407": outcome(OutcomeKind.CHANNEL_FAILED, "HTTP 407"),
    "410": outcome(OutcomeKind.CHANNEL_FAILED, "HTTP 410"),
    "304": outcome(OutcomeKind.CHANNEL_FAILED, "HTTP 304"),
    "redirect:/elsewhere": outcome(OutcomeKind.CHANNEL_FAILED, "HTTP 307"),
    "400": outcome(OutcomeKind.REFUSED, "HTTP 400"),
    "404:5": outcome(OutcomeKind.REFUSED, "HTTP 404"),
    "422": outcome(OutcomeKind.REFUSED, "HTTP 422"),
    "600": outcome(OutcomeKind.UNKNOWN, "HTTP 600"),
    "101": outcome(OutcomeKind.UNKNOWN, "RemoteProtocolError"),
    "hang": outcome(OutcomeKind.UNKNOWN, "ReadTimeout"),
    "drip": outcome(OutcomeKind.UNKNOWN, "ReadTimeout"),
    "cut": outcome(OutcomeKind.UNKNOWN, "RemoteProtocolError"),
    "refuse": outcome(OutcomeKind.RETRY, "ConnectError"),
}


@pytest.fixture(scope="module")
def shared_receiver(tmp_path_factory):
    """One receiver for a whole table."""
    with http_receiver(tmp_path_factory.mktemp("shared")) as running:
        yield running


@pytest.mark.parametrize("mode", MODES)
async def test_outcome(shared_receiver, mode):
    """Whatever the receiver does is an outcome, told before the guard would cut it off."""
    shared_receiver.set_mode(mode)
    async with HttpChannel(settings(shared_receiver.url, timeout_seconds=1)) as channel:
        assert await hand_off(channel, MESSAGE, 1) == MODES[mode]


async def test_what_is_posted(receiver):
    """The JSON of the contract is posted under the send key, and says who sends it."""
    async with HttpChannel(settings(receiver.url + "?list=1&x=%2F")) as channel:
        assert await channel.send(MESSAGE) == sent()
    (request,) = receiver.requests()
    assert request["sha256"] == hashlib.sha256(as_json(MESSAGE)).hexdigest()
    assert (request["method"], request["path"]) == ("POST", "/messages?list=1&x=%2F")
    assert request["headers"] == {
        "host": f"127.0.0.1:{receiver.port}",
        "user-agent": f"reactor/{__version__}",
        "content-type": "application/json",
        "accept": "application/json",
        "accept-encoding": "identity",
        "idempotency-key": MESSAGE.key,
        "webhook-id": MESSAGE.key,
        "content-length": str(len(as_json(MESSAGE))),
    }


async def test_same_key_same_bytes(receiver):
    """What is handed off again is the same to the byte, though it is signed at another time."""
    for _ in range(2):
        async with HttpChannel(settings(receiver.url, secret=SECRETS[0])) as channel:
            await channel.send(evolve(MESSAGE))
    first, second = receiver.requests()
    assert (first["key"], first["sha256"]) == (second["key"], second["sha256"])


@pytest.mark.parametrize("given_", [SECRETS[:1], SECRETS], ids=["one", "two"])
async def test_signature(receiver, given_):
    """A receiver that has one of the secrets verifies the message, as it was sent just now."""
    began = int(time.time())
    async with HttpChannel(settings(receiver.url, secret="  ".join(given_))) as channel:
        await channel.send(MESSAGE)
    headers = receiver.requests()[0]["headers"]
    assert len(headers["webhook-signature"].split(" ")) == len(given_)
    assert began <= int(headers["webhook-timestamp"]) <= time.time()
    for secret in given_:
        assert Webhook(secret).verify(as_json(MESSAGE), headers)["key"] == MESSAGE.key
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(as_json(numbered(1)), headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(b"another" * 4).verify(as_json(MESSAGE), headers)


@pytest.mark.parametrize(
    "secret",
    [
        " ",
        "plain-secret-of-somebody",
        "whsec_",
        "whsec_c2hvcnQ=",
        "whsec_" + "A" * 100,
        "whsec_not*base64*not*base64*not*base64*",
        SECRETS[0] + "," + SECRETS[1],
        SECRETS[0] + " whsec_other",
    ],
)
def test_malformed_secret(secret):
    """A secret that is none is said at the start, and not shown."""
    with pytest.raises(ValueError, match=r"^expected CHANNEL_EMAIL_SECRET to be") as raised:
        HttpChannel(settings("https://example.com/", secret=secret))
    assert not any(word in str(raised.value) for word in secret.split() if word != "whsec_")


async def test_connections_are_used_again(receiver):
    """Many messages take as few connections as are sent at once."""
    async with (
        HttpChannel(settings(receiver.url, concurrency=4)) as channel,
        anyio.create_task_group() as tasks,
    ):
        for n in range(100):
            tasks.start_soon(channel.send, numbered(n))
    requests = receiver.requests()
    assert len({request["key"] for request in requests}) == len(requests) == 100
    assert len({request["connection"] for request in requests}) <= 4


async def test_rejected_messages_keep_their_connection(receiver):
    """An answer is read to its end, whatever it says, so that the connection can go on."""
    async with HttpChannel(settings(receiver.url)) as channel:
        for mode in ("500", "404", "429:1", "ok"):
            receiver.set_mode(mode)
            await channel.send(MESSAGE)
    assert {request["connection"] for request in receiver.requests()} == {1}


async def test_receiver_that_was_restarted(receiver):
    """A connection that was closed while it was idle costs no message its certainty."""
    async with HttpChannel(settings(receiver.url)) as channel:
        assert await channel.send(numbered(0)) == sent(numbered(0).key)
        receiver.restart()
        assert await channel.send(numbered(1)) == sent(numbered(1).key)
    assert [request["connection"] for request in receiver.requests()] == [1, 1]


async def test_rules_by_recipient(receiver):
    """The receiver of these tests can do to one recipient what it does to no other."""
    receiver.set_mode({"default": "ok", "by_recipient": {"r3": "500"}})
    async with HttpChannel(settings(receiver.url)) as channel:
        kinds = [(await channel.send(numbered(0, each))).kind for each in ("r2", "r3", "r4")]
    assert kinds == [OutcomeKind.SENT, OutcomeKind.RETRY, OutcomeKind.SENT]
    assert [request["accepted"] for request in receiver.requests()] == [True, False, True]
    with pytest.raises(ValueError, match="unknown mode: okay"):
        receiver.set_mode("okay")


async def test_redirect_is_not_followed(receiver, tmp_path):
    """No message goes where a receiver points."""
    (tmp_path / "target").mkdir()
    with http_receiver(tmp_path / "target") as target:
        receiver.set_mode(f"redirect:{target.url}")
        async with HttpChannel(settings(receiver.url)) as channel:
            await channel.send(MESSAGE)
        assert target.requests() == []
    assert len(receiver.requests()) == 1


async def test_no_cookies(receiver):
    """A cookie that comes with an answer does not come back."""
    async with HttpChannel(settings(receiver.url)) as channel:
        await channel.send(numbered(0))
        await channel.send(numbered(1))
    assert not any("cookie" in request["headers"] for request in receiver.requests())


async def test_no_proxy_of_the_environment(receiver, monkeypatch):
    """What is set for other programs leads no message to somebody else."""
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with HttpChannel(settings(receiver.url)) as channel:
        assert await channel.send(MESSAGE) == sent()


async def test_credentials_of_the_url(receiver):
    """A user and a password in the URL are sent as they are meant, and nowhere else."""
    url = receiver.url.replace("://", "://ada%40x:p%3Ass%2F@")
    async with HttpChannel(settings(url)) as channel:
        await channel.send(MESSAGE)
    (request,) = receiver.requests()
    scheme, _, value = request["headers"]["authorization"].partition(" ")
    assert (scheme, base64.b64decode(value)) == ("Basic", b"ada@x:p:ss/")
    assert request["headers"]["host"] == f"127.0.0.1:{receiver.port}"


PRIVATE_HOSTS = [
    *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.1", "0x7f.0.0.1", "017700000001"),
    *("0", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "255.255.255.255"),
    *("169.254.169.254", "224.0.0.1", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::127.0.0.1]"),
    *("[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[::ffff:0:7f00:1]"),
    *("[fe80::1]", "[fec0::1]", "[fd00::1]", "[ff02::1]", "[2001:db8::1]"),
    *("localhost", "LOCALHOST.", "api.localhost"),
]


@pytest.mark.parametrize("host", PRIVATE_HOSTS)
def test_private_host_is_refused_at_the_start(host):
    """A host that is private as it is written is a problem of the settings, in any spelling."""
    with pytest.raises(ValueError, match="expected a public host; CHANNEL_EMAIL_ALLOW_PRIVATE=1"):
        HttpChannel(settings(f"http://{host}/", allow_private=False))
    HttpChannel(settings(f"http://{host}/"))


@pytest.mark.parametrize("host", ["0177.0.0.1", "[::1", "[fe80::1%25eth0]", "127.0.0.1.%00"])
def test_host_that_is_read_in_two_ways(host):
    """A spelling of an address that not everybody reads alike is no host at all."""
    with pytest.raises(ValueError, match=r"^expected "):
        HttpChannel(settings(f"http://{host}/", allow_private=False))


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "2600::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", PUBLIC],
)
def test_public_address(address):
    """Hosts of the internet are reached, whatever form their address has."""
    assert is_public(ip_address(address))


@given(st.ip_addresses(v=6))
def test_public_address_of_version_6(address):
    """It is one host of the internet, or leads to one of version 4: it hides no private one."""
    if is_public(address):
        assert address in IPv6Network("2000::/3") or is_public(IPv4Address(address.packed[-4:]))
        assert address.sixtofour is None or is_public(address.sixtofour)


@given(st.text(max_size=20))
def test_literal_reads_any_text(text):
    """Whatever stands where a host does is an address or is none."""
    found = literal(text)
    assert found is None or isinstance(is_public(found), bool)


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["10.1.2.3", PUBLIC],
        [PUBLIC, "169.254.169.254"],
        ["64:ff9b::7f00:1"],
    ],
)
async def test_name_of_a_private_address(receiver, resolver, addresses):
    """A name that leads inwards, if only with one of its addresses, gets nothing; says the setting."""
    resolver.answers.append(addresses)
    url = f"http://{NAME}:{receiver.port}/"
    async with HttpChannel(settings(url, allow_private=False)) as channel:
        told = await channel.send(MESSAGE)
    assert told.kind is OutcomeKind.CHANNEL_FAILED
    assert "CHANNEL_EMAIL_ALLOW_PRIVATE" in told.error
    assert NAME not in told.error
    assert receiver.requests() == []


async def test_name_that_changes_its_address(receiver, resolver):
    """Who has another address when asked again is not asked again: what was checked is connected to."""
    resolver.answers += [[PUBLIC], ["127.0.0.1"]]
    url = f"http://{NAME}:{receiver.port}/"
    async with HttpChannel(settings(url, allow_private=False, timeout_seconds=0.5)) as channel:
        assert (await channel.send(MESSAGE)).kind is OutcomeKind.RETRY
        assert len(resolver.asked) == 1
        assert (await channel.send(MESSAGE)).kind is OutcomeKind.CHANNEL_FAILED
    assert receiver.requests() == []


async def test_name_is_looked_up_once_a_connection(receiver, resolver):
    """Connections go to an address, but the receiver reads the name."""
    resolver.answers.append(["127.0.0.1"])
    async with HttpChannel(settings(f"http://{NAME}:{receiver.port}/")) as channel:
        for n in range(3):
            assert (await channel.send(numbered(n))).kind is OutcomeKind.SENT
    assert {request["headers"]["host"] for request in receiver.requests()} == {
        f"{NAME}:{receiver.port}"
    }
    assert len(resolver.asked) == 1


async def test_second_address(receiver, resolver):
    """A host with an address that nobody listens at is reached at its other one."""
    resolver.answers.append(["127.0.0.2", "127.0.0.1"])
    async with HttpChannel(settings(f"http://{NAME}:{receiver.port}/")) as channel:
        assert await channel.send(MESSAGE) == sent()


async def test_name_without_address(resolver):
    """A name that cannot be resolved now may be later."""
    resolver.answers.append(socket.gaierror(socket.EAI_AGAIN, "try again"))
    async with HttpChannel(settings(f"https://{NAME}/")) as channel:
        assert await channel.send(MESSAGE) == outcome(OutcomeKind.RETRY, "HostUnknownError")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https:", "name of a host"),
        ("https://", "name of a host"),
        ("https:///path", "name of a host"),
        ("https:example.com/path", "name of a host"),
        ("https://user:hush@/path", "name of a host"),
        ("https://exa mple.com/", "name of a host"),
        ("https://a..b/", "name of a host"),
        ("https://" + "a" * 64 + ".com/", "name of a host"),
        ("https://example.com:hush/", "host:port"),
        ("https://example.com:0/", "port from 1 to 65535"),
        ("https://example.com:65536/", "port from 1 to 65535"),
        ("https://example.com:-1/", "port from 1 to 65535"),
        ("https://example.com/#hush", "no fragment"),
        ("https://example.com/\nhush", "host:port"),
    ],
)
def test_malformed_url(url, expected):
    """What is wrong with a URL is said at the start, without a word of it."""
    with pytest.raises(ValueError, match=f"^expected .*{expected}") as raised:
        HttpChannel(settings(url, allow_private=False))
    assert "hush" not in str(raised.value)


def test_settings_of_the_channel():
    """Both schemes have a channel, with its settings; by default it sends sixteen at once."""
    for url in ("https://example.com", "HTTP://müller.example:8080/x"):
        assert make_channel(settings(url)).concurrency == 16
    assert make_channel(settings("https://example.com", concurrency=3)).concurrency == 3
    with pytest.raises(ValueError, match="https: has no FROM"):
        make_channel(settings("https://example.com", sender="ada@example.com"))


async def test_endless_answer(receiver):
    """An answer without end is left soon, and its connection with it."""
    receiver.set_mode("huge")
    async with nothing_leaks(), HttpChannel(settings(receiver.url)) as channel:
        began = anyio.current_time()
        for n in range(20):
            assert await channel.send(numbered(n)) == outcome(OutcomeKind.SENT)
        assert anyio.current_time() - began < 5
        assert connections(channel) == []


async def test_hanging_receiver_leaks_nothing(receiver):
    """Messages that never got an answer, or a connection, leave the pool as good as new."""
    receiver.set_mode("hang")
    async with (
        nothing_leaks(),
        HttpChannel(settings(receiver.url, concurrency=3, timeout_seconds=0.6)) as channel,
    ):
        told = []

        async def send(n):
            told.append(await hand_off(channel, numbered(n), 0.6))

        for _ in range(2):
            async with anyio.create_task_group() as tasks:
                for n in range(6):
                    tasks.start_soon(send, n)
        assert connections(channel) == []
        assert told.count(outcome(OutcomeKind.UNKNOWN, "ReadTimeout")) == 6
        assert told.count(outcome(OutcomeKind.RETRY, "PoolTimeout")) == 6
        receiver.set_mode("ok")
        assert await channel.send(MESSAGE) == sent()
        assert len(connections(channel)) == 1


async def test_guard_leaks_nothing(receiver):
    """Should the guard cut through after all, wherever that is, the pool stays usable."""
    async with nothing_leaks(), HttpChannel(settings(receiver.url, concurrency=3)) as channel:
        for mode in ("ok", "hang", "stall", "huge", "slow:0.01"):
            receiver.set_mode(mode)
            async with anyio.create_task_group() as tasks:
                for n in range(40):
                    tasks.start_soon(hand_off, channel, numbered(n), n / 2000)
        receiver.set_mode("ok")
        assert await channel.send(MESSAGE) == sent()
        assert len(connections(channel)) <= 3
        assert all(connection.is_idle() for connection in connections(channel))


async def test_messages_of_slow_receivers_do_not_hinder_each_other(receiver):
    """A recipient whose message hangs delays nobody else's, as long as there is a connection."""
    receiver.set_mode({"default": "ok", "by_recipient": {"r3": "hang"}})
    async with (
        HttpChannel(settings(receiver.url, concurrency=2, timeout_seconds=1)) as channel,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(channel.send, numbered(0, "r3"))
        for n in range(1, 20):
            assert (await channel.send(numbered(n))).kind is OutcomeKind.SENT


@pytest.fixture(scope="module")
def authority():
    """Signs certificates."""
    return trustme.CA()


@pytest.fixture
def tls_receiver(authority, tmp_path):
    """A receiver with a certificate for NAME."""
    pem = tmp_path / "receiver.pem"
    authority.issue_cert(NAME).private_key_and_cert_chain_pem.write_to_path(pem)
    with http_receiver(tmp_path, arguments=("--tls", pem), scheme="https") as running:
        yield running


@pytest.fixture
def trusted(authority, tmp_path, monkeypatch):
    """The authority is trusted."""
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))


async def test_tls(tls_receiver, resolver, trusted):
    """The certificate is checked against the name, though the connection went to an address."""
    resolver.answers.append(["127.0.0.1"])
    async with HttpChannel(settings(f"https://{NAME}:{tls_receiver.port}/")) as channel:
        for n in range(2):
            assert await channel.send(numbered(n)) == sent(numbered(n).key)
    assert [request["connection"] for request in tls_receiver.requests()] == [1, 1]


async def test_tls_hanging_receiver_leaks_nothing(tls_receiver, resolver, trusted):
    """The time for a message is bounded, and given back, over TLS as well."""
    resolver.answers.append(["127.0.0.1"])
    async with nothing_leaks():
        url = f"https://{NAME}:{tls_receiver.port}/"
        async with HttpChannel(settings(url, timeout_seconds=1)) as channel:
            for mode, told in MODES.items():
                if mode in {"hang", "drip", "stall", "huge", "cut", "ok"}:
                    tls_receiver.set_mode(mode)
                    assert await hand_off(channel, MESSAGE, 1) == told


async def test_certificate_of_an_unknown_authority(tls_receiver, resolver):
    """Somebody must mend it: no message would ever arrive."""
    resolver.answers.append(["127.0.0.1"])
    async with HttpChannel(settings(f"https://{NAME}:{tls_receiver.port}/")) as channel:
        told = await channel.send(MESSAGE)
    assert told == outcome(OutcomeKind.CHANNEL_FAILED, "CertificateError")


async def test_certificate_of_another_host(tls_receiver, trusted):
    """A certificate that is for another name proves nothing."""
    async with HttpChannel(settings(tls_receiver.url)) as channel:
        told = await channel.send(MESSAGE)
    assert told == outcome(OutcomeKind.CHANNEL_FAILED, "CertificateError")
    assert tls_receiver.requests() == []


async def test_receiver_without_tls():
    """A handshake that fails handed off nothing."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")

    async def answer(stream):
        async with stream:
            await stream.send(b"HTTP/1.1 400 .\r\n\r\n")

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with HttpChannel(settings(f"https://127.0.0.1:{port}/")) as channel:
            told = await channel.send(MESSAGE)
        tasks.cancel_scope.cancel()
    assert told == outcome(OutcomeKind.RETRY, "HandshakeError")


async def test_listener_that_never_shakes_hands():
    """A connection that comes to nothing ends in time, and handed off nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"https://127.0.0.1:{server.getsockname()[1]}/"
        async with HttpChannel(settings(url, timeout_seconds=0.5)) as channel:
            told = await hand_off(channel, MESSAGE, 0.5)
    assert told == outcome(OutcomeKind.RETRY, "ConnectTimeout")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 120 ", 120),
        ("000000000000007", 7),
        ("86401", 86_400),
        ("9" * 5000, 86_400),
        ("Sun, 01 Mar 2026 12:01:00 GMT", 60),
        ("Sunday, 01-Mar-26 12:01:00 GMT", 60),
        ("Sun Mar  1 12:01:00 2026", 60),
        ("Sun, 01 Mar 2026 13:01:00 +0100", 60),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0),
        ("Sun, 01 Mar 2099 12:00:00 GMT", 86_400),
        ("Sun, 01 Mar 9999 99:99:99 GMT", None),
        ("Sun, 01 Mar 2026 12:01:00 +99999999999", None),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
    ],
)
def test_retry_after(text, seconds):
    """Seconds and the dates of HTTP are read, up to a day; nonsense is none."""
    answer = Answer(status=503, headers={"retry-after": text})
    expected = None if seconds is None else timedelta(seconds=seconds)
    assert answer.outcome(NOW) == Outcome(
        kind=OutcomeKind.RETRY, error="HTTP 503", retry_after=expected
    )


def test_retry_after_by_the_receivers_clock():
    """A receiver whose clock is wrong by hours still means the time that lies between its dates."""
    its_now = NOW - timedelta(hours=5)
    until = format_datetime(its_now + timedelta(seconds=90), usegmt=True)
    headers = {"retry-after": until, "date": format_datetime(its_now, usegmt=True)}
    told = Answer(status=429, headers=headers).outcome(NOW)
    assert told == outcome(OutcomeKind.RATE_LIMITED, "HTTP 429", retry_after=90)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"provider_id": "x"}', "x"),
        (b'{"provider_id": "\xc3\xbc"}', "ü"),
        (json.dumps({"provider_id": "x" * 500}).encode(), "x" * 500),
        (json.dumps({"provider_id": "x" * 501}).encode(), None),
        (b'{"provider_id": ""}', None),
        (b'{"provider_id": 5}', None),
        (b'{"provider_id": "\\ud800"}', None),
        (b'["provider_id"]', None),
        (b'{"provider_id": "x"', None),
        (b'{"provider_id": "\xff"}', None),
        (b"", None),
        (b"[" * 60_000, None),
    ],
)
def test_provider_id(body, expected):
    """An identity is kept if it is a text of some length; any other answer is as good as none."""
    told = Answer(status=200, headers={}, body=body).outcome(NOW)
    assert told == outcome(OutcomeKind.SENT, provider_id=expected)


@given(st.integers(100, 999), st.text(st.characters(max_codepoint=255)), st.text(), st.binary())
def test_any_answer_is_an_outcome(status, retry_after, date, body):
    """No receiver can make a channel fail, whatever it answers."""
    answer = Answer(status=status, headers={"retry-after": retry_after, "date": date}, body=body)
    told = answer.outcome(NOW)
    assert told.error == (None if told.kind is OutcomeKind.SENT else f"HTTP {status}")
    assert timedelta() <= (told.retry_after or timedelta()) <= timedelta(days=1)


async def test_secrets_are_nowhere(receiver, logged):
    """Neither what shows a channel, nor an outcome, nor a log line has anything to hide."""
    url = receiver.url.replace("://", "://ada:hush@") + "?token=hush"
    async with HttpChannel(settings(url, secret=SECRETS[1], timeout_seconds=0.5)) as channel:
        shown = [repr(channel), str(channel)]
        for mode in ("ok", "500", "401", "404", "redirect:/", "cut", "hang", "huge", "refuse"):
            receiver.set_mode(mode)
            shown.append(repr(await hand_off(channel, MESSAGE, 0.5)))
    assert logged() == ""
    hidden = ["hush", SECRETS[1][6:], MESSAGE.to, "Ada", "127.0.0.1:", "/messages", "Bearer"]
    assert [word for word in hidden for text in shown[2:] if word in text] == []
    assert [word for word in ("hush", SECRETS[1][6:]) for text in shown if word in text] == []
