import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.utils import parseaddr

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from reactor.channels.mime import LetterError, mailbox, unsubscribe_template, write_letter
from schemas.hand_off import HandOff

KEY = f"{'c' * 43}/intro/0"
MESSAGE = HandOff(
    key=KEY,
    campaign_id="campaign",
    conversation_id="conversation",
    recipient_id="r1",
    channel="email",
    to="ada@example.com",
    subject="Your renewal",
    body="Hello Ada,\n\nhow are you?\n",
    html=None,
    from_="Team <team@example.com>",
    reply_to=None,
    locale="de",
    in_reply_to=None,
    send_before=None,
    at=datetime(2026, 1, 2, 1, 0, 0, 5000, tzinfo=timezone(timedelta(hours=1))),
)
ALWAYS = [
    *("Date", "From", "To", "Subject", "Message-ID", "X-Send-Key", "MIME-Version"),
    *("Content-Type", "Content-Transfer-Encoding"),
]
NAMES = [
    *("Zoë Müller", "Ольга Петрова", "Γιώργος", "遥 山田", "김민준", "ليلى", "נועם", "अनन्या"),
    *(
        "สมชาย",
        "Ada 👩‍👩‍👧‍👦 🏳️‍🌈",
        "Nguyễn Thị Minh Khai",
        "O'Hara",
        "Smith, Ada",
        'The "Boss"',
        "Dr. Ada",
    ),
    *("a@b.example", "Ada (Team)", "back\\slash", "=?utf-8?q?evil?=", "می‌خواهم", "x" * 2000),
]
INJECTIONS = [
    "\r\nBcc: eve@example.com",
    "\nBcc: eve@example.com",
    "\rBcc: eve@example.com",
    "\r\n\r\nAnother body",
    "\x00Bcc: eve@example.com",
    "\x0bBcc: eve@example.com",
    "\x0c\x1c\x1d\x1eBcc: eve@example.com",
    "\x85Bcc: eve@example.com",
    "\u2028Bcc: eve@example.com",
    "\u2029Bcc: eve@example.com",
    "=?utf-8?q?=0D=0ABcc=3A_eve=40example.com?=",
    "=?utf-8?b?DQpCY2M6IGV2ZUBleGFtcGxlLmNvbQ==?=",
]


def letter(sender=None, unsubscribe=None, **changes):
    """Write the e-mail of a message that differs from MESSAGE in these."""
    return write_letter(evolve(MESSAGE, **changes), sender, unsubscribe)


def parsed(written):
    """Read it as a recipient does; fails if there is anything odd in it."""
    message = message_from_bytes(written.content, policy=policy.SMTP)
    for part in message.walk():
        assert not part.defects
        assert not [value.defects for value in part.values() if value.defects]
    assert written.content.count(b"\n") == written.content.count(b"\r\n")
    assert max(map(len, written.content.splitlines())) <= 998
    return message


def box_of(written, header):
    """
    Give the name and the address of a header.

    By the old parser: of a name in several encoded words the new one makes several names.
    """
    name, address = parseaddr(message_from_bytes(written.content)[header])
    return str(make_header(decode_header(name))), address


def text_of(message, kind="plain"):
    """Give a text as it arrived, with the line ends of this machine."""
    part = message.get_body((kind,))
    return part.get_payload(decode=True).decode().replace("\r\n", "\n")


def test_plain_message():
    """A message of ASCII is an e-mail that anybody could read without a program."""
    content = letter(body="Hello Ada,\n\nhow are you?\n").content.decode()
    assert content.split("\r\n") == [
        "Date: Fri, 02 Jan 2026 00:00:00 +0000",
        "From: Team <team@example.com>",
        "To: ada@example.com",
        "Subject: Your renewal",
        "Message-ID: <7HmnSHFAoUU7ub2-tjysX4J-nY-GHmI2n4MayTCzIjA@example.com>",
        f"X-Send-Key: {KEY}",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: quoted-printable",
        *("", "Hello Ada,", "", "how are you?", ""),
    ]


def test_text_and_html():
    """With HTML there are two versions of one message, the better last."""
    message = parsed(letter(body="Grüße\n", html="<p>Grüße</p>\n"))
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert text_of(message) == "Grüße\n"
    assert text_of(message, "html") == "<p>Grüße</p>\n"


def test_same_hand_off_same_bytes():
    """Whoever takes a message over sends the same to the byte; another key is another message."""
    first = letter(html="<p>x</p>")
    assert letter(html="<p>x</p>") == first
    other = letter(html="<p>x</p>", key=f"{KEY[:-1]}1")
    assert other.message_id != first.message_id


SCRIPT = """
import sys
from tests.test_mime import INJECTIONS, NAMES, letter
for name in NAMES:
    sys.stdout.buffer.write(letter(subject=name, html=name, from_=f"{name} <a@münchen.example>",
        in_reply_to="c/intro/1", unsubscribe="https://example.com/{key}").content)
"""


