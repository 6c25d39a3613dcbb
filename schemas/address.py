"""Addresses: one spelling for each, by address kind, so that equal ones are equal as text."""

import re
import unicodedata
from functools import lru_cache

#: Of an address kind: `email`, `sms`, …
KIND = r"[A-Za-z][A-Za-z0-9_\-]{0,63}"
#: Address kinds that are telephone numbers.
NUMBERS = frozenset({"sms", "phone", "whatsapp", "voice"})
MAX_ADDRESS = 1_000
EXAMPLE = "email:ada@example.com"

_KIND = re.compile(KIND)
_EMAIL = re.compile(r"[^@\s<>(),;:\\\"\[\]]+@[^@\s<>(),;:\\\"\[\]]+")
_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
_PUNCTUATION = re.compile(r"[\s\-.()]")
#: Control, format (zero-width, direction) and surrogate characters: seen by nobody, or not UTF-8.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs"})


# A message's address is asked for several times while it is on its way.
@lru_cache(maxsize=4096)
def normalise(kind: str, value: str) -> str:
    """
    Give the one spelling of an address.

    ValueError: it is none of its kind; the text says what was expected, and not the address.
    """
    if not _KIND.fullmatch(kind):
        raise ValueError("expected an address kind of letters, digits, _ and -, at most 64")
    address = value.strip()
    if not address:
        raise ValueError("expected an address, got an empty string")
    if len(address) > MAX_ADDRESS:
        raise ValueError(f"expected an address of at most {MAX_ADDRESS} characters")
    if kind in NUMBERS:
        return _number(address)
    plain = address.isascii() and address.isprintable()
    if not plain and any(unicodedata.category(each) in _INVISIBLE for each in address):
        raise ValueError("expected an address without control characters")
    return _email(address) if kind == "email" else address


def address_key(kind: str, value: str) -> str:
    """Give `kind:address`, normalised: what suppressions and duplicates go by."""
    return f"{kind}:{normalise(kind, value)}"


def key_problem(identity: object) -> str | None:
    """Say what was expected of what should be an address key; None: it is one."""
    if not isinstance(identity, str):
        return f"$._id: expected an address key like {EXAMPLE}"
    kind, _, address = identity.partition(":")
    try:
        right = address_key(kind, address)
    except ValueError as error:
        return f"$._id: expected an address key like {EXAMPLE}: {error}"
    return None if right == identity else f"$._id: expected {right}"


def is_address_key(text: str) -> bool:
    kind, _, address = text.partition(":")
    try:
        return normalise(kind, address) == address
    except ValueError:
        return False


def _email(address: str) -> str:
    lowered = address.lower()
    if not address.isascii():
        # Lower case may come apart into letter and mark: composed again.
        lowered = unicodedata.normalize("NFC", unicodedata.normalize("NFC", address).lower())
    if not _EMAIL.fullmatch(lowered):
        raise ValueError("expected an e-mail address like name@example.com")
    return lowered


def _number(address: str) -> str:
    number = _PUNCTUATION.sub("", address)
    if not _E164.fullmatch(number):
        raise ValueError("expected a number like +4915112345678: +, country code, 7 to 15 digits")
    return number
