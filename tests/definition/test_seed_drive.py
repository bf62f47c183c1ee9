"""Where the seed of a clone stands among the disks of its definition."""

from __future__ import annotations

import pytest

from virtomate.definition import codec
from virtomate.definition.readers import devices
from virtomate.definition.rewrite.seed import can_hold_seed, seed_drive, with_seed


def drive(target: str, bus: str, unit: int | None = None, device: str = "disk", controller: int = 0) -> str:
    """Return a disk; with a unit, it has an address."""
    address = f"<address type='drive' controller='{controller}' bus='{(unit or 0) // 2 if bus == 'ide' else 0}' "
    address += f"target='0' unit='{(unit or 0) % 2 if bus == 'ide' else unit}'/>"
    return (
        f"<disk type='file' device='{device}'><source file='/srv/{target}'/><target dev='{target}' bus='{bus}'/>"
        f"{'' if unit is None else address}</disk>"
    )


def controllers(*kinds: str) -> str:
    """Return controllers."""
    return "".join(f"<controller type='{kind}' index='0'/>" for kind in kinds)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (controllers("sata"), ("cdrom", "sata", "sda", ("0", "0", "0"))),
        (controllers("ide"), ("cdrom", "ide", "hda", ("0", "0", "0"))),
        (controllers("scsi"), ("cdrom", "scsi", "sda", ("0", "0", "0"))),
        (controllers("usb", "pci"), ("disk", "virtio", "vda", None)),
        (controllers("usb") + drive("vda", "virtio"), ("disk", "virtio", "vdb", None)),
        # the guest has drivers for the bus of its disks, whatever else the machine has
        (controllers("sata", "scsi") + drive("vda", "virtio"), ("disk", "virtio", "vdb", None)),
        (
            controllers("sata") + drive("sda", "sata", 0, "cdrom") + drive("vda", "virtio"),
            ("disk", "virtio", "vdb", None),
        ),
        (controllers("sata", "scsi") + drive("sda", "scsi", 0), ("cdrom", "scsi", "sdb", ("0", "0", "1"))),
        (
            controllers("sata", "scsi") + drive("sda", "scsi", 0) + drive("vda", "virtio"),
            ("cdrom", "scsi", "sdb", ("0", "0", "1")),
        ),
        # of other buses, the bus of a CD-ROM comes first
        (controllers("sata", "scsi") + drive("sda", "scsi", 0, "cdrom"), ("cdrom", "scsi", "sdb", ("0", "0", "1"))),
        # neither a name nor an address is given twice
        (controllers("sata") + drive("sdb", "sata", 0), ("cdrom", "sata", "sda", ("0", "0", "1"))),
        (
            controllers("ide") + drive("hda", "ide", 0) + drive("hdb", "ide", 1),
            ("cdrom", "ide", "hdc", ("0", "1", "0")),
        ),
        (
            controllers("ide", "sata") + "".join(drive(f"hd{'abcd'[unit]}", "ide", unit) for unit in range(4)),
            ("cdrom", "sata", "sda", ("0", "0", "0")),
        ),
        (
            controllers("scsi")
            + "<hostdev><address type='drive' controller='0' bus='0' target='0' unit='0'/></hostdev>",
            ("cdrom", "scsi", "sda", ("0", "0", "1")),
        ),
        (
            controllers("ide") + "".join(drive(f"hd{'abcd'[unit]}", "ide", unit) for unit in range(4)),
            ("disk", "virtio", "vda", None),
        ),
    ],
)
def test_bus(parts: str, expected: tuple[str, str, str, tuple[str, str, str] | None]) -> None:
    """The seed goes to a free place on a bus that the machine has, or becomes a virtio disk."""
    domain = codec.parse(f"<domain type='kvm'><devices>{parts}</devices></domain>", "domain")

    chosen = seed_drive(domain, None, ())

    address = chosen.element.get("address")
    place = None if address is None else tuple(address[f"@{key}"] for key in ("controller", "bus", "unit"))
    target = chosen.element["target"]
    assert (chosen.element["@device"], target["@bus"], target["@dev"], place) == expected
    assert "readonly" in chosen.element
    added = with_seed(domain, chosen, "/srv/seed.iso")
    assert devices(added, "disk")[-1]["source"] == {"@file": "/srv/seed.iso"}
    assert len(devices(added, "disk")) == len(devices(domain, "disk")) + 1


@pytest.mark.parametrize(("device", "expected"), [("cdrom", True), ("disk", True), ("floppy", False), ("lun", False)])
def test_devices_that_hold_a_seed(device: str, *, expected: bool) -> None:
    """A floppy drive and a passed-through device cannot have an image of a CD-ROM."""
    text = f"<domain type='kvm'><devices>{drive('sda', 'sata', 0, device)}</devices></domain>"

    assert can_hold_seed(codec.parse(text, "domain"), 0) is expected


def test_place_of_a_dropped_disk_is_free() -> None:
    """A disk that the clone does not get leaves its place to the seed."""
    text = f"<domain type='kvm'><devices>{controllers('sata')}{drive('sda', 'sata', 0)}</devices></domain>"

    assert seed_drive(codec.parse(text, "domain"), None, {0}).target == "sda"


def test_replaced_in_place() -> None:
    """The disk keeps what the guest sees of it, and loses what was about the image of the original."""
    disk = (
        "<disk type='network' device='disk'><driver name='qemu' type='qcow2' cache='none'/><auth username='a'/>"
        "<source protocol='rbd' name='p/seed'><host name='h'/></source><backingStore/><target dev='vdb' bus='virtio'/>"
        "<serial>S1</serial><shareable/><address type='pci' slot='7'/></disk>"
    )
    domain = codec.parse(f"<domain type='test'><devices>{disk}</devices></domain>", "domain")

    chosen = seed_drive(domain, 0, ())
    (changed,) = devices(with_seed(domain, chosen, "/srv/seed.iso"), "disk")

    assert chosen.target == "vdb"
    assert changed == {
        "@type": "file",
        "@device": "disk",
        "driver": {"@type": "raw"},
        "source": {"@file": "/srv/seed.iso"},
        "target": {"@dev": "vdb", "@bus": "virtio"},
        "serial": "S1",
        "readonly": None,
        "address": {"@type": "pci", "@slot": "7"},
    }
