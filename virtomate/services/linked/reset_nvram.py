"""The NVRAM of a clone that is reset: a copy of its original's again.

The file stays the same, with its owner and token. Unlike an overlay it is not whole at every moment: a run that is
killed while it writes half a megabyte leaves a file that the next reset mends.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from functools import cached_property
from typing import TYPE_CHECKING

from virtomate.definition import codec, file_readers
from virtomate.definition.template import as_ordinary
from virtomate.definition.volume import describe_pool
from virtomate.duplication import hostfs
from virtomate.duplication.file_space import write_failure
from virtomate.duplication.host_images import alone_with
from virtomate.enums import ArtifactKind, Transfer
from virtomate.errors import HypervisorError, IllegalStateError
from virtomate.hypervisor.domains import find_domain_by_uuid
from virtomate.hypervisor.storage import cut_volume, read_part, write_part
from virtomate.notices import Notice, ResetWarning, notice
from virtomate.paths import normalise
from virtomate.services.firmware import read_firmware
from virtomate.services.storage import find_entry, find_volume, read_pools
from virtomate.services.storage.artifacts import Verdict, bears_token_here, judge_in_pool
from virtomate.services.trust import PoolGate, runs_unprivileged
from virtomate.tuples import NamedTuple
from virtomate.words import virsh

if TYPE_CHECKING:
    from virtomate.definition.provenance import Artifact, Provenance
    from virtomate.hypervisor.connection import Connection
    from virtomate.services.linked.reset_plan import ResetPlan
    from virtomate.services.storage import FoundVolume, PoolIndex, TemporaryPools

# An NVRAM has half a megabyte.
_MAX_BYTES = 64 << 20
_ATTEMPTS = 3
_LONG = "it is too long for an NVRAM"


class NvramOutcome(NamedTuple):
    """What became of the NVRAM: its path if it is a copy of the original's again, or why not."""

    path: str | None = None
    warnings: tuple[Notice, ...] = ()


class _KeptError(Exception):
    """The NVRAM stays as it is; the message is the reason, as the end of a sentence."""


class OriginalNvrams:
    """The NVRAM of originals, each read once, and given to clones.

    Where files cannot be opened here, libvirt reads and writes them in their pools, or else in temporary ones.
    """

    def __init__(self, connection: Connection, temporary: TemporaryPools) -> None:
        self._connection = connection
        self._temporary = temporary
        self._read: dict[str, bytes | _KeptError] = {}

    @cached_property
    def _pools(self) -> PoolIndex:
        return read_pools(self._connection)

    @cached_property
    def _gate(self) -> PoolGate:
        return PoolGate(is_open=runs_unprivileged(self._connection))

    def give(self, plan: ResetPlan, *, is_there: bool) -> NvramOutcome:
        """Give a clone that is shut off its original's NVRAM again; `is_there` says whether the clone has its file."""
        nvram = file_readers.nvram(plan.definition.domain)
        if nvram is None or nvram.type != "file" or nvram.path is None:
            return NvramOutcome()
        path = normalise(nvram.path)
        nvrams = (made for made in plan.provenance.made if made.kind is ArtifactKind.NVRAM)
        made = next((made for made in nvrams if made.path == path), None)
        if made is None:
            again = virsh("start", plan.domain.name, options="--reset-nvram")
            return _kept(path, f"cloning did not make it; {again} makes it anew") if is_there else NvramOutcome()
        try:
            self._give(made, plan.provenance)
        except _KeptError as reason:
            return _kept(path, str(reason))
        return NvramOutcome(path)

    def _give(self, made: Artifact, provenance: Provenance) -> None:
        token = provenance.artifact_token
        if self._connection.is_local and bears_token_here(made, token) and os.access(made.path, os.W_OK):
            _write(made.path, self._content(provenance))
            return
        found = self._find(made.path)
        judgement = judge_in_pool(self._connection, find_entry(self._connection, found.pool.name), made, token)
        # without a token that can be read, it is still the file that the clone's own definition names, and writes to
        if judgement is None or judgement.verdict not in {Verdict.PROVED, Verdict.UNPROVED}:
            raise _KeptError("it is another file than cloning made")
        content = self._content(provenance)
        if self._contents(found) != content:
            write_part(self._connection, found.volume, 0, content)
            if found.description.physical > len(content):
                cut_volume(self._connection, found.volume, len(content))

    def _content(self, provenance: Provenance) -> bytes:
        """Return the NVRAM of an original."""
        if provenance.host is not None:
            raise _KeptError(f"its original is on host '{provenance.host}'")
        uuid = provenance.source.uuid
        if uuid not in self._read:
            try:
                self._read[uuid] = self._look(uuid)
            except _KeptError as reason:
                self._read[uuid] = reason
        found = self._read[uuid]
        if isinstance(found, _KeptError):
            raise found
        return found

    def _look(self, uuid: str) -> bytes:
        original = find_domain_by_uuid(self._connection, uuid)
        if original is None:
            raise _KeptError("its original is gone")
        definition = as_ordinary(codec.parse_definition(original.inactive_definition()))
        try:
            path = read_firmware(self._connection, definition.domain).nvram_path
        except HypervisorError as error:
            raise _KeptError(error.message) from error
        if path is None:
            raise _KeptError("its original has no NVRAM")
        before = None
        for _ in range(_ATTEMPTS):
            content = self._contents_of(path)
            # the guest of an original that runs may write meanwhile
            if content == before or not original.is_active():
                return content
            before = content
        raise _KeptError(f"'{path}' is being written to")

    def _contents_of(self, path: str) -> bytes:
        if self._connection.is_local and os.access(path, os.R_OK):
            try:
                return _read(path)
            except OSError as error:
                raise _KeptError(f"'{path}' cannot be read ({os.strerror(error.errno or 0)})") from error
        return self._contents(self._find(path))

    def _find(self, path: str) -> FoundVolume:
        """Return an NVRAM as a volume, in whose directory nobody can put a link that libvirt follows."""
        directory, name = posixpath.split(path)
        try:
            known = self._pools.covering(directory)
            pool = known.pool if known is not None and known.is_active else self._temporary.over(directory)
            pools = [(pool, describe_pool(pool.document()))]
            self._gate.admit(self._connection, (Transfer.STREAM,), pools, "the NVRAM")
            found = find_volume(pool, name)
        except IllegalStateError as error:
            raise _KeptError(error.message) from error
        except HypervisorError as error:
            if not self._connection.is_alive:
                raise
            raise _KeptError(error.message) from error
        if found is None:
            raise _KeptError(f"'{path}' is not there")
        return found

    def _contents(self, found: FoundVolume) -> bytes:
        if found.description.physical > _MAX_BYTES:
            raise _KeptError(_LONG)
        return read_part(self._connection, found.volume, 0, found.description.physical)


def _kept(path: str, reason: str) -> NvramOutcome:
    return NvramOutcome(warnings=(notice(ResetWarning.NVRAM, path, reason=reason),))


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL)
        if status.st_size > _MAX_BYTES:
            raise _KeptError(_LONG)
        return os.pread(descriptor, status.st_size, 0)
    finally:
        os.close(descriptor)


def _write(path: str, content: bytes) -> None:
    with alone_with(path) as descriptor:
        if descriptor is None:
            raise _KeptError("it cannot be locked here")
        if os.pread(descriptor, len(content) + 1, 0) == content:
            return
        try:
            hostfs.write(descriptor, content, 0)
            os.ftruncate(descriptor, len(content))
            os.fdatasync(descriptor)
        except OSError as error:
            raise write_failure(error, path) from error
