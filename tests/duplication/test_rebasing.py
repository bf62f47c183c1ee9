"""Images that get another base or none, by the real qemu-img."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.functional.support import image_info
from tests.lab import images
from tests.lab.images import KIB, MIB
from virtomate.cancel import CancelToken
from virtomate.duplication import rebasing
from virtomate.duplication.rebasing import ClosedImageError, OpenImage
from virtomate.errors import HypervisorError, IllegalStateError, InterruptedBySignalError


@contextmanager
def opened(*chain: tuple[Path, str]) -> Iterator[tuple[OpenImage, ...]]:
    """Open a chain, its first image for writing."""
    with ExitStack() as stack:
        descriptor = os.open(chain[0][0], os.O_RDWR)
        stack.callback(os.close, descriptor)
        below = stack.enter_context(rebasing.opened_for_reading([(str(path), format_) for path, format_ in chain[1:]]))
        yield (OpenImage(str(chain[0][0]), chain[0][1], descriptor), *below)


# The options of an overlay.
KINDS = {"old": "compat=0.10", "plain": "compat=1.1", "subclusters": "extended_l2=on,cluster_size=128k"}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """A kind of overlay."""
    return str(request.param)


@pytest.fixture
def chain(kind: str, tmp_path: Path) -> Sequence[tuple[Path, str]]:
    """An overlay with parts of clusters, on an overlay on a raw image that is mostly hole."""
    raw = images.make_raw(tmp_path / "base,1.raw", 16 * MIB, extents=[(0, MIB), (7 * MIB, 192 * KIB)])
    middle, top = tmp_path / "middle.qcow2", tmp_path / "top.qcow2"
    images.make_overlay(middle, raw, "raw", pattern=3)
    images.qemu_img("create", "-q", "-f", "qcow2", "-o", KINDS[kind], "-b", middle, "-F", "qcow2", top)
    images.qemu_io(top, "qcow2", "write -P 5 7M 192k", "write -P 6 4k 4k", "write -P 7 500k 28k", "write -P 0 64k 64k")
    return (top, "qcow2"), (middle, "qcow2"), (raw, "raw")


def test_flat_image_reads_the_same(kind: str, chain: Sequence[tuple[Path, str]]) -> None:
    """All that is below is in the image, holes stay holes, and the shares of the work grow to 1."""
    top = chain[0][0]
    content, shares = images.guest_digest(top, "qcow2"), list[float]()

    with opened(*chain) as found:
        rebasing.flatten(found, CancelToken(), shares.append, has_subclusters=kind == "subclusters")

    info = image_info(top)
    assert "backing-filename" not in info
    assert images.guest_digest(top, "qcow2") == content
    assert images.allocated_bytes(top) < 4 * MIB
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_signal_leaves_the_base(kind: str, chain: Sequence[tuple[Path, str]]) -> None:
    """The image keeps its base until all is there."""
    top = chain[0][0]
    content, cancel = images.guest_digest(top, "qcow2"), CancelToken()
    cancel.interrupt(signal.SIGTERM)

    with opened(*chain) as found, pytest.raises(InterruptedBySignalError):
        rebasing.flatten(found, cancel, has_subclusters=kind == "subclusters")

    assert image_info(top)["backing-filename"] == str(chain[1][0])
    assert images.guest_digest(top, "qcow2") == content


def test_name_of_the_base_changes_alone(chain: Sequence[tuple[Path, str]]) -> None:
    """Another name and format stand in the header; nothing is read below."""
    top, moved = chain[0][0], chain[1][0].with_name("moved")
    chain[1][0].rename(moved)

    with opened(chain[0]) as (image,):
        rebasing.change_base(image, str(moved), "qcow2", CancelToken())

    info = image_info(top)
    assert (info["backing-filename"], info["backing-filename-format"]) == (str(moved), "qcow2")


def test_content_is_compared_through_the_chain(chain: Sequence[tuple[Path, str]], tmp_path: Path) -> None:
    """A copy in another format has the same content, until somebody writes to it."""
    copy = tmp_path / "copy.raw"
    images.qemu_img("convert", "-f", "qcow2", "-O", "raw", chain[1][0], copy)

    with opened(*chain[1:]) as below:
        with opened((copy, "raw")) as other:
            assert rebasing.have_same_content(below, other, CancelToken())
        images.qemu_io(copy, "raw", "write -P 9 3M 512")
        with opened((copy, "raw")) as other:
            assert not rebasing.have_same_content(below, other, CancelToken())


def test_failures_name_the_image(chain: Sequence[tuple[Path, str]], tmp_path: Path) -> None:
    """An image that qemu-img cannot read, cannot open or that is open elsewhere is named."""
    damaged = tmp_path / "damaged.qcow2"
    damaged.write_bytes(b"QFI\xfb" + bytes(600))

    with pytest.raises(ClosedImageError, match="missing"), rebasing.opened_for_reading([("/missing", "raw")]):
        pass
    with pytest.raises(ClosedImageError, match="null"), rebasing.opened_for_reading([("/dev/null", "raw")]):
        pass
    with opened(chain[0]) as (image,), opened((damaged, "qcow2")) as broken:
        with pytest.raises(HypervisorError, match=r"damaged\.qcow2"):
            rebasing.have_same_content(broken, broken, CancelToken())
        with rebasing.opened_for_reading([(str(chain[0][0]), "qcow2")]), pytest.raises(IllegalStateError, match="top"):
            rebasing.change_base(image, "/other", "raw", CancelToken())


def test_internal_snapshots_are_deleted(tmp_path: Path) -> None:
    """All snapshots go, whatever their names."""
    path = images.make_qcow2(tmp_path / "image.qcow2", 4 * MIB, snapshots=("one", "two words", "1"))

    with opened((path, "qcow2")) as (image,):
        rebasing.delete_internal_snapshots(image, CancelToken())

    assert "snapshots" not in image_info(path)
