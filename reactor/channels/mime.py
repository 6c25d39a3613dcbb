"""
A hand-off as the bytes of an e-mail. Purely: no clock, no chance, and the same under every Python.

Headers are written here and not by the policies of `email`: these decode what looks like an encoded
word (`=?utf-8?q?=0D=0A…`) in a name, and fold differently from one release to the next.
"""

import base64
import binascii
import hashlib
import re
import textwrap
import unicodedata
from collections.abc import Iterator
from datetime import UTC
from email.utils import format_datetime
from urllib.parse import quote, urlsplit

import idna
from attrs import field, frozen

from schemas.hand_off import HandOff
from schemas.ids import SendKey

#: Characters of a subject, or of a name in `name <address>`.
MAX_TEXT = 2_000
#: Of an address: 64 of the local part, @, 255 of the domain (RFC 5321).
MAX_LOCAL, MAX_DOMAIN = 64, 255
#: Of an unsubscribe URL, so that its line ends before the 998th whatever the key.
MAX_URL = 500
#: Of an encoded word: bytes before base64, so that no line has more than 76 characters.
WORD_BYTES = 39
#: Of a folded line, without the name of its header: characters.
LINE = 60

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_LINE_END = re.compile(r"\r\n|\r|\n")
# A name may be written without quotes whatever stands in it, as long as there is one address.
_MAILBOX = re.compile(r'(?P<name>"(?:[^"\\]|\\.)*"\s*|[^<>]*)<(?P<in>[^<>]*)>|(?P<bare>[^<>]*)')
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_LOCAL = re.compile(r"(?!.*=\?)[A-Za-z0-9!#$%&'*+/=?^_`{|}~.\-\u0080-\U0010ffff]+")
_DOMAIN = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_\-]*)(?:\.[A-Za-z0-9_][A-Za-z0-9_\-]*)*")
#: What needs no encoding in a header: words with single spaces, short enough to be folded, and none
#: that looks like an encoded word.
_PLAIN = re.compile(rf"(?!.*=\?)[!-~]{{1,{LINE}}}(?: [!-~]{{1,{LINE}}})*")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\- ]+")
_KEY = re.compile(r"[!-~]{1,900}")


class LetterError(ValueError):
    """Says why a hand-off can be no e-mail: what was expected, never what was found."""


@frozen(kw_only=True)
class Mailbox:
    """`name <address>`, taken apart; the domain is ASCII."""

    name: str = field(repr=False)
    local: str = field(repr=False)
    domain: str = field(repr=False)

    @property
    def address(self) -> str:
        return f"{self.local}@{self.domain}"

    @property
    def needs_utf8(self) -> bool:
        """Only a local part has no spelling in ASCII: such an address takes SMTPUTF8 (RFC 6531)."""
        return not self.local.isascii()


@frozen(kw_only=True)
class Letter:
    """What is handed to a server: the envelope, and the message with CRLF at the end of each line."""

    sender: str = field(repr=False)
    to: str = field(repr=False)
    needs_utf8: bool
    message_id: str
    content: bytes = field(repr=False)


def mailbox(text: str, what: str) -> Mailbox:
    """Read exactly one `name <address>` or `address`. Raises LetterError."""
    found = _MAILBOX.fullmatch(text.strip())
    name = ((found and found["name"]) or "").strip()
    address = ((found and (found["in"] or found["bare"])) or "").strip()
    local, _, domain = address.rpartition("@")
    if _QUOTED.fullmatch(name):
        name = re.sub(r"\\(.)", r"\1", name[1:-1])
    if any(unicodedata.category(each) in {"Cc", "Cs", "Zl", "Zp"} for each in text):
        raise LetterError(f"{what}: expected no control characters")
    if len(name) > MAX_TEXT:
        raise LetterError(f"{what}: expected a name of at most {MAX_TEXT} characters")
    seen = all(unicodedata.category(each)[0] not in "CZ" for each in address)
    if not (seen and _LOCAL.fullmatch(local) and len(local.encode()) <= MAX_LOCAL):
        raise LetterError(f"{what}: expected name@example.com or Name <name@example.com>")
    return Mailbox(name=name, local=local, domain=_ascii_domain(domain, what))


def unsubscribe_template(url: str, what: str) -> str:
    """Check the URL of `List-Unsubscribe`. ValueError: what was expected of it."""
    try:
        parts = urlsplit(url)
        fine = parts.scheme == "https" and parts.hostname and parts.port != 0
    except ValueError:
        fine = False
    # A comma would end it: the header is a list.
    if not fine or not re.fullmatch(r"[!#-;=?-~]+", url) or "," in url:
        raise ValueError(
            f"{what}: expected an https URL, in ASCII and without spaces, commas, < or >"
        )
    if "{key}" not in url or len(url) > MAX_URL:
        # Who clicks says nothing else: without the key nobody knew who wants no more (RFC 8058).
        raise ValueError(f"{what}: expected {{key}} in it, and at most {MAX_URL} characters")
    return url


