"""What clones and their volumes are called."""

from __future__ import annotations

import pytest

from virtomate.errors import UsageError
from virtomate.services.clone.volume_names import distinct_volume_name, name_before_freezes, new_volume_name


@pytest.mark.parametrize(
    ("volume", "source", "clone", "copied", "linked"),
    [
        # named after its domain, as a whole word
        ("ubuntu.qcow2", "ubuntu", "web-1", "web-1.qcow2", "web-1.qcow2"),
        ("ubuntu_VARS.fd", "ubuntu", "web-1", "web-1_VARS.fd", "web-1_VARS.fd"),
        ("ubuntu-data.img", "ubuntu", "web-1", "web-1-data.img", "web-1-data.qcow2"),
        ("ubuntu", "ubuntu", "web-1", "web-1", "web-1"),
        ("ubuntu.raw", "ubuntu", "web-1", "web-1.raw", "web-1.qcow2"),
        ("a.b.raw", "a.b", "c", "c.raw", "c.qcow2"),
        ("ü&<.raw", "ü&<", "c", "c.raw", "c.qcow2"),
        ("a*.raw", "a*", "c", "c.raw", "c.qcow2"),
        # the domain's name is only the beginning of a longer word, or stands elsewhere
        ("ubuntu2.qcow2", "ubuntu", "web-1", "web-1-ubuntu2.qcow2", "web-1-ubuntu2.qcow2"),
        ("ubuntu disk.raw", "ubuntu", "web-1", "web-1-ubuntu disk.raw", "web-1-ubuntu disk.qcow2"),
        ("my-ubuntu.qcow2", "ubuntu", "web-1", "web-1-my-ubuntu.qcow2", "web-1-my-ubuntu.qcow2"),
        ("Ubuntu.qcow2", "ubuntu", "web-1", "web-1-Ubuntu.qcow2", "web-1-Ubuntu.qcow2"),
        ("disk.qcow2", "ubuntu", "web-1", "web-1-disk.qcow2", "web-1-disk.qcow2"),
        ("aXb.raw", "a.b", "c", "c-aXb.raw", "c-aXb.qcow2"),
        # suffixes
        ("disk.IMG", "ubuntu", "web-1", "web-1-disk.IMG", "web-1-disk.qcow2"),
        ("disk.vmdk", "ubuntu", "web-1", "web-1-disk.vmdk", "web-1-disk.vmdk"),
        ("disk.qcow2.bak", "ubuntu", "web-1", "web-1-disk.qcow2.bak", "web-1-disk.qcow2.bak"),
        ("disk.raw.img", "ubuntu", "web-1", "web-1-disk.raw.img", "web-1-disk.raw.qcow2"),
        ("diskraw", "ubuntu", "web-1", "web-1-diskraw", "web-1-diskraw"),
    ],
)
def test_new_volume_name(volume: str, source: str, clone: str, copied: str, linked: str) -> None:
    """The domain's name at the beginning becomes the clone's, else that is put in front; an overlay is a qcow2."""
    assert new_volume_name(volume, source, clone, is_overlay=False) == copied
    assert new_volume_name(volume, source, clone, is_overlay=True) == linked


@pytest.mark.parametrize(
    ("volume", "expected"),
    [
        ("web-overlay.qcow2", "web.qcow2"),
        ("web-overlay-12.qcow2", "web.qcow2"),
        ("web-overlay-0.qcow2", "web-overlay-0.qcow2"),
        ("web-overlays.qcow2", "web-overlays.qcow2"),
        ("web-overlay.raw", "web-overlay.raw"),
    ],
)
def test_name_before_freezes(volume: str, expected: str) -> None:
    """What a freeze adds to the name of a volume is taken away, and nothing else."""
    assert name_before_freezes(volume) == expected


@pytest.mark.parametrize(
    ("name", "target", "taken", "expected"),
    [
        ("c.qcow2", "vda", set(), "c.qcow2"),
        ("c.qcow2", "vdb", {"c.raw"}, "c.qcow2"),
        ("c.qcow2", "vdb", {"c.qcow2"}, "c-vdb.qcow2"),
        ("c", "vdb", {"c"}, "c-vdb"),
        (".c", "vdb", {".c"}, ".c-vdb"),
        ("c.a.img", "vdb", {"c.a.img"}, "c.a-vdb.img"),
    ],
)
def test_distinct_volume_name(name: str, target: str, taken: set[str], expected: str) -> None:
    """Two volumes of one clone never get one name: the disk's target tells them apart."""
    assert distinct_volume_name(name, target, taken) == expected


def test_many_volumes_with_one_name() -> None:
    """Also where the name with the target is taken, another one is found."""
    taken: set[str] = set()
    for _ in range(4):
        name = distinct_volume_name("c.qcow2", "vda", taken)
        assert name not in taken
        taken.add(name)


@pytest.mark.parametrize(
    ("name", "is_usable"), [("a" * 255, True), ("a" * 256, False), ("ü" * 127, True), ("ü" * 128, False)]
)
def test_length_of_a_volume_name(name: str, is_usable: bool) -> None:
    """A volume's name must fit a file's 255 bytes, counted after all that is added."""
    if is_usable:
        assert distinct_volume_name(name, "vda", set()) == name
        with pytest.raises(UsageError):
            distinct_volume_name(name, "vda", {name})
    else:
        with pytest.raises(UsageError, match="255 bytes"):
            distinct_volume_name(name, "vda", set())
