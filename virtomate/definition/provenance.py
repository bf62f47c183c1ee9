"""The record of ours in a clone's metadata: the claim's journal first, the finished clone's provenance later.

libvirt keeps every child of `<metadata>` that has a namespace of its own, one for each namespace
(https://libvirt.org/formatdomain.html#general-metadata).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from virtomate.definition import PROVENANCE_NAMESPACE, codec
from virtomate.definition.codec import Definition, Document
from virtomate.definition.mentions import read_mentions
from virtomate.definition.readers import child, uuid
from virtomate.enums import ArtifactKind, ArtifactState, Mode, TokenPlace, Transfer
from virtomate.errors import MalformedDocumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMESPACE = PROVENANCE_NAMESPACE
_ELEMENT = "clone"
_PREFIX = "virtomate"
_SCHEMA = "2"
# Version 0.2.0 wrote records without tokens: what they list can be found, but not proved.
_READ_SCHEMAS = frozenset({"1", _SCHEMA})

# the year 10000, which calendars do not reach
_END_OF_TIME = 253_402_300_800

# QEMU cannot load a kernel that does not exist: a domain that names this one cannot be started.
_NO_KERNEL = "/nonexistent/virtomate-unfinished-clone"


class DomainReference(NamedTuple):
    """A domain by both of its names."""

    name: str
    uuid: str


class Owner(NamedTuple):
    """The process that makes a clone, as far as it can be told from another one.

    Attributes:
        host: The host's name.
        pid: Its process id there.
        started: When it started, in clock ticks since that host's boot (field 22 of /proc/PID/stat).
    """

    host: str
    pid: int
    started: int


class Fingerprint(NamedTuple):
    """What, besides its token, tells a file from another that has since taken its name.

    In a directory pool a volume's handle and key are nothing but its path, so the file itself has to testify.

    Attributes:
        changed: Change time of the file when it was made, as libvirt reports it (seconds and nanoseconds since 1970).
        inode: Inode number, where the file could be seen from here, else None. The device's number would say nothing:
            it may change with every boot.
        birth_time: In nanoseconds since 1970, likewise and where the file system keeps it.
        directory: Inode number of its directory, likewise; another one stands there while a file system is not mounted.
        file_system_bytes: Size of its file system, where the file could not be seen, for the same purpose.
    """

    changed: str | None
    inode: int | None = None
    birth_time: int | None = None
    directory: int | None = None
    file_system_bytes: int | None = None


class Artifact(NamedTuple):
    """Something that cloning makes: a line of the journal, and later of the provenance.

    Attributes:
        pool: The pool it is made in; for a pool its own name.
        volume: The volume's name, None for a pool.
        path: Normalised path.
        fingerprint: What identifies it, once it is made.
        token_place: Where its token stands; None for what has none.
        transfer: How it is filled, None for what is not.
        base: Path of the image that an overlay rests on, None for anything else.
    """

    kind: ArtifactKind
    state: ArtifactState
    pool: str
    volume: str | None
    path: str
    fingerprint: Fingerprint | None = None
    token_place: TokenPlace | None = None
    transfer: Transfer | None = None
    base: str | None = None


class Provenance(NamedTuple):
    """The record that cloning keeps in a clone's metadata.

    Attributes:
        finished: False while the clone is only claimed.
        uuid: The clone's own UUID; a record whose UUID is not its domain's was carried over by another tool.
        token: Random text of the run that made it.
        mark: Random part of the token on everything that was made; None in the records of 0.2.0, which had none.
        reserved: MAC addresses and paths that were asked for, so that another run may have been asked for the same.
        created: When the clone was claimed, in seconds since 1970.
        made: What cloning makes or made for it.
    """

    finished: bool
    uuid: str
    token: str
    source: DomainReference
    mode: Mode
    created: float
    made: tuple[Artifact, ...]
    maker: Owner | None = None
    mark: str | None = None
    reserved: tuple[str, ...] = ()

    @property
    def artifact_token(self) -> str | None:
        """What stands on everything that was made for this clone, and on nothing else; None where nothing does."""
        return None if self.mark is None else f"{self.uuid}:{self.mark}"


def read_provenance(definition: Definition) -> Provenance | None:
    """Return the record of ours, if there is a readable one about this very domain.

    A record with another UUID was copied along when another tool duplicated the domain.
    """
    if definition.metadata is None:
        return None
    try:
        _, element = codec.cut_element(definition.metadata, NAMESPACE, _ELEMENT)
    except MalformedDocumentError:
        return None
    return None if element is None else read_record(element, uuid(definition.domain))


def find_provenance(definition: str, domain_uuid: str) -> Provenance | None:
    """Return the record in the text of a definition, as `read_provenance` does, without turning the text into dicts."""
    if NAMESPACE not in definition:
        return None
    return next((read_record(record, domain_uuid) for record in read_mentions(definition).records), None)


def read_record(element: str, domain_uuid: str) -> Provenance | None:
    """The record in the text of an element of ours (`Mentions.records`), as `read_provenance` finds it."""
    try:
        provenance = _read(element)
    except (MalformedDocumentError, KeyError, TypeError, ValueError, RecursionError):
        return None
    return provenance if provenance is not None and provenance.uuid == domain_uuid else None


def with_provenance(definition: Definition, provenance: Provenance) -> Definition:
    """The definition with this record in place of any other of ours."""
    stripped = without_provenance(definition).metadata or "<metadata/>"
    return replace(definition, metadata=codec.append_element(stripped, _write(provenance)))


def without_provenance(definition: Definition) -> Definition:
    """The definition without a record of ours."""
    if definition.metadata is None:
        return definition
    metadata, _ = codec.cut_element(definition.metadata, NAMESPACE, _ELEMENT)
    return replace(definition, metadata=metadata)


def claim_definition(name: str, provenance: Provenance, source: Document) -> Definition:
    """The small definition that takes a clone's name while the clone is being made.

    It has the clone's final UUID, no disk, and a kernel that does not exist, so it cannot be started. Hypervisor,
    architecture, machine and emulator are the source's, since libvirt accepts a definition only for those it has.
    """
    os_type = child(child(source, "os"), "type")
    emulator = child(source, "devices").get("emulator")
    domain: Document = {
        "@type": source.get("@type", "qemu"),
        "name": name,
        "uuid": provenance.uuid,
        "title": f"Unfinished clone of {provenance.source.name}",
        "memory": {"@unit": "MiB", "#text": "1"},
        "os": {"type": os_type or child(source, "os").get("type"), "kernel": _NO_KERNEL},
    }
    if emulator is not None:
        domain["devices"] = {"emulator": emulator}
    return with_provenance(Definition(domain, None), provenance)


def half_deleted_definition(name: str, provenance: Provenance, clone: Document) -> Definition:
    """The small definition that takes a clone's place while the clone is being deleted; it cannot be started either.

    It keeps the clone's TPM, since libvirt removes the TPM's state with the definition that has it.
    """
    definition = claim_definition(name, provenance, clone)
    domain = {**definition.domain, "title": f"Half-deleted clone of {provenance.source.name}"}
    if tpm := child(clone, "devices").get("tpm"):
        domain["devices"] = {**child(domain, "devices"), "tpm": tpm}
    return replace(definition, domain=domain)


def _write(provenance: Provenance) -> str:
    element: dict[str, Any] = {
        f"@xmlns:{_PREFIX}": NAMESPACE,
        "@schema": _SCHEMA,
        "@state": "finished" if provenance.finished else "unfinished",
        "@uuid": provenance.uuid,
        "@token": provenance.token,
        "@mode": provenance.mode.value,
        "@created": f"{provenance.created:.3f}",
        f"{_PREFIX}:source": {"@name": provenance.source.name, "@uuid": provenance.source.uuid},
    }
    if provenance.mark is not None:
        element["@mark"] = provenance.mark
    if provenance.maker is not None:
        maker = provenance.maker
        element[f"{_PREFIX}:maker"] = {"@host": maker.host, "@pid": str(maker.pid), "@started": str(maker.started)}
    if provenance.reserved:
        element[f"{_PREFIX}:reserved"] = [{"@value": value} for value in provenance.reserved]
    if provenance.made:
        element[f"{_PREFIX}:made"] = [_write_made(made) for made in provenance.made]
    return codec.unparse(element, f"{_PREFIX}:{_ELEMENT}")


def _write_made(made: Artifact) -> dict[str, str]:
    fingerprint = made.fingerprint or Fingerprint(None)
    values = {
        "@kind": made.kind.value,
        "@state": made.state.value,
        "@pool": made.pool,
        "@volume": made.volume,
        "@path": made.path,
        "@transfer": None if made.transfer is None else made.transfer.value,
        "@base": made.base,
        "@token": None if made.token_place is None else made.token_place.value,
        "@changed": fingerprint.changed,
        "@inode": fingerprint.inode,
        "@born": fingerprint.birth_time,
        "@directory": fingerprint.directory,
        "@filesystem": fingerprint.file_system_bytes,
    }
    return {key: str(value) for key, value in values.items() if value is not None}


def _read(element: str) -> Provenance:
    # libvirt keeps the prefix, but another tool may have rewritten it
    prefix = element[1:].split(maxsplit=1)[0].rstrip("/>").rpartition(":")[0]
    prefix = f"{prefix}:" if prefix else ""
    record = codec.parse(element, f"{prefix}{_ELEMENT}")
    if record["@schema"] not in _READ_SCHEMAS:
        raise ValueError(f"a record of schema {record['@schema']} is for a newer version")
    source = child(record, f"{prefix}source")
    maker = child(record, f"{prefix}maker")
    made = record.get(f"{prefix}made", [])
    reserved = record.get(f"{prefix}reserved", [])
    return Provenance(
        finished=record["@state"] == "finished",
        uuid=record["@uuid"],
        token=record["@token"],
        source=DomainReference(source["@name"], source["@uuid"]),
        mode=Mode(record["@mode"]),
        created=_moment(record["@created"]),
        made=tuple(_read_made(item) for item in (made if isinstance(made, list) else [made])),
        maker=Owner(maker["@host"], int(maker["@pid"]), int(maker["@started"])) if maker else None,
        mark=record.get("@mark"),
        reserved=tuple(item["@value"] for item in (reserved if isinstance(reserved, list) else [reserved])),
    )


def _read_made(item: Mapping[str, str]) -> Artifact:
    state = ArtifactState(item["@state"])
    fingerprint = Fingerprint(
        changed=item.get("@changed"),
        inode=_optional_int(item.get("@inode")),
        birth_time=_optional_int(item.get("@born")),
        directory=_optional_int(item.get("@directory")),
        file_system_bytes=_optional_int(item.get("@filesystem")),
    )
    token_place, transfer = item.get("@token"), item.get("@transfer")
    return Artifact(
        kind=ArtifactKind(item["@kind"]),
        state=state,
        pool=item["@pool"],
        volume=item.get("@volume"),
        path=item["@path"],
        fingerprint=fingerprint if state is ArtifactState.MADE else None,
        token_place=None if token_place is None else TokenPlace(token_place),
        transfer=None if transfer is None else Transfer(transfer),
        base=item.get("@base"),
    )


def _moment(value: str) -> float:
    seconds = float(value)
    if not 0 <= seconds < _END_OF_TIME:
        raise ValueError(f"no moment: {value}")
    return seconds


def _optional_int(value: str | None) -> int | None:
    return None if value is None else int(value)
