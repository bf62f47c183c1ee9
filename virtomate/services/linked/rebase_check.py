"""The comparison of a new base with the former base, before a disk gets the new one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.duplication.rebasing import ClosedImageError, OpenImage, have_same_content, opened_for_reading
from virtomate.enums import BaseCheck
from virtomate.errors import NotFoundError, UnsupportedError
from virtomate.services.linked.comparison import compare
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from virtomate.cancel import CancelToken
    from virtomate.definition.lower_images import BaseFingerprint
    from virtomate.definition.provenance import Artifact
    from virtomate.services.linked.sight import Sight, Sights

QCOW2, RAW = "qcow2", "raw"
_MAX_DEPTH = 200


class NewBase(NamedTuple):
    """What a disk is to rest on.

    Attributes:
        chain: The new base and the images below it, nearest first, each with its format.
        opened: The same, open here; None where they cannot be opened here.
        made: The line of the clone's record for the disk's image, if there is one.
    """

    chain: tuple[tuple[Sight, str], ...]
    opened: tuple[OpenImage, ...] | None
    made: Artifact | None


def chain_of(sights: Sights, base: str, format_: str) -> tuple[tuple[Sight, str], ...]:
    """Return an image and those below it, each with its format; raise NotFoundError if an image is not there."""
    chain: list[tuple[Sight, str]] = []
    path: str | None = base
    while path is not None and len(chain) < _MAX_DEPTH:
        sight = sights.look(path, is_qcow2=format_ == QCOW2)
        if not sight.is_there:
            raise NotFoundError(f"'{base}' needs '{path}', which cannot be found", "Bring that file back first.")
        chain.append((sight, format_))
        path, format_ = sight.backing, sight.backing_format or RAW
    return tuple(chain)


def check_base(
    sights: Sights,
    new: NewBase,
    former: tuple[str, str] | None,
    cancel: CancelToken,
    advance: Callable[[float], None],
) -> BaseCheck:
    """Compare a new base with the former base: their content if that is there, else by the clone's record.

    Args:
        sights: Looks at images.
        new: The new base.
        former: Path and format of the former base, None if it is the same file.
        cancel: Ends the comparison when a signal arrives.
        advance: Is told which share has been compared.

    Raises:
        UnsupportedError: The content differs, or nothing tells whether it does.
    """
    base = new.chain[0][0].path
    below = None if former is None else _former_chain(sights, new.made, *former)
    if below is not None and new.opened is not None and former is not None:
        try:
            with opened_for_reading(below) as opened:
                if have_same_content(opened, new.opened, cancel, advance):
                    return BaseCheck.CONTENT
        except ClosedImageError:
            pass
        else:
            raise UnsupportedError(
                f"'{base}' has another content than '{former[0]}', the former base",
                hint=f"It was read as {new.chain[0][1]}; --base-format names another format.",
            )
    if _is_recorded(new):
        return BaseCheck.RECORD
    raise UnsupportedError(
        f"nothing tells whether '{base}' has the content of the former base: that is not there as it was, and the "
        "record of the clone does not fit the new one",
        hint="--unsafe skips this check. A base with another content destroys the disk.",
    )


def _is_recorded(new: NewBase) -> bool:
    """Return whether the new base and all below have length, modification time and header as in the record.

    Inode number and birth time do not count: a file that was moved or copied has others.
    """
    recorded = _recorded(new.made)
    if not recorded or len(recorded) != len(new.chain):
        return False
    return all(
        then.modified is not None
        and sight.fingerprint is not None
        and sight.fingerprint.modified is not None
        and compare(sight.path, then._replace(inode=None, birth_time=None), sight.fingerprint).finding is None
        for then, (sight, _) in zip(recorded, new.chain, strict=True)
    )


def _former_chain(sights: Sights, made: Artifact | None, path: str, format_: str) -> list[tuple[str, str]] | None:
    """Return the former base and the images below it, by path and format; None if they are not as they were."""
    try:
        chain = chain_of(sights, path, format_)
    except NotFoundError:
        return None
    for then, (sight, _) in zip(_recorded(made), chain, strict=False):
        if sight.fingerprint is None or compare(sight.path, then, sight.fingerprint).finding is not None:
            return None
    return [(sight.path, found) for sight, found in chain]


def _recorded(made: Artifact | None) -> Sequence[BaseFingerprint]:
    if made is None or made.base_fingerprint is None:
        return ()
    return (made.base_fingerprint, *(lower.fingerprint for lower in made.below))
