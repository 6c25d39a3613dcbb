"""The one table of channels: a URL scheme and the class that serves it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from reactor.channels.file import FileChannel
from reactor.channels.http import HttpChannel
from reactor.channels.log import LogChannel
from reactor.channels.protocol import Channel
from reactor.channels.settings import OWN, SUFFIXES, ChannelSettings
from reactor.channels.smtp import SmtpChannel

CHANNELS: Mapping[str, type[Channel]] = {
    "file": FileChannel,
    "http": HttpChannel,
    "https": HttpChannel,
    "log": LogChannel,
    "smtp": SmtpChannel,
    "smtps": SmtpChannel,
}


def make_channel(settings: ChannelSettings) -> Channel:
    """Give the channel, not yet open; ValueError says what was expected of its settings."""
    if ":" not in settings.url:
        raise ValueError("expected a URL, such as file:PATH or log:")
    if settings.scheme not in CHANNELS:
        raise ValueError(f"unknown scheme; known: {', '.join(sorted(CHANNELS))}")
    channel = CHANNELS[settings.scheme]
    foreign = [
        SUFFIXES[each].name for each in OWN if settings.gives(each) and each not in channel.own
    ]
    if foreign:
        raise ValueError(f"{settings.scheme}: has no {' and no '.join(foreign)}")
    return channel(settings)


@asynccontextmanager
async def open_channels(
    settings: Mapping[str, ChannelSettings],
) -> AsyncIterator[Mapping[str, Channel]]:
    """Open every channel, by name, as long as the block runs."""
    async with AsyncExitStack() as stack:
        yield {
            name: await stack.enter_async_context(make_channel(channel))
            for name, channel in settings.items()
        }
