import itertools
import logging
import time
from email import message_from_bytes, policy

import anyio
import pytest
import trustme
from attrs import evolve
from loguru import logger

from reactor.channels.protocol import hand_off
from reactor.channels.registry import make_channel, open_channels
from reactor.channels.settings import ChannelSettings
from reactor.channels.smtp import SmtpChannel
from reactor.channels.smtp_session import PROVIDER_ID
from schemas.hand_off import OutcomeKind
from tests.receivers.running_smtp import smtp_receiver
from tests.test_mime import MESSAGE

SENT, RETRY, REFUSED = OutcomeKind.SENT, OutcomeKind.RETRY, OutcomeKind.REFUSED
CHANNEL_FAILED, UNKNOWN = OutcomeKind.CHANNEL_FAILED, OutcomeKind.UNKNOWN
BIG = "Grüße, liebe Ada. " * 500_000
NUMBERS = itertools.count()
HANDING, ANSWER = "while handing over", "while waiting for the answer to the message"
#: For a guard that is never the one to end a hand-off.
LONG = 60
#: Where time runs out.
QUICK = 1.5
HANGING = {"mute", "hang-early", "stall", "hang"}


@pytest.fixture(scope="module")
def receiver(tmp_path_factory):
    """A server in the clear that takes everything, unless told otherwise."""
    with smtp_receiver(tmp_path_factory.mktemp("smtp")) as running:
        yield running


@pytest.fixture(autouse=True)
def take_all(receiver):
    """Each test finds the server as it was."""
    receiver.drop()
    receiver.set_mode("ok")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority that SSL_CERT_FILE may name, and certificates: the paths of file and key."""
    path = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(path / "authority.pem")
    made = {"authority": path / "authority.pem"}
    for name, host in (("good", "127.0.0.1"), ("of another", "elsewhere.example")):
        issued = authority.issue_cert(host)
        key, certificate = path / f"{host}.key", path / f"{host}.pem"
        issued.private_key_pem.write_to_path(key)
        issued.cert_chain_pems[0].write_to_path(certificate)
        made[name] = (certificate, key)
    return made


@pytest.fixture
def trusted(certificates, monkeypatch):
    """Trust the authority, as an operator does who has one of his own."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates["authority"]))


def settings(url, **changes):
    """Settings of a channel with time enough on the slowest machine."""
    return ChannelSettings(**{"name": "email", "url": url, "timeout_seconds": 20, **changes})


def numbered(**changes):
    """Give a message of its own."""
    return evolve(MESSAGE, key=f"conversation/intro/{next(NUMBERS)}", **changes)


def of(receiver, message):
    """Give what the server has accepted of a message; fails if it did so more than once."""
    found = [each for each in receiver.messages() if each["key"] == message.key]
    assert len(found) <= 1
    return found[0] if found else None


async def send_one(url, message=None, **changes):
    """Send one message on a channel of its own."""
    async with SmtpChannel(settings(url, **changes)) as channel:
        return await hand_off(channel, message or numbered(), LONG)


