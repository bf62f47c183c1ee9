"""Which directories libvirt may write to, whoever else can."""

from __future__ import annotations

import pytest

from virtomate.enums import Transfer
from virtomate.errors import IllegalStateError
from virtomate.output.messages import sentences
from virtomate.services.trust import Directory, Trust, admitted, assess, cautions

HOST, STREAM, SERVER, LINK = Transfer.HOST, Transfer.STREAM, Transfer.SERVER, Transfer.LINK

ROOTS = Directory("/srv", 0, 0o755)


@pytest.mark.parametrize(
    ("owner", "mode", "objections", "remedies"),
    [
        (0, 0o711, (), ()),
        (0, 0o1777, (), ()),
        (1000, 0o755, (), ()),
        (None, None, (), ()),
        (0, None, (), ()),
        (1001, 0o700, ("belongs to user 1001",), ("chown root '/srv/my vms'",)),
        (1001, None, ("belongs to user 1001",), ("chown root '/srv/my vms'",)),
        (0, 0o777, ("can be written to by everybody (mode 0777)",), ("chmod o-w '/srv/my vms'",)),
        (1000, 0o702, ("can be written to by everybody (mode 0702)",), ("chmod o-w '/srv/my vms'",)),
        (
            1001,
            0o2777,
            ("belongs to user 1001", "can be written to by everybody (mode 2777)"),
            ("chown root '/srv/my vms'", "chmod o-w '/srv/my vms'"),
        ),
        (1001, 0o1777, ("belongs to user 1001",), ("chown root '/srv/my vms'",)),
    ],
)
def test_objections(
    owner: int | None, mode: int | None, objections: tuple[str, ...], remedies: tuple[str, ...]
) -> None:
    """Strangers who own a directory, and everybody who may write to it, could put links there; root and ours do not."""
    trust = assess(Directory("/srv/my vms", owner, mode, 7), users={1000})

    assert (trust.objections, trust.remedies) == (objections, remedies)
    assert trust.cautions == ()


@pytest.mark.parametrize(
    ("directory", "expected"),
    [
        (Directory("/p", 0, 0o775, 7), ("can be written to by group 7 (mode 0775)",)),
        (Directory("/p", 0, 0o1775, 7), ()),
        # the objection says it already
        (Directory("/p", 0, 0o777, 7), ()),
        (
            Directory("/a/p", 0, 0o755, 0, above=(ROOTS, Directory("/a", 5, 0o755))),
            ("lies in '/a', which belongs to user 5",),
        ),
        (Directory("/a/p", 0, 0o755, 0, above=(Directory("/a", 1000, 0o755),)), ()),
        (
            Directory("/a/p", 0, 0o755, 0, above=(Directory("/a", 0, 0o777),)),
            ("lies in '/a', which can be written to by everybody (mode 0777)",),
        ),
        (Directory("/tmp/p", 0, 0o755, 0, above=(Directory("/tmp", 0, 0o1777), Directory("/", 0, 0o775))), ()),
    ],
)
def test_cautions(directory: Directory, expected: tuple[str, ...]) -> None:
    """A group that may write, and strangers further up, are told of and are no reason to refuse."""
    trust = assess(directory, users={1000})

    assert trust.cautions == expected
    assert bool(trust.objections) == (directory.mode == 0o777)


def test_caution_is_a_sentence() -> None:
    """It names what is duplicated, the directory, and what follows from it."""
    trust = assess(Directory("/p", 0, 0o775, 7), users=())

    assert sentences(cautions([trust, Trust("/q")], "disk vda")) == [
        "disk vda: '/p' can be written to by group 7 (mode 0775), and libvirt follows symbolic links there"
    ]


GOOD = Trust("/good")
BAD = Trust("/bad", ("belongs to user 5 (eve)", "is open"), ("chown root /bad", "chmod o-w /bad"))


@pytest.mark.parametrize(
    ("transfers", "assessed", "expected"),
    [
        ((HOST, STREAM, SERVER), (GOOD, GOOD), (HOST, STREAM, SERVER)),
        ((LINK,), (), (LINK,)),
        ((HOST, STREAM, SERVER), (GOOD, BAD), (HOST,)),
        ((HOST,), (BAD,), (HOST,)),
        ((STREAM, SERVER), (BAD,), None),
        ((SERVER,), (GOOD, BAD), None),
        ((LINK,), (BAD,), None),
    ],
)
def test_admitted_transfers(
    transfers: tuple[Transfer, ...], assessed: tuple[Trust, ...], expected: tuple[Transfer, ...] | None
) -> None:
    """In a bad directory nothing is left to libvirt, not even as the second choice."""
    if expected is not None:
        assert admitted(transfers, assessed, "disk vda") == expected
        return
    with pytest.raises(IllegalStateError) as caught:
        admitted(transfers, assessed, "disk vda")
    assert caught.value.message == (
        "disk vda: libvirt would follow a symbolic link that somebody else puts into '/bad', which belongs to user 5 "
        "(eve) and is open"
    )
    for part in ("chown root /bad; chmod o-w /bad", "another pool", "--trust-pool"):
        assert part in (caught.value.hint or "")
