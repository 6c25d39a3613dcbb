"""What must hold when all is final: the documents, the witness, and what was acknowledged, compared."""

from collections import Counter

from pymongo.errors import PyMongoError

from tests.chaos.faults import FREEZE_SECONDS
from tests.chaos.fleet import SETTINGS, SURVIVOR
from tests.chaos.poison import POISON
from tests.invariants import (
    ACCEPTED,
    FINAL,
    accounting,
    honesty,
    keys,
    liveness,
    nothing_dropped,
    order,
)

#: What was marked before an opt-out was acknowledged leaves within its lease, or with a worker that
#: was frozen between its last look at the lease and the hand-off; the rest is for a slow machine.
LAST_SECONDS = float(SETTINGS["LEASE_SECONDS"]) + FREEZE_SECONDS + 10
#: Memory of a worker, from the middle to the end.
GROWTH = 1.5
SHOWN = 5
#: Answers that are as good as none: what was inserted is there all the same.
ANSWERS = {"applied", "ignored", "rejected", "parked", "accepted"}


class Verdict:
    """Collects what does not hold, each with the documents that show it."""

    def __init__(self):
        self.findings = []
        #: Conversations, or whatever else, that show it.
        self.suspects = []

    def hold(self, what, wrong):
        """There must be nothing wrong."""
        wrong = list(wrong)
        if wrong:
            self.findings.append(f"{what}: {len(wrong)}, as {wrong[:SHOWN]}")
            self.suspects += wrong[:SHOWN]

    def check(self, what, check, *args, about=None):
        """A check of the invariants must pass."""
        try:
            check(*args)
        except AssertionError as error:
            said = str(error).splitlines()[:1]
            self.findings.append(f"{what}: {said}, {_where(error)} {about or ''}")
            self.suspects += [about] if about else []


def _where(error):
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    return f"line {trace.tb_lineno} of {trace.tb_frame.f_code.co_name}"


def judge(database, requests, acknowledged):
    """Hold the documents, the receiver's log and the agent's log to I1 to I7; give the verdict."""
    verdict = Verdict()
    witness = hand_offs(requests)
    documents(database, verdict)
    messages = {one["_id"]: one for one in database.messages.find()}
    reported = told_by_reports(database, messages)
    told_by_us = {key: one for key, one in messages.items() if key not in reported}
    verdict.check("I4, I8: order", order, first_of_each(witness))
    taken = [line for line in witness if may_have_been_taken(line)]
    verdict.check("I6: outcome", honesty, taken, told_by_us)
    verdict.hold("one key, two bodies", two_bodies(witness))
    accepted = {line["key"] for line in witness if line["accepted"]}
    maybe = {line["key"] for line in taken}
    verdict.hold("maybe accepted, and not in the ledger", maybe - messages.keys())
    verdict.hold("maybe accepted, and not called so", not_called_so(maybe, messages))
    sent = {key for key, one in told_by_us.items() if one["status"] in ACCEPTED}
    verdict.hold("lost: called sent, and never accepted", sent - accepted)
    verdict.hold("acknowledged, and gone or unanswered", unanswered(database, acknowledged))
    verdict.hold("rejected, and nothing was wrong with it", wrongly_rejected(database))
    verdict.hold("sent after an opt-out", after_opt_out(database, witness, acknowledged))
    return verdict


def documents(database, verdict):
    """I1, I2, I3, I7, I9, from the documents alone."""
    conversations = {}
    for one in database.conversations.find():
        conversations.setdefault(one["campaign_id"], []).append(one)
    by_conversation = {}
    for one in database.messages.find({}, {"conversation_id": 1}):
        by_conversation.setdefault(one["conversation_id"], []).append(one["_id"])
    for campaign in database.campaigns.find():
        mine = conversations.pop(campaign["_id"], [])
        about = campaign["_id"]
        verdict.check("I1: accounting", accounting, database, campaign, mine, about=about)
        verdict.hold("not completed", [] if campaign["completed_at"] else [about])
        for one in mine:
            own = by_conversation.get(one["_id"], ())
            verdict.check("I3: liveness", liveness, campaign, one, about=one["_id"])
            verdict.check("I2, I9: keys", keys, campaign, one, own, about=one["_id"])
            verdict.hold("not final", [] if one["status"] in FINAL else [one["_id"]])
    verdict.hold("conversations of no campaign", conversations)
    verdict.check("I7: nothing dropped", nothing_dropped, database)


