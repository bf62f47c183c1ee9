"""The images of a disk: its volume and the images below, with their headers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.duplication import select
from virtomate.duplication.acl import with_acl
from virtomate.duplication.hostfs import with_identity
from virtomate.duplication.image_headers import HEADER_BYTES, header_digest, read_qcow2_header
from virtomate.enums import Mode
from virtomate.errors import IllegalStateError, NotFoundError, UnsupportedError
from virtomate.hypervisor.storage import read_head
from virtomate.paths import url_in
from virtomate.words import shell_word

if TYPE_CHECKING:
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.image_headers import Qcow2Header
    from virtomate.services.clone.disk_rules import DiskCase
    from virtomate.services.clone.target import Survey
    from virtomate.services.storage import FoundVolume


def with_images(survey: Survey, case: DiskCase, found: FoundVolume) -> DiskCase:
    """Return the case of a disk with all images of its chain; a disk without a base is copied in whole."""
    source = with_acl(select.as_format(found.description, case.format))
    source = survey.source.as_writable(source, found.description)
    images, headers = _chain(survey, *_with_header(survey, found, source, case.mode), case.mode)
    case = case._replace(images=images, headers=headers)
    # without a base the top image is all of the disk
    return case._replace(mode=Mode.COPY) if case.mode is Mode.SHALLOW and not case.rests_on_image else case


def _with_header(
    survey: Survey, found: FoundVolume, source: VolumeDescription, mode: Mode
) -> tuple[VolumeDescription, Qcow2Header | None]:
    source = with_identity(source)
    if source.format != "qcow2":
        return source, None
    head = read_head(survey.connection, found.volume, HEADER_BYTES)
    header = read_qcow2_header(head)
    if header is not None and (survey.source.is_active or survey.source.running is not None):
        # QEMU closes the image properly when the original is shut down, or goes on in an overlay
        header = header._replace(is_dirty=False)
    select.check_header(source, header, mode)
    return select.as_headed(source, header)._replace(header=header_digest(head)), header


def _chain(
    survey: Survey, source: VolumeDescription, header: Qcow2Header | None, mode: Mode
) -> tuple[tuple[VolumeDescription, ...], tuple[Qcow2Header | None, ...]]:
    """Return a volume and the volumes below it, nearest first, with their headers.

    Each image must name the format of the image below: libvirt would look at the content, and believe what a guest may
    have written there. libvirt does not start a domain without these formats either.
    """
    images, headers = [source], [header]
    while header is not None and header.has_backing_file:
        above = images[-1]
        if header.backing_format is None or above.backing_path is None:
            raise UnsupportedError(
                f"the image '{above.path}' does not say what format the one below it has",
                hint=f"Write it down: qemu-img rebase -u -F FORMAT -b BELOW {shell_word(above.path)}",
            )
        found = _find_below(survey, above.backing_path, mode)
        if found is None:
            break
        below = select.as_format(found.description, header.backing_format)
        if below.format != header.backing_format:
            raise UnsupportedError(
                f"'{below.path}' is {below.format}, but '{above.path}', which rests on it, calls it "
                f"{header.backing_format}"
            )
        if below.path in {volume.path for volume in images}:
            raise UnsupportedError(f"'{below.path}' rests on itself")
        below, header = _with_header(survey, found, below, mode)
        images.append(below)
        headers.append(header)
    return tuple(images), tuple(headers)


def _find_below(survey: Survey, path: str, mode: Mode) -> FoundVolume | None:
    """Return the base of an image; None where the base is in no pool, and its content is not needed."""
    if (url := url_in(path)) is not None:
        if mode is Mode.COPY and survey.source.backed_up is None:
            raise UnsupportedError(
                f"'{url}', on which an image of the original rests, is in a Ceph cluster, and libvirt cannot copy it",
                hint="Use --mode linked, or --mode shallow, whose copies rest on the same base.",
            )
        return None
    try:
        return survey.pools.find_path(path)
    except NotFoundError as error:
        raise NotFoundError(error.message, hint="The image is incomplete without it: bring it back.") from error
    except IllegalStateError as error:
        if mode is Mode.COPY and survey.source.backed_up is None:
            raise IllegalStateError(error.message, with_outside_pools(error.hint)) from error
        return None


def with_outside_pools(hint: str | None) -> str:
    """Return the hint about a file that no active pool has, with the option that needs none."""
    other = "" if not hint else f", or {hint[0].lower()}{hint[1:]}"
    return f"Clone the file through a temporary pool with --outside-pools{other}"
