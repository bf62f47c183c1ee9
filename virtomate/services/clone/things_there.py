"""Whether another host has the things that an original names: pools, networks, secrets, files and devices."""

from __future__ import annotations

import os
import posixpath
from contextlib import suppress
from typing import TYPE_CHECKING

from virtomate.definition import file_readers, moving
from virtomate.definition.readers import child, devices, find_interface
from virtomate.enums import DiskAction, MapKind
from virtomate.errors import VirtomateError
from virtomate.hypervisor import host
from virtomate.notices import CloneWarning, notice
from virtomate.paths import normalise
from virtomate.services.clone.comparison import Lack
from virtomate.services.clone.disk_survey import reason_to_leave

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.definition.file_readers import DiskDefinition
    from virtomate.definition.moving import Need
    from virtomate.services.clone.comparison import Comparison
    from virtomate.services.clone_records import DiskOptions

# Disks of these types lead to the same content from every host.
_REACHED_FROM_EVERYWHERE = frozenset({"network"})


def missing_things(look: Comparison, loaders: frozenset[str]) -> Iterator[Lack]:
    """Yield what the other host lacks; `loaders` are the paths of the firmware that libvirt knows there."""
    things = _Things(look)
    yield from things.pools()
    yield from things.disks()
    for need in things.needs():
        new = look.use(need.kind, need.name, need.where)
        if new not in loaders:
            yield from things.judge(need, new)


