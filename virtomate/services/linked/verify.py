"""Whether what clones and frozen originals rest on is still what it was when they were made or frozen.

The images of a clone say on what it rests, down to the end of the chain. The record of the clone says what these images
were like, and so does the mark of a frozen original. Somebody may have written to an image, replaced it by a copy,
moved or deleted it; the domain's own disk then belongs to a content that is not there any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition.provenance import read_provenance
from virtomate.enums import ArtifactKind, ArtifactState, BaseProperty, Integrity
from virtomate.errors import IllegalStateError, combined_error
from virtomate.hypervisor.domains import list_domains
from virtomate.notices import BaseFinding, Notice, notice
from virtomate.paths import is_url, normalise
from virtomate.services.linked.comparison import Comparison, compare
from virtomate.services.linked.frozen import find_frozen, frozen_overlays, is_frozen
from virtomate.services.linked.rebase_record import is_undecided, settle, settled
from virtomate.services.linked.record import select_clones
from virtomate.services.linked.sight import Sight, Sights
from virtomate.services.origins import find_record
from virtomate.tuples import NamedTuple
from virtomate.words import shell_word, virtomate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.cancel import CancelToken
    from virtomate.definition.codec import Definition
    from virtomate.definition.freeze import FreezeMark
    from virtomate.definition.lower_images import BaseFingerprint
    from virtomate.definition.provenance import Artifact, Provenance
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.notices import Code

    # A domain, its record, and the overlays that it has got as a frozen original without record.
    _Wanted = tuple[Domain, Provenance | None, tuple[Artifact, ...]]

_BREAKING: dict[Code, str] = {
    BaseFinding.WRITTEN: "was written to",
    BaseFinding.TRUNCATED: "was truncated",
    BaseFinding.REPLACED: "was replaced by another file",
    BaseFinding.MOVED: "was moved",
    BaseFinding.MISSING: "does not exist any more",
}
# What another base mends, if it has the same content.
_REBASED = frozenset({BaseFinding.REPLACED, BaseFinding.MOVED, BaseFinding.MISSING})
# A file that has not these is not known to be the same.
_ESSENTIAL = frozenset({BaseProperty.SIZE, BaseProperty.MODIFIED})
_QCOW2 = "qcow2"


class VerifiedVolume(NamedTuple):
    """A volume of a clone, and what has become of the images below.

    Attributes:
        path: Path of the volume.
        base: Path of the image that the volume rests on.
        reason: What has happened to an image below, or why that cannot be told; None if all images are as they were.
        message: The same with the image.
        found: Where an image is now that was moved or replaced, if that is known.
        checked: The properties that were compared of all images below.
        unchecked: The properties that are recorded and could not be seen.
    """

    path: str
    base: str
    status: Integrity
    reason: BaseFinding | None = None
    message: Notice | None = None
    found: str | None = None
    checked: tuple[BaseProperty, ...] = ()
    unchecked: tuple[BaseProperty, ...] = ()


class Verification(NamedTuple):
    """A clone or frozen original, and whether what it rests on is intact."""

    name: str
    uuid: str
    status: Integrity
    volumes: tuple[VerifiedVolume, ...] = ()

    @property
    def is_broken(self) -> bool:
        """Whether an image is certainly not what it was."""
        return self.status is Integrity.BROKEN


def verify_clones(connection: Connection, names: tuple[str, ...], cancel: CancelToken) -> tuple[Verification, ...]:
    """Verify the clones and frozen originals that names, UUIDs and patterns mean, in this order.

    Without names, all of them that rest on other images are verified. Where a run was killed that gave an image below
    another base, the record of the clone is completed.

    Raises:
        NotFoundError: There is no such domain, or no clone whose name matches a pattern.
        IllegalStateError: A domain is neither a finished clone nor frozen.
        UsageError: A domain is named twice.
    """
    sights = Sights(connection, cancel)
    wanted = list(_named(connection, names, sights, cancel)) if names else list(_all_resting(connection, sights))
    found = []
    for domain, record, frozen in wanted:
        cancel.check()
        now = None if record is None else settle(sights, domain, record)
        found.append(Verification(domain.name, domain.uuid, *verify_volumes(sights, now, frozen)))
    return tuple(found)


def verify_volumes(
    sights: Sights, record: Provenance | None, frozen: tuple[Artifact, ...] = ()
) -> tuple[Integrity, tuple[VerifiedVolume, ...]]:
    """Verify what the volumes in a clone's record and the overlays of a frozen original rest on."""
    looks = (_verify(sights, made) for made in _resting(record, frozen))
    volumes = tuple(volume for volume in looks if volume is not None)
    found = {volume.status for volume in volumes}
    ranked = (Integrity.BROKEN, Integrity.UNVERIFIED, Integrity.INTACT)
    return next((status for status in ranked if status in found), Integrity.INDEPENDENT), volumes


