from datetime import UTC, datetime, timedelta

import pytest
from bson import json_util
from bson.codec_options import CodecOptions
from click.testing import CliRunner

from reactor.cli import suppress_import
from reactor.cli.commands import reactor as commands
from reactor.cli.suppress_import import read_address
from tests.test_cli import invoke, run

ADA, BOB = "email:ada@example.com", "email:bob@example.com"


@pytest.fixture
def environment(mongodb_uri, database_name):
    """The environment of a command that works on this test's database."""
    return {"MONGODB_URI": mongodb_uri, "MONGODB_DB": database_name}


@pytest.fixture
def database(mongodb_client, database_name):
    """Give the test its database."""
    return mongodb_client.get_database(database_name, codec_options=CodecOptions(tz_aware=True))


def suppressed(database):
    """Read whom nobody writes to, in order."""
    return [each["_id"] for each in database.suppressions.find().sort("_id")]


def imported(content, *arguments, **environment):
    """Run the import of such a file, from standard input."""
    content = content if isinstance(content, bytes) else content.encode()
    result = CliRunner().invoke(
        commands, ["suppress", "import", "-", *arguments], input=content, env=environment
    )
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


# -- add, remove ------------------------------------------------------------------------------------


def test_add_normalises(environment, database):
    """An address is suppressed as the engine spells it, with a reason and the server's time."""
    result = invoke(
        "suppress", "add", " Ada@Example.COM ", "sms:+49 (151) 123-45678", **environment
    )
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{ADA}: suppressed\nsms:+4915112345678: suppressed\n"
    found = database.suppressions.find_one({"_id": ADA})
    now = datetime.now(UTC) + timedelta(seconds=5)
    assert now - timedelta(minutes=1) < found.pop("at") <= now
    assert found == {"_id": ADA, "reason": "operator", "by": None, "checked": True}


def test_a_second_add_changes_nothing(environment, database):
    """Who is suppressed already keeps the first reason and date, and that is said."""
    invoke("suppress", "add", ADA, "--reason", "complaint", **environment)
    before = list(database.suppressions.find())
    result = invoke("suppress", "add", "ADA@example.com", ADA, BOB, "--reason", "x", **environment)
    assert result.exit_code == 0
    first, second = result.stdout.splitlines()
    assert first.startswith(f"{ADA}: is suppressed already since ")
    assert first.endswith(", complaint")
    assert second == f"{BOB}: suppressed"
    assert list(database.suppressions.find({"_id": ADA})) == before


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("+4915112345678", "KIND:ADDRESS"),
        ("ada", "KIND:ADDRESS"),
        ("", "KIND:ADDRESS"),
        ("email:ada", "an e-mail address"),
        ("sms:0151", "a number like"),
        ("email:", "an address"),
        ("e mail:x@y.de", "an e-mail address"),
        ("a@b.de\x1b[2J", "control characters"),
    ],
)
@pytest.mark.parametrize("command", ["add", "remove"])
def test_what_is_no_address_is_a_usage_error(environment, database, command, address, expected):
    """All arguments are read first: one that is wrong exits with 2, and nothing is done."""
    database.suppressions.insert_one({"_id": ADA})
    result = invoke("suppress", command, ADA, BOB, address, **environment)
    assert (result.exit_code, result.stdout) == (2, "")
    assert expected in result.stderr
    assert "\x1b" not in result.stderr
    assert suppressed(database) == [ADA]


def test_a_kind_is_guessed_only_where_it_is_sure():
    """An e-mail address needs no kind; a kind that is given is for what names none itself."""
    assert read_address("A@B.de") == "email:a@b.de"
    assert read_address("+49 1511234567", "sms") == "sms:+491511234567"
    assert read_address("sms:+491511234567", "sms") == "sms:+491511234567"
    assert read_address("push: Token:1 ") == "push:Token:1"
    with pytest.raises(ValueError, match="KIND:ADDRESS"):
        read_address("+491511234567")


