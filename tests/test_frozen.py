"""Our frozen dataclasses are the standard library's in everything but the time that it takes to define them."""

import dataclasses
from typing import Any

import pytest

from virtomate.frozen import dataclass


def make(decorate: Any) -> Any:
    """A class with every kind of field, and one that inherits from it."""

    class Base:
        """Something with fields."""

        first: int
        second: str = "two"
        third: list[int] = dataclasses.field(default_factory=list)

    class Heir(decorate(Base)):  # type: ignore[misc] # a class made at run time
        """Something with one more."""

        fourth: tuple[int, ...] = (4,)

    return decorate(Heir)


@pytest.fixture(params=[dataclass(frozen=True), dataclasses.dataclass(frozen=True)], ids=["ours", "standard"])
def made(request: pytest.FixtureRequest) -> Any:
    """The class, made by our decorator and by the standard library's."""
    return make(request.param)


def test_values_and_defaults(made: Any) -> None:
    """Values come by position, by name and by default; no two instances share a default that can change."""
    one = made(1, third=[3])

    assert [getattr(one, field.name) for field in dataclasses.fields(one)] == [1, "two", [3], (4,)]
    assert dataclasses.asdict(dataclasses.replace(one, second="2")) == {
        "first": 1,
        "second": "2",
        "third": [3],
        "fourth": (4,),
    }
    assert made(1).third is not made(1).third
    assert repr(one).endswith("Heir(first=1, second='two', third=[3], fourth=(4,))")


@pytest.mark.parametrize(
    ("values", "named"), [((), {}), ((1, "", [], (), 5), {}), ((1,), {"first": 1}), ((1,), {"fifth": 5})]
)
def test_wrong_values_are_refused(made: Any, values: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Too few, too many, one given twice, and one that there is no field for."""
    with pytest.raises(TypeError):
        made(*values, **named)


def test_equality_and_hash(made: Any) -> None:
    """Instances of one class with the same values are equal, and one in a set."""
    values = {"third": (3,)}

    assert made(1, **values) == made(1, **values) != made(2, **values)
    assert len({made(1, **values), made(1, **values), made(2, **values)}) == 2
    assert made(1, **values) != make(dataclass(frozen=True))(1, **values)


def test_nothing_can_be_changed(made: Any) -> None:
    """Neither a field nor anything else."""
    one = made(1)

    for name in ("first", "new"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, name, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        del one.first
    assert one.first == 1


def test_other_classes_are_left_to_the_standard_library() -> None:
    """A class that can change, or wants more, is made by the standard library."""

    @dataclass
    class Changing:
        value: int

    @dataclass(frozen=True, kw_only=True)
    class Named:
        value: int

    one = Changing(1)
    one.value = 2
    assert one == Changing(2)
    assert Named(value=1).value == 1
