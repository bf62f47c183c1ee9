"""The host on which the examples of the documentation run: a reader's, with the standard paths and two domains."""

import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import libvirt

from tests.lab import mounts, storage
from tests.lab.domains import OVMF_TEMPLATE, disk, domain, interface, mac_address, nvram, vnc
from tests.lab.images import GIB, qemu_img
from tests.lab.lab import Lab, remove_domain
from tests.lab.program import PAUSING, program_location
from tests.lab.programs import require_program, run
from tests.lab.ssh import SshServer
from tests.lab.workspace import CHECKOUT

TIMEOUT_SECONDS = 240
FILE_SYSTEM_BYTES = 100 * GIB
POOLS = {"default": Path("/var/lib/libvirt/images"), "fast": Path("/var/lib/libvirt/fast")}
NVRAM = Path("/var/lib/libvirt/qemu/nvram")
RUNNING = "dev-1"
DOMAINS = ("debian-13", "ubuntu-24.04")

# The addresses below the range are for the entries that pages make: a guest of another page may have any of the range.
NETWORK = """
<network>
  <name>default</name><forward mode='open'/><bridge name='virbr0' stp='off' delay='0'/>
  <ip address='192.168.122.1' netmask='255.255.255.0'>
    <dhcp><range start='192.168.122.100' end='192.168.122.254'/></dhcp>
  </ip>
</network>"""


# Sends a signal to a clone that is being made, in the middle of its work. Says why if it ends before that.
MIDWAY = """#!/bin/sh
signal=$1; shift 2
{python} -P {pausing} vda "$@" >said 2>&1 &
until grep -qs '^State:.T' /proc/$!/status; do
    kill -0 $! || {{ cat said; exit 1; }}
    sleep 0.01
done
rm said
echo $! >pid
kill -$signal $!
[ $signal = STOP ] || wait
"""


@dataclass(frozen=True)
class Printed:
    """What a command printed, as it stands on a terminal, and its status."""

    lines: tuple[str, ...]
    status: int


# Removes all domains and volumes, and all pools but the one that most people have.
EMPTY_HOST = """#!/bin/sh
for domain in $(virsh list --all --name); do virsh undefine --nvram $domain; done
virsh pool-destroy fast && virsh pool-undefine fast
rm /var/lib/libvirt/images/*
virsh pool-refresh default
"""

# Boots a clone of the name, unless an earlier page has done so, and waits for its address.
BOOT = """#!/bin/sh
virsh domstate $1 || virtomate domain-clone --mode linked debian-13 $1
virsh start $1
virtomate guest-ping --wait 200 $1
until virtomate domain-iface-list $1 | grep -q 192.168; do sleep 0.2; done
"""

# Takes a domain its guest until the end of the page, so that no agent comes up while commands run beside the guest.
NO_GUEST = """#!/bin/sh
virsh dumpxml --inactive $1 | sed "s|<boot dev='hd'/>|<boot dev='fd'/>|" >no-guest.xml
grep -q "dev='fd'" no-guest.xml && virsh define no-guest.xml && rm no-guest.xml
"""

# As if it led to another host.
SSH = """#!/bin/sh
exec {directory}/ssh -o HostName=127.0.0.1 -o Port={port} -o HostKeyAlias=[127.0.0.1]:{port} "$@"
"""