def may_have_been_taken(line):
    """Whether a worker cannot know that a message was not accepted: it got no answer that says so."""
    return line["accepted"] or line["mode"] == "hang"


def told_by_reports(database, messages):
    """Give keys that a report calls delivered or bounced: the gateway's word, whoever handed them off."""
    reports = database.conversation_updates.find({"kind": {"$in": ["delivered", "bounced"]}})
    about = {(one["batch_request_id"], one["recipient_id"]) for one in reports}
    return {
        key
        for key, one in messages.items()
        if one["status"] in {"delivered", "bounced"}
        and (one.get("batch_request_id"), one.get("recipient_id")) in about
    }


def hand_offs(requests):
    """Give what reached the receiver, oldest first."""
    return [{**line, "conversation_id": line["key"].rsplit("/", 2)[0]} for line in requests]


def first_of_each(witness):
    """Give the first hand-off of each key: a later one is a duplicate, harmless by its key."""
    first = {}
    for line in witness:
        kept = {name: line[name] for name in ("key", "conversation_id", "sha256")}
        first.setdefault(line["key"], kept)
    return list(first.values())


def two_bodies(witness):
    """Give keys that were handed off with different bodies."""
    bodies = {}
    for line in witness:
        bodies.setdefault(line["key"], set()).add(line["sha256"])
    return [key for key, different in bodies.items() if len(different) > 1]


def not_called_so(maybe, messages):
    """Give messages that were accepted, maybe, and of which the ledger claims that they were not."""
    honest = ACCEPTED | {"unknown"}
    return [key for key in maybe & messages.keys() if messages[key]["status"] not in honest]


def unanswered(database, acknowledged):
    """Give what the agent knows to be there, and is not there, or has no answer."""
    given = {(line["collection"], line["_id"]) for line in acknowledged}
    for collection in {name for name, _ in given}:
        answered = {"status": {"$in": list(ANSWERS)}}
        found = {one["_id"] for one in database[collection].find(answered, {"_id": 1})}
        given -= {(collection, identity) for identity in found}
    return sorted(given)


def wrongly_rejected(database):
    """Give what the agent inserted in good order and was not taken."""
    rejected = {"status": {"$in": ["rejected", "parked"]}}
    for collection in ("batch_requests", "conversation_updates", "campaign_updates"):
        for one in database[collection].find(rejected, {"_id": 1}):
            if not one["_id"].startswith(POISON):
                yield one["_id"]


def after_opt_out(database, witness, acknowledged):
    """Give keys that were first handed off when an opt-out had been there for too long to be missed."""
    at = {line["_id"]: line["at"] for line in acknowledged if line["how"] == "insert"}
    since = {}
    for update in database.conversation_updates.find({"kind": "opted_out"}):
        whom = {"batch_request_id": update["batch_request_id"]}
        one = database.conversations.find_one(
            whom | {"recipient.id": update["recipient_id"]}, {"_id": 1}
        )
        if one and update["_id"] in at:
            since[one["_id"]] = at[update["_id"]]
    first = {}
    for line in witness:
        first.setdefault(line["key"], line)
    return [
        key
        for key, line in first.items()
        if line["at"] > since.get(line["conversation_id"], line["at"]) + LAST_SECONDS
    ]


def leftovers(world):
    """Give what the workers have left behind on the servers that no living one needs."""
    try:
        cursors = Counter(
            whose for member in world.members.members for whose, _ in world.cursors(member)
        )
    except PyMongoError as error:
        return [f"cannot be told: {type(error).__name__}"]
    wrong = [f"{whose}: {count} cursors" for whose, count in cursors.items() if count > 1]
    if len(cursors) > len(world.fleet.workers):
        wrong.append(f"cursors of {len(cursors)} workers: {sorted(cursors)}")
    for member in world.members.members:
        status = member.admin("serverStatus")
        open_now = status["transactions"]["currentOpen"] if status else "who knows how many"
        if open_now:
            wrong.append(f"{member.name}: {open_now} open transactions")
    return wrong


def grown(middle, end):
    """Say whether the memory of the worker that lived throughout has grown, in MB."""
    if end[SURVIVOR] > middle[SURVIVOR] * GROWTH:
        return [f"from {middle[SURVIVOR]:.0f} to {end[SURVIVOR]:.0f} MB"]
    return []
