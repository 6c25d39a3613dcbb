"""Addresses: one spelling for each, and keys made of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.address import MAX_ADDRESS, address_key, is_address_key, key_problem, normalise

KINDS = st.sampled_from(["email", "sms", "phone", "whatsapp", "voice", "push", "slack-id"])


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("email", " Ada@Example.COM ", "ada@example.com"),
        ("email", "ame\u0301lie@example.com", "am\u00e9lie@example.com"),
        ("email", "AM\u00c9LIE@example.com", "am\u00e9lie@example.com"),
        ("email", "ada+plans@example.com", "ada+plans@example.com"),
        ("sms", "+49 (151) 123-45.678", "+4915112345678"),
        ("phone", " +1 202 555 0101", "+12025550101"),
        ("whatsapp", "+4915112345678", "+4915112345678"),
        ("voice", "+1234567", "+1234567"),
        ("push", " Token-ABC ", "Token-ABC"),
    ],
)
def test_normalises(kind, value, expected):
    """Equal addresses become equal texts, by the rules of their kind."""
    assert normalise(kind, value) == expected
    assert address_key(kind, value) == f"{kind}:{expected}"


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("email", "ada", "an e-mail address like"),
        ("email", "a@b@c", "an e-mail address like"),
        ("email", "@example.com", "an e-mail address like"),
        ("email", "ada@", "an e-mail address like"),
        ("email", "ada lovelace@example.com", "an e-mail address like"),
        ("email", "ada@example.com, eve", "an e-mail address like"),
        ("email", "<ada@example.com>", "an e-mail address like"),
        ("email", "ada@example.com\r\nBcc:eve", "an address without control"),
        ("email", "ada\u200b@example.com", "an address without control"),
        ("email", "", "an address, got an empty string"),
        ("sms", "0049 151 12345678", "a number like"),
        ("sms", "015112345678", "a number like"),
        ("sms", "+123456", "a number like"),
        ("sms", "+1234567890123456", "a number like"),
        ("sms", "+0234567890", "a number like"),
        ("sms", "+49151abc4567", "a number like"),
        ("sms", "+\u0661\u0662\u0663\u0664\u0665\u0666\u0667", "a number like"),
        ("push", "  ", "an address, got an empty string"),
        ("push", "a\x00b", "an address without control"),
        ("push", "\ud800", "an address without control"),
        ("push", "x" * (MAX_ADDRESS + 1), "an address of at most 1000"),
        ("e mail", "x", "an address kind"),
        ("", "x", "an address kind"),
        ("$where", "x", "an address kind"),
    ],
)
def test_refuses(kind, value, expected):
    """What is no address is refused by what was expected, without repeating the address."""
    with pytest.raises(ValueError, match=f"expected {expected}") as refused:
        normalise(kind, value)
    assert "ada" not in str(refused.value)


@pytest.mark.parametrize("text", ["email:ada@example.com", "sms:+4915112345678", "push:a:b"])
def test_keys(text):
    """An address key is a kind, a colon and a normalised address."""
    assert is_address_key(text)


@pytest.mark.parametrize(
    "text",
    ["", "email", "email:", ":ada@example.com", "email:Ada@example.com", "email: a@b", "sms:123"],
)
def test_no_keys(text):
    """What nothing would ever be compared with is no address key."""
    assert not is_address_key(text)


@given(KINDS, st.text())
def test_normalising_again_changes_nothing(kind, value):
    """A normalised address is its own spelling, so that its key is an address key."""
    try:
        key = address_key(kind, value)
    except ValueError:
        return
    assert is_address_key(key)


@given(st.from_regex(r"[^\s@<>(),;:\\\"\[\]]{1,9}@[^\s@<>(),;:\\\"\[\]]{1,9}", fullmatch=True))
def test_case_makes_no_difference(value):
    """E-mail addresses of all scripts become stable when they are lowered."""
    try:
        lowered = normalise("email", value)
    except ValueError:
        return
    assert normalise("email", lowered) == lowered


@pytest.mark.parametrize(
    ("identity", "problem"),
    [
        ("email:ada@example.com", None),
        ("email:Ada@Example.com", "$._id: expected email:ada@example.com"),
        ("ada@example.com", "$._id: expected an address key like email:ada@example.com: "),
        (
            "sms:0151",
            "$._id: expected an address key like email:ada@example.com: expected a number",
        ),
        (7, "$._id: expected an address key like email:ada@example.com"),
        (None, "$._id: expected an address key like email:ada@example.com"),
    ],
)
def test_what_is_wrong_with_an_address_key(identity, problem):
    """It says what was expected; of one that is spelled otherwise, how it is spelled."""
    found = key_problem(identity)
    assert found == problem if problem is None else found.startswith(problem)
