"""What should be known of all clones of a run, besides what their definitions tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition import readers
from virtomate.enums import Action
from virtomate.errors import RefusedWarningError
from virtomate.notices import CloneWarning, Notice, notice
from virtomate.services.clone.networks import lost_dhcp_entries
from virtomate.services.clone.seeds import seed_warnings
from virtomate.services.clone.sharing import written_by_both

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from virtomate.hypervisor.connection import Connection
    from virtomate.services.clone.disks import SurveyedDisk
    from virtomate.services.clone.original import Source
    from virtomate.services.clone.side_files import SurveyedNvram
    from virtomate.services.clone_records import CloneRequest
    from virtomate.services.firmware import Firmware
    from virtomate.services.storage import PoolIndex


def clone_warnings(
    connection: Connection,
    request: CloneRequest,
    source: Source,
    pools: PoolIndex,
    disks: tuple[SurveyedDisk, ...],
    firmware: Firmware,
    nvram: SurveyedNvram | None,
) -> tuple[Notice, ...]:
    """Return what to know before a clone is started."""
    name = source.reference.name
    is_linked = any(item.action is Action.LINKED for item in disks)
    return (
        *_shared(disks, nvram),
        *_addresses(connection, request, source),
        *((Notice(CloneWarning.LINKED_ORIGINAL, name),) if is_linked else ()),
        *(warning for item in disks for warning in item.warnings),
        *seed_warnings(connection, pools, disks),
        *(() if nvram is None else nvram.warnings),
        *(() if firmware.missing is None else (firmware.missing,)),
        *_snapshots(source, disks),
        *source.not_carried_over,
        *((Notice(CloneWarning.SAVED_STATE, name),) if source.has_managed_save else ()),
    )


def _shared(disks: tuple[SurveyedDisk, ...], nvram: SurveyedNvram | None) -> Iterator[Notice]:
    for item in written_by_both(disks):
        disk = item.disk
        yield notice(CloneWarning.SHARED_DISK, disk.target, location=disk.location, reason=item.reason or "")
    if nvram is not None and nvram.path is None:
        yield Notice(CloneWarning.SHARED_NVRAM, "NVRAM")


def _addresses(connection: Connection, request: CloneRequest, source: Source) -> Iterator[Notice]:
    domain = source.definition.domain
    if not request.keep_mac_addresses:
        yield from lost_dhcp_entries(connection, domain)
    elif readers.mac_addresses(domain):
        yield Notice(CloneWarning.SAME_MAC_ADDRESSES, source.reference.name)


def _snapshots(source: Source, disks: Iterable[SurveyedDisk]) -> Iterator[Notice]:
    """Tell what becomes of the original's snapshots; nothing where libvirt knows of none."""
    name, external = source.reference.name, source.external_snapshot_count
    targets = [item.disk.target for item in disks if item.keeps_snapshots]
    if not targets or source.snapshot_count == external:
        if source.snapshot_count:
            yield Notice(CloneWarning.SNAPSHOTS, name)
        return
    for target in targets:
        yield notice(CloneWarning.UNLISTED_SNAPSHOTS, target, original=name)
    if external:
        yield Notice(CloneWarning.EXTERNAL_SNAPSHOTS, name)


def refuse_warnings(refused: Collection[CloneWarning], warnings: Iterable[Notice]) -> None:
    """Refuse warnings that the user does not accept.

    Raises:
        RefusedWarningError: There are such warnings.
    """
    found = tuple(dict.fromkeys(warning for warning in warnings if warning.code in refused))
    if found:
        raise RefusedWarningError(found)