def test_same_bytes_in_every_process():
    """Nothing of it depends on the process, its hashes or its zone."""
    runs = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={
                **os.environ,
                "PYTHONHASHSEED": seed,
                "TZ": zone,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
            check=True,
            stdout=subprocess.PIPE,
        ).stdout
        for seed, zone in (("1", "UTC"), ("2", "Asia/Tokyo"))
    }
    assert len(runs) == 1
    assert len(runs.pop()) > 10_000


@pytest.mark.parametrize("name", NAMES)
def test_names_and_subjects_of_every_alphabet(name):
    """A name and a subject arrive as they were written, whatever the alphabet."""
    boxes = {"from_": f"{name} <team@example.com>", "reply_to": f"{name}<r@b.example>"}
    written = letter(subject=name, **boxes)
    assert parsed(written)["Subject"] == name
    assert box_of(written, "From") == (name, "team@example.com")
    assert box_of(written, "Reply-To") == (name, "r@b.example")


@pytest.mark.parametrize("injection", INJECTIONS)
@pytest.mark.parametrize("field", ["subject", "from_", "reply_to", "to", "body", "html"])
def test_no_header_is_injected(field, injection):
    """Whatever stands in a field, the headers are exactly those expected, or there is no message."""
    value = {
        "subject": f"Hello{injection}",
        "from_": f"Team{injection} <team@example.com>",
        "reply_to": f"Team{injection} <team@example.com>",
        "to": f"ada@example.com{injection}",
        "body": f"Hello{injection}",
        "html": f"Hello{injection}",
    }[field]
    if field == "to" or (field in {"from_", "reply_to"} and "=?" not in injection):
        with pytest.raises(LetterError) as refused:
            letter(**{field: value})
        assert "Bcc" not in str(refused.value)
        return
    expected = [each for each in ALWAYS if field != "html" or each != "Content-Transfer-Encoding"]
    if field == "reply_to":
        expected.insert(3, "Reply-To")
    message = parsed(letter(**{field: value}))
    assert list(message) == expected
    assert "Bcc" not in message
    if "=?" in injection and field == "subject":
        assert message["Subject"].startswith("Hello=?utf-8?")


@pytest.mark.parametrize(
    "address",
    [
        *(
            "",
            "   ",
            "ada",
            "@example.com",
            "ada@",
            "ada@@example.com",
            "=?utf-8?q?ada?=@example.com",
            "ada example@example.com",
        ),
        *("<ada@example.com", "ada@example.com>", "A <ada@example.com> <eve@example.com>"),
        *("ada@example.com, eve@example.com", "A <ada@example.com>, E <eve@example.com>"),
        *("ada@example.com;", '"ada b"@example.com', "ada@[127.0.0.1]", "ada@exa mple.com"),
        *("ada@.example.com", "ada@example..com", "ada@example.com.", "ada@-.com SIZE=1"),
        *(
            "a\u202eda@example.com",
            "a\u200bda@example.com",
            "a\ud800da@example.com",
            "ad\ta@example.com",
        ),
        *(f"{'a' * 65}@example.com", f"ada@{'a' * 256}.com", "ada@\u2488com.\ufffd"),
        *(f"{'x' * 2001} <ada@example.com>", "+4915112345678"),
    ],
)
def test_addresses_that_are_none(address):
    """What is not exactly one address is refused, in words that do not quote it."""
    for field in ("from_", "reply_to", "to"):
        if not address and field != "to":
            continue  # it is as if there were none
        with pytest.raises(LetterError) as refused:
            letter(**{field: address})
        assert "expected" in str(refused.value)
        assert "ada" not in str(refused.value)


def test_domains_beyond_ascii():
    """A domain has a spelling in ASCII, in which ß is no ss; a local part has none."""
    written = letter(to="ada@straße.example", from_="a@ドメイン.example")
    assert (written.to, written.sender) == (
        "ada@xn--strae-oqa.example",
        "a@xn--eckwd4c7c.example",
    )
    assert not written.needs_utf8
    assert parsed(written)["To"] == written.to
    local = letter(to="пётр@example.com")
    assert local.needs_utf8
    assert "To: пётр@example.com\r\n".encode() in local.content
    assert letter(reply_to="пётр@example.com").needs_utf8


def test_sender():
    """The template's sender goes before the channel's, and without any there is no message."""
    team = mailbox("Channel <channel@example.org>", "FROM")
    assert letter(team).sender == "team@example.com"
    written = letter(team, from_=None)
    assert written.sender == "channel@example.org"
    assert written.message_id.endswith("@example.org>")
    with pytest.raises(LetterError, match="no sender"):
        letter(from_=None)


def test_quoted_names():
    """A name may be written in quotes, as programs do, and a recipient has none."""
    written = letter(from_='"Smith, \\"Ada\\" <x>"  <ada@example.com>', to="<ada@example.com>")
    assert box_of(written, "From") == ('Smith, "Ada" <x>', "ada@example.com")
    assert parsed(written)["To"] == "ada@example.com"
    with pytest.raises(LetterError, match="nothing else"):
        letter(to="Ada <ada@example.com>")


