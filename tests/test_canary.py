"""
Canaries: secrets and content are planted everywhere, everything fails, and nothing sings.

A real worker in a process of its own, with LOG_LEVEL=TRACE and a real OpenTelemetry receiver; what it
and the commands say is searched for what nobody may say.
"""

import base64
import json
import os
import secrets
import signal
import socket
import sys
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

import anyio
import pytest
import trustme
from attrs import frozen
from click.testing import CliRunner
from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings
from pymongo.errors import OperationFailure

from reactor.cli.commands import reactor as commands
from schemas.documents import CODEC
from tests.builders import batch_request_document, template_document
from tests.receivers.running import http_receiver
from tests.receivers.running_smtp import smtp_receiver
from tests.test_hostile_content import tapped

ROOT = Path(__file__).parents[1]
#: In every canary, whatever it is for.
SONG = f"canary{secrets.token_hex(4)}"
KEY = base64.b64encode(f"{SONG}-secret-of-a-channel".encode()).decode()
#: What nobody may say.
SONGS = (SONG, KEY, base64.b64encode(f"{SONG}user:{SONG}password".encode()).decode())
USER = f"{SONG}user:{SONG}password"
#: `reactor`, with channels in its table that fail as no channel should.
PROGRAM = """
import sys
from attrs import frozen
from reactor.__main__ import main
from reactor.channels.log import LogChannel
from reactor.channels.registry import CHANNELS
from reactor.channels.settings import ChannelSettings


@frozen
class Broken(LogChannel):
    settings: ChannelSettings

    def __attrs_post_init__(self):
        pass

    async def send(self, hand_off):
        told = f"{hand_off.to} {hand_off.subject} {hand_off.body} {self.settings.url}"
        try:
            {}[told]
        except KeyError as error:
            raise ExceptionGroup(told, [ValueError(told), RuntimeError(told)]) from error


CHANNELS["broken"] = Broken
main()
"""
TEXT = f"Dear {{{{ recipient.first_name }}}}, {SONG}literal"
MESSAGE = {
    "subject": f"{SONG}subject {{{{ recipient.first_name }}}}",
    "body": TEXT,
    "html": f"<p>{TEXT}</p>",
    "from": f"{{{{ recipient.first_name }}}} <{SONG}from@example.com>",
    "reply_to": f"{SONG}reply@example.com",
}
#: A text that nobody's attributes can be put into.
WRONG = {**MESSAGE, "body": "{{ recipient.first_name | divided_by: recipient.nothing }}"}

COMMANDS = [
    ["config"],
    ["check"],
    ["status"],
    ["status", "--json"],
    ["status", "auth"],
    ["status", "unrenderable"],
    ["unknown", "list"],
    ["dead", "list"],
]

#: Where content may stand: collection, and the beginning of the path.
ALLOWED = {
    "batch_requests": ("template", "recipients", "metadata"),
    "campaigns": ("template", "metadata"),
    "conversations": ("recipient", "address_keys", "reply", "slot.text", "slot.reply", "unsent"),
    "messages": ("subject", "body", "html", "to", "address"),
    "conversation_updates": ("text", "message"),
    "suppressions": ("_id",),
}
#: By channel: what its conversation says in the end.
ENDS = {
    "ok": ("awaiting_reply", None),
    "auth": ("pending", "HTTP 401"),
    "denied": ("failed", "HTTP 404"),
    "failing": ("pending", "HTTP 500"),
    "hanging": ("pending", "ReadTimeout"),
    "cutting": ("pending", "RemoteProtocolError"),
    "refusing": ("pending", "ConnectError"),
    "untrusted": ("pending", "CertificateError"),
    "plaintext": ("pending", "HandshakeError"),
    "nameless": ("pending", "HostUnknownError"),
    "mail_ok": ("awaiting_reply", None),
    "mail_auth": ("pending", "SMTP 535 5.7.8"),
    "mail_denied": ("failed", "SMTP 550 5.1.1"),
    "mail_later": ("pending", "SMTP 451 4.7.1"),
    "mail_cutting": ("pending", "connection lost while waiting for the answer to the message"),
    "mail_untrusted": (
        "pending",
        "certificate not verified: unable to get local issuer certificate",
    ),
    "mail_refusing": ("pending", "not connected: ECONNREFUSED"),
    "mail_nameless": ("pending", "not connected: gaierror"),
    "broken": ("pending", "ExceptionGroup"),
    "unrenderable": ("failed", "'divided_by' cannot use what it is given (line 1, column 27)"),
}


