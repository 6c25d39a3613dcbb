import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from attrs import evolve
from bson import json_util
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from bson.objectid import ObjectId
from click.testing import CliRunner
from pymongo import MongoClient

from handlers.opening import candidate, open_conversation
from handlers.request import accept
from reactor.cli.commands import reactor as commands
from reactor.cli.output import distance
from reactor.embedded import embedded_server_sync, find_mongod
from schemas.campaign import CampaignStatus, Counts, MessageCounts
from schemas.converter import read_batch_request, read_recipient, to_document
from schemas.hand_off import ChannelSpec

ROOT = Path(__file__).parent.parent
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
NOWHERE = "mongodb://agent:secret@127.0.0.1:1/?directConnection=true"
CHANNELS = {"email": ChannelSpec(name="email", address_kind="email")}

REQUEST = """
_id: renewal-2026-12
name: renewal
type: renewal
template:
  name: renewal
  channel: email
  stages:
    - id: intro
      message: {subject: "Your plan, {{ recipient.first_name }}", body: "It ends soon."}
      on_reply:
        - {intent: interested, then: {go_to: thanks}}
        - {then: complete}
    - {id: thanks, final: true, message: {body: "Thank you."}}
recipients:
  - {id: ada, address: {email: ada@example.com}, attributes: {first_name: Ada}}
  - {id: bob, address: {email: bob@example.com}, attributes: {first_name: Bob}}
"""


@pytest.fixture
def environment(mongodb_uri, database_name):
    """The environment of a command that works on this test's database."""
    return {"MONGODB_URI": mongodb_uri, "MONGODB_DB": database_name, "CHANNEL_EMAIL": "log:"}


@pytest.fixture
def database(mongodb_client, database_name):
    """Give the test its database, as the agent sees it."""
    options = CodecOptions(tz_aware=True, uuid_representation=UuidRepresentation.STANDARD)
    return mongodb_client.get_database(database_name, codec_options=options)


