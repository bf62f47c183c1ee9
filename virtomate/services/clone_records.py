"""The request of `domain-clone`, and its results; sizes are in bytes, paths are as the daemon sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.enums import Consistency, IfExists, Mode, Quiesce, Status, TpmTreatment
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Container

    from virtomate.definition.host_entries import HostEntry
    from virtomate.definition.provenance import DomainReference
    from virtomate.enums import DiskAction, Transfer, WaitFor
    from virtomate.errors import VirtomateError
    from virtomate.hypervisor.agent import DomainInterface
    from virtomate.hypervisor.networks import Lease
    from virtomate.notices import CloneWarning, Notice
    from virtomate.services.address_wish import AddressWish
    from virtomate.services.clone_parts import (
        CredentialResult,
        DiskResult,
        FrozenDiskResult,
        InterfaceResult,
        NvramResult,
        PreparedResult,
        ReplacedClone,
        SeedResult,
        SnapshotReference,
        TpmResult,
    )
    from virtomate.services.credentials import Credential
    from virtomate.services.other_host import OtherHost
    from virtomate.services.seed import SeedFiles
    from virtomate.services.storage import SpaceNeed
    from virtomate.services.sysprep import Preparation


class DiskOptions(NamedTuple):
    """The options for one disk; what is None follows from the request.

    Attributes:
        target: Name of the device in the guest, `vda`.
        name: Name of the new volume.
        pool: Pool of the new volume.
        size: Size of the new volume in bytes, as the guest sees it.
    """

    target: str
    treatment: DiskAction | None = None
    name: str | None = None
    pool: str | None = None
    size: int | None = None


class NetworkChoice(NamedTuple):
    """The network of an interface.

    Attributes:
        word: The word of the command line.
        interface: Name on the host, MAC address or number of the original's interface; None for the only interface.
        kind: `network` or `bridge`.
        name: Name of the network or bridge.
    """

    word: str
    interface: str | None
    kind: str
    name: str


class Shape(NamedTuple):
    """What the clones have otherwise than the original; None keeps what the original has."""

    memory_bytes: int | None = None
    vcpus: int | None = None
    networks: tuple[NetworkChoice, ...] = ()
    autostart: bool = False


class Wait(NamedTuple):
    """What a started clone is waited for, and how long from the moment when all clones are complete and started."""

    what: WaitFor
    seconds: float


class Shutdown(NamedTuple):
    """How an original that runs is shut down for cloning: how long its guest may take, and whether it starts again."""

    seconds: float
    restarts: bool = True


class GivingWay(NamedTuple):
    """Clones that are deleted before new clones with their names are made, so that they do not stand in the way.

    Attributes:
        uuids: UUIDs of the clones.
        paths: Normalised paths of the files that are deleted with the clones.
        entries: DHCP entries that are removed with the clones.
    """

    uuids: frozenset[str] = frozenset()
    paths: frozenset[str] = frozenset()
    entries: frozenset[HostEntry] = frozenset()


_NOBODY = GivingWay()


class CloneRequest(NamedTuple):
    """The arguments of `domain-clone`; None leaves the choice to virtomate or to the original.

    Attributes:
        source: Name or UUID of the original.
        auto_names: How many clones get a free name, made from the original's; then `names` is empty.
        pool: Pool of new volumes.
        outside_pools: Whether to clone files in directories that no active pool covers, through temporary pools.
        mac_addresses: Addresses for the first interfaces, in order.
        tpm: What becomes of the state of an emulated TPM.
        nvram: Place of the NVRAM: an absolute path, POOL/VOLUME, or a name beside the original's.
        title: Title of the clone, empty for no title; the description likewise.
        bandwidth_bytes: How many bytes all transfers together may write in a second; 0 means no limit.
        check_space: Whether to refuse if a pool has less space than will be written.
        trust_pool: Whether to trust everybody who may write to the directories of the pools.
        jobs: How many clones are made in parallel.
        shutdown: How an original that runs is shut down; None refuses such an original.
        snapshot: Name of the original's snapshot to clone, None for the original as it is now.
        fail_on: Warnings that refuse all clones.
        live: Whether to clone an original that runs.
        live_devices: Whether the clone of a running original has the devices that the original has now.
        risk_original: Whether to clone a running original although its guest may see I/O errors.
        seed: Files for a seed of each clone, None for no seed.
        host_names: Host names of the clones, in order; empty for their names.
        preparation: What virt-sysprep or virt-customize changes in the guest of each clone, None for nothing.
        credentials: Credentials for systemd in the guests.
        shape: What the clones have otherwise than the original, None where all stays.
        quiesce: Whether the file systems of the guest of a running original are frozen when its disks are copied.
        freeze: Whether the original's linked disks move onto overlays, so that it can be started.
        if_exists: What happens where a domain has the name of a clone.
        giving_way: Clones that are deleted before these clones are made.
        addresses: The addresses that DHCP entries keep for the clones.
        beside: How many clones other requests of the same run are for.
        taken_addresses: The addresses that DHCP entries keep for clones of other requests of the same run.
        block: How disks that are block devices are duplicated; None to share them.
        to: The host to make the clones on; None for the host of the original.
    """

    source: str
    names: tuple[str, ...] = ()
    auto_names: int = 0
    mode: Mode = Mode.COPY
    disks: tuple[DiskOptions, ...] = ()
    pool: str | None = None
    outside_pools: bool = False
    mac_addresses: tuple[str, ...] = ()
    keep_mac_addresses: bool = False
    uuid: str | None = None
    nvram: str | None = None
    tpm: TpmTreatment = TpmTreatment.NEW
    title: str | None = None
    description: str | None = None
    transfer: Transfer | None = None
    bandwidth_bytes: int = 0
    check_space: bool = True
    trust_pool: bool = False
    jobs: int = 4
    shutdown: Shutdown | None = None
    start: bool = False
    wait: Wait | None = None
    fail_on: frozenset[CloneWarning] = frozenset()
    snapshot: str | None = None
    live: bool = False
    live_devices: bool = False
    risk_original: bool = False
    quiesce: Quiesce = Quiesce.AUTO
    freeze: bool = False
    seed: SeedFiles | None = None
    host_names: tuple[str, ...] = ()
    preparation: Preparation | None = None
    if_exists: IfExists = IfExists.FAIL
    giving_way: GivingWay = _NOBODY
    shape: Shape | None = None
    credentials: tuple[Credential, ...] = ()
    addresses: tuple[AddressWish, ...] = ()
    beside: int = 0
    taken_addresses: frozenset[str] = frozenset()
    block: Mode | None = None
    to: OtherHost | None = None

    @property
    def target_uri(self) -> str | None:
        """The URI of the libvirt that the clones are made on; None for that of the original."""
        return None if self.to is None else self.to.uri

    def only(self, names: Container[str]) -> CloneRequest:
        """Return the request for those of its clones that have one of these names."""
        chosen = [number for number, name in enumerate(self.names) if name in names]
        return self._replace(
            names=tuple(self.names[number] for number in chosen),
            host_names=tuple(self.host_names[number] for number in chosen) if self.host_names else (),
            credentials=tuple(item.only(chosen) for item in self.credentials),
            addresses=tuple(wish.only(chosen) for wish in self.addresses),
        )

    @property
    def autostarts(self) -> bool:
        """Whether the clones start with their host."""
        return self.shape is not None and self.shape.autostart

    @property
    def is_shaped(self) -> bool:
        """Whether the clones differ from the original in size or shape."""
        return self.shape is not None or any(disk.size is not None for disk in self.disks)


class CloneResult(NamedTuple):
    """One clone, or the attempt.

    Attributes:
        space: In a plan, the space that the clone needs in each pool; else empty.
        definition: In a plan, the definition of the clone, if that was asked for.
        consistency: In what state the disks are; in a plan, in what state they probably will be; None of a clone that
            is not a new one.
        frozen_seconds: How long virtomate froze the file systems of the running guest; None where it did not.
        moment: Name of the domain with the images that a linked clone of a running original rests on.
        frozen: The disks of the original that are frozen.
        restarted: Whether the original, which was shut down for cloning, was started again; in a plan, whether it will
            be. None if the original is not shut down.
        addresses: The IP addresses of a started clone that was waited for.
        snapshot: The snapshot of the original that the clone is made of, None where there is none.
        seed: The seed of the clone, None where there is none.
        prepared: What was changed in the guest, None where nothing was.
        replaced: The clone that had the name before, None where there was none.
        tpm: The TPM of the clone, None where there is none.
        credentials: The credentials of the clone, None where there are none.
        host: The host of the clone, if that is another than the original's; else None.
        leases: The leases in the networks of a clone that is waited for, right before it was started. They are for the
            wait alone, and no part of what is told of a clone.
        error: Why there is no clone, or what failed after the clone was complete.
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
    consistency: Consistency | None = Consistency.OFFLINE
    frozen_seconds: float | None = None
    moment: str | None = None
    frozen: tuple[FrozenDiskResult, ...] = ()
    space: tuple[SpaceNeed, ...] = ()
    definition: str | None = None
    is_started: bool = False
    restarted: bool | None = None
    addresses: tuple[DomainInterface, ...] | None = None
    snapshot: SnapshotReference | None = None
    seed: SeedResult | None = None
    prepared: PreparedResult | None = None
    replaced: ReplacedClone | None = None
    tpm: TpmResult | None = None
    credentials: tuple[CredentialResult, ...] | None = None
    host: str | None = None
    leases: tuple[Lease, ...] = ()
    error: VirtomateError | None = None

    @property
    def is_kept(self) -> bool:
        """Whether the clone existed before, and is as it was."""
        return self.status is Status.UNCHANGED

    @property
    def is_complete(self) -> bool:
        """Whether the clone exists."""
        return self.status in {Status.CLONED, Status.UNCHANGED}
