"""What a converter raised, spelled out as problems with their paths."""

from collections.abc import Iterable, Iterator

from cattrs.errors import ClassValidationError, IterableValidationError

from schemas.fields import wire_names
from schemas.problems import Fault, below


def problems_of(error: Exception, path: str) -> Iterator[str]:
    """Name everything that is wrong with the value at `path`."""
    match error:
        case ClassValidationError():
            names = wire_names(error.cl)
            fields, others = error.group_exceptions()
            for fault, note in fields:
                yield from problems_of(fault, below(path, names[note.name]))
            yield from _each(others, path)
        case IterableValidationError():
            members, others = error.group_exceptions()
            for fault, place in members:
                yield from problems_of(fault, below(path, place.index))
            yield from _each(others, path)
        case ExceptionGroup():
            yield from _each(error.exceptions, path)
        case KeyError():
            yield f"{path}: required"
        case Fault():
            yield f"{path}{error.path}: {error}"
        case _:
            yield f"{path}: {error}"


def _each(errors: Iterable[Exception], path: str) -> Iterator[str]:
    for error in errors:
        yield from problems_of(error, path)
