"""Rule: an overlay on an image in a network names its base in the definition, with the credentials of the original.

The header of an overlay can name such a base, but not the secret that opens the base.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from virtomate.definition.readers import child

if TYPE_CHECKING:
    from virtomate.definition.codec import Document

_FORMAT = "raw"


def on_network_base(disk: dict[str, Any], base: Document, path: str, pool: str, volume: str) -> None:
    """Let a disk use a qcow2 overlay on the image that the disk used before.

    Args:
        disk: The disk of the original, which is changed.
        base: The image, as the source of a backing store.
        path: Path of the overlay, for a disk that does not name a volume.
        pool: Pool of the overlay, for a disk of type `volume`.
        volume: Name of the overlay in the pool.
    """
    source = child(disk, "source")
    for name in ("backingStore", "mirror", "auth"):
        disk.pop(name, None)
    if encryption := disk.pop("encryption", None) or source.get("encryption"):
        base = {**base, "encryption": encryption}
    # nothing is below a raw image, which libvirt cannot find out by itself
    disk["backingStore"] = {"@type": "network", "format": {"@type": _FORMAT}, "source": base, "backingStore": None}
    if disk.get("@type") == "volume":
        disk["source"] = {"@pool": pool, "@volume": volume}
    else:
        disk["@type"], disk["source"] = "file", {"@file": path}
    disk["driver"] = {**child(disk, "driver"), "@type": "qcow2"}
