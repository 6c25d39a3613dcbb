import pytest
from bson.codec_options import CodecOptions

from schemas.ids import conversation_id, send_key
from tests.dead_letters import as_text, on_terminal, operated
from tests.test_cli import invoke

CUT = conversation_id("spring", "cut")
KEY = send_key(CUT, "intro", 0)


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
    """A campaign with two messages that are held, beside one that was sent and one refused."""
    with operated(database, environment, tmp_path) as world:
        world.submit("spring", "cut", "cut-2", "fine", "refused")
        yield world


def held(world):
    """Give the recipients whose messages are held."""
    return sorted(each["recipient_id"] for each in world.lines("unknown", "list"))


# -- list --------------------------------------------------------------------------------------------


def test_list_shows_what_is_held_and_no_content(spring):
    """Who, under which key, since when and until when, after how many attempts, and why."""
    spring.submit("autumn", "cut")
    listed = spring.lines("unknown", "list", "spring")
    assert sorted(each["recipient_id"] for each in listed) == ["cut", "cut-2"]
    (shown,) = [each for each in listed if each["recipient_id"] == "cut"]
    slot = spring.conversation("spring", "cut")["slot"]
    entry = spring.database.messages.find_one({"_id": KEY})
    assert shown.pop("campaign_id") == entry["campaign_id"]
    assert shown == {
        "message_id": KEY,
        "conversation_id": CUT,
        "batch_request_id": "spring",
        "recipient_id": "cut",
        "channel": "email",
        "attempts": 1,
        "since": entry["recorded_at"],
        "until": slot["until"],
        "last_error": "RemoteProtocolError",
    }
    output = spring.invoke("unknown", "list").output
    assert len(output.splitlines()) == 4
    for text in ("spring/cut", "autumn/cut", KEY, "email", "RemoteProtocolError", "(in 7 d)"):
        assert text in output
    for text in ("Hello", "Your plan", "@example.com"):
        assert text not in output + as_text(listed)
    assert len(spring.lines("unknown", "list", "--limit", "1")) == 1


def test_list_of_nothing(environment):
    """Nothing held is no error; a campaign that is not there is."""
    assert invoke("unknown", "list", **environment).output == "no message is held\n"
    assert invoke("unknown", "list", "nothing", **environment).exit_code == 3


# -- a word on one -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [KEY, CUT, CUT[:8], "spring/cut"])
def test_assume_sent(spring, name):
    """The message counts as sent, and the conversation goes on; no other is decided about."""
    before = spring.conversation("spring", "cut-2")
    # What begins with a hyphen is no option behind `--`.
    result = spring.invoke("unknown", "assume-sent", "--", name)
    assert (result.exit_code, result.stdout) == (0, "assume-sent: 1 applied, message_sent\n")
    conversation = spring.conversation("spring", "cut")
    assert (conversation["status"], conversation["slot"]) == ("awaiting_reply", None)
    entry = spring.database.messages.find_one({"_id": KEY})
    assert (entry["status"], entry["reason"]) == ("sent", "assume_sent")
    assert spring.conversation("spring", "cut-2") == before
    assert spring.requests("spring", "cut") == 1
    (update,) = spring.updates()
    assert update["message_id"] == KEY


def test_resend(spring):
    """The message is handed off again, under its key, and the others are not."""
    spring.heal()
    result = spring.invoke("unknown", "resend", "spring/cut")
    assert (result.exit_code, result.stdout) == (0, "resend: 1 applied, message_resent\n")
    spring.until({"_id": CUT, "status": "awaiting_reply"})
    assert spring.requests("spring", "cut") == 2
    assert spring.requests("spring", "cut-2") == 1
    assert spring.requests("spring", "refused") == 1
    assert held(spring) == ["cut-2"]


def test_several_are_named(spring):
    """Each that is named is decided about once, however often and in whatever way it is named."""
    result = spring.invoke("unknown", "assume-sent", "spring/cut", "spring/cut-2", "--", KEY)
    assert (result.exit_code, result.stdout) == (0, "assume-sent: 2 applied, message_sent\n")
    assert held(spring) == []


