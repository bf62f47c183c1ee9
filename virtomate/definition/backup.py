"""Documents of backup jobs (https://libvirt.org/formatbackup.html)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from virtomate.definition import codec
from virtomate.definition.readers import as_list, child
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class BackupTarget(NamedTuple):
    """An image that a backup job writes.

    Attributes:
        disk: Target of the disk that the job reads, `vda`.
        path: Path of the image.
    """

    disk: str
    format: str
    path: str


def backup_document(targets: Iterable[BackupTarget], others: Iterable[str]) -> str:
    """Return the document of a job that fills images; `others` are the targets of the disks that it does not read."""
    disks: list[dict[str, Any]] = [
        {
            "@name": target.disk,
            "@type": "file",
            "@backup": "yes",
            "driver": {"@type": target.format},
            "target": {"@file": target.path},
        }
        for target in targets
    ]
    disks += [{"@name": disk, "@backup": "no"} for disk in others]
    return codec.unparse({"@mode": "push", "disks": {"disk": disks}}, "domainbackup")


def backup_paths(document: str) -> frozenset[str]:
    """Return the paths of all files and block devices that a job writes; for a pull job, of its scratch images."""
    disks = as_list(child(codec.parse(document, "domainbackup"), "disks").get("disk"))
    places = (child(disk, name) for disk in disks for name in ("target", "scratch"))
    return frozenset(str(path) for place in places for key in ("@file", "@dev") if (path := place.get(key)))
