"""Named tuples that are cheap to define.

`typing.NamedTuple` and `collections.namedtuple` compile a constructor for every class. A short command defines more
than a hundred named tuples, so the compilation would take a tenth of a linked clone. Here all classes share one
constructor, which is as fast where it gets a value for every field in order.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NamedTuple, Self

__all__ = ["NamedTuple"]

if not TYPE_CHECKING:

    class _Record(tuple):
        """What all named tuples have; for the names see `collections.namedtuple`."""

        __slots__ = ()

        def __new__(cls, *values: object, **named: object) -> Self:
            if named or len(values) != len(cls._fields):
                values = cls._arrange(values, named)
            return tuple.__new__(cls, values)

        @classmethod
        def _arrange(cls, values: tuple[object, ...], named: dict[str, object]) -> Iterable[object]:
            """Return a value for every field."""
            in_order = dict(zip(cls._fields, values, strict=False))
            given = {**cls._field_defaults, **in_order, **named}
            if missing := [field for field in cls._fields if field not in given]:
                raise TypeError(f"{cls.__name__}() misses {', '.join(missing)}")
            if len(given) > len(cls._fields) or len(in_order) < len(values) or not in_order.keys().isdisjoint(named):
                raise TypeError(f"{cls.__name__}() gets a value that belongs to no field, or two values for a field")
            return [given[field] for field in cls._fields]

        def _replace(self, **changes: object) -> Self:
            replaced = tuple.__new__(type(self), map(changes.pop, self._fields, self))
            if changes:
                raise TypeError(f"{type(self).__name__} has no field {', '.join(changes)}")
            return replaced

        def _asdict(self) -> dict[str, Any]:
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self) -> str:
            words = (f"{field}={value!r}" for field, value in self._asdict().items())
            return f"{type(self).__name__}({', '.join(words)})"

        def __getnewargs__(self) -> tuple[object, ...]:
            return tuple(self)

    class _Definer(type):
        def __new__(cls, name: str, _bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
            """Turn annotated fields into a named tuple with the defaults, methods and docstring of the class."""
            fields = tuple(namespace["__annotations__"])
            defaults = {field: namespace[field] for field in fields if field in namespace}
            getters = {field: property(itemgetter(number)) for number, field in enumerate(fields)}
            own = {"__slots__": (), "__match_args__": fields, "_fields": fields, "_field_defaults": defaults}
            return type(name, (_Record,), {**namespace, **own, **getters})

    NamedTuple = type.__new__(_Definer, "NamedTuple", (), {})