async def until(condition):
    """Wait for something that another process does; fails if it does not."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - no event comes from there
            await anyio.sleep(0.01)


OUTCOMES = {
    # mode: kind, error, whether the server has the message
    "ok": (SENT, None, True),
    "ok-no-id": (SENT, None, True),
    "slow": (SENT, None, True),
    "moved": (SENT, None, True),
    "greylist": (RETRY, "SMTP 451 4.7.1", False),
    "550": (REFUSED, "SMTP 550 5.1.1", False),
    "550-mail": (REFUSED, "SMTP 550 5.7.1", False),
    "550-data": (REFUSED, "SMTP 550 5.7.1", False),
    "452-data": (RETRY, "SMTP 452 4.3.1", False),
    "530": (CHANNEL_FAILED, "SMTP 530 5.7.0", False),
    "421": (RETRY, "SMTP 421 4.3.2", False),
    "421-data": (RETRY, "SMTP 421 4.3.2", False),
    "421-greeting": (RETRY, "SMTP 421 4.3.2", False),
    "554-greeting": (CHANNEL_FAILED, "SMTP 554 5.7.1", False),
    "nonsense": (CHANNEL_FAILED, "malformed SMTP reply", False),
    "mute": (RETRY, "time-out while connecting", False),
    "auth-fail": (CHANNEL_FAILED, "SMTP 535 5.7.8", False),
    "auth-cut": (CHANNEL_FAILED, "SMTP 535 5.7.8", False),
    "auth-later": (RETRY, "SMTP 454 4.7.0", False),
    "hang-early": (RETRY, f"time-out {HANDING}", False),
    "cut-early": (RETRY, f"connection lost {HANDING}", False),
    "stall": (UNKNOWN, f"time-out {ANSWER}", False),
    "hang": (UNKNOWN, f"time-out {ANSWER}", False),
    "cut-data": (UNKNOWN, f"connection lost {ANSWER}", False),
    "cut": (UNKNOWN, f"connection lost {ANSWER}", True),
    "strange": (UNKNOWN, f"malformed reply {ANSWER}", False),
    "refuse": (RETRY, "not connected: ECONNREFUSED", False),
}


@pytest.mark.parametrize(("mode", "expected"), OUTCOMES.items(), ids=OUTCOMES)
async def test_outcomes(receiver, mode, expected):
    """Whatever a server does, it is told what became of the message, in time and without its words."""
    kind, error, accepted = expected
    message = numbered()
    receiver.set_mode(mode)
    url = receiver.url
    if mode.startswith("auth"):
        url = url.replace("//", "//user:password@") + "?starttls=off"
    seconds = QUICK if mode in HANGING else 20
    async with SmtpChannel(settings(url, timeout_seconds=seconds)) as channel:
        began = time.monotonic()
        outcome = await channel.send(message)
        assert time.monotonic() - began < channel.settings.timeout_seconds
    assert (outcome.kind, outcome.error) == (kind, error)
    found = of(receiver, message)
    assert (found is not None) is accepted
    if kind is SENT:
        no_id = mode == "ok-no-id"
        assert outcome.provider_id == found["message_id" if no_id else "queue_id"]
    else:
        assert outcome.provider_id is None


@pytest.mark.parametrize(
    ("mode", "error"),
    [("stall", f"time-out {HANDING}"), ("cut-data", f"connection lost {HANDING}")],
)
async def test_large_message_that_does_not_get_through(receiver, mode, error):
    """As long as the final dot has not left, nobody can have accepted the message."""
    receiver.set_mode(mode)
    outcome = await send_one(receiver.url, numbered(body=BIG), timeout_seconds=2 * QUICK)
    assert (outcome.kind, outcome.error) == (RETRY, error)


@pytest.mark.parametrize(
    ("reply", "provider_id"),
    [
        ("2.0.0 Ok: queued as 4ABCdef012", "4ABCdef012"),
        ("OK id=1tXyZ0-00000001abc-2DeF", "1tXyZ0-00000001abc-2DeF"),
        ("Ok 0102018f-1b2c-4d5e-000000", "0102018f-1b2c-4d5e-000000"),
        ("2.0.0 Ok: queued as <ABCD@example.com>", None),
        ("2.0.0 ada@example.com is happy", None),
        ("queued as ada@example.com", None),
        ("Ok", None),
    ],
)
def test_queue_ids(reply, provider_id):
    """The id under which common servers have queued a message is found, and never an address."""
    found = PROVIDER_ID.search(reply)
    assert (found and found["id"]) == provider_id


async def test_envelope_and_content_arrive(receiver):
    """The server gets the message to the byte, dots at the beginnings of lines included."""
    message = numbered(body=".\n..\n.x\nGrüße\n", subject="Grüße", to="ada@münchen.example")
    assert (await send_one(receiver.url, message)).kind is SENT
    found = of(receiver, message)
    assert found["mail_from"] == "team@example.com"
    assert found["rcpt_tos"] == ["ada@xn--mnchen-3ya.example"]
    assert not found["utf8"]
    parsed = message_from_bytes(found["raw"], policy=policy.SMTP)
    assert parsed.get_content().replace("\r\n", "\n") == message.body
    assert parsed["Subject"] == "Grüße"


async def test_one_connection_for_many_messages(receiver):
    """Messages that follow each other share a connection, also after one that was refused."""
    messages = [numbered() for _ in range(6)]
    async with SmtpChannel(settings(receiver.url)) as channel:
        for message in messages[:3]:
            assert (await channel.send(message)).kind is SENT
        for mode in ("550", "greylist", "550-data"):
            receiver.set_mode(mode)
            await channel.send(numbered())
        receiver.set_mode("ok")
        for message in messages[3:]:
            assert (await channel.send(message)).kind is SENT
    assert len({of(receiver, message)["connection"] for message in messages}) == 1


async def test_as_many_connections_as_configured(receiver):
    """Many messages at once share a few connections, and each of them is sent."""
    messages = [numbered() for _ in range(30)]
    async with SmtpChannel(settings(receiver.url, concurrency=3)) as channel:
        assert channel.concurrency == 3
        async with anyio.create_task_group() as tasks:
            for message in messages:
                tasks.start_soon(channel.send, message)
        assert receiver.open_connections() == 3
    assert len({of(receiver, message)["connection"] for message in messages}) == 3
    await until(lambda: receiver.open_connections() == 0)


async def test_no_free_connection(receiver):
    """A message that never got its turn was none too many for the channel: it costs no attempt."""
    receiver.set_mode("hang")
    async with SmtpChannel(settings(receiver.url, concurrency=1, timeout_seconds=QUICK)) as channel:
        outcomes = []

        async def send():
            outcomes.append((await channel.send(numbered())).kind)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            tasks.start_soon(send)
    assert sorted(outcomes) == [OutcomeKind.RATE_LIMITED, UNKNOWN]


async def test_connections_that_the_server_closed(receiver):
    """A connection that was closed meanwhile is replaced, and no message suffers from it."""
    messages = [numbered() for _ in range(3)]
    async with SmtpChannel(settings(receiver.url)) as channel:
        for message in messages:
            assert (await channel.send(message)).kind is SENT
            receiver.drop()
    assert len({of(receiver, message)["connection"] for message in messages}) == 3


async def test_connections_that_the_server_gives_up(receiver):
    """A 421 on a connection that was used before says to make a new one."""
    messages = [numbered() for _ in range(3)]
    receiver.set_mode("one-each")
    async with SmtpChannel(settings(receiver.url)) as channel:
        assert [(await channel.send(message)).kind for message in messages] == [SENT] * 3
    assert len({of(receiver, message)["connection"] for message in messages}) == 3


async def test_server_that_went_away(receiver):
    """Without a server there is nothing to reuse: the message waits, and leaves when it is back."""
    async with SmtpChannel(settings(receiver.url)) as channel:
        assert (await channel.send(numbered())).kind is SENT
        receiver.set_mode("refuse")
        assert (await channel.send(numbered())).kind is RETRY
        receiver.set_mode("ok")
        assert (await channel.send(numbered())).kind is SENT


async def test_idle_connections_are_closed(receiver):
    """What nobody needs is given back to the server, and there when it is needed."""
    async with SmtpChannel(settings(receiver.url), idle_seconds=0.1) as channel:
        assert (await channel.send(numbered())).kind is SENT
        await until(lambda: receiver.open_connections() == 0)
        assert (await channel.send(numbered())).kind is SENT


async def test_server_that_does_not_say_goodbye(receiver):
    """A server without an answer to QUIT does not keep a worker from ending."""
    with anyio.fail_after(5):
        async with SmtpChannel(settings(receiver.url)) as channel:
            assert (await channel.send(numbered())).kind is SENT
            receiver.set_mode("hang-quit")
    await until(lambda: receiver.open_connections() == 0)


async def test_cut_off_by_the_guard(receiver):
    """A connection on which an answer is still to come carries no other message."""
    late, next_one = numbered(), numbered()
    async with SmtpChannel(settings(receiver.url)) as channel:
        assert (await channel.send(numbered())).kind is SENT
        receiver.set_mode("hang")
        outcome = await hand_off(channel, late, 0.3)
        assert (outcome.kind, outcome.error) == (UNKNOWN, "TimeoutError")
        await until(lambda: receiver.open_connections() == 0)
        receiver.set_mode("ok")
        assert (await channel.send(next_one)).kind is SENT
    assert of(receiver, late) is None


async def test_error_of_the_block_is_passed_on(receiver):
    """What ends the worker is what it was, not something of the channel's."""

    async def work():
        async with open_channels({"email": settings(receiver.url)}) as channels:
            assert (await channels["email"].send(numbered())).kind is SENT
            raise KeyError

    with pytest.raises(KeyError):
        await work()


