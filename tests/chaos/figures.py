"""What a run is told about in numbers."""

import json
from collections import Counter

from tests.chaos.fleet import SURVIVOR


def figures(world, requests, acknowledged, middle, end):
    """Count what happened."""
    database = world.database
    accepted = Counter(line["key"] for line in requests if line["accepted"])
    exits = Counter(one["exit_reason"] for one in database.conversations.find())
    statuses = Counter(one["status"] for one in database.messages.find())
    answers = Counter(one["status"] for one in database.conversation_updates.find())
    return {
        "requests": database.batch_requests.count_documents({}),
        "conversations": exits.total(),
        "exit reasons": dict(exits),
        "messages": dict(statuses),
        "updates": dict(answers),
        "deeds of the agent": len(acknowledged),
        "tried more than once": sum(line["tries"] > 1 for line in acknowledged),
        "hand-offs": len(requests),
        "accepted keys": len(accepted),
        "accepted again, under the same key": accepted.total() - len(accepted),
        "streams opened anew": dict(restarts(world)),
        "errors logged": dict(logged(world, "ERROR")),
        "memory of the survivor, MB": f"{middle[SURVIVOR]:.0f}, then {end[SURVIVOR]:.0f}",
    }


def logged(world, level):
    """Count what workers have logged at a level."""
    lines = (line for line in entries(world) if line.get("level") == level)
    return Counter(line["message"] for line in lines)


def restarts(world):
    """Count why change streams were opened anew."""
    said = "The change stream is opened anew"
    return Counter(str(line.get("code")) for line in entries(world) if line.get("message") == said)


def entries(world):
    """Give the lines of the workers' logs; one that was cut short by a kill is none."""
    for worker in world.fleet.workers:
        for line in worker.log.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue
