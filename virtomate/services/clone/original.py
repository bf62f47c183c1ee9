"""The original, read once."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from virtomate.definition import codec
from virtomate.definition.freeze import read_freeze_mark, without_freeze_mark
from virtomate.definition.provenance import DomainReference, read_provenance
from virtomate.definition.template import as_ordinary, is_template, read_mark
from virtomate.duplication.acl import WRITE_BITS, with_mode
from virtomate.enums import Consistency, Quiesce
from virtomate.errors import IllegalStateError
from virtomate.hypervisor.domains import find_domain
from virtomate.notices import CloneWarning, Notice
from virtomate.services.restart import is_owed
from virtomate.tuples import NamedTuple
from virtomate.words import shutdown_commands, virsh, virtomate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from virtomate.definition.codec import Definition
    from virtomate.definition.freeze import FreezeMark
    from virtomate.definition.provenance import Provenance
    from virtomate.definition.volume import VolumeDescription
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.services.clone.live import RunningOriginal
    from virtomate.services.clone.snapshot import SnapshotSource
    from virtomate.services.clone_records import CloneRequest

# A guest in any other state does not hear that it is to shut down, or is not heard of again.
_LISTENING = frozenset({"running", "blocked", "no state"})
_UNUSUAL = {
    "restart": "its definition restarts it when its guest powers off",
    "rename-restart": "its definition restarts it when its guest powers off",
    "preserve": "its definition preserves it when its guest powers off",
}
_OFFER = "--live clones it as it is. "
_OTHER_OFFER = "--shutdown shuts it down, and starts it again after cloning. "


class Source(NamedTuple):
    """The original, as it was when it was read.

    Attributes:
        snapshot: The snapshot that the definition and the disks are taken from; None for the original as it is now.
        not_carried_over: Warnings of what libvirt stores beside the definition and a clone does not get.
        running: The original that runs and is cloned meanwhile, by a backup or a freeze, else None.
        is_active: Whether the original runs, and will be shut down before anything is copied.
        is_owed: Whether a run that was killed has shut the original down, and not started it again.
        is_served: Whether a run that was killed meant to start the original again, and the original runs.
        is_template: Whether nobody can start the original.
        modes: The permission bits that volumes of a template had before, by path.
        freeze_mark: What the last freeze has written into the original's metadata.
    """

    reference: DomainReference
    definition: Definition
    has_managed_save: bool
    snapshot_count: int
    external_snapshot_count: int
    not_carried_over: tuple[Notice, ...]
    running: RunningOriginal | None = None
    is_active: bool = False
    is_owed: bool = False
    is_served: bool = False
    snapshot: SnapshotSource | None = None
    is_template: bool = False
    modes: Mapping[str, int] = MappingProxyType({})
    freeze_mark: FreezeMark | None = None

    @property
    def consistency(self) -> Consistency:
        """In what state the disks of a clone are to be: of a running guest, as after a power cut, unless it freezes."""
        if self.running is not None and self.running.readiness.quiesce is not Quiesce.OFF:
            return Consistency.FILESYSTEM
        is_of_running = self.snapshot is not None and self.snapshot.snapshot.is_of_running_domain
        return Consistency.OFFLINE if self.running is None and not is_of_running else Consistency.CRASH

    @property
    def backed_up(self) -> RunningOriginal | None:
        """The running original of which a backup is made, else None."""
        return None if self.running is None or self.running.is_to_move else self.running

    @property
    def stands_still(self) -> bool:
        """Whether the original is cloned as it is now, and nobody has to start it again."""
        return not (self.is_active or self.is_owed)

    def as_writable(self, volume: VolumeDescription, found: VolumeDescription) -> VolumeDescription:
        """Return a volume with the write bits that it had before it became a base, for what is duplicated from it.

        `found` is the volume with the permission bits of its file now.
        """
        write_bits = self.modes.get(volume.path, 0) & WRITE_BITS
        return volume if not write_bits else with_mode(volume, int(found.mode or "0", 8) | write_bits)


def read_source(connection: Connection, request: CloneRequest) -> Source:
    """Read the original once, as it is or as it was at the snapshot that was asked for.

    Raises:
        NotFoundError: There is no such domain or snapshot.
        IllegalStateError: The domain is active, an unfinished clone or import, or another run shuts it down.
    """
    domain = find_domain(connection, request.source)
    snapshot = _read_snapshot(domain, request)
    is_active = snapshot is None and domain.is_active()
    if is_active and not request.live and request.shutdown is None:
        state = domain.state()
        raise IllegalStateError(
            f"domain '{domain.name}' is {state}, and must be shut off to be cloned",
            hint=f"{_OFFER}{_OTHER_OFFER if state in _LISTENING else ''}Shut it down first: "
            + shutdown_commands(domain.name, state),
        )
    marked = codec.parse_definition(domain.inactive_definition())
    # a template is cloned as the domain that it was before
    template, definition = read_mark(marked), without_freeze_mark(as_ordinary(marked))
    freeze_mark = read_freeze_mark(marked)
    provenance = read_provenance(definition)
    if provenance is not None and not provenance.finished:
        raise IllegalStateError(
            f"domain '{domain.name}' is {describe_unfinished(provenance)}",
            hint=f"{virtomate('domain-delete', domain.name)} removes the domain and its volumes.",
        )
    if provenance is not None and provenance.is_moment:
        raise IllegalStateError(
            f"domain '{domain.name}' only keeps images of '{provenance.source.name}' for linked clones",
            hint="Clone one of these clones"
            + ("." if provenance.owner is not None else f", or '{provenance.source.name}'."),
        )
    if snapshot is not None:
        snapshot.refuse_commit(domain)
    reference = DomainReference(domain.name, domain.uuid)
    running = None
    left_out: tuple[Notice, ...] = ()
    if is_active and request.live:
        from virtomate.definition.active import with_active_devices  # noqa: PLC0415 - most originals are off
        from virtomate.services.clone.live import hot_plugged, read_running  # noqa: PLC0415 - as above

        running = read_running(connection, domain, reference, definition.domain, request)
        if request.live_devices:
            definition = definition._replace(domain=with_active_devices(definition.domain, running.active))
        else:
            left_out = tuple(hot_plugged(definition.domain, running))
    elif is_active:
        _require_stoppable(domain, definition)
    not_carried_over = {
        CloneWarning.CHECKPOINTS: domain.checkpoint_count() > 0,
        CloneWarning.AUTOSTART: domain.is_autostarted() and not request.autostarts,
    }
    snapshot_count, external_count = domain.snapshot_count(), domain.external_snapshot_count()
    has_record = (snapshot is None or not snapshot.is_running) and is_owed(connection, reference)
    return Source(
        reference=reference,
        definition=definition if snapshot is None else without_freeze_mark(as_ordinary(snapshot.snapshot.definition)),
        # a saved guest goes on with its disks as they are now
        has_managed_save=snapshot is None and domain.has_managed_save(),
        snapshot_count=snapshot_count if snapshot is None else snapshot_count - external_count,
        external_snapshot_count=external_count if snapshot is None else 0,
        not_carried_over=(
            *(Notice(code, domain.name) for code, is_so in not_carried_over.items() if is_so),
            *left_out,
        ),
        running=running,
        is_active=is_active and running is None,
        # an original that is cloned while it runs needs no restart
        is_owed=has_record and running is None,
        is_served=has_record and running is not None,
        snapshot=snapshot,
        is_template=is_template(marked.domain),
        modes={
            **({} if freeze_mark is None else freeze_mark.modes),
            **({} if template is None else {image.path: image.mode for image in template.images}),
        },
        freeze_mark=freeze_mark,
    )


def _read_snapshot(domain: Domain, request: CloneRequest) -> SnapshotSource | None:
    """Read the snapshot that was asked for."""
    if request.snapshot is None:
        return None
    from virtomate.services.clone.snapshot import read_snapshot_source  # noqa: PLC0415 - few clones are of snapshots

    return read_snapshot_source(domain, request.snapshot)


def _require_stoppable(domain: Domain, definition: Definition) -> None:
    """Refuse to shut down an active domain that would not be shut off afterwards, or not be there.

    Raises:
        IllegalStateError: It is such a domain.
    """
    name, state = domain.name, domain.state()
    if not domain.is_persistent():
        raise IllegalStateError(
            f"domain '{name}' is transient: libvirt forgets it when it is shut down, and could not start it again",
            hint=f"Make it persistent first: {virsh('dumpxml', name)} >FILE; {virsh('define', 'FILE')}",
        )
    if state == "shutdown":
        raise IllegalStateError(
            f"domain '{name}' is being shut down already", hint="Run the command again when it is shut off."
        )
    if state not in _LISTENING:
        raise IllegalStateError(
            f"domain '{name}' is {state}, and its guest cannot shut down in this state",
            hint=f"Shut it down first: {shutdown_commands(name, state)}",
        )
    if reason := _UNUSUAL.get(str(definition.domain.get("on_poweroff"))):
        raise IllegalStateError(
            f"domain '{name}' cannot be shut down by its guest: {reason}",
            hint=f"Set <on_poweroff> to destroy ({virsh('edit', name)}), or shut it off yourself.",
        )


def describe_unfinished(provenance: Provenance) -> str:
    """Return how a sentence calls the domain of an unfinished record; the original of an import is its file."""
    return f"an unfinished {provenance.what} of '{provenance.source.name}'"
