"""The plan for the NVRAM of a clone."""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING

from virtomate.definition import codec, readers
from virtomate.definition.volume import normalise
from virtomate.duplication import choice, names
from virtomate.duplication.hostfile import may_be_filled_here
from virtomate.errors import ConflictError
from virtomate.hypervisor.domains import native_command_line
from virtomate.records import Action, MadeKind, NvramAction, Transfer
from virtomate.services.pools import PoolDirectory, find_volume

if TYPE_CHECKING:
    from collections.abc import Mapping

    from virtomate.definition.readers import NvramDefinition
    from virtomate.duplication.transfers.base import Duplication
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Pool
    from virtomate.services.source import Source


@dataclass(frozen=True)
class NvramPlan:
    """What becomes of the NVRAM.

    Attributes:
        source_path: Its path, None where it is no file.
        path: Path of the clone's, likewise.
        pool: The pool over its directory, None where a temporary one is needed.
        duplication: How it is duplicated; None where that needs the temporary pool to tell, or nothing is to be copied.
    """

    action: NvramAction
    source_path: str | None
    path: str | None
    format: str
    pool: str | None
    duplication: Duplication | None

    @property
    def needs_temporary_pool(self) -> bool:
        """Whether its directory is no pool."""
        return self.action is NvramAction.COPIED and self.pool is None


def plan_nvram(
    connection: Connection,
    source: Source,
    clone_name: str,
    pools: PoolDirectory,
    taken_names: Mapping[str, set[str]],
    *,
    keep_owner: bool,
) -> NvramPlan | None:
    """Plan what becomes of the NVRAM; None where the original has none.

    Args:
        connection: Where the original is.
        source: The original.
        clone_name: Name of the clone.
        pools: The pools there.
        taken_names: Names given to other new volumes of the clone, by directory.
        keep_owner: Whether the new file gets its original's owner.

    Raises:
        ConflictError: Something has the path that the clone's NVRAM would get.
    """
    domain = source.definition.domain
    nvram = readers.nvram(domain)
    if nvram is None and not readers.has_selected_nvram(domain):
        return None
    if nvram is not None and nvram.type != "file":
        return NvramPlan(NvramAction.SHARED, None, None, nvram.format, None, None)
    path = _nvram_path(connection, source, nvram)
    if path is None:
        return None
    directory, source_name = posixpath.split(path)
    name = names.new_volume_name(source_name, source.reference.name, clone_name, is_overlay=False)
    name = names.distinct_volume_name(name, "nvram", taken_names.get(directory, set()))
    new_path = posixpath.join(directory, name)
    format_ = "raw" if nvram is None else nvram.format
    known = pools.covering(directory)
    if known is None or not known.is_active:
        return NvramPlan(NvramAction.COPIED, path, new_path, format_, None, None)
    duplication = plan_nvram_duplication(
        known.pool, path, new_path, is_local=connection.is_local, keep_owner=keep_owner
    )
    action = NvramAction.FRESH if duplication is None else NvramAction.COPIED
    return NvramPlan(action, path, new_path, format_, known.pool.name, duplication)


def _nvram_path(connection: Connection, source: Source, nvram: NvramDefinition | None) -> str | None:
    """The normalised path; libvirt 9.0 does not show the one that it chose itself, but would start QEMU with it."""
    if nvram is not None and nvram.path:
        return normalise(nvram.path)
    firmware = codec.unparse(readers.firmware_only(source.definition.domain), "domain")
    command_line = native_command_line(connection, firmware)
    path = readers.nvram_path_of_command_line(command_line)
    return None if path is None else normalise(path)


def plan_nvram_duplication(
    pool: Pool, source_path: str, path: str, *, is_local: bool, keep_owner: bool
) -> Duplication | None:
    """Plan the byte copy of an NVRAM within a pool over its directory; None if the file was never made.

    Raises:
        ConflictError: Something has the path that the clone's NVRAM would get; libvirt would silently use it.
    """
    name = posixpath.basename(path)
    # a pool does not list a link that leads nowhere
    if find_volume(pool, name) is not None or (is_local and os.path.lexists(path)):
        raise ConflictError(
            f"there is already a file '{path}', which the clone would take for its NVRAM",
            hint="Choose another name for the clone, or move that file away.",
        )
    found = find_volume(pool, posixpath.basename(source_path))
    if found is None:
        return None
    # bytes are copied whatever they mean
    raw = choice.as_format(found.description, "raw")
    transfers = (Transfer.HOST, Transfer.STREAM) if may_be_filled_here(raw) else (Transfer.STREAM,)
    return choice.plan_duplication(
        "nvram", MadeKind.NVRAM, raw, name, Action.COPIED, transfers, (), keep_owner=keep_owner
    )
