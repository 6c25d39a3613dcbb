"""Hostile content, end to end: what arrives is exactly what should, and no header more."""

import hashlib
import html
import json
import re
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from email.header import decode_header
from pathlib import Path

import anyio
import bson
import pytest
from attrs import define, field
from bson.raw_bson import RawBSONDocument

from schemas.ids import conversation_id
from tests.builders import recipient_document, template_document
from tests.receivers.running import http_receiver
from tests.receivers.running_smtp import smtp_receiver
from tests.world import world as make_world

PAGE = Path(__file__).parents[1] / "docs" / "channels.md"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
EVIL = "evil@example.com"
#: Nearly as long as a rendered text may be, and four bytes a character.
HUGE = "𝄞🎩" * 99_900
NAMES = {
    "plain": "Ada",
    "crlf": f"Ada\r\nBcc: {EVIL}\r\n\r\nanother body",
    "lf": f"Ada\nBcc: {EVIL}",
    "cr": f"Ada\rBcc: {EVIL}",
    "separators": f"Ada\u2028Bcc: {EVIL}\u2029\x85\x0b\x0c\x1c",
    "nul": "A\0da",
    "escapes": "\x1b[31mred\x07\x08",
    "right-to-left": "\u202eevil\u202c \u200f\u05d0\u05d1 \u2066a\u2069",
    "emoji": "👩‍👩‍👧‍👦 🎩 \U0001f1e9\U0001f1ea",
    "combining": "Zoe\u0308 \ufeff\u200bA" + "\u0301" * 40,
    "html": "<script>alert('x')</script> & \"quotes\" </p>",
    "encoded-word": f"=?utf-8?q?=0D=0ABcc:_{EVIL}?= =?utf-8?b?DQpCY2M6?=",
    "liquid": "{{ recipient.id }}{% assign x = 1 %}{{ campaign.metadata }}",
    "dots": ".\r\n.\r\nQUIT\r\n..two\r\n",
    "from-line": "\nFrom evil\n--=_boundary--\n\t folded",
    "list": f'Ada, {EVIL}; (comment) [x] : \\ \\"',
    "long": "word " * 300 + "x" * 400,
    "unbroken": "ß" * 1_500,
    "spaces": "  two  spaces \t tab  ",
    "noncharacters": "\ufffe\uffff\U0010ffff\ue000",
}
#: In names that an address follows, these make it two addresses or none: refused, not guessed at.
NO_SENDER = {"html"}
TEMPLATE = template_document(
    stages=[
        {
            "id": "intro",
            "message": {
                "subject": "Hi {{ recipient.name }}!",
                "body": "Dear {{ recipient.name }}\n{{ recipient.text }}",
                "html": '<p title="{{ recipient.name }}">{{ recipient.name }}</p>',
                "from": "{{ recipient.sender }} <team@example.com>",
                "reply_to": "{{ recipient.sender }} <help@example.com>",
            },
            "reply_within": "20d",
        }
    ]
)
TO_HTTP = {
    *("host", "user-agent", "content-type", "accept", "accept-encoding", "content-length"),
    *("idempotency-key", "webhook-id", "webhook-timestamp", "webhook-signature"),
}
TO_SMTP = [
    *("Date", "From", "To", "Reply-To", "Subject", "Message-ID", "X-Send-Key", "MIME-Version"),
    "Content-Type",
]


@define
class Tap:
    """Passes connections on to a port, and keeps every byte that goes there."""

    to: int
    port: int = 0
    connections: list = field(factory=list)

    async def serve(self, listener):
        """Serve until cancelled."""
        await listener.serve(self.passed_on)

    async def passed_on(self, near):
        """Pass one connection on, both ways, until one side ends it."""
        kept = bytearray()
        self.connections.append(kept)
        far = await anyio.connect_tcp("127.0.0.1", self.to)
        async with near, far, anyio.create_task_group() as tasks:
            tasks.start_soon(self.pump, far, near, bytearray(), tasks)
            tasks.start_soon(self.pump, near, far, kept, tasks)

    async def pump(self, source, target, kept, tasks):
        """Pass on what comes from one side; when it ends, so does the connection."""
        try:
            async for part in source:
                kept += part
                await target.send(part)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        tasks.cancel_scope.cancel()

    def requests(self):
        """Read all requests, as strictly as HTTP is written: header lines in order, and bodies."""
        found = []
        for kept in self.connections:
            rest = bytes(kept)
            while rest:
                head, _, rest = rest.partition(b"\r\n\r\n")
                first, *lines = head.split(b"\r\n")
                assert first == b"POST /messages HTTP/1.1"
                headers = [tuple(line.decode("ascii").split(": ", 1)) for line in lines]
                length = int({name.lower(): value for name, value in headers}["content-length"])
                found.append((headers, rest[:length]))
                rest = rest[length:]
        return found


