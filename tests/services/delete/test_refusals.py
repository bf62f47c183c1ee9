"""What is said of domains that are not deleted: every name, and one sentence for one reason."""

from __future__ import annotations

import pytest

from virtomate.errors import IllegalStateError, NotFoundError, VirtomateError
from virtomate.services.delete.refusals import Refusals
from virtomate.words import Reach


def test_nothing_is_wrong() -> None:
    """Without a refusal nothing is raised."""
    Refusals().raise_if_any()


def test_all_active_domains_are_named() -> None:
    """Those that run and those that are paused are in one sentence, each with the command that helps."""
    refusals = Refusals()
    for name, state in (("a", "running"), ("b b", "paused"), ("c", "running")):
        refusals.active[name] = state

    error = raised(refusals)

    assert error.message == "domains 'a', 'b b' and 'c' are running or paused, and must be shut off to be deleted"
    assert Reach().fill(str(error.hint)) == (
        "--force of domain-delete ends them at once. Or shut them down first: virsh shutdown a; virsh resume 'b b'; "
        "virsh shutdown 'b b'; virsh shutdown c"
    )


def test_all_strangers_and_unfinished_clones_are_named() -> None:
    """Other reasons name all of their domains as well; together they are one error."""
    refusals = Refusals()
    refusals.strangers["a"] = False
    refusals.strangers["b"] = False
    refusals.in_the_making["c"] = 12
    refusals.in_the_making["d"] = 12

    error = raised(refusals)

    assert type(error) is IllegalStateError
    assert error.message == (
        "domains 'a' and 'b' are not clones made by virtomate, and only those are deleted; "
        "domains 'c' and 'd' are still being made or deleted by process 12"
    )


def test_only_missing_domains_are_not_found() -> None:
    """The error's type is that of the only reason."""
    refusals = Refusals("qemu:///system")
    refusals.missing["a"] = NotFoundError("there is no domain 'a'", hint="Did you mean 'A'?")
    one = raised(refusals)
    refusals.missing["b"] = NotFoundError("there is no domain 'b'")
    two = raised(refusals)
    refusals.strangers["c"] = False
    mixed = raised(refusals)

    assert (type(one), one.message) == (NotFoundError, "there is no domain 'a'")
    assert (type(two), two.message) == (NotFoundError, "there are no domains 'a' and 'b' on qemu:///system")
    assert "virtomate domain-list " in str(two.hint)
    assert type(mixed) is IllegalStateError


def raised(refusals: Refusals) -> VirtomateError:
    """What is raised of them."""
    with pytest.raises(VirtomateError) as caught:
        refusals.raise_if_any()
    return caught.value
