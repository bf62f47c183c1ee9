"""Pools, where the real libvirt cannot be made to fail in a certain way."""

from __future__ import annotations

import errno

import libvirt
import pytest

from tests.clock import Clock
from tests.hypervisor.raised import raised as libvirt_error
from virtomate.errors import ConflictError, HypervisorError, UnwritableError, VirtomateError
from virtomate.hypervisor.storage import Pool


def failure(number: int) -> libvirt.libvirtError:
    """What a system call of the daemon failed of."""
    error = libvirt.libvirtError("it failed")
    error.err = (libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_STORAGE, "it failed", 2, "", "", "", number, -1)
    return error


class _Handle:
    """A storage pool of libvirt's binding that creates nothing."""

    def __init__(self, number: int) -> None:
        self._number = number

    def name(self) -> str:
        """Its name."""
        return "pool"

    def UUIDString(self) -> str:  # noqa: N802 - libvirt's name
        """Its UUID."""
        return "11111111-2222-3333-4444-555555555555"

    def createXML(self, _document: str, _flags: int) -> None:  # noqa: N802 - likewise
        """Fail."""
        raise failure(self._number)


@pytest.mark.parametrize(("number", "kind"), [(errno.EEXIST, ConflictError), (errno.EACCES, UnwritableError)])
def test_file_that_came_into_being_just_before(number: int, kind: type[VirtomateError]) -> None:
    """A file that another program has made after libvirt's look is a conflict, so that no undo takes it for ours."""
    with pytest.raises(VirtomateError) as raised:
        Pool(_Handle(number)).create_volume("disk.raw", "<volume/>")

    assert type(raised.value) is kind


class _BusyHandle(_Handle):
    """A storage pool that libvirt refuses to stop, and that takes long to say so."""

    def __init__(self, clock: Clock, answers_after_seconds: float) -> None:
        super().__init__(0)
        self._clock = clock
        self._seconds = answers_after_seconds

    def destroy(self) -> None:
        """Fail."""
        self._clock.sleep(self._seconds)
        raise libvirt_error(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_STORAGE)


@pytest.mark.parametrize("answers_after_seconds", [0.1, 60.0])
def test_pool_that_stays_busy(monkeypatch: pytest.MonkeyPatch, answers_after_seconds: float) -> None:
    """A pool that libvirt does not stop in time is an error, also when the time ends during the last attempt."""
    clock = Clock()
    monkeypatch.setattr("virtomate.cancel.time", clock)

    with pytest.raises(HypervisorError, match="cannot stop pool 'pool'"):
        Pool(_BusyHandle(clock, answers_after_seconds)).stop()
