"""What the making of volumes needs for the backup of a running domain that fills them, and the undo of that."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from virtomate.duplication.transfers.backup import RESUMED, BackedUp, BackupStart, begin_unfrozen, end_backup, fill
from virtomate.enums import Quiesce
from virtomate.hypervisor.backup import begin_backup
from virtomate.services.quiesce import Guest, begin_frozen, thaw_abandoned, thaw_own, thawed_note
from virtomate.services.transaction.growth import grow

if TYPE_CHECKING:
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.base import Duplication, TransferContext
    from virtomate.hypervisor.domains import Domain
    from virtomate.services.transaction.claim import Claim
    from virtomate.services.transaction.run_context import Run


def back_up(
    run: Run,
    claim: Claim,
    filled: tuple[tuple[Duplication, VolumeDescription], ...],
    label: str,
    workplace: TransferContext,
) -> tuple[BackedUp, ...]:
    """Fill the volumes of a claim by one backup, with the file systems of the guest frozen if that was asked for.

    Args:
        run: What the command works with.
        claim: The claim.
        filled: How each volume is duplicated, and the volume as libvirt describes it.
        label: What progress calls the backup.
        workplace: What the backup works with.
    """
    begin = partial(_begin, run, claim.token, filled[0][0], workplace)
    outcomes = fill(filled, label, workplace, begin)
    for way, _ in filled:
        grow(way, workplace.connection, workplace.cancel)
    return outcomes


def _begin(
    run: Run, token: str, way: Duplication, workplace: TransferContext, domain: Domain, document: str
) -> BackupStart:
    if way.running is None:
        raise AssertionError("a backup is of a running domain")
    if thaw_abandoned(domain):
        run.progress.note(thawed_note(domain.name))
    quiesce = way.running.quiesce
    if quiesce is Quiesce.OFF:
        return begin_unfrozen(domain, document)
    guest = Guest(workplace.connection, domain, token, quiesce is Quiesce.REQUIRE, workplace.cancel)
    return begin_frozen(guest, partial(begin_backup, domain, document))


def end_own_backup(run: Run, claim: Claim) -> None:
    """End the backup that fills the volumes of a claim, if it goes on; see `end_backup`."""
    original = claim.provenance.source
    if end_backup(run.source.connection, original.uuid, claim.provenance.backed_up):
        run.progress.note(RESUMED.format(original.name))


def thaw(run: Run, claim: Claim) -> None:
    """Thaw the guest of the original, if it was frozen for the claim; see `thaw_own`."""
    thaw_own(run.source.connection, claim.provenance.source.uuid, claim.token)
