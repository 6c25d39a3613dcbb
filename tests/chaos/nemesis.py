"""The nemesis: picks faults by seed, two at a time, and heals each pair before the next."""

import random
import time
from contextlib import ExitStack

from attrs import define, field

from tests.chaos.faults import DATABASE, OTHERS, Fault, nothing

ALONE = Fault(begin=nothing, seconds=0.0)


@define
class Bag:
    """Gives every fault once, in any order, before any of them again."""

    chance: random.Random
    faults: tuple
    left: list = field(factory=list)

    def pick(self):
        """Give the next fault."""
        if not self.left:
            self.left = self.chance.sample(self.faults, len(self.faults))
        return self.left.pop()


class Nemesis:
    """Does faults to a world."""

    def __init__(self, world, seed):
        self.world = world
        self.chance = random.Random(f"{seed} nemesis")
        self.databases = Bag(self.chance, DATABASE)
        self.others = Bag(self.chance, OTHERS)
        self.rounds = 0

    def rage(self, seconds, rounds=1):
        """Do faults until the time is over and there were so many rounds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end or self.rounds < rounds:
            self.round()

    def round(self):
        """Do two faults at a time, the first of the database, then heal and leave a moment's peace."""
        world, chance = self.world, self.chance
        self.rounds += 1
        first = self.databases.pick()
        faults = [first, ALONE if first.alone else self.others.pick()]
        chance.shuffle(faults)
        with ExitStack() as stack:
            for fault in faults:
                if fault.begin is not nothing:
                    world.say(fault.name)
                if about := stack.enter_context(fault.begin(world, chance)):
                    world.say(f"{fault.name}: {about}")
                world.pause(chance.uniform(0, 1))
            world.pause(max(fault.seconds for fault in faults))
        world.members.heal()
        world.say("healed")
        world.pause(chance.uniform(0.5, 3))
