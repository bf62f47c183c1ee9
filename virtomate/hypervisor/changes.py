"""Changes of a domain in one place of its definition; whatever else changed since the definition was read stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import libvirt

from virtomate.hypervisor.translate import translating_errors

if TYPE_CHECKING:
    from virtomate.hypervisor.domains import Domain


def update_disk(domain: Domain, disk: str) -> None:
    """Replace the disk with the same target in the definition for the next start by a `<disk>` element."""
    with translating_errors(f"cannot change a disk of domain '{domain.name}'"):
        domain.handle.updateDeviceFlags(disk, libvirt.VIR_DOMAIN_AFFECT_CONFIG)


def set_metadata_element(domain: Domain, namespace: str, prefix: str, element: str | None) -> None:
    """Replace our element of the metadata, in every definition that the domain has.

    Args:
        domain: The domain.
        namespace: Namespace of the element.
        prefix: Prefix that libvirt writes the element with.
        element: The element, without prefix and namespace; None removes it.
    """
    with translating_errors(f"cannot change the metadata of domain '{domain.name}'"):
        flags = libvirt.VIR_DOMAIN_AFFECT_CURRENT
        if domain.is_active():
            flags = libvirt.VIR_DOMAIN_AFFECT_LIVE
            if domain.is_persistent():
                flags |= libvirt.VIR_DOMAIN_AFFECT_CONFIG
        domain.handle.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, element, prefix, namespace, flags)
