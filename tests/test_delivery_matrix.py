"""
docs/channels.md says what the engine does about whatever a provider does: each row is run here.

A real worker on a real database, against a real receiver in a process of its own. What a row promises
is read from the page: the words in its cells are compared with the documents.
"""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from attrs import frozen

import reactor.delivery
from schemas.ids import conversation_id
from tests.builders import recipient_document, template_document
from tests.receivers.running import http_receiver
from tests.receivers.running_smtp import smtp_receiver
from tests.world import world as make_world

PAGE = Path(__file__).parents[1] / "docs" / "channels.md"
COLUMNS = [
    *("what happens", "outcome", "attempt", "conversation", "`last_error`", "ledger"),
    *("circuit", "taken"),
]
#: Long enough for whatever a retry, a silence or a circuit waits for at first.
LATER = {"minutes": 10}
#: One message and then silence, for longer than any test lets pass.
TEMPLATE = template_document(
    stages=[
        {
            "id": "intro",
            "message": {"subject": "Your plan", "body": "Hello {{ recipient.first_name }}"},
            "reply_within": "20d",
        }
    ]
)
FIVE = 5  # attempts, the default of a template


@frozen
class Case:
    """How a row is brought about."""

    mode: str
    #: CHANNEL_TIMEOUT_SECONDS: short where the row is about it.
    seconds: str = "10"
    #: Before the next attempt is due, at least: what the provider has asked for.
    waits: timedelta = timedelta(0)


CASES = {
    "HTTP": {
        "accepts it": Case("ok"),
        "accepts it slowly": Case("slow:0.4"),
        "500": Case("500"),
        "503 with `Retry-After`": Case("503:120", waits=timedelta(seconds=120)),
        "429 with `Retry-After`": Case("429:120", waits=timedelta(seconds=120)),
        "401": Case("401"),
        "404": Case("404"),
        "hangs": Case("hang", seconds="1.5"),
        "accepts it, then cuts": Case("cut"),
        "accepts it, then 500": Case("accept-500"),
        "refuses the connection": Case("refuse"),
    },
    "SMTP": {
        "accepts it": Case("ok"),
        "421": Case("421"),
        "451 to RCPT: greylisting": Case("greylist"),
        "550 to RCPT": Case("550"),
        "550 after DATA": Case("550-data"),
        "535 to AUTH": Case("auth-fail"),
        "hangs after the dot": Case("hang", seconds="1.5"),
        "accepts it, then cuts after the dot": Case("cut"),
        "hangs before the dot": Case("hang-early", seconds="1.5"),
        "refuses the connection": Case("refuse"),
    },
}
ROWS = [(table, name) for table, cases in CASES.items() for name in cases]


def table_of(kind):
    """Give the rows of a table of the page: cells by column, by what the provider does."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"^\| {kind} \| (.*) \|\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert found, f"no table of {kind}"
    assert found[1].split(" | ") == COLUMNS
    rows = [row[2:-2].split(" | ") for row in found[2].splitlines()]
    names = [name for name, *_ in rows]
    assert len(names) == len(set(names))
    return {name: dict(zip(COLUMNS, cells, strict=True)) for name, *cells in rows}


def words(cell):
    """Give what a cell says in the words of the documents."""
    return re.findall(r"`([^`]+)`", cell)


@pytest.fixture(scope="module")
def providers(tmp_path_factory):
    """Run a receiver of each kind, and give them with the settings of a channel to each."""
    directory = tmp_path_factory.mktemp("providers")
    with (
        http_receiver(directory) as http,
        smtp_receiver(directory, auth="worker:secret") as smtp,
    ):
        yield {
            "HTTP": (
                Http(http),
                {"CHANNEL_EMAIL": http.url, "CHANNEL_EMAIL_ALLOW_PRIVATE": "1"},
            ),
            "SMTP": (
                Smtp(smtp),
                {
                    "CHANNEL_EMAIL": f"{smtp.url}?starttls=off",
                    "CHANNEL_EMAIL_FROM": "Team <team@example.com>",
                    "CHANNEL_EMAIL_CONCURRENCY": "16",
                },
            ),
        }


@frozen
class Http:
    """An HTTP provider, and what it says that it has received."""

    receiver: object

    def set_mode(self, mode):
        """Do this from now on."""
        self.receiver.set_mode(mode)

    def arrivals(self):
        """Give the key and the digest of all that arrived, and whether it was accepted."""
        return [(one["key"], one["sha256"], one["accepted"]) for one in self.receiver.requests()]


@frozen
class Smtp:
    """An SMTP provider, and what it says that it has accepted."""

    receiver: object

    def set_mode(self, mode):
        """Do this from now on, on new connections."""
        self.receiver.drop()
        self.receiver.set_mode(mode)

    def arrivals(self):
        """Give the key and the digest of all that was accepted."""
        return [(one["key"], one["sha256"], True) for one in self.receiver.messages()]


def taken(provider_, key):
    """Count how often the provider has accepted a message."""
    return sum(accepted for known, _, accepted in provider_.arrivals() if known == key)


def one_body_per_key(provider_):
    """Whatever arrived under a key was the same, byte for byte."""
    bodies = {}
    for key, digest, _ in provider_.arrivals():
        assert bodies.setdefault(key, digest) == digest


@pytest.fixture
def outcomes(monkeypatch):
    """Note what came of each hand-off, by key."""
    seen = {}
    real = reactor.delivery.hand_off

    async def noted(channel, message, seconds):
        outcome = await real(channel, message, seconds)
        seen.setdefault(message.key, []).append(outcome.kind.value)
        return outcome

    monkeypatch.setattr(reactor.delivery, "hand_off", noted)
    return seen


@pytest.fixture
def database(mongodb_uri, mongodb_client, database_name, tmp_path):
    """Make worlds in this test's database."""

    def world(**settings):
        return make_world(mongodb_uri, mongodb_client, database_name, tmp_path, **settings)

    return world


