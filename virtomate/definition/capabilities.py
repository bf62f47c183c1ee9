"""What a hypervisor can run, by its capabilities.

Sources: https://libvirt.org/formatcaps.html and https://libvirt.org/formatdomaincaps.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition import codec
from virtomate.definition.readers import as_list, child, text
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.codec import Document


class HostCapabilities(NamedTuple):
    """A host.

    Attributes:
        uuid: UUID of the host; None where libvirt does not tell.
        virt_types: The types of domains that it can run, by architecture.
        machines: The machine types that it knows, by architecture, aliases included.
    """

    uuid: str | None
    virt_types: dict[str, frozenset[str]]
    machines: dict[str, frozenset[str]]


class DomainCapabilities(NamedTuple):
    """What one emulator can do for one machine type and type of domain.

    Attributes:
        emulator: Path of the emulator.
        loaders: Paths of the firmware that libvirt knows.
        cpu_modes: The modes of CPUs that are supported.
        tpm_backends: The kinds of TPMs; None where libvirt does not tell.
    """

    emulator: str | None
    loaders: frozenset[str]
    cpu_modes: frozenset[str]
    tpm_backends: frozenset[str] | None


def read_host_capabilities(document: str) -> HostCapabilities:
    """Read the capabilities of a host, or raise MalformedDocumentError."""
    capabilities = codec.parse(document, "capabilities")
    types: dict[str, frozenset[str]] = {}
    machines: dict[str, frozenset[str]] = {}
    for guest in as_list(capabilities.get("guest")):
        arch = child(guest, "arch")
        name = str(arch.get("@name", ""))
        domains = as_list(arch.get("domain"))
        types[name] = types.get(name, frozenset()) | {str(item.get("@type")) for item in domains}
        found = {*_machines(arch), *(machine for item in domains for machine in _machines(item))}
        machines[name] = machines.get(name, frozenset()) | found
    return HostCapabilities(text(child(capabilities, "host").get("uuid")), types, machines)


def _machines(element: Document) -> frozenset[str]:
    value = element.get("machine")
    return frozenset(name for item in (value if isinstance(value, list) else [value]) if (name := text(item)))


def read_domain_capabilities(document: str) -> DomainCapabilities:
    """Read the capabilities of an emulator, or raise MalformedDocumentError."""
    capabilities = codec.parse(document, "domainCapabilities")
    loader = child(child(capabilities, "os"), "loader").get("value")
    modes = as_list(child(capabilities, "cpu").get("mode"))
    # devices are lists in every document
    tpm = next(iter(as_list(child(capabilities, "devices").get("tpm"))), {})
    backends: frozenset[str] | None = None
    if tpm.get("@supported") == "no":
        backends = frozenset()
    for enum in as_list(tpm.get("enum")):
        if enum.get("@name") == "backendModel":
            backends = _texts(enum.get("value"))
    return DomainCapabilities(
        emulator=text(capabilities.get("path")),
        loaders=_texts(loader),
        cpu_modes=frozenset(str(mode.get("@name")) for mode in modes if mode.get("@supported") == "yes"),
        tpm_backends=backends,
    )


def _texts(value: object) -> frozenset[str]:
    return frozenset(found for item in (value if isinstance(value, list) else [value]) if (found := text(item)))
