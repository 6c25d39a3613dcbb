"""Problems of a document: what is wrong, where, and what was expected; never only the first."""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime

from bson.datetime_ms import DatetimeMS

MAX_PROBLEMS = 100
MAX_SHOWN = 60
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_\-]{0,59}")


class InvalidDocumentError(Exception):
    """
    A document that cannot be read.

    `problems`: texts `$.path: expected …, got …`, at most 100 and then "… and N more".
    """

    def __init__(self, problems: Iterable[str]) -> None:
        found = tuple(problems)
        more = len(found) - MAX_PROBLEMS
        self.problems = (*found[:MAX_PROBLEMS], f"… and {more} more") if more > 0 else found
        super().__init__("; ".join(self.problems))


#: Of documents, ours and those of others. One without a version is of the first.
SCHEMA_VERSION = 1


class NewerSchemaError(Exception):
    """A document of a `schema_version` that only a later version of this program understands."""

    def __init__(self, version: int) -> None:
        self.version = version
        super().__init__(f"schema_version {version} is newer than this worker")


def refuse_newer(document: object) -> None:
    """Raise NewerSchemaError where a document says that it is of a later version."""
    version = document.get("schema_version") if isinstance(document, Mapping) else None
    if isinstance(version, int | float) and version > SCHEMA_VERSION and version % 1 == 0:
        raise NewerSchemaError(int(version))


class Fault(ValueError):  # noqa: N818 -- never leaves this package: it becomes a problem
    """Something wrong at `path`, relative to the object that was being read."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        super().__init__(text)


def show(value: object) -> str:
    """Name a value as its writer would, in at most about 60 characters."""
    match value:
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        # Text of BSON's own kinds, as code is, must not look like a string.
        case str() | int() | float() if type(value) is str or not isinstance(value, str):
            shown = repr(value[: MAX_SHOWN + 1]) if isinstance(value, str) else f"{value!r:.61}"
            return shown if len(shown) <= MAX_SHOWN else f"{shown[: MAX_SHOWN - 1]}…"
        case datetime() | DatetimeMS():
            return "a date"
        case Mapping():
            return "an object"
        case list() | tuple():
            return "a list"
        case _:
            return f"a value of type {type(value).__name__}"


def below(path: str, name: object) -> str:
    """Give the path of a field: `$.retry.delay`, `$.metadata['a b']`, `$.stages[2]`."""
    if isinstance(name, int) and not isinstance(name, bool):
        return f"{path}[{name}]"
    if isinstance(name, str) and _PLAIN_NAME.fullmatch(name):
        return f"{path}.{name}"
    return f"{path}[{show(name)}]"