def environment(channels):
    """Give the variables of these channels."""
    made = {}
    for name, url in channels.items():
        owner = f"CHANNEL_{name.upper()}"
        made |= {owner: url, f"{owner}_ADDRESS": "email"}
        if url.startswith("http"):
            made |= {f"{owner}_ALLOW_PRIVATE": "1", f"{owner}_SECRET": f"whsec_{KEY}"}
    return made


def nobody_listens():
    """Give a port that refuses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def providers(tmp_path_factory):
    """Give the environment's channels: each of them fails in a way of its own."""
    path = tmp_path_factory.mktemp("canary")
    issued = trustme.CA().issue_cert("127.0.0.1")
    certificate, key, both = path / "cert.pem", path / "key.pem", path / "both.pem"
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    issued.private_key_and_cert_chain_pem.write_to_path(both)
    modes = {"auth": "401", "denied": "404", "failing": "500", "hanging": "hang", "cutting": "cut"}
    with ExitStack() as stack:

        def directory(name):
            (path / name).mkdir()
            return path / name

        def smtp(name, mode, **options):
            running = smtp_receiver(directory(name), mode, auth=USER, **options)
            return stack.enter_context(running)

        web = stack.enter_context(
            http_receiver(directory("web"), {"default": "ok", "by_recipient": modes})
        )
        tls = stack.enter_context(
            http_receiver(directory("tls"), scheme="https", arguments=("--tls", str(both)))
        )
        mail = smtp("ok", "ok")
        at = f"{USER}@127.0.0.1"
        query = f"token={SONG}query"
        channels = dict.fromkeys(("ok", *modes), f"http://{at}:{web.port}/messages?{query}") | {
            "refusing": f"http://{at}:{nobody_listens()}/?{query}",
            "untrusted": f"https://{at}:{tls.port}/messages?{query}",
            "plaintext": f"https://{at}:{mail.port}/messages?{query}",
            "nameless": f"https://{USER}@nobody.invalid/?{query}",
            "mail_auth": f"{smtp('auth', 'auth-fail').url}?starttls=off",
            "mail_denied": f"{smtp('denied', '550').url}?starttls=off",
            "mail_later": f"{smtp('later', 'greylist').url}?starttls=off",
            "mail_cutting": f"{smtp('cutting', 'cut').url}?starttls=off",
            "mail_ok": f"{mail.url}?starttls=off",
            "mail_untrusted": smtp("untrusted", "ok", starttls=(certificate, key)).url,
            "mail_refusing": f"smtp://{at}:{nobody_listens()}?starttls=off",
            "mail_nameless": f"smtps://{USER}@nobody.invalid",
            "broken": f"broken://{USER}@nowhere?{query}",
            "unrenderable": f"http://{at}:{web.port}/messages?{query}",
        }
        yield environment(channels)


@pytest.fixture
def known(mongodb_uri, mongodb_client):
    """Give the URI with a user and a password of our own, where that can be had."""
    user, password = f"{SONG}user", f"{SONG}password"
    if "@" in mongodb_uri:
        yield mongodb_uri
        return
    admin = mongodb_client.admin
    with suppress(OperationFailure):
        admin.command("dropUser", user)
    admin.command("createUser", user, pwd=password, roles=["root"])
    try:
        yield f"{mongodb_uri.replace('://', f'://{user}:{password}@')}&authSource=admin"
    finally:
        admin.command("dropUser", user)


def request_of(channel):
    """Make the request of one channel; beside the recipient there is one whose address is none."""
    message = WRONG if channel == "unrenderable" else MESSAGE
    recipient = {
        "id": channel,
        "address": {"email": f"{SONG}{channel}@example.com"},
        "attributes": {"first_name": f"{SONG}first", "nothing": 0},
    }
    invalid = recipient | {"id": "invalid", "address": {"email": f"{SONG} is no address"}}
    stages = [{"id": "intro", "message": message, "on_reply": [{"then": "stay"}]}]
    return batch_request_document(
        [recipient, invalid],
        _id=channel,
        name=channel,
        type=channel,
        metadata={"note": f"{SONG}metadata"},
        template=template_document(channel=channel, stages=stages),
    )