class Stage:
    """A host for the examples, one page after the other, for a `with` block as root.

    Its pool `default` is on ext4, and has the disks of two domains: `debian-13`, whose guest boots from its disk, asks
    for an address and runs the guest agent; and `ubuntu-24.04` with UEFI and NVRAM. Its pool `fast` is on XFS. A
    command with a URI of `qemu+ssh` runs elsewhere, where every name of a host leads to this one. Where
    commands run, there is `debian-13.qcow2`, an image like that of `debian-13`.

    Args:
        lab: where the host is.
    """

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._host = self._lab.make_host(f"stage-{uuid.uuid4().hex[:8]}")
            stack.callback(self._host.close)
            self._host.start()
            self._directory = self._host.directory / "stage"
            self._directory.mkdir()
            for path, kind in zip(POOLS.values(), ("ext4", "xfs"), strict=True):
                directory = self._host.on_host(path)
                storage.make_mounted_directory(directory, kind, FILE_SYSTEM_BYTES)
                stack.callback(mounts.unmount, directory)
            self._make_programs()
            self._host.connection.networkDefineXML(NETWORK).create()
            self._definitions = _definitions()
            self._images: dict[Path, tuple[int, int, int]] = {}
            self._furnish()
            self._kept = set(self._files())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, command: str, last_status: int = 0) -> Printed:
        """Run a command in a shell on the host.

        Args:
            command: The command.
            last_status: What `$?` is in it.
        """
        script, out, err = (self._directory / name for name in ("script", "out", "err"))
        # At the beginning, so that the shell's own `$?` is that of the command.
        script.write_text(f"(exit {last_status})\n{command}\n")
        err.write_bytes(b"")
        streams = f">{out} 2>{err}" if " | " in command else f">{out} 2>&1"
        # The name stands in what unfinished clones say of their maker.
        shell = f"""
            echo host-1 >/proc/sys/kernel/hostname
            cd {self._directory}/home
            timeout {TIMEOUT_SECONDS} bash {script} {streams} </dev/null
            echo $?
        """
        argv = ["env", "-i", *self._environment(), "unshare", "--uts", "sh", "-c", shell]
        if "qemu+ssh://" in command:
            self._open_ssh()
            status = int(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout)
        else:
            status = int(self._host.run(*argv))
        text = err.read_text(errors="replace") + out.read_text(errors="replace")
        return Printed(tuple(text.rstrip("\n").split("\n")) if text.strip() else (), status)

    def forget_guest(self) -> None:
        """Take `dev-1` away if it was booted, for a page that is not to have it."""
        if RUNNING in (found.name() for found in self._host.connection.listAllDomains()):
            self.clear(kept=None)

    def clear(self, kept: str | None = RUNNING) -> None:
        """Make everything what it was in the beginning, for the next page; but `dev-1` goes on if it was booted."""
        connection = self._host.connection
        for found in connection.listAllDomains():
            if found.name() != kept:
                remove_domain(found)
        for pool in connection.listAllStoragePools():
            if pool.name() not in POOLS:
                storage.remove_pool(pool)
        _remove_dhcp_entries(connection.networkLookupByName("default"))
        for path in set(self._files()) - self._kept:
            if path.stem == kept:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        self._furnish()

    def _files(self) -> Iterator[Path]:
        for directory in (*(self._host.on_host(path) for path in (*POOLS.values(), NVRAM)), self._directory / "home"):
            yield from directory.iterdir()

    def _environment(self) -> list[str]:
        variables = {
            "PATH": f"{self._directory}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": program_location(),
            "DOCS": str(CHECKOUT / "docs"),
            "HOME": f"{self._directory}/home",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
        }
        return [f"{name}={value}" for name, value in variables.items()]

    def _open_ssh(self) -> None:
        directory = self._directory / "ssh"
        if not directory.exists():
            server = self._stack.enter_context(SshServer(directory, self._lab.workspace.cache, self._host))
            self._write_program("ssh", SSH.format(directory=directory, port=server.port))

    def _write_program(self, name: str, text: str) -> None:
        path = self._directory / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def _make_programs(self) -> None:
        for name in ("bin", "home"):
            (self._directory / name).mkdir()
        self._write_program("virtomate", f'#!/bin/sh\nexec {sys.executable} -m virtomate "$@"\n')
        self._write_program("midway", MIDWAY.format(python=sys.executable, pausing=PAUSING))
        self._write_program("empty-host", EMPTY_HOST)
        self._write_program("boot", BOOT)
        self._write_program("no-guest", NO_GUEST)
        _make_image(self._directory / "home/debian-13.qcow2", self._lab.guest.bios_disk(), 3, 100)
        # The daemon's socket is elsewhere; without a URI clients look for it here.
        (self._host.on_host("/run/libvirt") / "libvirt-sock").symlink_to(self._host.socket_path)

    def _furnish(self) -> None:
        """Make what is missing of images, pools and domains."""
        images, guest = POOLS["default"], self._lab.guest
        for name, image, data_mib in zip(DOMAINS, (guest.bios_disk(), guest.uefi_disk()), (200, 300), strict=True):
            path = self._host.on_host(images) / f"{name}.qcow2"
            # A page may have left a snapshot in it, or taken its write bits away.
            if not path.exists() or _state(path) != self._images.get(path):
                path.unlink(missing_ok=True)
                _make_image(path, image, 20, data_mib)
                self._images[path] = _state(path)
        connection = self._host.connection
        known = {pool.name() for pool in connection.listAllStoragePools()}
        for name, directory in POOLS.items():
            if name not in known:
                storage.make_pool(self._host, name, directory)
            connection.storagePoolLookupByName(name).refresh()
        shutil.copyfile(OVMF_TEMPLATE, self._host.on_host(NVRAM) / "ubuntu-24.04_VARS.fd")
        for definition in self._definitions:
            connection.defineXML(definition)


def _remove_dhcp_entries(network: Any) -> None:
    for entry in re.findall(r"<host [^>]*>", network.XMLDesc()):
        both = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE | libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG
        where = (libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST, -1)
        network.update(*where, entry, both)


def _state(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_mode


def _make_image(path: Path, image: Path, capacity_gib: int, data_mib: int) -> None:
    shutil.copyfile(image, path)
    qemu_img("resize", "-q", "-f", "qcow2", path, f"{capacity_gib}G")
    # Not flushed to the machine's disk, which takes longer than all the rest.
    run(require_program("qemu-io", "qemu-utils"), "-t", "unsafe", "-c", f"write -P 1 1G {data_mib}M", path)


def _definitions() -> list[str]:
    images = POOLS["default"]
    debian = domain(
        "debian-13",
        disks=[disk(images / "debian-13.qcow2")],
        interfaces=[interface(mac_address(0x6B3C58), type_="network", source="default")],
        agent=True,
    )
    ubuntu = domain(
        "ubuntu-24.04",
        disks=[disk(images / "ubuntu-24.04.qcow2")],
        interfaces=[interface(mac_address(0x0A59D2), type_="network", source="default")],
        devices=vnc(5900),
        firmware=nvram(NVRAM / "ubuntu-24.04_VARS.fd"),
        agent=True,
        memory_mib=256,
    )
    return [debian, ubuntu]
