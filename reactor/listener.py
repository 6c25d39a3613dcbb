"""
The doorbell: one change stream per process, on a client of its own, that says whom to look at.

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
from pymongo.errors import OperationFailure, PyMongoError

from reactor.store.hints import hint_of
from reactor.store.protocol import Hint, Inbox

#: An empty await of the stream; events come at once.
AWAIT_MS = 1_000
BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 15.0
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

    async def run(self) -> None:
        """Listen until cancelled. No cancellation ever cuts through an await of the stream."""
        backoff = BACKOFF_SECONDS
        while True:
            opened_at = monotonic()
            try:
                await self._listen()
                code: int | str = "closed"
            except OperationFailure as error:
                code = error.code or type(error).__name__
            except PyMongoError as error:
                code = type(error).__name__
            self.doorbell.restarted(code)
            logger.bind(code=code).warning("The change stream is opened anew")
            if monotonic() - opened_at > STEADY_SECONDS:
                backoff = BACKOFF_SECONDS
            await anyio.sleep(backoff)
            backoff = min(2 * backoff, MAX_BACKOFF_SECONDS)

    async def _listen(self) -> None:
        """Open the stream at the present and pass on what it tells, until it ends."""
        with anyio.CancelScope(shield=True):
            stream = await self.database.watch(PIPELINE, max_await_time_ms=AWAIT_MS)
        try:
            self.doorbell.opened()
            while stream.alive:
                with anyio.CancelScope(shield=True):
                    event = await stream.try_next()
                self.doorbell.beat()
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
