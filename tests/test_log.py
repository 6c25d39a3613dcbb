import ast
import json
import logging
import re
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from loguru import logger
from opentelemetry.sdk.trace import TracerProvider

import reactor
from reactor.log import configure_logging, described
from reactor.settings import LogFormat, LogLevel, Settings
from reactor.telemetry_table import LOG_KEYS

CONTENT = "Dear Ada Lovelace <ada@example.com>"


class OwnError(Exception):
    """An error of ours, which by the house rules quotes nothing."""


OwnError.__module__ = "reactor.somewhere"


@pytest.fixture
def configured(monkeypatch):
    """Configures logging, and puts back what was there."""
    root, command = logging.getLogger(), logging.getLogger("pymongo.command")
    handlers, level = root.handlers[:], root.level
    yield lambda **settings: configure_logging(Settings(**settings))
    logger.remove()
    logger.configure(patcher=lambda _: None)
    root.handlers[:] = handlers
    root.setLevel(level)
    command.setLevel(logging.NOTSET)
    logging.getLogger("pymongo").setLevel(logging.NOTSET)


@pytest.fixture
def lines(configured, capsys):
    """Gives the JSON lines that were logged since."""
    configured(log_format=LogFormat.JSON, log_level=LogLevel.DEBUG)
    return lambda: [json.loads(line) for line in capsys.readouterr().err.split("\n")[:-1]]


def fail(error):
    """Raise an error, so that it has a stack."""
    raise error


def test_json_line_is_flat(lines):
    """Time, level and message come first, then what was bound, as it is."""
    before = datetime.now(UTC)
    logger.bind(campaign_id="c1", recipients=3, at=datetime(2026, 1, 1, tzinfo=UTC)).info(
        "Accepted"
    )
    (entry,) = lines()
    assert list(entry) == ["ts", "level", "message", "campaign_id", "recipients", "at"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("ts"))
    assert entry == {
        "level": "INFO",
        "message": "Accepted",
        "campaign_id": "c1",
        "recipients": 3,
        "at": "2026-01-01 00:00:00+00:00",
    }
    assert before.year >= 2026


def test_bound_field_never_hides_the_message(lines):
    """A field that is called like one of the first three loses."""
    logger.bind(message="x", level="y", ts="z").warning("Here")
    (entry,) = lines()
    assert (entry["message"], entry["level"], len(entry)) == ("Here", "WARNING", 3)


def test_one_line_each(lines):
    """Line breaks and quotes in a field make no line of their own."""
    logger.bind(reason='a\n"b"\u2028').info("Odd {braces}")
    (entry,) = lines()
    assert (entry["reason"], entry["message"]) == ('a\n"b"\u2028', "Odd {braces}")


def test_level(configured, capsys):
    """What is below the level is not written."""
    configured(log_format=LogFormat.JSON, log_level=LogLevel.WARNING)
    logger.info("quiet")
    logger.warning("loud")
    assert [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()] == [
        "loud"
    ]


def test_configured_twice(configured, capsys):
    """Configured again, each line is still written once."""
    configured(log_format=LogFormat.JSON)
    configured(log_format=LogFormat.JSON)
    logger.info("once")
    logging.getLogger("pymongo").warning("once, too")
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_libraries(lines):
    """Warnings of libraries arrive with their logger's name; what is below does not."""
    logging.getLogger("pymongo.topology").warning("Slow %s", "server {x}")
    logging.getLogger("pymongo.topology").info("chatter")
    logging.getLogger("lib").log(35, "between")
    first, second = lines()
    assert (first["level"], first["message"]) == ("WARNING", "Slow server {x}")
    assert first["logger"] == "pymongo.topology"
    assert second["message"] == "between"


def test_commands_are_never_logged(lines):
    """PyMongo's command log holds whole messages: it stays off even if somebody lowers the root."""
    logging.getLogger().setLevel(logging.DEBUG)
    logging.getLogger("pymongo.command").debug(CONTENT)
    logging.getLogger("pymongo").setLevel(logging.DEBUG)
    logging.getLogger("pymongo.command").debug(CONTENT)
    assert not logging.getLogger("pymongo.command").isEnabledFor(logging.DEBUG)
    assert lines() == []


