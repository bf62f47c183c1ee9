"""The lab's guest: Debian's cloud kernel with an initramfs of busybox and the QEMU guest agent, made once and kept."""

import hashlib
import lzma
import re
import shutil
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.lab.programs import require_program, run, unpack_packages
from tests.lab.workspace import Cache

# What the guest is made of. They are unpacked and not installed.
PACKAGES = ["linux-image-cloud-amd64", "busybox-static", "qemu-guest-agent"]

INIT = Path(__file__).with_name("guest_init.sh")

# In the order in which each finds the symbols it needs.
MODULES = [
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "failover",
    "net_failover",
    "virtio_net",
]
FILE_SYSTEM_MODULES = ["crc16", "mbcache", "jbd2", "ext4"]
SCSI_MODULES = ["scsi_common", "scsi_mod", "sd_mod", "virtio_scsi"]
# What shows the firmware configuration to the guest.
FIRMWARE_MODULES = ["qemu_fw_cfg"]

UDHCPC_SCRIPT = """#!/bin/sh
case $1 in
bound | renew)
	ip address flush dev "$interface"
	ip address add "$ip/${mask:-24}" dev "$interface"
	[ -n "$router" ] && ip route add default via "${router%% *}" dev "$interface"
	;;
esac
"""

SHUTDOWN_SCRIPT = """#!/bin/sh
# What the guest agent calls for guest-shutdown.
case $1 in
-r) exec reboot -f ;;
*) exec poweroff -f ;;
esac
"""

CMDLINE = "console=ttyS0 quiet loglevel=0 panic=-1 tsc=reliable random.trust_cpu=on"


@dataclass(frozen=True)
class GuestImage:
    """Files from which the guest boots: kernel and initramfs, and how to make disks that boot by themselves."""

    kernel: Path
    initrd: Path
    cache: Cache

    def uefi_disk(self) -> Path:
        """Return the qcow2 image of a disk that UEFI firmware boots. Copy it; it is shared by all runs."""
        return self._disk("uefi", ["mtools", "systemd-boot-efi"], self._make_uefi_disk)

    def bios_disk(self) -> Path:
        """Return the qcow2 image of a disk that BIOS firmware boots, and that asks for an address.

        Copy it; it is shared by all runs.
        """
        return self._disk("bios", ["mtools", "syslinux", "syslinux-common"], self._make_bios_disk)

    def with_tpm_tools(self) -> "GuestImage":
        """Return the guest with the program tpm2 in its initramfs; the drivers of TPMs are in the kernel."""

        def build(target: Path) -> None:
            program = Path(require_program("tpm2", "tpm2-tools"))
            root, archive = target / "root", target / "initrd"
            (root / "usr/bin").mkdir(parents=True)
            shutil.copy(program, root / "usr/bin/tpm2")
            libraries = _libraries(program)
            # loaded by name, from where the library is that loads it
            (loader,) = (path for path in libraries if path.name.startswith("libtss2-tctildr."))
            _copy_libraries(root, [*libraries, loader.with_name("libtss2-tcti-device.so.0")])
            pack_initramfs(root, find_one(unpack_packages(self.cache, PACKAGES), "**/bin/busybox"), archive)
            shutil.rmtree(root)
            # the kernel unpacks one archive after the other
            archive.write_bytes(self.initrd.read_bytes() + archive.read_bytes())

        return replace(self, initrd=self.cache.build(f"tpm-{self.initrd.parent.name}", build) / "initrd")

    def _disk(self, kind: str, packages: list[str], fill: Callable[[Path, Path, Path], None]) -> Path:
        def build(target: Path) -> None:
            raw = target / "disk.raw"
            with raw.open("xb") as file:
                file.truncate(48 << 20)
            # Its tools are only needed here, so they are not asked to be installed.
            tools = unpack_packages(self.cache, packages)
            fill(raw, tools, target)
            image = target / "disk.qcow2"
            convert = [require_program("qemu-img", "qemu-utils"), "convert", "-f", "raw", "-O", "qcow2"]
            run(*convert, raw, image)
            raw.unlink()

        return self.cache.build(f"{kind}-disk-{self.initrd.parent.name}", build) / "disk.qcow2"

    def _make_uefi_disk(self, raw: Path, tools: Path, scratch: Path) -> None:
        stub = tools / "usr/lib/systemd/boot/efi/linuxx64.efi.stub"
        loader = scratch / "BOOTX64.EFI"
        cmdline = scratch / "cmdline"
        cmdline.write_text(CMDLINE)
        # Addresses above the stub's own sections, each behind the one before.
        sections = [
            (".cmdline", cmdline, 0x30000),
            (".linux", self.kernel, 0x2000000),
            (".initrd", self.initrd, 0x4000000),
        ]
        words: list[str | Path] = []
        for name, path, address in sections:
            words += ["--add-section", f"{name}={path}"]
            words += ["--change-section-vma", f"{name}={_image_base(stub) + address:#x}"]
        run(require_program("objcopy", "binutils"), *words, stub, loader)
        mtools = tools / "usr/bin/mtools"
        run(mtools, "-c", "mformat", "-i", raw, "-F", "::")
        run(mtools, "-c", "mmd", "-i", raw, "::EFI", "::EFI/BOOT")
        run(mtools, "-c", "mcopy", "-i", raw, loader, "::EFI/BOOT/BOOTX64.EFI")
        loader.unlink()
        cmdline.unlink()

    def _make_bios_disk(self, raw: Path, tools: Path, scratch: Path) -> None:
        settings = scratch / "syslinux.cfg"
        settings.write_text(f"DEFAULT lab\nLABEL lab\n  LINUX vmlinuz\n  INITRD initrd\n  APPEND {CMDLINE} lab.dhcp\n")
        mtools = tools / "usr/bin/mtools"
        run(mtools, "-c", "mformat", "-i", raw, "-F", "::")
        # The installer calls mtools' programs by name.
        run(tools / "usr/bin/syslinux", "--install", raw, env={"PATH": f"{tools / 'usr/bin'}:/usr/bin:/bin"})
        for source, name in ((self.kernel, "vmlinuz"), (self.initrd, "initrd"), (settings, "syslinux.cfg")):
            run(mtools, "-c", "mcopy", "-i", raw, source, f"::{name}")
        settings.unlink()


