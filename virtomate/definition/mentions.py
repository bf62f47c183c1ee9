"""Files, volumes and addresses that a document of libvirt mentions, in any element.

The document is a domain's definition, live or not, or belongs to a managed-save image, a snapshot or a checkpoint. Its
author may be hostile: a parser reads the document once, in time that grows only with its length. Unknown elements, such
as those of a later libvirt, are read like known ones.
"""

from __future__ import annotations

from xml.parsers import expat

from virtomate.definition import PROVENANCE_NAMESPACE
from virtomate.definition.codec import element_end, is_named
from virtomate.paths import files_in, files_in_argument
from virtomate.tuples import NamedTuple

# Nesting of the elements in our own record; a deeper one is forged.
DEEPEST_RECORD = 8

Place = str | tuple[str, str]

_DEFINITIONS = frozenset({"domain", "inactiveDomain"})
# elements in a disk with images that have formats of their own
_OTHER_IMAGES = frozenset({"backingStore", "dataStore", "mirror"})


class DiskMention(NamedTuple):
    """A disk with its source and backing chain.

    Attributes:
        target: Name of the device in the guest, if the document has one.
        places: Paths, and volumes by pool and name: the disk's source first, then its backing chain.
        is_cdrom: Whether the disk is a CD-ROM, which is only read.
        is_readonly: Whether the disk is marked as read-only.
        raw: Those of the places that the document calls raw: nothing is below them.
    """

    target: str | None
    places: tuple[Place, ...]
    is_cdrom: bool = False
    is_readonly: bool = False
    raw: frozenset[Place] = frozenset()


class Mentions(NamedTuple):
    """The names, files, volumes and addresses in a document.

    Attributes:
        name: Name of the domain; if a snapshot has two definitions, that of the first.
        uuid: UUID of the domain, as for the name.
        paths: Every absolute path outside the metadata, as written.
        volumes: Every volume that is named by pool and name.
        arguments: Arguments for the hypervisor's command line; their paths are among `paths`.
        mac_addresses: Addresses of all interfaces, in lower case.
        disks: The disks, in order.
        records: The text of each element of ours in the metadata.
        has_deep_record: Whether an element of ours was left out since it is nested too deep.
        is_whole: Whether the document could be read to its end.
    """

    name: str | None
    uuid: str | None
    paths: frozenset[str]
    volumes: frozenset[tuple[str, str]]
    arguments: tuple[str, ...]
    mac_addresses: frozenset[str]
    disks: tuple[DiskMention, ...]
    records: tuple[str, ...]
    has_deep_record: bool
    is_whole: bool


