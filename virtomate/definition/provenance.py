"""The record in a clone's metadata: the claim's journal, later the finished clone's provenance.

libvirt keeps one child of `<metadata>` for each namespace (https://libvirt.org/formatdomain.html#general-metadata).
"""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any, TypeVar

from virtomate.definition import PROVENANCE_NAMESPACE, codec
from virtomate.definition.host_entries import read_entry, written_entry
from virtomate.definition.lower_images import Rebasing, read_base, read_images, write_base, write_images
from virtomate.definition.mentions import read_mentions
from virtomate.definition.readers import child, uuid
from virtomate.enums import ArtifactKind, ArtifactState, Mode, TokenPlace, Transfer
from virtomate.errors import MalformedDocumentError
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from virtomate.definition.codec import Definition, Document
    from virtomate.definition.host_entries import HostEntry
    from virtomate.definition.lower_images import BaseFingerprint, LowerImage

Value = TypeVar("Value")

NAMESPACE = PROVENANCE_NAMESPACE
_ELEMENT = "clone"
_PREFIX = "virtomate"
_SCHEMA = "2"
# Version 0.2.0 wrote records without tokens: their artifacts can be found but not proved.
_READ_SCHEMAS = frozenset({"1", _SCHEMA})

# The attributes for the numbers of a fingerprint.
_NUMBERS = {"inode": "@inode", "birth_time": "@born", "directory": "@directory", "file_system_bytes": "@filesystem"}
# libvirt takes 4 MiB, with the placeholder around it.
_LONGEST_REPLACED = 3 << 20
# the year 10000, which calendars do not reach
_END_OF_TIME = 253_402_300_800


class DomainReference(NamedTuple):
    """A domain by both of its names."""

    name: str
    uuid: str


class Owner(NamedTuple):
    """The process that holds a claim; its start time in clock ticks since the boot (field 22 of /proc/PID/stat)."""

    host: str
    pid: int
    started: int


class Fingerprint(NamedTuple):
    """Properties that, with the token, distinguish a file from a later file with the same name.

    In a directory pool a volume's handle and key are only its path. The device number may change with every boot.

    Attributes:
        changed: Change time of the new file, as libvirt reports it (seconds and nanoseconds since 1970).
        inode: Inode number, if the file could be seen.
        birth_time: Nanoseconds since 1970, if the file could be seen and the file system stores the time.
        directory: Inode number of the directory, if visible; it differs while a file system is not mounted.
        file_system_bytes: Size of the file system, if the file could not be seen, for the same purpose.
        key: libvirt's identifier of a volume that has another than its path: the UUID of a logical volume.
    """

    changed: str | None
    inode: int | None = None
    birth_time: int | None = None
    directory: int | None = None
    file_system_bytes: int | None = None
    key: str | None = None


