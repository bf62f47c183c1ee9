"""The lab as a whole: a host with libvirt, storage pools on three file systems, and a guest to boot."""

import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import libvirt

from tests.lab import mounts, storage
from tests.lab.guest import BOOT_TIMEOUT_SECONDS, GuestReport, boot
from tests.lab.guest_image import GuestImage, make_guest_image
from tests.lab.hypervisor import Hypervisor
from tests.lab.inventory import Inventory, take_inventory
from tests.lab.storage import Pool
from tests.lab.workspace import Workspace

FILE_SYSTEMS = ("ext4", "xfs", "btrfs")

# For QEMU to end when a domain is removed.
END_TIMEOUT_SECONDS = 60.0

# Forwarding is open so that libvirt makes no firewall rules, which would need more of the kernel. The host's network
# is its own anyway.
NETWORK = """
<network>
  <name>lab</name><forward mode='open'/><bridge name='lab0' stp='off' delay='0'/>
  <ip address='192.168.77.1' netmask='255.255.255.0'>
    <dhcp><range start='192.168.77.10' end='192.168.77.200'/></dhcp>
  </ip>
</network>"""

UNDEFINE_ALL = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_TPM
)


@dataclass(frozen=True)
class Mark:
    """What the lab held at some moment, to return to."""

    domains: frozenset[str]
    pools: frozenset[str]
    networks: frozenset[str]
    files: frozenset[Path]