def of_this_process():
    """Give what a child needs of this environment: no settings, but where its coverage goes."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in {"PATH", "PYTHONPATH"} or name.startswith("COVERAGE")
    }


def start(*arguments, **environment):
    """Start the real program."""
    return subprocess.Popen(
        [sys.executable, "-m", "reactor", *arguments],
        cwd=ROOT,
        env=of_this_process() | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        # Where the tests run in the background SIGINT is ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no lock
    )


def ended(process, content=None):
    """Wait for its end: exit code, stdout, stderr. Whatever happened, no traceback."""
    out, err = process.communicate(content, timeout=60)
    assert "Traceback" not in out + err
    return process.returncode, out, err


def run(*arguments, content=None, **environment):
    """Run the real program to its end."""
    return ended(start(*arguments, **environment), content)


def invoke(*arguments, content=None, **environment):
    """Run a command in this process: faster, where the process is not what matters."""
    result = CliRunner().invoke(commands, arguments, input=content, env=environment)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def make_request(**changes):
    """Give a valid request as a document."""
    import yaml  # noqa: PLC0415

    return yaml.safe_load(REQUEST) | changes


def insert_campaign(database, **changes):
    """Insert a campaign with its conversations, as the engine makes them."""
    request = read_batch_request(make_request(**changes))
    campaign = accept(request, request.template, 2, CHANNELS, NOW)
    campaign = evolve(
        campaign,
        status=CampaignStatus.ACTIVE,
        counts=Counts(recipients=2, open=2, by_status={"pending": 2}, by_stage={"intro": 2}),
        messages=MessageCounts(sent=1),
        counted_at=NOW,
    )
    conversations = []
    for raw in request.recipients:
        found = candidate(read_recipient(raw, "$"), 0, request.template, CHANNELS)
        conversations.append(open_conversation(found, campaign, NOW))
    database.campaigns.insert_one(to_document(campaign))
    database.conversations.insert_many([to_document(each) for each in conversations])
    return campaign, conversations


def answer(database, inbox, **fields):
    """Be the worker: wait for an insert and answer it; give the document as it was inserted."""
    with database[inbox].watch([{"$match": {"operationType": "insert"}}]) as stream:
        process = yield
        inserted = next(stream)["fullDocument"]
        database[inbox].update_one({"_id": inserted["_id"]}, {"$set": fields})
        yield inserted, ended(process)


def answered(database, inbox, fields, *arguments, **environment):
    """Run a command whose insert a worker answers: the document, and how the command ended."""
    worker = answer(database, inbox, **fields)
    next(worker)
    return worker.send(start(*arguments, **environment))


# -- usage, settings, the server ---------------------------------------------------------------


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_teaches_the_tool(option):
    """Every command is listed with what it does, and what the exit codes mean."""
    result = invoke(option)
    assert result.exit_code == 0
    for name in commands.commands:
        assert f"\n  {name} " in result.output
    assert "3 not found" in result.output


@pytest.mark.parametrize("name", list(commands.commands))
def test_each_command_has_help(name):
    """Every command explains itself, with its first sentence whole in the list."""
    result = invoke(name, "-h")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: reactor {name} ")
    assert "..." not in next(
        line for line in invoke("-h").output.splitlines() if line.startswith(f"  {name} ")
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["statsu"],
        ["status", "--jsno"],
        ["submit"],
        ["submit", "no-such-file.yaml"],
        ["pause"],
        ["pause", "x", "--until", "soon"],
        ["pause", "x", "--until", "2026-12-01T09:00:00"],
        ["status", "--limit", "0"],
        ["schema", "batch-requests"],
    ],
)
def test_a_typo_is_a_usage_error(arguments):
    """A typo exits with 2 and one line that names it."""
    code, out, err = run(*arguments, MONGODB_URI=NOWHERE)
    assert code == 2
    assert not out
    assert err.splitlines()[-1].startswith("Error: ")


def test_a_misspelt_command_is_guessed():
    """The command that was probably meant is named."""
    assert "Did you mean 'status'" in invoke("statsu").output


@pytest.mark.parametrize(
    "arguments",
    [["run"], ["status"], ["show", "abcd"], ["check"], ["init-db"], ["pause", "abcd"]],
)
def test_without_a_uri_the_choices_are_named(arguments):
    """A command that needs a database and knows none exits with 2 and says what there is."""
    code, out, err = run(*arguments)
    assert code == 2
    assert not out
    assert err.startswith("MONGODB_URI is not set: ")
    assert "reactor demo" in err


def test_all_bad_settings_are_named_at_once():
    """Bad settings exit with 2 and a line each; a secret is not repeated."""
    wrong = {"LEASE_SECONDS": "soon", "WORKER_THREADS": "0", "MONGODB_URI": "me:secret@host"}
    code, out, err = run("status", **wrong)
    assert code == 2
    assert not out
    assert {line.partition("=")[0].partition(":")[0] for line in err.splitlines()} == set(wrong)
    assert "secret" not in err


@pytest.mark.parametrize(
    "arguments", [["status"], ["show", "abcd"], ["cancel", "abcd"], ["init-db"]]
)
def test_an_unreachable_database_is_one_line(arguments):
    """A server that does not answer costs seconds, one line, exit code 1."""
    started = time.monotonic()
    code, out, err = run(*arguments, MONGODB_URI=NOWHERE)
    # The driver's own default is 30 s; it takes four here, and more beside other work.
    assert time.monotonic() - started < 20
    assert code == 1
    assert not out
    assert len(err.splitlines()) == 1
    assert "127.0.0.1:1" in err
    assert "secret" not in err


def test_ctrl_c_is_quiet(environment, database):
    """An interrupted command exits with 130 and says nothing."""
    insert_campaign(database)
    process = start("status", "--watch", "--json", "renewal", **environment)
    assert process.stdout.readline().startswith("{")
    process.send_signal(signal.SIGINT)
    code, out, err = ended(process)
    assert (code, out, err.strip()) == (130, "", "")


def test_a_reader_that_goes_away_is_no_error(environment, database):
    """Output into a pipe that nobody reads any more ends without a traceback."""
    insert_campaign(database)
    process = start("status", **environment)
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=60)
    assert not err


# -- about ----------------------------------------------------------------------------------------


def test_version_names_what_runs():
    """The versions of reactor, Python and PyMongo, for people and for programs."""
    assert invoke("version").output.splitlines()[0].startswith("reactor ")
    assert json.loads(invoke("version", "--json").output).keys() == {"reactor", "python", "pymongo"}


def test_config_says_where_settings_come_from():
    """Each setting with its value and origin; what is secret in it is masked."""
    given = {"MONGODB_URI": NOWHERE, "LEASE_SECONDS": "45", "MONGODB_DB": ""}
    shown = json.loads(invoke("config", "--json", **given).output)["settings"]
    by_name = {setting["name"]: setting for setting in shown}
    assert by_name["LEASE_SECONDS"] == {
        "name": "LEASE_SECONDS",
        "value": "45",
        "from": "environment",
    }
    assert by_name["MONGODB_DB"]["from"] == "default"
    plain = invoke("config", **given).output
    assert "secret" not in plain + str(shown)
    assert "LEASE_SECONDS" in plain


def test_config_warns_of_a_near_miss():
    """A variable that looks like a misspelt setting is named on stderr."""
    result = invoke("config", WORKER_THREAD="3")
    assert result.exit_code == 0
    assert "WORKER_THREADS" in result.stderr


def test_schema_prints_json_schema():
    """Without a name the names; with one, its JSON Schema."""
    names = invoke("schema").output.split()
    assert "batch-request" in names
    for name in names:
        assert "properties" in json.loads(invoke("schema", name).output)


@pytest.mark.parametrize(("age", "code"), [(0, 0), (25, 0), (3600, 1), (-3600, 1)])
def test_health_goes_by_the_heartbeat(tmp_path, age, code):
    """A heartbeat of the last 30 seconds is health; one of an hour ago, or to come, is not."""
    beat = tmp_path / "beat"
    beat.touch()
    os.utime(beat, (time.time() - age,) * 2)
    assert invoke("health", HEARTBEAT_FILE=str(beat)).exit_code == code


def test_health_without_a_heartbeat(tmp_path):
    """No heartbeat at all is no health."""
    result = invoke("health", HEARTBEAT_FILE=str(tmp_path / "beat"))
    assert result.exit_code == 1
    assert "not there" in result.stderr


@pytest.mark.parametrize(
    ("ahead", "spelled"),
    [
        (timedelta(milliseconds=900), "now"),
        (timedelta(seconds=119), "in 119 s"),
        (timedelta(minutes=-2), "2 min ago"),
        (timedelta(hours=47), "in 47 h"),
        (timedelta(days=29, hours=23), "in 30 d"),
    ],
)
def test_distances_are_short(ahead, spelled):
    """A distance in time is spelled in the largest unit of which there are two."""
    assert distance(ahead) == spelled


# -- validate --------------------------------------------------------------------------------------


def test_validate_accepts_a_good_request():
    """A good request has no problems, with the channels that are configured."""
    result = invoke("validate", "-", content=REQUEST, CHANNEL_EMAIL="log:")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "renewal-2026-12: no problems, 2 recipients" in result.stdout


def test_validate_needs_no_channels():
    """Without channels that check is left out, which is said."""
    result = invoke("validate", "-", content=REQUEST)
    assert result.exit_code == 0
    assert "No channels are configured" in result.stderr


def test_validate_checks_against_the_channels():
    """A channel that is not configured here is a problem."""
    result = invoke("validate", "-", content=REQUEST, CHANNEL_SMS="log:")
    assert result.exit_code == 1
    assert "$.template.channel" in result.stdout


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("intent: interested", "intent: yes", "$.template.stages[0].on_reply[0].intent"),
        ("go_to: thanks", "go_to: thank", "thank"),
        ("{{ recipient.first_name }}", "{{ recipient.first_name", "$.template.stages[0].message"),
        ("first_name: Bob", "name: Bob", "$.recipients[1].attributes"),
        ("id: bob", "id: ada", "$.recipients[1].id"),
        ("id: bob", "ident: bob", "$.recipients[1].id"),
        ("bob@example.com", "ADA@example.com", "$.recipients[1].address"),
        ("bob@example.com", "not an address", "$.recipients[1].address"),
        ("type: renewal", "typ: renewal", "$.typ"),
        ("type: renewal", "type: renewal\nscheduled_at: soon", "$.scheduled_at"),
        ("type: renewal", "type: renewal\nschema_version: 2", "$.schema_version"),
    ],
)
def test_validate_names_the_place(old, new, problem):
    """Each problem is a line with the path of what is wrong, and the exit code is 1."""
    assert old in REQUEST
    result = invoke("validate", "-", content=REQUEST.replace(old, new), CHANNEL_EMAIL="log:")
    assert result.exit_code == 1
    assert problem in result.stdout
    assert "Traceback" not in result.output


def test_validate_says_how_to_write_yes():
    """YAML reads a bare yes as true: the problem says what to do."""
    result = invoke("validate", "-", content=REQUEST.replace("interested", "no"))
    assert "in quotes" in result.stdout


def test_validate_names_every_problem():
    """All problems at once, of all documents, each with its document."""
    bad = REQUEST.replace("ada@example.com", "x").replace("first_name: Bob", "name: Bob")
    result = invoke("validate", "-", content=f"{REQUEST}---\n{bad}", CHANNEL_EMAIL="log:")
    assert result.exit_code == 1
    good, *problems = result.stdout.splitlines()
    assert "no problems" in good
    assert [problem.split(":")[0] for problem in problems] == ["<stdin>[1]"] * 2


def test_validate_reads_a_template_alone():
    """A file with a template is checked as one, with paths of its own."""
    template = json.dumps(make_request()["template"])
    assert invoke("validate", "-", content=template).exit_code == 0
    wrong = template.replace('"go_to": "thanks"', '"go_to": "nowhere"')
    result = invoke("validate", "-", content=wrong)
    assert result.exit_code == 1
    assert "$.stages[0].on_reply[0]" in result.stdout


def test_validate_a_request_by_reference():
    """What needs the database is not looked at, and that is said."""
    request = make_request(template_ref={"name": "renewal"})
    del request["template"]
    result = invoke("validate", "-", content=json.dumps(request))
    assert result.exit_code == 0
    assert "not looked at" in result.stdout


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "got nothing"),
        ("just words", "expected an object"),
        ("a: [1", "line 2, column 1: "),
        ("a: 1\na: 2", "'a' stands twice"),
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ("on: 1", "write it in quotes"),
        ("{name: one, on: 1}", "write it in quotes"),
        ("_id: {$oid: xyz}", "xyz"),
        ("_id: !!python/object:os.system {}", "constructor"),
        ("_id: &a [*a]", "nested too deeply"),
        ("- just\n- words", "expected an object, got str 'just'"),
        ("[" * 100_000, "<stdin>: "),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(content, said):
    """What is no document is said in one line, with the place where there is one."""
    result = invoke("validate", "-", content=content)
    assert result.exit_code == 1
    assert said in result.stderr.splitlines()[-1]


def test_broken_json_is_no_yaml(tmp_path):
    """What calls itself JSON is read as JSON, and the place of its mistake is named."""
    file = tmp_path / "request.json"
    file.write_text('{"_id": "one",\n "name": one}', encoding="utf-8")
    result = invoke("validate", str(file))
    assert result.exit_code == 1
    assert "Expecting value: line 2 column 10" in result.stderr


def test_bytes_that_are_no_text(tmp_path):
    """A file that is not UTF-8 is named."""
    file = tmp_path / "request.yaml"
    file.write_bytes(b"name: \xff")
    result = invoke("validate", str(file))
    assert result.exit_code == 1
    assert "expected UTF-8" in result.stderr


# -- submit ----------------------------------------------------------------------------------------


def test_submit_inserts_what_the_agent_would(environment, database):
    """Extended JSON gives dates and ids their types; the rest is inserted as it stands."""
    request = make_request(
        _id={"$oid": "656f6e6c6f6e67676f6e6531"},
        scheduled_at={"$date": "2026-12-01T09:00:00.123Z"},
        metadata={"owner": {"$uuid": "12345678-1234-5678-1234-567812345678"}},
    )
    code, out, _ = run("submit", "-", content=json.dumps(request, indent="\t"), **environment)
    assert code == 0
    assert out == "656f6e6c6f6e67676f6e6531: inserted\n"
    inserted = database.batch_requests.find_one({})
    assert inserted["_id"] == ObjectId("656f6e6c6f6e67676f6e6531")
    assert inserted["scheduled_at"] == datetime(2026, 12, 1, 9, 0, 0, 123_000, tzinfo=UTC)
    assert inserted["metadata"]["owner"] == UUID("12345678-1234-5678-1234-567812345678")
    assert inserted["template"] == request["template"]


@pytest.mark.parametrize(
    "spelled", ["2026-12-01", "2026-12-01T00:00:00Z", "2026-12-01T01:00:00+01:00"]
)
def test_submit_reads_yaml_dates(environment, database, spelled):
    """Dates of YAML become dates, in UTC."""
    content = f"{REQUEST}\nscheduled_at: {spelled}\n"
    assert invoke("submit", "-", content=content, **environment).exit_code == 0
    assert database.batch_requests.find_one({})["scheduled_at"] == datetime(2026, 12, 1, tzinfo=UTC)


def test_submit_again_inserts_nothing(environment, database):
    """A request that is there stays as it is, and that is no failure."""
    assert invoke("submit", "-", content=REQUEST, **environment).exit_code == 0
    changed = REQUEST.replace("type: renewal", "type: other")
    result = invoke("submit", "-", content=changed, **environment)
    assert result.exit_code == 0
    assert "is there already" in result.stdout
    assert [each["type"] for each in database.batch_requests.find()] == ["renewal"]


def test_submit_takes_several(environment, database):
    """Several documents, or a list of them, are several requests; empty ones are none."""
    lines = "\n".join(json.dumps(make_request(_id=name)) for name in ("one", "two"))
    assert invoke("submit", "-", content=lines, **environment).exit_code == 0
    listed = json.dumps([make_request(_id=name) for name in ("three", "four")])
    assert invoke("submit", "-", content=listed, **environment).exit_code == 0
    content = f"---\n{REQUEST.replace('renewal-2026-12', 'five')}\n---\n---\n"
    assert invoke("submit", "-", content=content, **environment).exit_code == 0
    assert database.batch_requests.distinct("_id") == ["five", "four", "one", "three", "two"]


def test_submit_wants_an_identity(environment, database):
    """Without an `_id` nothing is inserted, not even the others of the file."""
    content = f"{REQUEST}---\nname: nameless\n"
    result = invoke("submit", "-", content=content, **environment)
    assert result.exit_code == 1
    assert "request 2 has no _id" in result.stderr
    assert database.batch_requests.count_documents({}) == 0


def test_submit_waits_for_the_answer(environment, database, tmp_path):
    """With --wait the answer is printed, and an accepted request exits with 0."""
    (tmp_path / "request.yaml").write_text(REQUEST, encoding="utf-8")
    given = {"status": "accepted", "campaign_id": "abc", "counts": {"recipients": 2, "rejected": 1}}
    given["rejected_recipients"] = [{"index": 1, "id": "bob", "problem": "suppressed"}]
    _, (code, out, _) = answered(
        database,
        "batch_requests",
        given,
        "submit",
        str(tmp_path / "request.yaml"),
        "--wait",
        **environment,
    )
    assert code == 0
    assert "accepted, campaign abc, 2 recipients, 1 rejected" in out
    assert "'bob': suppressed" in out


def test_submit_reports_a_rejection(environment, database, tmp_path):
    """A rejected request exits with 1, with its problems."""
    (tmp_path / "request.yaml").write_text(REQUEST, encoding="utf-8")
    given = {"status": "rejected", "problems": ["$.template.channel: no such channel"]}
    _, (code, out, _) = answered(
        database,
        "batch_requests",
        given,
        "submit",
        str(tmp_path / "request.yaml"),
        "--wait",
        **environment,
    )
    assert code == 1
    assert "$.template.channel: no such channel" in out


def test_submit_waits_only_so_long(environment):
    """Without a worker there is no answer: exit code 1, and the request is there."""
    arguments = ("submit", "-", "--wait", "--timeout", "0.2")
    result = invoke(*arguments, content=REQUEST, **environment)
    assert result.exit_code == 1
    assert "does a worker run?" in result.stderr
    assert "renewal-2026-12: inserted" in result.stdout


# -- status ----------------------------------------------------------------------------------------


def test_status_of_nothing(environment):
    """A database without campaigns is no error."""
    assert invoke("status", **environment).output == "no campaigns\n"


def test_status_lists_the_newest_first(environment, database):
    """All campaigns, newest first, at most --limit."""
    for day in range(3):
        campaign, _ = insert_campaign(database, _id=f"request-{day}", name=f"name-{day}")
        created = {"$set": {"created_at": NOW + timedelta(days=day)}}
        database.campaigns.update_one({"_id": campaign.id}, created)
    lines = invoke("status", "--limit", "2", **environment).output.splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["request-2", "request-1"]
    assert "2026-11-23T12:00:00Z (" in lines[1]
    listed = json_util.loads(invoke("status", "--json", **environment).output)
    assert [each["name"] for each in listed] == ["name-2", "name-1", "name-0"]


def test_status_of_a_campaign(environment, database):
    """One campaign: state, counts, the stages in their order, messages, deadline."""
    campaign, _ = insert_campaign(database)
    output = invoke("status", campaign.id, **environment).output
    assert "active" in output
    assert "2 pending" in output
    assert "1 sent" in output
    assert "2026-12-23T12:00:00Z (" in output
    stages = [
        line.split()[:2] for line in output.splitlines() if line.startswith(("intro", "thanks"))
    ]
    assert stages == [["intro", "2"], ["thanks", "0"]]


@pytest.mark.parametrize(
    ("request_id", "spelled"),
    [
        ("renewal-2026-12", "renewal-2026-12"),
        (ObjectId("656f6e6c6f6e67676f6e6531"), "656f6e6c6f6e67676f6e6531"),
        (UUID("12345678-1234-5678-1234-567812345678"), "12345678-1234-5678-1234-567812345678"),
    ],
)
def test_a_campaign_is_found_by_its_request(environment, database, request_id, spelled):
    """The request's id finds its campaign, whatever type it has."""
    campaign, _ = insert_campaign(database, _id=request_id)
    found = json_util.loads(invoke("status", spelled, "--json", **environment).output)
    assert found["campaign"]["_id"] == campaign.id


