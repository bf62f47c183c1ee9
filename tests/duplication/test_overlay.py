"""Overlays that are written here are what qemu-img would make, for disks of any size."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from virtomate.duplication.image_headers import read_qcow2_header
from virtomate.duplication.transfers.link import overlay_image
from virtomate.errors import UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

KIB = 1024
GIB = 1024**3


def write(path: Path, capacity: int, base: Path, **options: Any) -> None:
    """Write an overlay into a file."""
    image = overlay_image(capacity, str(base), "raw", "u:r", **options)
    with path.open("wb") as file:
        file.truncate(image.size)
        for offset, data in image.pieces:
            file.seek(offset)
            file.write(data)


def info(path: Path) -> Any:
    """Return what qemu-img says of an image."""
    run = subprocess.run(["qemu-img", "info", "--output=json", path], check=True, capture_output=True)
    return json.loads(run.stdout)


@pytest.mark.parametrize("has_subclusters", [True, False])
@pytest.mark.parametrize("capacity", [512, 64 * KIB, 1000 * KIB + 512, 3 * GIB, 2000 * GIB])
def test_overlay_is_what_qemu_img_makes(tmp_path: Path, capacity: int, has_subclusters: bool) -> None:
    """Version, cluster size, capacity, names below and layout are the same, and qemu-img finds nothing wrong."""
    base, ours, theirs = tmp_path / "base.raw", tmp_path / "ours.qcow2", tmp_path / "theirs.qcow2"
    base.touch()
    os.truncate(base, capacity)
    options = "extended_l2=on,cluster_size=128k" if has_subclusters else "cluster_size=64k"
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, "-F", "raw", "-b", base, theirs, str(capacity)]
    subprocess.run(list(map(str, create)), check=True)

    write(ours, capacity, base, has_subclusters=has_subclusters)

    left_out = {"filename", "actual-size", "children"}
    assert {key: value for key, value in info(ours).items() if key not in left_out} == {
        key: value for key, value in info(theirs).items() if key not in left_out
    }
    for image in (ours, theirs):
        subprocess.run(["qemu-io", "-c", f"write -P 7 {capacity - 512} 512", image], check=True, capture_output=True)
        subprocess.run(["qemu-img", "check", "-q", image], check=True)
    subprocess.run(["qemu-img", "compare", "-q", ours, theirs], check=True)


def test_capacity_is_rounded_up_to_sectors(tmp_path: Path) -> None:
    """QEMU counts a raw file that ends within a sector as if the sector were whole."""
    write(tmp_path / "o", 1000, tmp_path / "b", has_subclusters=True)

    assert info(tmp_path / "o")["virtual-size"] == 1024


def test_header_says_what_the_overlay_rests_on(tmp_path: Path) -> None:
    """The name of what is below may be long and have any letters; the token stands beside it."""
    base = tmp_path / ("ä ',&\\" + 200 * "x")

    write(tmp_path / "o", KIB, base, has_subclusters=True)
    header = read_qcow2_header((tmp_path / "o").read_bytes()[:4096])

    assert header is not None
    assert (header.backing_file, header.backing_format, header.token) == (str(base), "raw", "u:r")


def test_header_comes_last() -> None:
    """Until then the file is no image, which libvirt could take for a broken one."""
    pieces = overlay_image(GIB, "/b", "raw", "u:r", has_subclusters=True).pieces

    assert [offset == 0 for offset, _ in pieces] == [False, False, True]


@pytest.mark.parametrize(
    ("capacity", "path", "words"),
    [(KIB, "/" + 1023 * "x", "1024 bytes, and qcow2 allows 1023"), (2**63, "/b", "more than qcow2 allows")],
)
def test_what_a_qcow2_cannot_hold_is_refused(capacity: int, path: str, words: str) -> None:
    """QEMU would not open it."""
    with pytest.raises(UnsupportedError, match=words):
        overlay_image(capacity, path, "raw", "u:r", has_subclusters=True)
