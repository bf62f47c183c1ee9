"""The guard over originals: what clones are made of, or rest on, must stay as it is until they are complete."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from virtomate.definition import codec, file_readers
from virtomate.definition.provenance import find_provenance
from virtomate.definition.volume import describe_volume
from virtomate.duplication.host_images import forbid_writing
from virtomate.duplication.hostfs import nanoseconds, open_visible
from virtomate.errors import IllegalStateError, NotFoundError, SourceChangedError
from virtomate.hypervisor.domains import find_domain_by_uuid, list_active_domains, list_domains
from virtomate.hypervisor.storage import get_pool, get_volume
from virtomate.paths import normalise
from virtomate.services.definitions import Definitions
from virtomate.services.storage import may_be_running
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from virtomate.definition.provenance import DomainReference
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.devices import SeenDevice
    from virtomate.hypervisor.connection import Connection

_HINT = "Shut it down, and keep it down while it is being cloned."


class Watched(NamedTuple):
    """A volume as it was planned, and its file or device with QEMU's shared lock, where that can be opened here."""

    volume: VolumeDescription
    descriptor: int | None
    device: SeenDevice | None = None

    @property
    def is_locked(self) -> bool:
        """Whether no QEMU opens the volume for writing; a device may have several nodes, each with locks of its own."""
        return self.descriptor is not None


class Guard:
    """What is watched for the clones of one original.

    Where a file is seen, its lock keeps every QEMU from opening it for writing, and every virtomate from deleting it.
    Elsewhere only a look at the end tells.

    Args:
        require_original: Raises SourceChangedError where the original is not as it has to be.
        runs: The runs of domains that were active when the clones were planned, and were looked at then.
    """

    def __init__(
        self, require_original: Callable[[Connection], None], watched: tuple[Watched, ...], runs: frozenset[int]
    ) -> None:
        self._require_original = require_original
        self._watched = watched
        self._unlocked = {item.volume.path: item.volume for item in watched if not item.is_locked}
        self._runs = runs
        self._has_looked = False

    def look_again(self) -> None:
        """Have the next clone look for deletions: one was undone, and nobody sees its claim any more."""
        self._has_looked = False

    def refuse_deletion(self, connection: Connection) -> None:
        """Raise IllegalStateError if another run is deleting an unlocked volume; a clone is claimed by now.

        One look is enough for all clones of a run, unless a clone was undone: a deletion that is marked later sees a
        claim, or what became of it.
        """
        if not self._unlocked or self._has_looked:
            return
        self._has_looked = True
        for domain in list_domains(connection):
            record = None
            with suppress(NotFoundError):
                record = find_provenance(Definitions().inactive(domain), domain.uuid)
            if record is None or record.finished or not may_be_running(record.maker):
                continue
            for made in record.made:
                if made.path in self._unlocked and made.fingerprint is not None:
                    raise IllegalStateError(
                        f"'{made.path}' is being deleted together with domain '{domain.name}'",
                        hint="A linked clone needs that file.",
                    )

    def require_unchanged(self, connection: Connection) -> None:
        """Raise SourceChangedError if the original was started, or a file of it, or below it, was written to."""
        self._require_original(connection)
        for watched in self._watched:
            if not _is_as_it_was(connection, watched):
                path = watched.volume.path
                raise SourceChangedError(f"'{path}' was written to while it was being cloned", hint=_HINT)
        if self._unlocked:
            self._refuse_writers(connection)

    def _refuse_writers(self, connection: Connection) -> None:
        """Refuse an unlocked volume that an active domain may be writing to by now."""
        paths = {(volume.pool, volume.name): path for path, volume in self._unlocked.items()}
        for domain in list_active_domains(connection):
            if domain.run_id in self._runs:
                continue
            try:
                live = codec.parse_definition(Definitions().live(domain)).domain
            except NotFoundError:
                continue
            for disk in file_readers.open_for_writing(live):
                named = normalise(disk.path) if disk.path is not None else ""
                leads = (volume.path for volume in self._unlocked.values() if _leads_to(connection, volume, named))
                path = paths.get((disk.pool or "", disk.volume or "")) or next(leads, None)
                if path is not None:
                    raise SourceChangedError(
                        f"domain '{domain.name}', which may write to '{path}', was started while it was being cloned",
                        hint=_HINT,
                    )


