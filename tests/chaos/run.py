"""One run: a world, an agent, faults, and then the judge."""

from contextlib import ExitStack

from attrs import frozen

from tests.chaos.evidence import evidence
from tests.chaos.faults import DATABASE
from tests.chaos.figures import figures
from tests.chaos.judge import grown, judge, leftovers
from tests.chaos.nemesis import Nemesis
from tests.chaos.processes import until
from tests.chaos.settling import NotSettledError, settle
from tests.chaos.world import world as make_world

ELECTION_SECONDS = 4
#: Until the server has swept up what dead connections left.
SWEPT_SECONDS = 90


@frozen(kw_only=True)
class Plan:
    """What makes a run: it is the same again with the same plan, as far as a machine allows."""

    seed: int
    seconds: float
    conversations: int


def play(plan, directory):
    """Do it all, and give what does not hold."""
    with ExitStack() as stack:
        world = stack.enter_context(make_world(directory, election_seconds=ELECTION_SECONDS))
        agent = world.start_agent(stack, plan.seed, plan.seconds, plan.conversations)
        nemesis = Nemesis(world, plan.seed)
        nemesis.rage(plan.seconds / 2)
        middle = world.memory()
        # However short: every kind of fault is there once.
        nemesis.rage(plan.seconds / 2, len(DATABASE))
        try:
            settle(world, agent)
        except NotSettledError as error:
            requests = world.receiver.requests()
            return [str(error), *evidence(world.database, requests, error.suspects)]
        return findings(world, agent, middle)


def findings(world, agent, middle):
    """Judge a world that has settled."""
    requests, acknowledged = world.receiver.requests(), world.acknowledged()
    verdict = judge(world.database, requests, acknowledged)
    found = verdict.findings + evidence(world.database, requests, verdict.suspects)
    if agent.popen.returncode:
        found.append(f"the agent ended with {agent.popen.returncode}")
    found += [f"a worker died by itself: {one}" for one in world.fleet.deaths]
    end = world.memory()
    found += [f"memory has grown {one}" for one in grown(middle, end)]
    try:
        until(lambda: not leftovers(world), SWEPT_SECONDS, "swept up", world.meanwhile)
    except TimeoutError:
        found += [f"left on the servers: {one}" for one in leftovers(world)]
    codes = world.fleet.stop()
    if any(codes):
        found.append(f"workers ended with {codes}")
    for name, value in figures(world, requests, acknowledged, middle, end).items():
        world.say(f"{name}: {value}")
    return found
