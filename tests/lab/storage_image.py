"""The image of the storage host: a Debian with a kernel, libvirt, QEMU, LVM, NFS, iSCSI and quotas, made once and kept.

Its disks are sparse files, which are shared by all runs: the host starts from overlays on them.
"""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.lab.debian import bootstrap, run_in_root
from tests.lab.guest_image import PACKAGES as GUEST_PACKAGES
from tests.lab.guest_image import find_one, pack_initramfs, unpack_modules
from tests.lab.programs import require_program, run, unpack_packages
from tests.lab.workspace import Cache

RELEASE = "bookworm"
PACKAGES = (
    *("libvirt-daemon-system", "libvirt-daemon-system-sysv", "libvirt-clients", "qemu-system-x86", "qemu-utils"),
    *("python3", "python3-libvirt", "openssh-server", "iproute2", "kmod", "udev", "busybox-static"),
    *("lvm2", "thin-provisioning-tools", "parted", "fdisk", "e2fsprogs", "xfsprogs", "quota"),
    *("nfs-kernel-server", "nfs-common", "tgt", "open-iscsi"),
)
"""What is installed in the host."""

FILES = Path(__file__).with_name("storage_scripts")
"""The programs of the host: the initramfs' `initramfs-init`, and what becomes `/lab`."""

# In the order in which each finds the symbols that it needs. ext4 is built into the kernel.
MODULES = (
    *("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk"),
    *("failover", "net_failover", "virtio_net"),
)
ROOT_DISK = "vda"
ROOT_SIZE = "6G"
DISKS = {"vdb": "8G", "vdc": "2G", "vdd": "4G", "vde": "16M"}
"""The sizes of the other disks: the volume group, a spare one, what NFS exports, and the iSCSI LUN."""

NO_SERVICES = "usr/sbin/policy-rc.d"

# Services are started by the host's own script, and none while packages are installed.
SETTINGS = {
    NO_SERVICES: "#!/bin/sh\nexit 101\n",
    "etc/hostname": "storage\n",
    "etc/hosts": "127.0.0.1 localhost storage\n",
    "etc/inittab": "::sysinit:/lab/start\n::shutdown:/lab/stop\n",
    "etc/fstab": "",
    "etc/machine-id": "5704a6e0000000000000000000000001\n",
    "etc/ssh/sshd_config": "UsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nUseDNS no\n"
    "MaxStartups 100\nMaxSessions 100\nSubsystem sftp internal-sftp\n",
    # Messages of QEMU go to files without virtlogd, which is not started.
    "etc/libvirt/qemu.conf": 'stdio_handler = "file"\n',
    "etc/libvirt/libvirtd.conf": 'unix_sock_group = "libvirt"\nunix_sock_rw_perms = "0770"\nauth_unix_rw = "none"\n'
    'log_level = 3\nlog_outputs = "3:file:/var/log/libvirtd.log"\n',
}


@dataclass(frozen=True)
class Image:
    """The files that the host starts from, in a directory. They are shared: nothing writes to them.

    Attributes:
        directory: where they are.
    """

    directory: Path

    @property
    def kernel(self) -> Path:
        """The kernel."""
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The initramfs."""
        return self.directory / "initrd"

    @property
    def key(self) -> Path:
        """The private key that root of the host accepts."""
        return self.directory / "user_key"

    @property
    def host_key(self) -> str:
        """The public key of the SSH server."""
        return (self.directory / "host_key.pub").read_text()

    @property
    def disks(self) -> list[Path]:
        """The raw images of the disks: first the system's."""
        return [self.directory / f"{name}.raw" for name in (ROOT_DISK, *DISKS)]


def recipe(release: str) -> str:
    """Return what tells images apart that are made by different versions of this code."""
    parts = (release, PACKAGES, MODULES, ROOT_SIZE, sorted(DISKS.items()), sorted(SETTINGS.items()))
    digest = hashlib.sha256(repr(parts).encode())
    for path in sorted(FILES.iterdir()):
        digest.update(path.read_bytes())
    return f"{release}-{digest.hexdigest()[:12]}"


def build_image(cache: Cache, release: str, target: Path) -> Image:
    """Write the files into a directory; the disks beside the system's are empty. This takes a minute."""
    kernel = unpack_packages(cache, GUEST_PACKAGES)
    shutil.copyfile(find_one(kernel, "boot/vmlinuz-*"), target / "vmlinuz")
    _make_initramfs(kernel, target)
    root = target / "root"
    _install(cache, release, root)
    _install_modules(kernel, root)
    _install_keys(root, target)
    (root / "lab").mkdir()
    for path in FILES.iterdir():
        shutil.copy(path, root / "lab" / path.name)
    (root / "sbin/init").unlink(missing_ok=True)
    (root / "sbin/init").symlink_to("/bin/busybox")
    image = Image(target)
    system, *others = image.disks
    run("truncate", "--size", ROOT_SIZE, system)
    run(require_program("mkfs.ext4", "e2fsprogs"), "-q", "-m", "0", "-d", root, system)
    for disk in others:
        run("truncate", "--size", DISKS[disk.stem], disk)
    shutil.rmtree(root)
    return image


def _install(cache: Cache, release: str, root: Path) -> None:
    run("cp", "--archive", "--reflink=auto", bootstrap(cache, release), root)
    _write(root, NO_SERVICES)
    run_in_root(
        root,
        "apt-get update",
        f"apt-get install --yes --no-install-recommends {' '.join(PACKAGES)}",
        "apt-get clean",
        "rm -rf /var/lib/apt/lists/*",
    )
    for name in SETTINGS:
        _write(root, name)


def _write(root: Path, name: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SETTINGS[name])
    if SETTINGS[name].startswith("#!"):
        path.chmod(0o755)


def _make_initramfs(kernel: Path, target: Path) -> None:
    root = target / "initramfs"
    for part in ("bin", "dev", "proc", "root"):
        (root / part).mkdir(parents=True)
    busybox = find_one(kernel, "**/bin/busybox")
    shutil.copy(busybox, root / "bin/busybox")
    unpack_modules(kernel, MODULES, root / "modules")
    shutil.copy(FILES / "initramfs-init", root / "init")
    pack_initramfs(root, busybox, target / "initrd")
    shutil.rmtree(root)


def _install_modules(kernel: Path, root: Path) -> None:
    modules = find_one(kernel, "**/lib/modules/*")
    (root / "usr/lib/modules").mkdir(exist_ok=True)
    run("cp", "--archive", modules, root / "usr/lib/modules")
    run_in_root(root, f"depmod {modules.name}")


def _install_keys(root: Path, target: Path) -> None:
    keygen = require_program("ssh-keygen", "openssh-client")
    for path in (root / "etc/ssh").glob("ssh_host_*"):
        path.unlink()
    for path in (root / "etc/ssh/ssh_host_ed25519_key", target / "user_key"):
        run(keygen, "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", path)
    shutil.copyfile(root / "etc/ssh/ssh_host_ed25519_key.pub", target / "host_key.pub")
    accepted = root / "root/.ssh/authorized_keys"
    accepted.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    accepted.write_text((target / "user_key.pub").read_text())
