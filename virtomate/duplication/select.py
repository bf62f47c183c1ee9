"""The choice of a transfer for a volume."""

from __future__ import annotations

import posixpath
import stat
from typing import TYPE_CHECKING

from virtomate.enums import Action, Mode, Transfer
from virtomate.errors import UnsupportedError, UsageError
from virtomate.paths import files_in, normalise

if TYPE_CHECKING:
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.image_headers import Qcow2Header

# the permissions that qemu-img gives to others, and those that let others into a directory
_EVERYBODY_READS = stat.S_IRGRP | stat.S_IROTH
_OTHERS_ENTER = stat.S_IXGRP | stat.S_IXOTH

ACTIONS = {
    Mode.COPY: Action.COPIED,
    Mode.SHALLOW: Action.SHALLOW_COPIED,
    Mode.LINKED: Action.LINKED,
    Mode.REFLINK: Action.REFLINKED,
}


def as_format(source: VolumeDescription, format_: str) -> VolumeDescription:
    """Return the volume as the format in the definition has it.

    A guest can write anything into its raw disk, even a qcow2 header that names a file of the host, and libvirt
    believes the content. So only the length describes a raw volume.
    """
    if format_ != "raw":
        return source
    return source._replace(
        format="raw",
        capacity=source.physical,
        compat=None,
        cluster_size=None,
        features=(),
        backing_path=None,
        backing_format=None,
        is_encrypted=source.is_encrypted and source.format == "raw",
    )


def as_headed(source: VolumeDescription, header: Qcow2Header | None) -> VolumeDescription:
    """Return the volume with the base that its header names; libvirt may remember the base before a block job."""
    if header is None:
        return source
    if not header.has_backing_file:
        return source._replace(backing_path=None, backing_format=None)
    directory = posixpath.dirname(source.path)
    named = {normalise(posixpath.join(directory, file)) for file in files_in(header.backing_file or "")}
    if source.backing_path in named or len(named) != 1:
        return source
    return source._replace(backing_path=named.pop(), backing_format=header.backing_format)


def check_header(source: VolumeDescription, header: Qcow2Header | None, mode: Mode) -> None:
    """Raise UnsupportedError for a corrupt qcow2, and for a qcow2 with its data in another file, overlays excepted."""
    if header is None:
        raise UnsupportedError(f"'{source.path}' should be a qcow2 image, but does not begin like one")
    if header.is_corrupt:
        raise UnsupportedError(
            f"the qcow2 image '{source.path}' is marked as corrupt", hint="qemu-img check -r all may repair it."
        )
    if header.has_data_file and mode is not Mode.LINKED:
        raise UnsupportedError(
            f"the qcow2 image '{source.path}' keeps its data in an external file, which a copy would share",
            hint="qemu-img convert makes one self-contained image of it.",
        )


def choose_transfer(
    source: VolumeDescription,
    detected_format: str,
    header: Qcow2Header | None,
    mode: Mode,
    *,
    is_local: bool,
    obstacle: str | None,
    is_exposed: bool = False,
    is_limited: bool = False,
    to_device: bool = False,
    is_leaving: bool = False,
    forced: Transfer | None = None,
) -> tuple[Transfer, ...]:
    """Return the possible transfers for a volume, the best first, or raise UnsupportedError where there is none.

    The source is the volume in the definition's format; `detected_format` is the format that libvirt would take the
    volume for. An obstacle is the reason why files cannot be filled here. A copy is exposed where others could read
    the file while libvirt makes it, and limited where only so many bytes may be copied in a second. A copy on a device
    holds what the guest sees. Where the copy is leaving for another host, libvirt makes only what no stream can copy. A
    forced transfer is the only one to use, or a UsageError for an overlay.
    """
    if mode is Mode.LINKED:
        if forced is not None:
            raise UsageError(f"--transfer {forced.value} is not possible for a linked clone, which copies nothing")
        return (Transfer.LINK,)
    closed = _closed_transfers(source, detected_format, header, mode, obstacle)
    if source.is_device or to_device:
        closed = _closed_for_devices(source, closed, to_device=to_device)
    if is_leaving and Transfer.STREAM not in closed:
        closed[Transfer.SERVER] = "the copy is for another host"
    # Streams beat libvirt where nothing has to cross a network, except in what qemu-img does in one go.
    prefers_stream = is_local and (source.format == "raw" or is_exposed)
    rest = (Transfer.STREAM, Transfer.SERVER) if prefers_stream else (Transfer.SERVER, Transfer.STREAM)
    transfers = tuple(transfer for transfer in (Transfer.HOST, *rest) if transfer not in closed)
    if not transfers:
        reasons = dict.fromkeys((closed[Transfer.SERVER], closed[Transfer.HOST]))
        raise UnsupportedError(
            f"'{source.path}' cannot be duplicated by --mode {mode.value}: {'; '.join(reasons)}",
            hint=_other_way(mode, to_device=to_device),
        )
    if is_limited and mode is Mode.COPY:
        if (forced or transfers[0]) is Transfer.SERVER:
            raise UnsupportedError(
                f"'{source.path}' would be copied by libvirt (transfer server), and --bandwidth cannot limit libvirt",
                hint="Leave out --bandwidth." if Transfer.STREAM in closed else "Use --transfer stream.",
            )
        transfers = tuple(transfer for transfer in transfers if transfer is not Transfer.SERVER)
    if forced is None:
        return transfers
    if forced in closed:
        raise UnsupportedError(
            f"'{source.path}' cannot be duplicated with --transfer {forced.value}: {closed[forced]}",
            hint="Leave out --transfer.",
        )
    return (forced,)


