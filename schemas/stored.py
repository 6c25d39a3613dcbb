"""
The converter for our own documents: lenient, and fast.

Fields it does not know are passed over, so that an older worker reads what a newer one wrote.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache
from itertools import compress
from operator import is_not
from typing import Any, get_origin

import attrs
from attrs import AttrsInstance
from cattrs import Converter
from cattrs.cols import homogenous_tuple_structure_factory
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from schemas import values
from schemas.action import Action
from schemas.duration import to_seconds
from schemas.faults import problems_of
from schemas.fields import is_id, wire_names
from schemas.problems import InvalidDocumentError

type Hook = Callable[..., Any]

_READERS: Mapping[Any, Hook] = {
    datetime: values.read_stored_date,
    timedelta: values.read_duration,
    Action: values.read_action,
    object: values.read_anything,
}
_WRITERS: Mapping[Any, Hook] = {
    timedelta: to_seconds,
    Action: values.write_action,
}


def to_document(document: AttrsInstance) -> dict[str, Any]:
    """Give the document as BSON can hold it: every field, in its order, None as null."""
    written: dict[str, Any] = _CONVERTER.unstructure(document)
    return written


def differing[T: AttrsInstance](before: T, after: T) -> dict[str, Any]:
    """Give the fields that are others than before, by name. For classes that keep a `__dict__`."""
    old, new = vars(before), vars(after)
    # Most are the same object, for a changed copy shares what was not changed; and all copies have
    # their fields in the order of the class.
    replaced = compress(new, map(is_not, new.values(), old.values()))
    return {name: new[name] for name in replaced if new[name] != old[name]}


def spelled(cls: type[AttrsInstance], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Give fields of a class by their names, and as they stand, in documents."""
    writers = _writers(cls)
    written = {}
    for name, value in fields.items():
        wire, write = writers[name]
        written[wire] = write(value)
    return written


@cache
def _writers(cls: type[AttrsInstance]) -> Mapping[str, tuple[str, Hook]]:
    """Give each field's name in documents, and what writes it."""
    wires = wire_names(cls)
    return {
        each.name: (wires[each.name], _CONVERTER.get_unstructure_hook(each.type))
        for each in attrs.fields(attrs.resolve_types(cls))
    }


def from_document[T](cls: type[T], document: Mapping[str, Any]) -> T:
    """Read a document that `to_document` made. InvalidDocumentError: it did not make this one."""
    try:
        return _CONVERTER.structure(document, cls)
    except Exception:  # noqa: BLE001 -- whatever it is, it is about this document
        return _with_problems(cls, document)


def _with_problems[T](cls: type[T], document: Mapping[str, Any]) -> T:
    """Read it again, by a converter that is slower and names the path of a fault."""
    try:
        return _NAMING.structure(document, cls)
    except Exception as error:  # noqa: BLE001 -- as above
        raise InvalidDocumentError(problems_of(error, "$")) from None


def _make_converter(*, naming: bool) -> Converter:
    converter = Converter(detailed_validation=naming, unstruct_collection_overrides={tuple: list})
    values.register_scalars(converter)
    converter.register_structure_hook_factory(attrs.has, _class_reader)
    converter.register_structure_hook_factory(_is_tuple, _tuple_reader)
    converter.register_structure_hook_func(_is_mapping, values.read_mapping)
    converter.register_structure_hook_func(is_id, values.read_id)
    converter.register_structure_hook_factory(_READERS.__contains__, _READERS.__getitem__)
    converter.register_unstructure_hook_factory(attrs.has, _class_writer)
    converter.register_unstructure_hook(StrEnum, _value_of)
    converter.register_unstructure_hook_func(_stands_as_it_is, values.read_anything)
    converter.register_unstructure_hook_factory(_WRITERS.__contains__, _WRITERS.__getitem__)
    return converter


def _class_reader(cls: type[Any], converter: Converter) -> Hook:
    generated = make_dict_structure_fn(cls, converter, **_renamed(cls))

    def read(value: object, _: object) -> Any:
        if type(value) is not dict:
            values.read_mapping(value)
        return generated(value, cls)  # type: ignore[arg-type]

    return read


def _value_of(member: StrEnum) -> str:
    return member.value


def _class_writer(cls: type[Any], converter: Converter) -> Hook:
    return make_dict_unstructure_fn(cls, converter, **_renamed(cls))


def _renamed(cls: type[Any]) -> dict[str, Any]:
    return {name: override(rename=wire) for name, wire in wire_names(cls).items()}


def _tuple_reader(kind: Any, converter: Converter) -> Hook:
    generated = homogenous_tuple_structure_factory(kind, converter)
    return lambda value, _: generated(values.read_list(value), kind)


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _is_mapping(kind: Any) -> bool:
    return get_origin(kind) is Mapping


def _stands_as_it_is(kind: Any) -> bool:
    return kind in {str, int, float, bool, datetime, object} or is_id(kind) or _is_mapping(kind)


_CONVERTER, _NAMING = _make_converter(naming=False), _make_converter(naming=True)