def make_guest_image(cache: Cache) -> GuestImage:
    """Return the guest's kernel and initramfs, made by the first caller and kept until this recipe changes."""
    recipe = hashlib.sha256(INIT.read_bytes() + Path(__file__).read_bytes())

    def build(target: Path) -> None:
        packages = unpack_packages(cache, PACKAGES)
        shutil.copyfile(find_one(packages, "boot/vmlinuz-*"), target / "vmlinuz")
        root = target / "root"
        _fill_root(root, packages)
        pack_initramfs(root, find_one(packages, "**/bin/busybox"), target / "initrd")
        shutil.rmtree(root)

    directory = cache.build(f"guest-{recipe.hexdigest()[:12]}", build)
    return GuestImage(directory / "vmlinuz", directory / "initrd", cache)


def _image_base(program: Path) -> int:
    """Return the address for which a 64-bit EFI program is linked: 0 in Debian 12's stub, not in Debian 13's."""
    header = program.read_bytes()
    (start,) = struct.unpack_from("<I", header, 0x3C)
    (base,) = struct.unpack_from("<Q", header, start + 0x30)
    return int(base)


def find_one(packages: Path, pattern: str) -> Path:
    """Return the one file of this pattern in unpacked packages; where it is differs between releases."""
    (found,) = packages.glob(pattern)
    return found


def unpack_modules(packages: Path, names: Sequence[str], target: Path) -> None:
    """Copy modules of the kernel in unpacked packages to a new directory, with their order in the file `order`."""
    target.mkdir()
    order = []
    for module in names:
        # Some are built into one kernel and a module of the next.
        for found in packages.glob(f"**/lib/modules/*/kernel/**/{module}.ko*"):
            # Debian 13 compresses them, and busybox cannot load what is compressed.
            code = lzma.decompress(found.read_bytes()) if found.suffix == ".xz" else found.read_bytes()
            (target / f"{module}.ko").write_bytes(code)
            order.append(module)
    (target / "order").write_text("".join(f"{module}\n" for module in order))


def _fill_root(root: Path, packages: Path) -> None:
    busybox, agent = find_one(packages, "**/bin/busybox"), find_one(packages, "**/sbin/qemu-ga")
    for part in ("bin", "dev", "etc", "proc", "sbin", "sys", "usr/bin", "usr/sbin", "var"):
        (root / part).mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    for applet in run(busybox, "--list").decode().split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    shutil.copy(agent, root / "usr/sbin/qemu-ga")
    _copy_libraries(root, _libraries(agent))
    unpack_modules(packages, MODULES + FILE_SYSTEM_MODULES + SCSI_MODULES + FIRMWARE_MODULES, root / "modules")
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    for path, text in (
        ("init", INIT.read_text()),
        ("bin/udhcpc-script", UDHCPC_SCRIPT),
        ("sbin/shutdown", SHUTDOWN_SCRIPT),
    ):
        (root / path).write_text(text)
        (root / path).chmod(0o755)


def _libraries(program: Path) -> list[Path]:
    """Return the shared libraries that a program loads, its loader included, as the paths it asks for."""
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", run("ldd", program).decode())]


def _copy_libraries(root: Path, libraries: Sequence[Path]) -> None:
    for library in libraries:
        copy = root / library.relative_to("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, copy)


def pack_initramfs(root: Path, busybox: Path, initrd: Path) -> None:
    """Write a directory as an initramfs: a cpio archive, not compressed, since the guest's CPU is slow."""
    names = sorted(path.relative_to(root) for path in root.rglob("*"))
    archive = run(
        busybox,
        *("cpio", "-o", "-H", "newc", "-R", "0:0"),
        stdin="".join(f"{name}\n" for name in names).encode(),
        cwd=root,
    )
    initrd.write_bytes(archive)
