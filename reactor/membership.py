"""Membership: each worker gives a sign of life, and from who else does follows what is its own."""

from collections.abc import Callable

import anyio
from attrs import define, field, frozen
from loguru import logger

from reactor.engine import Engine
from reactor.store.protocol import Hint, Inbox, Member, StoreUnavailableError
from reactor.sweep import look_at

#: Seconds between two signs of life, and without one before a worker is taken for dead.
BEAT_SECONDS = 1.0
GONE_SECONDS = 4.0
#: How often what was left to others is looked at, and how much of it at once.
LOOK_SECONDS = 0.25
MOST = 100


@define
class Membership:
    engine: Engine
    #: Unique for each start of a worker: one that comes back is another one.
    worker: str
    #: False: it is stuck, and what is its own is for others.
    alive: Callable[[], bool]
    #: Its change stream is switched on.
    can_listen: bool = True
    _heard: int = field(default=0, init=False)
    _known: dict[str, Member] = field(factory=dict, init=False)
    _left: bool = field(default=False, init=False)

    async def run(self) -> None:
        """Beat until cancelled, or gone."""
        while not self._left:
            if self.alive():
                await self.beat()
            await anyio.sleep(BEAT_SECONDS)

    async def beat(self) -> None:
        """Give a sign of life, and take one's share; a database that does not answer changes none."""
        me = Member(can_listen=self.can_listen, heard=self._heard)
        try:
            living = await self.engine.store.beat(self.worker, me, gone_seconds=GONE_SECONDS)
        except StoreUnavailableError as error:
            logger.bind(error_type=str(error)).warning("No sign of life could be given")
            return
        known, self._known = self._known, living
        if living.keys() == known.keys():
            if living != known and not self.engine.share.listens:
                # What those who listen make of it may be work for all.
                self.engine.turns.want_sweep()
            return
        can_listen = {worker for worker, member in living.items() if member.can_listen}
        self.engine.share.among(self.worker, living, can_listen)
        # What was another's may be ours now.
        self.engine.turns.want_sweep()
        logger.bind(workers=len(living), listens=self.engine.share.listens).info(
            "The workers share what is to be done anew"
        )

    def hears(self, inbox: Inbox) -> None:
        """The stream told of a document; with the next sign of life the others hear of what is for all."""
        if inbox is not Inbox.CONVERSATION_UPDATES:
            self._heard += 1

    async def leave(self) -> None:
        """Let the others have what was this worker's; what it has in hand it ends."""
        self._left = True
        try:
            await self.engine.store.leave(self.worker)
        except StoreUnavailableError as error:
            logger.bind(error_type=str(error)).warning("The others find out by themselves")


@frozen
class SecondLook:
    """Looks whether others have answered what is theirs, and does so where they have not."""

    engine: Engine

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await anyio.sleep(LOOK_SECONDS)
            while overdue := self.engine.share.overdue(MOST):
                try:
                    await self._look(overdue)
                except StoreUnavailableError:
                    self.engine.turns.want_sweep()

    async def _look(self, overdue: list[tuple[Inbox, Hint]]) -> None:
        for inbox in Inbox:
            hints = {hint.raw_id.data: hint for of, hint in overdue if of is inbox}
            raw_ids = [hint.raw_id for hint in hints.values()]
            for raw_id in await self.engine.store.waiting(inbox, raw_ids):
                look_at(self.engine, inbox, hints[raw_id.data])
