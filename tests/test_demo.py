"""The demo plays a campaign to its end, keeps the engine's promises, and can be interrupted."""

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from pymongo import MongoClient

from reactor.demo import run_demo
from reactor.demo.parts import PARTS
from reactor.demo.request import read_request
from reactor.embedded import embedded_server

ROOT = Path(__file__).parents[1]
PROGRAM = """\
import sys
from functools import partial
from pathlib import Path
import anyio
from reactor.demo import run_demo
sys.exit(anyio.run(partial(run_demo, directory=Path(sys.argv[1]))))
"""


async def test_a_campaign_is_played_to_its_end(tmp_path, capsys):
    """All parts are played, the report agrees with the database, and no promise is broken."""
    recipients = len(PARTS) + 6
    code = await run_demo(seconds=10, recipients=recipients, directory=tmp_path / "demo")
    report = capsys.readouterr().out
    assert code == 0, report
    lines = (tmp_path / "demo" / "messages.jsonl").read_bytes().splitlines()
    assert "completed (all_final)" in report
    assert f"{recipients} recipients" in report
    assert str(tmp_path / "demo" / "messages.jsonl") in report
    assert "\x1b" not in report, "a terminal's escape codes where there is no terminal"
    async with embedded_server(tmp_path / "demo" / "mongodb") as server:
        with MongoClient(server.uri, tz_aware=True) as client:
            _check_promises(client.reactor, [json.loads(line) for line in lines], recipients)
            _check_report(client.reactor, report)


def _check_promises(database, handed_off, recipients):
    campaign = database.campaigns.find_one()
    exits = campaign["counts"]["by_exit_reason"]
    assert campaign["counts"]["open"] == 0
    assert sum(exits.values()) == recipients
    for reason in ("opted_out", "bounced", "goal_reached", "escalation_expired", "final_stage"):
        assert exits.get(reason, 0) >= 1, f"nobody ended with {reason}"
    assert database.conversation_updates.count_documents({"status": {"$exists": False}}) == 0
    assert database.conversation_updates.count_documents({"status": "rejected"}) == 0
    by_key = {}
    for message in handed_off:
        assert by_key.setdefault(message["key"], message) == message, "one key, two messages"
    sent = {"$in": ["sent", "delivered", "bounced"]}
    assert {each["_id"] for each in database.messages.find({"status": sent})} == by_key.keys()
    for update in database.conversation_updates.find({"kind": {"$in": ["opted_out", "bounced"]}}):
        assert update["status"] == "applied"
        later = {"recipient_id": update["recipient_id"], "sent_at": {"$gt": update["applied_at"]}}
        assert database.messages.count_documents(later) == 0, "written to after the opt-out"


def _check_report(database, report):
    for reason, number in database.campaigns.find_one()["counts"]["by_exit_reason"].items():
        assert f"{number:>6} {reason}" in report
    for status, number in Counter(each["status"] for each in database.messages.find()).items():
        assert f"{number:>6} {status}" in report


def test_it_can_be_interrupted(tmp_path):
    """Ctrl-C ends it with 130, without a traceback, and without a mongod that is left behind."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "demo")]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        for line in demo.stdout:
            if line.startswith("day"):
                break
        demo.send_signal(signal.SIGINT)
        output, errors = demo.communicate(timeout=60)
    assert demo.returncode == 130, errors
    assert "Traceback" not in errors
    assert "Interrupted" in output


async def test_a_directory_that_is_in_use_is_left_alone(tmp_path, capsys):
    """What is in a directory is nobody's to overwrite: it says so and ends with 1."""
    (tmp_path / "precious").touch()
    assert await run_demo(seconds=5, recipients=1, directory=tmp_path) == 1
    assert "expected a new or an empty directory" in capsys.readouterr().out
    assert [each.name for each in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("recipients", [1, 100, 250])
def test_it_has_as_many_recipients_as_are_asked_for(recipients):
    """The example is cut, or repeated under other ids and addresses."""
    found = read_request(recipients)["recipients"]
    assert len({each["id"] for each in found}) == recipients
    assert len({each["address"]["email"] for each in found}) == recipients
