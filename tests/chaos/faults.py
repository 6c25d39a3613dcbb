"""The faults: each begins, lasts as long as its block, and ends; what it was done to is what it gives."""

from contextlib import contextmanager

from attrs import frozen

from tests.chaos.network import CLIENT, FROM, TO

#: Not primary, shutting down, write conflict, interrupted at shutdown.
CODES = (10107, 91, 112, 11600)
COMMANDS = ["find", "aggregate", "insert", "update", "findAndModify", "getMore"]
#: Longer than a lease.
FREEZE_SECONDS = 9.0


@frozen(kw_only=True)
class Fault:
    """One kind of fault."""

    begin: object
    seconds: float = 3.0
    #: No other fault at the same time: it would spoil this one.
    alone: bool = False

    @property
    def name(self):
        """What the time line calls it."""
        return self.begin.__name__.replace("_", " ")


def fail_over(world, primary):
    """Wait until another is primary, and say from which to which: until then nothing is tried."""
    other = world.members.successor(primary, world.meanwhile)
    return f"{primary.name}, and then {other.name}"


@contextmanager
def primary_steps_down(world, chance):
    """The primary gives up its office."""
    primary = world.members.primary()
    primary.admin("replSetStepDown", 10, secondaryCatchUpPeriodSecs=5)
    yield primary.name


@contextmanager
def primary_killed(world, chance):
    """Kill -9; it is started again afterwards."""
    primary = world.members.primary()
    primary.kill()
    yield fail_over(world, primary)


@contextmanager
def primary_frozen(world, chance):
    """It neither answers nor ends, and wakes up in the belief that it is the primary."""
    primary = world.members.primary()
    primary.freeze()
    yield fail_over(world, primary)


@contextmanager
def secondaries_frozen(world, chance):
    """Nothing reaches a majority."""
    frozen_ones = world.members.secondaries()
    for member in frozen_ones:
        member.freeze()
    yield ", ".join(member.name for member in frozen_ones)


@contextmanager
def primary_isolated(world, chance):
    """Nobody hears the primary, and it hears nobody."""
    primary = world.members.primary()
    world.network.isolate(primary.port)
    yield fail_over(world, primary)


@contextmanager
def clients_cut_off(world, chance):
    """No client reaches any member."""
    for member in world.members.members:
        world.network.cut(member.port, CLIENT, TO, FROM)
    yield "both ways"


@contextmanager
def answers_lost(world, chance):
    """What clients ask is done, and no answer reaches them."""
    for member in world.members.members:
        world.network.cut(member.port, CLIENT, FROM)
    yield "from the members"


@contextmanager
def requests_lost(world, chance):
    """What clients ask of the primary does not reach it; its answers would."""
    primary = world.members.primary()
    world.network.cut(primary.port, CLIENT, TO)
    yield f"to {primary.name}"


@contextmanager
def connections_reset(world, chance):
    """All connections of clients break, again and again."""
    with world.every(0.7, world.network.reset):
        yield "every 0.7 s"


@contextmanager
def commands_fail(world, chance):
    """A third of all commands is answered with an error, or not at all."""
    code = chance.choice([None, *CODES])
    what = {"errorCode": code} if code else {"closeConnection": True}
    world.members.primary().admin(
        "configureFailPoint",
        "failCommand",
        mode={"activationProbability": 0.3},
        data={"failCommands": COMMANDS, **what},
    )
    yield f"code {code}" if code else "connection closed"


@contextmanager
def acknowledgements_lost(world, chance):
    """Writes are done, and the connection is closed before the answer."""
    world.members.primary().admin(
        "configureFailPoint", "onPrimaryTransactionalWrite", mode={"activationProbability": 0.3}
    )
    yield "connection closed after the write"


@contextmanager
def oplog_rolled_over(world, chance):
    """A worker is frozen, and when it wakes up the oplog has gone past its change stream."""
    worker = chance.choice(world.fleet.workers)
    with frozen_all([worker]):
        megabytes = world.members.roll_oplog_over(world.meanwhile)
        yield f"{worker.name} frozen, {megabytes} MB"


@contextmanager
def streams_killed(world, chance):
    """The server forgets the workers' change streams."""
    killed = world.kill_streams()
    yield f"{killed} cursors"


@contextmanager
def frozen_all(workers):
    """Freeze workers; they wake up with leases that are over."""
    for worker in workers:
        worker.freeze()
    try:
        yield
    finally:
        for worker in workers:
            worker.thaw()


@contextmanager
def workers_killed(world, chance):
    """Kill -9 of one or two; they are started again."""
    victims = chance.sample(world.fleet.mortals(), chance.choice([1, 2]))
    for worker in victims:
        worker.kill()
    yield ", ".join(worker.name for worker in victims)
    for worker in victims:
        worker.start()


@contextmanager
def workers_frozen(world, chance):
    """SIGSTOP for longer than a lease."""
    victims = chance.sample(world.fleet.workers, chance.choice([1, 2]))
    with frozen_all(victims):
        yield ", ".join(worker.name for worker in victims)


@contextmanager
def receiver_hangs(world, chance):
    """It takes requests, and never answers."""
    world.receiver.set_mode("hang")
    yield "hang"
    world.receiver.set_mode("ok")


@contextmanager
def receiver_flaps(world, chance):
    """It refuses, fails, accepts without an answer, and works, in turns."""
    modes = ["503", "ok", "cut", "refuse", "429:1", "slow:1"]
    with world.every(0.7, lambda: world.receiver.set_mode(chance.choice(modes))):
        yield "every 0.7 s"
    world.receiver.set_mode("ok")


@contextmanager
def nothing(world, chance):
    """No second fault."""
    yield ""


DATABASE = (
    Fault(begin=primary_steps_down),
    Fault(begin=primary_killed),
    Fault(begin=primary_frozen),
    Fault(begin=secondaries_frozen, seconds=6.0),
    Fault(begin=primary_isolated),
    Fault(begin=clients_cut_off),
    Fault(begin=answers_lost),
    Fault(begin=requests_lost, seconds=4.0),
    Fault(begin=connections_reset),
    Fault(begin=commands_fail),
    Fault(begin=acknowledgements_lost),
    Fault(begin=oplog_rolled_over, seconds=1.0, alone=True),
    Fault(begin=streams_killed, seconds=1.0),
)
OTHERS = (
    Fault(begin=workers_killed, seconds=1.0),
    Fault(begin=workers_frozen, seconds=FREEZE_SECONDS),
    Fault(begin=receiver_hangs),
    Fault(begin=receiver_flaps),
    Fault(begin=nothing, seconds=0.0),
)