def test_a_campaign_is_found_by_prefix_and_name(environment, database):
    """Four characters of the id are enough, three are not; a name that only one has is, too."""
    campaign, _ = insert_campaign(database)
    for reference in (campaign.id[:4], campaign.id[:20], "renewal"):
        assert campaign.id in invoke("status", reference, **environment).output
    assert invoke("status", campaign.id[:3], **environment).exit_code == 3


def test_an_ambiguous_campaign_is_a_usage_error(environment, database):
    """A name that several have, or a prefix, exits with 2 and names them."""
    ids = {insert_campaign(database, _id=name)[0].id for name in ("one", "two")}
    result = invoke("status", "renewal", **environment)
    assert result.exit_code == 2
    assert ids == {line.split()[0] for line in result.stderr.splitlines()[1:]}
    document = database.campaigns.find_one({"batch_request_id": "one"})
    database.campaigns.insert_one(document | {"_id": f"{document['_id'][:6]}-another"})
    assert invoke("status", document["_id"][:6], **environment).exit_code == 2
    assert invoke("status", document["_id"], **environment).exit_code == 0


def test_status_of_what_is_not_there(environment):
    """An unknown campaign exits with 3, one line on stderr."""
    result = invoke("status", "nothing", **environment)
    assert (result.exit_code, result.stdout) == (3, "")
    assert len(result.stderr.splitlines()) == 1


