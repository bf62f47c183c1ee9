"""Importing local files as volumes."""

from __future__ import annotations

import logging
import os
import posixpath
import threading
import time
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from virtomate.definition.provenance import Artifact
from virtomate.definition.volume import NewVolume, describe_pool, read_volume_listing, volume_document
from virtomate.duplication.compression import detect_compression, unpack_command
from virtomate.duplication.image_headers import detect_format, is_cut_short, read_qcow2_header, why_incomplete
from virtomate.duplication.image_lock import forbid_writing
from virtomate.duplication.upload import LocalFile, open_local_file, upload
from virtomate.enums import ArtifactKind, ArtifactState, TokenPlace, Transfer
from virtomate.errors import (
    ConflictError,
    IllegalStateError,
    InternalError,
    NoSpaceError,
    UnsupportedError,
    VirtomateError,
)
from virtomate.hypervisor.storage import get_pool, get_volume
from virtomate.names import check_volume_name
from virtomate.notices import FileWarning, Notice, notice
from virtomate.rollback import Rollback
from virtomate.services.storage import (
    SpaceLedger,
    backend_of,
    describe,
    get_active_pool,
    new_fingerprint,
    refresh_when_idle,
)
from virtomate.services.storage.artifacts import BEGUN, OWN, name_artifact, put_token, remove_artifact
from virtomate.services.storage.trust import PoolGate, runs_unprivileged
from virtomate.waiting import backoff

if TYPE_CHECKING:
    from virtomate.cancel import CancelToken
    from virtomate.definition.volume import VolumeListing
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.session import Session
    from virtomate.hypervisor.storage import Pool
    from virtomate.progress import Progress

_LOG = logging.getLogger(__name__)

# Suffixes that promise a format; an `.img` may be anything.
_PROMISED_FORMATS = {".qcow2": "qcow2", ".raw": "raw"}

_POLL_SECONDS = 0.2
# An undo waits that long for libvirt to let go of a volume.
_UNDO_WAIT_SECONDS = 30


class ImportRequest(NamedTuple):
    """What `volume-import` was asked for.

    Attributes:
        path: The local file.
        pool: Name of the pool.
        name: Name of the new volume, None for the file's own.
        check_space: Whether to refuse when the pool has less space than will be written.
        trust_pool: Whether everybody is trusted who may write to the pool's directory.
    """

    path: str
    pool: str
    name: str | None = None
    check_space: bool = True
    trust_pool: bool = False


class ImportResult(NamedTuple):
    """A file that has become a volume.

    Attributes:
        path: The local file.
        bytes_copied: What was sent of it; holes are not.
    """

    path: str
    pool: str
    volume: VolumeListing
    bytes_copied: int
    warnings: tuple[Notice, ...]
    seconds: float


