"""The mark of a frozen original, and its disks when they move onto overlays and back."""

from __future__ import annotations

import re

import pytest

from virtomate.definition import codec
from virtomate.definition.freeze import (
    NAMESPACE,
    PREFIX,
    FreezeMark,
    FrozenDisk,
    freeze_mark_element,
    moved_disk,
    read_freeze_element,
    read_freeze_mark,
    returned_disk,
    without_freeze_mark,
)
from virtomate.definition.lower_images import BaseFingerprint, LowerImage
from virtomate.definition.rewrite import NewSource

UUID = "00000000-0000-4000-8000-000000000001"
WHOLE = BaseFingerprint("12.000000345", 4096, 7, 8, "digest")
LOWER = LowerImage("/pool/<lower>", BaseFingerprint("1.0", 2))
VDA = FrozenDisk("vda", "/pool/a <overlay>.qcow2", "/pool/a & b.raw", "raw", WHOLE, "0640", (LOWER, LOWER))
VDB = FrozenDisk("vdb", "/pool/b-overlay.qcow2", "/pool/b.qcow2", "qcow2", BaseFingerprint(None, 0), None)
OVERLAY = NewSource("/pool/overlay.qcow2", "pool", "overlay.qcow2", "qcow2")


def definition(disk: str = "", metadata: str = "") -> codec.Definition:
    """The definition of a domain with a disk before the one in question."""
    other = "<disk type='file'><source file='/other'/><target dev='vda'/></disk>"
    return codec.parse_definition(
        f"<domain><name>a</name><uuid>{UUID}</uuid>{metadata}<devices>{other}{disk}</devices></domain>"
    )


def marked(mark: FreezeMark) -> codec.Definition:
    """A definition with a mark, as libvirt writes what it is given without prefix and namespace."""
    element = freeze_mark_element(mark)
    assert element is not None
    prefixed = element.replace("<frozen", f"<{PREFIX}:frozen xmlns:{PREFIX}='{NAMESPACE}'", 1)
    for tag in ("frozen", "disk", "below"):
        prefixed = re.sub(rf"<(/?){tag}\b(?! xmlns)", rf"<\1{PREFIX}:{tag}", prefixed)
    return definition(metadata=f"<metadata><x:y xmlns:x='urn:x'/>{prefixed}</metadata>")


def test_mark_is_read_as_it_was_written() -> None:
    """Whatever stands in paths, and with or without what libvirt may not tell."""
    mark = FreezeMark(UUID, (VDA, VDB))

    assert read_freeze_mark(marked(mark)) == mark
    assert mark.of_disk("vdb") == VDB
    assert mark.of_disk("vdc") is None
    assert mark.modes == {"/pool/a & b.raw": 0o640}


def test_mark_alone_is_read() -> None:
    """As libvirt returns the element: without namespace, or with the namespace as its default."""
    mark = FreezeMark(UUID, (VDA, VDB))
    element = freeze_mark_element(mark) or ""

    assert read_freeze_element(element, UUID) == mark
    assert read_freeze_element(element, "another") is None
    assert read_freeze_element(element.replace("size=", "length="), UUID) is None


def test_mark_of_an_earlier_version() -> None:
    """A mark that tells only length and modification time of the bases counts."""
    old = '<disk target="vda" overlay="/o" base="/b" format="raw" size="4096" modified="1.5"/>'

    mark = read_freeze_element(f'<frozen schema="1" uuid="{UUID}">{old}</frozen>', UUID)

    assert mark == FreezeMark(UUID, (FrozenDisk("vda", "/o", "/b", "raw", BaseFingerprint("1.5", 4096), None),))


def test_mark_is_cut_out() -> None:
    """What other programs have written stays."""
    assert (
        without_freeze_mark(marked(FreezeMark(UUID, (VDA,)))).metadata == "<metadata><x:y xmlns:x='urn:x'/></metadata>"
    )
    assert without_freeze_mark(definition()) == definition()


@pytest.mark.parametrize(
    "metadata",
    [
        "",
        "<metadata/>",
        f"<metadata><f:frozen xmlns:f='{NAMESPACE}' schema='2' uuid='{UUID}'/></metadata>",
        f"<metadata><f:frozen xmlns:f='{NAMESPACE}' schema='1' uuid='{UUID}'><f:disk a=''/></f:frozen></metadata>",
        f"<metadata><f:frozen xmlns:f='{NAMESPACE}' schema='1' uuid='another'/></metadata>",
    ],
)
def test_no_mark(metadata: str) -> None:
    """A mark of a later version, a damaged one, and one that was copied along by another tool count for nothing."""
    assert read_freeze_mark(definition(metadata=metadata)) is None


def test_a_mark_of_nothing_is_removed() -> None:
    """Libvirt is given no element then."""
    assert freeze_mark_element(FreezeMark(UUID)) is None


def test_later_freezes_replace_what_was_said_of_a_disk() -> None:
    """A disk has one entry, that of its latest freeze."""
    again = VDA._replace(overlay="/pool/a-overlay-2.qcow2", base="/pool/a-overlay.qcow2")

    assert FreezeMark(UUID, (VDA, VDB)).adding([again]).disks == (again, VDB)


# A disk before and after it moves.
FILE = """
<disk type='file' device='disk'><driver name='qemu' type='{}' cache='none'/><source file='{}'>
<seclabel model='dac' relabel='no'/></source><target dev='vdb' bus='virtio'/><serial> s 1 </serial></disk>"""
VOLUME = "<disk type='volume'><source pool='pool' volume='{}'/><target dev='vdb'/>{}</disk>"
CHAINED = "<disk type='file'><driver type='qcow2'/><source file='{}'/>{}<target dev='vdb'/></disk>"
CHAIN = "<backingStore type='file'><format type='raw'/><source file='/below'/><backingStore/></backingStore>"
DISKS = {
    "file": (FILE.format("raw", "/pool/a.raw"), FILE.format("qcow2", "/pool/overlay.qcow2")),
    "volume": (VOLUME.format("a", ""), VOLUME.format("overlay.qcow2", "<driver type='qcow2'/>")),
    "chain": (CHAINED.format("/pool/a", CHAIN), CHAINED.format("/pool/overlay.qcow2", "")),
}


def as_document(disk: str) -> codec.Document:
    """A disk as a dict, which does not depend on the order of elements."""
    return codec.parse(disk, "disk")


@pytest.mark.parametrize("kind", DISKS)
def test_disk_moves_and_returns(kind: str) -> None:
    """Only source, format and chain change; on the way back, what else has changed meanwhile stays."""
    before, after = DISKS[kind]

    moved = moved_disk(definition(before).domain, 1, OVERLAY)
    assert as_document(moved) == as_document(after)

    returned = returned_disk(definition(moved).domain, 1, definition(before).domain)
    assert as_document(returned) == as_document(before)

    changed = moved.replace("</disk>", "<boot order='1'/></disk>")
    returned = returned_disk(definition(changed).domain, 1, definition(before).domain)
    assert as_document(returned) == as_document(before.replace("</disk>", "<boot order='1'/></disk>"))
