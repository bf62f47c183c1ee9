"""Rebasing: a linked clone gets another base with the same content, since its base was moved, renamed or replaced.

Only the name of the base in the header of an image changes, in one write, then the definition and the records, which
say before what is about to happen. So nothing has to be undone: whatever ends the run, the image names the former base
or the new one, the records tell which one counts, and the same command completes the work.
"""

from __future__ import annotations

import os
import posixpath
import time
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

from virtomate.definition import codec, file_readers
from virtomate.definition.lower_images import LowerImage
from virtomate.definition.readers import child
from virtomate.definition.template import is_template
from virtomate.duplication.host_images import alone_with
from virtomate.duplication.hostfs import open_visible
from virtomate.duplication.rebasing import (
    ClosedImageError,
    OpenImage,
    change_base,
    opened_for_reading,
)
from virtomate.enums import BaseCheck
from virtomate.errors import IllegalStateError, NotFoundError, UnsupportedError, UsageError, VirtomateError
from virtomate.hypervisor.domains import find_domain, find_domain_by_uuid
from virtomate.hypervisor.storage import get_pool
from virtomate.notices import CloneWarning, Notice
from virtomate.paths import is_relative, normalise
from virtomate.services.linked.chain import find_disk_volume, plain_path, read_header
from virtomate.services.linked.frozen import find_frozen, note_frozen_base
from virtomate.services.linked.rebase_check import QCOW2, RAW, NewBase, chain_of, check_base
from virtomate.services.linked.rebase_record import (
    complete_intention,
    note_base,
    note_intention,
    note_rebased,
)
from virtomate.services.linked.record import change_disk
from virtomate.services.linked.sight import Sights
from virtomate.services.origins import find_record
from virtomate.services.storage import read_pools, refresh_when_idle, temporary_pools_during
from virtomate.services.storage.references import find_writers
from virtomate.tuples import NamedTuple
from virtomate.words import shell_word, shutdown_commands, virsh, virtomate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from virtomate.definition.codec import Document
    from virtomate.definition.file_readers import DiskDefinition
    from virtomate.definition.lower_images import BaseFingerprint
    from virtomate.definition.provenance import Artifact, Provenance
    from virtomate.duplication.image_headers import Qcow2Header
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.services.linked.sight import Sight
    from virtomate.services.storage import FoundVolume, PoolIndex, TemporaryPools
    from virtomate.services.transaction import Run

_FILE_TYPES = frozenset({"file", "volume"})


class RebaseRequest(NamedTuple):
    """What is to be rebased.

    Attributes:
        name: The domain, by name or UUID.
        base: The new base: an absolute path, or POOL/NAME.
        disk: Target of the disk; None for the only disk with a base.
        base_format: Format of the new base; None for the format of the former base.
        is_checked: Whether the new base is compared with the former base.
    """

    name: str
    base: str
    disk: str | None = None
    base_format: str | None = None
    is_checked: bool = True


class RebaseResult(NamedTuple):
    """A disk with its new base.

    Attributes:
        target: Target of the disk.
        path: Path of its image.
        former_base: The base that the image named before.
        base: Path of the new base.
        format: Format of the new base.
        check: How the new base was compared with the former base.
        warnings: Which domains write to the new base when they are started.
    """

    name: str
    uuid: str
    target: str
    path: str
    former_base: str
    base: str
    format: str
    check: BaseCheck
    warnings: tuple[Notice, ...]
    seconds: float


class _Plan(NamedTuple):
    """The image that is to name another base.

    Attributes:
        former: Path of the base that the image names, None where the name is not a plain path.
        made: The line of the clone's record for the image, if there is one.
        chain: The new base and the images below it, nearest first, each with its format.
    """

    domain: Domain
    disk: DiskDefinition
    found: FoundVolume
    header: Qcow2Header
    former: str | None
    made: Artifact | None
    chain: tuple[tuple[Sight, str], ...]

    @property
    def base(self) -> str:
        """Path of the new base."""
        return self.chain[0][0].path

    @property
    def images(self) -> tuple[LowerImage, ...]:
        """The new base and the images below it as they are now; nothing if one of them cannot be looked at."""
        found = [LowerImage(sight.path, sight.fingerprint) for sight, _ in self.chain if sight.fingerprint is not None]
        return tuple(found) if len(found) == len(self.chain) else ()

    @property
    def format(self) -> str:
        """Format of the new base."""
        return self.chain[0][1]

    @property
    def path(self) -> str:
        """Path of the image."""
        return self.found.description.path


