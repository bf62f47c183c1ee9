"""What a host offers to domains: its name, memory, emulators and CPUs, secrets, networks and devices."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import libvirt

from virtomate.hypervisor.translate import look_up, translating_errors

if TYPE_CHECKING:
    from virtomate.hypervisor.connection import Connection

_MIB = 1024 * 1024

# of a hypervisor without the driver, or without that call
_UNSUPPORTED = (libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_OPERATION_UNSUPPORTED, libvirt.VIR_ERR_CONFIG_UNSUPPORTED)
# of an emulator, a machine or a type of domain that the host does not have
_NO_MACHINE = (
    libvirt.VIR_ERR_INVALID_ARG,
    libvirt.VIR_ERR_INTERNAL_ERROR,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
    libvirt.VIR_ERR_SYSTEM_ERROR,
)

_SECRET_USAGES = {
    "volume": libvirt.VIR_SECRET_USAGE_TYPE_VOLUME,
    "ceph": libvirt.VIR_SECRET_USAGE_TYPE_CEPH,
    "iscsi": libvirt.VIR_SECRET_USAGE_TYPE_ISCSI,
    "tls": libvirt.VIR_SECRET_USAGE_TYPE_TLS,
    "vtpm": libvirt.VIR_SECRET_USAGE_TYPE_VTPM,
}


def host_name(connection: Connection) -> str:
    """Return the name that the host of a hypervisor has for itself."""
    with translating_errors("cannot read the name of the host"):
        return str(connection.handle.getHostname())


def memory_bytes(connection: Connection) -> int:
    """Return the memory of the host in bytes."""
    with translating_errors("cannot read the memory of the host"):
        return int(connection.handle.getInfo()[1]) * _MIB


def domain_capabilities(
    connection: Connection, emulator: str | None, architecture: str | None, machine: str | None, virt_type: str
) -> str | None:
    """Return the document about what a hypervisor can run; None where it has no such emulator, machine or type."""
    ask = connection.handle.getDomainCapabilities
    failure = "cannot read what the host can run"
    return look_up(lambda: str(ask(emulator, architecture, machine, virt_type, 0)), failure, *_NO_MACHINE)


def runs_cpu(
    connection: Connection,
    emulator: str | None,
    architecture: str | None,
    machine: str | None,
    virt_type: str,
    cpu: str,
) -> bool | None:
    """Return whether a hypervisor can give a guest the CPU of a document; None where libvirt cannot tell."""
    compare = connection.handle.compareHypervisorCPU
    result = look_up(
        lambda: int(compare(emulator, architecture, machine, virt_type, cpu, 0)),
        "cannot compare CPUs",
        *_UNSUPPORTED,
        *_NO_MACHINE,
        libvirt.VIR_ERR_CPU_INCOMPATIBLE,
    )
    return None if result in {None, libvirt.VIR_CPU_COMPARE_ERROR} else result != libvirt.VIR_CPU_COMPARE_INCOMPATIBLE


def has_secret(connection: Connection, name: str) -> bool:
    """Return whether libvirt knows a secret, by its UUID or as `TYPE/USAGE`."""
    kind, sign, usage = name.partition("/")
    handle = connection.handle

    def find() -> bool:
        if sign:
            handle.secretLookupByUsage(_SECRET_USAGES.get(kind, libvirt.VIR_SECRET_USAGE_TYPE_NONE), usage)
        else:
            handle.secretLookupByUUIDString(name)
        return True

    absent = (libvirt.VIR_ERR_NO_SECRET, libvirt.VIR_ERR_INVALID_SECRET, libvirt.VIR_ERR_INVALID_ARG, *_UNSUPPORTED)
    return look_up(find, f"cannot look up secret '{name}'", *absent) is True


def has_network_device(connection: Connection, name: str) -> bool | None:
    """Return whether the host has a bridge or network card; None where nothing tells."""
    if connection.is_local and os.path.isdir("/sys/class/net"):
        return os.path.isdir(os.path.join("/sys/class/net", name)) and "/" not in name
    flag = libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_NET
    found = look_up(
        lambda: [device.name() for device in connection.handle.listAllDevices(flag)],
        "cannot list the network devices of the host",
        *_UNSUPPORTED,
        libvirt.VIR_ERR_NO_CONNECT,
    )
    # libvirt's names are net_NAME_ADDRESS, with every other character as _
    wanted = "".join(sign if sign.isalnum() else "_" for sign in name)
    return None if found is None else any(device.startswith(f"net_{wanted}_") for device in found)


def has_device(connection: Connection, name: str) -> bool:
    """Return whether the host has a device of libvirt's name, such as `pci_0000_03_00_0`."""
    found = look_up(
        lambda: connection.handle.nodeDeviceLookupByName(name),
        f"cannot look up device '{name}'",
        libvirt.VIR_ERR_NO_NODE_DEVICE,
        *_UNSUPPORTED,
    )
    return found is not None
