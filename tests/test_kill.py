"""
A worker that is killed at any step between decision and record: nothing is lost, nothing is doubled.

A real process dies by SIGKILL at its k-th step, k = 1, 2, 3 and so on until one lives to the end; what
a step is stands in tests/killed_worker.py. Another process takes over. The witness is the log of a real
receiver, a process as well.

Between two steps that change nothing outside the worker, deaths are alike. So what is enumerated are
the steps that do, and of the others a sample; REACTOR_KILL=all enumerates them all, and takes minutes.
"""

import itertools
import json
import os
import random
import re
import secrets
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from attrs import define, field, frozen

from schemas.documents import CODEC
from schemas.ids import conversation_id
from tests.builders import batch_request_document, recipient_document, template_document
from tests.invariants import check_invariants
from tests.receivers.running import http_receiver

ROOT = Path(__file__).parent.parent
DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
#: Workers that live and die at the same time, each on a database of its own.
LANES = 3
#: For one answer of a worker, seconds: one that takes longer hangs.
PATIENCE = 60
#: Deaths at steps of the sample, and how it is chosen.
SAMPLE, SEED = 16, 20270101
EVERYTHING = os.environ.get("REACTOR_KILL") == "all"

#: Steps that are counted: all of them; those that change something outside; those around a hand-off.
ALL = ""
CHANGES = r"(before|after) (insert|update|delete|findAndModify|hand-off)|after write"
SENDING = r"(before|after) (insert messages|update (conversations|channels)|hand-off)|after write"
INDEXES = r"(before|after) createIndexes"


@frozen(kw_only=True)
class Act:
    """What the agent inserts, and how much time has passed by then."""

    ahead: timedelta = timedelta(0)
    updates: tuple = ()


@frozen(kw_only=True)
class Plot:
    """A campaign, and how it ends for each recipient."""

    acts: tuple
    exits: dict
    #: What happened to each conversation.
    reasons: dict
    #: The stages and texts of each recipient's messages, in order.
    messages: dict

    def keys(self, request):
        """Give every send key that there must be."""
        return {
            f"{conversation_id(request, recipient)}/{stage}/{n}"
            for recipient, messages in self.messages.items()
            for n, (stage, _) in enumerate(messages)
        }


def stage(identity, text, *rules):
    """Make a stage with one follow-up, and these rules beside those of every stage."""
    follow_up = {"after": "2d", "message": {"body": f"{identity}, again"}}
    return {
        "id": identity,
        "message": {"body": text},
        "follow_ups": [follow_up],
        "reply_within": "3d",
        "on_reply": [{"intent": "no", "then": "complete"}, *rules, {"then": "advance"}],
    }


TEMPLATE = template_document(
    stages=[
        stage(
            "intro",
            "Hello {{ recipient.first_name }}",
            {"intent": "so be it", "then": {"go_to": "thanks"}},
        ),
        stage("offer", "To whom said {{ reply.text }}"),
        {"id": "thanks", "final": True, "message": {"body": "Thanks for {{ reply.text }}"}},
    ]
)


def reply(recipient, text):
    """Make a recipient's reply, its text being its intent as well."""
    return {"recipient_id": recipient, "kind": "reply", "intent": text, "text": text}


HELLO, OFFER = ("intro", "Hello Ada"), ("offer", "To whom said yes")
LAST = ("thanks", "Thanks for so be it")
OPENED, ADVANCED = ["opened", "message_sent"], ["stage_advanced", "message_sent"]
LONG = Plot(
    acts=(
        Act(),
        Act(
            ahead=HOUR,
            updates=(
                reply("r0", "yes"),
                reply("r1", "yes"),
                {"recipient_id": "r4", "kind": "opted_out"},
            ),
        ),
        Act(ahead=2 * DAY + 2 * HOUR, updates=(reply("r0", "so be it"),)),
        Act(ahead=6 * DAY, updates=(reply("r2", "no"),)),
    ),
    exits={
        "r0": "final_stage",
        "r1": "no_reply_exhausted",
        "r2": "replied",
        "r3": "no_reply_exhausted",
        "r4": "opted_out",
    },
    reasons={
        "r0": [*OPENED, *ADVANCED, *ADVANCED, "completed"],
        "r1": [*OPENED, *ADVANCED, "follow_up_sent", "completed"],
        "r2": [*OPENED, "follow_up_sent", "completed"],
        "r3": [*OPENED, "follow_up_sent", "completed"],
        "r4": [*OPENED, "completed"],
    },
    messages={
        "r0": [HELLO, OFFER, LAST],
        "r1": [HELLO, OFFER, ("offer", "offer, again")],
        "r2": [HELLO, ("intro", "intro, again")],
        "r3": [HELLO, ("intro", "intro, again")],
        "r4": [HELLO],
    },
)
SHORT = Plot(
    acts=(Act(), Act(ahead=HOUR, updates=(reply("r0", "so be it"), reply("r1", "no")))),
    exits={"r0": "final_stage", "r1": "replied"},
    reasons={
        "r0": [*OPENED, "went_to_stage", "message_sent", "completed"],
        "r1": [*OPENED, "completed"],
    },
    messages={"r0": [HELLO, LAST], "r1": [HELLO]},
)