async def submit(world, request, *recipients, **changes):
    """Start a campaign for these, and let the worker do what it can."""
    world.request = named(world, request)
    answer = await world.submit(
        [recipient_document(one) for one in recipients], template=TEMPLATE, **changes
    )
    assert answer["status"] == "accepted", answer


def named(world, request):
    """Give a request's id: no other test has the same, and so no other has its keys."""
    return f"{world.database.name}-{request}"


def key_of(world, recipient="r0"):
    """Give the key of a recipient's first message."""
    return f"{conversation_id(world.request, recipient)}/intro/0"


async def probe(world):
    """Let the time of the longest opening pass; a second after its probe the rest leaves."""
    await world.pass_time(minutes=6)
    await world.pass_time(seconds=2)


def channel_of(world):
    """Read what the workers know of the channel."""
    return world.database.channels.find_one({"_id": "email"}) or {}


def circuit_of(world):
    """Read the state of the circuit."""
    return channel_of(world).get("circuit", {}).get("state", "closed")


def alerts_of(world):
    """Read all alerts."""
    return list(world.database.alerts.find())


def tries_of(world, recipient="r0"):
    """Give how often the message was tried, and how many of these do not count."""
    slot = world.conversation(recipient)["slot"]
    return (slot["attempts"], slot["spared"]) if slot else None


def told(conversation):
    """Give what a conversation says of itself: the words of the column."""
    exit_reason = conversation["exit_reason"]
    return [
        conversation["status"],
        *conversation["waiting_for"],
        *([exit_reason] if exit_reason else []),
    ]


@pytest.mark.parametrize("kind", CASES)
def test_every_row_has_a_case_and_every_case_a_row(kind):
    """The page tells no more than is run here, and no less."""
    assert list(table_of(kind)) == list(CASES[kind])


@pytest.mark.parametrize(("kind", "name"), ROWS, ids=[": ".join(row) for row in ROWS])
async def test_a_row_is_true(kind, name, database, providers, outcomes):
    """What the row says comes true: for a message alone, beside others, and for many at once."""
    row, case = table_of(kind)[name], CASES[kind][name]
    there, settings = providers[kind]
    async with database(**settings, CHANNEL_TIMEOUT_SECONDS=case.seconds) as world:
        there.set_mode(case.mode)
        await alone(world, row, case, outcomes)
        await mended(world, there, row)
        await beside_others(world, there, row, case)
        await many(world, there, row, case)
    one_body_per_key(there)


