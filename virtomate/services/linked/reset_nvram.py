"""The NVRAM of a clone that is reset: a copy of its original's again."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from virtomate.definition import codec, file_readers
from virtomate.definition.template import as_ordinary
from virtomate.duplication import hostfs
from virtomate.duplication.host_images import alone_with
from virtomate.enums import ArtifactKind
from virtomate.errors import HypervisorError
from virtomate.hypervisor.domains import find_domain_by_uuid
from virtomate.notices import Notice, ResetWarning, notice
from virtomate.paths import normalise
from virtomate.services.firmware import read_firmware
from virtomate.services.storage.artifacts import bears_token_here
from virtomate.tuples import NamedTuple
from virtomate.words import virsh

if TYPE_CHECKING:
    from virtomate.definition.provenance import Provenance
    from virtomate.hypervisor.connection import Connection
    from virtomate.services.linked.reset_plan import ResetPlan

# An NVRAM has half a megabyte.
_MAX_BYTES = 64 << 20
_ATTEMPTS = 3


class NvramOutcome(NamedTuple):
    """What became of the NVRAM: its path if it is a copy of the original's again, or why not."""

    path: str | None = None
    warnings: tuple[Notice, ...] = ()


class OriginalNvrams:
    """The NVRAM of originals, by the UUIDs of the originals, each read once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._read: dict[str, bytes | str] = {}

    def give(self, plan: ResetPlan, *, is_there: bool) -> NvramOutcome:
        """Give a clone that is shut off its original's NVRAM again; `is_there` says whether the clone has its file.

        The file stays the same, with its owner and token. A run that is killed in between leaves a file that the next
        reset mends.
        """
        nvram = file_readers.nvram(plan.definition.domain)
        if nvram is None or nvram.type != "file" or nvram.path is None:
            return NvramOutcome()
        path = normalise(nvram.path)
        nvrams = (made for made in plan.provenance.made if made.kind is ArtifactKind.NVRAM)
        made = next((made for made in nvrams if made.path == path), None)
        if made is None:
            again = virsh("start", plan.domain.name, options="--reset-nvram")
            reason = f"cloning did not make it; {again} makes it anew"
            return _kept(path, reason) if is_there else NvramOutcome()
        if not (self._connection.is_local and bears_token_here(made, plan.provenance.artifact_token)):
            return _kept(path, "it cannot be written here")
        content = self._content(plan.provenance)
        return _kept(path, content) if isinstance(content, str) else _write(path, content)

    def _content(self, provenance: Provenance) -> bytes | str:
        """Return the NVRAM of an original, or why there is none."""
        uuid = provenance.source.uuid
        if uuid not in self._read:
            self._read[uuid] = self._look(uuid)
        return self._read[uuid]

    def _look(self, uuid: str) -> bytes | str:
        original = find_domain_by_uuid(self._connection, uuid)
        if original is None:
            return "its original is gone"
        definition = as_ordinary(codec.parse_definition(original.inactive_definition()))
        try:
            path = read_firmware(self._connection, definition.domain).nvram_path
        except HypervisorError as error:
            return error.message
        if path is None:
            return "its original has no NVRAM"
        try:
            readings = [_read(path)]
            # the guest of an original that runs may write meanwhile
            while len(readings) <= _ATTEMPTS:
                readings.append(_read(path))
                if readings[-1] == readings[-2]:
                    return readings[-1]
        except OSError as error:
            return f"'{path}' cannot be read ({os.strerror(error.errno or 0)})"
        return f"'{path}' is being written to"


def _kept(path: str, reason: str) -> NvramOutcome:
    return NvramOutcome(warnings=(notice(ResetWarning.NVRAM, path, reason=reason),))


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
            raise OSError(errno.EINVAL)
        return os.pread(descriptor, status.st_size, 0)
    finally:
        os.close(descriptor)


def _write(path: str, content: bytes) -> NvramOutcome:
    with alone_with(path) as descriptor:
        if descriptor is None:
            return _kept(path, "it cannot be written here")
        if os.pread(descriptor, len(content) + 1, 0) != content:
            try:
                hostfs.write(descriptor, content, 0)
                os.ftruncate(descriptor, len(content))
                os.fdatasync(descriptor)
            except OSError as error:
                raise hostfs.write_failure(error, path) from error
    return NvramOutcome(path)