@pytest.mark.parametrize("tls", ["tls", "starttls"])
async def test_encrypted(tls, certificates, trusted, tmp_path):
    """With a certificate that is good the connection is encrypted, by itself where it is offered."""
    message = numbered()
    with smtp_receiver(tmp_path, **{tls: certificates["good"]}) as receiver:
        async with SmtpChannel(settings(receiver.url)) as channel:
            assert (await channel.send(message)).kind is SENT
            assert of(receiver, message)["encrypted"]
            receiver.set_mode("hang")
            assert (await hand_off(channel, numbered(), 0.3)).kind is UNKNOWN
            receiver.set_mode("ok")
            message = numbered()
            assert (await channel.send(message)).kind is SENT
            assert of(receiver, message)["encrypted"]


@pytest.mark.parametrize("tls", ["tls", "starttls"])
async def test_certificate_of_nobody_known(tls, certificates, tmp_path):
    """No message goes to a server that cannot prove who it is, however little was asked for."""
    with smtp_receiver(tmp_path, **{tls: certificates["good"]}) as receiver:
        outcome = await send_one(receiver.url)
        assert outcome.kind is CHANNEL_FAILED
        assert outcome.error.startswith("certificate not verified: ")
        assert receiver.messages() == []


@pytest.mark.parametrize("tls", ["tls", "starttls"])
async def test_certificate_of_another(tls, certificates, trusted, tmp_path):
    """A certificate must be that of the host in the URL."""
    with smtp_receiver(tmp_path, **{tls: certificates["of another"]}) as receiver:
        outcome = await send_one(receiver.url)
        assert outcome.kind is CHANNEL_FAILED
        assert receiver.messages() == []


