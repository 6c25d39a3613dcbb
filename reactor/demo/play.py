"""The play: a worker, the players and the screen on one database, until the campaign is over."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
from attrs import frozen
from loguru import logger
from pymongo.asynchronous.database import AsyncDatabase
from rich.console import Console

from reactor.clock import TimeScale
from reactor.database import connect
from reactor.demo.figures import Figures, read_figures
from reactor.demo.players import Mailbox, Players
from reactor.demo.report import LOG, MESSAGES, print_report, read_example
from reactor.demo.screen import Screen
from reactor.indexes import ensure_indexes
from reactor.settings import Settings, load_settings
from reactor.worker import run as run_worker

type Document = dict[str, Any]

COMPLETED, NOT_COMPLETED, INTERRUPTED = 0, 1, 130
DATABASE = "reactor"
#: Campaign time that the players need to come to their ends: with `seconds` it gives the scale.
PLAYED = timedelta(days=25)
#: It is given up after twice its time, and what a slow machine needs to begin and to end.
LIMIT_FACTOR, LIMIT_SECONDS = 2.0, 10.0
TICK_SECONDS = 0.05
#: For the last reports to be answered, after the campaign was completed.
SETTLE_SECONDS = 3.0


@frozen(kw_only=True)
class Venue:
    """What is played where, and in about how many seconds."""

    home: Path
    uri: str
    request: Document
    seconds: float

    @property
    def messages(self) -> Path:
        return self.home / MESSAGES

    def settings(self, epoch: datetime) -> Settings:
        """Give the worker's settings; campaign time begins with real time, at `epoch`."""
        return load_settings(
            {
                "MONGODB_URI": self.uri,
                "MONGODB_DB": DATABASE,
                "CHANNEL_EMAIL": f"file:{self.messages}",
                "HEARTBEAT_FILE": str(self.home / "heartbeat"),
                "CAMPAIGN_TIME_SCALE": str(PLAYED.total_seconds() / self.seconds),
                "CAMPAIGN_TIME_EPOCH": epoch.isoformat(),
            }
        )


class Play:
    """One performance."""

    def __init__(self, venue: Venue, console: Console) -> None:
        self._venue = venue
        self._console = console
        self._stop = anyio.Event()
        self._interrupted = False
        self._worker_ended = anyio.Event()

    async def run(self) -> int:
        """Play it, report, and give the exit code."""
        venue = self._venue
        async with connect(venue.uri, worker="demo") as client:
            database = client[DATABASE]
            await ensure_indexes(database)
            settings = venue.settings(await _server_time(database))
            scale = settings.time_scale()
            began = anyio.current_time()
            with _log_to(venue.home / LOG):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._heed_signals)
                    tasks.start_soon(self._work, settings)
                    await self._perform(database, scale)
                    self._stop.set()
                    await self._worker_ended.wait()
                    tasks.cancel_scope.cancel()
            seconds = anyio.current_time() - began
            now = scale.campaign_time(await _server_time(database))
            figures = await read_figures(database, venue.request, now)
            return await self._end(database, figures, seconds)

    async def _heed_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                self._interrupted = True

    async def _work(self, settings: Settings) -> None:
        await run_worker(settings, once=False, stop=self._stop)
        self._worker_ended.set()

    async def _perform(self, database: AsyncDatabase[Document], scale: TimeScale) -> None:
        venue = self._venue
        players = Players(venue.request, Mailbox(venue.messages), database)
        title = f"{venue.request['name']}, {len(venue.request['recipients'])} recipients"
        await database["batch_requests"].insert_one(venue.request)
        deadline = anyio.current_time() + LIMIT_FACTOR * venue.seconds + LIMIT_SECONDS
        with Screen(self._console, title, scale.scale) as screen:
            while not self._is_cut_short:
                now = scale.campaign_time(await _server_time(database))
                await players.act(now)
                if screen.is_due:
                    figures = await read_figures(database, venue.request, now)
                    screen.show(figures, tuple(players.events))
                    if figures.is_over or anyio.current_time() > deadline:
                        break
                await anyio.sleep(TICK_SECONDS)
        await self._settle(database)

    @property
    def _is_cut_short(self) -> bool:
        return self._interrupted or self._worker_ended.is_set()

    async def _settle(self, database: AsyncDatabase[Document]) -> None:
        """Wait until nothing that the players inserted is unanswered, if the worker is so quick."""
        with anyio.move_on_after(SETTLE_SECONDS):
            while not self._is_cut_short and await _unanswered(database):  # noqa: ASYNC110 - a query
                await anyio.sleep(TICK_SECONDS)

    async def _end(
        self, database: AsyncDatabase[Document], figures: Figures, seconds: float
    ) -> int:
        console, venue = self._console, self._venue
        print_report(console, figures, await read_example(database, venue.request), seconds)
        if self._interrupted:
            console.print("Interrupted: the campaign was not played to its end.")
            return INTERRUPTED
        for problem in figures.problems:
            console.print(f"The request was rejected: {problem}")
        if figures.is_over and not figures.problems:
            return COMPLETED
        if not figures.problems:
            console.print(f"The campaign was not completed within {seconds:.0f} s: see the log.")
        return NOT_COMPLETED


async def _server_time(database: AsyncDatabase[Document]) -> datetime:
    hello = await database.command("hello")
    local: datetime = hello["localTime"]
    return local.replace(tzinfo=UTC)


async def _unanswered(database: AsyncDatabase[Document]) -> bool:
    found = await database["conversation_updates"].find_one(
        {"status": {"$exists": False}}, {"_id": 1}
    )
    return found is not None


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Keep what the worker logs off the screen."""
    logger.remove()
    sink = logger.add(path, level="INFO", format="{time} {level:<8} {message} {extra}")
    try:
        yield
    finally:
        logger.remove(sink)
