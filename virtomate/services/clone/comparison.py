"""The comparison of an original with another host: what is used, what that is called there, and what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition.moving import NO_DEVICE, Moved
from virtomate.enums import MapKind
from virtomate.errors import UnsupportedError
from virtomate.tuples import NamedTuple
from virtomate.words import shell_word

if TYPE_CHECKING:
    from virtomate.definition.file_readers import DiskDefinition
    from virtomate.notices import Notice
    from virtomate.services.clone.target import Survey
    from virtomate.services.other_host import HostNames, OtherHost

NOUNS = {
    MapKind.POOL: "storage pool",
    MapKind.NETWORK: "network",
    MapKind.BRIDGE: "bridge or network device",
    MapKind.MACHINE: "machine type",
    MapKind.CPU: "CPU",
    MapKind.VIRT: "domain type",
    MapKind.FILE: "file",
    MapKind.SECRET: "secret",
    MapKind.HOSTDEV: "host device",
}


class Lack(NamedTuple):
    """What is missing on the other host: a phrase, and the option that names something else."""

    what: str
    cure: str | None


class Comparison:
    """The comparison of the original with another host.

    Attributes:
        moved: What the clones have otherwise there.
        used: What the original uses, with what uses it.
        warnings: What nothing shows.
    """

    def __init__(self, survey: Survey, other: OtherHost, hosts: HostNames) -> None:
        self.survey = survey
        self.hosts = hosts
        self.moved = Moved({(item.kind, item.old): item.new for item in other.maps})
        self.used: dict[tuple[MapKind, str], str] = {}
        self.warnings: list[Notice] = []

    def use(self, kind: MapKind, name: str, where: str) -> str:
        """Note that the original uses a thing, and return what that is called on the other host."""
        self.used.setdefault((kind, name), where)
        return self.moved.name(kind, name)

    def lack(self, kind: MapKind, old: str, where: str, reason: str = "") -> Lack:
        """Return that a thing is missing; `old` is what the original calls it."""
        value = NO_DEVICE if kind is MapKind.HOSTDEV else kind.value.upper()
        because = f", {reason}" if reason else ""
        word = shell_word(f"{kind.value}:{old}")
        return Lack(f"{NOUNS[kind]} '{self.moved.name(kind, old)}' ({where}){because}", f"--map {word}={value}")


def device_stays(disk: DiskDefinition) -> UnsupportedError:
    """Return the error about a block device that nobody has asked to copy, and that hosts do not share."""
    return UnsupportedError(
        f"disk {disk.target} ({disk.location}) is a block device, which another host does not have",
        hint=f"Use --block copy or --disk {disk.target}=copy, or --disk {disk.target}=drop.",
    )
