"""A changed copy of one of our classes."""

from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    # By this name its arguments are checked against the class.
    from attrs import evolve as evolve  # noqa: PLC0414 -- mypy re-exports only this
else:

    def evolve(instance: Any, /, **changes: Any) -> Any:
        """
        Copy an instance with some fields changed; TypeError: it has no such field.

        `attrs.evolve` calls `__init__` with every field. A conversation has thirty and is changed ten
        times in a step: so classes that keep a `__dict__` have it copied. No validator of theirs
        runs again, so one that has validators must not be among them.
        """
        present = getattr(instance, "__dict__", None)
        if present is None:
            return attrs.evolve(instance, **changes)
        if unknown := changes.keys() - present.keys():
            raise TypeError(f"{type(instance).__name__} has no {', '.join(sorted(unknown))}")
        made = object.__new__(type(instance))
        made.__dict__.update(present, **changes)
        return made
