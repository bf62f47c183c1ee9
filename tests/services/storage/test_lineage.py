"""Which image rests on which: the files are real, and libvirt is a narrow fake."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.services.storage.fakes import REMOTE, FakeDomain, FakeLibvirt, FakePool, definition, failure
from tests.services.storage.images import write_qcow2
from virtomate.definition.provenance import Artifact, DomainReference, Fingerprint, Provenance
from virtomate.enums import ArtifactKind, ArtifactState, Mode
from virtomate.services.storage.references import Lineage, scan_references

if TYPE_CHECKING:
    from pathlib import Path

CLONE = "00000000-0000-4000-8000-000000000001"


class Host:
    """A host with two storage pools, `a` and `b`, and a directory in no pool."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.libvirt = FakeLibvirt()
        for name in ("a", "b", "outside"):
            root.joinpath(name).mkdir()
        self.pools = {name: FakePool(name, root / name) for name in ("a", "b")}
        self.libvirt.pools += self.pools.values()

    def image(self, place: str, below: str | Path | None = None) -> Path:
        """Make an image."""
        return write_qcow2(self.root / place, below)

    def define(self, name: str, *paths: Path, **others: object) -> FakeDomain:
        """Define a domain with a disk for each path."""
        keywords: dict[str, object] = {"definition": definition(*paths), **others}
        domain = FakeDomain(name, **keywords)  # type: ignore[arg-type]
        self.libvirt.domains.append(domain)
        return domain

    def lineage(self) -> Lineage:
        """Look at everything."""
        for pool in self.pools.values():
            pool.known = {path.name for path in pool.directory.iterdir()}
        return scan_references(self.libvirt.connection, {}).lineage

    def graph(self) -> dict[str, list[str]]:
        """Every image, with short paths, and what it rests on; missing images with an exclamation mark."""
        lineage = self.lineage()

        def short(path: str, *, is_missing: bool) -> str:
            return path.replace(f"{self.root}/", "") + ("!" if is_missing else "")

        return {
            short(image.path, is_missing=image.is_missing): [
                short(base.path, is_missing=base.is_missing) for base in lineage.bases(image)
            ]
            for image in lineage.images
        }


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host."""
    return Host(tmp_path)


def test_chains_lead_across_pools_and_outside(host: Host) -> None:
    """A clone of a clone in another pool, through an image in no pool; each knows what is below and above."""
    base = host.image("a/base")
    middle = host.image("outside/middle", base)
    top = host.image("b/top", middle)
    other = host.image("b/other", "../a/base")
    host.define("original", base, uuid=CLONE)
    host.define("web", top)
    lineage = host.lineage()
    images = {image.path: image for image in lineage.images}
    found = images[str(base)]

    assert host.graph() == {
        "a/base": [],
        "b/other": ["a/base"],
        "b/top": ["outside/middle"],
        "outside/middle": ["a/base"],
    }
    assert [image.path for image in lineage.chain(images[str(top)])] == [str(middle), str(base)]
    assert {image.path for image in lineage.dependents(found)} == {str(middle), str(other), str(top)}
    assert [image.path for image in lineage.overlays(found)] == [str(other), str(middle)]
    assert [image.volume for image in images.values()] == [("a", "base"), ("b", "other"), ("b", "top"), None]
    assert [(use.domain, use.target) for use in lineage.uses(found)] == [(DomainReference("original", CLONE), "vda")]
    assert lineage.disks(CLONE) == (("vda", found),)
    assert lineage.find(str(host.root / "b" / ".." / "a" / "base")) == found
    assert lineage.find("/nowhere") is None


def test_one_file_under_several_paths_is_one_image(host: Host) -> None:
    """A link leads to the image that a pool has."""
    base = host.image("a/base")
    link = host.root / "outside" / "link"
    link.symlink_to(base)
    host.image("b/top", link)
    host.define("original", link)

    assert host.graph() == {"a/base": [], "b/top": ["a/base"]}
    lineage = host.lineage()
    found = lineage.find(str(link))
    assert found is not None
    assert found.path == str(base)
    assert [use.domain.name for use in lineage.uses(found)] == ["original"]


def test_what_is_missing_is_named(host: Host) -> None:
    """A base that is gone is marked, also where its directory is empty by now."""
    top = host.image("a/top", host.root / "b" / "gone")
    host.image("a/other", "gone too")
    host.define("web", top)

    assert host.graph() == {
        "a/gone too!": [],
        "a/other": ["a/gone too!"],
        "a/top": ["b/gone!"],
        "b/gone!": [],
    }


def test_a_circle_has_an_end(host: Host) -> None:
    """Images that rest on each other, or on themselves, are listed all the same."""
    host.image("a/one", "two")
    host.image("a/two", "one")
    host.image("a/self", "self")

    lineage = host.lineage()

    assert host.graph() == {"a/one": ["a/two"], "a/two": ["a/one"]}
    assert [[image.path[-3:] for image in lineage.chain(image)] for image in lineage.images] == [["two"], ["one"]]


def test_images_that_cannot_be_seen(host: Host) -> None:
    """On another host libvirt tells what volumes rest on, and running domains what other images rest on."""
    for name in ("base", "top"):
        host.image(f"a/{name}")
    host.libvirt.uri = REMOTE
    host.pools["a"].backing = {"top": str(host.root / "a" / "base"), "other": str(host.root / "a" / "gone")}
    host.image("a/other")
    hidden, below = host.root / "outside" / "hidden", host.root / "outside" / "below"
    chain = f"<domain><name>n</name><devices><disk type='file'><source file='{hidden}'/><backingStore type='file'>"
    chain += f"<source file='{below}'/></backingStore><target dev='vda'/></disk></devices></domain>"
    host.define("up", hidden, live=chain)

    assert host.graph() == {
        "a/base": [],
        "a/gone!": [],
        "a/other": ["a/gone!"],
        "a/top": ["a/base"],
        "outside/below": [],
        "outside/hidden": ["outside/below"],
    }


def test_the_record_counts_where_an_image_cannot_be_read(host: Host) -> None:
    """The record of a clone names the base of its volume, unless the volume itself says something else."""
    seen = host.image("a/seen", host.image("a/real"))
    hidden = host.root / "b" / "hidden"
    hidden.touch()
    recorded = host.image("a/recorded")
    host.pools["b"].broken = {"hidden"}
    host.libvirt.uri = REMOTE
    host.pools["a"].backing = {"seen": "real"}
    made = tuple(
        Artifact(
            ArtifactKind.VOLUME, ArtifactState.MADE, "b", path.name, str(path), Fingerprint("1.0"), base=str(recorded)
        )
        for path in (seen, hidden)
    )
    record = Provenance(True, CLONE, "token", DomainReference("original", "u"), Mode.LINKED, 1.0, made)
    host.define("web", definition=definition(seen, hidden, record=record), uuid=CLONE)

    assert host.graph() == {"a/real": [], "a/recorded": [], "a/seen": ["a/real"], "b/hidden": ["a/recorded"]}


def test_documents_that_cannot_be_read_hide_nothing_else(host: Host) -> None:
    """A domain whose definition cannot be read is left out."""
    host.image("a/top", host.image("a/base"))
    host.define("broken", definition=failure())

    assert host.graph() == {"a/base": [], "a/top": ["a/base"]}


def test_images_of_a_running_original(host: Host) -> None:
    """The domain that keeps them has no disks; they are its own by its record."""
    image = host.image("a/moment")
    host.image("a/top", image)
    made = Artifact(ArtifactKind.VOLUME, ArtifactState.MADE, "a", "moment", str(image), Fingerprint("1.0"))
    record = Provenance(True, CLONE, "token", DomainReference("original", "u"), Mode.COPY, 1.0, (made,), moment=CLONE)
    host.define("original-moment", definition=definition(record=record), uuid=CLONE)
    lineage = host.lineage()

    ((target, found),) = lineage.disks(CLONE)

    assert (target, found.path) == (None, str(image))
    assert [overlay.path for overlay in lineage.overlays(found)] == [str(host.root / "a" / "top")]
