"""A volume group of LVM, where the kernel need not have a device mapper.

Metadata, UUIDs, sizes and free space are LVM's own, in a volume group on a loop device. Only the activation is ours:
the commands by which libvirt makes, activates and removes logical volumes are replaced on the lab's host, and put a
loop device over the very extents that LVM has chosen. There are no snapshots and no thin volumes. Needs root.
"""

import os
import shutil
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import images
from tests.lab.hypervisor import Hypervisor
from tests.lab.programs import require_program, run
from tests.lab.storage import backend, loop_device, remove_pool

_CONFIGURATION = """
devices {{
  dir="/dev" scan=["/dev"] filter=["a|^{device}$|","r|.*|"] use_devicesfile=0
  obtain_device_list_from_udev=0 external_device_info_source="none"
}}
activation {{ monitoring=0 udev_sync=0 udev_rules=0 }}
allocation {{ raid_stripe_all_devices=0 }}
backup {{ backup=0 archive=0 }}
global {{ locking_dir="{directory}/lock" use_lvmpolld=0 event_activation=0 notify_dbus=0 system_id_source="none" }}
"""

# For a script, $0 is the name under which the kernel found it: lvcreate, lvs and so on are links to one program.
_WRAPPER = """\
#!/bin/sh
export LVM_SYSTEM_DIR={directory} LVM_SUPPRESS_FD_WARNINGS=1
real() {{ command {directory}/lvm "$@"; }}
ask() {{ real lvs --driverloaded n --noheadings --nosuffix --units b "$@" 2>/dev/null | tr -d ' '; }}
name=$(basename "$0")
case $name in
lvcreate)
    case " $* " in *" --type "*) echo "no device mapper" >&2; exit 5;; esac
    while [ $# -gt 0 ]; do
        case $1 in
        --name) volume=$2; shift;;
        -L) length=$2; shift;;
        -*) ;;
        *) group=$1;;
        esac
        shift
    done
    [ -e "/dev/$group/$volume" ] && {{ echo "Logical volume \\"$volume\\" already exists" >&2; exit 5; }}
    real lvcreate --driverloaded n --alloc contiguous -an -Zn -Wn --name "$volume" -L "$length" "$group" || exit
    extent=$(ask -o vg_extent_size "$group/$volume")
    size=$(ask -o lv_size "$group/$volume")
    first=$(ask -o seg_pe_ranges "$group/$volume" | sed 's/.*:\\([0-9]*\\)-.*/\\1/')
    start=$(real pvs --driverloaded n --noheadings --nosuffix --units b -o pe_start {device} 2>/dev/null | tr -d ' ')
    loop=$(losetup --find --show --offset $((start + first * extent)) --sizelimit "$size" {image}) || exit
    mkdir -p "/dev/$group"
    ln -s "$loop" "/dev/$group/$volume"
    # as LVM does
    dd if=/dev/zero of="$loop" bs=4096 count=1 conv=fsync status=none
    ;;
lvremove)
    for path; do :; done
    left=$(cat {directory}/refusals 2>/dev/null || echo 0)
    if [ "$left" -gt 0 ]; then
        echo $((left - 1)) >{directory}/refusals
        echo "Logical volume ${{path#/dev/}} in use." >&2
        exit 5
    fi
    loop=$(readlink "$path") || {{ echo "Failed to find $path" >&2; exit 5; }}
    losetup --detach "$loop" && rm "$path" && real lvremove --driverloaded n --force "${{path#/dev/}}"
    ;;
lvs)
    # libvirt passes over volumes that are not active
    for group; do :; done
    real lvs --driverloaded n "$@" | while read -r line; do
        [ -e "/dev/$group/${{line%%#*}}" ] && line=$(echo "$line" | sed 's/-w\\(.\\)-XX/-w\\1-a-/')
        echo "$line"
    done
    ;;
vgchange|lvchange|vgscan|pvscan) ;;
*) real "$name" --driverloaded n "$@";;
esac
"""


