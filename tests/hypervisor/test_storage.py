"""Pools, where the real libvirt cannot be made to fail in a certain way."""

from __future__ import annotations

import errno

import libvirt
import pytest

from virtomate.errors import ConflictError, HypervisorError, VirtomateError
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


@pytest.mark.parametrize(("number", "kind"), [(errno.EEXIST, ConflictError), (errno.EACCES, HypervisorError)])
def test_file_that_came_into_being_just_before(number: int, kind: type[VirtomateError]) -> None:
    """A file that another program has made after libvirt's look is a conflict, so that no undo takes it for ours."""
    with pytest.raises(VirtomateError) as raised:
        Pool(_Handle(number)).create_volume("disk.raw", "<volume/>")

    assert type(raised.value) is kind