async def test_starttls(receiver, certificates, tmp_path):
    """Encryption that is required must be offered; that is switched off is not asked for."""
    outcome = await send_one(f"{receiver.url}?starttls=required")
    assert outcome.kind is CHANNEL_FAILED
    assert "STARTTLS" in outcome.error
    credentials = receiver.url.replace("//", "//user:password@")
    assert (await send_one(credentials)).kind is CHANNEL_FAILED
    assert (await send_one(f"{receiver.url}?starttls=opportunistic")).kind is SENT
    message = numbered()
    with smtp_receiver(tmp_path, starttls=certificates["good"]) as other:
        assert (await send_one(f"{other.url}?starttls=off", message)).kind is SENT
        assert not of(other, message)["encrypted"]
        # Its credentials are for encrypted connections only.
        outcome = await send_one(other.url.replace("//", "//user:password@") + "?starttls=off")
        assert (outcome.kind, "log in" in outcome.error) == (CHANNEL_FAILED, True)


async def test_encryption_with_a_server_in_the_clear(receiver):
    """A server that speaks in the clear where encryption was meant is a wrong URL."""
    outcome = await send_one(receiver.url.replace("smtp:", "smtps:"))
    assert outcome.kind is CHANNEL_FAILED
    assert outcome.error.startswith("no TLS: ")