def write_letter(hand_off: HandOff, sender: Mailbox | None, unsubscribe: str | None) -> Letter:
    """
    Give the e-mail of a hand-off: the same bytes for the same hand-off.

    Raises LetterError if it cannot be one; nothing of a text ever begins another header.
    """
    from_ = mailbox(hand_off.from_, "from") if hand_off.from_ else sender
    if from_ is None:
        raise LetterError("no sender: neither the template nor the channel says from whom")
    to = mailbox(hand_off.to, "to")
    if to.name:
        raise LetterError("to: expected an address like name@example.com, and nothing else")
    reply_to = mailbox(hand_off.reply_to, "reply_to") if hand_off.reply_to else None
    boxes = [box for box in (from_, to, reply_to) if box]
    message_id = _message_id(hand_off.key, from_)
    headers = [
        ("Date", format_datetime(hand_off.at.astimezone(UTC))),
        ("From", _written_mailbox(from_)),
        ("To", to.address),
        *([("Reply-To", _written_mailbox(reply_to))] if reply_to else []),
        *([("Subject", _written(_subject(hand_off.subject)))] if hand_off.subject else []),
        ("Message-ID", message_id),
        *_thread(hand_off, from_),
        # Gateways may report by it what became of the message.
        ("X-Send-Key", _written_key(hand_off.key)),
        *_list_headers(hand_off.key, unsubscribe),
        # No Auto-Submitted: it would silence vacation notices, which are answers that rules may ask
        # for, and help desks throw away what has it. The engine ends every conversation by itself.
        ("MIME-Version", "1.0"),
    ]
    head = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return Letter(
        sender=from_.address,
        to=to.address,
        needs_utf8=any(box.needs_utf8 for box in boxes),
        message_id=message_id,
        content=head.encode() + _body(hand_off),
    )


def _subject(text: str) -> str:
    line = _CONTROLS.sub(" ", text).strip()
    if len(line) > MAX_TEXT:
        raise LetterError(f"subject: expected at most {MAX_TEXT} characters")
    return line


def _message_id(key: SendKey, from_: Mailbox) -> str:
    return f"<{_digest(key)}@{from_.domain}>"


def _digest(key: SendKey) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest()).rstrip(b"=").decode()


def _thread(hand_off: HandOff, from_: Mailbox) -> Iterator[tuple[str, str]]:
    if hand_off.in_reply_to:
        before = _message_id(hand_off.in_reply_to, from_)
        yield "In-Reply-To", before
        yield "References", before


def _list_headers(key: SendKey, unsubscribe: str | None) -> Iterator[tuple[str, str]]:
    if unsubscribe:
        url = unsubscribe.replace("{key}", quote(key, safe=""))
        yield "List-Unsubscribe", f"<{url}>"
        yield "List-Unsubscribe-Post", "List-Unsubscribe=One-Click"


def _ascii_domain(domain: str, what: str) -> str:
    try:
        # Not the codec of Python: that makes ß ss (IDNA 2003), which is another domain today.
        ascii_ = domain if domain.isascii() else idna.encode(domain, uts46=True).decode()
    except UnicodeError:
        ascii_ = ""
    if not _DOMAIN.fullmatch(ascii_) or len(ascii_) > MAX_DOMAIN:
        raise LetterError(f"{what}: expected a domain like example.com")
    return ascii_


def _written_mailbox(box: Mailbox) -> str:
    if not box.name:
        return box.address
    if not _PLAIN.fullmatch(box.name) or len(box.name) > LINE:
        return f"{_encoded(box.name)}\r\n <{box.address}>"
    atoms = _ATOMS.fullmatch(box.name)
    name = box.name if atoms else '"' + re.sub(r'(["\\])', r"\\\1", box.name) + '"'
    return f"{name} <{box.address}>"


def _written_key(key: SendKey) -> str:
    """Give the key on one line, to be compared as it is."""
    return key if _KEY.fullmatch(key) else _encoded(key)


def _written(text: str) -> str:
    """Give a text as the value of a header: folded, or in encoded words (RFC 2047)."""
    if not _PLAIN.fullmatch(text):
        return _encoded(text)
    lines = textwrap.wrap(text, LINE, break_long_words=False, break_on_hyphens=False)
    return "\r\n ".join(lines)


def _encoded(text: str) -> str:
    words, word = [], b""
    for character in _utf8(text, "a header").decode():
        if len(word) + len(character.encode()) > WORD_BYTES:
            words.append(word)
            word = b""
        word += character.encode()
    return "\r\n ".join(f"=?utf-8?b?{base64.b64encode(each).decode()}?=" for each in (*words, word))


def _utf8(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise LetterError(f"{what}: expected whole characters, found half a surrogate") from None


def _body(hand_off: HandOff) -> bytes:
    text = _part("plain", hand_off.body, "body")
    if not hand_off.html:
        return text
    # `=_` stands in no quoted-printable and in no base64, so in no part.
    boundary = f"=_{_digest(hand_off.key)}".encode()
    parts = (text, _part("html", hand_off.html, "html"))
    return b"".join(
        [
            b'Content-Type: multipart/alternative; boundary="' + boundary + b'"\r\n',
            # The line end before a boundary is its own, not the part's.
            *(b"\r\n--" + boundary + b"\r\n" + part for part in parts),
            b"\r\n--" + boundary + b"--\r\n",
        ]
    )


def _part(subtype: str, text: str, what: str) -> bytes:
    """Give a part in whichever encoding is shorter: both are ASCII, with short lines."""
    lines = _LINE_END.sub("\r\n", text).removesuffix("\r\n") + "\r\n"
    data = _utf8(lines, what)
    quoted = binascii.b2a_qp(data, istext=True)
    based = base64.encodebytes(data).replace(b"\n", b"\r\n")
    name, coded = min(
        (b"quoted-printable", quoted), (b"base64", based), key=lambda each: len(each[1])
    )
    return (
        f"Content-Type: text/{subtype}; charset=utf-8\r\n".encode()
        + b"Content-Transfer-Encoding: "
        + name
        + b"\r\n\r\n"
        + coded
    )