def rebase_domain(run: Run, request: RebaseRequest) -> RebaseResult:
    """Give a disk of a domain another base that has the same content as seen from the guest.

    Raises:
        UsageError: The base is not named as it should be, or the domain has no such disk.
        VirtomateError: Something is refused, and nothing has been changed.
    """
    with temporary_pools_during(run.source, "the domain is rebased") as temporary:
        return _rebase(run, request, temporary)


def _rebase(run: Run, request: RebaseRequest, temporary: TemporaryPools) -> RebaseResult:
    begin = time.monotonic()
    connection = run.source.connection
    domain = find_domain(connection, request.name)
    _refuse_state(domain, find_record(domain))
    pools, sights = read_pools(connection).opening(temporary.opener(run.cancel)), Sights(connection, run.cancel)
    plan = _plan(connection, pools, sights, domain, request)
    # of a run that was killed
    complete_intention(connection, sights, plan.path)
    plan = plan._replace(made=_line(domain, pools, plan.path))
    former = plan.header.backing_file or ""
    before = sights.look(plan.path, is_qcow2=True).fingerprint
    with ExitStack() as stack:
        new = NewBase(plan.chain, _hold(stack, plan), plan.made)
        check = _check(run, sights, plan, new) if request.is_checked else BaseCheck.SKIPPED
        run.cancel.begin()
        if plan.former != plan.base or plan.header.backing_format != plan.format:
            _change_image(run, sights, plan)
    change_disk(domain, plan.disk.target, partial(_name_base, base=plan.base, format_=plan.format))
    lower = [LowerImage(sight.path, sight.fingerprint) for sight, _ in plan.chain[1:] if sight.fingerprint is not None]
    writers = _writers(connection, pools, plan)
    note_base(domain, plan.path, plan.base, plan.chain[0][0].fingerprint, tuple(lower), is_written_to=bool(writers))
    note_frozen_base(domain, plan.path, plan.format, plan.images)
    _note_above(connection, plan, before)
    refresh_when_idle(get_pool(connection, plan.found.description.pool))
    return RebaseResult(
        domain.name,
        domain.uuid,
        plan.disk.target,
        plan.path,
        plan.former or former,
        plan.base,
        plan.format,
        check,
        tuple(Notice(CloneWarning.LINKED_ORIGINAL, name) for name in writers),
        round(time.monotonic() - begin, 3),
    )


def _writers(connection: Connection, pools: PoolIndex, plan: _Plan) -> tuple[str, ...]:
    """Return the names of the domains, templates excepted, that write to the new base when they are started."""
    try:
        volume = pools.find_path(plan.base).description
    except (IllegalStateError, NotFoundError):
        # libvirt does not know the file, but a definition may name it
        volume = plan.found.description._replace(pool="", name=posixpath.basename(plan.base), path=plan.base)
    found, _ = find_writers(connection, (volume,))
    names: dict[str, None] = {}
    for writer in found[volume.path]:
        domain = find_domain_by_uuid(connection, writer.domain_uuid) if writer.is_definition else None
        if domain is not None and domain.uuid != plan.domain.uuid:
            definition = codec.parse_definition(domain.inactive_definition_without_secrets()).domain
            names |= {} if is_template(definition) else {domain.name: None}
    return tuple(names)


def _note_above(connection: Connection, plan: _Plan, before: BaseFingerprint | None) -> None:
    """Write into the records of clones that rest on the image what it is like now, since its header was written to."""
    now = Sights(connection).look(plan.path, is_qcow2=True).fingerprint
    images = plan.images
    if before is not None and now is not None and before != now and images:
        note_rebased(connection, LowerImage(plan.path, before), (LowerImage(plan.path, now), *images))


