"""As much of libvirt as a look at references asks for, over files that are real."""

# The methods have their names and meanings from libvirt.
# ruff: noqa: D102, N802

from __future__ import annotations

import os
import posixpath
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast
from xml.sax.saxutils import escape

import libvirt

from virtomate.definition.codec import parse_definition, unparse_definition
from virtomate.definition.provenance import with_provenance
from virtomate.hypervisor.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from virtomate.definition.provenance import Provenance

Found = TypeVar("Found")

LOCAL = "qemu:///system"
REMOTE = "qemu+ssh://host/system"


def failure(code: int = libvirt.VIR_ERR_INTERNAL_ERROR) -> libvirt.libvirtError:
    """An error of libvirt's."""
    error = libvirt.libvirtError("it does not work")
    error.err = (code, libvirt.VIR_FROM_QEMU, "it does not work", libvirt.VIR_ERR_ERROR, None, None, None, 0, 0)
    return error


@dataclass
class FakeDomain:
    """A domain; a document that is an error is raised."""

    title: str
    definition: str | Exception
    live: str | Exception | None = None
    saved: str | Exception | None = None
    snapshots: dict[str, str | Exception] = field(default_factory=dict)
    checkpoints: dict[str, str | Exception] = field(default_factory=dict)
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    host: FakeLibvirt | None = None

    def name(self) -> str:
        return self.title

    def UUIDString(self) -> str:
        return self.uuid

    def XMLDesc(self, flags: int) -> str:
        document = self.definition if flags & libvirt.VIR_DOMAIN_XML_INACTIVE else self.live
        return _told(document)

    def isActive(self) -> bool:
        return self.live is not None

    def state(self, _flags: int) -> list[int]:
        return [libvirt.VIR_DOMAIN_RUNNING if self.isActive() else libvirt.VIR_DOMAIN_SHUTOFF, 0]

    def hasManagedSaveImage(self, _flags: int) -> bool:
        return self.saved is not None

    def snapshotNum(self, _flags: int) -> int:
        return len(self.snapshots)

    def undefineFlags(self, _flags: int) -> None:
        assert self.host is not None
        self.host.domains.remove(self)

    def managedSaveGetXMLDesc(self, _flags: int) -> str:
        return _told(self.saved)

    def listAllSnapshots(self, _flags: int) -> list[FakeRecord]:
        return [FakeRecord(*item) for item in self.snapshots.items()]

    def listAllCheckpoints(self, _flags: int) -> list[FakeRecord]:
        return [FakeRecord(*item) for item in self.checkpoints.items()]


@dataclass
class FakeRecord:
    """A snapshot or a checkpoint."""

    title: str
    text: str | Exception

    def getName(self) -> str:
        return self.title

    def getXMLDesc(self, _flags: int) -> str:
        return _told(self.text)


@dataclass
class FakePool:
    """A pool over a directory, of which libvirt knows the files that were there when it last looked.

    Attributes:
        directory: Where the files are.
        says: What its document calls the directory, where that is not its path.
        backing: What libvirt says is below volumes, by their names.
        broken: Volumes that libvirt cannot describe.
        is_too_large: Whether it has more volumes than libvirt lists.
    """

    title: str
    directory: Path
    says: str | None = None
    active: bool = True
    type: str = "dir"
    can_refresh: bool = True
    backing: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    known: set[str] | None = None
    refreshed: int = 0
    is_too_large: bool = False

    def __post_init__(self) -> None:
        if self.known is None:
            self.known = self._files()

    def _files(self) -> set[str]:
        return {path.name for path in self.directory.iterdir()} if self.directory.is_dir() else set()

    def name(self) -> str:
        return self.title

    def UUIDString(self) -> str:
        return self.title

    def isActive(self) -> bool:
        return self.active

    def XMLDesc(self, _flags: int) -> str:
        path = escape(self.says or str(self.directory))
        return f"<pool type='{self.type}'><name>{self.title}</name><target><path>{path}</path></target></pool>"

    def refresh(self, _flags: int) -> None:
        self.refreshed += 1
        if not self.directory.is_dir():
            self.active = False
        if not (self.can_refresh and self.active):
            raise failure()
        self.known = self._files()

    def create(self, _flags: int) -> None:
        raise failure()

    def numOfVolumes(self) -> int:
        return 20_000 if self.is_too_large else len(self.known or ())

    def listAllVolumes(self, _flags: int) -> list[FakeVolume]:
        if self.is_too_large:
            raise failure()
        return [FakeVolume(self, name) for name in sorted(self.known or ())]

    def storageVolLookupByName(self, name: str) -> FakeVolume:
        if name not in (self.known or ()):
            raise failure(libvirt.VIR_ERR_NO_STORAGE_VOL)
        return FakeVolume(self, name)


