"""
The converter for what other programs write: strict, and it finds every problem of a document.

cattrs reads each field; here stand the rules it does not know: names that begin with `_` are
ignored, any other unknown name is a problem, validators are asked field by field (so that one
object's wrong types and wrong values are reported together), and some fields must agree.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Any, get_origin
from zoneinfo import available_timezones

import attrs
from cattrs import Converter
from cattrs.cols import homogenous_tuple_structure_factory
from cattrs.errors import ClassValidationError
from cattrs.gen import make_dict_structure_fn, override

from schemas import values
from schemas.action import Action
from schemas.batch_request import BatchRequest, Recipient
from schemas.fields import is_id, wire_names
from schemas.opaque import bson_size, read_opaque
from schemas.problems import MAX_PROBLEMS, Fault, below, show
from schemas.template import Stage, Template
from schemas.update import CampaignUpdate, ConversationUpdate

type Reader = Callable[[Any, Any], Any]
type Document = Mapping[Any, Any]

#: A template is pinned in its campaign, which must stay far below the 16 MB of a document.
MAX_TEMPLATE_BYTES = 4_000_000
TIMEZONES = frozenset(available_timezones()) - {"Factory", "localtime"}

_ANSWER = {"status", "reason", "applied_at", "failures", "due_at"}
#: Named in the contract, and not for the class: the worker's answers, what places a recipient's
#: document in its collection, and what is read beforehand.
_NOT_READ: Mapping[type[Any], frozenset[str]] = {
    BatchRequest: frozenset(
        {"status", "decided_at", "campaign_id", "problems", "counts", "rejected_recipients"}
        | {"failures", "due_at"}
    ),
    Recipient: frozenset({"batch_request_id"}),
    Template: frozenset({"schema_version"}),
    ConversationUpdate: frozenset(
        {"schema_version", "batch_request_id", "recipient_id", *_ANSWER},
    ),
    CampaignUpdate: frozenset({"schema_version", "batch_request_id", *_ANSWER}),
}
_READERS: Mapping[Any, Reader] = {
    datetime: values.read_date,
    timedelta: values.read_duration,
    Action: values.read_action,
    object: values.read_anything,
    tuple[str, ...]: values.read_words,
    tuple[object, ...]: values.read_list,
    Mapping[str, str]: values.read_address,
    Mapping[str, object]: read_opaque,
}


def make_converter() -> Converter:
    converter = Converter(detailed_validation=True)
    converter.register_structure_hook_factory(attrs.has, _class_reader)
    converter.register_structure_hook_factory(_is_tuple, _tuple_reader)
    converter.register_structure_hook_func(is_id, values.read_id)
    # Last, for the last one that fits is taken: Action is a class too.
    converter.register_structure_hook_factory(_READERS.__contains__, _READERS.__getitem__)
    values.register_scalars(converter)
    return converter


def _class_reader(cls: type[Any], converter: Converter) -> Reader:
    names = wire_names(cls)
    overrides: dict[str, Any] = {
        field.name: override(rename=names[field.name], struct_hook=_field_reader(field, converter))
        for field in attrs.fields(cls)
    }
    known = {*names.values(), *_NOT_READ.get(cls, ())}
    generated = make_dict_structure_fn(cls, converter, **overrides)
    disagreements = _DISAGREEMENTS.get(cls, _none)

    def read(value: object, _: object) -> Any:
        document = values.read_mapping(value)
        faults: list[Exception] = [*_unknown(document, known), *disagreements(document)]
        try:
            found = generated(document, cls)
        except ClassValidationError as error:
            raise ExceptionGroup("fields", [*faults, error]) from None
        if faults:
            raise ExceptionGroup("fields", faults)
        return found

    return read


def _field_reader(field: "attrs.Attribute[Any]", converter: Converter) -> Reader:
    """Read a field and ask its validator, which __init__ would ask only if all else is right."""
    read: Reader = converter.get_structure_hook(field.type)

    def read_and_check(value: object, kind: Any) -> Any:
        found = read(value, kind)
        if field.validator:
            field.validator(None, field, found)
        if field.name == "timezone" and found is not None and found not in TIMEZONES:
            raise ValueError(f"expected a time zone like 'Europe/Berlin', got {show(found)}")
        return found

    return read_and_check


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _tuple_reader(kind: Any, converter: Converter) -> Reader:
    generated = homogenous_tuple_structure_factory(kind, converter)
    return lambda value, _: generated(values.read_members(value), kind)


def _unknown(document: Document, known: set[str]) -> Iterator[Fault]:
    unknown = [name for name in document if name not in known and not values.is_private(name)]
    for number, name in enumerate(unknown):
        # Looking for a name like it takes its time: not for problems that nobody will see.
        alike = get_close_matches(str(name)[:60], known, n=1) if number < MAX_PROBLEMS else []
        hint = f"; did you mean {alike[0]!r}?" if alike else ""
        yield Fault(below("", name), f"unknown field{hint}")


def _none(_: Document) -> Iterator[Fault]:
    return iter(())


def _of_request(document: Document) -> Iterator[Fault]:
    given = {name for name, value in document.items() if value is not None}
    for one, other in (("template", "template_ref"), ("recipients", "recipients_from")):
        if {one, other} <= given:
            yield Fault(f".{other}", f"expected either {one} or {other}, got both")
        elif not {one, other} & given:
            yield Fault(f".{one}", f"required, or {other}")
    recipients, count = document.get("recipients"), document.get("recipient_count")
    if isinstance(recipients, list) and count is not None and count != len(recipients):
        yield Fault(".recipient_count", f"expected {len(recipients)}, got {show(count)}")


def _of_stage(document: Document) -> Iterator[Fault]:
    if document.get("final") is True and document.get("follow_ups"):
        yield Fault(".follow_ups", "expected none, for the stage is final")


def _of_template(document: Document) -> Iterator[Fault]:
    try:
        size = bson_size(document)
    except ValueError as error:
        yield Fault("", str(error))
    else:
        if size > MAX_TEMPLATE_BYTES:
            yield Fault("", f"expected at most {MAX_TEMPLATE_BYTES} bytes, got {size}")


_DISAGREEMENTS: Mapping[type[Any], Callable[[Document], Iterator[Fault]]] = {
    BatchRequest: _of_request,
    Stage: _of_stage,
    Template: _of_template,
}
