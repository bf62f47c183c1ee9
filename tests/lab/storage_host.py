"""A host with the storage that the kernel of the test machine may lack: LVM thick and thin, NFS, iSCSI, quotas.

It is a Debian without KVM, so everything on it is ten to fifty times as slow as here. What is where:

* The volume group `vg` on /dev/vdb, with the thin pool `thinpool`. /dev/vdc is spare.
* /srv/nfs is mounted by NFS from /srv/export/squashed: root is nobody there. /srv/export/open is exported with root's
  rights, and in /srv/export/qemu root is the user that runs QEMU; they are not mounted. All are on an ext4 that has
  quotas for users.
* /srv/templates is a read-only mount of /srv/templates-writable.
* The iSCSI target `IQN` at 127.0.0.1 has one LUN, which is /dev/vde. While an iSCSI pool is active, it is `LUN`, too.
* The user `member` is in the group libvirt.

>>> with StorageHost(workspace) as host:
...     path = host.make_lv("original", 64)
...     host.write(path, b"content")
...     Program(host.uri, tmp_path)("domain-list")      # virtomate here, libvirt there
...     host.virtomate("domain-list", json=True).json   # both there
"""

import hashlib
import io
import shlex
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from subprocess import Popen
from typing import Any, Self

import libvirt

from tests.lab.guest_image import GuestImage, make_guest_image
from tests.lab.images import qemu_img
from tests.lab.lab import UNDEFINE_ALL, remove_domain
from tests.lab.program import Result
from tests.lab.storage import remove_pool
from tests.lab.storage_image import RELEASE, Image, build_image, recipe
from tests.lab.storage_machine import RUN_TIMEOUT_SECONDS, Machine
from tests.lab.workspace import Workspace

IQN = "iqn.2026-01.lab:storage"
LUN = f"/dev/disk/by-path/ip-127.0.0.1:3260-iscsi-{IQN}-lun-1"
VOLUME_GROUP = "vg"
THIN_POOL = "thinpool"
NFS_DIRECTORY = "/srv/nfs"
SQUASHED_EXPORT = "/srv/export/squashed"
OPEN_EXPORT = "/srv/export/open"
QEMU_EXPORT = "/srv/export/qemu"
TEMPLATES = "/srv/templates"
TEMPLATES_WRITABLE = "/srv/templates-writable"
QUOTA_FILE_SYSTEM = "/srv/export"
SQUASHED_USER = 65534

# A variable store may be in a directory in which it cannot be removed; the others are removed as files.
UNDEFINE_BUT_FILES = UNDEFINE_ALL & ~libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM

PROGRAM = "/lab/program"
# What the program consists of; libvirt's module is Debian's.
PARTS = ("virtomate", "click", "pycdlib", "rich", "xmltodict")

# ssh's own temporary name for the socket is longer than the socket's.
CONTROL = "control"
LONGEST_CONTROL = f"{CONTROL}.{16 * 'x'}"


@dataclass(frozen=True)
class HostMark:
    """What the host held at some moment, to return to."""

    domains: frozenset[str]
    pools: frozenset[str]
    volumes: frozenset[str]
    files: frozenset[str]