class Lane:
    """One worker at a time, on a database and with a receiver that nobody else has."""

    def __init__(self, process, database, receiver, directory, settings):
        self.process = process
        self.database = database
        self.receiver = receiver
        self.settings = settings
        self.policy = "resend"
        self.trace = directory / "steps"
        self.errors = directory / "errors"
        self.errors.touch()
        self.forgotten = 0

    def born(self, die_at=0, counts=ALL, *, from_birth=False):
        """Start a worker; false if it died of that."""
        life = {
            "environ": self.settings | {"CHANNEL_EMAIL_ON_UNKNOWN": self.policy},
            "die_at": die_at,
            "counts": counts,
            "from_birth": from_birth,
            "trace": str(self.trace),
            "errors": str(self.errors),
        }
        return "born" in self.tell(life)

    def work(self, ahead):
        """Have the worker do all that there is to do at a time; false if it died of that."""
        return "worked" in self.tell({"ahead": ahead.total_seconds()})

    def end(self):
        """End the worker in order."""
        assert self.tell({}) == {"ended": 0}, self.errors.read_text()

    def tell(self, order):
        """Tell the worker something, and give its answer, or that it has ended: by its own hand."""
        os.write(self.process.stdin.fileno(), json.dumps(order).encode() + b"\n")
        answer = self.answer()
        assert answer.get("ended", 0) in {0, -signal.SIGKILL}, self.errors.read_text()
        return answer

    def answer(self):
        """Give the next answer."""
        came, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        assert came, "the worker hangs"
        return json.loads(self.process.stdout.readline())

    def steps(self):
        """Give the steps of the last worker, oldest first."""
        return self.trace.read_text().splitlines()

    def clear(self):
        """Empty the database, and forget what was received."""
        for name in self.database.list_collection_names():
            self.database[name].delete_many({})
        self.forgotten = self.receiver.log.stat().st_size

    def received(self):
        """Give what the receiver has accepted since then, oldest first: it accepts all."""
        with self.receiver.log.open("rb") as log:
            log.seek(self.forgotten)
            lines = [json.loads(line) for line in log]
        assert all(line["accepted"] for line in lines)
        return [
            {
                "key": line["key"],
                "conversation_id": line["key"].rsplit("/", 2)[0],
                "sha256": line["sha256"],
            }
            for line in lines
        ]

    def accepted(self):
        """Give how often the receiver has accepted each key."""
        return Counter(line["key"] for line in self.received())

    def ledger(self):
        """Give the entries of messages."""
        return {one["_id"]: one for one in self.database.messages.find()}

    def slots(self, state):
        """Give the keys of slots in a state."""
        return {
            f"{one['_id']}/{one['slot']['stage']}/{one['slot']['n']}"
            for one in self.database.conversations.find({"slot.state": state})
        }


