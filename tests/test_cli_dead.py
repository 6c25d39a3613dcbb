from datetime import timedelta

import pytest
from attrs import evolve
from bson import ObjectId
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument

from reactor.cli import bulk
from schemas.conversation import ConversationStatus, ExitReason
from schemas.converter import to_document
from schemas.ids import campaign_id, conversation_id, send_key
from tests.builders import NOW, batch_request_document, conversation
from tests.builders import campaign as make_campaign
from tests.dead_letters import as_text, on_terminal, operated
from tests.test_cli import invoke

REFUSED = conversation_id("spring", "refused")
PARKED = {"status": "parked", "failures": 5, "due_at": NOW, "applied_at": NOW, "decided_at": NOW}
ANSWER = {*PARKED, "reason", "problems"}


@pytest.fixture
def environment(mongodb_uri, database_name):
    """The environment of a command that works on this test's database."""
    return {"MONGODB_URI": mongodb_uri, "MONGODB_DB": database_name}


@pytest.fixture
def database(mongodb_client, database_name):
    """Give the test its database."""
    return mongodb_client.get_database(database_name, codec_options=CodecOptions(tz_aware=True))


@pytest.fixture
def spring(database, environment, tmp_path):
    """A campaign with a message that is held and one that was refused, beside one that was sent."""
    with operated(database, environment, tmp_path) as world:
        world.submit("spring", "cut", "refused", "fine")
        yield world


def park(database):
    """Insert a document of each kind that a worker has parked."""
    why = {"reason": "processing failed: TypeError"}
    database.batch_requests.insert_one(
        batch_request_document(["SECRET"], _id="parked", **PARKED, problems=["$: KeyError"])
    )
    update = {"batch_request_id": "spring", "recipient_id": "fine", "kind": "reply"}
    database.conversation_updates.insert_one(
        {"_id": "u1", **update, "intent": "x", "text": "SECRET", **PARKED, **why}
    )
    about = {"campaign_id": campaign_id("spring"), "kind": "pause"}
    database.campaign_updates.insert_one({"_id": ObjectId(), **about, **PARKED, **why})


def everything(database):
    """Read all documents that a command could change."""
    names = ("batch_requests", "conversation_updates", "campaign_updates", "conversations")
    return {name: list(database[name].find().sort("_id")) for name in names}


def insert_failed(database, count=3, **changes):
    """Insert a campaign whose conversations have all failed."""
    database.campaigns.insert_one(to_document(make_campaign()))
    failed = {"status": ConversationStatus.FAILED, "exit_reason": ExitReason.FAILED_RETRIES}
    documents = [
        to_document(conversation(f"r{n}", due_at=None, **failed | changes)) for n in range(count)
    ]
    database.conversations.insert_many(documents)
    return [document["_id"] for document in documents]


# -- list --------------------------------------------------------------------------------------------


def test_list_groups_what_is_alike(spring, database):
    """Parked, failed and held: how many, of which campaign, why, and the newest as an example."""
    spring.submit("autumn", "refused")
    park(database)
    listed = spring.json("dead", "list")
    shown = {
        (each["kind"], each["batch_request_id"], each["reason"], each["count"]) for each in listed
    }
    assert shown == {
        ("request", "parked", "parked", 1),
        ("update", "spring", "parked", 1),
        ("campaign_update", None, "parked", 1),
        ("conversation", "spring", "failed_permanent", 1),
        ("conversation", "autumn", "failed_permanent", 1),
        ("message", "spring", "held", 1),
    }
    newest = [each["newest"] for each in listed]
    assert newest == sorted(newest, reverse=True)
    (failed,) = [each for each in listed if each["reason"].startswith("failed")][1:]
    assert (failed["example_id"], failed["error"]) == (REFUSED, "HTTP 400")
    output = spring.invoke("dead", "list").output
    assert len(output.splitlines()) == 7
    for text in ("failed_permanent: HTTP 400", "parked: $: KeyError", "held: RemoteProtocolError"):
        assert text in output
    for text in ("SECRET", "Hello", "@example.com"):
        assert text not in output + as_text(listed)