def _other_way(mode: Mode, *, to_device: bool) -> str:
    """Return what to do about a volume for which there is no transfer."""
    if to_device:
        return "Name a pool of type dir, fs, netfs or vstorage."
    return "Use --mode linked." if mode is Mode.COPY else "Use --mode copy or --mode linked."


def _closed_for_devices(
    source: VolumeDescription, closed: dict[Transfer, str], *, to_device: bool
) -> dict[Transfer, str]:
    """Return the transfers that are not possible from or to a block device."""
    closed = dict(closed)
    if to_device and source.format != "raw":
        reason = f"a block device holds raw content, and it is {source.format}"
        closed[Transfer.HOST] = closed[Transfer.STREAM] = reason
        if not source.is_encrypted:
            # what qemu-img cannot keep, a device cannot hold
            closed.pop(Transfer.SERVER, None)
    if not source.pool:
        closed[Transfer.STREAM] = closed[Transfer.SERVER] = "it is in no storage pool"
    return closed


def is_exposed(source: VolumeDescription, directory_mode: int | None) -> bool:
    """Return whether others could read a copy that libvirt makes before it has the original's permissions.

    libvirt has qemu-img make every image that is not raw. Until libvirt sets the mode at the end, everybody can read
    the file, and a program that has opened the file can read on. The permission bits of the copy's directory count as
    open where they are not known.
    """
    is_private = source.mode is not None and bool(_EVERYBODY_READS & ~int(source.mode, 8))
    return source.format != "raw" and is_private and (directory_mode is None or bool(directory_mode & _OTHERS_ENTER))


def _closed_transfers(
    source: VolumeDescription, detected_format: str, header: Qcow2Header | None, mode: Mode, obstacle: str | None
) -> dict[Transfer, str]:
    """Return the transfers that are not possible for a volume, each with the reason."""
    closed = {}
    has_backing = source.backing_path is not None or (header is not None and header.has_backing_file)
    if source.format not in {"raw", "qcow2"}:
        closed[Transfer.HOST] = closed[Transfer.STREAM] = f"a {source.format} image may be more than one file"
    elif has_backing and mode is Mode.COPY:
        reason = "it has a backing file, and a copy is to be independent of it"
        closed[Transfer.HOST] = closed[Transfer.STREAM] = reason
    elif obstacle is not None:
        closed[Transfer.HOST] = obstacle
    if mode is Mode.REFLINK:
        closed[Transfer.STREAM] = "a stream shares no data"
    if mode is Mode.SHALLOW and has_backing:
        closed[Transfer.SERVER] = "libvirt would copy the images below it as well"
    elif mode is Mode.REFLINK and source.format != "raw":
        closed[Transfer.SERVER] = f"it is {source.format}, and libvirt reflinks raw volumes only"
    elif source.is_encrypted:
        closed[Transfer.SERVER] = "it is encrypted, and libvirt would have to decrypt it"
    elif source.format == "raw" and detected_format != "raw":
        # a conversion would believe what the guest wrote
        closed[Transfer.SERVER] = f"its content looks like {detected_format}, and libvirt would take it for that"
    elif header is not None and header.needs_byte_copy and not has_backing:
        closed[Transfer.SERVER] = "it has internal snapshots, bitmaps or a dirty mark, which libvirt would not keep"
    return closed
