"""What every channel is, what it writes, and the guard around each hand-off."""

import json
from datetime import UTC, datetime
from types import TracebackType
from typing import ClassVar, Protocol, Self

import anyio
from loguru import logger

from reactor.channels.settings import ChannelSettings
from schemas.hand_off import HandOff, Outcome, OutcomeKind


class Channel(Protocol):
    """
    One configured way out, open as long as its context is.

    `send` says what came of it as an `Outcome` and raises only what is a defect; many are under way
    at once. It keeps to `timeout_seconds` by itself: whoever overstays is cancelled, and what became
    of the message is unknown. A constructor raises ValueError: what was expected of the settings.
    """

    #: Fields of ChannelSettings that it has beside those which all channels have.
    own: ClassVar[frozenset[str]]
    #: False: `send` never waits for anything, so no time-out could end it, and it is given none.
    waits: ClassVar[bool]

    def __init__(self, settings: ChannelSettings) -> None: ...

    @property
    def name(self) -> str: ...

    @property
    def concurrency(self) -> int:
        """How many messages of a batch it is given at once."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...

    async def send(self, hand_off: HandOff) -> Outcome: ...


async def hand_off(channel: Channel, message: HandOff, timeout_seconds: float) -> Outcome:
    """
    Hand a message to its channel, within a time.

    Whatever goes wrong is an outcome: a channel's exception or a time-out is `unknown`, under the
    name of its class. No cancellation from outside cuts through a hand-off that has begun.
    """
    if not channel.waits:
        return await _sent(channel, message)
    with anyio.move_on_after(timeout_seconds, shield=True):
        return await _sent(channel, message)
    return Outcome(kind=OutcomeKind.UNKNOWN, error=TimeoutError.__name__)


async def _sent(channel: Channel, message: HandOff) -> Outcome:
    try:
        return await channel.send(message)
    except Exception as error:  # noqa: BLE001 - whatever it is, nobody knows what was sent
        logger.bind(key=message.key, channel=channel.name).opt(exception=error).error(
            "A channel failed in a way it should not"
        )
        return Outcome(kind=OutcomeKind.UNKNOWN, error=type(error).__name__)


def as_json(message: HandOff) -> bytes:
    """Give the JSON object that leaves the engine: UTF-8, on one line, without a line feed."""
    return json.dumps(
        {
            "key": message.key,
            "campaign_id": message.campaign_id,
            "conversation_id": message.conversation_id,
            "recipient_id": message.recipient_id,
            "channel": message.channel,
            "to": message.to,
            "subject": message.subject,
            "body": message.body,
            "html": message.html,
            "from": message.from_,
            "reply_to": message.reply_to,
            "locale": message.locale,
            "in_reply_to": message.in_reply_to,
            "send_before": message.send_before and _iso(message.send_before),
            "at": _iso(message.at),
        },
        ensure_ascii=False,
        separators=(",", ":"),
    ).encode()


def _iso(moment: datetime) -> str:
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"
