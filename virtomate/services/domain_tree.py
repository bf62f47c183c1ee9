"""The tree of domains and volumes: which rests on which, whatever tool made them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.services import listings
from virtomate.services.listings import DomainFilter, DomainListing, RelatedImage, list_all_domains
from virtomate.services.storage.references import scan_references
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.session import Session
    from virtomate.notices import Notice
    from virtomate.services.storage.references import Image, Lineage

_DOMAIN, _VOLUME = "domain", "volume"


class VolumeNode(NamedTuple):
    """An image in a tree that no disk of a domain has as its own.

    Attributes:
        name: Path of the image.
        uuid: None, since the image is no domain; the next two likewise.
        type: `volume`.
        pool: Storage pool of the image, None for an image in no pool.
        volume: Name of the volume, likewise.
        is_missing: Whether the image certainly does not exist.
        base: The images directly below; hardly ever more than one.
        dependents: The images directly above.
    """

    name: str
    uuid: str | None
    state: str | None
    clone: str | None
    type: str
    pool: str | None
    volume: str | None
    is_missing: bool
    base: tuple[RelatedImage, ...]
    dependents: tuple[RelatedImage, ...]

    @property
    def key(self) -> str:
        """What stands for the volume among the nodes of a tree."""
        return self.name


class DomainTree(NamedTuple):
    """Domains by name, then volumes by path, and what could not be looked at."""

    nodes: tuple[DomainListing | VolumeNode, ...]
    warnings: tuple[Notice, ...]


def read_tree(connection: Connection, wanted: DomainFilter) -> DomainTree:
    """Return the wanted domains and all that they rest on, or without a filter all domains and related volumes.

    Raises:
        NotFoundError: The domain whose clones are wanted does not exist, and has no clones.
    """
    every = list_all_domains(connection, is_verified=True)
    chosen = None
    if wanted != DomainFilter():
        chosen = {listing.uuid for listing in list_all_domains(connection, wanted)}
    references = scan_references(connection, {})
    lineage = references.lineage
    nodes: list[DomainListing | VolumeNode] = [
        *(_domain_node(lineage, listing) for listing in every),
        *(_volume_node(lineage, image) for image in lineage.images if _is_volume(lineage, image)),
    ]
    return DomainTree(tuple(nodes if chosen is None else _reduced(nodes, chosen)), references.warnings)


def with_addresses(session: Session, tree: DomainTree) -> DomainTree:
    """Return the tree with the addresses of active domains, as far as they are known without delay."""
    domains = listings.with_addresses(session, [node for node in tree.nodes if isinstance(node, DomainListing)])
    return tree._replace(nodes=(*domains, *(node for node in tree.nodes if isinstance(node, VolumeNode))))


def _domain_node(lineage: Lineage, listing: DomainListing) -> DomainListing:
    disks = lineage.disks(listing.uuid)
    return listing._replace(
        type=_DOMAIN,
        base=tuple(_related(lineage, target, found) for target, image in disks for found in lineage.bases(image)),
        dependents=tuple(
            _related(lineage, target, found) for target, image in disks for found in lineage.overlays(image)
        ),
    )


def _volume_node(lineage: Lineage, image: Image) -> VolumeNode:
    pool, volume = image.volume or (None, None)

    def related(find: Callable[[Image], Iterable[Image]]) -> tuple[RelatedImage, ...]:
        return tuple(_related(lineage, None, found) for found in find(image))

    return VolumeNode(
        name=image.path,
        uuid=None,
        state=None,
        clone=None,
        type=_VOLUME,
        pool=pool,
        volume=volume,
        is_missing=image.is_missing,
        base=related(lineage.bases),
        dependents=related(lineage.overlays),
    )


def _is_volume(lineage: Lineage, image: Image) -> bool:
    return not lineage.uses(image) and bool(lineage.bases(image) or lineage.overlays(image))


def _related(lineage: Lineage, target: str | None, image: Image) -> RelatedImage:
    pool, volume = image.volume or (None, None)
    domains = tuple(dict.fromkeys(use.domain for use in lineage.uses(image)))
    return RelatedImage(target, image.path, pool, volume, image.is_missing, domains)


def _reduced(nodes: Iterable[DomainListing | VolumeNode], chosen: set[str]) -> Iterator[DomainListing | VolumeNode]:
    """Yield the chosen domains, and all that they rest on."""
    known: Mapping[str, DomainListing | VolumeNode] = {node.key: node for node in nodes}
    left, kept = sorted(chosen & known.keys()), set[str]()
    while left:
        key = left.pop()
        if key in kept or key not in known:
            continue
        kept.add(key)
        left += [above for image in known[key].base or () for above in image.owners]
    yield from (node for key, node in known.items() if key in kept)
