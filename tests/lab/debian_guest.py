"""A guest that is a whole Debian, with systemd, cloud-init and an SSH server, for the long tests; made once and kept.

It boots by its own kernel, which is Debian's for cloud images. Without KVM that takes minutes.
"""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.lab.debian import bootstrap, run_in_root
from tests.lab.programs import require_program, run
from tests.lab.workspace import Cache

RELEASE = "bookworm"
PACKAGES = (
    *("systemd-sysv", "udev", "dbus", "cloud-init", "openssh-server", "netbase", "iproute2", "ifupdown"),
    *("isc-dhcp-client", "sudo", "linux-image-cloud-amd64"),
)
HOST_NAME = "original"
CMDLINE = "root=/dev/vda rw console=ttyS0 net.ifnames=0 tsc=reliable random.trust_cpu=on"

# What makes two guests one and the same, as after a first boot of the image; and no waiting for what is not there.
_SETTINGS = {
    "etc/hostname": f"{HOST_NAME}\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "etc/cloud/cloud.cfg.d/99_lab.cfg": "datasource_list: [NoCloud, None]\n",
    "root/notes": "of the user\n",
    "var/log/kept.log": "of the user\n",
}
_SIZE = "3G"


@dataclass(frozen=True)
class DebianGuest:
    """The files of the guest; they are shared, so make overlays.

    Attributes:
        disk: the image of its disk, a qcow2.
        kernel: its kernel.
        initrd: its initramfs.
        modules: the directory with the modules of the kernel, named after the kernel's version.
    """

    disk: Path
    kernel: Path
    initrd: Path
    modules: Path


def make_debian_guest(cache: Cache) -> DebianGuest:
    """Return the guest; the first call takes some minutes."""
    made = hashlib.sha256(repr((PACKAGES, sorted(_SETTINGS.items()), _SIZE)).encode()).hexdigest()[:12]
    directory = cache.build(f"debian-guest-{RELEASE}-{made}", lambda target: _build(cache, target))
    (modules,) = (directory / "modules").iterdir()
    return DebianGuest(directory / "disk.qcow2", directory / "vmlinuz", directory / "initrd", modules)


def _build(cache: Cache, target: Path) -> None:
    root = target / "root"
    run("cp", "--archive", "--reflink=auto", bootstrap(cache, RELEASE), root)
    run_in_root(
        root,
        "apt-get update",
        f"apt-get install --yes --no-install-recommends {' '.join(PACKAGES)}",
        "apt-get clean",
        "rm -rf /var/lib/apt/lists/*",
    )
    for name, content in _SETTINGS.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    for name in ("vmlinuz", "initrd.img"):
        (found,) = (root / "boot").glob(f"{name}-*")
        shutil.copyfile(found, target / name.removesuffix(".img"))
    run("cp", "--archive", root / "usr/lib/modules", target / "modules")
    raw = target / "disk.raw"
    run("truncate", "--size", _SIZE, raw)
    run(require_program("mkfs.ext4", "e2fsprogs"), "-q", "-d", root, raw)
    run(
        *(require_program("qemu-img", "qemu-utils"), "convert", "-f", "raw", "-O", "qcow2", raw),
        target / "disk.qcow2",
    )
    raw.unlink()
    shutil.rmtree(root)
