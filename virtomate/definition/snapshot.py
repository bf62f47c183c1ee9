"""Documents of snapshots (https://libvirt.org/formatsnapshot.html)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition import codec
from virtomate.definition.file_readers import disks
from virtomate.definition.readers import as_list, child, text
from virtomate.errors import MalformedDocumentError
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from virtomate.definition.codec import Definition, Document
    from virtomate.definition.file_readers import DiskDefinition

INTERNAL = "internal"
EXTERNAL = "external"
_SHUT_OFF = "shutoff"


class SnapshotDisk(NamedTuple):
    """What a snapshot holds of one disk.

    Attributes:
        kind: `internal` for content inside of the image, `external` for an image that is frozen since, `no` or
            `manual` for nothing.
        frozen: The disk at that moment; None where the domain had no such disk.
        overlays: Paths of the overlays that libvirt has put on the frozen image.
    """

    kind: str
    frozen: DiskDefinition | None
    overlays: frozenset[str] = frozenset()


class Snapshot(NamedTuple):
    """A snapshot of a domain.

    Attributes:
        created: Seconds since 1970, rounded down.
        state: State of the domain: `shutoff`, `running`, `paused`, `disk-snapshot` (disks of a running domain).
        memory: Where the memory is: `internal`, `external` or `no`.
        disks: The disks by target.
        definition: The definition for the next start of the domain, as of that moment.
    """

    name: str
    created: int
    state: str
    memory: str
    disks: Mapping[str, SnapshotDisk]
    definition: Definition

    @property
    def is_of_running_domain(self) -> bool:
        """Return whether the domain was active, so that its disks are as after a power cut."""
        return self.state != _SHUT_OFF


def read_snapshot(document: str) -> Snapshot:
    """Read the document of a snapshot.

    A running domain has two definitions: `<domain>` names the images in use, `<inactiveDomain>` is for the next start.

    Raises:
        MalformedDocumentError: The text is not a document of a snapshot with a definition.
    """
    rest, active = codec.cut_element(document, None, "domain")
    rest, inactive = codec.cut_element(rest, None, "inactiveDomain")
    snapshot = codec.parse(rest, "domainsnapshot")
    definition = None if active is None else codec.parse_definition(active)
    # libvirt before 0.9.5 kept nothing but the UUID
    if definition is None or "devices" not in definition.domain:
        raise MalformedDocumentError("it holds no definition")
    frozen = {disk.target: disk for disk in disks(definition.domain)}
    if inactive is not None:
        definition = codec.parse_definition(_renamed(inactive))
    return Snapshot(
        name=text(snapshot.get("name")) or "",
        created=int(text(snapshot.get("creationTime")) or 0),
        state=text(snapshot.get("state")) or _SHUT_OFF,
        memory=str(child(snapshot, "memory").get("@snapshot", "no")),
        disks={
            target: SnapshotDisk(
                str(disk.get("@snapshot", "no")), frozen.get(target), frozenset(_overlays(snapshot, target))
            )
            for disk in as_list(child(snapshot, "disks").get("disk"))
            if (target := str(disk.get("@name")))
        },
        definition=definition,
    )


def overlays_document(overlays: Mapping[str, str], all_disks: Iterable[str]) -> str:
    """Return the document of a snapshot that moves disks onto overlays that are there already.

    Args:
        overlays: Paths of qcow2 overlays, by the targets of the disks.
        all_disks: Targets of all disks of the domain; libvirt would make an overlay for a disk that is not named.
    """
    moved = [
        {
            "@name": target,
            "@snapshot": EXTERNAL,
            "@type": "file",
            "driver": {"@type": "qcow2"},
            "source": {"@file": path},
        }
        for target, path in overlays.items()
    ]
    others = [{"@name": target, "@snapshot": "no"} for target in all_disks if target not in overlays]
    return codec.unparse({"disks": {"disk": [*moved, *others]}}, "domainsnapshot")


def _renamed(inactive: str) -> str:
    """Return an `<inactiveDomain>` as a `<domain>`."""
    begin, end = len("<inactiveDomain"), len("</inactiveDomain>")
    return f"<domain{inactive[begin:-end]}</domain>"


def _overlays(snapshot: Document, target: str) -> Iterator[str]:
    """Yield the overlays on a disk's image: of the snapshot, and of a later return to the snapshot."""
    for element in ("disks", "revertDisks"):
        for disk in as_list(child(snapshot, element).get("disk")):
            source = child(disk, "source")
            path = source.get("@file") or source.get("@dev")
            if disk.get("@name") == target and path:
                yield str(path)