def _refuse_state(domain: Domain, record: Provenance | None) -> None:
    name = domain.name
    if record is not None and (not record.finished or record.is_moment):
        what = "only keeps images for linked clones" if record.finished else f"is an unfinished {record.what}"
        raise IllegalStateError(
            f"domain '{name}' {what}, and cannot get another base", f"{virtomate('domain-list')} shows the domains."
        )
    if domain.is_active():
        state = domain.state()
        raise IllegalStateError(
            f"domain '{name}' is {state}, and must be shut off to get another base",
            hint=f"Shut it down first: {shutdown_commands(name, state)}",
        )
    if domain.has_managed_save():
        raise IllegalStateError(
            f"domain '{name}' has a managed-save image, which knows the chains of its disks",
            hint=f"Start the domain, which restores it, and shut it down: {virsh('start', name)}; "
            f"{virsh('shutdown', name)}",
        )


def _plan(
    connection: Connection,
    pools: PoolIndex,
    sights: Sights,
    domain: Domain,
    request: RebaseRequest,
) -> _Plan:
    definition = codec.parse_definition(domain.inactive_definition_without_secrets()).domain
    if is_template(definition):
        raise IllegalStateError(
            f"domain '{domain.name}' is a template, whose volumes nobody writes to",
            hint=f"Make it an ordinary domain first: {virtomate('domain-template', domain.name, options='--undo')}",
        )
    disk, found, header = _choose_disk(connection, pools, domain.name, file_readers.disks(definition), request.disk)
    path = found.description.path
    former = plain_path(posixpath.dirname(path), header.backing_file or "")
    base = _find_base(pools, request.base)
    chain = chain_of(sights, base, _format_of(sights, base, header, request.base_format))
    if path in {sight.path for sight, _ in chain}:
        raise UsageError(f"--base: '{request.base}' rests on the clone's own image '{path}', or is that image")
    return _Plan(domain, disk, found, header, former, _line(domain, pools, path), chain)


def _line(domain: Domain, pools: PoolIndex, path: str) -> Artifact | None:
    """Return what the record of a clone, or the mark of a frozen original, says of the volume at a path."""
    record = find_record(domain)
    lines = find_frozen(domain, pools) if record is None else record.made
    return next((item for item in lines if item.path == path), None)


def _choose_disk(
    connection: Connection, pools: PoolIndex, name: str, disks: Sequence[DiskDefinition], target: str | None
) -> tuple[DiskDefinition, FoundVolume, Qcow2Header]:
    """Return the disk that is to get another base, its image, and the header of that."""
    targets = [disk.target for disk in disks]
    if target is not None and target not in targets:
        there = f"it has {', '.join(targets)}" if targets else "it has no disks"
        raise UsageError(f"domain '{name}' has no disk '{target}': {there}")
    based = []
    for disk in disks:
        is_file = disk.type in _FILE_TYPES and not disk.is_empty and disk.format != RAW
        if not is_file or target not in {None, disk.target}:
            continue
        found = find_disk_volume(pools, disk)
        header = read_header(connection, found)
        if header is not None and header.has_backing_file:
            based.append((disk, found, header))
    if not based:
        what = "no disk with a base" if target is None else f"no base below its disk {target}"
        raise UnsupportedError(f"domain '{name}' has {what}", hint=f"{virsh('domblklist', name)} shows the disks.")
    if len(based) > 1:
        raise UsageError(
            f"domain '{name}' has several disks with a base ({', '.join(b[0].target for b in based)}): choose one with "
            "--disk TARGET"
        )
    return based[0]


def _find_base(pools: PoolIndex, name: str) -> str:
    """Return the path of the new base by an absolute path, or by POOL/NAME."""
    if name.startswith("/"):
        return normalise(name)
    pool, slash, volume = name.partition("/")
    if not (pool and slash and volume):
        raise UsageError(f"--base: '{name}' is neither an absolute path nor POOL/NAME")
    return pools.find_named(pool, volume).description.path