class Artifact(NamedTuple):
    """A line of the journal, and later of the provenance.

    Attributes:
        pool: Pool of the volume; for a pool its own name.
        volume: Name of the volume; None for a pool.
        path: Normalised path.
        fingerprint: Fingerprint, once the artifact is made.
        transfer: Transfer that fills the artifact, if it has content.
        base: Path of an overlay's base.
        base_fingerprint: What the base was like when the overlay was planned.
        below: The volumes below the base, nearest first; none in records of earlier versions.
        rebasing: Another base that the volume or an image below is about to get.
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
    base_fingerprint: BaseFingerprint | None = None
    below: tuple[LowerImage, ...] = ()
    rebasing: Rebasing | None = None


class Provenance(NamedTuple):
    """The record that cloning keeps in a clone's metadata.

    Attributes:
        finished: False while the clone is only claimed.
        uuid: UUID of the clone; a record with another UUID was copied along by another tool.
        token: Random text of the run.
        created: Time of the claim, in seconds since 1970.
        mark: Random part of the artifacts' token; None in records of 0.2.0.
        reserved: MAC addresses and paths that the user requested, which another run may request, too.
        restarts: Whether this records that the original was shut down and has to be started again, and no clone.
        snapshot: Name of the original's snapshot that the clone was made of; None for a clone of the original itself.
        replaced: The definition that a deletion has put aside, without passwords; None in any other record.
        moment: UUID of the domain with the images that the clone rests on, if they are of a running original; of a
            domain that only keeps images its own UUID.
        frozen: Whether the original does not write to the bases of the clone's overlays any more.
        freezes: Whether this records overlays that are being made for the original itself, and no clone.
        owner: UUID of the clone whose token these volumes bear, if it is not the domain's own: overlays that are made
            for an original that is a clone, and bases of a clone that was deleted.
        prepared: Whether the content of the clone's volumes was changed after they were made of the original's.
        tpm: Whether the TPM state that libvirt keeps by the clone's UUID is a copy that cloning makes, or has made.
        stateless: Whether a copy of the TPM was asked for, and the original's had no state yet.
        entries: DHCP entries that are going to be made for the clone, or were made.
        host: Host of the original, if the clone was made on another host; else None.
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
    restarts: bool = False
    snapshot: str | None = None
    replaced: str | None = None
    moment: str | None = None
    frozen: bool = False
    freezes: bool = False
    owner: str | None = None
    prepared: bool = False
    tpm: bool = False
    stateless: bool = False
    entries: tuple[HostEntry, ...] = ()
    host: str | None = None

    @property
    def is_moment(self) -> bool:
        """Return whether this is the record of images that are deleted with the last clone that rests on them."""
        return self.moment == self.uuid

    @property
    def backed_up(self) -> tuple[str, ...]:
        """Return the paths of the volumes that one backup of the original fills, if there are any."""
        return tuple(made.path for made in self.made if made.transfer is Transfer.BACKUP)

    @property
    def what(self) -> str:
        """Return the word for what is recorded; an imported file has no UUID and gets that of the claim."""
        if self.restarts or self.freezes:
            return "restart" if self.restarts else "freeze"
        return "import" if self.source.uuid == self.uuid else "clone"

    @property
    def artifact_token(self) -> str | None:
        """Return the token of this clone's artifacts."""
        return None if self.mark is None else f"{self.owner or self.uuid}:{self.mark}"


def read_provenance(definition: Definition) -> Provenance | None:
    """Return the record in a definition, if the record is readable and about this very domain."""
    try:
        _, element = codec.cut_element(definition.metadata or "<metadata/>", NAMESPACE, _ELEMENT)
    except MalformedDocumentError:
        return None
    return None if element is None else read_record(element, uuid(definition.domain))


def find_provenance(definition: str, domain_uuid: str) -> Provenance | None:
    """Return the record in the text of a definition, as `read_provenance` does, without turning the text into dicts."""
    records = read_mentions(definition).records if NAMESPACE in definition else ()
    return next((read_record(record, domain_uuid) for record in records), None)


def read_record(element: str, domain_uuid: str) -> Provenance | None:
    """Return the record in an element of ours (`Mentions.records`), as `read_provenance` does."""
    try:
        provenance = _read(element)
    except (MalformedDocumentError, KeyError, TypeError, ValueError, RecursionError):
        return None
    return provenance if provenance.uuid == domain_uuid else None


def with_provenance(definition: Definition, provenance: Provenance) -> Definition:
    """Return the definition with this record as its only record."""
    stripped = without_provenance(definition).metadata or "<metadata/>"
    return definition._replace(metadata=codec.append_element(stripped, _write(provenance)))


def without_provenance(definition: Definition) -> Definition:
    """Return the definition without a record."""
    if definition.metadata is None:
        return definition
    return definition._replace(metadata=codec.cut_element(definition.metadata, NAMESPACE, _ELEMENT)[0])


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
    for name in ("snapshot", "host"):
        if (value := getattr(provenance, name)) is not None:
            element[f"{_PREFIX}:source"][f"@{name}"] = value
    for name in ("mark", "moment", "owner"):
        if (value := getattr(provenance, name)) is not None:
            element[f"@{name}"] = value
    for name in ("restarts", "frozen", "freezes", "prepared", "tpm", "stateless"):
        if getattr(provenance, name):
            element[f"@{name}"] = "yes"
    if provenance.maker is not None:
        maker = provenance.maker
        element[f"{_PREFIX}:maker"] = {"@host": maker.host, "@pid": str(maker.pid), "@started": str(maker.started)}
    # an empty list writes no element
    element[f"{_PREFIX}:reserved"] = [{"@value": value} for value in provenance.reserved]
    element[f"{_PREFIX}:made"] = [_write_made(made) for made in provenance.made]
    element[f"{_PREFIX}:entry"] = [written_entry(entry) for entry in provenance.entries]
    if provenance.replaced is not None:
        element[f"{_PREFIX}:replaced"] = b64encode(zlib.compress(provenance.replaced.encode())).decode()
    return codec.unparse(element, f"{_PREFIX}:{_ELEMENT}")