@contextmanager
def make_lane(uri, client, directory):
    """Make a lane; all that is started for it is ended."""
    directory.mkdir()
    name = f"test_{secrets.token_hex(6)}"
    # Who is killed cannot say what was covered.
    without = ("OTEL_", "COVERAGE_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(without)}
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with ExitStack() as stack:
        receiver = stack.enter_context(http_receiver(directory))
        stack.callback(client.drop_database, name)
        process = subprocess.Popen(
            [sys.executable, ROOT / "tests" / "killed_worker.py"],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        stack.callback(end, process)
        settings = {
            "MONGODB_URI": uri,
            "MONGODB_DB": name,
            "CHANNEL_EMAIL": receiver.url,
            "CHANNEL_EMAIL_ALLOW_PRIVATE": "1",
        }
        database = client.get_database(name, codec_options=CODEC)
        yield Lane(process, database, receiver, directory, settings)


def end(process):
    """End a process and the child that it may have: they are a group of their own."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()


@pytest.fixture(scope="module")
def lanes(mongodb_uri, mongodb_client, tmp_path_factory):
    """Make lanes whose databases have their indexes."""
    directory = tmp_path_factory.mktemp("lanes")
    with ExitStack() as stack:
        made = [
            stack.enter_context(make_lane(mongodb_uri, mongodb_client, directory / str(number)))
            for number in range(LANES)
        ]
        for lane in made:
            assert "ready" in lane.answer()
            assert lane.born()
            lane.end()
        yield made


@frozen(kw_only=True)
class Death:
    """How things stood when a worker had died, and another had looked at them."""

    act: int
    #: The last step.
    step: str
    #: Keys that were marked as handed off and are not recorded: nobody knows what became of them.
    doubt: frozenset
    #: How often the receiver had accepted each key.
    accepted: Counter

    @property
    def arrived(self):
        """Give the keys in doubt that the receiver had, in truth."""
        return self.doubt & self.accepted.keys()


@define(kw_only=True)
class Fate:
    """What became of a campaign."""

    request: str
    #: Of each of its workers: which steps count, and at which of them it dies.
    lives: tuple
    deaths: list = field(factory=list)
    #: The steps of its first worker.
    steps: list = field(factory=list)


def nobody(lane, death, now):
    """Nobody is asked."""


@frozen(kw_only=True)
class Killing:
    """A plot that is played again and again, with a death at another step each time."""

    plot: Plot
    counts: str
    #: Called with lane, plot and fate when a campaign is over.
    check: Callable
    policy: str = "resend"
    #: Called with lane, death and time after a take-over.
    resolve: Callable = nobody

    def play(self, lane, step=0, first=()):
        """Lead a campaign to its end, by another worker whenever one has died; 0: none does."""
        fate = Fate(request=f"killed-{step}", lives=(*first, (step, self.counts)))
        try:
            self._lead(lane, fate)
            self.check(lane, self.plot, fate)
        except AssertionError as error:
            error.add_note(f"{fate.lives}: {fate.deaths}")
            raise
        return fate

    def _lead(self, lane, fate):
        lane.clear()
        lane.policy = self.policy
        recipients = [recipient_document(recipient) for recipient in self.plot.exits]
        lane.database.batch_requests.insert_one(
            batch_request_document(recipients, _id=fate.request, template=TEMPLATE)
        )
        lives = iter([*fate.lives, (0, self.counts)])
        lane.born(*next(lives))
        for number, act in enumerate(self.plot.acts):
            for place, update in enumerate(act.updates):
                which = {"_id": f"u{number}-{place}", "batch_request_id": fate.request}
                lane.database.conversation_updates.insert_one(which | update)
            if not lane.work(act.ahead + len(fate.deaths) * MINUTE):
                self._take_over(lane, fate, lives, number)
            if not fate.deaths:
                fate.steps = lane.steps()
        lane.end()

    def _take_over(self, lane, fate, lives, number):
        """Have another worker look, which has to leave alone what has a lease; then, take it over."""
        while True:
            now = self.plot.acts[number].ahead + len(fate.deaths) * MINUTE
            step = lane.steps()[-1]
            lane.born(*next(lives))
            lived = lane.work(now)
            doubt = lane.slots("sending") - lane.ledger().keys()
            accepted = lane.accepted()
            death = Death(act=number, step=step, doubt=frozenset(doubt), accepted=accepted)
            fate.deaths.append(death)
            if lived and lane.work(now + MINUTE):
                self.resolve(lane, death, now + MINUTE)
                return

    def everywhere(self, lanes, steps=None, *, first=(), last_act=None):
        """
        Die at each of these steps; without any, at all that are reached, or are in time.

        `first`: the lives before that, of workers who have died already.
        """
        remaining, fates, failed = iter(steps or itertools.count(1)), [], threading.Event()

        def play_all(lane):
            try:
                while not failed.is_set() and (step := next(remaining, None)):
                    fate = self.play(lane, step, first)
                    if len(fate.deaths) <= len(first):
                        return
                    fates.append(fate)
                    if last_act is not None and fate.deaths[-1].act > last_act:
                        return
            except BaseException:
                failed.set()
                raise

        began = time.monotonic()
        with ThreadPoolExecutor(len(lanes)) as pool:
            for played in [pool.submit(play_all, lane) for lane in lanes]:
                played.result()
        print(f"\n{self.policy}, {time.monotonic() - began:.1f} s, {summary(fates)}")  # noqa: T201 - for -s
        return fates


def summary(fates):
    """Say how many died, and after which steps messages were in doubt that had arrived."""
    arrived = Counter()
    for death in [death for fate in fates for death in fate.deaths]:
        step = re.sub(r"\S+/(\S+)/\d+", r"\1", death.step)
        arrived[f"  act {death.act}, {step}"] += len(death.arrived)
    lines = [f"{step}: {count}" for step, count in sorted(arrived.items()) if count]
    deaths = sum(len(fate.deaths) for fate in fates)
    first = f"{len(fates)} campaigns, {deaths} deaths; messages in doubt that had arrived:"
    return "\n".join([first, *lines])


def check_end(lane, plot, fate):
    """Hold a campaign that is over to its plot, and database and receiver to one another."""
    database = lane.database
    check_invariants(database, lane.received())
    campaign = database.campaigns.find_one()
    assert campaign["status"] == "completed"
    conversations = {one["recipient"]["id"]: one for one in database.conversations.find()}
    reasons = {
        recipient: [entry["reason"] for entry in one["history"]]
        for recipient, one in conversations.items()
    }
    assert reasons == plot.reasons
    assert {name: one["exit_reason"] for name, one in conversations.items()} == plot.exits
    for name in ("status", "stage"):
        recounted = Counter(one[name] for one in conversations.values())
        assert campaign["counts"][f"by_{name}"] == recounted
    assert {one["status"] for one in database.conversation_updates.find()} == {"applied"}
    ledger = lane.ledger()
    assert ledger.keys() == plot.keys(fate.request)
    assert {one["status"] for one in ledger.values()} == {"sent"}
    for recipient, messages in plot.messages.items():
        mine = conversation_id(fate.request, recipient)
        keys = [f"{mine}/{stage_id}/{n}" for n, (stage_id, _) in enumerate(messages)]
        assert [ledger[key]["body"] for key in keys] == [text for _, text in messages]
    assert not lane.errors.read_text()


def check_resent(lane, plot, fate):
    """All keys arrived; again, once for each death, came only those that were in doubt then."""
    check_end(lane, plot, fate)
    accepted, marks = lane.accepted(), Counter(plot.keys(fate.request))
    assert accepted.keys() == marks.keys()
    if not fate.deaths:
        assert set(accepted.values()) == {1}
    for death, after in itertools.pairwise([*fate.deaths, None]):
        then = after.accepted if after else accepted
        again = {key: then[key] - times for key, times in death.accepted.items()}
        assert {key for key, times in again.items() if times} <= death.doubt
        assert set(again.values()) <= {0, 1}
        marks.update(death.doubt)
    # The last take-over was not cut short: what had arrived and was in doubt came again.
    for death in fate.deaths[-1:]:
        assert all(accepted[key] == death.accepted[key] + 1 for key in death.doubt)
    assert {key: one["attempts"] for key, one in lane.ledger().items()} == marks


@pytest.mark.timeout(1200)
def test_killed_at_any_step(lanes):
    """Wherever a worker dies, the next one brings the campaign to the same end."""
    killing = Killing(plot=LONG, counts=ALL if EVERYTHING else CHANGES, check=check_resent)
    undisturbed = killing.play(lanes[0])
    assert not undisturbed.deaths
    fates = killing.everywhere(lanes)
    assert len(fates) >= 0.9 * len(undisturbed.steps) > 90
    deaths = [fate.deaths[0] for fate in fates]
    assert {death.act for death in deaths} == {0, 1, 2, 3}
    # First messages, offers, and the last message with the follow-ups.
    assert {death.act for death in deaths if death.arrived} == {0, 1, 2}
    assert {death.act for death in deaths if death.doubt - death.arrived} == {0, 1, 2}


@pytest.mark.skipif(EVERYTHING, reason="all of them are enumerated")
def test_killed_at_steps_that_change_nothing(lanes):
    """Before and after reads it is the same: a sample, from all stretches of the way."""
    killing = Killing(plot=LONG, counts=ALL, check=check_resent)
    undisturbed = killing.play(lanes[0])
    order, count = random.Random(SEED), len(undisturbed.steps)
    ends = [1 + count * number // SAMPLE for number in range(SAMPLE + 1)]
    chosen = [order.randrange(*stretch) for stretch in itertools.pairwise(ends)]
    print(f"\nseed {SEED}: steps {chosen} of {count}")  # noqa: T201 - for -s
    killing.everywhere(lanes, chosen)


@pytest.mark.timeout(600)
def test_killed_again_during_the_take_over(lanes):
    """A worker that dies while it takes over what another left in doubt is taken over itself."""
    steps = Killing(plot=LONG, counts=SENDING, check=check_resent).play(lanes[0]).steps
    killing = Killing(plot=LONG, counts=ALL if EVERYTHING else SENDING, check=check_resent)
    # All first messages have arrived, and nothing of them is recorded.
    first = ((1 + steps.index("before insert messages"), SENDING),)
    fates = killing.everywhere(lanes, first=first, last_act=None if EVERYTHING else 0)
    assert {len(fate.deaths[0].arrived) for fate in fates} == {5}
    # Handed off twice and still in doubt, recorded, on its way for the first time.
    assert {len(fate.deaths[1].arrived) for fate in fates} >= {5, 0}
    assert {max(fate.deaths[1].accepted.values()) for fate in fates} == {1, 2}


def ask_the_receiver(lane, death, now):
    """What is in doubt is held, for however long; then a person decides by what has arrived."""
    held = lane.slots("unknown")
    assert held == death.doubt
    ledger = lane.ledger()
    assert {(ledger[key]["status"], ledger[key]["reason"]) for key in held} <= {("unknown", "hold")}
    waiting = lane.database.conversations.find({"waiting_for": "unknown"})
    assert {one["_id"] for one in waiting} == {key.rsplit("/", 2)[0] for key in held}
    assert lane.work(now + HOUR / 2)
    assert lane.slots("unknown") == held
    for key in held:
        lane.database.conversation_updates.insert_one(
            {
                "_id": f"resolved {key}",
                "kind": "unknown_resolved",
                "conversation_id": key.rsplit("/", 2)[0],
                "message_id": key,
                "outcome": "assume_sent" if key in death.arrived else "resend",
            }
        )
    assert lane.work(now)


def check_held(lane, plot, fate):
    """Every key arrived once, and what a person took for sent is recorded as that."""
    check_end(lane, plot, fate)
    accepted = lane.accepted()
    assert accepted.keys() == plot.keys(fate.request)
    assert set(accepted.values()) == {1}
    assumed = {key for key, one in lane.ledger().items() if one["reason"] == "assume_sent"}
    assert assumed == {key for death in fate.deaths for key in death.arrived}


def check_assumed(lane, plot, fate):
    """No key arrived twice; what was in doubt is recorded as assumed, and alone may be missing."""
    check_end(lane, plot, fate)
    accepted = lane.accepted()
    assert set(accepted.values()) == {1}
    doubt = {key for death in fate.deaths for key in death.doubt}
    arrived = {key for death in fate.deaths for key in death.arrived}
    assert plot.keys(fate.request) - accepted.keys() == doubt - arrived
    assumed = {key for key, one in lane.ledger().items() if one["reason"] == "assume_sent"}
    assert assumed == doubt


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("policy", "check", "resolve"),
    [("hold", check_held, ask_the_receiver), ("assume_sent", check_assumed, nobody)],
)
def test_killed_where_nothing_is_resent(lanes, policy, check, resolve):
    """With `hold` a person decides about what is in doubt, with `assume_sent` nobody: once at most."""
    killing = Killing(
        plot=SHORT,
        counts=ALL if EVERYTHING else SENDING,
        check=check,
        policy=policy,
        resolve=resolve,
    )
    assert not killing.play(lanes[0]).deaths
    fates = killing.everywhere(lanes)
    assert any(fate.deaths[0].arrived for fate in fates)
    assert any(fate.deaths[0].doubt - fate.deaths[0].arrived for fate in fates)


def indexes(database):
    """Give the names of all indexes that were made."""
    return {
        (collection, name)
        for collection in database.list_collection_names()
        for name in database[collection].index_information()
        if name != "_id_"
    }


def test_killed_while_it_makes_indexes(lanes):
    """The next worker makes those that are missing."""
    lane, step, died = lanes[0], 1, True
    complete = indexes(lane.database)
    while died:
        lane.database.client.drop_database(lane.database.name)
        died = not lane.born(step, INDEXES, from_birth=True)
        if died:
            assert len(indexes(lane.database)) == step // 2
            assert lane.born()
        lane.end()
        assert indexes(lane.database) == complete
        step += 1 if EVERYTHING else 9
    assert step > 2 * len(complete)
