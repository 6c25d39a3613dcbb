"""The composition root: everything a worker is made of, how it starts, and how it ends."""

import os
import platform
import secrets
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from time import monotonic

import anyio
from attrs import frozen
from bson.raw_bson import RawBSONDocument
from loguru import logger
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError

import reactor
from reactor.channels.registry import open_channels
from reactor.clock import ServerClock, TimeScale, in_campaign_time
from reactor.counting import Changed
from reactor.database import connect, connect_listener
from reactor.dispatch import Dispatcher, Wake
from reactor.engine import Engine
from reactor.heartbeat import Heartbeat
from reactor.indexes import ensure_indexes
from reactor.listener import Doorbell, Listener
from reactor.membership import Membership, SecondLook
from reactor.recount import recount
from reactor.settings import Settings
from reactor.sharing import Share
from reactor.slots import Slots
from reactor.store.mongo import MongoStore
from reactor.store.protocol import Hint, Inbox, StoreUnavailableError
from reactor.sweep import Sweep, announce
from reactor.telemetry import start_telemetry
from reactor.turns import Turns
from reactor.watch import watch_over

#: A part that shows no progress for so long is dead, and the heartbeat stops.
PART_SECONDS = 30.0
#: How long the first sweep waits for the stream: opened first, it leaves no gap.
STREAM_SECONDS = 5.0
#: Two sweeps are never closer, however many ask for one.
BETWEEN_SWEEPS_SECONDS = 1.0
COUNT_LOOK_SECONDS = 0.5
#: Batches of each slot that may be at a channel at once.
HANDS_FULL = 2
EXIT_FAILED = 1


@frozen(kw_only=True)
class Worker:
    #: Unique for each start.
    identity: str
    settings: Settings
    engine: Engine
    wake: Wake
    #: None: the change stream is switched off.
    listening: AsyncDatabase[RawBSONDocument] | None

    async def run_once(self) -> None:
        """Do all work that there is now, and what follows from it at once."""
        sweep, dispatcher = Sweep(self.engine), self._dispatcher(_nothing)
        while True:
            await sweep.run()
            await dispatcher.run(anyio.Event(), once=True)
            if not self.engine.turns.sweep_wanted.is_set():
                break
        await self._recount(everything=True)

    async def run(self, stop: anyio.Event, *, signals: bool) -> None:
        """Work until told to stop; then end what was begun."""
        heartbeat = Heartbeat(self.settings.heartbeat_file)
        dispatcher = self._dispatcher(heartbeat.part("dispatch", PART_SECONDS))
        opened, sweep = anyio.Event(), Sweep(self.engine)
        can_listen = self.listening is not None
        membership = Membership(self.engine, self.identity, heartbeat.is_alive, can_listen)
        await membership.beat()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(heartbeat.run)
            tasks.start_soon(membership.run)
            tasks.start_soon(SecondLook(self.engine).run)
            if self.listening is not None:
                doorbell = self._doorbell(sweep, opened, heartbeat, membership)
                listener = Listener(
                    self.listening, doorbell, self.identity, lambda: self.engine.share.listens
                )
                tasks.start_soon(listener.run)
            if self.listening is None or not self.engine.share.listens:
                opened.set()
            beat = heartbeat.part("poll", PART_SECONDS + self.settings.polling_interval_seconds)
            tasks.start_soon(self._poll, sweep, opened, beat)
            tasks.start_soon(self._count)
            if signals:
                tasks.start_soon(_stop_on_signal, stop)
            await self._dispatch(dispatcher, membership, stop)
            tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._recount(everything=True)

    def _dispatcher(self, beat: Callable[[], None]) -> Dispatcher:
        return Dispatcher(
            engine=self.engine,
            wake=self.wake,
            beat=beat,
        )

    def _doorbell(
        self, sweep: Sweep, opened: anyio.Event, heartbeat: Heartbeat, membership: Membership
    ) -> Doorbell:
        def tell(inbox: Inbox, hint: Hint) -> None:
            sweep.announced(hint)
            membership.hears(inbox)
            announce(self.engine, inbox, hint)

        def is_open() -> None:
            opened.set()
            self.engine.turns.want_sweep()

        return Doorbell(
            announce=tell,
            opened=is_open,
            beat=heartbeat.part("listener", PART_SECONDS),
            restarted=self.engine.telemetry.stream_restarted,
        )

    async def _dispatch(
        self, dispatcher: Dispatcher, membership: Membership, stop: anyio.Event
    ) -> None:
        """Dispatch until `stop`, and for as long as the grace lasts what was begun then."""
        grace = self.settings.shutdown_grace_seconds
        async with anyio.create_task_group() as tasks:

            async def end() -> None:
                await stop.wait()
                logger.info("The worker stops: what was begun ends first")
                self.wake()
                # What cannot end within the grace is given back instead of being begun.
                rest = max(0.0, grace - self.settings.channel_timeout_seconds)
                self.engine.slots.begin_until = self.engine.clock.monotonic() + rest
                with anyio.move_on_after(grace):
                    await membership.leave()
                    await anyio.sleep(grace)
                logger.warning("The grace is over: what is left is taken over later")
                tasks.cancel_scope.cancel()

            tasks.start_soon(end)
            await dispatcher.run(stop)
            tasks.cancel_scope.cancel()

    async def _poll(self, sweep: Sweep, opened: anyio.Event, beat: Callable[[], None]) -> None:
        """Sweep at the start, then every POLLING_INTERVAL_SECONDS or when a sweep is wanted."""
        with anyio.move_on_after(STREAM_SECONDS):
            await opened.wait()
        turns = self.engine.turns
        while True:
            began = monotonic()
            try:
                await sweep.run()
                self.wake()
                beat()
            except StoreUnavailableError as error:
                turns.want_sweep()
                logger.bind(error_type=str(error)).warning("A sweep failed")
            await anyio.sleep(BETWEEN_SWEEPS_SECONDS)
            rest = self.settings.polling_interval_seconds - (monotonic() - began)
            with anyio.move_on_after(rest):
                await turns.sweep_wanted.wait()

    async def _count(self) -> None:
        while True:
            await anyio.sleep(COUNT_LOOK_SECONDS)
            await self._recount()

    async def _recount(self, *, everything: bool = False) -> None:
        engine = self.engine
        for campaign_id, changed_at in engine.changed.due(everything=everything):
            try:
                await recount(engine, campaign_id, changed_at, everything=everything)
            except StoreUnavailableError:
                return


