"""Importing local files as volumes."""

from __future__ import annotations

import logging
import os
import posixpath
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

from virtomate.definition import PROVENANCE_NAMESPACE
from virtomate.definition.provenance import DomainReference, read_record
from virtomate.definition.volume import describe_pool, read_volume_listing
from virtomate.duplication.compression import detect_compression, unpack_command
from virtomate.duplication.host_images import forbid_writing
from virtomate.duplication.image_headers import detect_format, is_cut_short, read_qcow2_header, why_incomplete
from virtomate.duplication.transfers.base import Place
from virtomate.duplication.transfers.stream import LocalFile, open_local_file
from virtomate.enums import ArtifactKind, Mode, Transfer
from virtomate.errors import (
    ConflictError,
    ConnectionLostError,
    HypervisorError,
    InternalError,
    NoSpaceError,
    QuotaError,
    UnsupportedError,
    VirtomateError,
)
from virtomate.hypervisor.domains import list_domains
from virtomate.hypervisor.storage import get_pool, get_volume
from virtomate.names import check_volume_name, writable
from virtomate.notices import FileWarning, Notice, notice
from virtomate.rollback import Rollback
from virtomate.services.storage import SpaceLedger, get_active_pool, refresh_when_idle, require_new_files
from virtomate.services.transaction import Claim, Memo, VolumeJob, create_volumes, new_journal, release_unless_needed
from virtomate.services.trust import PoolGate, runs_unprivileged
from virtomate.tuples import NamedTuple
from virtomate.words import virtomate

if TYPE_CHECKING:
    from virtomate.definition.codec import Document
    from virtomate.definition.volume import VolumeListing
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Pool
    from virtomate.services.transaction import Run

_LOG = logging.getLogger(__name__)

# The name of an import's claim begins like this, and ends with the beginning of the claim's UUID.
_CLAIM_PREFIX = "virtomate-import-"

# Other drivers have no NVRAM, and no flag that keeps the NVRAM of an undefined domain.
_DRIVER = "QEMU"

# Suffixes that promise a format; an `.img` may be anything.
_PROMISED_FORMATS = {".qcow2": "qcow2", ".raw": "raw"}


class ImportRequest(NamedTuple):
    """The arguments of `volume-import`: the path of a local file, the name of a pool, and the options.

    Attributes:
        name: Name of the new volume, None for the file's own.
        check_space: Whether to refuse if the pool has less space than will be written.
        trust_pool: Whether to trust everybody who may write to the pool's directory.
    """

    path: str
    pool: str
    name: str | None = None
    check_space: bool = True
    trust_pool: bool = False


class ImportResult(NamedTuple):
    """A local file, and the volume made from it; holes of the file are not copied."""

    path: str
    pool: str
    volume: VolumeListing
    bytes_copied: int
    warnings: tuple[Notice, ...]
    seconds: float


def import_volume(run: Run, request: ImportRequest) -> ImportResult:
    """Make a volume from a local file, byte for byte and with its holes; a failed import is undone.

    As for a clone, there is a claim meanwhile, by which the leftovers of a killed run are found and removed.

    Raises:
        UsageError: The volume cannot have that name; libvirt was not asked.
        NotFoundError: The file or the pool does not exist.
        UnreadableFileError: The file cannot be read, or is not a regular file.
        UnsupportedError: The file needs other files beside it, or the pool's volumes are not files.
        ConflictError: The name is taken.
        IllegalStateError: The pool is not active, others could put a symbolic link into its directory, or a guest
            writes to the file.
        NoSpaceError: The pool has too little space.
        SourceChangedError: The file was written to meanwhile.
        VirtomateError: libvirt failed, or a signal arrived.
    """
    begin = time.monotonic()
    if request.name is not None:
        check_volume_name(request.name)
    with open_local_file(request.path) as file:
        name = request.name if request.name is not None else posixpath.basename(request.path)
        check_volume_name(name)
        warnings = _judge(file, name)
        connection = run.target.connection
        pool = get_active_pool(connection, request.pool)
        description = describe_pool(pool.document())
        require_new_files(description)
        gate = PoolGate(is_open=request.trust_pool or runs_unprivileged(connection))
        _, cautions = gate.admit(connection, (Transfer.STREAM,), [(pool, description)], f"volume '{name}'")
        _refuse_taken_name(connection, pool, name)
        if request.check_space:
            space = SpaceLedger(is_local=connection.is_local)
            space.add(pool, description, file.data_bytes)
            space.refuse_lack("Make room, or, where the file system compresses, use --no-space-check.")
        run.cancel.check()
        place = Place(pool.name, pool.uuid, description.path or "/", name)
        volume = _make(run, VolumeJob(name, ArtifactKind.VOLUME, place, file), request.path)
    seconds = round(time.monotonic() - begin, 3)
    return ImportResult(request.path, pool.name, volume, file.data_bytes, (*warnings, *cautions), seconds)


