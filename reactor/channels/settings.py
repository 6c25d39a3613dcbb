"""Channels in the environment: `CHANNEL_<NAME>=<url>`, the rest in `CHANNEL_<NAME>_<SUFFIX>`."""

import re
from typing import Any

from attrs import Factory, field, frozen

from reactor.environment import Reader, hidden, masked, on_off, one_of, read_from, variables, whole
from schemas.hand_off import ChannelSpec, OnUnknown

PREFIX = "CHANNEL_"
UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def _address_kind(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", text):
        raise ValueError("expected an address kind like email, of letters, digits and _ . -")
    return text.lower()


def _yes_no(text: str) -> bool:
    """Read a switch that others write as 1 or true as well."""
    words = {"1": "on", "true": "on", "yes": "on", "0": "off", "false": "off", "no": "off"}
    return on_off(words.get(text.lower(), text))


@frozen
class Rate:
    """So many messages in a unit of time, as it is written: `50/s`, `600/m`, `10000/h`."""

    messages: float
    unit: str

    @property
    def per_second(self) -> float:
        return self.messages / UNITS[self.unit]

    def __str__(self) -> str:
        return f"{self.messages:g}/{self.unit}"


def _rate(text: str) -> Rate:
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)/([smhd])", text)
    if not found or not float(found[1]):
        raise ValueError("expected a rate like 50/s, 600/m, 10000/h or 200000/d")
    return Rate(float(found[1]), found[2])


@frozen(kw_only=True)
class ChannelSettings:
    """
    One channel. To add a field that is read from a variable is to add its suffix.

    Those in OWN belong to some schemes only: a channel's class names those it has in `own`.
    """

    name: str
    url: str = field(repr=masked)
    address_kind: str = field(
        default=Factory(lambda channel: channel.name, takes_self=True),
        metadata=read_from(
            "ADDRESS",
            _address_kind,
            "Which of a recipient's addresses the channel sends to.",
            told="the channel's name",
        ),
    )
    on_unknown: OnUnknown = field(
        default=Factory(lambda channel: unknown_policy(channel.scheme), takes_self=True),
        metadata=read_from(
            "ON_UNKNOWN",
            one_of(OnUnknown),
            "What to do about a hand-off when nobody knows what came of it: `resend` it with the"
            " same key, `assume_sent`, or `hold` it for a person.",
            told="hold for SMTP, else resend",
        ),
    )
    rate: Rate | None = field(
        default=None,
        metadata=read_from(
            "RATE",
            _rate,
            "How many messages all workers together hand off at most: `50/s`, also by `m`, `h`, `d`.",
        ),
    )
    burst: int | None = field(
        default=None,
        metadata=read_from(
            "BURST",
            whole(1, 100_000),
            "How many of them at once, after a pause.",
            told="a quarter of a second's, at least 1",
        ),
    )
    concurrency: int | None = field(
        default=None,
        metadata=read_from(
            "CONCURRENCY",
            whole(1, 1000),
            "How many messages a worker hands off at the same time.",
            told="16 for HTTP, 4 for SMTP, else 1",
        ),
    )
    secret: str | None = field(
        default=None,
        repr=False,
        metadata=read_from(
            "SECRET",
            str,
            "HTTP: the key that signs, `whsec_…` after Standard Webhooks; two with a space between"
            " while it is changed.",
            mask=hidden,
        ),
    )
    allow_private: bool = field(
        default=False,
        metadata=read_from(
            "ALLOW_PRIVATE",
            _yes_no,
            "HTTP: `1` lets it reach private and loopback addresses, which are refused otherwise.",
        ),
    )
    sender: str | None = field(
        default=None,
        metadata=read_from(
            "FROM", str, "SMTP: who messages are from whose template does not say so."
        ),
    )
    unsubscribe_url: str | None = field(
        default=None,
        metadata=read_from(
            "UNSUBSCRIBE_URL",
            str,
            "SMTP: an https URL for the header List-Unsubscribe; `{key}` in it is the send key.",
        ),
    )
    #: CHANNEL_TIMEOUT_SECONDS: what a channel has for one message. It ends by itself before that.
    timeout_seconds: float = 10.0

    @property
    def variable(self) -> str:
        """Give the variable that the URL was read from; the others begin with it."""
        return f"{PREFIX}{self.name.upper()}"

    @property
    def scheme(self) -> str:
        return self.url.partition(":")[0].lower()

    @property
    def url_rest(self) -> str:
        """What follows the scheme and its colon."""
        return self.url.partition(":")[2]

    def gives(self, attribute: str) -> bool:
        """Say whether a field of OWN was set."""
        return bool(getattr(self, attribute))

    def attributes(self) -> tuple[str, ...]:
        """Give the fields that are read from variables and mean something to this channel."""
        return tuple(each for each in SUFFIXES if each not in OWN or self.gives(each))

    @property
    def spec(self) -> ChannelSpec:
        rate = self.rate.per_second if self.rate else None
        return ChannelSpec(
            name=self.name,
            address_kind=self.address_kind,
            on_unknown=self.on_unknown,
            rate=rate,
            # What a turn of a busy worker takes: with less, tokens are lost.
            burst=self.burst or max(1, round((rate or 0) / 4)),
        )


def unknown_policy(scheme: str) -> OnUnknown:
    """Give what is done by default: only who honours a key may be given a message twice."""
    return OnUnknown.HOLD if scheme in {"smtp", "smtps"} else OnUnknown.RESEND


SUFFIXES = variables(ChannelSettings)
#: Fields that not every channel has.
OWN = ("concurrency", "secret", "allow_private", "sender", "unsubscribe_url")


def read_channels(reader: Reader, timeout_seconds: float = 10.0) -> dict[str, ChannelSettings]:
    """
    Read all channels, by name.

    What ends in a known suffix is never a channel's own variable, so that each has one meaning.
    """
    parts = {name: _split(name) for name in sorted(reader.given) if name.startswith(PREFIX)}
    rest: dict[str, dict[str, Any]] = {name: {} for name, (_, of) in parts.items() if of is None}
    for name, (owner, attribute) in parts.items():
        if attribute is not None and owner in rest:
            rest[owner] |= reader.read(SUFFIXES[attribute], attribute, name)
        elif attribute is not None:
            reader.problems[name] = f"{name}: there is no {owner}"
    channels = {}
    for owner, values in rest.items():
        name = owner.removeprefix(PREFIX)
        if re.fullmatch(r"[A-Z0-9][A-Z0-9_]*", name):
            channels[name.lower()] = ChannelSettings(
                name=name.lower(),
                url=reader.given[owner],
                timeout_seconds=timeout_seconds,
                **values,
            )
        else:
            reader.problems[owner] = f"{owner}: expected {PREFIX} and a name of A-Z, 0-9 and _"
    return channels


def _split(name: str) -> tuple[str, str | None]:
    """Split `CHANNEL_EMAIL_ADDRESS` into `CHANNEL_EMAIL` and the field that its suffix is for."""
    for attribute, variable in SUFFIXES.items():
        owner = name.removesuffix(f"_{variable.name}")
        if owner != name and len(owner) > len(PREFIX):
            return owner, attribute
    return name, None