def test_status_of_a_rejected_request(environment, database):
    """A request without a campaign is shown with its problems."""
    problems = {"status": "rejected", "problems": ["$.type: required"]}
    database.batch_requests.insert_one({"_id": "bad"} | problems)
    database.batch_requests.insert_one({"_id": "new"})
    assert "$.type: required" in invoke("status", "bad", **environment).output
    assert "not answered yet" in invoke("status", "new", **environment).output


def test_status_shows_text_as_text(environment, database):
    """What a document says can neither style nor steer the terminal."""
    insert_campaign(database, name="[red]\x1b[2J")
    output = invoke("status", "renewal-2026-12", **environment).output
    assert "[red]\\x1b[2J" in output
    assert "\x1b" not in output


def test_status_watches_until_the_end(environment, database):
    """Watching shows each change once, and ends with the campaign."""
    campaign, _ = insert_campaign(database)
    process = start("status", "--watch", "--json", "renewal", **environment)
    assert json_util.loads(process.stdout.readline())["campaign"]["status"] == "active"
    end = {"$set": {"status": "completed", "completed_at": NOW}}
    database.campaigns.update_one({"_id": campaign.id}, end)
    code, out, _ = ended(process)
    assert code == 0
    (line,) = out.splitlines()
    assert json_util.loads(line)["campaign"]["status"] == "completed"


