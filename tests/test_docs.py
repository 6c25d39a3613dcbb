"""The documents say what the code says: tables, diagrams, examples and links are held to it."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import pytest
import yaml
from pymongo import WriteConcern

from handlers.liquid_environment import MAX_ASSIGNED, MAX_BLOCKS, MAX_RANGE, MAX_STEPS
from handlers.liquid_filters import MAX_OUTPUT
from handlers.moves import MOVES
from handlers.rendering import MAX_SOURCE
from handlers.template_check import check_template
from reactor.cli.commands import reactor as commands
from reactor.settings import SETTINGS
from reactor.telemetry_table import LOG_KEYS, METRICS, SPANS
from schemas.batch_request import BatchRequest, Recipient
from schemas.campaign import Campaign, CampaignStatus, CompletionReason
from schemas.conversation import Conversation, ConversationStatus, ExitReason, WaitingFor
from schemas.converter import read_campaign_update, read_conversation_update, read_template
from schemas.fields import wire_names
from schemas.message import LedgerEntry, MessageStatus, Suppression
from schemas.template import FollowUp, MessageTemplate, ReplyRule, Stage, Template
from schemas.transition import Reason
from schemas.update import CampaignUpdate, ConversationUpdate, UpdateKind, UpdateStatus

ROOT = Path(__file__).parents[1]
DOCS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
ENUMS = {
    "Conversation status": ConversationStatus,
    "Waiting for": WaitingFor,
    "Exit reasons": ExitReason,
    "Reasons": Reason,
    "Campaign status": CampaignStatus,
    "Completion reasons": CompletionReason,
    "Message status": MessageStatus,
    "Answers to updates": UpdateStatus,
}
FIELDS = {
    "batch_requests": (BatchRequest,),
    "Recipient": (Recipient,),
    "Template": (Template, Stage, FollowUp, ReplyRule, MessageTemplate),
    "conversation_updates": (ConversationUpdate,),
    "campaign_updates": (CampaignUpdate,),
    "suppressions": (Suppression,),
    "campaigns": (Campaign,),
    "conversations": (Conversation,),
    "messages": (LedgerEntry,),
}
LIMITS = {
    "characters of a rendered text, and of any value on the way": MAX_OUTPUT,
    "steps of one rendering": MAX_STEPS,
    "characters in the variables of a text": MAX_ASSIGNED,
    "blocks within each other": MAX_BLOCKS,
    "numbers of a range": MAX_RANGE,
}


def _read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def _section(name, heading):
    """The text under a heading, up to the next one; the whole document without a heading."""
    found = re.search(
        rf"^#+ {re.escape(heading)}$(.*?)(?=^#+ |\Z)", _read(name), re.MULTILINE | re.DOTALL
    )
    assert found, f"{name} has no section {heading!r}"
    return found[1]


def _rows(text, first):
    """The rows of the table whose first column is headed so."""
    table = re.search(rf"^\| {first} \|.*\n\|[-|]+\n((?:\|.*\n?)+)", text, re.MULTILINE)
    assert table, f"no table of {first}"
    return [[cell.strip() for cell in row[1:-1].split(" | ")] for row in table[1].splitlines()]


def _names(text, first):
    return [row[0].strip("`") for row in _rows(text, first)]


def _blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def _moves_of_diagrams():
    edge = re.compile(r"^ *(\w+) --> (\w+): (.+)$", re.MULTILINE)
    blocks = _blocks(_read("docs/state-machine.md"), "mermaid")
    return [
        (source, reason, target)
        for block in blocks[:-1]  # the last one is about messages
        for source, target, reasons in edge.findall(block)
        for reason in reasons.split(", ")
    ]


def test_the_diagram_shows_every_move_once_and_no_other():
    """Every (from, reason, to) of the table is in the diagram, once, and nothing else is."""
    drawn = _moves_of_diagrams()
    table = {
        (source.value, reason.value, target.value)
        for reason, pairs in MOVES.items()
        for source, target in pairs
    }
    assert sorted(drawn) == sorted(table)


@pytest.mark.parametrize("heading", ENUMS)
def test_a_closed_list_has_all_its_members(heading):
    """The tables of docs/reasons.md name every member of their enumeration, and no other."""
    text = _section("docs/reasons.md", heading)
    first = re.search(r"^\| ([\w ]+) \|", text, re.MULTILINE)[1]
    documented = _names(text, first)
    assert sorted(documented) == sorted(member.value for member in ENUMS[heading])
    assert len(documented) == len(set(documented))


@pytest.mark.parametrize("name", ["README.md", "docs/settings.md"])
def test_the_settings_are_those_of_the_code(name):
    """The tables of settings have the variables, defaults and meanings that the worker reads."""
    expected = [[f"`{each.name}`", f"`{each.default}`", each.meaning] for each in SETTINGS]
    assert _rows(_read(name), "variable") == expected


def test_the_commands_of_the_readme_are_all_commands():
    """The README names every command of `reactor`, and none that there is not."""
    assert _names(_read("README.md"), "command") == [
        f"reactor {name}" for name in commands.commands
    ]


@pytest.mark.parametrize(
    ("name", "language"), [("insert_request.py", "python"), ("insert_request.mjs", "javascript")]
)
def test_the_readme_shows_the_examples_as_they_are(name, language):
    """What one copies from the README is what the tests of the examples run."""
    assert _read(f"examples/{name}") in _blocks(_read("README.md"), language)


def test_metrics_spans_and_log_keys_are_those_of_the_code():
    """docs/operations.md tells all that the worker tells about itself, with its attributes."""
    text = _read("docs/operations.md")
    metrics = [
        [f"`{n}`", d.kind, d.unit, _quoted(d.attributes), d.description] for n, d in METRICS.items()
    ]
    assert _rows(text, "metric") == metrics
    assert _rows(text, "span") == [
        [f"`{n}`", _quoted(d.attributes), d.description] for n, d in SPANS.items()
    ]
    assert _rows(text, "key") == [[f"`{key}`", meaning] for key, meaning in LOG_KEYS.items()]


def _quoted(names):
    return ", ".join(f"`{name}`" for name in names)


@pytest.mark.parametrize("heading", FIELDS)
def test_every_field_of_a_document_is_named(heading):
    """The section of a collection names each of its fields, the worker's own, too."""
    text = _section("docs/contract.md", heading)
    words = set(re.findall(r"[A-Za-z_]+", text))
    missing = {
        wire for cls in FIELDS[heading] for wire in wire_names(cls).values() if wire not in words
    }
    assert not missing


