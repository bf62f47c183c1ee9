"""The rule by which a pool's directory is trusted: whether others could put a symbolic link where libvirt writes.

libvirt looks a volume up by its path each time, and follows whatever link stands there by then. Whoever may write to
the directory can therefore have a libvirt that runs as root overwrite any file of the host, or read one into a clone.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from virtomate.enums import Transfer
from virtomate.errors import IllegalStateError
from virtomate.notices import CloneWarning, Notice, notice
from virtomate.tuples import NamedTuple
from virtomate.words import shell_word

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = 0


class Directory(NamedTuple):
    """What is known of a directory.

    Attributes:
        owner: User ID, None where it is not known.
        owner_name: What this user is called, None where that is not known.
        mode: Permission bits, None where they are not known. Without a sticky bit where that cannot be told.
        group: Group ID, None where it is not known.
        above: The directories that it lies in, as far as they are known.
    """

    path: str
    owner: int | None
    mode: int | None
    group: int | None = None
    owner_name: str | None = None
    above: tuple[Directory, ...] = ()


class Trust(NamedTuple):
    """How far a directory is trusted.

    Attributes:
        objections: Why libvirt is not to write there, each the end of a sentence about the directory.
        remedies: The commands that would mend that.
        cautions: What should be known of it besides, each the end of a sentence about the directory.
    """

    path: str
    objections: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()


def assess(directory: Directory, users: Iterable[int]) -> Trust:
    """Say how far a directory is trusted that root or one of the users may own; what is not known does not count."""
    trusted = {ROOT, *users}
    objections, remedies = _objections(directory, trusted)
    cautions = []
    mode = directory.mode or 0
    if mode & stat.S_IWGRP and not mode & (stat.S_ISVTX | stat.S_IWOTH):
        cautions.append(f"can be written to by group {directory.group} (mode {mode:04o})")
    for above in directory.above:
        reasons, _ = _objections(above, trusted)
        cautions += [f"lies in '{above.path}', which {reason}" for reason in reasons]
    return Trust(directory.path, tuple(objections), tuple(remedies), tuple(cautions))


def _objections(directory: Directory, trusted: set[int]) -> tuple[list[str], list[str]]:
    objections, remedies = [], []
    path = shell_word(directory.path)
    if directory.owner is not None and directory.owner not in trusted:
        name = "" if directory.owner_name is None else f" ({directory.owner_name})"
        objections.append(f"belongs to user {directory.owner}{name}")
        remedies.append(f"chown root {path}")
    mode = directory.mode or 0
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        objections.append(f"can be written to by everybody (mode {mode:04o})")
        remedies.append(f"chmod o-w {path}")
    return objections, remedies


def admitted(transfers: tuple[Transfer, ...], assessed: Iterable[Trust], what: str) -> tuple[Transfer, ...]:
    """Return the transfers that may be used: in a directory that is not trusted, only those of this process.

    Raises:
        IllegalStateError: None is left.
    """
    objectionable = next((trust for trust in assessed if trust.objections), None)
    if objectionable is None:
        return transfers
    safe = tuple(transfer for transfer in transfers if transfer is Transfer.HOST)
    if not safe:
        raise refusal(objectionable, what)
    return safe


def refusal(trust: Trust, what: str) -> IllegalStateError:
    """Return the error that says why libvirt is not to open files in a directory, and what to do about it."""
    return IllegalStateError(
        f"{what}: libvirt would follow a symbolic link that somebody else puts into '{trust.path}', which "
        f"{' and '.join(trust.objections)}",
        hint=f"Make the directory safe ({'; '.join(trust.remedies)}), use another pool, or give --trust-pool if you "
        "trust whoever can write there.",
    )


def cautions(assessed: Iterable[Trust], what: str) -> tuple[Notice, ...]:
    """Return warnings of directories in which libvirt opens files."""
    return tuple(
        notice(CloneWarning.WRITABLE_DIRECTORY, what, directory=trust.path, reason=caution)
        for trust in assessed
        for caution in trust.cautions
    )