def test_list_is_narrowed(spring, database):
    """By campaign, in whatever way it is named, and by reason; --each names each of them."""
    spring.submit("autumn", "refused")
    park(database)
    kinds = [each["kind"] for each in spring.lines("dead", "list", "spring", "--each")]
    assert kinds == ["update", "campaign_update", "conversation", "message"]
    of_request = spring.lines("dead", "list", "parked", "--each")
    assert [each["id"] for each in of_request] == ["parked"]
    held = spring.json("dead", "list", "spring", "--reason", "held")
    assert [each["kind"] for each in held] == ["message"]
    failed = spring.lines("dead", "list", "--each", "--reason", "failed_permanent")
    assert {each["id"] for each in failed} == {REFUSED, conversation_id("autumn", "refused")}
    assert spring.json("dead", "list", "--reason", "template_error") == []
    limited = spring.invoke("dead", "list", "--each", "--limit", "2")
    assert len(limited.stdout.splitlines()) == 3
    assert "--limit shows more" in limited.stderr
    assert len(spring.json("dead", "list", "--limit", "2")) == 2


def test_list_of_nothing(environment):
    """Nothing dead is no error; a campaign that is not there is, and a reason that is none."""
    assert invoke("dead", "list", **environment).output == "no dead letters\n"
    assert invoke("dead", "list", "--each", **environment).output == "no dead letters\n"
    assert invoke("dead", "list", "nothing", **environment).exit_code == 3
    assert invoke("dead", "list", "--reason", "nothing", **environment).exit_code == 2


def test_a_parked_document_that_cannot_be_decoded(environment, database):
    """A text that is no UTF-8 stops no list and no look at it, and no traceback is shown."""
    raw = b"\x02text\x00\x03\x00\x00\x00\xff\xff\x00\x02_id\x00\x02\x00\x00\x00u\x00"
    raw += b"\x02status\x00\x07\x00\x00\x00parked\x00\x02reason\x00\x03\x00\x00\x00\xff!\x00"
    raw = (len(raw) + 5).to_bytes(4, "little") + raw + b"\x00"
    options = CodecOptions(document_class=RawBSONDocument, unicode_decode_error_handler="replace")
    inbox = database.get_collection("conversation_updates", codec_options=options)
    inbox.insert_one(RawBSONDocument(raw, options))
    assert "parked: \ufffd!" in invoke("dead", "list", **environment).output
    assert "\ufffd" in invoke("dead", "show", "u", "--text", **environment).output
    assert invoke("dead", "retry", "u", **environment).stdout.startswith("update: 1 put back")


# -- show --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [REFUSED, REFUSED[:8], "spring/refused", f"{REFUSED}/intro/0"])
def test_show_a_failed_conversation(spring, name):
    """State, error, history and ledger entries, how to retry it, and texts only when asked for."""
    output = spring.invoke("dead", "show", "--", name).output
    for text in ("conversation, failed_permanent", REFUSED, "HTTP 400", "opened", "dead retry"):
        assert text in output
    assert "Hello Ada" not in output
    assert "Hello Ada" in spring.invoke("dead", "show", "--text", "--", name).output


def test_show_a_held_message(spring):
    """With the key by which the provider knows it, and what can be said about it."""
    key = send_key(conversation_id("spring", "cut"), "intro", 0)
    output = spring.invoke("dead", "show", "spring/cut").output
    for text in ("message, held", key, "unknown, attempt 1", "unknown assume-sent", "dead retry"):
        assert text in output
    shown = spring.json("dead", "show", "spring/cut")
    assert (shown["kind"], shown["id"], shown["reason"]) == ("message", key, "held")
    assert [each["_id"] for each in shown["messages"]] == [key]
    assert "Hello" not in output + as_text(shown)


