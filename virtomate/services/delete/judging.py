"""What is proved of an artifact of a clone, in its storage pool or in none."""

from __future__ import annotations

import posixpath
from contextlib import suppress
from typing import TYPE_CHECKING

from virtomate.enums import ArtifactKind
from virtomate.errors import HypervisorError, UnsupportedError
from virtomate.services.firmware import own_nvram_path
from virtomate.services.storage import PoolEntry, find_entry, is_temporary
from virtomate.services.storage.artifacts import (
    Judgement,
    Verdict,
    bears_token_here,
    judge_in_pool,
    judge_outside_pools,
    over_directory_of,
    pool_cure,
    why_not_in,
)

if TYPE_CHECKING:
    from virtomate.definition.codec import Definition
    from virtomate.definition.provenance import Artifact, Provenance
    from virtomate.hypervisor.connection import Connection


def judge_made(
    connection: Connection, definition: Definition, record: Provenance, made: Artifact, known: PoolEntry | None
) -> tuple[Judgement, bool]:
    """Judge an artifact of a clone; return also whether that was done without a storage pool that has the artifact."""
    token = record.artifact_token
    if known is None and is_temporary(made.pool):
        # a killed run may have left the temporary pool running in which it made the file
        known = find_entry(connection, made.pool)
    if (judgement := judge_in_pool(connection, known, made, token)) is not None:
        return judgement, False
    is_stopped = known is not None and not known.is_active
    if not is_stopped and bears_token_here(made, token):
        return Judgement(Verdict.PROVED), True
    is_lost = known is None and is_temporary(made.pool)
    if known is None and made.kind is ArtifactKind.NVRAM and (record.finished or not is_lost):
        directories = _nvram_directories(connection, definition)
        return judge_outside_pools(made, token, directories, is_local=connection.is_local), True
    if is_lost:
        return _judge_outside(connection, made, token), True
    return Judgement(Verdict.AWAY, why_not_in(made, known) or "", hint=pool_cure(made, known)), False


def _judge_outside(connection: Connection, made: Artifact, token: str | None) -> Judgement:
    """Judge a volume in no storage pool through a temporary pool over its directory."""
    try:
        with over_directory_of(connection, made) as known:
            judgement = judge_in_pool(connection, known, made, token)
    except (HypervisorError, UnsupportedError) as error:
        return Judgement(
            Verdict.AWAY,
            f"cannot be looked at, since it is in no storage pool and libvirt has failed: {error.message}",
            hint=f"Bring its directory back, or make it a storage pool: '{posixpath.dirname(made.path)}'.",
        )
    if judgement is None:
        raise AssertionError("the temporary pool is over the directory of the volume")
    return judgement


def _nvram_directories(connection: Connection, definition: Definition) -> frozenset[str]:
    """Return the directory in which libvirt keeps the NVRAM of such domains, if libvirt tells it."""
    with suppress(HypervisorError):
        if (path := own_nvram_path(connection, definition.domain)) is not None:
            return frozenset({posixpath.dirname(path)})
    return frozenset()
