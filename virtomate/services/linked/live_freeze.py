"""The freeze of an original that runs: a snapshot of libvirt's moves all disks onto overlays at one moment.

The order is that of a freeze of an original that is off. The snapshot changes the running domain and its definition in
one call, so whenever a run is killed, both name the former volumes, or both name the overlays. QEMU has written
everything to the former volumes when the call returns, and from then on has them open for reading alone.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from virtomate.definition import codec, file_readers
from virtomate.definition.lower_images import fingerprint_base
from virtomate.definition.snapshot import overlays_document
from virtomate.duplication import select
from virtomate.duplication.hostfs import with_identity
from virtomate.duplication.image_headers import HEADER_BYTES, header_digest
from virtomate.duplication.transfers.backup import BackupStart
from virtomate.enums import Consistency, Quiesce
from virtomate.hypervisor.backup import capacity_bytes
from virtomate.hypervisor.domains import find_domain_by_uuid
from virtomate.hypervisor.snapshots import move_onto_overlays
from virtomate.hypervisor.storage import get_pool, get_volume, read_head
from virtomate.rollback import persist
from virtomate.services.linked.freeze import (
    Freeze,
    OvertakenError,
    new_source,
    require_disk,
)
from virtomate.services.linked.freeze_record import settle_disk
from virtomate.services.quiesce import Guest, begin_frozen, thaw_abandoned, thawed_note
from virtomate.services.storage import describe, read_pools
from virtomate.services.transaction import guarded

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from virtomate.definition.codec import Definition
    from virtomate.definition.volume import VolumeDescription
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.services.linked.freeze import FreezePlan
    from virtomate.services.transaction import Guard, Run

_LOG = logging.getLogger(__name__)


class LiveFreeze(Freeze):
    """The freeze of one original that runs, by one thread; without a clone the freeze stays, which is harmless.

    Args:
        run_id: Tells the run of the domain from others.
        quiesce: Whether the file systems of the guest are frozen for the moment in which the disks move.
    """

    def __init__(self, run: Run, plan: FreezePlan, run_id: int, quiesce: Quiesce) -> None:
        super().__init__(run, plan)
        self._run_id = run_id
        self._quiesce = quiesce

    def _guarded(self) -> AbstractContextManager[Guard]:
        """Watch over the images below: QEMU has the volumes themselves open for writing until the disks have moved."""
        below = {image.path: image for move in self._plan.moves for image in move.way.below}
        return guarded(self._run.source.connection, self._require_run, below.values())

    def _require_run(self, connection: Connection) -> None:
        original = self._plan.original
        domain = find_domain_by_uuid(connection, original.uuid)
        if domain is None or domain.run_id != self._run_id:
            raise OvertakenError(f"domain '{original.name}' was shut off while it was being frozen", hint="Try again.")

    def _move(self) -> None:
        """Move all disks at one moment, if they still are those of the plan."""
        domain, pools = self._original(), read_pools(self._run.source.connection)
        active = codec.parse_definition(domain.active_definition())
        definition = codec.parse_definition(domain.inactive_definition())
        for move in self._plan.moves:
            for each in (active, definition):
                require_disk(domain.name, each, move, pools)
            if capacity_bytes(domain, move.target) != move.way.source.capacity:
                raise OvertakenError(
                    f"disk {move.target} of domain '{domain.name}' was resized while the domain was being frozen",
                    hint="Try again.",
                )
        self._former = definition
        overlays = {move.target: move.way.place.path for move in self._plan.moves}
        all_disks = [disk.target for disk in file_readers.disks(active.domain)]
        self.start = self._take_moment(domain, overlays_document(overlays, all_disks))
        self._look_at_bases()
        persist(partial(self._settle_definition, definition))

    def _settle_definition(self, former: Definition) -> None:
        domain = self._original()
        for move in self._plan.moves:
            settle_disk(domain, move.target, new_source(move), former)

    def _take_moment(self, domain: Domain, document: str) -> BackupStart:
        """Have libvirt move the disks, with the file systems of the guest frozen if that was asked for."""
        run = self._run
        if thaw_abandoned(domain):
            run.progress.note(thawed_note(domain.name))
        _LOG.info("moving the disks of %r onto overlays: %s", domain.name, document)
        if self._quiesce is Quiesce.OFF:
            move_onto_overlays(domain, document)
            return BackupStart(Consistency.CRASH)
        is_required = self._quiesce is Quiesce.REQUIRE
        guest = Guest(run.source.connection, domain, self._claim.token, is_required, run.cancel)
        return begin_frozen(guest, partial(move_onto_overlays, domain, document))

    def _look_at_bases(self) -> None:
        """Take down what the bases are like, now that nobody writes to them any more."""
        moves = tuple(
            move._replace(way=move.way._replace(source=look_at_base(self._run.source.connection, move.way.source)))
            for move in self._plan.moves
        )
        self._plan = self._plan._replace(moves=moves)
        bases = {move.way.place.path: fingerprint_base(move.way.source) for move in moves}
        for made in self._claim.provenance.made:
            self._claim.note(made._replace(base_fingerprint=bases[made.path]))


def look_at_base(connection: Connection, base: VolumeDescription) -> VolumeDescription:
    """Return a base as it is now."""
    volume = get_volume(connection, base.pool, base.name)
    now = with_identity(select.as_format(describe(get_pool(connection, base.pool), volume).description, base.format))
    if now.format == "qcow2":
        now = now._replace(header=header_digest(read_head(connection, volume, HEADER_BYTES)))
    # permissions and capacity are those that the overlay has got
    return now._replace(capacity=base.capacity, mode=base.mode, owner=base.owner, group=base.group, acl=base.acl)
