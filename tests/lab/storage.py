"""File systems of the lab and the libvirt storage pools on them."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import libvirt

from tests.lab import images, mounts
from tests.lab.hypervisor import Hypervisor
from tests.lab.programs import MissingPackageError, require_program, run

FILE_SYSTEM_BYTES = 3 * images.GIB

# While it builds a volume, which may go on when who asked for it is gone, libvirt does not refresh the pool.
BUILD_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class Pool:
    """A directory pool; its directory is the same here and on its host.

    The methods that make images work on the file system and refresh the pool, as somebody with a shell would.
    """

    hypervisor: Hypervisor
    name: str
    path: Path

    @property
    def handle(self) -> Any:
        """The pool in libvirt (`libvirt.virStoragePool`)."""
        return self.hypervisor.connection.storagePoolLookupByName(self.name)

    def refresh(self) -> None:
        """Have libvirt look at the directory again, once it has built what it is building there."""
        deadline = time.monotonic() + BUILD_TIMEOUT_SECONDS
        while True:
            try:
                self.handle.refresh()
            except libvirt.libvirtError as error:
                if "asynchronous jobs" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def volumes(self) -> list[str]:
        """Return the names of the volumes that libvirt finds in the directory."""
        self.refresh()
        return sorted(self.handle.listVolumes())

    def copy(self, source: Path, name: str) -> Path:
        """Make a volume that is a copy of a file."""
        path = Path(shutil.copyfile(source, self.path / name))
        self.refresh()
        return path

    def raw(self, name: str, capacity_bytes: int = 64 * images.MIB, **keywords: Any) -> Path:
        """Make a raw volume; see `images.make_raw`."""
        path = images.make_raw(self.path / name, capacity_bytes, **keywords)
        self.refresh()
        return path

    def qcow2(self, name: str, capacity_bytes: int = 64 * images.MIB, **keywords: Any) -> Path:
        """Make a qcow2 volume; see `images.make_qcow2`."""
        path = images.make_qcow2(self.path / name, capacity_bytes, **keywords)
        self.refresh()
        return path

    def overlay(self, name: str, backing: Path, backing_format: str = "qcow2", **keywords: Any) -> Path:
        """Make a qcow2 volume on top of another; see `images.make_overlay`."""
        path = images.make_overlay(self.path / name, backing, backing_format, **keywords)
        self.refresh()
        return path


def make_pool(hypervisor: Hypervisor, name: str, path: Path, *, persistent: bool = True) -> Pool:
    """Make an active directory pool over a directory."""
    connection = hypervisor.connection
    xml = f"<pool type='dir'><name>{escape(name)}</name><target><path>{escape(str(path))}</path></target></pool>"
    if persistent:
        connection.storagePoolDefineXML(xml).create()
    else:
        connection.storagePoolCreateXML(xml)
    return Pool(hypervisor, name, path)


@contextmanager
def backend(kind: str) -> Iterator[None]:
    """Name the package that is missing if libvirt knows no pools of a kind: newer Debians have one for each kind."""
    try:
        yield
    except libvirt.libvirtError as error:
        if "missing backend" not in str(error):
            raise
        package = f"libvirt-daemon-driver-storage-{kind}"
        raise MissingPackageError(f"{error}: apt-get install --no-install-recommends {package}") from error


def remove_pool(pool: Any) -> None:
    """Stop a pool (`libvirt.virStoragePool`) and forget it; its directory and volumes stay."""
    persistent = pool.isPersistent()
    if pool.isActive():
        pool.destroy()
    if persistent:
        pool.undefine()


def make_mounted_directory(directory: Path, kind: str, size_bytes: int = FILE_SYSTEM_BYTES) -> Path:
    """Make a file system of its own (ext4, xfs or btrfs) and mount it on a new directory."""
    image = directory.with_name(f"{directory.name}.img")
    mounts.make_file_system(kind, image, size_bytes)
    mounts.mount_image(image, directory)
    if (found := directory / "lost+found").is_dir():
        # libvirt would take it for a volume.
        found.rmdir()
    return directory


@contextmanager
def loop_device(image: Path, *, partitions: bool = False) -> Iterator[Path]:
    """Have a file be a block device for the block, and its partitions perhaps, too. Needs root."""
    losetup = require_program("losetup", "mount")
    words = ("--partscan",) if partitions else ()
    device = Path(run(losetup, "--find", "--show", *words, image).decode().strip())
    try:
        yield device
    finally:
        run(losetup, "--detach", device)
