"""Rule: the seed of a clone stands in the place of the original's, or on a drive that the machine has room for.

Source: https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms
"""

from __future__ import annotations

import itertools
import string
from typing import TYPE_CHECKING, Any

from virtomate.definition.codec import copied
from virtomate.definition.readers import child, devices
from virtomate.errors import UnsupportedError
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from virtomate.definition.codec import Document

_HYPERVISORS_WITH_DRIVER = frozenset({"qemu", "kvm", "hvf"})
# What an AHCI or SCSI controller holds at least; IDE has two buses of two drives each.
_SATA_PORTS, _SCSI_UNITS = 6, 7
_DEVICES = frozenset({"cdrom", "disk"})
_PREFIXES = {"sata": "sd", "ide": "hd", "scsi": "sd", "virtio": "vd"}


class SeedDrive(NamedTuple):
    """The disk of a clone that gets its seed.

    Attributes:
        target: Name of the device in the guest.
        element: The `<disk>` without a source.
        position: Position of the original's seed whose place the disk takes, None for a new disk.
    """

    target: str
    element: Document
    position: int | None


def can_hold_seed(domain: Document, position: int) -> bool:
    """Return whether a seed can take the place of a disk: no floppy disk and no passed-through device."""
    return devices(domain, "disk")[position].get("@device", "disk") in _DEVICES


def seed_drive(domain: Document, position: int | None, dropped: Collection[int]) -> SeedDrive:
    """Return the disk for the seeds of all clones of a domain.

    Args:
        domain: The original.
        position: Position of a seed whose place the disk takes; None for a new disk.
        dropped: Positions of the disks that the clones do not get.

    Raises:
        UnsupportedError: All names of devices are taken.
    """
    driver: Document = {"@type": "raw"}
    if domain.get("@type") in _HYPERVISORS_WITH_DRIVER:
        driver = {"@name": "qemu", **driver}
    if position is not None:
        disk = copied(devices(domain, "disk")[position])
        for key in ("source", "backingStore", "mirror", "encryption", "auth", "transient", "shareable"):
            disk.pop(key, None)
        disk |= {"@type": "file", "driver": driver, "readonly": None}
        return SeedDrive(str(child(disk, "target").get("@dev", "")), disk, position)
    others = [disk for index, disk in enumerate(devices(domain, "disk")) if index not in dropped]
    bus, address = _free_place(domain, others)
    target = _free_target(others, _PREFIXES[bus])
    element: Document = {
        "@type": "file",
        "@device": "disk" if address is None else "cdrom",
        "driver": driver,
        "target": {"@dev": target, "@bus": bus},
        "readonly": None,
    }
    if address is not None:
        element["address"] = {"@type": "drive", **address}
    return SeedDrive(target, element, None)


def with_seed(domain: Document, drive: SeedDrive, path: str) -> Document:
    """Return the definition with the file at a path as the seed."""
    domain = copied(domain)
    disk = copied({**drive.element, "source": {"@file": path}})
    if drive.position is None:
        domain.setdefault("devices", {}).setdefault("disk", []).append(disk)
    else:
        domain["devices"]["disk"][drive.position] = disk
    return domain


def _free_place(domain: Document, disks: list[dict[str, Any]]) -> tuple[str, dict[str, str] | None]:
    """Return a bus for a CD-ROM and a free address there; a virtio disk, whose address libvirt chooses, otherwise.

    The guest certainly has drivers for the bus of its disks; Debian's kernel for cloud images has none for SATA. Next
    comes a bus that has a CD-ROM already.
    """
    used = {(str(child(disk, "target").get("@bus")), _drive_address(child(disk, "address"))) for disk in disks}
    for device in devices(domain, "hostdev"):
        used.add(("scsi", _drive_address(child(device, "address"))))
    with_drive = {child(disk, "target").get("@bus") for disk in disks if disk.get("@device") == "cdrom"}
    with_disk = {child(disk, "target").get("@bus") for disk in disks if disk.get("@device", "disk") in {"disk", "lun"}}
    for bus in sorted(("sata", "ide", "scsi"), key=lambda bus: (bus not in with_disk, bus not in with_drive)):
        if bus not in with_disk and "virtio" in with_disk:
            break
        for place in _addresses(domain, bus):
            if (bus, place) not in used:
                controller, bus_number, unit = map(str, place)
                address = {"@controller": controller, "@bus": bus_number, "@target": "0", "@unit": unit}
                return bus, address
    return "virtio", None


def _addresses(domain: Document, bus: str) -> Iterator[tuple[int, int, int]]:
    """Yield the addresses of all drives on the controllers of a bus: controller, bus and unit."""
    controllers = devices(domain, "controller")
    indices = [int(item.get("@index", 0)) for item in controllers if item.get("@type") == bus]
    for index in sorted(indices):
        if bus == "sata":
            yield from ((index, 0, unit) for unit in range(_SATA_PORTS))
        elif bus == "ide":
            yield from ((index, number, unit) for number in range(2) for unit in range(2))
        else:
            yield from ((index, 0, unit) for unit in range(_SCSI_UNITS))


def _drive_address(address: dict[str, Any]) -> tuple[int, int, int] | None:
    if address.get("@type") != "drive":
        return None
    controller, bus, unit = (int(address.get(f"@{key}", 0)) for key in ("controller", "bus", "unit"))
    return controller, bus, unit


def _free_target(disks: list[dict[str, Any]], prefix: str) -> str:
    taken = {child(disk, "target").get("@dev") for disk in disks}
    letters = string.ascii_lowercase
    suffixes = itertools.chain(letters, map("".join, itertools.product(letters, repeat=2)))
    target = next((prefix + suffix for suffix in suffixes if prefix + suffix not in taken), None)
    if target is None:
        raise UnsupportedError(f"the original has so many disks that no name '{prefix}...' is left for the seed")
    return target