def _format_of(sights: Sights, base: str, header: Qcow2Header, given: str | None) -> str:
    """Return the format of the new base: that of the former base, but never a format that the new base has not."""
    format_ = given or header.backing_format
    sight = sights.look(base, is_qcow2=True)
    if sight.is_there is False:
        raise NotFoundError(
            f"there is no file '{base}'", hint="--base names the new base by its path, or by POOL/NAME."
        )
    if sight.is_there is None:
        raise IllegalStateError(f"'{base}' cannot be looked at: {sight.obstacle}", "Have its storage pool started.")
    if format_ is None or (format_ == QCOW2 and not sight.is_read and given is None):
        # what is no qcow2 can only be taken as it is
        return RAW
    if format_ == QCOW2 and not sight.is_read:
        raise UsageError(f"--base-format: '{base}' is no qcow2 image that can be read")
    return format_


def _hold(stack: ExitStack, plan: _Plan) -> tuple[OpenImage, ...] | None:
    """Open the new base and what is below, so that nobody writes to them; None where they cannot be opened here.

    Raises:
        IllegalStateError: Somebody writes to one of them.
    """
    try:
        return stack.enter_context(opened_for_reading([(sight.path, format_) for sight, format_ in plan.chain]))
    except ClosedImageError:
        return None


def _check(run: Run, sights: Sights, plan: _Plan, new: NewBase) -> BaseCheck:
    """Compare the new base with the former base; of an image that names the new one already, the record has that."""
    former = None if plan.former is None else (plan.former, plan.header.backing_format or RAW)
    made = plan.made
    if plan.former == plan.base:
        fingerprint = None if made is None else made.base_fingerprint
        is_qcow2 = fingerprint is not None and fingerprint.header is not None
        is_other = made is not None and made.base not in {None, plan.base}
        former = (made.base, QCOW2 if is_qcow2 else RAW) if made is not None and made.base and is_other else None
    label, total = plan.disk.target, plan.found.description.capacity
    run.progress.started(label, total)
    try:
        return check_base(
            sights, new, former, run.cancel, lambda share: run.progress.advanced(label, int(share * total))
        )
    finally:
        run.progress.dropped(label)


def _change_image(run: Run, sights: Sights, plan: _Plan) -> None:
    """Write the name and the format of the new base into the image, which nobody else may have open."""
    connection = run.source.connection
    name = plan.base
    if is_relative(plan.header.backing_file or "") and posixpath.dirname(plan.base) == posixpath.dirname(plan.path):
        name = posixpath.basename(plan.base)
        if ":" in name:
            name = f"./{name}"
    descriptor = open_visible(plan.found.description, os.O_RDWR)
    if descriptor is None:
        command = f"qemu-img rebase -u -f qcow2 -F {plan.format} -b {shell_word(name)} {shell_word(plan.path)}"
        raise UnsupportedError(
            f"'{plan.path}' cannot be opened here, and libvirt cannot change the base of an image",
            hint=f"Run this on the host of the image, then this command again, which changes the record: {command}",
        )
    try:
        with alone_with(plan.path):
            pass
        try:
            if plan.images:
                note_intention(connection, sights, plan.path, plan.images)
            change_base(OpenImage(plan.path, QCOW2, descriptor), name, plan.format, run.cancel)
        except Exception:
            with suppress(VirtomateError):
                complete_intention(connection, Sights(connection), plan.path)
            raise
    finally:
        os.close(descriptor)


def _name_base(disk: Document, base: str, format_: str) -> None:
    """Let a disk that names the images below name the new base; libvirt finds what is below that."""
    below = child(disk, "backingStore")
    if "@type" not in below:
        return
    encryption = child(below, "source").get("encryption")
    source: Document = {"@file": base, **({} if encryption is None else {"encryption": encryption})}
    disk["backingStore"] = {"@type": "file", "format": {"@type": format_}, "source": source}
