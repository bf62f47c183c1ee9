"""Images that get another base, or none, in place: qemu-img works on the files of a chain that are open here.

While an image gets what it lacks, it keeps its base, and what has been copied is what the base holds. When all is on
the disk, a second qemu-img takes the name of the base out of the header. So the image is whole at any moment, and
another run goes on where the first was killed.

A plain `qemu-img rebase -b ''` does both in one go, and changes the header first: tables that it still has in memory
then are lost when it is killed, and what they point to reads as zeroes (QEMU 7.2). Reading everything through QEMU's
filter for copy on read does the first half alone. But before QEMU 8.2 that filter ends with a failed assertion where an
image has a part of a cluster, as images with subclusters have; these are rebased while the header cannot be written.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from virtomate.duplication import hostfs
from virtomate.duplication.file_space import write_failure
from virtomate.duplication.host_images import forbid_writing, made_up_devices, may_be_image
from virtomate.duplication.qemu_img import PROGRAM, Outcome, run_qemu_img
from virtomate.errors import HypervisorError, IllegalStateError, NoSpaceError, lack_of_room
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from virtomate.cancel import CancelToken

# qemu-img compare: the images differ
_DIFFERENT = 1
_LOCKED = "lock"
# all that is said when only the header could not be written
_REFUSED_HEADER = f"{PROGRAM}: Could not change the backing file to '': {os.strerror(errno.EIO)}"
# an image larger than any other, that keeps nothing
_NOWHERE = f"driver=null-co,size={1 << 62}"


class OpenImage(NamedTuple):
    """An image that is open here, and the format in which it is read."""

    path: str
    format: str
    descriptor: int

    @property
    def name(self) -> str:
        """The name that leads another process to the open file."""
        return f"/proc/self/fd/{self.descriptor}"


class ClosedImageError(IllegalStateError):
    """An image cannot be opened here."""


@contextmanager
def opened_for_reading(images: Sequence[tuple[str, str]]) -> Iterator[tuple[OpenImage, ...]]:
    """Open images, given by path and format, and let nobody write to them meanwhile.

    Raises:
        ClosedImageError: An image cannot be opened here.
        IllegalStateError: Somebody writes to an image.
    """
    made_up = made_up_devices()
    with ExitStack() as stack:
        found = []
        for path, format_ in images:
            descriptor = _open(path, made_up)
            stack.callback(os.close, descriptor)
            forbid_writing(descriptor, path)
            found.append(OpenImage(path, format_, descriptor))
        yield tuple(found)


def _open(path: str, made_up: frozenset[int]) -> int:
    try:
        if not may_be_image(os.stat(path), made_up):
            raise ClosedImageError(f"'{path}' is neither a file nor a block device")
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
        raise ClosedImageError(f"'{path}' cannot be opened here ({reason})") from error


def flatten(
    chain: Sequence[OpenImage],
    cancel: CancelToken,
    advance: Callable[[float], None] = lambda _share: None,
    *,
    has_subclusters: bool,
) -> None:
    """Copy into the first image of a chain what it lacks, and take the name of its base out of its header.

    Args:
        chain: The images; the first one must be open for writing.
        cancel: Tells of signals.
        advance: Is told which share of the work is done.
        has_subclusters: Whether the first image has subclusters.

    Raises:
        HypervisorError: qemu-img failed; the image is whole, as in all other cases.
        NoSpaceError: The file system is full.
        InterruptedBySignalError: A signal arrived.
    """
    image = chain[0]

    def go_on(share: float) -> None:
        advance(share)
        # so that the end need not wait long for the disk
        hostfs.write_back(image.descriptor, 0, 0, wait=False)

    words = _rebase_but_header(chain) if has_subclusters else _read_through_filter(chain)
    outcome = run_qemu_img(words, [image.descriptor for image in chain], cancel, go_on)
    is_all_but_header = has_subclusters and outcome.said.strip() == _REFUSED_HEADER
    if not is_all_but_header:
        _require_success(outcome, "cannot flatten", image)
    _sync(image)
    words = ["rebase", "-u", "-f", image.format, "-b", "", image.name]
    _require_success(run_qemu_img(words, [image.descriptor], cancel), "cannot flatten", image)
    _sync(image)


def _read_through_filter(chain: Sequence[OpenImage]) -> list[str]:
    """Return the words that read everything through a filter, which writes what comes from below into the image."""
    filtered = f"driver=copy-on-read,read-only=off,{_options(chain, 'file.', 'file.read-only=off')}"
    return ["convert", "-p", "-n", "--image-opts", "--target-image-opts", filtered, _NOWHERE]


def _rebase_but_header(chain: Sequence[OpenImage]) -> list[str]:
    """Return the words that rebase the image on nothing, where every write to the beginning of the file fails.

    The header is what qemu-img writes last; then it closes the image, and writes its tables.
    """
    top, *below = chain
    guarded = [
        f"driver={top.format}",
        "file.driver=blkdebug",
        "file.image.driver=file",
        f"file.image.filename={top.name}",
        *(f"file.inject-error.0.{rule}" for rule in ("event=none", "iotype=write", "sector=0", "once=off")),
    ]
    return ["rebase", "-p", "-b", "", "--image-opts", ",".join((*guarded, _options(below, "backing.")))]


def change_base(image: OpenImage, base: str, base_format: str, cancel: CancelToken) -> None:
    """Write another name and format of the base into an image that is open for writing, and nothing else."""
    words = ["rebase", "-u", "-f", image.format, "-b", base, "-F", base_format, image.name]
    _require_success(run_qemu_img(words, [image.descriptor], cancel), "cannot change the base of", image)
    _sync(image)


def have_same_content(
    one: Sequence[OpenImage],
    other: Sequence[OpenImage],
    cancel: CancelToken,
    advance: Callable[[float], None] = lambda _share: None,
) -> bool:
    """Return whether a guest reads the same from two chains; what one has beyond the other's end must be zeroes."""
    words = ["compare", "-p", "--image-opts", _options(one), _options(other)]
    outcome = run_qemu_img(words, [image.descriptor for image in (*one, *other)], cancel, advance)
    if outcome.status not in {0, _DIFFERENT}:
        raise _failure(f"cannot compare '{one[0].path}' with '{other[0].path}'", one[0].path, outcome)
    return outcome.status == 0


