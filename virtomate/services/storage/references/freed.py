"""Bases that cloning did not make and that nobody uses any more: they are named, and never deleted."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from virtomate.definition.provenance import Artifact
from virtomate.enums import ArtifactKind, ArtifactState
from virtomate.notices import Kept, notice
from virtomate.words import shell_word, virsh

if TYPE_CHECKING:
    from virtomate.notices import Notice
    from virtomate.services.storage.references.graph import Reference, References


def users_of_file(path: str, references: References) -> tuple[Reference, ...]:
    """Return who uses a file, which need not be a volume."""
    directory, name = posixpath.split(path)
    known = references.pools.covering(directory)
    pool = "" if known is None else known.pool.name
    volume = None if known is None else name
    return references.users(Artifact(ArtifactKind.VOLUME, ArtifactState.MADE, pool, volume, path))


def freed_base(path: str, references: References) -> Notice:
    """Return what is told of a base that nobody uses any more: the command that deletes the file."""
    directory, name = posixpath.split(path)
    known = references.pools.covering(directory)
    if known is None:
        command = f"rm -- {shell_word(path)}"
    else:
        command = virsh("vol-delete", name, options=f"--pool {shell_word(known.pool.name)}")
    return notice(Kept.BASE, path, command=command)