def rests_on_images(record: Provenance) -> bool:
    """Return whether the volumes of a finished clone were made to rest on other images."""
    return next(_resting(record), None) is not None


def refuse_broken(connection: Connection, name: str, record: Provenance | None, sights: Sights | None = None) -> None:
    """Raise IllegalStateError for a clone with this record whose base is not what it was.

    Several clones can share what was seen of their bases.
    """
    if record is not None and rests_on_images(record) and (broken := find_broken(sights or Sights(connection), record)):
        raise broken_clone(name, broken[0])


def refuse_broken_original(connection: Connection, name: str, definition: Definition, mark: FreezeMark | None) -> None:
    """Raise IllegalStateError for an original, a clone or with this mark of a freeze, whose base is not what it was."""
    record = read_provenance(definition)
    refuse_broken(connection, name, record)
    # the record of a clone that was frozen lists the overlays, too
    if record is None and mark is not None:
        sights = Sights(connection)
        if broken := find_broken(sights, None, frozen_overlays(mark, [definition], sights.pools)):
            raise broken_clone(name, broken[0], what="frozen original", last_resort="")


def find_broken(
    sights: Sights, record: Provenance | None, frozen: tuple[Artifact, ...] = ()
) -> tuple[VerifiedVolume, ...]:
    """Return the volumes of a clone, or of a frozen original, that rest on an image that is not what it was."""
    _, volumes = verify_volumes(sights, record, frozen)
    return tuple(volume for volume in volumes if volume.status is Integrity.BROKEN)


def broken_clone(
    name: str, volume: VerifiedVolume, *, what: str = "linked clone", last_resort: str = ", or delete the clone"
) -> IllegalStateError:
    """Return the error for a domain with a volume that rests on an image that is not what it was."""
    finding = volume.message
    if finding is None:
        raise AssertionError("a broken volume has a finding")
    hint, otherwise = f"{virtomate('domain-verify', name)} tells more.", "Bring"
    if finding.code in _REBASED and finding.subject == volume.base:
        place = "PATH" if volume.found is None else shell_word(volume.found)
        command = virtomate("domain-rebase", name, options=f"--base {place}")
        hint = f"{hint} {command} is for a base that was moved, or replaced by the same content."
        otherwise = "Otherwise bring"
    return IllegalStateError(
        f"'{name}' is a broken {what}: its base '{finding.subject}' {_BREAKING[finding.code]}",
        hint=f"{hint} {otherwise} the base back as it was{last_resort}.",
    )


def _named(connection: Connection, names: tuple[str, ...], sights: Sights, cancel: CancelToken) -> Iterator[_Wanted]:
    domains, errors = select_clones(connection, names, cancel, or_else=is_frozen)
    found = []
    for domain in domains:
        try:
            found.append(_require_resting(domain, sights))
        except IllegalStateError as error:
            errors.append(error)
    if errors:
        raise combined_error(errors)
    yield from found


def _require_resting(domain: Domain, sights: Sights) -> _Wanted:
    record = find_record(domain)
    if record is None:
        if is_frozen(domain):
            return domain, None, find_frozen(domain, sights.pools)
        raise IllegalStateError(
            f"domain '{domain.name}' is neither a clone that virtomate made nor frozen, so nothing is recorded of what "
            "it rests on",
            hint=f"{virtomate('domain-list', options='--tree')} shows what domains rest on.",
        )
    if not record.finished:
        raise IllegalStateError(
            f"domain '{domain.name}' is an unfinished {record.what} of '{record.source.name}'",
            hint=f"{virtomate('domain-delete', domain.name)} removes it if nobody is making it any more.",
        )
    if record.is_moment:
        raise IllegalStateError(
            f"domain '{domain.name}' only keeps images of '{record.source.name}', on which linked clones rest",
            hint=f"{virtomate('domain-verify')} verifies these clones.",
        )
    return domain, record, ()


def _all_resting(connection: Connection, sights: Sights) -> Iterator[_Wanted]:
    for domain in sorted(list_domains(connection), key=lambda domain: domain.name):
        record = find_record(domain)
        # the record of a clone that was frozen lists the overlays, too
        frozen = find_frozen(domain, sights.pools) if record is None else ()
        if frozen or (record is not None and rests_on_images(record)):
            yield domain, record, frozen