def read_mentions(document: str) -> Mentions:
    """Read a document of libvirt; raise nothing."""
    return _Reader(document.encode(errors="replace")).read()


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._parser = expat.ParserCreate("utf-8")
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.StartDoctypeDeclHandler = _refuse_doctype
        # the open elements, and their texts by depth
        self._names: list[str] = []
        self._texts: dict[int, list[str]] = {}
        self._name: str | None = None
        self._uuid: str | None = None
        self._paths: set[str] = set()
        self._volumes: set[tuple[str, str]] = set()
        self._arguments: list[str] = []
        self._mac_addresses: set[str] = set()
        self._disks: list[DiskMention] = []
        self._disk_depth = 0
        self._disk_target: str | None = None
        self._is_cdrom = self._is_readonly = False
        # each place with whether it is raw
        self._disk_places: dict[Place, bool] = {}
        self._is_raw = False
        self._metadata_depth = 0
        self._metadata_attributes: dict[str, str] = {}
        self._record_start: int | None = None
        self._record_depth = 0
        self._records: list[str] = []
        self._has_deep_record = False

    def read(self) -> Mentions:
        """Read the document."""
        is_whole = True
        try:
            self._parser.Parse(self._data, True)
        except expat.ExpatError:
            is_whole = False
            # flush the text that the parser still buffers
            self._parser.buffer_text = False
            self._record_start = None
            while self._names:
                self._end(self._names[-1])
        return Mentions(
            name=self._name,
            uuid=self._uuid,
            paths=frozenset(self._paths),
            volumes=frozenset(self._volumes),
            arguments=tuple(self._arguments),
            mac_addresses=frozenset(self._mac_addresses),
            disks=tuple(self._disks),
            records=tuple(self._records),
            has_deep_record=self._has_deep_record,
            is_whole=is_whole,
        )

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        parent = self._names[-1] if self._names else ""
        self._names.append(name)
        depth = len(self._names)
        if self._metadata_depth:
            depth_in_metadata = depth - self._metadata_depth
            declared = self._metadata_attributes | attributes
            if depth_in_metadata == 1 and is_named(name, declared, PROVENANCE_NAMESPACE, "clone"):
                self._record_start = self._parser.CurrentByteIndex
            self._record_depth = max(self._record_depth, depth_in_metadata)
        elif name == "metadata" and parent in _DEFINITIONS:
            self._metadata_depth, self._metadata_attributes = depth, attributes
        else:
            if name == "disk" and not self._disk_depth:
                self._disk_depth = depth
                self._is_cdrom = attributes.get("device") == "cdrom"
                self._is_readonly = self._is_raw = False
            elif name == "readonly" and parent == "disk":
                self._is_readonly = True
            elif name in _OTHER_IMAGES:
                self._is_raw = False
            elif name == "format" or (name == "driver" and parent == "disk"):
                self._is_raw = attributes.get("type") == "raw"
            if attributes:
                self._read_attributes(name, parent, attributes)

    def _read_attributes(self, name: str, parent: str, attributes: dict[str, str]) -> None:
        for key, value in attributes.items():
            if "/" in value or ":" in value:
                self._add_paths(value)
            if key == "file" and not value.startswith("/"):
                # libvirt and QEMU run in the root directory
                for file in files_in(value):
                    self._add_path(file if file.startswith("/") else f"/{file}")
        if "pool" in attributes and "volume" in attributes:
            place = attributes["pool"], attributes["volume"]
            self._volumes.add(place)
            if self._disk_depth:
                self._add_disk_place(place)
        if name == "mac" and "address" in attributes:
            self._mac_addresses.add(attributes["address"].lower())
        elif name == "target" and parent == "disk":
            self._disk_target = attributes.get("dev")
        elif name.rpartition(":")[2] == "arg" and parent.rpartition(":")[2] == "commandline":
            argument = attributes.get("value", "")
            self._arguments.append(argument)
            self._paths.update(files_in_argument(argument))

    def _characters(self, text: str) -> None:
        if self._metadata_depth:
            return
        depth = len(self._names)
        if depth in self._texts:
            self._texts[depth].append(text)
        elif not text.isspace():
            self._texts[depth] = [text]

    def _end(self, name: str) -> None:
        depth = len(self._names)
        if self._metadata_depth:
            if depth == self._metadata_depth + 1:
                self._end_in_metadata(name)
            elif depth == self._metadata_depth:
                self._metadata_depth = 0
        self._names.pop()
        if depth in self._texts:
            self._read_text(name, "".join(self._texts.pop(depth)))
        if depth == self._disk_depth:
            places = tuple(self._disk_places)
            raw = frozenset(place for place, is_raw in self._disk_places.items() if is_raw)
            self._disks.append(DiskMention(self._disk_target, places, self._is_cdrom, self._is_readonly, raw))
            self._disk_depth, self._disk_target, self._disk_places = 0, None, {}

    def _end_in_metadata(self, name: str) -> None:
        if self._record_start is not None and self._record_depth > DEEPEST_RECORD:
            self._has_deep_record = True
        elif self._record_start is not None:
            end = element_end(self._data, name, self._parser.CurrentByteIndex)
            self._records.append(self._data[self._record_start : end].decode(errors="replace"))
        self._record_start = None
        self._record_depth = 0

    def _read_text(self, name: str, text: str) -> None:
        if self._names and self._names[-1] in _DEFINITIONS:
            if name == "name" and self._name is None:
                self._name = text
            elif name == "uuid" and self._uuid is None:
                self._uuid = text.strip()
        if "/" in text or ":" in text:
            self._add_paths(text)

    def _add_paths(self, value: str) -> None:
        """Add the paths in a value."""
        stripped = value.strip()
        # the name of a file may end in blanks
        for file in (stripped, value) if stripped.startswith("/") else files_in(stripped):
            if file.startswith("/"):
                self._add_path(file)

    def _add_path(self, path: str) -> None:
        self._paths.add(path)
        if self._disk_depth:
            self._add_disk_place(path)

    def _add_disk_place(self, place: Place) -> None:
        self._disk_places[place] = self._is_raw and self._disk_places.get(place, True)


def _refuse_doctype(*_: object) -> None:
    """Refuse a document type, which libvirt never writes and which could define entities."""
    raise expat.ExpatError("a document type")