def test_status_watches_a_request_until_its_answer(environment, database):
    """A request that has no campaign yet is watched, too, and people see each change."""
    database.batch_requests.insert_one({"_id": "new"})
    process = start("status", "--watch", "new", **environment)
    assert process.stdout.readline() == "Batch request  new\n"
    assert "not answered yet" in process.stdout.readline()
    answer = {"status": "rejected", "rejected_recipients": [{"id": "bob", "problem": "no address"}]}
    database.batch_requests.update_one({}, {"$set": answer})
    code, out, _ = ended(process)
    assert code == 0
    assert "recipient 'bob': no address" in out


# -- show ------------------------------------------------------------------------------------------


def insert_message(database, campaign, conversation):
    """Insert a ledger entry as the engine does."""
    database.messages.insert_one(
        {
            "_id": f"{conversation.id}/intro/0",
            "conversation_id": conversation.id,
            "campaign_id": campaign.id,
            "channel": "email",
            "status": "sent",
            "attempts": 1,
            "sent_at": NOW,
            "subject": "Your plan, Ada",
            "body": "It ends soon.",
        }
    )


def test_show_a_conversation(environment, database):
    """State, what it waits for, history and messages; texts only when asked for."""
    campaign, (ada, _) = insert_campaign(database)
    insert_message(database, campaign, ada)
    output = invoke("show", "renewal-2026-12/ada", **environment).output
    for shown in (ada.id, "pending", "start", "opened", "due", "sent", "2026-11-23T12:00:00Z ("):
        assert shown in output
    assert "It ends soon." not in output
    assert "Your plan" not in output
    output = invoke("show", ada.id[:8], "--content", **environment).output
    assert "It ends soon." in output
    assert "Subject: Your plan, Ada" in output


