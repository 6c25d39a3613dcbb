"""Changed copies of our classes, and whether two are the same."""

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
        fields = present | changes
        if len(fields) > len(present):
            unknown = ", ".join(sorted(changes.keys() - present.keys()))
            raise TypeError(f"{type(instance).__name__} has no {unknown}")
        made = object.__new__(type(instance))
        # A frozen class lets nothing be set in the usual way.
        object.__setattr__(made, "__dict__", fields)
        return made


def same_fields(one: object, other: object) -> bool:
    """
    Say whether two have the same fields; for the `__eq__` of a class that keeps a `__dict__`.

    Most fields of a changed copy are the very objects of the other: a comparison of the dicts sees
    that at once, where the one that attrs generates looks each up by its name. Such a class has no
    `__hash__`: nobody keeps one in a set, and to hash all of it would take as long.
    """
    return type(one) is type(other) and vars(one) == vars(other)
