"""
Where log lines go and what they look like: stderr, one line each, JSON or text for people.

The text of an exception is kept out unless it is known to hold nobody's content: a database error
quotes the document, a value error the value.
"""

import json
import logging  # noqa: TID251 - what libraries log is taken over here
import sys
import traceback
from datetime import UTC
from typing import TYPE_CHECKING, Any

from loguru import logger
from opentelemetry import trace
from pymongo.errors import ConnectionFailure

from reactor.settings import LogFormat, LogLevel, Settings

if TYPE_CHECKING:
    from loguru import Message, Record

#: Exceptions whose text may be logged, beside those of our own.
TELLING = (OSError, ConnectionFailure)
OWN_PACKAGES = frozenset({"schemas", "handlers", "reactor"})
#: Of causes, and of groups within groups.
DEPTH = 5

COLOURS = {"WARNING": "\033[33m", "ERROR": "\033[31m", "CRITICAL": "\033[31;1m"}
DIM = "\033[2m"
PLAIN = "\033[0m"


def configure_logging(settings: Settings) -> None:
    """Send all log lines, also those of libraries, to stderr; may be called again."""
    terminal = sys.stderr.isatty()
    as_text = settings.log_format is LogFormat.TEXT or (
        settings.log_format is LogFormat.AUTO and terminal
    )
    text_line = _coloured_line if terminal else _text_line
    line = text_line if as_text else _json_line

    def write(message: "Message") -> None:
        sys.stderr.write(line(message.record) + "\n")

    logger.remove()
    logger.configure(patcher=_add_trace)
    logger.add(
        write,
        level=settings.log_level,
        format="{message}",
        backtrace=False,
        diagnose=False,
    )
    logging.basicConfig(handlers=[_Intercept(logging.WARNING)], level=logging.WARNING, force=True)
    # At DEBUG it logs whole commands, and so whole messages.
    logging.getLogger("pymongo.command").setLevel(logging.INFO)


class _Intercept(logging.Handler):
    """Takes what libraries log over to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        # The first line only: what asyncio adds below it quotes exceptions.
        text = record.getMessage().partition("\n")[0]
        logger.bind(logger=record.name).opt(exception=record.exc_info).log(
            record.levelname if record.levelname in set(LogLevel) else record.levelno, "{}", text
        )


def _add_trace(record: "Record") -> None:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        record["extra"]["trace_id"] = trace.format_trace_id(context.trace_id)
        record["extra"]["span_id"] = trace.format_span_id(context.span_id)


def _json_line(record: "Record") -> str:
    head = {
        "ts": _time(record),
        "level": record["level"].name,
        "message": record["message"],
    }
    entry: dict[str, Any] = {**head, **record["extra"], **head}
    if error := _exception(record):
        entry["exception"] = described(error)
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":"), default=str)


def _text_line(record: "Record") -> str:
    level, (message, *rest) = record["level"].name, _text_parts(record)
    return "\n".join((f"{_time(record)} {level:<8} {message}", *rest))


def _coloured_line(record: "Record") -> str:
    level, (message, *rest) = record["level"].name, _text_parts(record)
    colour = COLOURS.get(level, "")
    first = f"{DIM}{_time(record)}{PLAIN} {colour}{level:<8}{PLAIN} {message}"
    return "\n".join((first, *rest))


def _text_parts(record: "Record") -> list[str]:
    """Give the message with its fields, then the lines of an exception."""
    fields = " ".join(f"{name}={_word(value)}" for name, value in record["extra"].items())
    first = f"{record['message']:<40} {fields}" if fields else record["message"]
    error = _exception(record)
    return [first, *(_indented(described(error)) if error else ())]


def _word(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and not set(text) & set(' "=')
    return text if plain and text else json.dumps(text, ensure_ascii=False)


def _indented(entry: dict[str, Any], depth: int = 1) -> list[str]:
    space = "    " * depth
    lines = [space + ": ".join(filter(None, (entry["type"], entry.get("text"))))]
    lines += [f"{space}  {frame}" for frame in entry["stack"]]
    for inner in (*entry.get("errors", ()), *filter(None, [entry.get("cause")])):
        lines += _indented(inner, depth + 1)
    return lines


def _time(record: "Record") -> str:
    text = record["time"].astimezone(UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"


def _exception(record: "Record") -> BaseException | None:
    return record["exception"].value if record["exception"] else None


def _without_file(error: BaseException) -> BaseException:
    """Leave a file's name out: it may be somebody's address."""
    if isinstance(error, OSError) and error.filename is not None:
        return OSError(error.errno, error.strerror)
    return error


def described(error: BaseException, depth: int = DEPTH) -> dict[str, Any]:
    """Tell what an exception is, where it was raised and what caused it; see above for its text."""
    kind = type(error)
    entry: dict[str, Any] = {"type": f"{kind.__module__}.{kind.__qualname__}"}
    if isinstance(error, TELLING) or kind.__module__.partition(".")[0] in OWN_PACKAGES:
        entry["text"] = str(_without_file(error))
    entry["stack"] = [
        f"{frame.filename}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
    ]
    if depth and isinstance(error, BaseExceptionGroup):
        entry["errors"] = [described(inner, depth - 1) for inner in error.exceptions]
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if depth and cause is not None:
        entry["cause"] = described(cause, depth - 1)
    return entry
