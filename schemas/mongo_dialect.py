"""JSON Schema in MongoDB's dialect, `$jsonSchema`: types of BSON, no references."""

from collections.abc import Mapping
from typing import Any

from schemas.json_shapes import Schema
from schemas.values import MAX_ID

#: MongoDB's names of the types of JSON.
_BSON_TYPES: Mapping[str, Any] = {
    "string": {"bsonType": "string"},
    "integer": {"bsonType": ["int", "long", "double"], "multipleOf": 1},
    "number": {"bsonType": ["int", "long", "double"]},
    "boolean": {"bsonType": "bool"},
    "object": {"bsonType": "object"},
    "array": {"bsonType": "array"},
    "null": {"bsonType": "null"},
}
_BSON_NAMED: Mapping[str, Schema] = {
    "date": {"bsonType": "date"},
    "id": {"bsonType": ["string", "objectId", "binData"], "minLength": 1, "maxLength": MAX_ID},
}
#: What MongoDB's dialect does not know.
_JSON_ONLY = frozenset({"$schema", "$defs", "title", "default", "format"})


def in_mongo(schema: Any, defs: Schema) -> Any:
    """Translate a schema whose references are to `defs`."""
    if isinstance(schema, list):
        return [in_mongo(member, defs) for member in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        return _BSON_NAMED[name] if name in _BSON_NAMED else in_mongo(defs[name], defs)
    translated: Schema = {}
    for keyword, value in schema.items():
        if keyword in {"properties", "patternProperties"}:
            translated[keyword] = {name: in_mongo(inner, defs) for name, inner in value.items()}
        elif keyword == "type":
            translated |= _BSON_TYPES[value]
        elif keyword == "enum":
            translated[keyword] = value
        elif keyword not in _JSON_ONLY and value != []:
            translated[keyword] = in_mongo(value, defs)
    return translated