def test_remove(environment, database):
    """What is taken off is gone, and nothing else; what was not there exits with 3."""
    invoke("suppress", "add", ADA, BOB, "--reason", "opted_out", **environment)
    result = invoke("suppress", "remove", "Ada@example.com", **environment)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{ADA}: removed, was suppressed since ")
    assert "opted_out" in result.stdout
    assert suppressed(database) == [BOB]
    result = invoke("suppress", "remove", ADA, BOB, **environment)
    assert result.exit_code == 3
    assert f"{ADA}: is not suppressed" in result.stderr
    assert suppressed(database) == []


# -- list --------------------------------------------------------------------------------------------


def test_list(environment, database):
    """All in their order, or those that begin so; people are told when there are more."""
    assert invoke("suppress", "list", **environment).stdout == "nobody is suppressed\n"
    invoke("suppress", "add", BOB, "sms:+491511234567", ADA, **environment)
    lines = invoke("suppress", "list", **environment).stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [ADA, BOB, "sms:+491511234567"]
    printed = invoke("suppress", "list", "email:a", "--json", **environment).stdout
    assert [json_util.loads(line)["_id"] for line in printed.splitlines()] == [ADA]
    limited = invoke("suppress", "list", "--limit", "2", **environment)
    assert len(limited.stdout.splitlines()) == 3
    assert "--limit shows more" in limited.stderr


def test_a_program_gets_all(environment, database):
    """A list for people ends with the hundredth; one for programs does not."""
    database.suppressions.insert_many({"_id": f"email:{n}@example.com"} for n in range(101))
    assert len(invoke("suppress", "list", **environment).stdout.splitlines()) == 101
    printed = invoke("suppress", "list", "--json", **environment)
    assert (len(printed.stdout.splitlines()), printed.stderr) == (101, "")


def test_list_shows_text_as_text(environment, database):
    """What somebody else has inserted cannot steer the terminal."""
    database.suppressions.insert_one({"_id": "x\x1b[2J", "reason": "\x1b[31m", "at": "soon"})
    output = invoke("suppress", "list", **environment).output
    assert "\x1b" not in output
    assert "soon" in output


# -- import ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("ada@example.com\nbob@example.com\n", []),
        ("ada@example.com,Ada\nbob@example.com,Bob", []),
        ("address\nADA@example.com\nbob@example.com\n", []),
        ("\ufeffName;Address\nAda;ada@example.com\n\nBob;bob@example.com\n", []),
        ("Name;E-Mail\nAda;ada@example.com\nBob;bob@example.com\n", ["--column", "e-mail"]),
        ("id,email\n1,ada@example.com\n2,bob@example.com\n", []),
        ('address,note\r\nada@example.com,"two\r\nlines"\r\nbob@example.com,\r\n', []),
        ("email:ada@example.com\nemail:bob@example.com\n", []),
        ('"ada@example.com"; x\n "bob@example.com"; y\n', ["--kind", "email"]),
    ],
)
def test_import_reads_csv(environment, database, content, options):
    """With a heading or without, commas or semicolons, BOM or none, quotes, empty lines."""
    result = imported(content, *options, "--reason", "old list", **environment)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "<stdin>: 2 suppressed, 0 were already, 0 bad, of 2 lines\n"
    assert suppressed(database) == [ADA, BOB]
    assert database.suppressions.distinct("reason") == ["old list"]


def test_import_of_numbers(environment, database):
    """A kind says what the addresses are."""
    result = imported("+49 151 1234567\n", "--kind", "sms", **environment)
    assert result.exit_code == 0
    assert suppressed(database) == ["sms:+491511234567"]
    assert imported("+49 151 1234567\n", **environment).exit_code == 1


def test_bad_lines_keep_no_good_one_out(environment, database):
    """Each bad line is named with its number and what was expected, without what stands there."""
    content = (
        b'address;name\nada@example.com;Ada\n"x";"two\nlines"\n;empty\nshort\n'
        b"secret-person;x\n\xffeve@example.com;y\nbob@example.com;Bob\nADA@example.com;again\n"
    )
    result = imported(content, **environment)
    assert result.exit_code == 1
    assert result.stdout == "<stdin>: 2 suppressed, 1 were already, 5 bad, of 8 lines\n"
    lines = [line.split(": ", 1) for line in result.stderr.splitlines()]
    assert [where for where, _ in lines] == [f"<stdin>:{n}" for n in (3, 5, 6, 7, 8)]
    assert all(said.startswith("expected ") for _, said in lines)
    assert lines[-1][1] == "expected UTF-8"
    assert "secret-person" not in result.output
    assert suppressed(database) == [ADA, BOB]