class StorageHost:
    """The host, for a `with` block.

    Args:
        workspace: where its files are made. The image is in the cache; who makes it waits some minutes.
        name: the name of its directory; several hosts can stand side by side.
    """

    def __init__(self, workspace: Workspace, name: str = "storage") -> None:
        self._workspace = workspace
        self._name = name
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            image = make_storage_image(self._workspace)
            directory = self._workspace.directory / f"{self._name}-disks"
            directory.mkdir()
            overlays = [_make_overlay(directory, disk) for disk in image.disks]
            self._machine = stack.enter_context(_machine(self._workspace, self._name, image, overlays))
            self.send_program()
            self.connection = libvirt.open(self.uri)
            stack.callback(self.connection.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def uri(self) -> str:
        """The URI of its libvirt, as seen from here."""
        return self._machine.uri("root")

    @property
    def member_uri(self) -> str:
        """The same URI for a user of the host who is in the group libvirt, and may open no devices there."""
        return self._machine.uri("member")

    @property
    def ssh(self) -> Path:
        """A program that is ssh with what this host requires; the user is root, the host 127.0.0.1."""
        return self._machine.ssh

    def run(self, command: str, *, stdin: bytes = b"", timeout_seconds: float = RUN_TIMEOUT_SECONDS) -> str:
        """Run a shell command on the host, as root, and return what it prints; its failure is an error."""
        done = self._machine.run(command, stdin=stdin, timeout_seconds=timeout_seconds)
        if done.returncode != 0:
            said = (done.stdout + done.stderr).decode(errors="replace").strip()
            raise RuntimeError(f"{command} ended with {done.returncode}: {said}")
        return done.stdout.decode(errors="surrogateescape")

    def start(self, command: str, **keywords: Any) -> Popen[bytes]:
        """Start a shell command on the host, as root, and return the ssh that waits for it."""
        return self._machine.start(command, **keywords)

    def forwarded(self, path: str) -> AbstractContextManager[Path]:
        """Have a unix socket of the host answer at a path here for a `with` block."""
        return self._machine.forwarded(path)

    def send_program(self) -> None:
        """Copy the program under test to the host, as it is now."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for part in PARTS:
                found = find_spec(part)
                if found is None or found.origin is None:
                    raise RuntimeError(f"{part} cannot be imported")
                origin = Path(found.origin)
                place = origin.parent if found.submodule_search_locations else origin
                tar.add(place, place.name, filter=_leave_out)
        self.run(f"rm -rf {PROGRAM}/virtomate; mkdir -p {PROGRAM}; tar -x -C {PROGRAM}", stdin=archive.getvalue())

    def virtomate(
        self,
        *words: str | Path,
        json: bool = False,
        env: Mapping[str, str] | None = None,
        timeout_seconds: float = RUN_TIMEOUT_SECONDS,
    ) -> Result:
        """Run the program under test on the host, as root, to its end."""
        argv = self.argv(*words, json=json, env=env)
        started = time.monotonic()
        done = self._machine.run(shlex.join(argv), timeout_seconds=timeout_seconds)
        stdout, stderr = (text.decode(errors="surrogateescape") for text in (done.stdout, done.stderr))
        return Result(argv, done.returncode, stdout, stderr, time.monotonic() - started)

    def argv(self, *words: str | Path, json: bool = False, env: Mapping[str, str] | None = None) -> list[str]:
        """Return the command line of the program on the host."""
        variables = {"PYTHONPATH": PROGRAM, "COLUMNS": "120", "LANG": "C.UTF-8", **(env or {})}
        options = ["--json"] if json else []
        assignments = [f"{name}={value}" for name, value in variables.items()]
        return ["env", *assignments, "python3", "-m", "virtomate", *options, *map(str, words)]

    def make_lv(self, name: str, size_mib: int, group: str = VOLUME_GROUP) -> str:
        """Make a logical volume and return the path of its device."""
        self.run(f"lvcreate --yes --wipesignatures n --zero n --size {size_mib}m --name {shlex.quote(name)} {group}")
        return f"/dev/{group}/{name}"

    def make_thin(self, name: str, size_mib: int) -> str:
        """Make a thin volume in the thin pool and return the path of its device."""
        pool = f"{VOLUME_GROUP}/{THIN_POOL}"
        self.run(f"lvcreate --yes --virtualsize {size_mib}m --thinpool {pool} --name {shlex.quote(name)}")
        return f"/dev/{VOLUME_GROUP}/{name}"

    def write(self, path: str, content: bytes, offset_bytes: int = 0) -> None:
        """Write to a device or a file, which keeps its length if it is longer."""
        options = f"bs=1M oflag=seek_bytes seek={offset_bytes} conv=notrunc,fsync iflag=fullblock status=none"
        self.run(f"dd of={shlex.quote(path)} {options}", stdin=content)

    def fetch(self, path: str, target: Path) -> Path:
        """Copy a device or a file of the host to a file here, where a guest boots from it much sooner."""
        with target.open("xb") as file, self.start(f"cat {shlex.quote(path)}", stdout=file) as reader:
            status = reader.wait(RUN_TIMEOUT_SECONDS)
        if status != 0:
            raise RuntimeError(f"reading {path} ended with {status}")
        return target

    def digest(self, path: str, size_bytes: int | None = None) -> str:
        """Return the SHA-256 of a device or a file, or of its beginning."""
        reader = f"cat {shlex.quote(path)}" if size_bytes is None else f"head -c {size_bytes} {shlex.quote(path)}"
        return self.run(f"{reader} | sha256sum").split()[0]

    def size_of(self, path: str) -> int:
        """Return how many bytes a device or a file has."""
        quoted = shlex.quote(path)
        return int(self.run(f"if [ -b {quoted} ]; then blockdev --getsize64 {quoted}; else stat -c %s {quoted}; fi"))

    def make_pool(self, kind: str, name: str) -> Any:
        """Make a pool of a kind that `POOLS` describes, over what the host has, and return it."""
        xml = POOLS[kind].format(name=name)
        pool = self.connection.storagePoolDefineXML(xml)
        if kind in BUILD_FLAGS:
            pool.build(BUILD_FLAGS[kind])
        pool.create()
        return pool

    def make_directory_pool(self, name: str, path: str) -> Any:
        """Make a directory pool over a directory of the host, which exists or is made."""
        self.run(f"mkdir -p {shlex.quote(path)}")
        pool = self.connection.storagePoolDefineXML(
            f"<pool type='dir'><name>{name}</name><target><path>{path}</path></target></pool>"
        )
        pool.create()
        return pool

    def send_guest(self) -> GuestImage:
        """Copy the kernel and the initramfs of the lab's guest to the host, and return where they are there."""
        guest = make_guest_image(self._workspace.cache)
        place = Path("/lab/guest")
        if self.run(f"[ -e {place} ] && echo there || true") == "":
            self.run(f"mkdir {place}.new")
            for path in (guest.kernel, guest.initrd):
                self.run(f"cat >{place}.new/{path.name}", stdin=path.read_bytes())
            self.run(f"mv {place}.new {place}")
        return GuestImage(place / guest.kernel.name, place / guest.initrd.name, guest.cache)

    def mark(self) -> HostMark:
        """Note what there is now, for `return_to`."""
        return HostMark(
            frozenset(domain.name() for domain in self.connection.listAllDomains()),
            frozenset(pool.name() for pool in self.connection.listAllStoragePools()),
            frozenset(self._volumes()),
            frozenset(self.files()),
        )

    def return_to(self, mark: HostMark) -> None:
        """Remove what was made since a mark: domains, pools, logical volumes, files in `/srv` and of libvirt's."""
        for domain in self.connection.listAllDomains():
            if domain.name() not in mark.domains:
                remove_domain(domain, UNDEFINE_BUT_FILES)
        for pool in self.connection.listAllStoragePools():
            if pool.name() not in mark.pools:
                remove_pool(pool)
        self.run(f"setquota -u {SQUASHED_USER} 0 0 0 0 {QUOTA_FILE_SYSTEM}")
        new = sorted(set(self._volumes()) - mark.volumes)
        if new:
            self.run(f"vgchange --activate y {VOLUME_GROUP}; lvremove --yes {' '.join(map(shlex.quote, new))}")
        # Deepest first, so that directories are empty when their turn comes.
        made = sorted(set(self.files()) - mark.files, reverse=True)
        self.run("xargs -0 -r rm -d -f --", stdin="\0".join(made).encode(errors="surrogateescape"))
        for pool in self.connection.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE):
            pool.refresh()

    def files(self) -> list[str]:
        """Return the paths of all files and directories in `/srv`, and where libvirt puts files of domains."""
        places = f"{QUOTA_FILE_SYSTEM} {TEMPLATES_WRITABLE} /var/lib/libvirt/images /var/lib/libvirt/qemu/nvram"
        listed = self.run(
            f"find /srv -xdev -mindepth 1 -not -path '{TEMPLATES}/*' -print0; find {places} -xdev -mindepth 1 -print0"
        )
        return sorted(set(listed.split("\0")) - {""})

    def _volumes(self) -> Iterator[str]:
        for line in self.run(f"lvs --noheadings -o vg_name,lv_name {VOLUME_GROUP}").splitlines():
            yield "/".join(line.split())