def test_what_is_not_held_is_not_decided_about(spring):
    """A name that is none, or of what is not held, exits with 3, and nothing is inserted."""
    sent = send_key(conversation_id("spring", "fine"), "intro", 0)
    for name in ("nothing", "spring/fine", "spring/refused", sent, f"{CUT}/intro/7"):
        result = spring.invoke("unknown", "resend", "--", "spring/cut", name)
        assert (result.exit_code, result.stdout) == (3, "")
        assert len(result.stderr.splitlines()) == 1
    assert spring.updates() == []
    assert held(spring) == ["cut", "cut-2"]


@pytest.mark.parametrize("command", ["resend", "assume-sent"])
@pytest.mark.parametrize(
    "arguments", [[], ["abcd", "--all"], ["--campaign", "spring"], ["abcd", "--campaign", "spring"]]
)
def test_either_some_or_all(environment, command, arguments):
    """Nothing is decided by leaving something out: names or --all, else it is a usage error."""
    result = invoke("unknown", command, *arguments, **environment)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--all" in result.stderr


# -- a word on all -----------------------------------------------------------------------------------


def test_all_of_a_campaign(spring):
    """All that one campaign holds, and nothing of another."""
    spring.submit("autumn", "cut")
    result = spring.invoke("unknown", "assume-sent", "--all", "--campaign", "spring")
    assert (result.exit_code, result.stdout) == (0, "assume-sent: 2 applied, message_sent\n")
    assert [each["batch_request_id"] for each in spring.lines("unknown", "list")] == ["autumn"]
    result = spring.invoke("unknown", "assume-sent", "--all")
    assert result.stdout == "assume-sent: 1 applied, message_sent\n"
    assert spring.invoke("unknown", "resend", "--all").stdout == "no message is held\n"
    assert len(spring.updates()) == 3


def test_a_person_is_asked(spring):
    """On a terminal nothing is done before somebody has said yes, or --yes."""
    command = ("unknown", "assume-sent", "--all")
    code, shown = on_terminal("n\n", *command, **spring.environment)
    assert code == 1
    assert "assume-sent: 2 messages? [y/N]" in shown
    assert "Nothing was done." in shown
    assert spring.updates() == []
    code, shown = on_terminal("\x04", *command, **spring.environment)
    assert code == 130
    assert "Traceback" not in shown
    assert spring.updates() == []
    code, shown = on_terminal("y\n", *command, **spring.environment)
    assert code == 0
    assert "2 applied, message_sent" in shown
    code, shown = on_terminal("", *command, "--yes", **spring.environment)
    assert (code, shown) == (0, "no message is held\r\n")


# -- without a worker --------------------------------------------------------------------------------


@pytest.fixture
def stopped(database, environment, tmp_path):
    """What there is after the worker has gone."""
    with operated(database, environment, tmp_path) as world:
        world.submit("spring", "cut", "cut-2")
    return world


def test_without_an_answer(stopped):
    """Updates that nobody answers in time exit with 1 and stay; --no-wait does not wait at all."""
    result = stopped.invoke("unknown", "resend", "spring/cut", "--timeout", "0.1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "1 inserted, and not answered within 0.1 s" in result.stderr
    result = stopped.invoke("unknown", "resend", "spring/cut-2", "--no-wait")
    assert (result.exit_code, result.stdout) == (0, "resend: 1 inserted\n")
    assert {each["message_id"] for each in stopped.updates()} == {
        send_key(conversation_id("spring", each), "intro", 0) for each in ("cut", "cut-2")
    }
    assert held(stopped) == ["cut", "cut-2"]


def test_a_resolution_that_comes_too_late(stopped, environment, tmp_path):
    """What somebody else has decided meanwhile is ignored, and a second word does no harm."""
    stopped.invoke("unknown", "assume-sent", "spring/cut", "--no-wait")
    stopped.invoke("unknown", "resend", "spring/cut", "--no-wait")
    with operated(stopped.database, environment, tmp_path) as world:
        world.until({"_id": CUT, "status": "awaiting_reply"})
        (late,) = [each for each in world.updates() if each["outcome"] == "resend"]
        late = world.until({"_id": late["_id"], "status": {"$ne": None}}, "conversation_updates")
    assert (late["status"], late["reason"]) == ("ignored", "not_in_doubt")
    assert world.requests("spring", "cut") == 1