async def alone(world, row, case, outcomes):
    """The first message of all: no success and no failure is known of the channel."""
    await submit(world, "alone", "r0")
    conversation, entries = world.conversation(), world.messages()
    assert outcomes[key_of(world)] == words(row["outcome"])
    assert told(conversation) == words(row["conversation"])
    assert [conversation["last_error"]] == (words(row["`last_error`"]) or [None])
    assert [one["status"] for one in entries] == words(row["ledger"])
    assert [circuit_of(world)] == words(row["circuit"])
    assert bool(channel_of(world).get("succeeded_at")) == ("a success" in row["circuit"])
    assert len(alerts_of(world)) == (circuit_of(world) == "open")
    spared = {"no": 1, "where it works": 1, "yes": 0}
    expected = (1, spared[row["attempt"]]) if row["attempt"] in spared else None
    assert tries_of(world) == expected
    if expected and "unknown" not in conversation["waiting_for"]:
        wait = conversation["slot"]["until"] - conversation["slot"]["due_at"]
        assert wait >= max(case.waits, timedelta(seconds=24))
    entry = entries[0] if entries else None
    if entry:
        assert entry["attempts"] == 1
        assert entry["error"] == conversation["last_error"]


async def mended(world, there, row):
    """The provider works again: what waits leaves, and `taken` is how often it arrived in all."""
    there.set_mode("ok")
    await world.pass_time(**LATER)
    await world.work()
    assert [str(taken(there, key_of(world)))] == re.findall(r"^\d", row["taken"])
    if words(row["ledger"]):
        return  # it is settled already, or waits for a person
    assert told(world.conversation()) == ["awaiting_reply", "reply"]
    assert [one["status"] for one in world.messages()] == ["sent"]
    assert circuit_of(world) == "closed"
    assert all(one["resolved_at"] for one in alerts_of(world))


async def beside_others(world, there, row, case):
    """The second attempt fails, and the channel has worked for somebody else in between."""
    if row["attempt"] == "none follows" or "`open`" in row["circuit"]:
        return
    # What is noted of a channel is noted to about a second.
    await world.pass_time(**LATER)
    there.set_mode(case.mode)
    await submit(world, "beside", "b0")
    there.set_mode("ok")
    await submit(world, "other", "o0")
    # Where the provider has asked for silence the other one has to wait for it, too.
    there.set_mode(
        {"default": "ok", "by_recipient": {"b0": case.mode}} if case.waits else case.mode
    )
    world.request = named(world, "beside")
    await world.pass_time(**LATER)
    spared = {"no": 2, "where it works": 1, "yes": 0}
    if "unknown" in world.conversation("b0")["waiting_for"]:
        assert tries_of(world, "b0") == (1, 0)  # held: there is no second attempt
    else:
        assert tries_of(world, "b0") == (2, spared[row["attempt"]])


async def many(world, there, row, case):
    """Twelve recipients at once: whether it opens the circuit that what happened is a failure."""
    if "`open`" in row["circuit"]:
        return
    there.set_mode("ok")
    await world.pass_time(hours=1)
    before = len(alerts_of(world))
    there.set_mode(case.mode)
    recipients = [f"m{number}" for number in range(12)]
    await submit(world, "many", *recipients)
    failure = "a failure" in row["circuit"]
    assert circuit_of(world) == ("open" if failure else "closed")
    assert len(alerts_of(world)) == before + failure
    if failure and "unknown" not in words(row["ledger"]):
        assert {tries_of(world, one) for one in recipients} == {(1, 1)}


async def test_failures_of_one_message_end_it_while_others_succeed(database, providers):
    """500 for one recipient, and somebody else's success in between: five attempts, and no more."""
    there, settings = providers["HTTP"]
    there.set_mode({"default": "ok", "by_recipient": {"r0": "500"}})
    async with database(**settings) as world:
        await submit(world, "r", "r0")
        for number in range(FIVE):
            await submit(world, f"other-{number}", "o0")
            world.request = named(world, "r")
            await world.pass_time(hours=2)
        # The first attempt was made before anybody had succeeded, and so it does not count.
        conversation, (entry,) = world.conversation(), world.messages()
        assert told(conversation) == ["failed", "failed_retries"]
        assert conversation["last_error"] == "HTTP 500"
        assert (entry["status"], entry["reason"]) == ("failed", "failed_retries")
        assert (entry["attempts"], entry["error"]) == (FIVE + 1, "HTTP 500")
        assert circuit_of(world) == "closed"
        await world.pass_time(days=1)
        keys = [key for key, _, _ in there.arrivals()]
        assert keys.count(key_of(world)) == FIVE + 1
    one_body_per_key(there)