def _make(run: Run, job: VolumeJob, path: str) -> VolumeListing:
    undo = Rollback()
    try:
        run.cancel.begin()
        claim = _take_claim(run, job, path, undo)
        (volume,) = create_volumes(run, (job,), claim, undo)
        volume.fill(run.target.connection, run.cancel)
        listing = _look(run, job, path)
        claim.require_intact()
        run.cancel.check()
        claim.release()
    except Exception as unforeseen:
        error = unforeseen if isinstance(unforeseen, VirtomateError) else InternalError(unforeseen)
        leftovers = undo.run(run.cancel.awaiting)
        if isinstance(error, NoSpaceError) and not isinstance(error, QuotaError):
            error = NoSpaceError(error.message, "Make room in the pool.")
        if leftovers:
            hint = f"{virtomate('domain-delete', claim.name)} removes what is left of the import."
            error = error.adding(hint=None if isinstance(claim, Memo) else hint, leftovers=leftovers)
        raise error from unforeseen
    undo.commit()
    return listing


def _take_claim(run: Run, job: VolumeJob, path: str, undo: Rollback) -> Claim:
    """Take the claim of an import, or return a memo where libvirt makes volumes but defines no domain.

    That is so at `storage:///system`, on hosts without an emulator, and for users who may not define domains. The
    original of the claim is the file, which has no UUID and gets the claim's.
    """
    uuid = str(uuid4())
    journal = new_journal(uuid, DomainReference(writable(path), uuid), Mode.COPY, (job.planned(),))
    # the UUID is random, too; a longer token would not fit into an inode of ext4, and take a block of its own
    journal = journal._replace(mark=os.urandom(8).hex())
    like: Document = {"@type": _DRIVER.lower(), "os": {"type": "hvm"}}
    claim = Claim(run.target, f"{_CLAIM_PREFIX}{uuid[:8]}", journal, like)
    memo = Memo(run.target, claim.name, journal, {})
    if run.target.connection.driver != _DRIVER:
        return memo
    undo.push(f"domain '{claim.name}', an unfinished import", partial(release_unless_needed, claim, undo))
    try:
        claim.take()
    except ConnectionLostError:
        raise
    except HypervisorError as error:
        claim.release()
        undo.commit()
        _LOG.info("importing without a claim: %s", error)
        return memo
    return claim


def _look(run: Run, job: VolumeJob, path: str) -> VolumeListing:
    """Let libvirt learn what the volume is, when it builds nothing else in the pool."""
    connection, place = run.target.connection, job.place
    refresh_when_idle(get_pool(connection, place.pool), run.cancel)
    listing = read_volume_listing(get_volume(connection, place.pool, place.name).document())
    if listing.backing_store is not None:
        raise UnsupportedError(f"'{path}' rests on another file, '{listing.backing_store.path}'")
    return listing


def _judge(file: LocalFile, name: str) -> tuple[Notice, ...]:
    """Refuse a file that cannot become a volume by itself, and return warnings about the file."""
    if (compression := detect_compression(file.head)) is not None:
        command = unpack_command(compression, file.path, os.path.lexists)
        raise UnsupportedError(
            f"'{file.path}' is compressed ({compression.name}), and no guest could use it as a disk",
            hint=f"Unpack it first: {command}",
        )
    format_ = detect_format(file.head)
    if is_cut_short(file.head, format_):
        raise UnsupportedError(
            f"'{file.path}' begins like a {format_} image, but ends in the middle of its header",
            hint="Get the whole file again.",
        )
    if (reason := why_incomplete(file.head, format_)) is not None:
        raise UnsupportedError(
            f"'{file.path}' {reason}, and only that one file would be imported",
            hint="qemu-img convert -O qcow2 makes one self-contained image of it.",
        )
    forbid_writing(file.descriptor, file.path)
    warnings = []
    for text in (posixpath.basename(file.path), name):
        promised = _PROMISED_FORMATS.get(posixpath.splitext(text)[1].lower(), format_)
        if promised != format_:
            warnings.append(notice(FileWarning.OTHER_FORMAT, text, promised=promised, format=format_))
            break
    if format_ == "qcow2" and (header := read_qcow2_header(file.head)) is not None:
        states = {FileWarning.CORRUPT: header.is_corrupt, FileWarning.UNCLEAN: header.is_dirty}
        warnings += [Notice(code, file.path) for code, is_so in states.items() if is_so]
    return tuple(warnings)


def _refuse_taken_name(connection: Connection, pool: Pool, name: str) -> None:
    if pool.find_volume(name) is not None:
        # the volume may have been deleted without libvirt
        pool.refresh()
    if pool.find_volume(name) is None:
        return
    taken = f"there is already a volume '{name}' in storage pool '{pool.name}'"
    claim = _find_unfinished_import(connection, pool.name, name)
    if claim is None:
        raise ConflictError(taken, "Give another name as NEWNAME, or delete that volume first.")
    removes = f"{virtomate('domain-delete', claim)} removes the volume."
    raise ConflictError(f"{taken}, of an unfinished import", f"If no virtomate is making the volume, {removes}")


def _find_unfinished_import(connection: Connection, pool: str, name: str) -> str | None:
    """Return the name of the claim whose journal lists the volume; None where libvirt cannot tell."""
    with suppress(HypervisorError):
        for domain in list_domains(connection):
            # a thousand domains need not be read for a hint
            if domain.name.startswith(_CLAIM_PREFIX):
                record = domain.metadata_element(PROVENANCE_NAMESPACE)
                provenance = None if record is None else read_record(record, domain.uuid)
                if provenance is not None and any((made.pool, made.volume) == (pool, name) for made in provenance.made):
                    return domain.name
    return None