class Lab:
    """A private hypervisor with everything that is needed to make domains, clone them and boot the clones.

    As root, `pools` are named after the file systems they are on: ext4, xfs and btrfs. As an ordinary user there are
    no mounts, and there is one pool, `plain`, on whatever file system the checkout is on. Everything goes away at the
    end of the `with` block or with the process.

    Args:
        base: the directory in which labs and their cache live; `.lab` in the checkout if it is not given.
    """

    def __init__(self, base: Path | None = None) -> None:
        self._stack = ExitStack()
        self._base = base
        self.privileged = os.geteuid() == 0
        self.pools: dict[str, Pool] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.workspace = stack.enter_context(Workspace(self._base))
            self.directory = self.workspace.directory
            if self.privileged:
                mounts.enter_private_mounts()
                mounts.share(self.directory)
                # Lazily, and with all that is mounted below it.
                stack.callback(mounts.unmount, self.directory)
            self.hypervisor = Hypervisor(self.workspace, visible_state=True)
            stack.callback(self.hypervisor.close)
            self.hypervisor.start()
            # Here and not in the first test that defines a domain.
            self.connection.getDomainCapabilities(None, "x86_64", "q35", "qemu")
            self.hypervisor.keep_capabilities()
            self._make_pools()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Switch the host off and remove everything."""
        self.pools.clear()
        self._stack.close()

    @property
    def uri(self) -> str:
        """The URI of the lab's hypervisor."""
        return self.hypervisor.uri

    @property
    def connection(self) -> Any:
        """A connection (`libvirt.virConnect`) to the lab's hypervisor."""
        return self.hypervisor.connection

    @property
    def pool(self) -> Pool:
        """The pool to take where the file system does not matter."""
        return next(iter(self.pools.values()))

    @cached_property
    def guest(self) -> GuestImage:
        """The guest's files; made or found when they are first asked for."""
        return make_guest_image(self.workspace.cache)

    def make_directory(self, name: str) -> Path:
        """Make a directory of the lab that is no pool, such as NVRAM and logs live in."""
        directory = self.directory / name
        directory.mkdir()
        return directory

    def make_pool(self, name: str, path: Path | None = None, *, persistent: bool = True) -> Pool:
        """Make one more pool, over the directory given or a new one."""
        path = path or self.make_directory(f"pool-{name}")
        return storage.make_pool(self.hypervisor, name, path, persistent=persistent)

    def make_small_pool(self, name: str, kind: str = "ext4", size_bytes: int = 64 << 20) -> Pool:
        """Make a pool on a file system of its own that is easily filled. Needs root. XFS wants 300 MiB at least."""
        directory = storage.make_mounted_directory(self.directory / f"pool-{name}", kind, size_bytes)
        return storage.make_pool(self.hypervisor, name, directory)

    def make_network(self) -> None:
        """Have the host offer the network `lab`, with DHCP. Needs root."""
        if "lab" not in self.connection.listNetworks():
            self.connection.networkCreateXML(NETWORK)

    def make_host(self, name: str, *, without: Sequence[str] = ()) -> Hypervisor:
        """Make another host, for a `with` block, whose `/var/lib/libvirt/images` is not seen from here. Needs root."""
        host = Hypervisor(self.workspace, f"host-{name}", without=without)
        self._stack.callback(host.close)
        return host

    def define(self, xml: str) -> Any:
        """Define a domain, checking the definition against libvirt's schema, and return it (`libvirt.virDomain`)."""
        return self.connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)

    def boot(self, name: str, timeout_seconds: float = BOOT_TIMEOUT_SECONDS) -> GuestReport:
        """Start a domain, return its guest's report and switch it off again."""
        return boot(self.connection, name, timeout_seconds)

    def inventory(self) -> Inventory:
        """Take down everything on the host: domains, pools, and files of pools, of the lab and of the daemon."""
        return take_inventory(self.connection, self._directories())

    def mark(self) -> Mark:
        """Note what there is now, for `return_to`."""
        return Mark(
            frozenset(domain.name() for domain in self.connection.listAllDomains()),
            frozenset(pool.name() for pool in self.connection.listAllStoragePools()),
            frozenset(network.name() for network in self.connection.listAllNetworks()),
            frozenset(self._files()),
        )

    def return_to(self, mark: Mark) -> None:
        """Remove what was made since a mark: domains, pools, networks, and files of pools and of the lab."""
        # A test may have stopped the daemon.
        self.hypervisor.start()
        for domain in self.connection.listAllDomains():
            if domain.name() not in mark.domains:
                remove_domain(domain)
        for pool in self.connection.listAllStoragePools():
            if pool.name() not in mark.pools:
                storage.remove_pool(pool)
        for network in self.connection.listAllNetworks():
            if network.name() not in mark.networks:
                network.destroy()
        self._remove_files(mark)
        for pool in self.pools.values():
            if not pool.handle.isActive():
                pool.handle.create()
            pool.refresh()

    def _make_pools(self) -> None:
        if not self.privileged:
            self.pools["plain"] = self.make_pool("plain")
            return
        for kind in FILE_SYSTEMS:
            directory = storage.make_mounted_directory(self.directory / kind, kind)
            self.pools[kind] = self.make_pool(kind, directory)

    def _directories(self) -> list[Path]:
        # Links are not followed: what is behind them is not the lab's to clean up.
        entries = [path for path in self.directory.iterdir() if path.is_dir() and not path.is_symlink()]
        made = [path for path in entries if not path.name.startswith("host")]
        return sorted({*made, *self.hypervisor.state_directories})

    def _files(self) -> Iterator[Path]:
        for directory in self._directories():
            if directory not in self.hypervisor.state_directories:
                yield directory
                yield from directory.rglob("*")
        for directory in self.hypervisor.file_directories:
            yield from directory.rglob("*")

    def _remove_files(self, mark: Mark) -> None:
        # Deepest first, so that directories are empty when their turn comes.
        for path in sorted(set(self._files()) - mark.files, reverse=True):
            if path.is_mount():
                mounts.unmount(path)
                path.with_name(f"{path.name}.img").unlink()
            with suppress(FileNotFoundError):
                if stat.S_ISDIR(path.lstat().st_mode):
                    path.rmdir()
                else:
                    path.unlink()


def remove_domain(domain: Any, flags: int = UNDEFINE_ALL) -> None:
    """Switch a domain off and forget it, with its snapshots and its variable store; its volumes stay."""
    persistent = domain.isPersistent()
    deadline = time.monotonic() + END_TIMEOUT_SECONDS
    while True:
        try:
            domain.destroy()
        except libvirt.libvirtError:
            # It was off, or went off at this very moment; or libvirt gave up, which gives QEMU 15 s to end.
            if persistent and domain.isActive():
                if time.monotonic() > deadline:
                    raise
                continue
        break
    if persistent:
        domain.undefineFlags(flags)
