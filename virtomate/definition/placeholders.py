"""Definitions that stand in the place of a domain: claims, half-deleted clones, and what is left of a long definition.

None of them can be started.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition import codec
from virtomate.definition.codec import Definition, Document
from virtomate.definition.provenance import NAMESPACE, with_provenance, without_provenance
from virtomate.definition.readers import as_list, child

if TYPE_CHECKING:
    from collections.abc import Iterable

    from virtomate.definition.provenance import Provenance

# QEMU cannot load a kernel that does not exist: a domain that names this one cannot be started.
_NO_KERNEL = "/nonexistent/virtomate-unfinished-clone"


def claim_definition(name: str, provenance: Provenance, source: Document) -> Definition:
    """Return the claim: a placeholder with the clone's name and UUID, without disks, which cannot be started.

    Hypervisor, architecture, machine and emulator are the original's, which libvirt is known to accept. Where cloning
    makes the state of a TPM, the placeholder has a TPM, so that libvirt removes the state with this definition.
    """
    emulator, tpm = (child(source, "devices").get(device) for device in ("emulator", "tpm"))
    domain: Document = {
        "@type": source.get("@type", "qemu"),
        "name": name,
        "uuid": provenance.uuid,
        "title": f"Unfinished {provenance.what} of {provenance.source.name}",
        "memory": {"@unit": "MiB", "#text": "1"},
        "os": {"type": child(source, "os").get("type"), "kernel": _NO_KERNEL},
    }
    devices: Document = {} if emulator is None else {"emulator": emulator}
    if provenance.tpm:
        from virtomate.definition.tpm import with_removable_state  # noqa: PLC0415 - few clones get the state of a TPM

        if removable := with_removable_state(tpm):
            devices["tpm"] = removable
    if devices:
        domain["devices"] = devices
    return with_provenance(Definition(domain, None), provenance)


def moment_definition(name: str, provenance: Provenance, source: Document) -> Definition:
    """Return the definition of the domain that keeps images of a running original; it cannot be started."""
    definition = without_provenance(claim_definition(name, provenance, source))
    title = f"Base of linked clones of {provenance.source.name}"
    return definition._replace(domain={**definition.domain, "title": title})


def half_deleted_definition(name: str, provenance: Provenance, clone: Document) -> Definition:
    """Return the placeholder that replaces a clone's definition during its deletion and cannot be started.

    The placeholder keeps the TPM, so that libvirt removes the TPM's state with this definition, unless the clone's
    definition names the place of the state: that may be another domain's. The placeholder also keeps the passwords of
    displays, which libvirt hides, while every user can read the record.
    """
    definition = claim_definition(name, provenance, clone)
    devices = child(definition.domain, "devices")
    if (tpm := child(clone, "devices").get("tpm")) and not provenance.tpm:
        from virtomate.definition.tpm import without_places_of_tpm  # noqa: PLC0415 - few clones have a TPM

        devices = {**devices, "tpm": without_places_of_tpm(tpm)}
    if displays := [{"@type": display["@type"], **kept} for display in _displays(clone) if (kept := _secrets(display))]:
        devices = {**devices, "graphics": displays}
    title = f"Half-deleted clone of {provenance.source.name}"
    return definition._replace(domain={**definition.domain, "title": title, "devices": devices})


def restored_definition(placeholder: Document, replaced: str) -> Definition:
    """Return the definition that a deletion has put aside, with the passwords that its placeholder keeps."""
    definition = codec.parse_definition(replaced)
    secrets = {display["@type"]: _secrets(display) for display in _displays(placeholder)}
    for display in _displays(definition.domain):
        display.update(secrets.get(display["@type"], {}))
    return definition


def _displays(domain: Document) -> list[Document]:
    """Return the displays of a domain; libvirt takes one of each type."""
    return as_list(child(domain, "devices").get("graphics"))


def _secrets(display: Document) -> Document:
    keys = ("@passwd", "@passwdValidTo", "@connected") if "@passwd" in display else ()
    return {key: display[key] for key in keys if key in display}


def abridged_definition(name: str, uuid: str, disk_paths: Iterable[str], record: str | None) -> str:
    """Return a definition of a domain's disks and our record alone, for a domain whose definition libvirt cannot send.

    libvirt returns the record, which is our element in the metadata, without its namespace.
    """
    disks = [{"@type": "file", "@device": "disk", "source": {"@file": path}} for path in disk_paths]
    domain = {"name": name, "uuid": uuid, "devices": {"disk": disks}}
    if record is not None and NAMESPACE not in record.partition(">")[0]:
        tag = f"<{codec.tag_of(record)}"
        record = record.replace(tag, f'{tag} xmlns="{NAMESPACE}"', 1)
    metadata = None if record is None else f"<metadata>{record}</metadata>"
    return codec.unparse_definition(Definition(domain, metadata))
