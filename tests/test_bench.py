"""The benchmark says what it measured, and measures what a worker does; nothing is timed here."""

import json
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from pymongo import AsyncMongoClient
from rich.console import Console

from bench import report
from bench.__main__ import PARTS
from bench.figures import Figure, Target, as_figure, judged, summary
from bench.parked import crowd, enter, park, park_each
from bench.picture import picture
from bench.sizes import NUMBERS
from bench.targets import TARGETS
from bench.timers import TEMPLATE
from bench.watch import growth
from bench.world import Tail, request
from schemas.conversation import Conversation
from schemas.converter import from_document
from schemas.documents import CODEC
from tests.builders import NOW
from tests.world import world

ROOT = Path(__file__).parents[1]
MACHINE = {
    "cores": 2,
    "cpu": "a <fast> one",
    "mongod": "6.0.5",
    "commit": "abc1234",
    "others_percent": {"reaction": 1.5},
}


def made_up():
    """Samples of every figure that has a target: those of the first half are far too slow."""
    names = dict.fromkeys(
        name for target in TARGETS for name in (target.figure, target.beside) if name
    )
    slow = {target.figure for target in TARGETS[: len(TARGETS) // 2]}
    return {
        name: Figure(
            unit="ms",
            samples=[(1_000_000 if name in slow else 1.0) + n / 100 for n in range(100)],
            over_time="memory" in name,
        )
        for name in names
    } | {"a bare list, messages/s": as_figure([3.0, 1.0, 2.0]), "nothing": as_figure([])}


def test_the_report_is_made_of_what_was_measured():
    """Tables, results.json and results.svg have every figure and every target."""
    figures = made_up()
    document = json.loads(json.dumps(report.as_document(figures, TARGETS, MACHINE, quick=True)))
    assert document["machine"] == MACHINE
    assert document["figures"].keys() == figures.keys()
    assert document["figures"]["nothing"] == {"unit": "", "n": 0}
    assert document["figures"]["a bare list, messages/s"]["p50"] == 2
    assert [each["what"] for each in document["targets"]] == [each.what for each in TARGETS]
    assert {each["met"] for each in document["targets"]} == {True, False}
    console = Console(width=200)
    with console.capture() as printed:
        console.print(report.tables(figures, TARGETS, MACHINE))
    text = printed.get()
    assert "others had: reaction 1.5 %" in text
    for name in (*figures, *(target.what for target in TARGETS)):
        assert name in text
    drawn = ET.fromstring(picture(figures, TARGETS, MACHINE))
    texts = [node.text for node in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {target.what for target in TARGETS} <= set(texts)


def test_a_part_alone_is_held_to_its_own_targets():
    """What was not measured is neither met nor missed."""
    figures = {"a": Figure(unit="ms", samples=[1.0])}
    targets = (
        Target(figure="a", at="p50", beside="b", most=1),
        Target(figure="b", at="p50", most=1),
    )
    assert judged(targets, figures) == []
    assert ET.fromstring(picture(figures, targets, MACHINE)) is not None


@pytest.mark.parametrize(
    ("target", "met"),
    [
        (Target(figure="a", at="p50", most=2), True),
        (Target(figure="a", at="p50", most=1.9), False),
        (Target(figure="a", at="p50", least=2), True),
        (Target(figure="a", at="max", least=3.1), False),
        (Target(figure="a", at="p50", beside="b", most=0.5), True),
        (Target(figure="a", at="p50", beside="b", most=0.4), False),
    ],
)
def test_a_target_is_met_or_not(target, met):
    """By so much or less, by so much or more, alone or beside another figure."""
    figures = {
        "a": Figure(unit="ms", samples=[1.0, 2.0, 3.0]),
        "b": Figure(unit="ms", samples=[4.0] * 9),
    }
    (verdict,) = judged([target], figures)
    assert verdict.met is met
    assert verdict.low <= verdict.value <= verdict.high
    assert verdict.unit == ("" if target.beside else "ms")


def test_a_figure_over_time_is_kept_as_it_went():
    """In order, and no more points than can be drawn."""
    kept = summary(Figure(unit="MB", samples=list(range(1_000)), over_time=True))["over_time"]
    assert kept == sorted(kept)
    assert 50 < len(kept) <= 60
    assert growth([70.0] * 100) == 1
    assert growth([70.0] * 50 + [140.0] * 50) == 2


def test_a_part_that_there_is_not_is_named():
    """And those that there are."""
    command = [sys.executable, "-m", "bench", "nothing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "unknown: nothing; known: reaction, timers" in done.stderr


def test_the_documentation_has_every_part_and_every_number():
    """docs/benchmarks.md explains what is measured, and with how much."""
    text = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    assert set(PARTS) <= set(re.findall(r"^### (\w+)$", text, re.MULTILINE))
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([\d, ]+) \| ([\d, ]+) \|", text, re.MULTILINE)
    assert {name: (full, quick) for name, full, quick in rows} == {
        name: tuple(", ".join(f"{each:,}" for each in some) for some in numbers)
        for name, numbers in NUMBERS.items()
    }


async def test_a_tail_sees_lines_as_they_come(tmp_path):
    """Also such as come in two pieces."""
    file = tmp_path / "messages.jsonl"
    tail = Tail(file)
    with file.open("a") as writer:
        for text in ('{"n": 1}\n{"n"', ": 2}\n", '{"n": 3}\n'):
            writer.write(text)
            writer.flush()
    assert [line["n"] for line in await tail.until(3)] == [1, 2, 3]
    with file.open("a") as writer:
        writer.write('{"n": 4}\n')
    await tail.count(1)


@pytest.fixture
async def database(mongodb_uri, database_name):
    """Give this test's database."""
    async with AsyncMongoClient(mongodb_uri, tz_aware=True) as client:
        yield client.get_database(database_name, codec_options=CODEC)


def timeless(document):
    """Take the times and tokens out of a document, and leave where they were."""
    match document:
        case datetime():
            return "then"
        case dict():
            volatile = {"written_by", "counted_at", "counting_at", "version"}
            return {
                name: timeless(value) for name, value in document.items() if name not in volatile
            }
        case list():
            return [timeless(value) for value in document]
    return document


async def test_what_is_parked_is_what_a_worker_leaves(
    mongodb_uri, mongodb_client, database_name, database, tmp_path
):
    """A conversation that was made, and its copies, are those that a worker led so far itself."""
    name = f"{database_name}_w"
    # Of a request that fits into a batch, the first messages are marked as they are inserted.
    small = {"MAX_CONVERSATIONS_PER_BATCH": "1"}
    async with world(mongodb_uri, mongodb_client, name, tmp_path, **small) as led:
        led.database.batch_requests.insert_one(request("timers", 2, TEMPLATE))
        await led.work()
        found = {
            name: {one["_id"]: one for one in led.database[name].find()}
            for name in ("campaigns", "conversations", "messages")
        }
        mongodb_client.drop_database(led.database.name)
    of = crowd("timers", 2, TEMPLATE, NOW)
    await enter(database, of)
    await park(database, of, [0, 1], NOW)
    for name, documents in found.items():
        made = {one["_id"]: one async for one in database[name].find()}
        assert timeless(made) == timeless(documents), name
    worker = next(iter(found["conversations"].values()))
    one = await database.conversations.find_one({"_id": worker["_id"]})
    assert one["version"] == worker["version"]
    assert one["due_at"] - one["status_since"] == worker["due_at"] - worker["status_since"]
    await database.client.drop_database(database.name)


async def test_what_is_parked_each_for_itself_can_be_read(database):
    """Each with its own due time."""
    of = crowd("timers", 3, TEMPLATE, NOW)
    documents = await park_each(database, of, {0: NOW, 2: NOW.replace(minute=7)})
    read = [from_document(Conversation, dict(one)) async for one in database.conversations.find()]
    assert {one.due_at for one in read} == {each["due_at"] for each in documents}
    assert len({one.due_at for one in read}) == 2
