"""A command's database: connected to, asked for its time, let go; its errors become one line."""

import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from functools import wraps
from typing import Any, Concatenate

import anyio
import pymongo
from attrs import frozen
from pymongo import WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import OperationFailure, PyMongoError, ServerSelectionTimeoutError

from reactor.cli.failure import Failure, UsageFailure
from reactor.database import connect
from reactor.environment import masked
from reactor.settings import Settings, SettingsError, load_settings

ANSWER_SECONDS = 3.0
WRITE_SECONDS = 10.0

NO_URI = """\
MONGODB_URI is not set: say where the database is, for example
  MONGODB_URI='mongodb://127.0.0.1:27017/?replicaSet=rs0'
`reactor demo` needs none: it brings its own, for as long as it runs."""

type Document = dict[str, Any]


@frozen(kw_only=True)
class Session:
    """A database that answered; `now` is its time when it did, as campaign time."""

    settings: Settings
    database: AsyncDatabase[Document]
    now: datetime

    async def time(self) -> datetime:
        """Ask for the time again."""
        return self.settings.time_scale().campaign_time(await server_time(self.database))

    def inbox(self, name: str) -> AsyncCollection[Document]:
        """Give a collection to write to: acknowledged by the majority, or an error."""
        concern = WriteConcern("majority", wtimeout=int(WRITE_SECONDS * 1000))
        return self.database.get_collection(name, write_concern=concern)


def read_settings() -> Settings:
    """Read the settings from the environment; `Failure` with all that are wrong, a line each."""
    try:
        return load_settings(os.environ)
    except SettingsError as error:
        raise UsageFailure("\n".join(error.problems)) from None


def need_uri(settings: Settings) -> str:
    if not settings.mongodb_uri:
        raise UsageFailure(NO_URI)
    return settings.mongodb_uri


@asynccontextmanager
async def session(settings: Settings) -> AsyncIterator[Session]:
    """Connect for one command. `Failure`: no URI, no server within 3 s, or it refused something."""
    uri = need_uri(settings)
    with said_in_one_line(uri):
        async with connect(uri, worker="cli") as client:
            database = client[settings.mongodb_db]
            with pymongo.timeout(ANSWER_SECONDS):
                now = settings.time_scale().campaign_time(await server_time(database))
            yield Session(settings=settings, database=database, now=now)


async def server_time(database: AsyncDatabase[Document]) -> datetime:
    hello = await database.command("hello", codec_options=database.codec_options)
    moment: datetime = hello["localTime"]
    return moment


def with_session[**P](
    command: Callable[Concatenate[Session, P], Awaitable[None]],
) -> Callable[P, None]:
    """Run an asynchronous command with a session of its own."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        settings = read_settings()

        async def connected() -> None:
            async with session(settings) as open_session:
                await command(open_session, *args, **kwargs)

        anyio.run(connected)

    return run


@contextmanager
def said_in_one_line(uri: str) -> Iterator[None]:
    """Turn what the driver raises into a `Failure` that names the server and what it said."""
    try:
        yield
    except PyMongoError as error:
        raise Failure(f"{masked(uri)}: {reason(error)}") from error


def reason(error: PyMongoError) -> str:
    """Say what went wrong in one line, without the driver's view of the topology."""
    if isinstance(error, ServerSelectionTimeoutError):
        cause = re.split(r" \(configured timeouts|, Timeout:", str(error))[0]
        return f"no server that can serve this answers: {cause}"
    if isinstance(error, OperationFailure) and error.details:
        said = str(error.details.get("errmsg") or error)
        return f"{said} (code {error.code})"
    return " ".join(str(error).split())[:500]