def silent(told, where):
    """Nothing that was told has a canary in it."""
    for song in SONGS:
        place = told.find(song)
        assert place < 0, f"{where}: …{told[max(0, place - 200) : place + 80]}…"


def sung(value, path=""):
    """Give the paths of all canaries in a document."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from sung(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for inner in value:
            yield from sung(inner, path)
    elif any(song in str(value) for song in SONGS):
        yield path


def only_where_allowed(database):
    """No document has a canary but where its content is kept."""
    for collection in database.list_collection_names():
        for document in database[collection].find():
            for path in sung(document):
                known = [f"{path}.".startswith(f"{one}.") for one in ALLOWED.get(collection, ())]
                assert any(known), f"{collection}: {path} of {document['_id']}"


@frozen
class Process:
    """A command of `reactor` in a process of its own, and what it says."""

    environ: dict
    directory: object

    async def working(self, until):
        """Run a worker until something has come true, then stop it; give all that it says."""
        stderr = self.directory / "stderr"
        with stderr.open("wb") as file:
            process = await anyio.open_process(
                [sys.executable, "-c", PROGRAM, "run"], env=self.environ, stdout=file, stderr=file
            )
            async with process:
                try:
                    await until()
                    process.send_signal(signal.SIGTERM)
                    with anyio.fail_after(30):
                        assert await process.wait() == 0
                finally:
                    if process.returncode is None:
                        process.kill()
        return stderr.read_text(encoding="utf-8")


def process_of(known, database_name, directory, **more):
    """Give a process's environment: nothing of this one's but what Python and coverage need."""
    kept = {name: os.environ[name] for name in os.environ if name.startswith(("PATH", "COVERAGE"))}
    environ = {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), *sys.path))),
        "MONGODB_URI": known,
        "MONGODB_DB": database_name,
        "HEARTBEAT_FILE": str(directory / "heartbeat"),
        "LOG_LEVEL": "TRACE",
        "CHANNEL_TIMEOUT_SECONDS": "2",
        "POLLING_INTERVAL_SECONDS": "1",
    }
    return Process(environ=kept | environ | more, directory=directory)


async def comes(what, expected, seconds=40):
    """Wait until something is as expected."""
    with anyio.move_on_after(seconds):
        while what() != expected:  # noqa: ASYNC110 - a database, no event
            await anyio.sleep(0.05)
    assert what() == expected


#: Where the network has no name server, no answer comes in time.
NO_NAMES = {
    "ConnectTimeout": "HostUnknownError",
    "time-out while connecting": "not connected: gaierror",
}


def ends_of(database):
    """Give what the conversation of each channel says now."""
    ends = {}
    for one in database.conversations.find({"recipient.id": {"$in": list(ENDS)}}):
        channel, error = one["recipient"]["id"], one["last_error"]
        error = NO_NAMES.get(error, error) if channel.endswith("nameless") else error
        ends[channel] = (one["status"], error)
    return ends


@pytest.mark.parametrize("log_format", ["json", "text"])
async def test_nothing_sings(
    log_format, known, providers, mongodb_client, database_name, tmp_path, free_tcp_port
):
    """No log line, span, metric, error or command tells a secret, a text, a name or an address."""
    database = mongodb_client.get_database(database_name, codec_options=CODEC)
    settings = OtelTapHttpProtobufReceiverSettings(http_port=free_tcp_port)
    async with OtelTapHttpProtobufReceiver(settings) as collector, tapped(free_tcp_port) as tap:
        process = process_of(
            known,
            database_name,
            tmp_path,
            **providers,
            LOG_FORMAT=log_format,
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{tap.port}",
            OTEL_BSP_SCHEDULE_DELAY="100",
            OTEL_METRIC_EXPORT_INTERVAL="200",
        )

        async def until():
            database.batch_requests.insert_many([request_of(channel) for channel in ENDS])
            await comes(lambda: ends_of(database), ENDS)
            database.conversation_updates.insert_many(updates())
            done = {"status": {"$exists": True}}
            await comes(lambda: database.conversation_updates.count_documents(done), 4)
            await collector.await_trace(lambda one: one.name == "hand_off", 30)
            await collector.await_metric(lambda one: one.name == "reactor.sends", 30)

        log = await process.working(until)
        told = b"".join(bytes(each) for each in tap.connections)
    silent(log, "the worker's log")
    silent(told.decode("latin-1"), "what OpenTelemetry was told")
    assert "A channel has failed: its circuit is open" in log
    assert "A channel failed in a way it should not" in log
    assert b"hand_off" in told
    only_where_allowed(database)
    kept = Counter(path for one in database.messages.find() for path in sung(one))
    assert {"subject", "body", "html", "to"} <= kept.keys()  # canaries can be found
    if log_format == "json":
        # The first line is for whoever has started it by hand.
        assert all(json.loads(line) for line in log.splitlines()[1:])
        await anyio.to_thread.run_sync(commands_are_silent, process.environ)


def updates():
    """Make updates with content: a reply, the agent's own text, an opt-out, one that is malformed."""
    ok = {"batch_request_id": "ok", "recipient_id": "ok"}
    return [
        {"_id": "reply", **ok, "kind": "reply", "text": f"{SONG}reply"},
        {"_id": "send", **ok, "kind": "send", "message": {"body": f"{SONG}written"}},
        {"_id": "out", "batch_request_id": "auth", "recipient_id": "auth", "kind": "opted_out"},
        {"_id": "malformed", **ok, "kind": "send", "message": {"html": f"{SONG}html"}},
    ]


