"""What a deployment sets, all of it by environment variables, read and checked once."""

import difflib
import tempfile
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from attrs import Factory, field, frozen

from reactor.channels.registry import CHANNELS, make_channel
from reactor.channels.settings import PREFIX, SUFFIXES, ChannelSettings, read_channels
from reactor.clock import TimeScale
from reactor.environment import (
    NONE,
    Reader,
    SettingDoc,
    database_name,
    documentation,
    file_path,
    masked,
    moment,
    mongodb_uri,
    on_off,
    one_of,
    positive,
    read_from,
    scheme_only,
    seconds,
    show,
    variables,
    whole,
)
from schemas.hand_off import ChannelSpec

#: A hand-off that ends in time leaves two more in its lease: to record it, and for a slow machine.
TIMEOUTS_IN_A_LEASE = 3
#: Two names this much alike are one, misspelt.
ALIKE = 0.85


class SettingsError(Exception):
    """What is wrong with the environment, all of it."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class LogLevel(StrEnum):
    TRACE = "TRACE"
    DEBUG = "DEBUG"
    INFO = "INFO"
    SUCCESS = "SUCCESS"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"


class LogFormat(StrEnum):
    #: Text on a terminal, else JSON.
    AUTO = "auto"
    JSON = "json"
    TEXT = "text"


@frozen(kw_only=True)
class Settings:
    """
    Every setting with its default, and why that.

    Seconds are real ones, whatever the campaign time does.
    """

    mongodb_uri: str | None = field(
        default=None,
        repr=lambda uri: show(uri, masked),
        metadata=read_from(
            "MONGODB_URI",
            mongodb_uri,
            "Where the database is, a replica set.",
            mask=masked,
        ),
    )
    mongodb_db: str = field(
        default="reactor",
        metadata=read_from(
            "MONGODB_DB",
            database_name,
            "The database with the agent's collections and the worker's.",
        ),
    )
    # The stream and the timer find all work as it comes: this is for what they miss, so seldom.
    polling_interval_seconds: float = field(
        default=60.0,
        metadata=read_from(
            "POLLING_INTERVAL_SECONDS",
            seconds,
            "Seconds between two sweeps for work that no change stream announced.",
        ),
    )
    # Enough that a small campaign hardly ever waits for a large one to end.
    max_concurrent_campaigns: int = field(
        default=10,
        metadata=read_from(
            "MAX_CONCURRENT_CAMPAIGNS",
            whole(1, 10_000),
            "Campaigns that a worker has in work at a time.",
        ),
    )
    # Measured: 25 times as fast as one by one; 500 are a third faster, and hold more in memory.
    max_conversations_per_batch: int = field(
        default=100,
        metadata=read_from(
            "MAX_CONVERSATIONS_PER_BATCH",
            whole(1, 1000),
            "Conversations of one campaign that are loaded, decided and written together.",
        ),
    )
    # What the batches above were measured with, on two cores.
    worker_threads: int = field(
        default=4,
        metadata=read_from(
            "WORKER_THREADS",
            whole(1, 64),
            "Batches that a worker has in flight at a time.",
        ),
    )
    log_level: LogLevel = field(
        default=LogLevel.INFO,
        metadata=read_from(
            "LOG_LEVEL",
            one_of(LogLevel),
            "What is logged at least: TRACE, DEBUG, INFO, SUCCESS, WARNING, ERROR, CRITICAL.",
        ),
    )
    log_format: LogFormat = field(
        default=LogFormat.AUTO,
        metadata=read_from(
            "LOG_FORMAT",
            one_of(LogFormat),
            "`json`, `text`, or `auto`: text on a terminal, else JSON.",
        ),
    )
    change_stream: bool = field(
        default=True,
        metadata=read_from(
            "CHANGE_STREAM",
            on_off,
            "`on` or `off`. Without it new work is found by polling alone.",
        ),
    )
    # Long enough for a slow channel, short enough that a dead worker's messages are not late.
    lease_seconds: float = field(
        default=30.0,
        metadata=read_from(
            "LEASE_SECONDS",
            seconds,
            "Seconds for which a message that is handed off is its worker's alone; at least three"
            " times CHANNEL_TIMEOUT_SECONDS.",
        ),
    )
    channel_timeout_seconds: float = field(
        default=10.0,
        metadata=read_from(
            "CHANNEL_TIMEOUT_SECONDS",
            seconds,
            "Seconds that a channel has for one message; what took longer has an unknown outcome.",
        ),
    )
    # More than any sensible template sends, few enough that a loop is no catastrophe.
    max_messages_per_recipient_per_day: int = field(
        default=50,
        metadata=read_from(
            "MAX_MESSAGES_PER_RECIPIENT_PER_DAY",
            whole(1, 100_000),
            "Messages that one address gets at most within 24 hours, from all campaigns together.",
        ),
    )
    # Long enough for whoever asks what was sent to whom, and no longer than that.
    retention_days: int = field(
        default=90,
        metadata=read_from(
            "RETENTION_DAYS",
            whole(0, 36_500),
            "Days after a campaign's end, in campaign time, for which its conversations, messages"
            " and updates stay; 0 keeps them.",
        ),
    )
    # Two channel time-outs: whatever was being handed off ends, and is recorded.
    shutdown_grace_seconds: float = field(
        default=20.0,
        metadata=read_from(
            "SHUTDOWN_GRACE_SECONDS",
            seconds,
            "Seconds that a stopping worker has to finish what it began.",
        ),
    )
    heartbeat_file: Path = field(
        default=Path(tempfile.gettempdir(), "reactor-heartbeat"),
        metadata=read_from(
            "HEARTBEAT_FILE",
            file_path,
            "A file that a healthy worker touches every few seconds. One for each worker.",
            told="reactor-heartbeat in the directory for temporary files",
        ),
    )
    campaign_time_scale: float = field(
        default=1.0,
        metadata=read_from(
            "CAMPAIGN_TIME_SCALE",
            positive,
            "How many times faster than real time campaigns run. For demos and benchmarks only.",
        ),
    )
    campaign_time_epoch: datetime | None = field(
        default=None,
        metadata=read_from(
            "CAMPAIGN_TIME_EPOCH",
            moment,
            "When campaign time and real time were the same, a date with its zone; required with a"
            " scale other than 1.",
        ),
    )
    channels: Mapping[str, ChannelSettings] = Factory(dict)
    #: Variables that look like misspelt ones of ours.
    warnings: tuple[str, ...] = ()

    def channel_specs(self) -> Mapping[str, ChannelSpec]:
        return {name: channel.spec for name, channel in self.channels.items()}

    def retention(self) -> timedelta | None:
        """Give how long finished campaigns keep what is personal. None: for ever."""
        return timedelta(days=self.retention_days) if self.retention_days else None

    def time_scale(self) -> TimeScale:
        if self.campaign_time_epoch is None:
            return TimeScale(scale=self.campaign_time_scale)
        return TimeScale(scale=self.campaign_time_scale, epoch=self.campaign_time_epoch)

    def shown(self) -> Mapping[str, str]:
        """Give every variable with its effective value, secrets masked."""
        values = {v.name: show(getattr(self, a), v.mask) for a, v in VARIABLES.items()}
        for channel in self.channels.values():
            owner = channel.variable
            values[owner] = masked(channel.url)
            for attribute in channel.attributes():
                suffix = SUFFIXES[attribute]
                values[f"{owner}_{suffix.name}"] = show(getattr(channel, attribute), suffix.mask)
        return values


VARIABLES = variables(Settings)


OWN_NAMES = frozenset(variable.name for variable in VARIABLES.values())
SETTINGS: tuple[SettingDoc, ...] = (
    *documentation(Settings),
    SettingDoc(
        name=f"{PREFIX}<NAME>",
        default=NONE,
        meaning="The URL of a channel; `<name>`, in lower case, is what templates call it.",
    ),
    *documentation(ChannelSettings, f"{PREFIX}<NAME>_"),
)


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Read the settings. `SettingsError`: some are wrong."""
    given = {name: text.strip() for name, text in environ.items() if text.strip()}
    reader = Reader({name: text for name, text in given.items() if name in OWN_NAMES})
    values: dict[str, Any] = {}
    for attribute, variable in VARIABLES.items():
        values |= reader.read(variable, attribute)
    reader.problems.update(_contradictions(Settings(**values), reader.problems.keys()))
    channel_reader = Reader({name: text for name, text in given.items() if name not in OWN_NAMES})
    timeout_seconds = values.get("channel_timeout_seconds", 10.0)
    channels = read_channels(channel_reader, timeout_seconds)
    channel_reader.problems.update(_wrong_urls(channels))
    if problems := (*reader.problems.values(), *channel_reader.problems.values()):
        raise SettingsError(problems)
    return Settings(**values, channels=channels, warnings=_near_misses(given))