def test_show_as_json(environment, database):
    """One document of Extended JSON, without texts unless asked for."""
    campaign, (ada, bob) = insert_campaign(database)
    insert_message(database, campaign, ada)
    update = {"_id": "r1", "kind": "reply", "text": "Yes!", "batch_request_id": "renewal-2026-12"}
    database.conversation_updates.insert_one(update | {"recipient_id": "ada"})
    database.conversation_updates.insert_one(
        update | {"_id": "r2", "recipient_id": "bob", "conversation_id": bob.id}
    )
    output = invoke("show", ada.id, "--json", **environment).output
    shown = json_util.loads(output)
    assert shown["conversation"]["_id"] == ada.id
    assert [each["_id"] for each in shown["messages"]] == [f"{ada.id}/intro/0"]
    assert [each["_id"] for each in shown["unanswered_updates"]] == ["r1"]
    assert "It ends soon." not in output
    assert "Yes!" not in output
    assert "Yes!" in invoke("show", ada.id, "--json", "--content", **environment).output


def test_show_what_is_under_way(environment, database):
    """The last reply and the message that is on its way are shown, and updates that wait."""
    _, (ada, _) = insert_campaign(database)
    reply = {"id": "r1", "at": NOW, "text": "Tell me more", "intent": "interested"}
    slot = {"stage": "intro", "n": 1, "channel": "email", "state": "sending", "attempts": 2}
    under_way = {"reply": reply, "slot": slot | {"until": NOW}, "last_error": "no luck"}
    database.conversations.update_one({"_id": ada.id}, {"$set": under_way})
    update = {"_id": "goal-1", "kind": "goal_reached", "conversation_id": ada.id}
    database.conversation_updates.insert_one(update)
    output = invoke("show", ada.id, **environment).output
    for shown in ("intent interested", "intro/1 by email", "sending, attempt 2", "no luck"):
        assert shown in output
    assert "goal_reached  goal-1" in output
    assert "Tell me more" not in output
    assert "Tell me more" in invoke("show", ada.id, "--content", **environment).output


@pytest.mark.parametrize("reference", ["abc", "abcd", "renewal-2026-12/eve", "nothing/ada", "/"])
def test_show_what_is_not_there(environment, database, reference):
    """An unknown conversation exits with 3."""
    insert_campaign(database)
    assert invoke("show", reference, **environment).exit_code == 3


def test_a_request_with_a_slash(environment, database):
    """BATCH_REQUEST/RECIPIENT is found even where the request's id has slashes."""
    _, (ada, _) = insert_campaign(database, _id="2026/12/renewal")
    assert ada.id in invoke("show", "2026/12/renewal/ada", **environment).output


# -- pause, resume, cancel -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pause", "resume", "cancel"])
def test_a_campaign_is_steered_by_an_update(environment, database, kind):
    """The update names the campaign, and the worker's answer is printed."""
    campaign, _ = insert_campaign(database)
    inserted, (code, out, err) = answered(
        database, "campaign_updates", {"status": "applied"}, kind, "renewal", **environment
    )
    assert (code, err) == (0, "")
    assert out == f"{kind} of campaign {campaign.id}: applied\n"
    assert inserted == {"_id": inserted["_id"], "campaign_id": campaign.id, "kind": kind}


def test_a_conversation_is_steered_by_an_update(environment, database):
    """The update names the conversation; an answer that nothing changed is no failure."""
    _, (ada, _) = insert_campaign(database)
    inserted, (code, out, _) = answered(
        database,
        "conversation_updates",
        {"status": "ignored", "reason": "not_paused"},
        *("resume", "renewal-2026-12/ada"),
        **environment,
    )
    assert code == 0
    assert out.endswith(": ignored, not_paused\n")
    assert inserted["conversation_id"] == ada.id


