"""Frozen records: what services take and return, and what output renders.

Sizes are in bytes, paths are as the daemon sees them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from virtomate.enums import Mode

if TYPE_CHECKING:
    from virtomate.enums import (
        Action,
        ArtifactKind,
        ArtifactState,
        DeletionStatus,
        DiskAction,
        NvramAction,
        Status,
        TokenPlace,
        Transfer,
        WaitFor,
    )
    from virtomate.errors import VirtomateError


# of the record of ours in a clone's metadata
PROVENANCE_NAMESPACE = "urn:virtomate:clone:1"


@dataclass(frozen=True)
class DiskOptions:
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


@dataclass(frozen=True)
class Wait:
    """How long a started clone is waited for, and for what.

    Attributes:
        seconds: Counted from when all clones are complete and started.
    """

    what: WaitFor
    seconds: float


@dataclass(frozen=True)
class CloneRequest:
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


@dataclass(frozen=True)
class DomainReference:
    """A domain by both of its names."""

    name: str
    uuid: str


@dataclass(frozen=True)
class VolumeReference:
    """Where content lives; pool and volume are None for what is no storage volume."""

    pool: str | None
    volume: str | None
    path: str | None
    format: str | None


@dataclass(frozen=True)
class DiskResult:
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


@dataclass(frozen=True)
class NvramResult:
    """The NVRAM of a clone; `fresh` means that libvirt makes it from the template at the first start.

    Attributes:
        source: Path of the original's, None where that is no file.
        clone: Path of the clone's, likewise.
    """

    action: NvramAction
    source: str | None
    clone: str | None
    format: str


@dataclass(frozen=True)
class InterfaceResult:
    """One network interface of a clone."""

    mac: str
    source_mac: str


@dataclass(frozen=True)
class SpaceNeed:
    """What one clone needs of a pool, and what that has left."""

    pool: str
    needed_bytes: int
    available_bytes: int


@dataclass(frozen=True)
class CloneResult:
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
    changes: tuple[str, ...]
    warnings: tuple[str, ...]
    seconds: float
    space: tuple[SpaceNeed, ...] = ()
    definition: str | None = None
    is_started: bool = False
    addresses: tuple[DomainInterface, ...] | None = None
    error: VirtomateError | None = None


@dataclass(frozen=True)
class Fingerprint:
    """What, besides its token, tells a file from another that has since taken its name.

    In a directory pool a volume's handle and key are nothing but its path, so the file itself has to testify.

    Attributes:
        changed: Change time of the file when it was made, as libvirt reports it (seconds and nanoseconds since 1970).
        inode: Inode number, where the file could be seen from here, else None. The device's number would say nothing:
            it may change with every boot.
        birth_time: In nanoseconds since 1970, likewise and where the file system keeps it.
        directory: Inode number of its directory, likewise; another one stands there while a file system is not mounted.
        file_system_bytes: Size of its file system, where the file could not be seen, for the same purpose.
    """

    changed: str | None
    inode: int | None = None
    birth_time: int | None = None
    directory: int | None = None
    file_system_bytes: int | None = None


@dataclass(frozen=True)
class Artifact:
    """Something that cloning makes: a line of the journal, and later of the provenance.

    Attributes:
        pool: The pool it is made in; for a pool its own name.
        volume: The volume's name, None for a pool.
        path: Normalised path.
        fingerprint: What identifies it, once it is made.
        token_place: Where its token stands; None for what has none.
        transfer: How it is filled, None for what is not.
        base: Path of the image that an overlay rests on, None for anything else.
    """

    kind: ArtifactKind
    state: ArtifactState
    pool: str
    volume: str | None
    path: str
    fingerprint: Fingerprint | None = None
    token_place: TokenPlace | None = None
    transfer: Transfer | None = None
    base: str | None = None


@dataclass(frozen=True)
class Owner:
    """The process that makes a clone, as far as it can be told from another one.

    Attributes:
        host: The host's name.
        pid: Its process id there.
        started: When it started, in clock ticks since that host's boot (field 22 of /proc/PID/stat).
    """

    host: str
    pid: int
    started: int


@dataclass(frozen=True)
class Provenance:
    """The record that cloning keeps in a clone's metadata.

    Attributes:
        finished: False while the clone is only claimed.
        uuid: The clone's own UUID; a record whose UUID is not its domain's was carried over by another tool.
        token: Random text of the run that made it.
        mark: Random part of the token on everything that was made; None in the records of 0.2.0, which had none.
        reserved: MAC addresses and paths that were asked for, so that another run may have been asked for the same.
        created: When the clone was claimed, in seconds since 1970.
        made: What cloning makes or made for it.
    """

    finished: bool
    uuid: str
    token: str
    source: DomainReference
    mode: Mode
    created: float
    made: tuple[Artifact, ...]
    maker: Owner | None = None
    mark: str | None = None
    reserved: tuple[str, ...] = ()

    @property
    def artifact_token(self) -> str | None:
        """What stands on everything that was made for this clone, and on nothing else; None where nothing does."""
        return None if self.mark is None else f"{self.uuid}:{self.mark}"


@dataclass(frozen=True)
class CloneOrigin:
    """What a listing tells about a clone of ours."""

    finished: bool
    source: DomainReference
    mode: Mode
    created: float


@dataclass(frozen=True)
class DomainFilter:
    """Which domains are listed; those to which everything applies that is set.

    Attributes:
        running: Those that run in any way, paused ones included.
        clones: Clones of ours.
        clones_of: Clones of this domain, given by name or UUID.
    """

    running: bool = False
    clones: bool = False
    clones_of: str | None = None


@dataclass(frozen=True)
class DomainListing:
    """One line of `domain-list`.

    Attributes:
        addresses: Interfaces with the addresses that others can use, as far as they are known; None where nobody asked.
    """

    name: str
    uuid: str
    state: str
    clone: CloneOrigin | None
    addresses: tuple[DomainInterface, ...] | None = None


@dataclass(frozen=True)
class DoomedThing:
    """Something that goes away with a clone, as a phrase that names it.

    Attributes:
        size_bytes: What it takes on the host, None where that is not known or does not apply.
        doubt: Why it is not proved that it was made for the clone; None where that is proved, or needs no proof.
        owner: User and group that a file in doubt belongs to, as numbers; None where that is not known.
        modified: When a file in doubt was last written to, in seconds since 1970, likewise.
    """

    what: str
    size_bytes: int | None = None
    doubt: str | None = None
    owner: str | None = None
    modified: float | None = None


@dataclass(frozen=True)
class DeletionPreview:
    """What the deletion of one clone would do.

    Attributes:
        is_finished: False for what is left of a clone that was never completed, or never deleted completely.
        doomed: What would be removed besides the definition.
        kept: What would stay, each a phrase with the reason.
    """

    name: str
    uuid: str
    is_finished: bool
    source: DomainReference
    mode: Mode
    doomed: tuple[DoomedThing, ...]
    kept: tuple[str, ...]


@dataclass(frozen=True)
class DeletionResult:
    """What `domain-delete` did about one clone.

    Attributes:
        removed: What was removed besides the definition, each a phrase that names it.
        kept: Disks and NVRAM that the domain had and cloning did not make, likewise.
    """

    status: DeletionStatus
    name: str
    uuid: str
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    error: VirtomateError | None = None


@dataclass(frozen=True, order=True)
class Address:
    """An IP address and the length of its network's prefix.

    Attributes:
        type: `IPv4` or `IPv6`.
    """

    type: str
    address: str
    prefix: int


@dataclass(frozen=True)
class DomainInterface:
    """A network interface of an active domain, with its addresses.

    Attributes:
        name: Its name on the host, or in the guest where the agent tells it.
        hwaddr: Its MAC address, None where it has none.
    """

    name: str
    hwaddr: str | None
    addresses: tuple[Address, ...]


@dataclass(frozen=True)
class PingResult:
    """An answer of a guest agent.

    Attributes:
        seconds: How long it was waited for.
    """

    name: str
    uuid: str
    seconds: float


@dataclass(frozen=True)
class PoolListing:
    """One line of `pool-list`.

    Attributes:
        state: `inactive`, `building`, `running`, `degraded` or `inaccessible`.
        is_persistent: Whether libvirt still knows it when it is stopped.
        capacity: Of what it is on; for an inactive pool as it was when libvirt looked last.
        allocation: What is taken of it, by whatever.
        available: What is left.
        volume_count: None for an inactive pool.
    """

    name: str
    uuid: str
    state: str
    is_active: bool
    is_persistent: bool
    capacity: int
    allocation: int
    available: int
    volume_count: int | None


@dataclass(frozen=True)
class Location:
    """Where content is, and how it is written; what libvirt does not tell is None."""

    path: str | None
    format: str | None


@dataclass(frozen=True)
class VolumeListing:
    """One line of `volume-list`.

    Attributes:
        key: What libvirt tells volumes apart by; in a directory the path.
        type: `file`, `block`, `dir`, `network`, `netdir` or `ploop`.
        capacity: What a guest sees.
        allocation: What is taken on the host.
        physical: Length of the file, None for what has none.
        backing_store: What lies below, None for a volume that stands alone.
    """

    name: str
    key: str | None
    type: str
    capacity: int
    allocation: int
    physical: int | None
    target: Location
    backing_store: Location | None


@dataclass(frozen=True)
class CompletionScript:
    """What makes a shell complete command lines."""

    shell: str
    script: str


@dataclass(frozen=True)
class ImportRequest:
    """What `volume-import` was asked for.

    Attributes:
        path: The local file.
        pool: Name of the pool.
        name: Name of the new volume, None for the file's own.
        check_space: Whether to refuse when the pool has less space than will be written.
        trust_pool: Whether everybody is trusted who may write to the pool's directory.
    """

    path: str
    pool: str
    name: str | None = None
    check_space: bool = True
    trust_pool: bool = False


@dataclass(frozen=True)
class ImportResult:
    """A file that has become a volume.

    Attributes:
        path: The local file.
        bytes_copied: What was sent of it; holes are not.
    """

    path: str
    pool: str
    volume: VolumeListing
    bytes_copied: int
    warnings: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class RunRequest:
    """What `guest-run` was asked for.

    Attributes:
        domain: Name or UUID of the domain.
        program: Name or path of a program in the guest.
        stdin: What it gets to read; None leaves it without.
        timeout_seconds: How long it may take; None means as long as it wants.
    """

    domain: str
    program: str
    arguments: tuple[str, ...] = ()
    stdin: bytes | None = None
    timeout_seconds: float | None = None


@dataclass(frozen=True)
class RunResult:
    """How a program in a guest ended.

    Attributes:
        exit_code: None where a signal ended it.
        signal: Number of that signal, else None.
        stdout: What it wrote, byte for byte.
        stderr: Likewise.
        stdout_truncated: Whether it wrote more than that.
        stderr_truncated: Likewise.
    """

    exit_code: int | None
    signal: int | None
    stdout: bytes
    stderr: bytes
    stdout_truncated: bool = False
    stderr_truncated: bool = False
