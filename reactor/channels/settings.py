"""Channels in the environment: `CHANNEL_<NAME>=<url>`, the rest in `CHANNEL_<NAME>_<SUFFIX>`."""

import re
from typing import Any

from attrs import Factory, field, frozen

from reactor.environment import Reader, masked, one_of, read_from, variables
from schemas.hand_off import ChannelSpec, OnUnknown

PREFIX = "CHANNEL_"


def _address_kind(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", text):
        raise ValueError("expected an address kind like email, of letters, digits and _ . -")
    return text.lower()


@frozen(kw_only=True)
class ChannelSettings:
    """One channel. To add a field that is read from a variable is to add its suffix."""

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
        default=OnUnknown.RESEND,
        metadata=read_from(
            "ON_UNKNOWN",
            one_of(OnUnknown),
            "What to do about a hand-off when nobody knows what came of it: `resend` it with the"
            " same key, `assume_sent`, or `hold` it for a person.",
        ),
    )

    @property
    def scheme(self) -> str:
        return self.url.partition(":")[0].lower()

    @property
    def url_rest(self) -> str:
        """What follows the scheme and its colon."""
        return self.url.partition(":")[2]

    @property
    def spec(self) -> ChannelSpec:
        return ChannelSpec(
            name=self.name, address_kind=self.address_kind, on_unknown=self.on_unknown
        )


SUFFIXES = variables(ChannelSettings)


def read_channels(reader: Reader) -> dict[str, ChannelSettings]:
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
                name=name.lower(), url=reader.given[owner], **values
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