def test_every_kind_of_update_is_explained():
    """The contract says what each kind of update does."""
    text = _section("docs/contract.md", "conversation_updates")
    cells = " ".join(row[0] for row in _rows(text, "kind"))
    assert set(re.findall(r"`([a-z_]+)`", cells)) - {"reply_id"} == {
        kind.value for kind in UpdateKind
    }


def test_the_template_of_the_contract_is_valid():
    """Its example of a template can be read, and has the defaults that it says it has."""
    (block,) = _blocks(_section("docs/contract.md", "Template"), "yaml")
    template = read_template(yaml.safe_load(block))
    assert check_template(template, {"email", "sms"}) == ()
    defaults = {field.name: field.default for field in attrs.fields(Template)}
    for name in (
        "version",
        "timezone",
        "max_duration",
        "max_messages",
        "retry",
        "agent",
        "escalation",
    ):
        assert getattr(template, name) == defaults[name]


def test_the_python_examples_of_the_contract_run(mongodb_client, database_name):
    """They insert updates that a worker can read."""
    database, now = mongodb_client[database_name], datetime.now(UTC)
    database.campaigns.insert_one({"_id": "c", "batch_request_id": "hello-python-1"})
    names = {
        "database": database,
        "WriteConcern": WriteConcern,
        "received_at": now,
        "after_holidays": now + timedelta(days=10),
    }
    for block in _blocks(_read("docs/contract.md"), "python"):
        exec(compile(block, "docs/contract.md", "exec"), names)
    updates = list(database.conversation_updates.find())
    orders = list(database.campaign_updates.find())
    assert (len(updates), len(orders)) == (4, 1)
    for update in updates:
        read_conversation_update(update, now=now)
    read_campaign_update(orders[0], now=now)


def test_the_limits_of_texts_are_those_of_the_code():
    """The table of limits gives the numbers that a rendering is held to."""
    limits = dict(_rows(_section("docs/templates.md", "Limits"), "what"))
    assert limits["characters of a text before rendering"].startswith(f"{MAX_SOURCE:,};")
    assert {what: limits[what] for what in LIMITS} == {
        what: f"{limit:,}" for what, limit in LIMITS.items()
    }


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    """A link to a file of the project leads to one that is there, and to a heading that it has."""
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {heading.lower().replace(" ", "-") for heading in headings}
