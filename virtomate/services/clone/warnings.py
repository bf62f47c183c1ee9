"""What should be known of all clones of a run, besides what their definitions tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.advice import virsh
from virtomate.definition import readers
from virtomate.enums import Action
from virtomate.services.clone.networks import lost_dhcp_entries
from virtomate.services.clone.seeds import seed_warnings
from virtomate.services.clone.sharing import written_by_both

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from virtomate.hypervisor.connection import Connection
    from virtomate.services.clone.disks import SurveyedDisk
    from virtomate.services.clone.original import Source
    from virtomate.services.clone.records import CloneRequest
    from virtomate.services.clone.side_files import SurveyedNvram
    from virtomate.services.storage.firmware import Firmware
    from virtomate.services.storage.pools import PoolIndex


def clone_warnings(
    connection: Connection,
    request: CloneRequest,
    source: Source,
    pools: PoolIndex,
    disks: tuple[SurveyedDisk, ...],
    firmware: Firmware,
    nvram: SurveyedNvram | None,
) -> tuple[str, ...]:
    """A sentence for each thing to know before a clone is started."""
    name = source.reference.name
    return (
        *_left_untouched(disks, nvram),
        *_addresses(connection, request, source),
        *_linked(name, disks),
        *(warning for item in disks for warning in item.warnings),
        *seed_warnings(connection, pools, disks),
        *(() if nvram is None else nvram.warnings),
        *_firmware(name, firmware),
        *_warn_of_snapshots(source, disks),
        *source.not_carried_over,
        *_saved_state(source),
    )


def _left_untouched(disks: tuple[SurveyedDisk, ...], nvram: SurveyedNvram | None) -> Iterator[str]:
    for item in written_by_both(disks):
        yield (
            f"disk {item.disk.target} ({item.disk.location}) is left untouched ({item.reason}): "
            "original and clone both write to it"
        )
    if nvram is not None and nvram.path is None:
        yield "the NVRAM is no file and left untouched: original and clone both write to it"


def _addresses(connection: Connection, request: CloneRequest, source: Source) -> Iterator[str]:
    domain = source.definition.domain
    if not request.keep_mac_addresses:
        yield from lost_dhcp_entries(connection, domain)
    elif readers.mac_addresses(domain):
        name = source.reference.name
        yield f"'{name}' and its clone have the same MAC addresses, and disturb each other in one network"


def _linked(name: str, disks: tuple[SurveyedDisk, ...]) -> Iterator[str]:
    if any(item.action is Action.LINKED for item in disks):
        yield f"starting '{name}' from now on destroys its linked clones: their disks rest on its own"


def _firmware(name: str, firmware: Firmware) -> Iterator[str]:
    if firmware.missing is not None:
        yield f"'{name}' and its clone cannot be started here: {firmware.missing}"


def _saved_state(source: Source) -> Iterator[str]:
    if source.has_managed_save:
        yield (
            f"'{source.reference.name}' has a saved state that is not carried over: the clone's disks are as after a "
            "power cut"
        )


def _warn_of_snapshots(source: Source, disks: Iterable[SurveyedDisk]) -> tuple[str, ...]:
    """What becomes of the original's snapshots; nothing where libvirt knows of none."""
    name, external = source.reference.name, source.external_snapshot_count
    targets = [item.disk.target for item in disks if item.keeps_snapshots]
    lost = f"'{name}' has snapshots, which are not carried over"
    if not targets or source.snapshot_count == external:
        return (lost,) if source.snapshot_count else ()
    disk, have = ("disk", "has") if len(targets) == 1 else ("disks", "have")
    kept = (
        f"{disk} {' and '.join(targets)} of the clone {have} the snapshots of '{name}' inside, but libvirt does not "
        f"know them there: {virsh('snapshot-create', options='--redefine')} makes them known"
    )
    return (kept, f"'{name}' has external snapshots, which are not carried over") if external else (kept,)