@dataclass
class FakeVolume:
    """A volume."""

    pool: FakePool
    title: str

    def name(self) -> str:
        return self.title

    def delete(self, _flags: int) -> None:
        self.pool.directory.joinpath(self.title).unlink()
        (self.pool.known or set()).discard(self.title)

    def XMLDesc(self, _flags: int) -> str:
        path = self.pool.directory / self.title
        if self.title in self.pool.broken:
            raise failure()
        if not path.exists():
            raise failure(libvirt.VIR_ERR_NO_STORAGE_VOL)
        status = path.stat()
        below = self.pool.backing.get(self.title)
        store = f"<backingStore><path>{escape(below)}</path></backingStore>" if below else ""
        shown = escape(posixpath.join(self.pool.says or str(self.pool.directory), self.title))
        return (
            f"<volume><name>{escape(self.title)}</name><capacity>1</capacity><allocation>1</allocation>"
            f"<physical>{status.st_size}</physical><target><path>{shown}</path><format type='qcow2'/>"
            f"<timestamps><mtime>{_time(status.st_mtime_ns)}</mtime><ctime>{_time(status.st_ctime_ns)}</ctime>"
            f"</timestamps></target>{store}</volume>"
        )


@dataclass
class FakeLibvirt:
    """A connection's handle."""

    uri: str = LOCAL
    domains: list[FakeDomain] = field(default_factory=list)
    pools: list[FakePool] = field(default_factory=list)
    alive: bool = True
    calls: int = 0

    @property
    def connection(self) -> Connection:
        """The connection."""
        return Connection(cast("Any", self))

    def getURI(self) -> str:
        return self.uri

    def isAlive(self) -> bool:
        return self.alive

    def storagePoolLookupByName(self, name: str) -> FakePool:
        return _first((pool for pool in self.pools if pool.title == name), libvirt.VIR_ERR_NO_STORAGE_POOL)

    def lookupByName(self, name: str) -> FakeDomain:
        return _first((domain for domain in self.domains if domain.title == name), libvirt.VIR_ERR_NO_DOMAIN)

    def lookupByUUIDString(self, name: str) -> FakeDomain:
        return _first((domain for domain in self.domains if domain.uuid == name), libvirt.VIR_ERR_NO_DOMAIN)

    def defineXMLFlags(self, text: str, _flags: int) -> FakeDomain:
        domain = parse_definition(text).domain
        known = next((found for found in self.domains if found.uuid == domain["uuid"]), None)
        if known is None:
            known = FakeDomain(domain["name"], text, uuid=domain["uuid"], host=self)
            self.domains.append(known)
        known.definition = text
        return known

    def listAllStoragePools(self, _flags: int) -> list[FakePool]:
        return self.pools

    def listAllDomains(self, flags: int) -> list[FakeDomain]:
        self.calls += 1
        has: dict[int, Any] = {
            0: lambda domain: domain.definition is not None,
            libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE: lambda domain: domain.live is not None,
            libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE: lambda domain: domain.saved is not None,
            libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT: lambda domain: domain.snapshots,
            libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_CHECKPOINT: lambda domain: domain.checkpoints,
        }
        return [domain for domain in self.domains if has[flags](domain)]


class Refusing:
    """A fake, and all that its methods return, of which one call is refused.

    Attributes:
        called: The names of the methods that were called so far.
    """

    def __init__(
        self, fake: object, refused: int | str | None, error: Exception, called: list[str] | None = None
    ) -> None:
        self._fake, self._refused, self._error = fake, refused, error
        self.called = [] if called is None else called

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._fake, name)

        def call(*arguments: object) -> object:
            # the client knows these by itself
            if name not in {"name", "UUIDString", "getURI", "isAlive"}:
                self.called.append(name)
                if self._refused in {name, len(self.called)}:
                    raise self._error
            return self._wrapped(method(*arguments))

        return call

    def _wrapped(self, answer: object) -> object:
        if isinstance(answer, list):
            return [self._wrapped(item) for item in answer]
        if isinstance(answer, FakeDomain | FakePool | FakeVolume | FakeRecord):
            return Refusing(answer, self._refused, self._error, self.called)
        return answer


def definition(*paths: str | os.PathLike[str], extra: str = "", record: Provenance | None = None) -> str:
    """A definition with a disk for each path."""
    disks = "".join(
        f"<disk type='file'><source file='{escape(os.fspath(path), {chr(39): '&apos;'})}'/>"
        f"<target dev='vd{chr(97 + index)}'/></disk>"
        for index, path in enumerate(paths)
    )
    text = f"<domain><name>n</name><devices>{disks}{extra}</devices></domain>"
    return text if record is None else unparse_definition(with_provenance(parse_definition(text), record))


def _first(found: Iterator[Found], code: int) -> Found:
    for item in found:
        return item
    raise failure(code)


def _told(document: str | Exception | None) -> str:
    if isinstance(document, Exception):
        raise document
    assert document is not None
    return document


def _time(nanoseconds: int) -> str:
    return f"{nanoseconds // 1_000_000_000}.{nanoseconds % 1_000_000_000:09}"
