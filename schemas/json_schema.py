"""
JSON Schemas of what agents write, made from the classes: draft 2020-12, and MongoDB's own dialect.

A document is meant as Extended JSON: a date is `{"$date": …}`, an ObjectId `{"$oid": …}`. The
schemas are a help while writing; the converter is the judge, and knows rules that none can say.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType, NoneType
from typing import Any, NewType, get_args, get_origin

import attrs

from schemas.action import Action, ActionKind
from schemas.batch_request import BatchRequest, Recipient
from schemas.converter import KINDS_OF_FIELD, ORDERS_WITHOUT_END
from schemas.duration import spell
from schemas.fields import is_id, wire_names
from schemas.ids import AgentId
from schemas.json_shapes import (
    END,
    NAMED,
    PRIVATE,
    SHAPES,
    Schema,
    action,
    given,
    is_kind,
    or_null,
)
from schemas.mongo_dialect import in_mongo
from schemas.template import Stage, Template
from schemas.update import CampaignUpdate, ConversationUpdate, UpdateKind
from schemas.validators import Check
from schemas.values import MAX_ID, write_action

SCHEMAS: Mapping[str, type[Any]] = MappingProxyType(
    {
        "batch-request": BatchRequest,
        "recipient": Recipient,
        "campaign-template": Template,
        "conversation-update": ConversationUpdate,
        "campaign-update": CampaignUpdate,
    }
)


def json_schema(name: str) -> Schema:
    """Give a schema of `SCHEMAS` as JSON Schema, draft 2020-12."""
    cls = SCHEMAS[name]
    defs = dict(NAMED)
    schema = _object(cls, defs)
    if cls is BatchRequest:
        schema["properties"]["recipients"] = or_null(
            {"type": "array", "items": _of(Recipient, defs)}
        )
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": name} | (
        schema | {"$defs": defs}
    )


def mongo_schema(name: str) -> Schema:
    """
    Give a schema of `SCHEMAS` as MongoDB's `$jsonSchema`, for the validator of a collection.

    The document itself may have further fields: the worker writes its answer there. Inline
    recipients are not looked at, for one that is wrong must not keep the others out.
    """
    cls = SCHEMAS[name]
    defs = dict(NAMED)
    schema: Schema = in_mongo(_object(cls, defs), defs)
    del schema["additionalProperties"], schema["patternProperties"]
    return schema


def _object(cls: type[Any], defs: Schema) -> Schema:
    names = wire_names(cls)
    fields = {names[field.name]: field for field in attrs.fields(cls)}
    schema: Schema = {
        "type": "object",
        "required": [name for name, field in fields.items() if field.default is attrs.NOTHING],
        "properties": {name: _field(field, defs) for name, field in fields.items()},
        "patternProperties": PRIVATE,
        "additionalProperties": False,
    }
    if amend := _AMENDMENTS.get(cls):
        amend(schema)
    return schema


def _field(field: "attrs.Attribute[Any]", defs: Schema) -> Schema:
    kinds = [kind for kind in get_args(field.type) if kind is not NoneType]
    optional = len(kinds) < len(get_args(field.type))
    schema = _of(kinds[0] if optional and len(kinds) == 1 else field.type, defs)
    if isinstance(field.validator, Check):
        schema = _narrowed(schema, field.validator.keywords)
    return (or_null(schema) if optional else schema) | _default(field.default)


def _default(value: Any) -> Schema:
    """Say the default where it is a single value."""
    match value:
        case timedelta():
            return {"default": spell(value)}
        case Action():
            return {"default": write_action(value)}
        case StrEnum():
            return {"default": value.value}
        case str() | int() | float():
            return {"default": value}
        case _:
            return {}


def _of(kind: Any, defs: Schema) -> Schema:
    if isinstance(kind, NewType):
        return _of(kind.__supertype__, defs)
    if shape := SHAPES.get(AgentId if is_id(kind) else kind):
        return dict(shape)
    if get_origin(kind) is tuple:
        return {"type": "array", "items": _of(get_args(kind)[0], defs)}
    if kind is Action:
        return action([word.value for word in ActionKind])
    if attrs.has(kind):
        if kind.__name__ not in defs:
            defs[kind.__name__] = _object(kind, defs)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    return {"enum": [member.value for member in kind]}


def _narrowed(schema: Schema, keywords: Mapping[str, Any]) -> Schema:
    """Add what a validator asks for. Lengths are called differently for each type."""
    if "actions" in keywords:
        return action(keywords["actions"])
    for keyword, bound in keywords.items():
        match keyword, schema.get("type"):
            case "minLength" | "maxLength", "array":
                schema[keyword.replace("Length", "Items")] = bound
            case "pattern", _:
                schema[keyword] = f"^(?:{bound}){END}"
            case "minLength" | "maxLength", None | "object":
                pass  # Of words and addresses, which have theirs.
            case _:
                schema[keyword] = bound
    return {keyword: bound for keyword, bound in schema.items() if bound is not None}


def _amend_request(schema: Schema) -> None:
    schema["allOf"] = [
        {"oneOf": [given("template"), given("template_ref")]},
        {"oneOf": [given("recipients"), given("recipients_from")]},
    ]


def _amend_recipient(schema: Schema) -> None:
    schema["properties"]["batch_request_id"] = {"$ref": "#/$defs/id"}


def _amend_template(schema: Schema) -> None:
    schema["properties"]["schema_version"] = {"enum": [1]}


def _amend_stage(schema: Schema) -> None:
    final: Schema = {"required": ["final"], "properties": {"final": {"enum": [True]}}}
    none: Schema = {"properties": {"follow_ups": {"maxItems": 0}}}
    schema["anyOf"] = [{"not": final}, none]


def _amend_conversation_update(schema: Schema) -> None:
    schema["required"] = ["_id", "kind"]
    schema["properties"] |= {
        "schema_version": {"enum": [1]},
        "at": or_null({"$ref": "#/$defs/date"}),
        "conversation_id": or_null({"type": "string"}),
        "batch_request_id": or_null({"$ref": "#/$defs/id"}),
        "recipient_id": or_null({"type": "string", "minLength": 1, "maxLength": MAX_ID}),
    }
    schema["allOf"] = [
        {"anyOf": [given("conversation_id"), given("batch_request_id", "recipient_id")]},
        {"anyOf": [{"not": is_kind([UpdateKind.SEND.value])}, given("message")]},
        *(
            {"anyOf": [{"not": given(name)}, is_kind(sorted(kinds))]}
            for name, kinds in KINDS_OF_FIELD.items()
        ),
    ]


def _amend_campaign_update(schema: Schema) -> None:
    schema["required"] = ["_id", "kind"]
    schema["properties"] |= {
        "schema_version": {"enum": [1]},
        "at": or_null({"$ref": "#/$defs/date"}),
        "campaign_id": or_null({"type": "string"}),
        "batch_request_id": or_null({"$ref": "#/$defs/id"}),
    }
    without_end = [kind.value for kind in ORDERS_WITHOUT_END]
    schema["allOf"] = [
        {"anyOf": [given("campaign_id"), given("batch_request_id")]},
        {"anyOf": [{"not": given("until")}, {"not": is_kind(without_end)}]},
    ]


_AMENDMENTS: Mapping[type[Any], Callable[[Schema], None]] = {
    BatchRequest: _amend_request,
    Recipient: _amend_recipient,
    Template: _amend_template,
    Stage: _amend_stage,
    ConversationUpdate: _amend_conversation_update,
    CampaignUpdate: _amend_campaign_update,
}
