"""Templates: definitions of domains that are only cloned, and that libvirt refuses to start.

libvirt looks for the security driver of each `<seclabel>` before it touches any file of a domain that it starts, and
names the driver in its error (libvirt 9.0). A label for a driver that does not exist is therefore a
refusal with a sentence of our own. libvirt keeps such a label, and everything else in the definition, as it is.

The mark in the metadata says what a template was before. The mark has a namespace of its own, since libvirt keeps one
element for each namespace, and the other one is for the record of a clone, which may become a template, too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from virtomate.definition import TEMPLATE_NAMESPACE, codec
from virtomate.definition.readers import as_list, uuid
from virtomate.errors import MalformedDocumentError
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.codec import Definition, Document

NAMESPACE = TEMPLATE_NAMESPACE
_ELEMENT = "template"
_PREFIX = "virtomate-template"
_SCHEMA = "1"
# What tells the label from others; the rest of the driver's name is for people who read libvirt's error.
_DRIVER = "virtomate template: "
# libvirt shows this text, whatever connection the reader uses.
_ADVICE = f"this domain is only cloned, until {'virtomate'} domain-template --undo makes it an ordinary domain"
_NO_METADATA = "<metadata/>"
_EMPTY_METADATA = re.compile(r"<metadata\s*(/>|>\s*</metadata>)")


class MarkedImage(NamedTuple):
    """A volume of a template as it was before.

    Attributes:
        path: Normalised path.
        mode: Permission bits of the file.
        inode: Inode number of the file.
    """

    path: str
    mode: int
    inode: int


class TemplateMark(NamedTuple):
    """What a template was before.

    Attributes:
        uuid: UUID of the template; a mark with another UUID was copied along by another tool.
        autostart: Whether libvirt started the domain with its host.
        images: The volumes whose write bits were removed.
        labels_driver: Whether the label was there before, without a driver.
        had_metadata: Whether the metadata were there before, and empty.
    """

    uuid: str
    autostart: bool
    images: tuple[MarkedImage, ...]
    labels_driver: bool = False
    had_metadata: bool = False


def is_template(domain: Document) -> bool:
    """Return whether libvirt refuses to start a domain with this definition because the domain is a template."""
    return any(_is_ours(label) for label in as_list(domain.get("seclabel")))


def read_mark(definition: Definition) -> TemplateMark | None:
    """Return the mark in a definition, if the mark is readable and about this very domain."""
    _, element = codec.cut_element(definition.metadata or _NO_METADATA, NAMESPACE, _ELEMENT)
    if element is None:
        return None
    try:
        mark = _read(element)
    except (MalformedDocumentError, KeyError, TypeError, ValueError, RecursionError):
        return None
    return mark if mark.uuid == uuid(definition.domain) else None


def as_template(definition: Definition, mark: TemplateMark) -> Definition:
    """Return the definition of a template; libvirt takes a label without a driver only as the only label."""
    ordinary = as_ordinary(definition)
    labels = as_list(ordinary.domain.get("seclabel"))
    ours = {"@model": _DRIVER + _ADVICE}
    alone = next((label for label in labels if "@model" not in label), None)
    labels = [{**alone, **ours}] if alone is not None else [*labels, {"@type": "none", **ours}]
    domain = {**ordinary.domain, "seclabel": labels}
    metadata = ordinary.metadata or _NO_METADATA
    had_metadata = ordinary.metadata is not None and _EMPTY_METADATA.fullmatch(metadata) is not None
    element = _write(mark._replace(labels_driver=alone is not None, had_metadata=had_metadata))
    return ordinary._replace(domain=domain, metadata=codec.append_element(metadata, element))


def as_ordinary(definition: Definition) -> Definition:
    """Return the definition of an ordinary domain, exactly as before the domain was a template."""
    mark = read_mark(definition)
    labels = []
    for label in as_list(definition.domain.get("seclabel")):
        if not _is_ours(label):
            labels.append(label)
        elif mark is not None and mark.labels_driver:
            labels.append({key: value for key, value in label.items() if key != "@model"})
    domain = {key: value for key, value in definition.domain.items() if key != "seclabel"}
    if labels:
        domain["seclabel"] = labels
    metadata = definition.metadata
    if metadata is not None:
        metadata, element = codec.cut_element(metadata, NAMESPACE, _ELEMENT)
        if element is not None and _EMPTY_METADATA.fullmatch(metadata):
            metadata = _NO_METADATA if mark is not None and mark.had_metadata else None
    return definition._replace(domain=domain, metadata=metadata)


def _is_ours(label: Any) -> bool:  # noqa: ANN401
    return isinstance(label, dict) and str(label.get("@model", "")).startswith(_DRIVER)


def _write(mark: TemplateMark) -> str:
    element: Document = {
        f"@xmlns:{_PREFIX}": NAMESPACE,
        "@schema": _SCHEMA,
        "@uuid": mark.uuid,
        "@autostart": "yes" if mark.autostart else "no",
        f"{_PREFIX}:image": [
            {"@path": image.path, "@mode": f"{image.mode:04o}", "@inode": str(image.inode)} for image in mark.images
        ],
    }
    if mark.labels_driver:
        element["@label"] = "driver"
    if mark.had_metadata:
        element["@metadata"] = "empty"
    return codec.unparse(element, f"{_PREFIX}:{_ELEMENT}")


def _read(element: str) -> TemplateMark:
    mark, prefix = codec.parse_own(element, _ELEMENT)
    if mark["@schema"] != _SCHEMA:
        raise ValueError(f"a mark of schema {mark['@schema']} is for a newer version")
    return TemplateMark(
        uuid=mark["@uuid"],
        autostart=mark["@autostart"] == "yes",
        images=tuple(
            MarkedImage(image["@path"], int(image["@mode"], 8), int(image["@inode"]))
            for image in as_list(mark.get(f"{prefix}image"))
        ),
        labels_driver=mark.get("@label") == "driver",
        had_metadata=mark.get("@metadata") == "empty",
    )