def _leads_to(connection: Connection, volume: VolumeDescription, path: str) -> bool:
    """Return whether a path leads to a volume, as far as is known."""
    if not volume.is_device:
        return path == volume.path
    from virtomate.services.storage.devices import is_device  # noqa: PLC0415 - most volumes are files

    return is_device(connection, volume, path)


def require_off(connection: Connection, original: DomainReference) -> None:
    """Raise SourceChangedError if the original was started."""
    domain = find_domain_by_uuid(connection, original.uuid)
    if domain is not None and domain.is_active():
        raise SourceChangedError(f"domain '{original.name}' was started while it was being cloned", hint=_HINT)


@contextmanager
def guarded(
    connection: Connection, require_original: Callable[[Connection], None], volumes: Iterable[VolumeDescription]
) -> Iterator[Guard]:
    """Watch over volumes from before the first claim until the last definition; for the arguments see `Guard`.

    Raises:
        IllegalStateError: Somebody writes to one, or is about to delete it.
        SourceChangedError: One changed since it was looked at.
    """
    watched = []
    with ExitStack() as stack:
        for volume in {volume.path: volume for volume in volumes}.values():
            if volume.is_device:
                watched.append(Watched(volume, None, _watch_device(connection, volume, stack)))
                continue
            descriptor = _open(connection, volume)
            if descriptor is not None:
                stack.callback(os.close, descriptor)
                forbid_writing(descriptor, volume.path)
                _require_in_place(descriptor, volume)
            watched.append(Watched(volume, descriptor))
        active = [] if all(item.is_locked for item in watched) else list_active_domains(connection)
        yield Guard(require_original, tuple(watched), frozenset(domain.run_id for domain in active))


def _watch_device(connection: Connection, volume: VolumeDescription, stack: ExitStack) -> SeenDevice | None:
    """Watch a block device, if it can be opened here, until the end of the stack."""
    from virtomate.duplication.devices import watch_device  # noqa: PLC0415 - most volumes are files

    device = watch_device(volume) if connection.is_local else None
    if device is None and connection.is_local and volume.pool:
        # the original may have been shut down since; libvirt looks at the node's times only when it refreshes the pool
        get_pool(connection, volume.pool).refresh()
        device = watch_device(_look(connection, volume))
    if device is not None:
        stack.callback(os.close, device.descriptor)
    return device


def _open(connection: Connection, volume: VolumeDescription) -> int | None:
    """Open the file that is the volume now; its change time may be another than in the plan, its content may not."""
    descriptor = open_visible(volume, os.O_RDONLY)
    if descriptor is not None or not connection.is_local:
        return descriptor
    now = _look(connection, volume)
    if not _has_content_of(now, volume):
        raise _changed(volume)
    return open_visible(now, os.O_RDONLY)


def _require_in_place(descriptor: int, volume: VolumeDescription) -> None:
    """Make sure that the volume's path still leads to the file that is locked."""
    with suppress(OSError):
        if os.path.samestat(os.fstat(descriptor), os.stat(volume.path)):
            return
    raise _changed(volume)


def _is_as_it_was(connection: Connection, watched: Watched) -> bool:
    volume = watched.volume
    if volume.is_device:
        return _is_same_device(connection, watched)
    if watched.descriptor is None:
        return _has_content_of(_look(connection, volume), volume)
    _require_in_place(watched.descriptor, volume)
    status = os.fstat(watched.descriptor)
    return (status.st_mtime_ns, status.st_size) == (nanoseconds(volume.modified), volume.physical)


def _is_same_device(connection: Connection, watched: Watched) -> bool:
    """Return whether nobody has written to a block device, as far as can be seen; the times of a node tell nothing."""
    from virtomate.duplication.devices import is_unwritten  # noqa: PLC0415 - as above

    volume = watched.volume
    if watched.device is not None and not is_unwritten(watched.device):
        return False
    if not volume.pool:
        return True
    now = _look(connection, volume)
    return (now.key, now.physical) == (volume.key, volume.physical)


def _look(connection: Connection, volume: VolumeDescription) -> VolumeDescription:
    return describe_volume(volume.pool, get_volume(connection, volume.pool, volume.name).document())


def _has_content_of(now: VolumeDescription, volume: VolumeDescription) -> bool:
    return (now.modified, now.physical) == (volume.modified, volume.physical)


def _changed(volume: VolumeDescription) -> SourceChangedError:
    return SourceChangedError(
        f"'{volume.path}' was replaced, deleted or written to since the clone was planned", hint="Try again."
    )
