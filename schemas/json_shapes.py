"""What JSON Schemas are made of: the shapes of single values, as Extended JSON has them."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from schemas.address import KIND, MAX_ADDRESS
from schemas.duration import ISO_8601, LONGEST, SHORT, to_seconds
from schemas.ids import AgentId
from schemas.template import NAME
from schemas.values import MAX_ID

type Schema = dict[str, Any]

#: ECMAScript, PCRE and Python agree on this end of a text; they do not on `$`.
END = r"(?![\s\S])"
PRIVATE: Schema = {"^_": {}}
_DATE: Schema = {
    "description": "A BSON date: {$date: …}. A string is no date.",
    "type": "object",
    "required": ["$date"],
    "additionalProperties": False,
    "properties": {
        "$date": {
            "anyOf": [
                {"type": "string", "format": "date-time"},
                {"type": "object", "required": ["$numberLong"]},
            ]
        }
    },
}
_ID: Schema = {
    "description": "A string, an ObjectId or a UUID.",
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": MAX_ID},
        {"type": "object", "required": ["$oid"], "additionalProperties": False}
        | {"properties": {"$oid": {"type": "string"}}},
        {"type": "object", "required": ["$uuid"], "additionalProperties": False}
        | {"properties": {"$uuid": {"type": "string"}}},
        {"type": "object", "required": ["$binary"], "additionalProperties": False}
        | {"properties": {"$binary": {"properties": {"subType": {"enum": ["04", "4"]}}}}},
    ],
}
_DURATION: Schema = {
    "description": "90s, 15m, 2h, 3d, 1w, ISO 8601 without months and years, or seconds.",
    "anyOf": [
        {"type": "string", "pattern": f"^(?:{SHORT}|{ISO_8601}){END}"},
        {"type": "number", "minimum": 0, "maximum": to_seconds(LONGEST)},
    ],
}
_WORDS: Schema = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
    ]
}
_ADDRESS: Schema = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": False,
    "patternProperties": PRIVATE | {f"^{KIND}{END}": {"type": "string", "maxLength": MAX_ADDRESS}},
}
NAMED: Schema = {"date": _DATE, "id": _ID, "duration": _DURATION}
SHAPES: Mapping[Any, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    object: {"description": "Anything."},
    AgentId: {"$ref": "#/$defs/id"},
    datetime: {"$ref": "#/$defs/date"},
    timedelta: {"$ref": "#/$defs/duration"},
    tuple[str, ...]: _WORDS,
    Mapping[str, str]: _ADDRESS,
    Mapping[str, object]: {"type": "object"},
}


def action(words: list[str]) -> Schema:
    go_to: Schema = {
        "type": "object",
        "required": ["go_to"],
        "properties": {"go_to": {"type": "string", "pattern": f"^(?:{NAME}){END}"}},
        "patternProperties": PRIVATE,
        "additionalProperties": False,
    }
    return {"anyOf": [{"enum": [word for word in words if word != "go_to"]}, go_to]}


def or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def given(*names: str) -> Schema:
    return {
        "required": list(names),
        "properties": {name: {"not": {"type": "null"}} for name in names},
    }


def is_kind(kinds: list[str]) -> Schema:
    return {"required": ["kind"], "properties": {"kind": {"enum": kinds}}}
