"""A picture of everything on a lab host, to be taken before and after something that must not change it."""

import difflib
import os
import re
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import libvirt

from tests.lab.images import file_digest

# Figures of a pool that change as its file system is used.
FIGURES = re.compile(r"\s*<(capacity|allocation|available)\b[^>]*>[^<]*</\1>")

# What files of libvirt's with definitions are called; nothing else on a host of the lab is.
DEFINITION_SUFFIX = ".xml"

# A file that has the same identity, size and times still has the same content, unless it was changed so shortly
# before that the clock of its file system has not moved on since.
CLOCK_STEP_SECONDS = 0.1
_digests: dict[tuple[int, int, int, int, int], str] = {}


@dataclass(frozen=True)
class FileEntry:
    """A file, directory, link or socket.

    Attributes:
        inode: None for a definition, which libvirt writes to a new file even when it is what it was, and for a link to
            one, which has libvirt start the domain with the host.
    """

    kind: str
    mode: str
    owner: str
    inode: int | None
    size_bytes: int | None = None
    content: str | None = None


@dataclass(frozen=True)
class Inventory:
    """Domains, pools, networks and files of a host. Two are equal when nothing changed in between."""

    domains: dict[str, str] = field(default_factory=dict)
    pools: dict[str, str] = field(default_factory=dict)
    networks: dict[str, str] = field(default_factory=dict)
    files: dict[str, FileEntry] = field(default_factory=dict)

    def difference(self, later: "Inventory") -> str:
        """Say in lines what a later inventory has more, less or different; nothing if it is equal."""
        lines: list[str] = []
        for kind in ("domain", "pool", "network"):
            before, after = getattr(self, f"{kind}s"), getattr(later, f"{kind}s")
            lines += _compare_texts(kind, before, after)
        for path in sorted(self.files.keys() | later.files.keys()):
            old, new = self.files.get(path), later.files.get(path)
            if old is None:
                lines.append(f"+ file {path}: {new}")
            elif new is None:
                lines.append(f"- file {path}: {old}")
            elif old != new:
                lines += [f"~ file {path}:", *_compare_entries(old, new)]
        return "\n".join(lines)


def take_inventory(connection: Any, directories: Iterable[Path]) -> Inventory:
    """Take down every domain, pool and network of a host, and every file below the directories."""
    return Inventory(
        domains={domain.name(): _describe_domain(domain) for domain in connection.listAllDomains()},
        pools={pool.name(): _describe_pool(pool) for pool in connection.listAllStoragePools()},
        networks={network.name(): network.XMLDesc(0) for network in connection.listAllNetworks()},
        files={str(path): _describe_file(path) for directory in directories for path in _walk(directory)},
    )


def _describe_domain(domain: Any) -> str:
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
    facts = {
        "state": domain.state()[0],
        "persistent": domain.isPersistent(),
        "autostart": domain.autostart(),
        "managed save": domain.hasManagedSaveImage(),
        "snapshots": [snapshot.getName() for snapshot in domain.listAllSnapshots()],
    }
    return f"{facts}\n{domain.XMLDesc(flags)}"


def _describe_pool(pool: Any) -> str:
    # Not refreshed, because that is a change: what libvirt knows of the pool's volumes is part of the picture.
    active = pool.isActive()
    facts = {
        "state": pool.info()[0],
        "persistent": pool.isPersistent(),
        "autostart": pool.autostart(),
        "volumes": sorted(pool.listVolumes()) if active else None,
    }
    return f"{facts}\n{FIGURES.sub('', pool.XMLDesc(0))}"


def _walk(directory: Path) -> Iterable[Path]:
    yield directory
    for root, directories, files in os.walk(directory):
        for name in (*directories, *files):
            yield Path(root) / name


def _describe_file(path: Path) -> FileEntry:
    status = path.lstat()
    mode = stat.filemode(status.st_mode)
    owner = f"{status.st_uid}:{status.st_gid}"
    inode = None if path.suffix == DEFINITION_SUFFIX else status.st_ino
    if stat.S_ISREG(status.st_mode):
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        content = _digests.get(key) or file_digest(path)
        if time.time() - status.st_ctime > CLOCK_STEP_SECONDS:
            _digests[key] = content
        return FileEntry("file", mode, owner, inode, status.st_size, content)
    if stat.S_ISLNK(status.st_mode):
        return FileEntry("link", mode, owner, inode, None, str(path.readlink()))
    kind = "directory" if stat.S_ISDIR(status.st_mode) else "special file"
    return FileEntry(kind, mode, owner, status.st_ino)


def _compare_texts(kind: str, before: dict[str, str], after: dict[str, str]) -> list[str]:
    lines = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old is None:
            lines.append(f"+ {kind} {name}")
        elif new is None:
            lines.append(f"- {kind} {name}")
        elif old != new:
            changes = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=1)
            lines += [f"~ {kind} {name}:", *(f"    {line}" for line in list(changes)[2:])]
    return lines


def _compare_entries(old: FileEntry, new: FileEntry) -> list[str]:
    names = ("kind", "mode", "owner", "inode", "size_bytes", "content")
    pairs = ((name, getattr(old, name), getattr(new, name)) for name in names)
    return [f"    {name}: {before} -> {after}" for name, before, after in pairs if before != after]