@asynccontextmanager
async def tapped(port):
    """Run a tap in front of a port."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    tap = Tap(port, listener.extra(anyio.abc.SocketAttribute.local_port))
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(tap.serve, listener)
        yield tap
        tasks.cancel_scope.cancel()


def hostile(names):
    """Make a recipient for each name, with a text that is as large as it may be for one of them."""
    return [
        recipient_document(
            f"{case}\r\nX-Recipient: evil",
            address={"email": f"{case}@example.com"},
            attributes={
                "name": name,
                "sender": "Ada" if case in NO_SENDER else name,
                "text": HUGE if case == "plain" else name,
            },
        )
        for case, name in names.items()
    ]


def line(text):
    """Give a text as it may stand in a header: control characters and line ends are spaces."""
    return re.sub("[\0-\x1f\x7f-\x9f\u2028\u2029]+", " ", text).strip()


def body(case, name):
    """Give the text that a recipient is to read."""
    return f"Dear {name}\n{HUGE if case == 'plain' else name}"


def key_of(request, case):
    """Give the send key of a recipient's message."""
    return f"{conversation_id(request, f'{case}\r\nX-Recipient: evil')}/intro/0"


def verified():
    """Give the function that the page shows to receivers."""
    blocks = re.findall(
        r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    names = {}
    exec(compile(next(one for one in blocks if "def verified" in one), PAGE, "exec"), names)
    return names["verified"]


async def test_over_http(mongodb_uri, mongodb_client, database_name, tmp_path):
    """Each body is JSON with the texts as they are, under exactly the headers of the page."""
    with http_receiver(tmp_path) as receiver:
        async with tapped(receiver.port) as tap:
            settings = {
                "CHANNEL_EMAIL": f"http://127.0.0.1:{tap.port}/messages",
                "CHANNEL_EMAIL_ALLOW_PRIVATE": "1",
                "CHANNEL_EMAIL_SECRET": SECRET,
            }
            async with make_world(
                mongodb_uri, mongodb_client, database_name, tmp_path, **settings
            ) as world:
                answer = await world.submit(hostile(NAMES), template=TEMPLATE)
                assert answer["counts"] == {"recipients": len(NAMES), "rejected": 0}
                counts = world.campaign()["counts"]["by_status"]
                assert counts == {"awaiting_reply": len(NAMES)}
        requests = tap.requests()
    check = verified()
    told = {}
    for headers, content in requests:
        names = [name.lower() for name, _ in headers]
        assert len(names) == len(set(names))
        assert set(names) == TO_HTTP
        given = {name.lower(): value for name, value in headers}
        message = json.loads(content.decode("utf-8"))
        assert given["idempotency-key"] == given["webhook-id"] == message["key"]
        assert check(given, content, SECRET)
        assert not check(given, content + b" ", SECRET)
        told[message["key"]] = message
    digests = [hashlib.sha256(content).hexdigest() for _, content in requests]
    assert sorted(digests) == sorted(one["sha256"] for one in receiver.requests())
    assert len(requests) == len(told) == len(NAMES)
    for case, name in NAMES.items():
        message = told[key_of("r", case)]
        sender = "Ada" if case in NO_SENDER else name
        assert message["to"] == f"{case}@example.com"
        assert message["recipient_id"] == f"{case}\r\nX-Recipient: evil"
        assert message["subject"] == line(f"Hi {name}!"), case
        assert message["from"] == line(f"{sender} <team@example.com>"), case
        assert message["reply_to"] == line(f"{sender} <help@example.com>"), case
        assert message["body"] == body(case, name), case
        title, inner = re.fullmatch(r'<p title="([^"<>]*)">([^<>]*)</p>', message["html"]).groups()
        assert html.unescape(title) == html.unescape(inner) == expected_html(name), case


def expected_html(name):
    """Give what a browser makes of a value; it has no NUL, and reads CR as a line end."""
    return html.unescape(html.escape(name))


async def test_over_smtp(mongodb_uri, mongodb_client, database_name, tmp_path):
    """Each letter parses back to the texts, with exactly its headers and exactly one recipient."""
    with smtp_receiver(tmp_path) as receiver:
        settings = {"CHANNEL_EMAIL": receiver.url, "CHANNEL_TIMEOUT_SECONDS": "10"}
        async with make_world(
            mongodb_uri, mongodb_client, database_name, tmp_path, **settings
        ) as world:
            answer = await world.submit(hostile(NAMES), template=TEMPLATE)
            assert answer["counts"] == {"recipients": len(NAMES), "rejected": 0}
            errors = world.database.conversations.distinct("last_error")
            assert errors == [None]
        letters = {letter["key"]: letter for letter in receiver.messages()}
    assert len(receiver.messages()) == len(letters) == len(NAMES)
    for case, name in NAMES.items():
        letter = letters[key_of("r", case)]
        assert letter["rcpt_tos"] == [f"{case}@example.com"]
        assert letter["mail_from"] == "team@example.com"
        assert EVIL not in letter["rcpt_tos"]
        check_letter(letter["raw"], case, name)


def check_letter(raw, case, name):
    """Read a letter's bytes back."""
    head, _, _ = raw.partition(b"\r\n\r\n")
    assert all(len(one) <= 998 for one in raw.split(b"\r\n")), case
    assert raw.isascii()
    assert b"\n" not in raw.replace(b"\r\n", b"")
    assert b"\r" not in raw.replace(b"\r\n", b"")
    assert not re.search(rb"(?im)^(bcc|x-recipient|x-evil)", head)
    parsed = message_from_bytes(raw, policy=policy.compat32)
    assert parsed.keys() == TO_SMTP, case
    assert not parsed.defects
    sender = "Ada" if case in NO_SENDER else name
    assert decoded(parsed["Subject"]) == line(f"Hi {name}!"), case
    for header, address in (("From", "team@example.com"), ("Reply-To", "help@example.com")):
        words, _, mailbox = parsed[header].rpartition("<")
        assert mailbox == f"{address}>"
        assert unquoted(decoded(words)) == line(sender), case
    text, page = parsed.get_payload()
    assert [text.get_content_type(), page.get_content_type()] == ["text/plain", "text/html"]
    assert read(text) == ended(body(case, name)), case
    inner = re.fullmatch(r'<p title="[^"<>]*">([^<>]*)</p>\r\n', read(page))[1]
    assert html.unescape(inner) == re.sub(r"\r\n|\r|\n", "\r\n", expected_html(name)), case


def decoded(value):
    """Decode the encoded words of a header's value, unfolded."""
    unfolded = re.sub(r"\r\n(?=[ \t])", "", value).strip()
    return "".join(
        part.decode(charset or "ascii") if isinstance(part, bytes) else part
        for part, charset in decode_header(unfolded)
    )


def unquoted(name):
    """Take a name out of its quotes, if it stands in any."""
    name = name.strip()
    found = re.fullmatch(r'"((?:[^"\\]|\\.)*)"', name)
    return re.sub(r"\\(.)", r"\1", found[1]) if found else name


def read(part):
    """Give the text of a part."""
    return part.get_payload(decode=True).decode("utf-8")


def ended(text):
    """Give a text with the line ends of mail, the last one included."""
    lines = re.sub(r"\r\n|\r|\n", "\r\n", text)
    return lines.removesuffix("\r\n") + "\r\n"


@pytest.mark.parametrize("kind", ["HTTP", "SMTP"])
async def test_what_the_agent_writes(kind, mongodb_uri, mongodb_client, database_name, tmp_path):
    """A `send` is no template: it leaves as it stands, but a header of it is a line even so."""
    subject, text = f"Hi\r\nBcc: {EVIL}\0", "{{ recipient.id }}\r\n.\r\n<b>\0</b>"
    plain = template_document(
        stages=[{"id": "intro", "message": {"body": "Hello"}, "reply_within": "20d"}]
    )
    running = http_receiver(tmp_path) if kind == "HTTP" else smtp_receiver(tmp_path)
    with running as receiver:
        async with tapped(receiver.port) as tap:
            url = f"{kind.lower()}://127.0.0.1:{tap.port}"
            settings = (
                {"CHANNEL_EMAIL": f"{url}/messages", "CHANNEL_EMAIL_ALLOW_PRIVATE": "1"}
                if kind == "HTTP"
                else {"CHANNEL_EMAIL": url, "CHANNEL_EMAIL_FROM": "team@example.com"}
            )
            async with make_world(
                mongodb_uri, mongodb_client, database_name, tmp_path, **settings
            ) as world:
                await world.submit(1, template=plain)
                written = {"subject": subject, "body": text, "html": f"<i>{text}</i>"}
                answer = await world.tell("send", message=written)
                assert answer["status"] == "applied"
                assert [one["status"] for one in world.messages()] == ["sent", "sent"]
        if kind == "HTTP":
            message = json.loads(tap.requests()[-1][1])
            assert {name: message[name] for name in written} == written
            return
        raw = receiver.messages()[-1]["raw"]
        parsed = message_from_bytes(raw, policy=policy.compat32)
        assert "Bcc" not in parsed
        assert decoded(parsed["Subject"]) == line(subject)
        assert [read(part) for part in parsed.get_payload()] == [
            ended(text),
            ended(f"<i>{text}</i>"),
        ]


def surrogate(document):
    """Put half a surrogate pair where BREAK stands, as some drivers write it: it is not UTF-8."""
    return RawBSONDocument(bson.encode(document).replace(b"BREAK", b"\xed\xa0\xbd!!"))


async def test_half_a_surrogate(mongodb_uri, mongodb_client, database_name, tmp_path):
    """The server takes it and no message does: its recipient or its template is a problem."""
    async with make_world(mongodb_uri, mongodb_client, database_name, tmp_path) as world:
        people = [recipient_document(f"r{number}") for number in range(3)]
        people[1]["attributes"]["first_name"] = "BREAK"
        raw = [
            surrogate({"_id": number, "batch_request_id": "r", **one})
            for number, one in enumerate(people)
        ]
        world.database.batch_recipients.insert_many(raw)
        answer = await world.submit(
            recipients=None, recipients_from="batch_recipients", recipient_count=3
        )
        assert answer["counts"] == {"recipients": 3, "rejected": 1}
        assert {one["recipient_id"] for one in world.handed_off()} == {"r0", "r2"}
        # What a filter would make of its bytes is a whole character.
        text = "{{ '%ED%A0%BD%00' | url_decode }}"
        decoding = template_document(stages=[{"id": "intro", "message": {"body": text}}])
        world.request = "decoding"
        await world.submit(1, template=decoding)
        bodies = [one["body"] for one in world.handed_off()[2:]]
        assert all(one.encode() and "\ud83d" not in one for one in bodies)


@pytest.mark.parametrize(
    "address",
    [
        f"ada@example.com\r\nBcc: {EVIL}",
        f"ada@example.com, {EVIL}",
        f"Ada <{EVIL}>",
        "ada\0@example.com",
        "ada@exam\u202eple.com",
        "<ada@example.com>",
    ],
    ids=["crlf", "two", "named", "nul", "right-to-left", "in brackets"],
)
async def test_no_address_is_two(address, mongodb_uri, mongodb_client, database_name, tmp_path):
    """What is not one plain address is a rejected recipient, and nothing is handed off."""
    async with make_world(mongodb_uri, mongodb_client, database_name, tmp_path) as world:
        people = [recipient_document("r0", address={"email": address}), recipient_document("r1")]
        answer = await world.submit(people)
        assert answer["counts"] == {"recipients": 2, "rejected": 1}
        assert [one["to"] for one in world.handed_off()] == ["r1@example.com"]


async def test_a_sender_that_is_two_is_none(mongodb_uri, mongodb_client, database_name, tmp_path):
    """A name with an address in it makes no second sender: refused, and the error quotes nothing."""
    names = {"named": f"Ada <{EVIL}>", "opened": "Ada <", "tagged": NAMES["html"]}
    people = hostile(names)
    for person in people:
        person["attributes"]["sender"] = person["attributes"]["name"]
    with smtp_receiver(tmp_path) as receiver:
        async with make_world(
            mongodb_uri, mongodb_client, database_name, tmp_path, CHANNEL_EMAIL=receiver.url
        ) as world:
            await world.submit(people, template=TEMPLATE)
            counts = world.campaign()["counts"]["by_exit_reason"]
            assert counts == {"failed_permanent": len(names)}
            (error,) = world.database.conversations.distinct("last_error")
            assert error == "from: expected name@example.com or Name <name@example.com>"
        assert receiver.messages() == []


def test_the_page_names_the_headers():
    """Those of an HTTP hand-off, as they were read back from the wire; `Authorization` is for some."""
    text = PAGE.read_text(encoding="utf-8")
    table = re.search(r"^\| header \| value \|\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)[1]
    cells = [row.split(" | ")[0] for row in table.splitlines()]
    named = {name.lower() for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    assert named == TO_HTTP | {"authorization"}
