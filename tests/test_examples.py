"""Every example is valid, and the programs among them insert requests that a worker accepts."""

import os
import shutil
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
import yaml
from click.testing import CliRunner

from reactor.cli.commands import reactor
from reactor.settings import load_settings
from reactor.worker import run
from schemas.action import ActionKind
from schemas.converter import read_batch_request

EXAMPLES = Path(__file__).parents[1] / "examples"
FILES = sorted(EXAMPLES.glob("*.yaml"))
#: What mongosh offers to a script, as far as the example uses it, on the Node.js driver.
MONGOSH = """\
import { MongoClient } from "mongodb";
const client = new MongoClient(process.env.MONGODB_URI);
const under_way = [];
const collections = { get: (_, name) => ({
  insertOne: (...of) => under_way.push(database.collection(name).insertOne(...of)),
}) };
const database = client.db(process.env.MONGODB_DB);
const db = { getSiblingDB: () => new Proxy({}, collections) };
"""
#: Programs that insert a request, as far as this machine can run them.
PROGRAMS = {"insert_request.py": "hello-python-1"}
if shutil.which("node"):
    PROGRAMS |= {
        "insert_request.mjs": "hello-node-1",
        "insert_request.mongosh.js": "hello-mongosh-1",
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_example_has_no_problems(path):
    """`reactor validate` finds nothing to say about it, nor about any of its recipients."""
    result = CliRunner().invoke(reactor, ["validate", str(path)])
    assert result.exit_code == 0, result.output
    assert "no problems" in result.output


def test_the_renewal_shows_every_action_and_many_kinds_of_people():
    """A hundred recipients in many scripts and time zones, and rules with every action."""
    document = yaml.safe_load((EXAMPLES / "renewal.yaml").read_text(encoding="utf-8"))
    request = read_batch_request(document)
    stages = request.template.stages
    rules = {rule.then.kind for stage in stages for rule in stage.on_reply}
    assert rules == set(ActionKind)
    assert len(document["recipients"]) == 100
    assert len({each["timezone"] for each in document["recipients"]}) > 40
    initials = {ord(each["attributes"]["first_name"][0]) >> 8 for each in document["recipients"]}
    assert len(initials) > 10


@pytest.mark.parametrize("name", PROGRAMS)
async def test_a_program_inserts_a_request_that_is_accepted(
    name, mongodb_uri, mongodb_client, database_name, tmp_path, node_modules
):
    """Run as it stands, and run again: accepted once, and nothing more comes of the second."""
    environment = {**os.environ, "MONGODB_URI": mongodb_uri, "MONGODB_DB": database_name}
    command = _command(name, node_modules, database_name)
    async with _worker(mongodb_uri, database_name, tmp_path):
        for _ in range(1 if "mongosh" in name else 2):
            with anyio.fail_after(60):
                done = await anyio.run_process(command, env=environment, check=False)
            assert done.returncode == 0, done.stderr.decode()
        requests = mongodb_client[database_name].batch_requests
        with anyio.fail_after(30):
            while "status" not in (answer := requests.find_one({"_id": PROGRAMS[name]})):  # noqa: ASYNC110
                await anyio.sleep(0.02)
    assert answer["status"] == "accepted", answer
    assert answer["counts"] == {"recipients": 1, "rejected": 0}
    assert mongodb_client[database_name].campaigns.count_documents({}) == 1
    if "mongosh" not in name:
        assert done.stdout.decode().startswith(f"accepted {answer['campaign_id']}")


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory):
    """A directory with the Node.js driver; empty where there is no Node.js."""
    directory = tmp_path_factory.mktemp("node")
    if not shutil.which("node"):
        return directory
    npm = shutil.which("npm")
    assert npm, "Node.js is here, but not npm: install it, or take node off the PATH"
    command = [npm, "install", "mongodb", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"npm could not install the Node.js driver: {done.stderr}"
    return directory


def _command(name, directory, database_name):
    if name.endswith(".py"):
        return [sys.executable, str(EXAMPLES / name)]
    source = (EXAMPLES / name).read_text(encoding="utf-8")
    if "mongosh" in name:
        source = f"{MONGOSH}{source}\nawait Promise.all(under_way);\nawait client.close();\n"
    # Where the driver is, for that is where Node.js looks for it.
    program = directory / f"{database_name}.mjs"
    program.write_text(source, encoding="utf-8")
    return ["node", str(program)]


@asynccontextmanager
async def _worker(uri, database_name, directory):
    settings = load_settings(
        {
            "MONGODB_URI": uri,
            "MONGODB_DB": database_name,
            "CHANNEL_EMAIL": f"file:{directory / 'messages.jsonl'}",
            "HEARTBEAT_FILE": str(directory / "heartbeat"),
        }
    )
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: run(settings, stop=stop))
        try:
            yield
        finally:
            stop.set()