async def test_failures_while_nothing_succeeds_end_nothing(database, providers):
    """Twenty attempts in a row fail, and it is sent all the same as soon as the provider works."""
    there, settings = providers["HTTP"]
    there.set_mode("500")
    async with database(**settings) as world:
        await submit(world, "r", "r0")
        for number in range(20):
            assert tries_of(world) == (number + 1, number + 1)
            assert told(world.conversation()) == ["pending", "retry"]
            await world.pass_time(hours=2)
        there.set_mode("ok")
        await world.pass_time(hours=2)
        assert told(world.conversation()) == ["awaiting_reply", "reply"]
        (entry,) = world.messages()
        assert (entry["status"], entry["attempts"], entry["error"]) == ("sent", 22, None)
        assert taken(there, key_of(world)) == 1
        assert alerts_of(world) == []
    one_body_per_key(there)


@pytest.mark.parametrize(
    ("kind", "error"), [("HTTP", "HTTP 401"), ("SMTP", "SMTP 535 5.7.8")], ids=["HTTP", "SMTP"]
)
async def test_a_broken_channel_costs_no_conversation(kind, error, database, providers):
    """One refusal of credentials opens the circuit, with one alert; mended, all leaves by a probe."""
    there, settings = providers[kind]
    recipients = [f"r{number}" for number in range(20)]
    rules = {"default": "ok", "by_recipient": {"r0": "401"}}
    there.set_mode(rules if kind == "HTTP" else "auth-fail")
    batches = {"MAX_CONVERSATIONS_PER_BATCH": "5"}
    async with database(**settings, **batches) as world:
        soon = datetime.now(UTC) + timedelta(minutes=1)
        await submit(world, "r", *recipients, scheduled_at=soon)
        await world.pass_time(minutes=2)
        (alert,) = alerts_of(world)
        assert (alert["kind"], alert["channel"]) == ("circuit_opened", "email")
        assert (alert["reason"], alert["resolved_at"]) == (error, None)
        assert circuit_of(world) == "open"
        waiting = [one for one in recipients if not world.messages(one)]
        assert "r0" in waiting
        for one in waiting:
            assert told(world.conversation(one)) == ["pending", "circuit"]
        if kind == "HTTP":
            # As soon as it is known nobody tries any more: before its time not even a probe.
            await world.pass_time(seconds=10)
        else:
            for _ in range(3):
                await world.pass_time(minutes=6)
        assert len(alerts_of(world)) == 1
        assert {told(world.conversation(one))[0] for one in waiting} == {"pending"}
        for attempts, spared in (tries_of(world, one) for one in waiting):
            assert attempts == spared
        there.set_mode("ok")
        await probe(world)
        for one in recipients:
            assert told(world.conversation(one)) == ["awaiting_reply", "reply"], one
            assert taken(there, key_of(world, one)) == 1
        (alert,) = alerts_of(world)
        assert alert["resolved_at"] > alert["at"]
        assert circuit_of(world) == "closed"
    one_body_per_key(there)


@pytest.mark.parametrize(
    ("failing", "of", "state"),
    [(12, 12, "open"), (6, 12, "open"), (5, 12, "closed"), (9, 9, "closed")],
)
async def test_a_share_of_recipients_opens_the_circuit(failing, of, state, database, providers):
    """Half of at least ten recipients within a minute, whoever they are; less does not."""
    there, settings = providers["HTTP"]
    bad = [f"r{number}" for number in range(failing)]
    there.set_mode({"default": "ok", "by_recipient": dict.fromkeys(bad, "500")})
    async with database(**settings) as world:
        await submit(world, "r", *(f"r{number}" for number in range(of)))
        assert circuit_of(world) == state
        reasons = [one["reason"] for one in alerts_of(world)]
        expected = f"{failing} of {of} recipients failed within a minute"
        assert reasons == ([expected] if state == "open" else [])
        for one in bad:
            attempts, spared = tries_of(world, one)
            assert attempts == 1
            # Those whose failure has opened it do not count; nor where nobody has succeeded.
            assert spared == (state == "open" or failing == of)
        there.set_mode("ok")
        await probe(world)
        assert world.campaign()["counts"]["by_status"] == {"awaiting_reply": of}
        assert all(one["resolved_at"] for one in alerts_of(world))
        for number in range(of):
            assert taken(there, key_of(world, f"r{number}")) == 1
    one_body_per_key(there)