def test_exception_without_its_text(lines):
    """The stack is there, down to the line; what the error quotes is not."""
    try:
        try:
            fail(ValueError(CONTENT))
        except ValueError as error:
            raise OwnError("conversation c1 is not ours") from error
    except OwnError:
        logger.exception("It failed")
    (entry,) = lines()
    exception = entry["exception"]
    assert (exception["type"], exception["text"]) == (
        "reactor.somewhere.OwnError",
        "conversation c1 is not ours",
    )
    assert exception["cause"]["type"] == "builtins.ValueError"
    assert exception["cause"]["stack"][-1].endswith(" fail")
    assert "Lovelace" not in json.dumps(entry)


def test_variables_are_never_logged(configured, capsys):
    """A stack shows no values, in neither format."""
    for log_format in (LogFormat.JSON, LogFormat.TEXT):
        configured(log_format=log_format)
        body = CONTENT
        try:
            fail(KeyError(body))
        except KeyError:
            logger.exception("It failed")
        written = capsys.readouterr().err
        assert "KeyError" in written
        assert "Lovelace" not in written


def test_the_name_of_a_file_is_left_out():
    """It may be somebody's address; what went wrong is told."""
    error = FileNotFoundError(2, "No such file or directory", f"/spool/{CONTENT}.json")
    assert described(error)["text"] == "[Errno 2] No such file or directory"


async def test_group_of_exceptions():
    """What task groups raise is told one by one."""
    try:
        async with anyio.create_task_group():
            fail(ConnectionRefusedError(111, "Connection refused"))
    except BaseExceptionGroup as group:
        (inner,) = described(group)["errors"]
    assert inner["text"] == "[Errno 111] Connection refused"


def test_chain_is_bounded():
    """However long a chain of causes is, the log line is not."""
    error = ValueError()
    for _ in range(50):
        error, error.__cause__ = ValueError(), error
    depth, entry = 0, described(error)
    while entry := entry.get("cause"):
        depth += 1
    assert depth == 5


def test_unretrieved_task(lines):
    """What asyncio quotes below its first line is left out."""
    logging.getLogger("asyncio").error("Task failed\nfuture: <Task %s>", CONTENT)
    assert [entry["message"] for entry in lines()] == ["Task failed"]


def test_trace(lines):
    """Inside a span a line says which; outside it has no such field."""
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    with tracer.start_as_current_span("load") as span:
        logger.info("inside")
    logger.info("outside")
    inside, outside = lines()
    context = span.get_span_context()
    assert inside["trace_id"] == f"{context.trace_id:032x}"
    assert inside["span_id"] == f"{context.span_id:016x}"
    assert "trace_id" not in outside


def test_text(configured, capsys):
    """Text has its fields behind the message, quoted if need be, and no colours in a file."""
    configured(log_format=LogFormat.TEXT)
    logger.bind(campaign_id="c1", reason="two words", empty="").info("Accepted")
    line = capsys.readouterr().err
    assert re.fullmatch(
        r'\S+Z INFO     Accepted +campaign_id=c1 reason="two words" empty=""\n', line
    )


def test_auto(configured, capsys, monkeypatch):
    """JSON, unless a person is looking."""
    configured(log_format=LogFormat.AUTO)
    logger.info("to a file")
    assert json.loads(capsys.readouterr().err)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    configured(log_format=LogFormat.AUTO)
    logger.warning("to a terminal")
    assert "\033[33mWARNING \033[0m to a terminal" in capsys.readouterr().err


def test_every_key_of_a_log_line_is_in_the_table():
    """What is bound anywhere is documented: nobody finds out what else is logged."""
    bound = set()
    for file in Path(reactor.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "bind":
                bound |= {keyword.arg for keyword in node.keywords}
    assert bound <= set(LOG_KEYS)