def _resting(record: Provenance | None, frozen: tuple[Artifact, ...] = ()) -> Iterator[Artifact]:
    """Yield the volumes of a finished clone, and of a frozen original, that were made to rest on other images."""
    for made in (*(record.made if record is not None and record.finished else ()), *frozen):
        if made.kind is ArtifactKind.VOLUME and made.state is ArtifactState.MADE and made.base is not None:
            yield made


class _Chain(NamedTuple):
    """What was found on the way down a chain."""

    finding: Notice | None
    found: str | None
    checked: frozenset[BaseProperty]
    unchecked: frozenset[BaseProperty]


def _verify(sights: Sights, made: Artifact) -> VerifiedVolume | None:
    """Verify what a volume of a clone rests on; return None if the volume does not rest on any image any more."""
    made = settled(sights, made)
    own = sights.look_for_base(made.path)
    if own.is_read and own.backing is None:
        return None
    base = own.backing or normalise(made.base or "")
    chain = _descend(sights, own, made)
    status = Integrity.INTACT
    if chain.finding is not None:
        status = Integrity.BROKEN if chain.finding.code in _BREAKING else Integrity.UNVERIFIED
    checked = chain.checked - chain.unchecked if status is Integrity.INTACT else chain.checked
    return VerifiedVolume(
        made.path,
        base,
        status,
        None if chain.finding is None else BaseFinding(chain.finding.code),
        chain.finding,
        chain.found,
        tuple(item for item in BaseProperty if item in checked),
        tuple(item for item in BaseProperty if item in chain.unchecked),
    )


def _descend(sights: Sights, own: Sight, made: Artifact) -> _Chain:
    """Go down the chain below a volume, to the first image of which something is to be told."""
    recorded: list[tuple[str, BaseFingerprint | None]] = [(made.base or "", made.base_fingerprint), *made.below]
    above, checked, unchecked = own, set[BaseProperty](), set[BaseProperty]()
    finding, found = None, None
    for then_path, then in recorded:
        if above.is_read and above.backing is None:
            break
        path = above.backing or normalise(then_path)
        is_qcow2 = above.backing_format == _QCOW2 or (then is not None and then.header is not None)
        sight = sights.look(path, is_qcow2=is_qcow2)
        if not sight.is_there:
            finding, found = _absent(sights, sight, then)
        elif then is None or sight.fingerprint is None:
            finding = Notice(BaseFinding.UNRECORDED, path)
        else:
            comparison = compare(path, then, sight.fingerprint)
            checked |= comparison.checked
            unchecked |= comparison.unchecked
            if comparison.finding is not None and path != normalise(then_path):
                finding = notice(BaseFinding.OTHER, path, overlay=above.path, then=then_path)
            elif comparison.finding is not None and is_undecided(sights, made):
                finding = notice(BaseFinding.UNSEEN, path, reason="its base was changed by a run that was killed")
            elif comparison.finding is not None:
                finding, found = _with_former(sights, comparison.finding, then)
            else:
                finding = _untold(sight, comparison)
        if finding is not None:
            break
        above = sight
    else:
        finding = None if above.backing is None else _unrecorded(sights, above.backing)
    return _Chain(finding, found, frozenset(checked), frozenset(unchecked))


def _unrecorded(sights: Sights, path: str) -> Notice:
    """Return what is to be told of an image of which the record says nothing; an image in a cluster is never seen."""
    if is_url(path):
        return _absent(sights, sights.look(path, is_qcow2=False), None)[0]
    return Notice(BaseFinding.UNRECORDED, path)


def _untold(sight: Sight, comparison: Comparison) -> Notice | None:
    """Return what cannot be told of an image that looks as it did."""
    if sight.is_device:
        return Notice(BaseFinding.DEVICE, sight.path)
    return None if comparison.checked >= _ESSENTIAL else Notice(BaseFinding.UNRECORDED, sight.path)


def _absent(sights: Sights, sight: Sight, then: BaseFingerprint | None) -> tuple[Notice, str | None]:
    """Return what is to be told of an image that does not exist, or cannot be looked at."""
    if sight.is_there is None:
        return notice(BaseFinding.UNSEEN, sight.path, reason=sight.obstacle or ""), None
    found = None if then is None else sights.find_elsewhere(sight.path, then)
    if found is None:
        return Notice(BaseFinding.MISSING, sight.path), None
    return notice(BaseFinding.MOVED, sight.path, found=found), found


def _with_former(sights: Sights, finding: Notice, then: BaseFingerprint) -> tuple[Notice, str | None]:
    """Return a finding with the place of a file that was replaced, if the file still exists."""
    if finding.code is not BaseFinding.REPLACED:
        return finding, None
    found = sights.find_former(finding.subject, then)
    if found is None:
        return finding, None
    return notice(BaseFinding.REPLACED, finding.subject, where=f"; the former file is '{found}' now"), found