@dataclass(frozen=True)
class VolumeGroup:
    """A volume group, and the pool of type `logical` over it."""

    hypervisor: Hypervisor
    name: str
    directory: Path

    @property
    def handle(self) -> Any:
        """The pool in libvirt (`libvirt.virStoragePool`)."""
        return self.hypervisor.connection.storagePoolLookupByName(self.name)

    @property
    def path(self) -> Path:
        """The directory of the devices."""
        return Path("/dev") / self.name

    def define(self) -> None:
        """Define and start the pool."""
        document = f"<pool type='logical'><name>{self.name}</name><source><name>{self.name}</name></source></pool>"
        with backend("logical"):
            self.hypervisor.connection.storagePoolDefineXML(document).create()

    def make(self, name: str, capacity_bytes: int) -> Path:
        """Make a logical volume as libvirt does, and return the path of its device; it holds what was there before."""
        size = f"<capacity>{capacity_bytes}</capacity><allocation>{capacity_bytes}</allocation>"
        self.handle.createXML(f"<volume><name>{name}</name>{size}</volume>")
        return self.path / name

    def volumes(self) -> list[str]:
        """Return the names of the volumes."""
        self.handle.refresh()
        return sorted(self.handle.listVolumes())

    def uuids(self) -> dict[str, str]:
        """Return the UUIDs of the volumes by their names."""
        return {volume.name(): volume.key() for volume in self.handle.listAllVolumes()}

    @contextmanager
    def inactive(self, name: str) -> Iterator[None]:
        """Have a volume not active for the time of the block: neither its device nor libvirt's volume is there."""
        device = self.path / name
        loop = device.readlink()
        device.unlink()
        self.handle.refresh()
        try:
            yield
        finally:
            device.symlink_to(loop)
            self.handle.refresh()

    def refuse_removals(self, count: int) -> None:
        """Have LVM refuse so many removals, as of a volume that something has open."""
        (self.directory / "refusals").write_text(str(count))

    def removals_refused(self) -> int:
        """Return how many removals LVM is still going to refuse."""
        return int((self.directory / "refusals").read_text())

    def clear(self, but: str) -> None:
        """Delete all volumes except one."""
        self.handle.refresh()
        for volume in self.handle.listAllVolumes():
            if volume.name() != but:
                volume.delete()

    def fill_with_rubbish(self) -> None:
        """Write something to all free extents, so that every new volume reads as what was there before."""
        free = self.handle.info()[3]
        path = self.make("rubbish", free)
        with path.open("wb", buffering=0) as device:
            block = b"rubbish!" * (images.MIB // 8)
            for _ in range(free // images.MIB):
                device.write(block)
            os.fsync(device.fileno())
        self.handle.storageVolLookupByName("rubbish").delete()


@contextmanager
def volume_group(
    hypervisor: Hypervisor, directory: Path, size_bytes: int, *, name: str | None = None
) -> Iterator[VolumeGroup]:
    """Make a volume group with so much space, and a pool over it, for the block. Needs root.

    The hosts of the lab have one `/dev`, so groups of several hosts need different names.
    """
    lvm = Path(require_program("lvm", "lvm2")).resolve()
    directory.mkdir()
    name = name or f"lab{os.getpid()}"
    image = directory / "extents"
    with ExitStack() as stack:
        with image.open("wb") as file:
            file.truncate(size_bytes + 4 * images.MIB)
        device = stack.enter_context(loop_device(image))
        shutil.copyfile(lvm, directory / "lvm")
        (directory / "lvm").chmod(0o755)
        (directory / "lvm.conf").write_text(_CONFIGURATION.format(directory=directory, device=device))
        wrapper = directory / "wrapper"
        wrapper.write_text(textwrap.dedent(_WRAPPER.format(directory=directory, device=device, image=image)))
        wrapper.chmod(0o755)
        hypervisor.run("mount", "--bind", wrapper, lvm)
        stack.callback(hypervisor.run, "umount", "--lazy", lvm)
        hypervisor.run("vgcreate", name, device)
        Path("/dev", name).mkdir()
        stack.callback(_remove_devices, Path("/dev", name))
        group = VolumeGroup(hypervisor, name, directory)
        group.define()
        stack.callback(_remove_pool, group)
        yield group


def _remove_pool(group: VolumeGroup) -> None:
    with suppress(Exception):
        remove_pool(group.handle)


def _remove_devices(directory: Path) -> None:
    losetup = require_program("losetup", "mount")
    for link in directory.iterdir():
        run(losetup, "--detach", link.readlink())
        link.unlink()
    directory.rmdir()