async def test_log_in(certificates, trusted, tmp_path):
    """User and password are those of the URL, percent-decoded; without them others are not let in."""
    message = numbered()
    auth = "users@example.com:p:ä/@%?#"
    with smtp_receiver(tmp_path, auth=auth, starttls=certificates["good"]) as receiver:
        _, _, address = receiver.url.rpartition("@")
        right = f"smtp://users%40example.com:p%3A%C3%A4%2F%40%25%3F%23@{address}"
        assert (await send_one(right, message)).kind is SENT
        found = of(receiver, message)
        assert (found["user"], found["encrypted"]) == ("users@example.com", True)
        outcome = await send_one(f"smtp://users%40example.com:wrong@{address}")
        assert (outcome.kind, outcome.error) == (CHANNEL_FAILED, "SMTP 535 5.7.8")
        assert (await send_one(f"smtp://{address}")).kind is CHANNEL_FAILED


async def test_host_that_does_not_exist():
    """A name that cannot be resolved now may be later."""
    outcome = await send_one("smtp://no-such-host.invalid")
    assert (outcome.kind, outcome.error) == (RETRY, "not connected: gaierror")


async def test_addresses_beyond_ascii(receiver, tmp_path):
    """A local part beyond ASCII takes a server that knows of such; else it is refused for good."""
    message = numbered(to="пётр@пример.example")
    assert (await send_one(receiver.url, message)).kind is SENT
    found = of(receiver, message)
    assert found["rcpt_tos"] == ["пётр@xn--e1afmkfd.example"]
    assert found["utf8"]
    with smtp_receiver(tmp_path, utf8=False) as old:
        async with SmtpChannel(settings(old.url)) as channel:
            outcome = await channel.send(numbered(to="пётр@example.com"))
            assert outcome.kind is REFUSED
            assert "SMTPUTF8" in outcome.error
            assert (await channel.send(numbered(to="petr@пример.example"))).kind is SENT


async def test_messages_that_are_none(receiver):
    """What can be no e-mail is refused without a word to the server."""
    async with SmtpChannel(settings(receiver.url)) as channel:
        for changes, error in (
            ({"from_": None}, "no sender"),
            ({"to": "+4915112345678"}, "to: expected"),
            ({"from_": "a@b.example\r\nBcc: c@d.example"}, "from: expected"),
            ({"body": "\ud800"}, "body: expected"),
        ):
            outcome = await channel.send(numbered(**changes))
            assert outcome.kind is REFUSED
            assert error in outcome.error
        assert receiver.open_connections() == 0


async def test_sender_and_unsubscribe_url_of_the_channel(receiver):
    """Who a message is from, and how to have no more, may be said for all of a channel's messages."""
    message = numbered(from_=None)
    changes = {"sender": "Zoë <z@example.org>", "unsubscribe_url": "https://example.org/{key}"}
    assert (await send_one(receiver.url, message, **changes)).kind is SENT
    found = of(receiver, message)
    assert found["mail_from"] == "z@example.org"
    assert f"<https://example.org/{message.key.replace('/', '%2F')}>".encode() in found["raw"]