def import_volume(session: Session, request: ImportRequest, progress: Progress, cancel: CancelToken) -> ImportResult:
    """Make a volume of a local file, byte for byte and with its holes; what fails is undone.

    Raises:
        UsageError: The volume cannot have that name; libvirt was not asked.
        NotFoundError: The file or the pool is not there.
        UnreadableFileError: The file cannot be read, or is none.
        UnsupportedError: It needs other files beside it, or the pool's volumes are no files.
        ConflictError: The name is taken.
        IllegalStateError: The pool is not active, others could put a symbolic link there, or a running guest writes to
            the file.
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
        pool = get_active_pool(session.connection, request.pool)
        description = describe_pool(pool.document())
        backend_of(description).require_new_volumes(description)
        gate = PoolGate(is_open=request.trust_pool or runs_unprivileged(session.connection))
        _, cautions = gate.admit(session.connection, (Transfer.STREAM,), [(pool, description)], f"volume '{name}'")
        _refuse_taken_name(pool, name)
        if request.check_space:
            space = SpaceLedger(is_local=session.connection.is_local)
            space.add(pool, description, file.data_bytes)
            space.refuse_lack("Make room, or, where the file system compresses, use --no-space-check.")
        cancel.check()
        volume = _Import(session, file, pool, name, progress, cancel).execute()
    return ImportResult(
        path=request.path,
        pool=pool.name,
        volume=volume,
        bytes_copied=file.data_bytes,
        warnings=(*warnings, *cautions),
        seconds=round(time.monotonic() - begin, 3),
    )


class _Import:
    """One import, and its undo."""

    def __init__(
        self, session: Session, file: LocalFile, pool: Pool, name: str, progress: Progress, cancel: CancelToken
    ) -> None:
        self._session = session
        self._file = file
        self._pool_name = pool.name
        self._name = name
        self._progress = progress
        self._cancel = cancel
        path = posixpath.join(describe_pool(pool.document()).path or "/", name)
        self._planned = Artifact(ArtifactKind.VOLUME, ArtifactState.PLANNED, pool.name, name, path)
        self._made: Artifact | None = None
        self._token = f"{uuid4()}:import"
        self._outcome: VolumeListing | BaseException | None = None

    def execute(self) -> VolumeListing:
        """Do it.

        A thread does the work, since no signal is noticed in a thread that waits for libvirt. It has the session's
        connection to itself meanwhile.
        """
        self._cancel.begin()
        rollback = Rollback()
        rollback.push(name_artifact(self._planned), self._undo)
        thread = threading.Thread(target=self._run, args=(self._session.connection,), name="import")
        thread.start()
        while thread.is_alive():
            thread.join(_POLL_SECONDS)
        outcome = self._outcome
        if isinstance(outcome, Exception):
            error = outcome if isinstance(outcome, VirtomateError) else InternalError(outcome)
            error.leftovers = rollback.run(self._cancel.awaiting)
            if isinstance(error, NoSpaceError):
                error.hint = "Make room in the pool."
            raise error
        if outcome is None or isinstance(outcome, BaseException):
            raise AssertionError("unreachable")
        rollback.commit()
        return outcome

    def _run(self, connection: Connection) -> None:
        try:
            self._outcome = self._make(connection)
        except BaseException as error:  # noqa: BLE001 - it is raised again where it is waited for
            self._outcome = error

    def _make(self, connection: Connection) -> VolumeListing:
        pool = get_pool(connection, self._pool_name)
        # While the call runs the volume may exist; if the connection breaks then, the undo has a look.
        self._made = self._planned
        _LOG.info("creating %s", self._planned.path)
        try:
            volume = pool.create_volume(
                self._name, volume_document(NewVolume(self._name, capacity=0, allocation=0, format="raw"))
            )
        except (ConflictError, IllegalStateError):
            self._made = None
            raise
        description = describe(pool, volume).description
        if description.physical:
            raise ConflictError(f"'{description.path}' is another file than the one that libvirt has just made")
        marked = put_token(description, self._token)
        self._made = self._planned._replace(
            state=ArtifactState.MADE,
            fingerprint=new_fingerprint(marked or description, pool),
            token_place=None if marked is None else TokenPlace.ATTRIBUTE,
        )
        self._progress.started(self._name, self._file.data_bytes)
        upload(self._file, volume, connection, self._progress, self._cancel)
        self._file.require_unchanged()
        self._progress.finished(self._name)
        listing = self._look(connection, pool)
        self._cancel.check()
        return listing

    def _look(self, connection: Connection, pool: Pool) -> VolumeListing:
        """Have libvirt learn what the volume is; it cannot look while it builds something else in the pool."""
        refresh_when_idle(pool, self._cancel)
        listing = read_volume_listing(get_volume(connection, pool.name, self._name).document())
        if listing.backing_store is not None:
            raise UnsupportedError(f"'{self._file.path}' rests on another file, '{listing.backing_store.path}'")
        return listing

    def _undo(self) -> None:
        if self._made is not None:
            _LOG.info("removing %s", self._made.path)
            accepted = OWN if self._made.state is ArtifactState.MADE else BEGUN
            remove_artifact(self._session.connection, self._made, self._token, accepted, backoff(_UNDO_WAIT_SECONDS))


def _judge(file: LocalFile, name: str) -> tuple[Notice, ...]:
    """Refuse a file that cannot become a volume by itself, and return what should be known of it."""
    compression = detect_compression(file.head)
    if compression is not None:
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
    reason = why_incomplete(file.head, format_)
    if reason is not None:
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
    header = read_qcow2_header(file.head) if format_ == "qcow2" else None
    if header is not None and header.is_corrupt:
        warnings.append(Notice(FileWarning.CORRUPT, file.path))
    if header is not None and header.is_dirty:
        warnings.append(Notice(FileWarning.UNCLEAN, file.path))
    return tuple(warnings)


def _refuse_taken_name(pool: Pool, name: str) -> None:
    if pool.find_volume(name) is None:
        return
    # it may have been deleted without libvirt
    pool.refresh()
    if pool.find_volume(name) is not None:
        raise ConflictError(
            f"there is already a volume '{name}' in storage pool '{pool.name}'",
            hint="Give another name as NEWNAME, or delete that volume first.",
        )