def test_show_what_was_parked(spring, database):
    """The document without texts and recipients, and where its conversation stands."""
    park(database)
    output = spring.invoke("dead", "show", "u1").output
    for text in (
        "update, parked",
        "TypeError",
        conversation_id("spring", "fine"),
        "awaiting_reply",
    ):
        assert text in output
    shown = spring.json("dead", "show", "u1")
    assert shown["conversation"]["status"] == "awaiting_reply"
    assert "SECRET" not in output + as_text(shown)
    assert "SECRET" in spring.invoke("dead", "show", "u1", "--text").output
    output = spring.invoke("dead", "show", "parked", "--text").output
    assert "$: KeyError" in output
    assert "SECRET" not in output


def test_show_what_is_not_dead(spring):
    """What goes on by itself, and what is not there, exit with 3 and one line."""
    for name in ("spring/fine", "spring", "nothing", "message:nothing"):
        result = spring.invoke("dead", "show", name)
        assert (result.exit_code, result.stdout) == (3, "")
        assert len(result.stderr.splitlines()) == 1


def test_a_name_that_means_several(spring, database):
    """It is a usage error that names them; with its kind, each can be named."""
    park(database)
    database.campaign_updates.insert_one({"_id": "u1", **PARKED, "reason": "other"})
    result = spring.invoke("dead", "show", "u1")
    assert result.exit_code == 2
    assert "update:u1" in result.stderr
    assert "campaign_update:u1" in result.stderr
    assert "other" in spring.invoke("dead", "show", "campaign_update:u1").output


# -- retry -------------------------------------------------------------------------------------------


def test_a_conversation_is_retried(spring):
    """It goes back to where it stood, its message is sent under a new key, and nothing else is."""
    others = [spring.conversation("spring", each) for each in ("cut", "fine")]
    spring.heal()
    result = spring.invoke("dead", "retry", "spring/refused")
    assert (result.exit_code, result.stdout) == (0, "conversation: 1 applied, retried\n")
    spring.until({"_id": REFUSED, "status": "awaiting_reply"})
    assert [spring.requests("spring", "refused", n) for n in range(2)] == [1, 1]
    assert [spring.conversation("spring", each) for each in ("cut", "fine")] == others
    assert [each["kind"] for each in spring.updates()] == ["retry"]


def test_what_was_parked_is_put_back(spring, database):
    """Its answer is taken off, and nothing else of it; a worker takes it at its next sweep."""
    park(database)
    result = spring.invoke("dead", "retry", "u1")
    assert result.exit_code == 0
    assert result.stdout.startswith("update: 1 put back")
    update = spring.until(
        {"_id": "u1", "status": {"$nin": [None, "parked"]}}, "conversation_updates"
    )
    assert (update["status"], update["text"]) == ("applied", "SECRET")
    assert spring.conversation("spring", "fine")["status"] == "completed"
    assert database.batch_requests.find_one({"_id": "parked"})["status"] == "parked"
    assert database.campaign_updates.count_documents({"status": "parked"}) == 1


def test_all_of_a_campaign(spring, database):
    """Each kind in its way: what failed, what was parked, what is held; nothing of another."""
    spring.submit("autumn", "refused", "cut")
    park(database)
    spring.heal()
    result = spring.invoke("dead", "retry", "--all", "--campaign", "spring", "--yes")
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.partition(",")[0] for line in result.stdout.splitlines()] == [
        "update: 1 put back",
        "campaign_update: 1 put back",
        "conversation: 1 applied",
        "message: 1 applied",
    ]
    spring.until({"_id": campaign_id("spring"), "status": "paused"}, "campaigns")
    left = {(each["batch_request_id"], each["kind"]) for each in spring.json("dead", "list")}
    assert left == {("autumn", "conversation"), ("autumn", "message"), ("parked", "request")}
    assert spring.requests("autumn", "cut") == 1
    assert spring.requests("autumn", "refused") == 1


def test_by_reason(spring, database):
    """Only what has that reason."""
    park(database)
    spring.heal()
    result = spring.invoke("dead", "retry", "--all", "--reason", "failed_permanent")
    assert result.stdout == "conversation: 1 applied, retried\n"
    left = {each["reason"] for each in spring.json("dead", "list")}
    assert left == {"parked", "held"}