def test_thread():
    """What follows a message names it by the Message-ID that it had."""
    first = letter()
    message = parsed(letter(key=f"{KEY[:-1]}1", in_reply_to=KEY))
    assert message["In-Reply-To"] == message["References"] == first.message_id


def test_unsubscribe():
    """One click says who wants no more, by the key (RFC 8058)."""
    url = unsubscribe_template("https://example.com/u?k={key}&l=1", "URL")
    message = parsed(letter(unsubscribe=url, key="c/an intro/0"))
    assert message["List-Unsubscribe"] == "<https://example.com/u?k=c%2Fan%20intro%2F0&l=1>"
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert "List-Unsubscribe" not in parsed(letter())


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://example.com/{key}",
            "mailto:a@example.com?subject={key}",
            "{key}",
            "https:///{key}",
        ),
        *(
            "https://example.com/",
            "https://example.com/{key}>, <mailto:x@y>",
            "https://exämple.com/{key}",
        ),
        *(
            "https://example.com/{key}\r\nBcc: a",
            "https://example.com:0/{key}",
            "https://[::1/{key}",
        ),
        *(
            "https://example.com/ {key}",
            "https://example.com/,{key}",
            f"https://e.com/{'x' * 500}{{key}}",
        ),
    ],
)
def test_unsubscribe_urls_that_are_none(url):
    """A URL that nobody could click on is refused when the worker starts."""
    with pytest.raises(ValueError, match=r"^CHANNEL_X: expected"):
        unsubscribe_template(url, "CHANNEL_X")


def test_subjects():
    """Controls become a space, a long subject is folded, an endless one refused, none is left out."""
    assert parsed(letter(subject="\tTwo\r\n lines\x00 "))["Subject"] == "Two  lines"
    words = "Renewal of the contract " * 40 + "now"
    assert parsed(letter(subject=words))["Subject"] == words
    assert max(map(len, letter(subject=words).content.splitlines())) <= 76
    assert "Subject" not in parsed(letter(subject=None))
    with pytest.raises(LetterError, match="subject"):
        letter(subject="x" * 2001)


BODIES = {
    "empty": "",
    "long lines": "x" * 5000 + "\n" + "ü" * 5000,
    "dots": ".\n..\n.hidden\n\n.\n",
    "from": "From here\n>From there\n",
    "bare line ends": "one\rtwo\nthree\r\nfour",
    "controls": "nul \x00 bell \x07 escape \x1b form feed \x0c vt \x0b nel \x85 ls \u2028",
    "direction": "\u200fעברית\u200e \u202bعربي\u202c",  # noqa: RUF001 - Hebrew is meant
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈" * 100,
    "spaces": "trailing \n\ttabs\t\n   \n",
    "equal signs": "a=b =20 =\n= ==\n",
    "boundary": "--=_7HmnSHFAoUU7ub2-tjysX4J-nY-GHmI2n4MayTCzIjA--\n",
    "a megabyte": "Grüße, liebe Ada. " * 60_000,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_bodies_arrive(body):
    """Whatever a text has in it arrives, with line ends as they are in e-mails."""
    expected = re.sub("\r\n|\r", "\n", body).removesuffix("\n") + "\n"
    for html in (None, body or None):
        written = letter(body=body, html=html)
        assert written.content.isascii()
        message = parsed(written)
        assert text_of(message) == expected
        assert html is None or text_of(message, "html") == expected


@given(
    st.text(max_size=300),
    st.text(max_size=80),
    st.text(st.characters(exclude_categories=["C", "Z"])),
)
def test_any_text_arrives(body, subject, name):
    """Whatever hypothesis thinks of arrives, and begins no header."""
    text = re.sub("\r\n|\r", "\n", body).removesuffix("\n") + "\n"
    line = re.sub("[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", subject).strip()
    name = name.translate(dict.fromkeys(map(ord, '<>"')))
    written = letter(body=body, html=f"<{body}", subject=subject, from_=f"{name} <a@b.example>")
    message = parsed(written)
    assert text_of(message) == text
    assert message["Subject"] == (line or None)
    assert box_of(written, "From") == (name, "a@b.example")
    assert set(message) <= {*ALWAYS}


@pytest.mark.parametrize("field", ["body", "html", "subject"])
def test_half_a_surrogate(field):
    """What has no bytes cannot be sent, and is refused in words."""
    with pytest.raises(LetterError, match="surrogate"):
        letter(**{field: "half \ud83d"})


def test_hostile_names_take_no_time():
    """Long nonsense for an address is refused at once."""
    for text in (" " * 100_000 + '"', '"' + "\\" * 100_000, "a" * 100_000 + "<", "@" * 100_000):
        with pytest.raises(LetterError):
            letter(from_=text)
    assert letter(at=datetime(2026, 1, 1, tzinfo=UTC)).content
