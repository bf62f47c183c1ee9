"""What a result of `domain-clone` consists of; sizes are in bytes, paths are as the daemon sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.provenance import DomainReference
    from virtomate.enums import Action, CredentialWay, Mode, SideFileAction, Transfer
    from virtomate.hypervisor.networks import ReservedAddress
    from virtomate.notices import Notice


class SnapshotReference(NamedTuple):
    """The snapshot that a clone was made of.

    Attributes:
        created: Time of the snapshot in UTC, as ISO 8601 has it.
        state: State of the domain then: `shutoff`, `running`, `paused`, `disk-snapshot` and so on.
    """

    name: str
    created: str
    state: str


class VolumeReference(NamedTuple):
    """The place of content; only a storage volume has a pool and a volume."""

    pool: str | None
    volume: str | None
    path: str | None
    format: str | None


class DiskResult(NamedTuple):
    """One disk of a clone.

    Attributes:
        reason: Why the disk was not duplicated, or was copied although the mode says otherwise; else None.
        bytes_copied: Bytes that were written; in a plan, the expected bytes.
        transfer: The transfer that filled the volume; in a plan, the probable transfer.
        subclusters: Whether a new overlay has subclusters; None for other volumes and in a plan.
        base_path: Path of the image that an overlay rests on, as the host of the clone has it: an image of a running
            original is another than `source`, and another host may have another path; None for other volumes.
    """

    target: str
    action: Action
    reason: str | None
    source: VolumeReference
    clone: VolumeReference
    capacity: int | None
    bytes_copied: int
    transfer: Transfer | None
    subclusters: bool | None = None
    base_path: str | None = None


class FrozenDiskResult(NamedTuple):
    """A disk of the original that rests on an overlay of its own.

    Attributes:
        target: Name of the device in the guest, `vda`.
        base: The former volume of the disk, which nobody writes to any more.
        overlay: The volume of the disk.
        is_new: Whether the overlay was made for these clones; otherwise it held nothing since the last freeze.
    """

    target: str
    base: VolumeReference
    overlay: VolumeReference
    is_new: bool


class NvramResult(NamedTuple):
    """The NVRAM of a clone, with the paths of both NVRAMs, if they are files.

    libvirt makes a `fresh` NVRAM from the template at the first start.
    """

    action: SideFileAction
    source: str | None
    clone: str | None
    format: str


class TpmResult(NamedTuple):
    """The TPM of a clone, with the paths of the state of both TPMs, if the state was copied or definitions name them.

    libvirt makes a `fresh` TPM at the first start. A `shared` TPM is a device of the host, or an emulator that somebody
    else runs; the path is that of the device or socket.

    Attributes:
        reason: Why the TPM is fresh although a copy was asked for; else None.
    """

    action: SideFileAction
    source: str | None
    clone: str | None
    reason: str | None = None


class SeedResult(NamedTuple):
    """The seed of a clone, from which cloud-init takes what the guest is called.

    Attributes:
        target: Name of the disk in the guest.
        files: Names of the files in it that the user gave, such as `user-data`.
    """

    target: str
    clone: VolumeReference
    host_name: str
    files: tuple[str, ...]


class PreparedResult(NamedTuple):
    """What virt-sysprep or virt-customize changed in the guest of a clone.

    Attributes:
        program: `virt-sysprep` or `virt-customize`.
        operations: Operations of virt-sysprep.
        host_name: Host name that the guest got; None if it keeps the original's.
        disks: The disks of the clone that were opened.
    """

    program: str
    operations: tuple[str, ...]
    host_name: str | None
    disks: tuple[str, ...]


class CredentialResult(NamedTuple):
    """A credential of a clone, for systemd in the guest.

    Attributes:
        value: The value; None for a secret, and for bytes that are no text.
        clone: The volume with the value, None where the definition has the value.
    """

    name: str
    way: CredentialWay
    value: str | None
    clone: VolumeReference | None


class InterfaceResult(NamedTuple):
    """One network interface of a clone; the MAC address of the original's is None if the clone is not a new one.

    Attributes:
        dhcp_entry: The address that its network keeps for it, None where no address was asked for.
    """

    mac: str
    source_mac: str | None
    dhcp_entry: ReservedAddress | None = None


class ReplacedClone(NamedTuple):
    """The clone that had the name of a new clone, and was deleted before.

    Attributes:
        removed: What was removed besides the definition, each a phrase; in a plan, what will be removed.
        kept: Disks, bases and NVRAM that the clone had and cloning did not make.
    """

    uuid: str
    source: DomainReference
    mode: Mode
    removed: tuple[str, ...]
    kept: tuple[Notice, ...]