def commands_are_silent(environ):
    """What commands print about all this is as silent as the worker."""
    known = {name: text for name, text in environ.items() if not name.startswith("CHANNEL_BROKEN")}
    for words in COMMANDS:
        result = CliRunner().invoke(commands, words, env=known)
        assert result.exit_code == 0, result.output
        assert result.output
        silent(result.output, " ".join(words))
        if words == ["config"]:
            assert "***" in result.output


WRONG_SETTINGS = {
    "a password that is wrong": {"MONGODB_URI": f"mongodb://{USER}wrong@HOST&authSource=admin"},
    "a user without a host": {"MONGODB_URI": f"mongodb://{USER}@"},
    "a password with a question mark": {"MONGODB_URI": f"mongodb://{USER}?x@HOST"},
    "a password with a slash": {"MONGODB_URI": f"mongodb://{USER}/slash@HOST"},
    "an unknown scheme": {"CHANNEL_EMAIL": f"htps://{USER}@example.com/?{SONG}"},
    "no scheme": {"CHANNEL_EMAIL": f"//{USER}@example.com/?{SONG}"},
    "SMTP with a slash": {"CHANNEL_EMAIL": f"smtp://{USER}/slash@example.com"},
    "SMTP without a host": {"CHANNEL_EMAIL": f"smtp://{USER}@"},
    "SMTP with a port that is none": {"CHANNEL_EMAIL": f"smtp://{USER}@example.com:port"},
    "HTTP with a port that is none": {"CHANNEL_EMAIL": f"https://{USER}@example.com:port/"},
    "HTTP with a fragment": {"CHANNEL_EMAIL": f"https://{USER}#x@example.com/"},
    "HTTP to a private address": {"CHANNEL_EMAIL": f"https://{USER}@127.0.0.1/?{SONG}"},
    "a secret that is none": {
        "CHANNEL_EMAIL": "https://example.com/",
        "CHANNEL_EMAIL_SECRET": f"{SONG}secret",
    },
    "a secret of what has none": {"CHANNEL_EMAIL": "log:", "CHANNEL_EMAIL_SECRET": f"whsec_{KEY}"},
    "a secret of nothing": {"CHANNEL_OTHER_SECRET": f"whsec_{KEY}"},
}


@pytest.mark.parametrize("wrong", WRONG_SETTINGS)
def test_wrong_settings_do_not_sing(wrong, mongodb_uri):
    """Whoever misspells a setting with a secret in it is told so, and not the secret."""
    host = mongodb_uri.partition("://")[2].rpartition("@")[2]
    environ = {"MONGODB_URI": mongodb_uri, "CHANNEL_EMAIL": "log:", **WRONG_SETTINGS[wrong]}
    environ["MONGODB_URI"] = environ["MONGODB_URI"].replace("HOST", host)
    for command in ("check", "config", "run"):
        result = CliRunner().invoke(commands, [command], env=environ)
        assert result.output
        silent(result.output, command)
        silent(repr(result.exception), command)
        assert result.exit_code or command == "config"
