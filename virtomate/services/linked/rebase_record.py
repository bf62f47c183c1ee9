"""The records of rebasing: of the clone whose image gets another base, and of all clones that rest on the image.

The image and the records cannot be changed in one step. So the records say first what is about to happen: which image
gets which base, and, as a digest, what the image holds beside its header. As long as the image names the former base,
the records count as they are. Once the image names the new base and still holds the same, the new base counts. So
whoever looks at the clones can tell at any moment what they rest on, and write it down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition.lower_images import LowerImage, Rebasing
from virtomate.hypervisor.domains import list_domains
from virtomate.services.linked.comparison import compare
from virtomate.services.linked.record import write_record
from virtomate.services.origins import find_record

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtomate.definition.lower_images import BaseFingerprint
    from virtomate.definition.provenance import Artifact, Provenance
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.services.linked.sight import Sights


def note_intention(connection: Connection, sights: Sights, path: str, chain: tuple[LowerImage, ...]) -> None:
    """Write into all records that know an image that it is about to get another base.

    Args:
        connection: Where the clones are.
        sights: Looks at the image.
        path: Path of the image.
        chain: The new base and the images below it, nearest first.
    """
    now = sights.look(path, is_qcow2=True).fingerprint

    def intending(made: Artifact) -> Artifact:
        if made.path == path:
            return made._replace(rebasing=Rebasing(path, None, chain))
        if now is None or _depth_of(made, LowerImage(path, now)) is None:
            return made
        content = sights.content(path)
        return made if content is None else made._replace(rebasing=Rebasing(path, content, chain))

    _change_records(connection, intending)


def complete_intention(connection: Connection, sights: Sights, path: str) -> None:
    """Write down in all records what has become of the intention to give an image another base."""

    def completed(made: Artifact) -> Artifact:
        if made.rebasing is None or made.rebasing.path != path:
            return made
        return made if is_undecided(sights, made) else settled(sights, made)._replace(rebasing=None)

    _change_records(connection, completed)


def settle(sights: Sights, domain: Domain, record: Provenance) -> Provenance:
    """Return the record of a clone as it counts now, and write it down if a run was killed that was to do so."""
    made = tuple(settled(sights, item) for item in record.made)
    if made == record.made:
        return record
    record = record._replace(made=made)
    write_record(domain, record)
    return record


def settled(sights: Sights, made: Artifact) -> Artifact:
    """Return a line of a record as it counts now; the line itself as long as nothing tells that it does not count."""
    mark = made.rebasing
    if mark is None or not _is_rebased(sights, mark) or is_undecided(sights, made):
        return made
    if mark.path == made.path:
        return _resting_on(made, mark.chain)
    sight = sights.look(mark.path, is_qcow2=True)
    chain = _chain(made)
    depth = next((depth for depth, image in enumerate(chain) if image.path == mark.path), None)
    if depth is None or sight.fingerprint is None:
        return made._replace(rebasing=None)
    # these alone change with the name of the base
    then = chain[depth].fingerprint._replace(modified=None, header=None)
    if compare(mark.path, then, sight.fingerprint).finding is not None or sights.content(mark.path) != mark.content:
        return made._replace(rebasing=None)
    return _resting_on(made, (*chain[:depth], LowerImage(mark.path, sight.fingerprint), *mark.chain))


def is_undecided(sights: Sights, made: Artifact) -> bool:
    """Return whether an image has got the base that it was to get, and its content cannot be looked at here."""
    mark = made.rebasing
    if mark is None or mark.content is None or not _is_rebased(sights, mark):
        return False
    return sights.content(mark.path) is None


def note_base(
    domain: Domain,
    path: str,
    base: str,
    fingerprint: BaseFingerprint | None,
    below: tuple[LowerImage, ...],
    *,
    is_written_to: bool,
) -> None:
    """Write into a clone's record on what a volume rests now; nothing happens to a domain without a record.

    Args:
        domain: The domain.
        path: Path of the volume.
        base: Path of the base.
        fingerprint: What the base is like.
        below: The images below the base.
        is_written_to: Whether a domain writes to the base when it is started.
    """
    record = find_record(domain)
    if record is None:
        return
    made = tuple(
        item._replace(base=base, base_fingerprint=fingerprint, below=below, rebasing=None)
        if item.path == path
        else item
        for item in record.made
    )
    frozen = record.frozen and not is_written_to
    if (made, frozen) != (record.made, record.frozen):
        write_record(domain, record._replace(made=made, frozen=frozen))


def note_rebased(connection: Connection, before: LowerImage, now: tuple[LowerImage, ...]) -> None:
    """Write into the records of all clones that rest on an image that the image and those below are other ones now.

    Args:
        connection: Where the clones are.
        before: The image as it was; a record of which the image was already another one stays as it is.
        now: The image as it is now, and the images below it, nearest first.
    """
    _change_records(connection, lambda made: with_rebased(made, before, now))


def with_rebased(made: Artifact, before: LowerImage, now: tuple[LowerImage, ...]) -> Artifact:
    """Return a line of a record with an image and those below as they are now; see `note_rebased`."""
    depth = _depth_of(made, before)
    return made if depth is None else _resting_on(made, (*_chain(made)[:depth], *now))


def _change_records(connection: Connection, change: Callable[[Artifact], Artifact]) -> None:
    """Change lines in the records of all clones."""
    for domain in list_domains(connection):
        record = find_record(domain)
        made = () if record is None else tuple(change(item) for item in record.made)
        if record is not None and made != record.made:
            write_record(domain, record._replace(made=made))


def _is_rebased(sights: Sights, mark: Rebasing) -> bool:
    return bool(mark.chain) and sights.look(mark.path, is_qcow2=True).backing == mark.chain[0].path


def _chain(made: Artifact) -> tuple[LowerImage, ...]:
    if made.base is None or made.base_fingerprint is None:
        return ()
    return (LowerImage(made.base, made.base_fingerprint), *made.below)


def _depth_of(made: Artifact, wanted: LowerImage) -> int | None:
    """Return how deep below a volume an image is; None where the record has none that was like that."""
    for depth, image in enumerate(_chain(made)):
        if image.path == wanted.path and compare(image.path, image.fingerprint, wanted.fingerprint).finding is None:
            return depth
    return None


def _resting_on(made: Artifact, chain: tuple[LowerImage, ...]) -> Artifact:
    base, *below = chain
    return made._replace(base=base.path, base_fingerprint=base.fingerprint, below=tuple(below), rebasing=None)
