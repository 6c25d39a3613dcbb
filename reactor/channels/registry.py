"""The one table of channels: a URL scheme and the class that serves it."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from reactor.channels.file import FileChannel
from reactor.channels.log import LogChannel
from reactor.channels.protocol import Channel
from reactor.channels.settings import ChannelSettings

CHANNELS: Mapping[str, Callable[[ChannelSettings], Channel]] = {
    "file": FileChannel,
    "log": LogChannel,
}


def make_channel(settings: ChannelSettings) -> Channel:
    """Give the channel, not yet open; ValueError says what was expected of its settings."""
    if ":" not in settings.url:
        raise ValueError("expected a URL, such as file:PATH or log:")
    if settings.scheme not in CHANNELS:
        raise ValueError(f"unknown scheme; known: {', '.join(sorted(CHANNELS))}")
    return CHANNELS[settings.scheme](settings)


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
