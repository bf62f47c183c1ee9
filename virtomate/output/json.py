"""Records as JSON documents; their shapes are a contract that the documentation describes and tests pin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from virtomate.enums import Status

if TYPE_CHECKING:
    from virtomate.advice import Reach
    from virtomate.definition.provenance import DomainReference
    from virtomate.definition.volume import Location, VolumeListing
    from virtomate.errors import VirtomateError
    from virtomate.hypervisor.agent import DomainInterface, RunResult
    from virtomate.services.clone.records import CloneResult, DiskResult, NvramResult, VolumeReference
    from virtomate.services.delete.records import DeletionResult
    from virtomate.services.guest.records import PingResult
    from virtomate.services.listings import CloneOrigin, DomainListing, PoolListing
    from virtomate.services.volume_import import ImportResult


class _ErrorDocument(TypedDict):
    type: str
    message: str


class ErrorDocument(_ErrorDocument, total=False):
    """An error; hint and leftovers only where there are any."""

    hint: str
    leftovers: list[str]


class ReferenceDocument(TypedDict):
    """A domain."""

    name: str
    uuid: str


class VolumeDocument(TypedDict):
    """Where content lives."""

    pool: str | None
    volume: str | None
    path: str | None
    format: str | None


class DiskDocument(TypedDict):
    """One disk of a clone."""

    target: str
    action: str
    reason: str | None
    source: VolumeDocument
    clone: VolumeDocument
    capacity: int | None
    bytes_copied: int
    transfer: str | None
    subclusters: bool | None


class NvramDocument(TypedDict):
    """The NVRAM of a clone."""

    action: str
    source: str | None
    clone: str | None
    format: str


class InterfaceDocument(TypedDict):
    """One network interface of a clone."""

    mac: str
    source_mac: str


class SpaceDocument(TypedDict):
    """What a planned clone needs of a pool, and what that has left."""

    pool: str
    needed: int
    available: int


class AddressDocument(TypedDict):
    """An IP address."""

    address: str
    prefix: int
    type: str


class DomainInterfaceDocument(TypedDict):
    """One element of what `domain-iface-list` prints."""

    name: str
    hwaddr: str | None
    addresses: list[AddressDocument]


class _CloneDocument(TypedDict):
    status: str
    name: str
    uuid: str
    source: ReferenceDocument
    mode: str
    disks: list[DiskDocument]
    nvram: NvramDocument | None
    interfaces: list[InterfaceDocument]
    changes: list[str]
    warnings: list[str]
    seconds: float
    started: bool


class CloneDocument(_CloneDocument, total=False):
    """One element of what `domain-clone` prints.

    The space only in a plan, the definition only where it was asked for, addresses only where a clone was waited for,
    the error only where something failed.
    """

    space: list[SpaceDocument]
    definition: str
    addresses: list[DomainInterfaceDocument]
    error: ErrorDocument


class OriginDocument(TypedDict):
    """Where a clone comes from."""

    status: str
    source: ReferenceDocument
    mode: str
    created: str


class _DomainDocument(TypedDict):
    name: str
    uuid: str
    state: str
    clone: OriginDocument | None


class DomainDocument(_DomainDocument, total=False):
    """One element of what `domain-list` prints; the addresses only where they were asked for."""

    addresses: list[DomainInterfaceDocument]


class _DeletionDocument(TypedDict):
    status: str
    name: str
    uuid: str
    removed: list[str]
    kept: list[str]


class DeletionDocument(_DeletionDocument, total=False):
    """One element of what `domain-delete` prints; the error only where it failed."""

    error: ErrorDocument


class PoolDocument(TypedDict):
    """One element of what `pool-list` prints."""

    name: str
    uuid: str
    state: str
    active: bool
    persistent: bool
    capacity: int
    allocation: int
    available: int
    number_of_volumes: int | None


class LocationDocument(TypedDict):
    """Where the content of a listed volume is, or what lies below it."""

    path: str | None
    format_type: str | None


class VolumeListingDocument(TypedDict):
    """One element of what `volume-list` prints."""

    name: str
    key: str | None
    type: str
    capacity: int
    allocation: int
    physical: int | None
    target: LocationDocument
    backing_store: LocationDocument | None


class CompletionDocument(TypedDict):
    """What `completion` prints."""

    shell: str
    script: str


class ImportDocument(TypedDict):
    """What `volume-import` prints."""

    pool: str
    volume: VolumeListingDocument
    bytes_copied: int
    warnings: list[str]
    seconds: float


class PingDocument(TypedDict):
    """What `guest-ping` prints."""

    name: str
    uuid: str
    seconds: float


class RunDocument(TypedDict):
    """What `guest-run` prints."""

    exit_code: int | None
    signal: int | None
    stdout: str | None
    stderr: str | None
    stdout_truncated: bool
    stderr_truncated: bool


def dump(document: Any, *, pretty: bool) -> str:  # noqa: ANN401 - JSON is what it is
    """One JSON document as text: keys sorted, nothing but the document."""
    import json  # noqa: PLC0415 - people read no JSON

    if pretty:
        return json.dumps(document, ensure_ascii=False, sort_keys=True, indent=2)
    return json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def error_document(error: VirtomateError, reach: Reach) -> ErrorDocument:
    """An error, whose commands reach the libvirt that was asked."""
    document: ErrorDocument = {"type": error.json_type, "message": reach.fill(error.message)}
    if error.hint is not None:
        document["hint"] = reach.fill(error.hint)
    if error.leftovers:
        document["leftovers"] = [reach.fill(leftover) for leftover in error.leftovers]
    return document


def clone_document(result: CloneResult, reach: Reach) -> CloneDocument:
    """One clone."""
    document: CloneDocument = {
        "status": result.status.value,
        "name": result.name,
        "uuid": result.uuid,
        "source": _reference(result.source),
        "mode": result.mode.value,
        "disks": [_disk(disk) for disk in result.disks],
        "nvram": None if result.nvram is None else _nvram(result.nvram),
        "interfaces": [{"mac": interface.mac, "source_mac": interface.source_mac} for interface in result.interfaces],
        "changes": list(result.changes),
        "warnings": [reach.fill(warning) for warning in result.warnings],
        "seconds": result.seconds,
        "started": result.is_started,
    }
    if result.status is Status.PLANNED:
        document["space"] = [
            {"pool": need.pool, "needed": need.needed_bytes, "available": need.available_bytes} for need in result.space
        ]
    if result.definition is not None:
        document["definition"] = result.definition
    if result.addresses is not None:
        document["addresses"] = [domain_interface_document(interface) for interface in result.addresses]
    if result.error is not None:
        document["error"] = error_document(result.error, reach)
    return document


def domain_document(listing: DomainListing) -> DomainDocument:
    """One domain of a listing."""
    document: DomainDocument = {
        "name": listing.name,
        "uuid": listing.uuid,
        "state": listing.state,
        "clone": None if listing.clone is None else _origin(listing.clone),
    }
    if listing.addresses is not None:
        document["addresses"] = [domain_interface_document(interface) for interface in listing.addresses]
    return document


def deletion_document(result: DeletionResult, reach: Reach) -> DeletionDocument:
    """What was deleted."""
    document: DeletionDocument = {
        "status": result.status.value,
        "name": result.name,
        "uuid": result.uuid,
        "removed": list(result.removed),
        "kept": list(result.kept),
    }
    if result.error is not None:
        document["error"] = error_document(result.error, reach)
    return document


def pool_document(listing: PoolListing) -> PoolDocument:
    """One pool of a listing."""
    return {
        "name": listing.name,
        "uuid": listing.uuid,
        "state": listing.state,
        "active": listing.is_active,
        "persistent": listing.is_persistent,
        "capacity": listing.capacity,
        "allocation": listing.allocation,
        "available": listing.available,
        "number_of_volumes": listing.volume_count,
    }


def volume_listing_document(listing: VolumeListing) -> VolumeListingDocument:
    """One volume of a listing."""
    return {
        "name": listing.name,
        "key": listing.key,
        "type": listing.type,
        "capacity": listing.capacity,
        "allocation": listing.allocation,
        "physical": listing.physical,
        "target": _location(listing.target),
        "backing_store": None if listing.backing_store is None else _location(listing.backing_store),
    }


def import_document(result: ImportResult, reach: Reach) -> ImportDocument:
    """A file that has become a volume."""
    return {
        "pool": result.pool,
        "volume": volume_listing_document(result.volume),
        "bytes_copied": result.bytes_copied,
        "warnings": [reach.fill(warning) for warning in result.warnings],
        "seconds": result.seconds,
    }


def domain_interface_document(interface: DomainInterface) -> DomainInterfaceDocument:
    """One interface of an active domain."""
    return {
        "name": interface.name,
        "hwaddr": interface.hwaddr,
        "addresses": [
            {"address": address.address, "prefix": address.prefix, "type": address.type}
            for address in interface.addresses
        ],
    }


def _location(location: Location) -> LocationDocument:
    return {"path": location.path, "format_type": location.format}


def completion_document(shell: str, script: str) -> CompletionDocument:
    """A completion script as JSON."""
    return {"shell": shell, "script": script}


def ping_document(result: PingResult) -> PingDocument:
    """An answer of a guest agent."""
    return {"name": result.name, "uuid": result.uuid, "seconds": result.seconds}


def run_document(result: RunResult, *, encode: bool) -> RunDocument:
    """How a program in a guest ended.

    Args:
        result: What is known of it.
        encode: Write its output in Base64; otherwise bytes that are not UTF-8 are replaced.
    """
    return {
        "exit_code": result.exit_code,
        "signal": result.signal,
        "stdout": _output(result.stdout, encode=encode),
        "stderr": _output(result.stderr, encode=encode),
        "stdout_truncated": result.stdout_truncated,
        "stderr_truncated": result.stderr_truncated,
    }


def _output(data: bytes, *, encode: bool) -> str | None:
    import base64  # noqa: PLC0415 - only what a guest writes may need it

    if not data:
        return None
    return base64.b64encode(data).decode("ascii") if encode else data.decode(errors="replace")


def _reference(domain: DomainReference) -> ReferenceDocument:
    return {"name": domain.name, "uuid": domain.uuid}


def _volume(volume: VolumeReference) -> VolumeDocument:
    return {"pool": volume.pool, "volume": volume.volume, "path": volume.path, "format": volume.format}


def _disk(disk: DiskResult) -> DiskDocument:
    return {
        "target": disk.target,
        "action": disk.action.value,
        "reason": disk.reason,
        "source": _volume(disk.source),
        "clone": _volume(disk.clone),
        "capacity": disk.capacity,
        "bytes_copied": disk.bytes_copied,
        "transfer": None if disk.transfer is None else disk.transfer.value,
        "subclusters": disk.subclusters,
    }


def _nvram(nvram: NvramResult) -> NvramDocument:
    return {"action": nvram.action.value, "source": nvram.source, "clone": nvram.clone, "format": nvram.format}


def _origin(origin: CloneOrigin) -> OriginDocument:
    from datetime import UTC, datetime  # noqa: PLC0415 - only listings tell a time

    return {
        "status": "finished" if origin.finished else "unfinished",
        "source": _reference(origin.source),
        "mode": origin.mode.value,
        "created": datetime.fromtimestamp(origin.created, UTC).isoformat(timespec="seconds"),
    }
