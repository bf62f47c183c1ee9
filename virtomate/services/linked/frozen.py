"""The overlays of a frozen original, as its mark tells of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition.freeze import NAMESPACE, PREFIX, freeze_mark_element, read_freeze_element
from virtomate.definition.provenance import Artifact
from virtomate.enums import ArtifactKind, ArtifactState
from virtomate.hypervisor.changes import set_metadata_element
from virtomate.services.linked.freeze_record import definitions_of, find_disk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from virtomate.definition.codec import Definition
    from virtomate.definition.freeze import FreezeMark
    from virtomate.definition.lower_images import LowerImage
    from virtomate.hypervisor.domains import Domain
    from virtomate.services.storage import PoolIndex


def find_frozen(domain: Domain, pools: PoolIndex) -> tuple[Artifact, ...]:
    """Return the overlays of a domain that is frozen, as the record of a clone lists volumes; none of any other."""
    mark = _find_mark(domain)
    return () if mark is None else frozen_overlays(mark, definitions_of(domain), pools)


def frozen_overlays(mark: FreezeMark, definitions: Sequence[Definition], pools: PoolIndex) -> tuple[Artifact, ...]:
    """Return the overlays that a mark tells of and that are disks in one of the definitions."""
    overlays = (
        Artifact(
            ArtifactKind.VOLUME,
            ArtifactState.MADE,
            "",
            None,
            disk.overlay,
            base=disk.base,
            base_fingerprint=disk.fingerprint,
            below=disk.below,
        )
        for disk in mark.disks
    )
    return tuple(made for made in overlays if find_disk(definitions, made, pools) is not None)


def is_frozen(domain: Domain) -> bool:
    """Return whether a domain has the mark of a frozen original."""
    return _find_mark(domain) is not None


def note_frozen_base(domain: Domain, overlay: str, base_format: str, chain: tuple[LowerImage, ...]) -> None:
    """Write into the mark of a frozen original on what an overlay rests now; nothing happens to any other domain.

    Args:
        domain: The domain.
        overlay: Path of the overlay.
        base_format: Format of the base.
        chain: The base and the images below it, nearest first.
    """
    mark = _find_mark(domain)
    frozen = None if mark is None else next((disk for disk in mark.disks if disk.overlay == overlay), None)
    if mark is None or frozen is None or not chain:
        return
    base, *below = chain
    now = frozen._replace(
        base=base.path, base_format=base_format, fingerprint=base.fingerprint, mode=None, below=tuple(below)
    )
    if now != frozen:
        set_metadata_element(domain, NAMESPACE, PREFIX, freeze_mark_element(mark.adding([now])))


def _find_mark(domain: Domain) -> FreezeMark | None:
    element = domain.metadata_element(NAMESPACE)
    return None if element is None else read_freeze_element(element, domain.uuid)