def test_a_refused_update_is_a_failure(environment, database):
    """An update that was rejected exits with 1, with the reason."""
    insert_campaign(database)
    given = {"status": "rejected", "reason": "$.until: expected a date"}
    _, (code, out, err) = answered(
        database, "campaign_updates", given, "pause", "renewal", "--until", "2h", **environment
    )
    assert (code, out) == (1, "")
    assert "$.until: expected a date" in err


@pytest.mark.parametrize("until", ["2030-01-01T09:00:00+01:00", "3d"])
def test_a_pause_ends_by_itself(environment, database, until):
    """--until takes a time with its zone or a duration, by the server's clock."""
    insert_campaign(database)
    result = invoke("pause", "renewal", "--until", until, "--no-wait", **environment)
    assert result.exit_code == 0
    found = database.campaign_updates.find_one({})["until"]
    if until == "3d":
        assert timedelta(days=2.9) < found - datetime.now(UTC) < timedelta(days=3.1)
    else:
        assert found == datetime(2030, 1, 1, 8, tzinfo=UTC)


def test_without_a_worker_the_update_stays(environment, database):
    """An answer that does not come is a failure; the update is there and will be applied."""
    insert_campaign(database)
    result = invoke("cancel", "renewal", "--timeout", "0.2", **environment)
    assert result.exit_code == 1
    update = database.campaign_updates.find_one({})
    assert str(update["_id"]) in result.stderr


def test_nothing_is_steered_that_is_not_meant(environment, database):
    """What is not there, or may mean several, gets no update."""
    insert_campaign(database, _id="one")
    insert_campaign(database, _id="two")
    assert invoke("cancel", "renewal", **environment).exit_code == 2
    assert invoke("cancel", "nothing", **environment).exit_code == 3
    assert database.campaign_updates.count_documents({}) == 0
    assert database.conversation_updates.count_documents({}) == 0


# -- check and init-db -----------------------------------------------------------------------------


def test_init_db_then_check(environment, database):
    """What check finds missing, init-db makes; then nothing is left to do."""
    result = invoke("check", **environment)
    assert result.exit_code == 1
    assert "failed  indexes" in result.stdout
    assert "init-db" in result.stdout

    code, out, _ = run("init-db", "--dry-run", **environment)
    assert code == 0
    assert "Nothing was done" in out
    assert database.list_collection_names() == []

    steps = invoke("init-db", **environment)
    assert steps.exit_code == 0
    assert steps.stdout.splitlines() == out.splitlines()[:-1]
    assert "Nothing to do" in invoke("init-db", **environment).stdout

    code, out, err = run("check", **environment)
    assert (code, err) == (0, "")
    assert {line.split()[0] for line in out.splitlines()} == {"ok"}


def test_init_db_changes_a_validator(environment, database):
    """A validator that differs is replaced; documents that are there stay."""
    database.create_collection("batch_requests", validator={"name": "nothing"})
    database.batch_requests.insert_one({"name": "nothing"})
    result = invoke("init-db", **environment)
    assert result.exit_code == 0
    assert "change the validator of batch_requests" in result.stdout
    assert database.batch_requests.count_documents({}) == 1


def test_validators_refuse_what_is_wrong(environment, database):
    """With validators, a wrong request is refused at the insert, and a good one is not."""
    invoke("init-db", **environment)
    wrong = REQUEST.replace("type: renewal", "typ: renewal")
    result = invoke("submit", "-", content=wrong, **environment)
    assert result.exit_code == 1
    assert "reactor validate" in result.stderr
    assert invoke("submit", "-", content=REQUEST, **environment).exit_code == 0
    answer = {"$set": {"status": "accepted", "campaign_id": "abc", "counts": {"recipients": 2}}}
    assert database.batch_requests.update_one({}, answer).modified_count == 1


def test_check_of_a_server_that_is_not_there():
    """Check names the server that does not answer and goes on with what needs none."""
    code, out, _ = run("check", MONGODB_URI=NOWHERE, CHANNEL_EMAIL="log:")
    assert code == 1
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines if line[0] != " "] == [
        ["ok", "settings"],
        ["failed", "server"],
        ["ok", "channels"],
    ]
    assert "secret" not in out


def test_check_misses_channels(environment):
    """Without a channel no request can be accepted: check says so."""
    invoke("init-db", **environment)
    del environment["CHANNEL_EMAIL"]
    result = invoke("check", **environment)
    assert result.exit_code == 1
    assert "failed  channels" in result.stdout


def test_check_of_a_secondary():
    """A member that is not the primary is no place to work, and check says what to do."""
    at_once = {"shutdownTimeoutMillisForSignaledShutdown": 0}
    with (
        embedded_server_sync(set_parameters=at_once) as server,
        MongoClient(server.uri) as client,
    ):
        client.admin.command("replSetStepDown", 60, force=True)
        code, out, _ = run("check", MONGODB_URI=server.uri)
        assert code == 1
        assert "is not the primary" in out
        assert "replicaSet=rs0" in out
        code, out, err = run("run", MONGODB_URI=server.uri)
        assert (code, out) == (1, "")
        assert "is not the primary" in err