@pytest.mark.parametrize("mode", ["ok", "550", "550-data", "cut", "hang", "auth-fail", "nonsense"])
async def test_nothing_is_told_to_others(receiver, mode, caplog):
    """No log line and no error has an address, a secret or a text in it."""
    caplog.set_level(logging.DEBUG)
    receiver.set_mode(mode)
    seen = []
    sink = logger.add(seen.append, level=0, diagnose=True, backtrace=True)
    url = receiver.url.replace("//", "//secretuser:secretword@") + "?starttls=off"
    message = numbered(subject="secretsubject", body="secretbody", to="secretada@example.com")
    try:
        async with SmtpChannel(settings(url, timeout_seconds=QUICK)) as channel:
            outcome = await hand_off(channel, message, LONG)
            shown = repr(channel._server)
    finally:
        logger.remove(sink)
    everything = "".join([*map(str, seen), caplog.text, str(outcome.error), shown])
    assert "secret" not in everything


WRONG_URLS = {
    "smtp:": "host",
    "smtp:localhost": "host",
    "smtp://": "host",
    "smtp://:25": "host",
    "smtp://user:secret@": "host",
    "smtp://user:secret@:25": "host",
    "smtp://ho st": "host",
    "smtp://-ü-.example": "host",
    "smtp://user:secret@host:0": "port",
    "smtp://user:secret@host:65536": "port",
    "smtp://user:secret@host:abc": "port",
    "smtp://user:sec/ret@host": "expected",
    "smtp://user:secret@host/path": "nothing after",
    "smtp://user:secret@host#x": "nothing after",
    "smtp://user:secret@[::1": "expected",
    "smtp://user@host": "user:password",
    "smtp://:secret@host": "user:password",
    "smtp://user:secret%FF@host": "percent-encoded",
    "smtp://user:secret%00@host": "percent-encoded",
    "smtp://user:secret@host?verify=off": "starttls",
    "smtp://user:secret@host?starttls=never": "required|opportunistic|off",
    "smtp://user:secret@host?starttls=off&starttls=off": "starttls",
    "smtps://user:secret@host?starttls=off": "smtps",
}


@pytest.mark.parametrize(("url", "expected"), WRONG_URLS.items())
def test_wrong_urls(url, expected):
    """A URL that cannot be meant is refused at once, in words that do not quote it."""
    with pytest.raises(ValueError, match="expected") as refused:
        make_channel(settings(url))
    assert expected in str(refused.value)
    assert "sec" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "host", "port", "starttls"),
    [
        ("smtp://host", "host", 587, "opportunistic"),
        ("smtp://host/", "host", 587, "opportunistic"),
        ("smtp://host:25?starttls=off", "host", 25, "off"),
        ("smtp://user:secret@host", "host", 587, "required"),
        ("smtp://user:secret@host?starttls=opportunistic", "host", 587, "opportunistic"),
        ("SMTPS://user:secret@Mail.Example.com", "mail.example.com", 465, "off"),
        ("smtps://[::1]:2465", "::1", 2465, "off"),
        ("smtp://straße.example", "xn--strae-oqa.example", 587, "opportunistic"),
    ],
)
def test_urls(url, host, port, starttls):
    """What a URL leaves out is what submission takes: 587, or 465; secrets only encrypted."""
    server = make_channel(settings(url))._server
    assert (server.host, server.port, server.starttls) == (host, port, starttls)
    assert server.implicit_tls == url.lower().startswith("smtps")
    assert "secret" not in repr(make_channel(settings(url)))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sender": "nobody"}, "CHANNEL_EMAIL_FROM: expected"),
        ({"sender": "a@b.example, c@d.example"}, "CHANNEL_EMAIL_FROM: expected"),
        ({"unsubscribe_url": "http://x.example/{key}"}, "CHANNEL_EMAIL_UNSUBSCRIBE_URL: expected"),
        ({"unsubscribe_url": "https://x.example/"}, "{key}"),
        ({"secret": "whsec_x"}, "has no SECRET"),
        ({"allow_private": True}, "has no ALLOW_PRIVATE"),
    ],
)
def test_wrong_settings(changes, expected):
    """What is wrong with a channel is said when a worker starts, under its variable's name."""
    with pytest.raises(ValueError, match=r"expected|has no") as refused:
        make_channel(settings("smtp://host", **changes))
    assert expected in str(refused.value)
