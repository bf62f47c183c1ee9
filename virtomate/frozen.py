"""Frozen dataclasses that take next to no time to define.

The standard library writes and compiles six methods for each of them, which was a quarter of the processor time of a
program that has sixty and runs for a moment. Here they share methods, and are dataclasses all the same: for `replace`,
and for type checkers, which see the standard library's.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(cls: type | None = None, /, **options: bool) -> Any:  # noqa: ANN401
        """The standard library's decorator, and no other, for everything but frozen classes without further options."""
        if options != {"frozen": True}:
            return dataclasses.dataclass(cls, **options)
        return _frozen if cls is None else _frozen(cls)


__all__ = ["dataclass"]


def _frozen(cls: type) -> type:
    made: Any = dataclasses.dataclass(init=False, repr=False, eq=False)(cls)
    made.__init__ = _init
    made.__repr__ = _repr
    made.__eq__ = _eq
    made.__hash__ = _hash
    made.__setattr__ = made.__delattr__ = _refuse
    return cls


def _init(self: Any, /, *arguments: Any, **named: Any) -> None:  # noqa: ANN401
    fields = self.__dataclass_fields__
    values = dict(zip(fields, arguments, strict=False))
    if len(arguments) > len(fields) or not named.keys() <= fields.keys() - values.keys():
        raise TypeError(f"{type(self).__name__} does not take {arguments} and {named}")
    values |= named
    for name, field in fields.items():
        if name not in values:
            values[name] = _default(self, field)
    self.__dict__.update(values)


def _default(self: Any, field: dataclasses.Field[Any]) -> Any:  # noqa: ANN401
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    raise TypeError(f"{type(self).__name__} needs {field.name}")


def _values(self: Any) -> tuple[Any, ...]:  # noqa: ANN401
    return tuple(self.__dict__[name] for name in self.__dataclass_fields__)


def _repr(self: Any) -> str:  # noqa: ANN401
    values = ", ".join(f"{name}={self.__dict__[name]!r}" for name in self.__dataclass_fields__)
    return f"{type(self).__qualname__}({values})"


def _eq(self: Any, other: object) -> bool:  # noqa: ANN401
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:  # noqa: ANN401
    return hash(_values(self))


def _refuse(self: Any, name: str, *_value: object) -> None:  # noqa: ANN401
    raise dataclasses.FrozenInstanceError(f"cannot change '{name}' of a {type(self).__name__}")