def test_what_fails_again_is_not_retried_again(spring):
    """One pass takes each of them once, though the provider refuses it as before."""
    result = spring.invoke("dead", "retry", "--all", "--reason", "failed_permanent")
    assert result.stdout == "conversation: 1 applied, retried\n"
    spring.until({"_id": REFUSED, "status": "failed", "message_count": 2})
    assert len(spring.updates()) == 1


def test_a_dry_run_changes_nothing(spring, database):
    """It says what would be done to how many, and does none of it."""
    park(database)
    before = everything(database)
    result = spring.invoke("dead", "retry", "--all", "--dry-run")
    assert result.exit_code == 0
    assert sorted(result.stdout.splitlines()[:-1]) == [
        "put back: 1 campaign_update, parked",
        "put back: 1 request, parked",
        "put back: 1 update, parked",
        "retry: 1 conversation, failed_permanent",
        "send again: 1 message, held",
    ]
    assert result.stdout.endswith("Nothing was done (--dry-run).\n")
    spring.invoke("dead", "retry", "u1", "spring/cut", "--dry-run")
    assert everything(database) == before


@pytest.mark.parametrize(
    "arguments", [[], ["abcd", "--all"], ["--campaign", "spring"], ["--reason", "held"]]
)
def test_either_some_or_all(environment, arguments):
    """Nothing is retried by leaving something out: ids or --all, else it is a usage error."""
    result = invoke("dead", "retry", *arguments, **environment)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--all" in result.stderr


def test_one_that_is_not_dead_stops_all(spring, database):
    """All names are looked up before anything is done."""
    before = everything(database)
    result = spring.invoke("dead", "retry", "spring/refused", "spring/fine")
    assert (result.exit_code, result.stdout) == (3, "")
    assert everything(database) == before


def test_a_person_is_asked(environment, database):
    """On a terminal what would be done is shown, and done only after yes."""
    insert_failed(database)
    before = everything(database)
    code, shown = on_terminal("n\n", "dead", "retry", "--all", **environment)
    assert code == 1
    assert "retry: 3 conversation, failed_retries" in shown
    assert "Nothing was done." in shown
    assert everything(database) == before
    code, shown = on_terminal("y\n", "dead", "retry", "--all", "--no-wait", **environment)
    assert code == 0
    assert "conversation: 3 inserted" in shown


def test_many_are_retried_by_batches(environment, database, monkeypatch):
    """However many there are, so many are kept at a time, and each gets one update."""
    monkeypatch.setattr(bulk, "BATCH", 10)
    ids = insert_failed(database, 35)
    living = conversation("alive")
    database.conversations.insert_one(to_document(living))
    result = invoke("dead", "retry", "--all", "--no-wait", **environment)
    assert result.stdout == "conversation: 35 inserted\n"
    updates = list(database.conversation_updates.find({}, {"_id": 0}))
    assert sorted(each["conversation_id"] for each in updates) == sorted(ids)
    assert {each["kind"] for each in updates} == {"retry"}


def test_without_an_answer(environment, database):
    """A worker that does not answer is waited for once, not for each batch; then it exits with 1."""
    insert_failed(database, 1_100)
    result = invoke("dead", "retry", "--all", "--timeout", "0.2", **environment)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "1100 inserted, and not answered within 0.2 s" in result.stderr
    assert database.conversation_updates.count_documents({}) == 1_100


def test_what_has_failed_since_is_left(environment, database):
    """What fails while they are retried is not among them."""
    later = evolve(conversation("later"), status_since=NOW + timedelta(days=36_500))
    insert_failed(database, 1, status_since=later.status_since)
    assert invoke("dead", "retry", "--all", **environment).stdout == "no dead letters\n"


def test_queries_use_the_index_of_what_failed(environment, database):
    """However many conversations a campaign has, only those that failed are looked at."""
    invoke("init-db", **environment)
    insert_failed(database)
    database.conversations.insert_many(to_document(conversation(f"alive{n}")) for n in range(200))
    database.command("profile", 2)
    assert "failed_retries" in invoke("dead", "list", **environment).output
    database.command("profile", 0)
    (seen,) = database.system.profile.find({"command.aggregate": "conversations"})
    assert seen["docsExamined"] == 3
