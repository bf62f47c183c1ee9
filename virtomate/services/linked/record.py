"""Changes of a domain that has got other images: its definition, and the record of its cloning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition import PROVENANCE_NAMESPACE, codec
from virtomate.definition.provenance import with_provenance
from virtomate.definition.readers import child, devices
from virtomate.enums import ArtifactKind, Mode, Transfer
from virtomate.errors import IllegalStateError
from virtomate.hypervisor.changes import set_metadata_element, update_disk
from virtomate.services.origins import find_record

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from virtomate.cancel import CancelToken
    from virtomate.definition.codec import Document
    from virtomate.definition.provenance import Artifact, Provenance
    from virtomate.errors import VirtomateError
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain

# libvirt writes the element with it
_PREFIX = "virtomate"


def select_clones(
    connection: Connection,
    words: tuple[str, ...],
    cancel: CancelToken,
    or_else: Callable[[Domain], bool] = lambda _domain: False,
) -> tuple[tuple[Domain, ...], list[VirtomateError]]:
    """Return the domains that words mean, and what is wrong with words.

    Args:
        connection: The connection of the domains.
        words: Names, UUIDs and patterns. A pattern means finished clones.
        cancel: Ends the look when a signal arrives.
        or_else: Whether a pattern means a domain that has no record.

    Raises:
        UsageError: Two words are the name or UUID of one domain.
    """
    from virtomate.services.selection import select  # noqa: PLC0415 - domain-clone takes no patterns

    def is_wanted(domain: Domain) -> bool:
        record = find_record(domain)
        return or_else(domain) if record is None else record.finished and not record.is_moment

    selected = select(connection, words, cancel, is_wanted)
    return selected.domains, list(selected.errors(connection.name, "clone"))


def write_record(domain: Domain, record: Provenance) -> None:
    """Replace the record in a domain's metadata, and nothing else of its definition."""
    metadata = with_provenance(codec.Definition({}, None), record).metadata or ""
    element = codec.cut_element(metadata, PROVENANCE_NAMESPACE, "clone")[1] or ""
    # libvirt adds the namespace itself; a text cannot contain these signs unescaped
    element = element.replace(f' xmlns:{_PREFIX}="{PROVENANCE_NAMESPACE}"', "", 1)
    element = element.replace(f"<{_PREFIX}:", "<").replace(f"</{_PREFIX}:", "</")
    set_metadata_element(domain, PROVENANCE_NAMESPACE, _PREFIX, element)


def note_independence(domain: Domain, independent: Collection[str], *, is_all: bool) -> None:
    """Write into a clone's record that volumes rest on nothing any more; nothing happens to a domain without a record.

    Args:
        domain: The domain.
        independent: Paths of the volumes without a base.
        is_all: Whether certainly no disk of the domain has a base any more, so that the clone is a copy now.
    """
    record = find_record(domain)
    if record is None:
        return
    made = tuple(_without_base(item) if item.path in independent else item for item in record.made)
    # version 0.2.0 did not write down the base of an overlay
    has_known_bases = any(item.base is not None for item in record.made)
    is_left = any(item.base is not None or item.transfer is Transfer.LINK for item in made)
    is_copy = is_all or (has_known_bases and not is_left)
    mode = Mode.COPY if is_copy and record.mode in {Mode.LINKED, Mode.SHALLOW} else record.mode
    if (made, mode) != (record.made, record.mode):
        write_record(domain, record._replace(made=made, mode=mode))


def _without_base(made: Artifact) -> Artifact:
    if made.kind is not ArtifactKind.VOLUME:
        return made
    return made._replace(base=None, base_fingerprint=None, below=(), transfer=None, rebasing=None)


def change_disk(domain: Domain, target: str, change: Callable[[Document], None]) -> bool:
    """Change one disk in the definition for the next start; return whether that changed anything.

    Args:
        domain: The domain; of one that libvirt forgets when it is shut off nothing is changed.
        target: Target of the disk.
        change: Changes the `<disk>` element, given as a document.

    Raises:
        IllegalStateError: The definition has no such disk any more.
        HypervisorError: libvirt refuses the change.
    """
    if not domain.is_persistent():
        return False
    definition = codec.parse_definition(domain.inactive_definition())
    disk = next(
        (item for item in devices(definition.domain, "disk") if child(item, "target").get("@dev") == target), None
    )
    if disk is None:
        raise IllegalStateError(f"domain '{domain.name}' has no disk '{target}' any more")
    changed = codec.copied(disk)
    change(changed)
    if changed == disk:
        return False
    update_disk(domain, codec.unparse(changed, "disk"))
    return True


def without_backing_store(disk: Document) -> None:
    """Take the images below that a disk names out of it; a disk that names none says that there are none."""
    if "@type" in child(disk, "backingStore"):
        del disk["backingStore"]