def _write_made(made: Artifact) -> Document:
    fingerprint = made.fingerprint or Fingerprint(None)
    values = {
        "@kind": made.kind,
        "@state": made.state,
        "@pool": made.pool,
        "@volume": made.volume,
        "@path": made.path,
        "@transfer": made.transfer,
        "@base": made.base,
        **write_base(made.base_fingerprint, "@base-"),
        "@token": made.token_place,
        "@changed": fingerprint.changed,
        "@key": fingerprint.key,
        **{attribute: getattr(fingerprint, field) for field, attribute in _NUMBERS.items()},
    }
    written: Document = {key: str(value) for key, value in values.items() if value is not None}
    if made.below:
        written[f"{_PREFIX}:below"] = write_images(made.below)
    if (mark := made.rebasing) is not None:
        content = {} if mark.content is None else {"@content": mark.content}
        written[f"{_PREFIX}:rebasing"] = {"@path": mark.path, **content, f"{_PREFIX}:below": write_images(mark.chain)}
    return written


def _read(element: str) -> Provenance:
    record, prefix = codec.parse_own(element, _ELEMENT)
    if record["@schema"] not in _READ_SCHEMAS:
        raise ValueError(f"a record of schema {record['@schema']} is for a newer version")
    created = float(record["@created"])
    if not 0 <= created < _END_OF_TIME:
        raise ValueError(f"not a time: {created}")
    source = child(record, f"{prefix}source")
    maker = child(record, f"{prefix}maker")
    return Provenance(
        finished=record["@state"] == "finished",
        uuid=record["@uuid"],
        token=record["@token"],
        source=DomainReference(source["@name"], source["@uuid"]),
        mode=Mode(record["@mode"]),
        created=created,
        made=tuple(_read_made(item, prefix) for item in _repeated(record, f"{prefix}made")),
        maker=Owner(maker["@host"], int(maker["@pid"]), int(maker["@started"])) if maker else None,
        mark=record.get("@mark"),
        restarts=record.get("@restarts") == "yes",
        moment=record.get("@moment"),
        frozen=record.get("@frozen") == "yes",
        freezes=record.get("@freezes") == "yes",
        prepared=record.get("@prepared") == "yes",
        tpm=record.get("@tpm") == "yes",
        stateless=record.get("@stateless") == "yes",
        owner=record.get("@owner"),
        reserved=tuple(item["@value"] for item in _repeated(record, f"{prefix}reserved")),
        snapshot=source.get("@snapshot"),
        host=source.get("@host"),
        replaced=_optional(_unpack, record.get(f"{prefix}replaced")),
        entries=tuple(read_entry(item) for item in _repeated(record, f"{prefix}entry")),
    )


def _repeated(record: Mapping[str, Any], name: str) -> list[Any]:
    elements = record.get(name, [])
    return elements if isinstance(elements, list) else [elements]


def _optional(kind: Callable[[str], Value], value: str | None) -> Value | None:
    return None if value is None else kind(value)


def _unpack(packed: str) -> str | None:
    """Return the definition that was put aside; None if the text is damaged, or longer than libvirt would take."""
    reader = zlib.decompressobj()
    try:
        text = reader.decompress(b64decode(packed), _LONGEST_REPLACED)
        return text.decode() if reader.eof else None
    except (zlib.error, ValueError):
        return None


def _read_made(item: dict[str, Any], prefix: str) -> Artifact:
    state = ArtifactState(item["@state"])
    numbers = {field: _optional(int, item.get(attribute)) for field, attribute in _NUMBERS.items()}
    fingerprint = Fingerprint(item.get("@changed"), **numbers, key=item.get("@key"))
    return Artifact(
        kind=ArtifactKind(item["@kind"]),
        state=state,
        pool=item["@pool"],
        volume=item.get("@volume"),
        path=item["@path"],
        fingerprint=fingerprint if state is ArtifactState.MADE else None,
        token_place=_optional(TokenPlace, item.get("@token")),
        transfer=_optional(Transfer, item.get("@transfer")),
        base=item.get("@base"),
        base_fingerprint=read_base(item, "@base-"),
        below=read_images(_repeated(item, f"{prefix}below")),
        rebasing=Rebasing(mark["@path"], mark.get("@content"), read_images(_repeated(mark, f"{prefix}below")))
        if (mark := child(item, f"{prefix}rebasing"))
        else None,
    )
