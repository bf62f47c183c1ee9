"""What is made of the errors that libvirt raises about names of domains; one of its codes stands for many causes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NoReturn

import libvirt
import pytest

from tests.hypervisor.raised import raised
from virtomate.errors import ConflictError, HypervisorError, IllegalStateError, VirtomateError
from virtomate.hypervisor.domains import Domain, define_domain

OWN = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
OTHER = "f0e1d2c3-b4a5-4687-9788-a9bacbdcedfe"
DEFINITION = f"<domain type='qemu'><name>web</name><uuid>{OWN}</uuid></domain>"


class Connection:
    """A libvirt that has a domain `web` and does nothing else."""

    def __init__(self, uuid: str | None) -> None:
        self.handle = self
        self._uuid = uuid

    def lookupByName(self, name: str) -> SimpleNamespace:  # noqa: N802 - libvirt's name
        """Find the domain."""
        if self._uuid is None or name != "web":
            raise raised(libvirt.VIR_ERR_NO_DOMAIN)
        return SimpleNamespace(name=lambda: name, UUIDString=lambda: self._uuid)

    def defineXMLFlags(self, _definition: str, _flags: int) -> NoReturn:  # noqa: N802 - libvirt's name
        """Refuse."""
        raise raised(libvirt.VIR_ERR_OPERATION_FAILED, libvirt.VIR_FROM_DOMAIN)


@pytest.mark.parametrize(
    ("holder", "expected"), [(OTHER, ConflictError), (OWN, HypervisorError), (None, HypervisorError)]
)
def test_name_is_taken_only_by_another_domain(holder: str | None, expected: type[VirtomateError]) -> None:
    """A failed definition is a taken name where another domain has it, and not where the domain itself has."""
    connection: Any = Connection(holder)

    with pytest.raises(VirtomateError) as caught:
        define_domain(connection, "web", DEFINITION)

    assert type(caught.value) is expected


@pytest.mark.parametrize(("holder", "expected"), [(OTHER, ConflictError), (None, IllegalStateError)])
def test_refused_renaming_is_a_conflict_only_if_there_is_one(
    holder: str | None, expected: type[VirtomateError]
) -> None:
    """Libvirt refuses to rename in many states; that a name is taken is said where it is."""

    def rename(_name: str, _flags: int) -> NoReturn:
        raise raised(libvirt.VIR_ERR_OPERATION_INVALID)

    handle: Any = SimpleNamespace(
        name=lambda: "claim", UUIDString=lambda: OWN, rename=rename, connect=lambda: Connection(holder)
    )

    with pytest.raises(VirtomateError) as caught:
        Domain(handle).rename("web")

    assert type(caught.value) is expected


@pytest.mark.parametrize(
    ("code", "is_told"),
    [
        (libvirt.VIR_ERR_NO_DOMAIN_METADATA, True),
        (libvirt.VIR_ERR_NO_DOMAIN, True),
        (libvirt.VIR_ERR_NO_SUPPORT, True),
        (libvirt.VIR_ERR_INTERNAL_ERROR, False),
        (libvirt.VIR_ERR_AUTH_FAILED, False),
    ],
)
def test_domains_without_metadata_are_told_from_failures(code: int, is_told: bool) -> None:
    """A list does not call a clone an ordinary domain because its metadata could not be read."""

    def metadata(_kind: int, _namespace: str) -> NoReturn:
        raise raised(code)

    handle: Any = SimpleNamespace(name=lambda: "web", UUIDString=lambda: OWN, metadata=metadata)

    if is_told:
        assert Domain(handle).metadata_element("urn:a") is None
    else:
        with pytest.raises(VirtomateError, match="cannot read the metadata of domain 'web'"):
            Domain(handle).metadata_element("urn:a")