def delete_internal_snapshots(image: OpenImage, cancel: CancelToken) -> None:
    """Delete all internal snapshots of an image that is open for writing."""
    listing = run_qemu_img(["info", "--output=json", "-f", image.format, image.name], [image.descriptor], cancel)
    _require_success(listing, "cannot list the snapshots of", image)
    for snapshot in json.loads(listing.said).get("snapshots", ()):
        words = ["snapshot", "-d", str(snapshot["name"]), image.name]
        _require_success(run_qemu_img(words, [image.descriptor], cancel), "cannot delete a snapshot of", image)


def _options(chain: Sequence[OpenImage], prefix: str = "", *more: str) -> str:
    """Return the options that open a chain as given here, whatever names are in the headers."""
    options = [*more]
    for depth, image in enumerate(chain):
        node = prefix + "backing." * depth
        is_device = stat.S_ISBLK(os.fstat(image.descriptor).st_mode)
        options += [
            f"{node}driver={image.format}",
            f"{node}file.driver={'host_device' if is_device else 'file'}",
            f"{node}file.filename={image.name}",
        ]
    return ",".join(options)


def _sync(image: OpenImage) -> None:
    try:
        os.fdatasync(image.descriptor)
    except OSError as error:
        raise write_failure(error, image.path) from error


def _require_success(outcome: Outcome, failure: str, image: OpenImage) -> None:
    if outcome.status != 0:
        raise _failure(f"{failure} '{image.path}'", image.path, outcome)


def _failure(failure: str, path: str, outcome: Outcome) -> HypervisorError | NoSpaceError | IllegalStateError:
    message = f"{PROGRAM} {failure}: {outcome.reason}"
    if (lack := lack_of_room(message)) is not None:
        return lack
    if _LOCKED in outcome.reason:
        return IllegalStateError(
            message, hint=f"Another program has '{path}' or an image below open: fuser shows which one it is."
        )
    return HypervisorError(message)
