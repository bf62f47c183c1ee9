"""What `domain-clone` is asked for, and what it returns; sizes are in bytes, paths are as the daemon sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.enums import Mode
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.provenance import DomainReference
    from virtomate.enums import Action, DiskAction, NvramAction, Status, Transfer, WaitFor
    from virtomate.errors import VirtomateError
    from virtomate.hypervisor.agent import DomainInterface
    from virtomate.notices import CloneWarning, Notice
    from virtomate.services.storage import SpaceNeed


class DiskOptions(NamedTuple):
    """What was asked for one disk.

    Attributes:
        target: Name of the device in the guest, `vda`.
        treatment: What is to become of it; None leaves that to the mode of the whole clone.
        name: Name of the new volume, None for one made from the clone's name.
        pool: Pool of the new volume, None for the clone's or the original's.
    """

    target: str
    treatment: DiskAction | None = None
    name: str | None = None
    pool: str | None = None


class Wait(NamedTuple):
    """How long a started clone is waited for, and for what.

    Attributes:
        seconds: Counted from when all clones are complete and started.
    """

    what: WaitFor
    seconds: float


class CloneRequest(NamedTuple):
    """What `domain-clone` was asked for.

    Attributes:
        source: Name or UUID of the original.
        names: Names of the clones.
        auto_names: How many clones get a name that nobody has yet, made from the original's; then `names` is empty.
        mode: How volumes are duplicated.
        disks: What was asked for single disks.
        pool: Pool of new volumes, None for the original's.
        mac_addresses: Addresses for the first interfaces, in order; the others get new ones.
        keep_mac_addresses: All interfaces keep the original's.
        uuid: UUID of the clone, None for a new one.
        nvram: Where the NVRAM goes: an absolute path, POOL/VOLUME, or a name beside the original's.
        title: Title of the clone, None for the original's; empty for none.
        description: Description, likewise.
        transfer: How volumes are to be filled; None leaves that to the plan.
        check_space: Whether to refuse when a pool has less space than will be written.
        trust_pool: Whether everybody is trusted who may write to the directories of the pools.
        jobs: How many clones are made side by side.
        start: Whether complete clones are started.
        wait: What started clones are waited for.
        fail_on: Warnings for which no clone is made.
    """

    source: str
    names: tuple[str, ...] = ()
    auto_names: int = 0
    mode: Mode = Mode.COPY
    disks: tuple[DiskOptions, ...] = ()
    pool: str | None = None
    mac_addresses: tuple[str, ...] = ()
    keep_mac_addresses: bool = False
    uuid: str | None = None
    nvram: str | None = None
    title: str | None = None
    description: str | None = None
    transfer: Transfer | None = None
    check_space: bool = True
    trust_pool: bool = False
    jobs: int = 4
    start: bool = False
    wait: Wait | None = None
    fail_on: frozenset[CloneWarning] = frozenset()


class VolumeReference(NamedTuple):
    """Where content lives; pool and volume are None for what is no storage volume."""

    pool: str | None
    volume: str | None
    path: str | None
    format: str | None


class DiskResult(NamedTuple):
    """One disk of a clone.

    Attributes:
        reason: Why the disk was not duplicated, else None.
        bytes_copied: Bytes that were written for it; for a plan, the bytes that will be.
        transfer: How its content got there; for a plan, how it probably will.
        subclusters: Whether a new overlay has subclusters, None for anything but an overlay and in a plan.
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


class NvramResult(NamedTuple):
    """The NVRAM of a clone; `fresh` means that libvirt makes it from the template at the first start.

    Attributes:
        source: Path of the original's, None where that is no file.
        clone: Path of the clone's, likewise.
    """

    action: NvramAction
    source: str | None
    clone: str | None
    format: str


class InterfaceResult(NamedTuple):
    """One network interface of a clone."""

    mac: str
    source_mac: str


class CloneResult(NamedTuple):
    """One clone, or the attempt at it.

    Attributes:
        space: Of a plan, what it needs of each pool; else empty.
        definition: Of a plan, the definition that the clone will have, where it was asked for.
        is_started: Whether the complete clone was started.
        addresses: The IP addresses of the started clone, None where nobody waited for it.
        error: Why there is no clone, or what went wrong with a complete one afterwards.
    """

    status: Status
    name: str
    uuid: str
    source: DomainReference
    mode: Mode
    disks: tuple[DiskResult, ...]
    nvram: NvramResult | None
    interfaces: tuple[InterfaceResult, ...]
    changes: tuple[Notice, ...]
    warnings: tuple[Notice, ...]
    seconds: float
    space: tuple[SpaceNeed, ...] = ()
    definition: str | None = None
    is_started: bool = False
    addresses: tuple[DomainInterface, ...] | None = None
    error: VirtomateError | None = None
