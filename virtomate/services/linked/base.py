"""What makes a volume a base that nobody writes to: the reasons why a volume cannot be one, and its write bits.

Any number of overlays can rest on a base whose content stays as it is. The write bits of the file keep out every
program that does not run as root, such as QEMU under an account of its own.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from virtomate.duplication.acl import WRITE_BITS
from virtomate.duplication.hostfs import open_visible, visible_status
from virtomate.duplication.image_headers import HEADER_BYTES, Qcow2Header, read_qcow2_header
from virtomate.errors import IllegalStateError, UnsupportedError, combined_error
from virtomate.hypervisor.storage import get_volume, read_head
from virtomate.services.storage.references import find_writers
from virtomate.tuples import NamedTuple
from virtomate.words import counted, virsh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from virtomate.definition.volume import VolumeDescription
    from virtomate.errors import VirtomateError
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.notices import Notice
    from virtomate.services.storage.references import Writer

# How many users of a volume a refusal names.
_NAMED_WRITERS = 3
_UNSEEN = "its file cannot be seen here"
_OTHERS = "its file belongs to another user"


class WriteBits(NamedTuple):
    """What became of the write bits of a volume's file.

    Attributes:
        path: Path of the volume.
        mode: The permission bits that the file had before, None where its write bits stay.
        obstacle: Why the write bits stay, as the end of a sentence.
    """

    path: str
    mode: int | None
    obstacle: str | None = None


def refuse_written(
    connection: Connection, domain: Domain, disks: Mapping[str, VolumeDescription], copying: str = "--mode copy"
) -> tuple[Notice, ...]:
    """Refuse volumes that somebody may write to later by another way than a start of the domain.

    Args:
        connection: The connection of the domain.
        domain: The domain whose disks the volumes are.
        disks: The volumes that are to become bases, by the targets of the domain's disks.
        copying: The option or command that clones the domain without bases, which a hint names.

    Returns:
        Warnings about documents that could not be read: the volumes that they name are not known.

    Raises:
        IllegalStateError: A saved state, a snapshot, a checkpoint or another domain may write to a volume.
        UnsupportedError: A volume is encrypted, so that an overlay would hold new data in the clear.
        VirtomateError: The domains or pools cannot be listed, or the connection broke.
    """
    errors: list[VirtomateError] = [*_refusals_of_domain(domain)]
    for target, volume in disks.items():
        errors += _refusals_of_image(connection, domain.name, target, volume, copying)
    writers, warnings = find_writers(connection, disks.values())
    for target, volume in disks.items():
        if others := _without_own(writers[volume.path], domain.uuid, target):
            errors.append(_named_elsewhere(target, volume, others, copying))
    if errors:
        raise combined_error(errors)
    return warnings


def _refusals_of_domain(domain: Domain) -> Iterator[IllegalStateError]:
    name = domain.name
    if domain.has_managed_save():
        yield IllegalStateError(
            f"domain '{name}' has a managed-save image, and to restore it writes to the disks that it names",
            hint=f"Start the domain and shut it down: {virsh('start', name)}; {virsh('shutdown', name)}. Or discard "
            f"its saved state: {virsh('managedsave-remove', name)}",
        )
    if count := domain.checkpoint_count():
        yield IllegalStateError(
            f"domain '{name}' has {counted(count, 'checkpoint')}, which an overlay would not continue",
            hint=f"Delete them: {virsh('checkpoint-list', name)} shows them, {virsh('checkpoint-delete')} deletes one.",
        )


def _refusals_of_image(
    connection: Connection, name: str, target: str, volume: VolumeDescription, copying: str
) -> Iterator[IllegalStateError | UnsupportedError]:
    header = _read_header(connection, volume)
    if volume.is_encrypted or (header is not None and header.is_encrypted):
        yield UnsupportedError(
            f"disk {target} ('{volume.path}') is encrypted, and an overlay on it would not be",
            hint=f"Use {copying}, which keeps the encryption.",
        )
    if header is not None and header.snapshot_count:
        yield IllegalStateError(
            f"disk {target} ('{volume.path}') has {counted(header.snapshot_count, 'snapshot')} inside, and to revert "
            "to one writes to it",
            hint=f"Delete the snapshots first: {virsh('snapshot-list', name)} shows those that libvirt knows, and "
            "qemu-img snapshot -l all.",
        )


def _read_header(connection: Connection, volume: VolumeDescription) -> Qcow2Header | None:
    if volume.format != "qcow2":
        return None
    descriptor = open_visible(volume, os.O_RDONLY)
    if descriptor is None:
        return read_qcow2_header(read_head(connection, get_volume(connection, volume.pool, volume.name), HEADER_BYTES))
    try:
        return read_qcow2_header(os.pread(descriptor, HEADER_BYTES, 0))
    finally:
        os.close(descriptor)


def _without_own(writers: tuple[Writer, ...], uuid: str, target: str) -> list[str]:
    """Return who may write to the volume of a disk, without the definition of the domain that has the disk.

    By that definition another disk, or something else than a disk, may write to the volume, too.
    """
    others: dict[str, None] = {}
    for writer in writers:
        if writer.domain_uuid != uuid or not writer.is_definition:
            others[writer.says] = None
        else:
            others |= {f"disk {disk} of {writer.says}": None for disk in writer.disks if disk != target}
            if writer.names_otherwise:
                others[f"another device of {writer.says}"] = None
    return list(others)


def _named_elsewhere(target: str, volume: VolumeDescription, others: list[str], copying: str) -> IllegalStateError:
    named = others[:_NAMED_WRITERS]
    if len(others) > len(named):
        named.append(f"{len(others) - len(named)} more")
    uses = "uses" if len(others) == 1 else "use"
    listed = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
    return IllegalStateError(
        f"disk {target} ('{volume.path}') may be written to by others: {listed} {uses} it",
        hint=f"Delete what is named, or take the volume out of it. Or use {copying}.",
    )


def why_write_bits_stay(volume: VolumeDescription) -> str | None:
    """Return why the write bits of a volume's file cannot be changed here, None where they probably can."""
    status = visible_status(volume)
    if status is None:
        return _UNSEEN
    return None if os.geteuid() in {0, status.st_uid} else _OTHERS


def remove_write_bits(volume: VolumeDescription) -> WriteBits:
    """Remove the write bits of a volume's file, if the file is seen here and may be changed; else say why not."""
    return _change_mode(volume, lambda mode: mode & ~WRITE_BITS)


def restore_write_bits(volume: VolumeDescription, mode: int) -> WriteBits:
    """Give a volume's file the write bits that it had before, out of these permission bits; see `remove_write_bits`."""
    return _change_mode(volume, lambda now: now | mode & WRITE_BITS)


def _change_mode(volume: VolumeDescription, change: Callable[[int], int]) -> WriteBits:
    # the open file is compared with libvirt's description, and a link is not followed
    descriptor = open_visible(volume, os.O_RDONLY)
    if descriptor is None:
        return WriteBits(volume.path, None, _UNSEEN)
    try:
        before = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if (after := change(before)) != before:
            os.fchmod(descriptor, after)
        return WriteBits(volume.path, before)
    except PermissionError:
        return WriteBits(volume.path, None, _OTHERS)
    except OSError as error:
        return WriteBits(volume.path, None, os.strerror(error.errno or 0))
    finally:
        os.close(descriptor)
