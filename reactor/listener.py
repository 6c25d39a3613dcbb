"""
The doorbell: at most one change stream per process, on a client of its own, that says whom to look at.

Projected to ids, and read raw: a document that cannot be decoded, or is too large for an event,
stops nothing. One rule for whatever goes wrong: open it anew at the present, and sweep once.
"""

from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

import anyio
import anyio.lowlevel
from attrs import define, frozen
from bson.raw_bson import RawBSONDocument
from loguru import logger
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import OperationFailure

from reactor.store.hints import hint_of
from reactor.store.protocol import Hint, Inbox
from schemas.ids import stable_fraction

#: An empty await of the stream; events come at once.
AWAIT_MS = 1_000
#: While others listen: how often it looks whether it is wanted, which changes with a sign of life.
UNWANTED_SECONDS = 0.5
BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 15.0
#: The server's own no-op moves a quiet stream's token every 10 s: one that stands still is dead.
STILL_SECONDS = 45.0
#: A stream that lived so long was a good one: the next trouble is a new one.
STEADY_SECONDS = 60.0

PIPELINE: list[Mapping[str, Any]] = [
    {
        "$match": {
            "operationType": {"$in": ["insert", "replace"]},
            "ns.coll": {"$in": [inbox.value for inbox in Inbox]},
        }
    },
    {
        "$project": {
            "ns.coll": 1,
            "documentKey": 1,
            "fullDocument.conversation_id": 1,
            "fullDocument.batch_request_id": 1,
            "fullDocument.recipient_id": 1,
            "fullDocument.campaign_id": 1,
        }
    },
]


class SilentStreamError(Exception):
    """The stream is open, and its token stands still: nothing comes from the server."""


@frozen(kw_only=True)
class Doorbell:
    """What the listener tells."""

    announce: Callable[[Inbox, Hint], None]
    #: The stream is open anew: what happened before must be swept.
    opened: Callable[[], None]
    #: The stream is alive.
    beat: Callable[[], None]
    restarted: Callable[[int | str], None]


@define
class Listener:
    database: AsyncDatabase[RawBSONDocument]
    doorbell: Doorbell
    #: The worker's: no two come back at the same time.
    name: str
    #: False: others listen now, and its stream is closed.
    wanted: Callable[[], bool]
    monotonic: Callable[[], float] = monotonic

    async def run(self) -> None:
        """Listen until cancelled. No cancellation ever cuts through an await of the stream."""
        backoff, restarts = BACKOFF_SECONDS, 0
        while True:
            if not self.wanted():
                self.doorbell.beat()
                await anyio.sleep(UNWANTED_SECONDS)
                continue
            opened_at = self.monotonic()
            try:
                await self._listen()
                if not self.wanted():
                    continue
                code: int | str = "closed"
            except OperationFailure as error:
                code = error.code or type(error).__name__
            except Exception as error:  # noqa: BLE001 - what it could not tell, the sweep finds
                code = type(error).__name__
            self.doorbell.restarted(code)
            logger.bind(code=code).warning("The change stream is opened anew")
            if self.monotonic() - opened_at > STEADY_SECONDS:
                backoff = BACKOFF_SECONDS
            # Many workers lose their streams at once, and need not come back at once.
            restarts += 1
            await anyio.sleep(backoff * (1 - stable_fraction(f"{self.name}/{restarts}") / 2))
            backoff = min(2 * backoff, MAX_BACKOFF_SECONDS)

    async def _listen(self) -> None:
        """Open the stream at the present and pass on what it tells, while it is wanted."""
        with anyio.CancelScope(shield=True):
            stream = await self.database.watch(PIPELINE, max_await_time_ms=AWAIT_MS)
        try:
            self.doorbell.opened()
            token, moved_at = stream.resume_token, self.monotonic()
            while stream.alive and self.wanted():
                with anyio.CancelScope(shield=True):
                    event = await stream.try_next()
                self.doorbell.beat()
                if stream.resume_token != token:
                    token, moved_at = stream.resume_token, self.monotonic()
                elif self.monotonic() - moved_at > STILL_SECONDS:
                    raise SilentStreamError
                if event is not None:
                    self._announce(event)
                # The shield let no cancellation in: this does.
                await anyio.lowlevel.checkpoint()
        finally:
            with anyio.CancelScope(shield=True):
                await stream.close()

    def _announce(self, event: RawBSONDocument) -> None:
        inbox = Inbox(event["ns"]["coll"])
        document = {**event.get("fullDocument", {}), "_id": event["documentKey"]["_id"]}
        self.doorbell.announce(inbox, hint_of(inbox, document, event["documentKey"].raw))
