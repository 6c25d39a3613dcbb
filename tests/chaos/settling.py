"""After the faults: waiting until all is final, for as long as there is progress."""

import time

from pymongo.errors import PyMongoError

from tests.chaos.processes import until
from tests.invariants import FINAL

INBOXES = ("batch_requests", "conversation_updates", "campaign_updates")
#: Longer than a conversation's life: nothing changes while all wait for that.
STILL_SECONDS = 180
AGENT_SECONDS = 300
LOOK_SECONDS = 0.5


class NotSettledError(Exception):
    """Something never became final; says what."""

    def __init__(self, found, suspects):
        super().__init__(f"never became final: {found}")
        self.suspects = suspects


UNFINISHED = {
    **{inbox: {"status": None} for inbox in INBOXES},
    "conversations": {"$or": [{"status": {"$nin": list(FINAL)}}, {"slot": {"$ne": None}}]},
    "campaigns": {"completed_at": None},
}


def left(database):
    """Count what is not final yet, of each kind."""
    counts = {name: database[name].count_documents(query) for name, query in UNFINISHED.items()}
    counts["not counted"] = sum(not is_counted(database, one) for one in database.campaigns.find())
    return {name: count for name, count in counts.items() if count}


def suspects(database):
    """Give the ids of what is not final, the first of each kind."""
    found = (database[name].find_one(query, {"_id": 1}) for name, query in UNFINISHED.items())
    return [one["_id"] for one in found if one]


def is_counted(database, campaign):
    """Whether a campaign says the same of its conversations and messages as these themselves."""
    of = {"campaign_id": campaign["_id"]}
    messages = campaign.get("messages") or {}
    counts = campaign.get("counts") or {}
    exits = counts.get("by_exit_reason") or {}
    final = of | {"status": {"$in": list(FINAL)}}
    return (
        counts.get("open") == 0
        and sum(exits.values()) == database.conversations.count_documents(final)
        and sum(messages.values()) == database.messages.count_documents(of)
    )


def settle(world, agent):
    """Wait until all is final; NotSettledError after STILL_SECONDS without any progress."""
    until(lambda: not agent.is_alive(), AGENT_SECONDS, "the agent has ended", world.meanwhile)
    last, since = None, time.monotonic()
    while found := _look(world.database):
        if found != last:
            last, since = found, time.monotonic()
            world.say(f"left: {', '.join(f'{count} {name}' for name, count in found.items())}")
        if time.monotonic() - since > STILL_SECONDS:
            raise NotSettledError(found, suspects(world.database))
        world.pause(LOOK_SECONDS)
    world.say("all is final")


def _look(database):
    try:
        return left(database)
    except PyMongoError as error:
        return {type(error).__name__: 1}
