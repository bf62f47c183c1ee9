"""The tree of domains and volumes: who stands below whom, once, whatever the graph."""

from __future__ import annotations

import io
import re
import sys
from typing import TYPE_CHECKING

from tests.output.records import LISTING, UUID
from virtomate.definition.provenance import DomainReference
from virtomate.enums import Integrity
from virtomate.notices import Notice, ScanWarning
from virtomate.output.streams import Format
from virtomate.output.trees import render_tree
from virtomate.services.domain_tree import DomainTree, VolumeNode
from virtomate.services.listings import DomainListing, RelatedImage

if TYPE_CHECKING:
    import pytest

HUMAN = Format()


def domain(name: str, *below: str, disks: tuple[str, ...] = ("vda",), **others: object) -> DomainListing:
    """A domain whose disks rest on those of other domains, or on volumes in a pool `p`, which begin with a slash."""
    base = tuple(_image(target, parent) for parent, target in zip(below, disks, strict=False))
    listing = LISTING._replace(name=name, uuid=name, clone=None, type="domain", base=base, dependents=())
    return listing._replace(**others)  # type: ignore[arg-type]


def volume(path: str, *below: str, **others: object) -> VolumeNode:
    """A volume that no domain uses."""
    base = tuple(_image(None, parent) for parent in below)
    node = VolumeNode(path, None, None, None, "volume", "p", path[1:], is_missing=False, base=base, dependents=())
    return node._replace(**others)  # type: ignore[arg-type]


def _image(target: str | None, parent: str) -> RelatedImage:
    is_volume = parent.startswith("/")
    domains = () if is_volume else tuple(DomainReference(name, name) for name in parent.split("+"))
    return RelatedImage(
        target, parent if is_volume else f"/{parent}.img", None, None, is_missing=False, domains=domains
    )


def shown(capsys: pytest.CaptureFixture[str], *nodes: DomainListing | VolumeNode) -> list[str]:
    """The lines of a tree, with two blanks between columns."""
    render_tree(DomainTree(nodes, ()), HUMAN)
    return [re.sub(r"(?<=\S) {2,}", "  ", line) for line in capsys.readouterr().out.splitlines()[1:]]


def test_branches(capsys: pytest.CaptureFixture[str]) -> None:
    """Domains come before volumes, by name, each below what it rests on, with the disks that do."""
    lines = shown(
        capsys,
        domain("b"),
        domain("a"),
        domain("b2", "b"),
        domain("b1", "b", "b", disks=("vda", "vdb")),
        domain("b1a", "b1"),
        volume("/left", "b"),
        volume("/base"),
        domain("x", "/base", clone=LISTING.clone, integrity=Integrity.BROKEN),
        volume("/gone", is_missing=True, pool=None),
    )

    assert lines == [
        "a  shut-off",
        "b  shut-off",
        "├─ b1  shut-off  vda, vdb",
        "│  └─ b1a  shut-off  vda",
        "├─ b2  shut-off  vda",
        "└─ p/left  volume",
        "p/base  volume",
        "└─ x  shut-off  vda  ubuntu (linked), broken",
        "/gone  missing",
    ]


def test_domain_with_two_bases(capsys: pytest.CaptureFixture[str]) -> None:
    """What rests on two domains is below both, and what rests on it is shown once."""
    nodes = (domain("a"), domain("b"), domain("c", "a", "b", disks=("vda", "vdb")), domain("d", "c"))

    assert shown(capsys, *nodes) == [
        "a  shut-off",
        "└─ c  shut-off  vda",
        "   └─ d  shut-off  vda",
        "b  shut-off",
        "└─ c (see above)  shut-off  vdb",
    ]


def test_image_that_two_domains_use(capsys: pytest.CaptureFixture[str]) -> None:
    """A clone of a shared disk is below both of its users."""
    assert shown(capsys, domain("a"), domain("b"), domain("c", "a+b")) == [
        "a  shut-off",
        "└─ c  shut-off  vda",
        "b  shut-off",
        "└─ c  shut-off  vda",
    ]


def test_circles(capsys: pytest.CaptureFixture[str]) -> None:
    """Domains that rest on each other, or on themselves, are shown, and the tree ends."""
    nodes = (domain("a", "b"), domain("b", "a"), domain("c", "c"))

    assert shown(capsys, *nodes) == [
        "c  shut-off",
        "a  shut-off",
        "└─ b  shut-off  vda",
        "   └─ a (see above)  shut-off  vda",
    ]


def test_deep_chain(capsys: pytest.CaptureFixture[str]) -> None:
    """A chain of a thousand domains is no chain of a thousand calls."""
    chain = [domain("d0000"), *(domain(f"d{number:04}", f"d{number - 1:04}") for number in range(1, 1000))]

    assert len(shown(capsys, *chain)) == 1000


def test_base_that_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Where a filter leaves out the base, the domain stands at the left."""
    assert shown(capsys, domain("a", "elsewhere")) == ["a  shut-off"]


def test_terminal_without_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoding that lacks the signs for branches gets plain ones."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    render_tree(DomainTree((domain("a"), domain("b", "a"), domain("c", "a")), ()), HUMAN)
    sys.stdout.flush()

    assert [line.split("  ")[0] for line in raw.getvalue().decode().splitlines()] == ["Name", "a", "|- b", "`- c"]


def test_addresses_and_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    """Addresses have a column if they were asked for; what could not be read is a warning."""
    tree = DomainTree((domain("a", addresses=(), uuid=UUID),), (Notice(ScanWarning.UNREADABLE_POOL, "p"),))
    render_tree(tree, HUMAN)

    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].split() == ["Name", "State", "Addresses", "Disks", "Clone", "of"]
    assert printed.err.startswith("Warning: ")
