"""Named tuples of our own behave as those of the standard library."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class Point(NamedTuple):
    """A point.

    Attributes:
        label: What it is called.
    """

    x: int
    y: int = 2
    label: str = ""

    @property
    def total(self) -> int:
        """The sum of both coordinates."""
        return self.x + self.y

    def moved(self, by: int) -> Point:
        """Return the point that is so far away."""
        return self._replace(x=self.x + by)


def test_behaves_as_a_tuple_with_names() -> None:
    """Fields can be given in order and by name, have defaults, and are read by name, by number and by patterns."""
    point = Point(1, label="a")

    match point:
        case Point(x, y, label):
            assert (x, y, label) == (point.x, point.y, point.label) == tuple(point) == (1, 2, "a")
    assert point == Point(1, 2, "a") == (1, 2, "a")
    assert hash(point) == hash((1, 2, "a"))
    assert (point.total, point.moved(2), point._asdict()) == (3, Point(3, 2, "a"), {"x": 1, "y": 2, "label": "a"})
    assert repr(point) == "Point(x=1, y=2, label='a')"
    assert (Point._fields, Point._field_defaults) == (("x", "y", "label"), {"y": 2, "label": ""})
    assert (Point.__doc__ or "").startswith("A point.")
    assert copy.deepcopy(point) == pickle.loads(pickle.dumps(point)) == point
    assert type(copy.copy(point)) is Point


@pytest.mark.parametrize(
    "make",
    [
        lambda kind: kind(),
        lambda kind: kind(y=1),
        lambda kind: kind(1, 2, "a", 4),
        lambda kind: kind(1, x=1),
        lambda kind: kind(1, z=1),
        lambda kind: kind(1)._replace(z=1),
    ],
)
def test_refuses_what_does_not_fit(make: Callable[[Any], object]) -> None:
    """A missing value, one value too many, a second value and an unknown field are errors."""
    with pytest.raises(TypeError, match="Point"):
        make(Point)


def test_does_not_change() -> None:
    """A field cannot be set, and no attribute can be added."""
    point: Any = Point(1)

    for name in ("x", "z"):
        with pytest.raises(AttributeError):
            setattr(point, name, 1)
