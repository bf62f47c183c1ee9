"""Named tuples that are cheap to define.

`typing.NamedTuple` compiles the annotation of every field, which takes three quarters of the time of a definition. A
short command defines some eighty named tuples and never looks at an annotation.
"""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING, Any

__all__ = ["NamedTuple"]

if TYPE_CHECKING:
    from typing import NamedTuple
else:

    class _Definer(type):
        def __new__(cls, name: str, _bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
            """Turn annotated fields into a named tuple with the defaults, methods and docstring of the class."""
            fields = namespace["__annotations__"]
            defaults = [namespace[field] for field in fields if field in namespace]
            record = namedtuple(name, fields, defaults=defaults)  # noqa: PYI024 - see above
            for key, value in namespace.items():
                if key not in fields:
                    setattr(record, key, value)
            return record

    NamedTuple = type.__new__(_Definer, "NamedTuple", (), {})