def _nothing() -> None:
    """A worker that runs once has no heartbeat."""


async def _stop_on_signal(stop: anyio.Event) -> None:
    """The first signal asks it to stop, the second ends it."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
        async for _ in received:
            if stop.is_set():
                logger.warning("A second signal: the worker ends at once")
                os._exit(EXIT_FAILED)
            stop.set()


async def run(settings: Settings, *, once: bool = False, stop: anyio.Event | None = None) -> int:
    """
    Run a worker until SIGTERM or SIGINT, or until `stop`; with `once`, until nothing has work.

    The exit code: 0, or 1 where it could not start. What was begun ends first, within
    SHUTDOWN_GRACE_SECONDS; a second signal ends it at once.
    """
    async with AsyncExitStack() as stack:
        try:
            worker = await assemble(settings, stack)
        except (PyMongoError, StoreUnavailableError) as error:
            logger.bind(error_type=type(error).__name__).error("The worker cannot start: {}", error)
            return EXIT_FAILED
        if once:
            await worker.run_once()
        else:
            await worker.run(stop or anyio.Event(), signals=stop is None)
        telemetry = worker.engine.telemetry
    logger.bind(conversations=telemetry.decided, wasted=telemetry.wasted).info(
        "The worker has stopped"
    )
    return 0


async def assemble(
    settings: Settings, stack: AsyncExitStack, scale: TimeScale | None = None
) -> Worker:
    """Connect a worker's parts; they are open as long as the stack is."""
    scale = scale or settings.time_scale()
    if settings.mongodb_uri is None:
        raise ValueError("a worker needs MONGODB_URI")
    identity = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(3)}"
    telemetry = start_telemetry(os.environ, identity)
    stack.push_async_callback(telemetry.close)
    client = connect(settings.mongodb_uri, worker=identity)
    stack.push_async_callback(client.close)
    listening = connect_listener(settings.mongodb_uri, worker=identity)
    stack.push_async_callback(listening.close)
    database = client[settings.mongodb_db]
    server = await client.server_info()
    await ensure_indexes(database)
    wake, specs = Wake(), settings.channel_specs()
    engine = Engine(
        store=MongoStore(database, scale),
        scale=scale,
        clock=ServerClock(scale),
        watches=watch_over(
            await stack.enter_async_context(open_channels(settings.channels)),
            most=HANDS_FULL * settings.worker_threads * settings.max_conversations_per_batch,
            lease_seconds=settings.lease_seconds,
        ),
        specs={name: in_campaign_time(spec, scale) for name, spec in specs.items()},
        turns=Turns(
            max_campaigns=settings.max_concurrent_campaigns,
            batch_size=settings.max_conversations_per_batch,
            wake=wake,
        ),
        slots=Slots(total=settings.worker_threads, wake=wake),
        share=Share(),
        changed=Changed(),
        telemetry=telemetry,
        batch_size=settings.max_conversations_per_batch,
        lease_seconds=settings.lease_seconds,
        channel_timeout_seconds=settings.channel_timeout_seconds,
        max_messages_per_recipient_per_day=settings.max_messages_per_recipient_per_day,
        retention=settings.retention(),
    )
    logger.bind(
        worker_id=identity,
        version=reactor.__version__,
        mongodb=server["version"],
        database=settings.mongodb_db,
        channels=sorted(settings.channels),
        batches=settings.worker_threads,
    ).info("The worker starts")
    return Worker(
        identity=identity,
        settings=settings,
        engine=engine,
        wake=wake,
        listening=listening[settings.mongodb_db] if settings.change_stream else None,
    )
