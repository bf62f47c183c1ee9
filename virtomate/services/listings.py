"""Lists of domains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition import TEMPLATE_NAMESPACE
from virtomate.enums import ArtifactKind
from virtomate.errors import NotFoundError
from virtomate.hypervisor.domains import (
    SHUT_OFF,
    domain_states,
    list_active_domains,
    list_domains,
)
from virtomate.paths import normalise
from virtomate.services.origins import find_record, is_original
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from virtomate.definition.provenance import DomainReference, Provenance
    from virtomate.enums import Integrity, Mode
    from virtomate.hypervisor.agent import DomainInterface
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.hypervisor.session import Session


class CloneOrigin(NamedTuple):
    """The origin of a clone, by its record.

    Attributes:
        snapshot: Name of the original's snapshot that the clone was made of; None for a clone of the original itself.
        host: Host of the original, if that is another host; else None.
        images: Paths of the images that the domain keeps for linked clones of a running original; None for a clone.
    """

    finished: bool
    source: DomainReference
    mode: Mode
    created: float
    snapshot: str | None = None
    images: tuple[str, ...] | None = None
    host: str | None = None


class DomainFilter(NamedTuple):
    """Which domains are listed: only active domains, only clones, only clones of a domain given by name or UUID."""

    running: bool = False
    clones: bool = False
    clones_of: str | None = None

    @property
    def is_about_clones(self) -> bool:
        """Whether nothing but clones is listed."""
        return self.clones or self.clones_of is not None


class RelatedImage(NamedTuple):
    """An image directly below or above an image of a domain, or above or below a volume.

    Attributes:
        target: Target of the domain's disk whose own image is related; None for a volume.
        path: Path of the image.
        pool: Storage pool of the image, None for an image in no pool.
        volume: Name of the volume, likewise.
        is_missing: Whether the image certainly does not exist.
        domains: The domains of which a disk has the image as its own.
    """

    target: str | None
    path: str
    pool: str | None
    volume: str | None
    is_missing: bool
    domains: tuple[DomainReference, ...]

    @property
    def owners(self) -> tuple[str, ...]:
        """What stands for the nodes of a tree that have the image."""
        return tuple(dict.fromkeys(domain.uuid for domain in self.domains)) or (self.path,)


class DomainListing(NamedTuple):
    """One line of `domain-list`.

    Attributes:
        addresses: The known usable addresses, if they were asked for.
        integrity: Whether what a clone rests on is intact, if that was asked for; None also for what rests on nothing.
        type: `domain` in a tree, else None; the next two are None, too, where there is no tree.
        base: The images directly below those of the domain.
        dependents: The images directly above.
    """

    name: str
    uuid: str
    state: str
    clone: CloneOrigin | None
    is_template: bool = False
    addresses: tuple[DomainInterface, ...] | None = None
    integrity: Integrity | None = None
    type: str | None = None
    base: tuple[RelatedImage, ...] | None = None
    dependents: tuple[RelatedImage, ...] | None = None

    @property
    def key(self) -> str:
        """What stands for the domain among the nodes of a tree."""
        return self.uuid


_ALL = DomainFilter()


def list_all_domains(
    connection: Connection, wanted: DomainFilter = _ALL, *, is_verified: bool = False
) -> tuple[DomainListing, ...]:
    """Return the wanted domains by name; a domain that vanishes meanwhile is left out.

    With `is_verified`, the images below clones are compared with what they were.

    Raises:
        NotFoundError: The domain whose clones are wanted does not exist, and has no clones.
    """
    original = wanted.clones_of
    is_wanted = None if original is None else is_original(connection, original)
    listings = []
    verify = _verifier(connection) if is_verified else None
    states = domain_states(connection)
    for domain in list_active_domains(connection) if wanted.running else list_domains(connection):
        try:
            state = states.get(domain.uuid) or domain.state()
        except NotFoundError:
            continue
        record = find_record(domain)
        origin = None if record is None else _origin(record)
        has_original = is_wanted is None or (record is not None and is_wanted(record))
        if has_original and not (wanted.clones and origin is None):
            # no other domain is a template, and each look takes a call of libvirt
            is_template = state == SHUT_OFF and domain.metadata_element(TEMPLATE_NAMESPACE) is not None
            integrity = None if verify is None else verify(domain, record)
            listings.append(DomainListing(domain.name, domain.uuid, state, origin, is_template, integrity=integrity))
    return tuple(sorted(listings, key=lambda listing: listing.name))


def _origin(record: Provenance) -> CloneOrigin:
    images = tuple(normalise(made.path) for made in record.made if made.kind is ArtifactKind.VOLUME)
    kept = images if record.is_moment else None
    return CloneOrigin(record.finished, record.source, record.mode, record.created, record.snapshot, kept, record.host)


def _verifier(connection: Connection) -> Callable[[Domain, Provenance | None], Integrity | None]:
    """Return a function that tells whether what a domain rests on is intact.

    None is for a domain that was neither made nor frozen to rest on other images.
    """
    from virtomate.services.linked import (  # noqa: PLC0415 - few lists verify
        Sights,
        find_frozen,
        is_frozen,
        rests_on_images,
        verify_volumes,
    )

    sights: list[Sights] = []

    def verify(domain: Domain, record: Provenance | None) -> Integrity | None:
        if not (is_frozen(domain) if record is None else rests_on_images(record)):
            return None
        if not sights:
            sights.append(Sights(connection))
        frozen = find_frozen(domain, sights[0].pools) if record is None else ()
        return verify_volumes(sights[0], record, frozen)[0]

    return verify


def with_addresses(session: Session, listings: Sequence[DomainListing]) -> tuple[DomainListing, ...]:
    """Return the listings with the addresses of active domains, as far as they are known without delay."""
    from virtomate.services.guest import find_addresses  # noqa: PLC0415 - few lists show addresses

    found = find_addresses(session, {item.uuid: item.state for item in listings})
    return tuple(item._replace(addresses=found.get(item.uuid, ())) for item in listings)