def test_a_field_without_end_is_one_bad_line(environment, database):
    """A field of a megabyte is named with its line, and those after it are read."""
    content = "ada@example.com\n" + "x" * 1_000_000 + "\nbob@example.com\n"
    result = imported(content, **environment)
    assert result.exit_code == 1
    assert "<stdin>:2: expected CSV: field larger" in result.stderr
    assert suppressed(database) == [ADA, BOB]


def test_who_is_suppressed_already_keeps_the_first_reason(environment, database):
    """An import that comes again changes nothing."""
    content = "ada@example.com\nbob@example.com\n"
    invoke("suppress", "add", ADA, "--reason", "complaint", **environment)
    imported(content, **environment)
    before = list(database.suppressions.find())
    result = imported(content, "--reason", "again", **environment)
    assert "0 suppressed, 2 were already" in result.stdout
    assert list(database.suppressions.find()) == before
    assert database.suppressions.find_one({"_id": ADA})["reason"] == "complaint"


def test_a_dry_run_writes_nothing(environment, database):
    """It says what would be done, and what is bad."""
    invoke("suppress", "add", ADA, **environment)
    content = "ada@example.com\nbob@example.com\nx\n"
    result = imported(content, "--dry-run", **environment)
    assert result.exit_code == 1
    assert "1 would be suppressed, 1 were already, 1 bad, of 3 lines" in result.stdout
    assert "<stdin>:3: " in result.stderr
    assert suppressed(database) == [ADA]


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ("Name,Mail\nAda,ada@example.com\n", [], "expected a heading 'address'"),
        ("Name,Mail\nAda,ada@example.com\n", ["--column", "e-mail"], "expected a heading 'e-mail'"),
        ("ada@example.com\n", ["--column", "address"], "expected a heading 'address'"),
    ],
)
def test_a_heading_that_is_missed(environment, database, content, options, said):
    """A file whose addresses are not found is refused as a whole, without being quoted."""
    result = imported(content, *options, **environment)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("<stdin>:1: ")
    assert said in result.stderr
    assert "ada@" not in result.stderr
    assert suppressed(database) == []


def test_a_kind_that_is_none_is_a_usage_error(environment, database):
    """It is not found out a million lines later."""
    result = imported("ada@example.com\n", "--kind", "e mail", **environment)
    assert (result.exit_code, result.stdout) == (2, "")
    assert suppressed(database) == []


def test_an_empty_file_is_no_error(environment):
    """Nothing to do is done."""
    assert "of 0 lines" in imported("", **environment).stdout


def test_import_goes_by_batches(environment, database, monkeypatch, tmp_path):
    """However long the file is, so many are kept at a time; all of them arrive."""
    monkeypatch.setattr(suppress_import, "BATCH", 10)
    file = tmp_path / "list.csv"
    file.write_text("".join(f"r{n % 90}@example.com\n" for n in range(105)))
    result = invoke("suppress", "import", str(file), **environment)
    assert "90 suppressed, 15 were already, 0 bad, of 105 lines" in result.stdout
    assert len(suppressed(database)) == 90


def test_a_file_that_is_not_there(environment):
    """It is a usage error, without a traceback."""
    code, out, err = run("suppress", "import", "no-such-file.csv", **environment)
    assert (code, out) == (2, "")
    assert "no-such-file.csv" in err


def test_a_pipe_is_read(environment, database):
    """The real program reads standard input."""
    code, out, _ = run("suppress", "import", "-", content="ada@example.com\n", **environment)
    assert code == 0
    assert "1 suppressed" in out
    assert suppressed(database) == [ADA]