def test_check_of_a_standalone_server(tmp_path):
    """A server without a replica set is not enough, and check says how to make one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [find_mongod(os.environ), "--dbpath", tmp_path, "--port", str(port), "--nounixsocket"]
    uri = f"mongodb://127.0.0.1:{port}"
    with subprocess.Popen(
        [*command, "--bind_ip", "127.0.0.1"], stdout=subprocess.DEVNULL
    ) as mongod:
        try:
            with MongoClient(uri) as client:
                client.admin.command("ping")
            code, out, _ = run("check", MONGODB_URI=uri)
        finally:
            mongod.terminate()
    assert code == 1
    assert "no member of a replica set" in out
    assert "rs.initiate()" in out


def test_startup_check_tries_again():
    """The start-up check waits for a server, says so once, and gives up when its time is over."""
    wrong = {"MONGODB_URI": NOWHERE, "STARTUP_TIMEOUT_SECONDS": "0.1"}
    code, out, err = run("check", "--startup", **wrong)
    assert (code, out) == (1, "")
    assert err.splitlines()[0].startswith("Waiting for the database: ")
    assert err.splitlines()[-1].startswith("Not ready after 0.1 s")


def test_startup_check_is_quiet(environment):
    """Where a worker can start, the start-up check says nothing, even without indexes."""
    assert run("check", "--startup", **environment) == (0, "", "")


# -- terminals -------------------------------------------------------------------------------------


def on_terminal(*arguments, **environment):
    """Run a command on a terminal of its own; give what it showed."""
    leader, follower = os.openpty()
    command = [sys.executable, "-m", "reactor", *arguments]
    given = of_this_process() | {"TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen(
        command, cwd=ROOT, env=given | environment, stdin=follower, stdout=follower, stderr=follower
    ) as process:
        os.close(follower)
        shown = b""
        try:
            while part := os.read(leader, 65_536):
                shown += part
        except OSError:  # Linux: the other end was closed
            pass
    os.close(leader)
    assert process.returncode == 0
    return shown.decode()


def test_colour_only_on_a_terminal(environment, database):
    """A terminal gets styles, unless NO_COLOR is set; a pipe never does."""
    insert_campaign(database)
    assert "\x1b[" in on_terminal("status", "renewal", **environment)
    assert "\x1b[" not in on_terminal("status", "renewal", NO_COLOR="1", **environment)
    assert "\x1b[" not in run("status", "renewal", **environment)[1]


def test_watching_on_a_terminal(environment, database):
    """On a terminal the picture is drawn in place, and ends with the campaign."""
    campaign, _ = insert_campaign(database)
    end = {"$set": {"status": "completed", "completed_at": NOW}}
    database.campaigns.update_one({"_id": campaign.id}, end)
    assert "completed" in on_terminal("status", "renewal", "--watch", **environment)


# -- with a real worker ----------------------------------------------------------------------------


@pytest.fixture
def worker(environment, tmp_path):
    """Run a real worker beside the test; it ends with 0."""
    process = start("run", **environment, HEARTBEAT_FILE=str(tmp_path / "beat"))
    yield process
    process.terminate()
    code, out, _ = ended(process)
    assert (code, out) == (0, "")


def test_a_campaign_from_submit_to_cancel(environment, worker):
    """What the commands insert, a worker answers; what it does, they show."""
    code, out, _ = run("submit", "-", "--wait", content=REQUEST, **environment)
    assert code == 0
    assert "renewal-2026-12: accepted, campaign " in out
    for kind, answer in [
        ("pause", "applied, paused"),
        ("resume", "applied, resumed"),
        ("resume", "ignored, not_paused"),
        ("cancel", "applied, cancelled"),
    ]:
        result = invoke(kind, "renewal", **environment)
        assert (result.exit_code, result.stdout.split(": ")[1]) == (0, f"{answer}\n")
    watched = run("status", "renewal", "--watch", **environment)[1]
    assert "2 cancelled" in watched
    shown = invoke("show", "renewal-2026-12/ada", **environment).stdout
    assert "cancelled" in shown


def test_run_once_does_what_is_due(environment, tmp_path):
    """With --once the worker does what is due and ends; the database is named, masked, on stderr."""
    given = {"CHANNEL_EMAIL": f"file:{tmp_path}/sent.jsonl"}
    invoke("submit", "-", content=REQUEST, **environment)
    code, out, err = run("run", "--once", **environment | given)
    assert (code, out) == (0, "")
    named = json.loads(err.splitlines()[0])["message"]
    assert named.startswith(f"Database {environment['MONGODB_DB']} at mongodb://127.0.0.1:")
    sent = (tmp_path / "sent.jsonl").read_text(encoding="utf-8").splitlines()
    assert sorted(json.loads(line)["recipient_id"] for line in sent) == ["ada", "bob"]
    listed = invoke("status", **environment).stdout.splitlines()[1].split()
    assert listed[3:8] == ["active", "2", "2", "2", "0"]


def test_run_without_a_server():
    """A worker whose database does not answer says so in one line and ends with 1."""
    code, out, err = run("run", MONGODB_URI=NOWHERE)
    assert (code, out) == (1, "")
    assert "secret" not in err
    assert len(err.splitlines()) == 2