_MOUNT_POINT = "<target><path>/srv/pool-{name}</path></target>"
POOLS = {
    "logical": "<pool type='logical'><name>{name}</name><source><name>vg</name><format type='lvm2'/></source>"
    "<target><path>/dev/vg</path></target></pool>",
    "disk": "<pool type='disk'><name>{name}</name><source><device path='/dev/vdc'/><format type='gpt'/></source>"
    "<target><path>/dev</path></target></pool>",
    "iscsi": "<pool type='iscsi'><name>{name}</name><source><host name='127.0.0.1'/>"
    f"<device path='{IQN}'/></source><target><path>/dev/disk/by-path</path></target></pool>",
    "netfs": "<pool type='netfs'><name>{name}</name><source><host name='127.0.0.1'/>"
    f"<dir path='{SQUASHED_EXPORT}'/><format type='nfs'/></source>{_MOUNT_POINT}</pool>",
    "netfs-qemu": "<pool type='netfs'><name>{name}</name><source><host name='127.0.0.1'/>"
    f"<dir path='{QEMU_EXPORT}'/><format type='nfs'/></source>{_MOUNT_POINT}</pool>",
    "netfs-open": "<pool type='netfs'><name>{name}</name><source><host name='127.0.0.1'/>"
    f"<dir path='{OPEN_EXPORT}'/><format type='nfs'/></source>{_MOUNT_POINT}</pool>",
}
"""Pools over what the host has. Format of a volume in a logical, disk or iSCSI pool: raw."""
BUILD_FLAGS = {"disk": libvirt.VIR_STORAGE_POOL_BUILD_OVERWRITE, "netfs": 0, "netfs-qemu": 0, "netfs-open": 0}
"""Of the pools that must be built before their start: what needs a partition table, or the directory of a mount."""


