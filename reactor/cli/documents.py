"""Documents from files: YAML, JSON or Extended JSON, one or several."""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import IO, Any

import yaml
from bson import json_util
from bson.errors import BSONError

from reactor.cli.failure import Failure
from reactor.cli.output import JSON_OPTIONS

try:
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # built without libyaml: the same, slower
    from yaml import SafeLoader  # type: ignore[assignment]

type Document = dict[str, Any]

_JSON_SPACE = " \t\r\n"


def read_documents(file: IO[str]) -> tuple[Document, ...]:
    """
    Read all documents of a file; a list at the top stands for several.

    `Failure`: it cannot be read; the message names the file and, where it can, line and column.
    """
    try:
        content = file.read().removeprefix("\ufeff")
        found = [document for value in _parse(content, file.name) for document in _each(value)]
    except UnicodeDecodeError as error:
        raise Failure(
            f"{file.name}: expected UTF-8, got the byte {error.object[error.start]:#x}"
        ) from None
    except RecursionError:
        raise Failure(f"{file.name}: nested too deeply") from None
    except (yaml.YAMLError, BSONError, ValueError, TypeError) as error:
        raise Failure(f"{file.name}: {_one_line(error)}") from None
    if not found:
        raise Failure(f"{file.name}: expected a document, got nothing")
    return tuple(found)


def _parse(content: str, name: str) -> Iterator[object]:
    """Yield the values. JSON is YAML too, but not with tabs, and is read a hundred times faster."""
    if content.lstrip().startswith(("{", "[")):
        try:
            yield from list(_json_values(content))
        except json.JSONDecodeError:
            if name.endswith("json"):
                raise
        else:
            return
    yield from yaml.load_all(content, _Loader)


def _json_values(content: str) -> Iterator[object]:
    decoder = json.JSONDecoder(object_pairs_hook=_unique)
    position = 0
    while position < len(content):
        if content[position] in _JSON_SPACE:
            position += 1
            continue
        value, position = decoder.raw_decode(content, position)
        yield value


def _unique(members: list[tuple[str, object]]) -> Document:
    document: Document = {}
    for name, value in members:
        if name in document:
            raise ValueError(f"{name!r} stands twice in one object")
        document[name] = value
    return document


class _Loader(SafeLoader):
    """YAML in which no name stands twice, and every name is text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 -- PyYAML's
        seen = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(
                    None, None, f"{key.value!r} stands twice in one object", key.start_mark
                )
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        mapping = super().construct_mapping(node, deep=deep)
        for name in mapping:
            if not isinstance(name, str):
                said = f"a field's name must be text, got {name!r}: write it in quotes"
                raise yaml.MarkedYAMLError(None, None, said, node.start_mark)
        return mapping


def _each(value: object) -> Iterator[Document]:
    for document in value if isinstance(value, list) else [value]:
        if document is None:  # an empty document between two `---`
            continue
        if not isinstance(document, dict):
            raise TypeError(f"expected an object, got {type(document).__name__} {document!r:.40}")
        yield _from_extended(document)


def _from_extended(value: Any) -> Any:
    """Turn Extended JSON (`{"$oid": …}`, `{"$date": …}`) and YAML's dates into what BSON has."""
    if isinstance(value, dict):
        fields = {name: _from_extended(each) for name, each in value.items()}
        return json_util.object_hook(fields, JSON_OPTIONS)
    if isinstance(value, list):
        return [_from_extended(each) for each in value]
    if isinstance(value, datetime):
        moment = value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
        return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    return value


def _one_line(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        return f"line {mark.line + 1}, column {mark.column + 1}: {said}"
    return " ".join(str(error).split())