class _Things:
    """The things of an original, looked for on another host."""

    def __init__(self, look: Comparison) -> None:
        self._look = look
        self._survey = look.survey
        self._domain = look.survey.source.definition.domain
        self._connection = look.survey.target.connection
        self._choices = {chosen.target: chosen for chosen in look.survey.request.disks}

    def pools(self) -> Iterator[Lack]:
        """Yield the missing pools that the new volumes of disks would go to."""
        for disk in file_readers.disks(self._domain):
            chosen, where = self._choices.get(disk.target), f"disk {disk.target}"
            if self._is_left(disk, chosen):
                continue
            is_chosen = self._survey.request.pool is not None or (chosen is not None and chosen.pool is not None)
            if (pool := self._pool_of(disk)) is None:
                if not is_chosen:
                    is_enough = self._survey.request.outside_pools or disk.type == "block"
                    cure = "--pool POOL" if is_enough else "--pool POOL with --outside-pools"
                    yield Lack(f"a storage pool for {where} ({disk.location}), which is in none of its own host", cure)
                continue
            new = self._look.use(MapKind.POOL, pool, where)
            known = self._survey.target.pools.find(new)
            if not is_chosen and (known is None or not known.is_active):
                yield self._look.lack(MapKind.POOL, pool, where, "" if known is None else "which is not active")

    def disks(self) -> Iterator[Lack]:
        """Yield the disks that are not duplicated, and that the other host does not have."""
        for disk in file_readers.disks(self._domain):
            chosen = self._choices.get(disk.target)
            is_dropped = chosen is not None and chosen.treatment is DiskAction.DROP
            is_needed = not is_dropped and not disk.is_empty and self._is_left(disk, chosen)
            if not is_needed or disk.type in _REACHED_FROM_EVERYWHERE:
                continue
            where, cure = f"disk {disk.target}", f"--disk {disk.target}={'copy' if disk.type == 'block' else 'drop'}"
            if not disk.is_readonly:
                if not self._is_same_file(disk):
                    yield Lack(f"{where} ({disk.location}), which is not duplicated and which hosts do not share", cure)
            elif disk.pool is not None and disk.volume is not None:
                pool = self._look.use(MapKind.POOL, disk.pool, where)
                there = self._survey.target.pools.path_of(pool, disk.volume)
                if there is None or self._has_file(there) is False:
                    yield Lack(f"volume '{disk.volume}' in storage pool '{pool}' ({where})", cure)
            elif disk.path is not None:
                path = self._look.use(MapKind.FILE, disk.path, where)
                for lack in self._judge_file(path, where, self._look.lack(MapKind.FILE, disk.path, where)):
                    yield lack
                    yield lack._replace(cure=cure)
            else:
                yield Lack(f"{where} ({disk.location}), which is not duplicated", cure)

    def _is_left(self, disk: DiskDefinition, chosen: DiskOptions | None) -> bool:
        """Return whether a disk is not duplicated."""
        treatment = None if chosen is None else chosen.treatment
        if treatment in {DiskAction.DROP, DiskAction.SHARE}:
            return True
        is_asked = treatment is not None and treatment.duplicates
        if disk.type == "block":
            is_asked = is_asked or (self._survey.request.block is not None and not disk.is_readonly)
            return disk.is_empty or not is_asked
        return reason_to_leave(disk) is not None and not (disk.is_readonly and is_asked)

    def needs(self) -> Iterator[Need]:
        """Yield the other things that the definition names, but for networks in whose place others were asked for."""
        shape = self._survey.request.shape
        networks = () if shape is None else shape.networks
        replaced = {find_interface(self._domain, choice.interface or "1") for choice in networks}
        macs = {
            f"interface {child(interface, 'mac').get('@address', position + 1)}"
            for position, interface in enumerate(devices(self._domain, "interface"))
            if position in replaced
        }
        yield from (need for need in moving.needs(self._domain) if need.where not in macs)

    def judge(self, need: Need, new: str) -> Iterator[Lack]:
        """Yield that a thing is missing, if the other host has not what it is called there."""
        lack = self._look.lack(need.kind, need.name, need.where)
        if need.kind is MapKind.FILE:
            yield from self._judge_file(new, need.where, lack)
        elif need.kind is MapKind.NETWORK:
            yield from self._judge_network(new, lack)
        elif not self._has(need, new):
            yield lack

    def _has(self, need: Need, new: str) -> bool:
        if need.kind is MapKind.BRIDGE:
            return host.has_network_device(self._connection, new) is not False
        if need.kind is MapKind.SECRET:
            return host.has_secret(self._connection, new)
        # whoever maps a device to itself says that it is there
        is_asked = (need.kind, need.name) in self._look.moved.names
        return is_asked or host.has_device(self._connection, new)

    def _judge_network(self, name: str, lack: Lack) -> Iterator[Lack]:
        is_active = self._connection.is_network_active(name)
        if is_active is None:
            yield lack
        elif not is_active and self._survey.request.start:
            yield lack._replace(what=f"{lack.what}, which is not active")

    def _judge_file(self, path: str, where: str, lack: Lack) -> Iterator[Lack]:
        is_there = self._has_file(path)
        if is_there is False:
            yield lack
        elif is_there is None:
            target = self._look.hosts.target
            self._look.warnings.append(notice(CloneWarning.UNCHECKED_FILE, path, host=target, where=where))

    def _has_file(self, path: str) -> bool | None:
        """Return whether the other host has a file; None where nothing shows that."""
        if self._connection.is_local and os.path.exists(path):
            return True
        directory, name = posixpath.split(normalise(path))
        known = self._survey.target.pools.covering(directory)
        if known is None or not known.is_active:
            return False if self._connection.is_local else None
        if known.pool.find_volume(name) is None:
            known.pool.refresh()
        return known.pool.find_volume(name) is not None

    def _pool_of(self, disk: DiskDefinition) -> str | None:
        if disk.pool is not None:
            return disk.pool
        if disk.type == "block":
            from virtomate.services.storage.devices import find_device  # noqa: PLC0415 - most disks are files

            found = find_device(self._survey.connection, self._survey.original.pools, normalise(disk.path or ""))
            return None if found is None else found.description.pool
        known = self._survey.original.pools.covering(posixpath.dirname(normalise(disk.path or "")))
        return None if known is None else known.pool.name

    def _is_same_file(self, disk: DiskDefinition) -> bool:
        """Return whether both hosts tell the same of a disk's file: only one file has that time of its last change."""
        path = disk.path or self._survey.original.pools.path_of(disk.pool or "", disk.volume or "")
        if path is None or disk.type not in {"file", "volume"}:
            return False
        with suppress(VirtomateError):
            here = self._survey.original.pools.find_path(path).description
            there = self._survey.target.pools.find_path(path).description
            return here.is_seen_as(there)
        return False