def make_storage_image(workspace: Workspace, release: str = RELEASE) -> Image:
    """Return the image of the host, made by the first caller and kept until its recipe changes."""

    def build(target: Path) -> None:
        image = build_image(workspace.cache, release, target)
        disks = [(disk, "raw") for disk in image.disks]
        with _machine(workspace, "storage-preparation", image, disks) as machine:
            done = machine.run("/lab/prepare")
            if done.returncode != 0:
                raise RuntimeError(f"The storage host cannot be prepared:\n{(done.stdout + done.stderr).decode()}")
            machine.shut_down()

    return Image(workspace.cache.build(f"storage-image-{recipe(release)}", build))


@contextmanager
def _machine(workspace: Workspace, name: str, image: Image, disks: list[tuple[Path, str]]) -> Iterator[Machine]:
    control = workspace.socket_directory(f"{name}-sockets", LONGEST_CONTROL) / CONTROL
    with Machine(workspace.directory / name, image, disks, control) as machine:
        yield machine


def _make_overlay(directory: Path, disk: Path) -> tuple[Path, str]:
    overlay = directory / f"{disk.stem}.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", disk, "-F", "raw", overlay)
    return overlay, "qcow2"


def _leave_out(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in entry.name else entry


def content_digest(content: bytes) -> str:
    """Return the SHA-256 that `StorageHost.digest` returns for this content."""
    return hashlib.sha256(content).hexdigest()