def _contradictions(settings: Settings, wrong: Collection[str]) -> dict[str, str]:
    """Say which settings contradict each other; those that are wrong by themselves do not."""
    problems = {}
    lease, timeout = settings.lease_seconds, settings.channel_timeout_seconds
    least = TIMEOUTS_IN_A_LEASE * timeout
    if lease < least and not {"LEASE_SECONDS", "CHANNEL_TIMEOUT_SECONDS"} & set(wrong):
        problems["LEASE_SECONDS"] = (
            f"LEASE_SECONDS={lease:g}: expected at least {least:g}, three times"
            f" CHANNEL_TIMEOUT_SECONDS={timeout:g}"
        )
    scale, epoch = settings.campaign_time_scale, settings.campaign_time_epoch
    if scale != 1 and epoch is None and "CAMPAIGN_TIME_EPOCH" not in wrong:
        problems["CAMPAIGN_TIME_EPOCH"] = (
            f"CAMPAIGN_TIME_EPOCH: expected a date, because CAMPAIGN_TIME_SCALE={scale:g}"
        )
    return problems


def _wrong_urls(channels: Mapping[str, ChannelSettings]) -> dict[str, str]:
    problems = {}
    for channel in channels.values():
        try:
            make_channel(channel)
        except ValueError as error:
            variable = channel.variable
            known = channel.scheme in CHANNELS
            shown = masked(channel.url) if known else scheme_only(channel.url)
            problems[variable] = f"{variable}='{shown}': {error}{_meant(variable, channels)}"
    return problems


def _meant(variable: str, channels: Mapping[str, ChannelSettings]) -> str:
    """Give a hint: a misspelt suffix reads like one more channel."""
    names = [channel.variable for channel in channels.values()]
    known = [f"{name}_{suffix.name}" for name in names for suffix in SUFFIXES.values()]
    alike = difflib.get_close_matches(variable, [*OWN_NAMES, *known], 1, ALIKE)
    return f" (did you mean {alike[0]}?)" if alike else ""


def _near_misses(given: Mapping[str, str]) -> tuple[str, ...]:
    warnings = []
    for name in sorted(set(given) - OWN_NAMES):
        alike = difflib.get_close_matches(name.upper(), OWN_NAMES, 1, ALIKE)
        if alike and not name.startswith(PREFIX):
            warnings.append(f"{name} is not a setting (did you mean {alike[0]}?)")
    return tuple(warnings)
