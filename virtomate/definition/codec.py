"""Conversion between libvirt's XML and dicts.

The dicts are xmltodict's: attributes start with `@`, text beside attributes is `#text`, an empty element is None.
Repeatable elements are always lists, and leaf text keeps its blanks. A domain's `<metadata>` stays text, since other
programs may write anything into it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from xml.parsers import expat

from virtomate.definition._xmltodict import xmltodict
from virtomate.errors import MalformedDocumentError
from virtomate.names import NOT_XML
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

Document = dict[str, Any]

_DEPTH_OF_CHILD = 2

# Repeatable elements by parent; everything below <devices> but the emulator is repeatable, too.
# Source: https://libvirt.org/formatdomain.html and its schema.
_REPEATABLE: dict[str, frozenset[str]] = {
    "domain": frozenset({"sysinfo", "seclabel"}),
    "os": frozenset({"boot", "initarg", "initenv"}),
    "firmware": frozenset({"feature"}),
    "graphics": frozenset({"listen", "channel"}),
    "interface": frozenset({"ip", "route", "portForward"}),
    "portForward": frozenset({"range"}),
    "source": frozenset({"seclabel", "host", "address", "ip", "route"}),
    "slices": frozenset({"slice"}),
    **dict.fromkeys(("system", "bios", "chassis", "baseBoard", "oemStrings"), frozenset({"entry"})),
    "sysinfo": frozenset({"baseBoard", "entry"}),
    "encryption": frozenset({"secret"}),
    "qemu:commandline": frozenset({"qemu:arg", "qemu:env"}),
}


class Definition(NamedTuple):
    """A domain's definition: the content of `<domain>`, and the text of its `<metadata>` apart, tags included."""

    domain: Document
    metadata: str | None


def copied(value: Any) -> Any:  # noqa: ANN401
    """Return a deep copy of a document, several times as fast as `copy.deepcopy`."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [copied(item) for item in value]
    return value


def parse_definition(text: str) -> Definition:
    """Read a domain's definition.

    Raises:
        MalformedDocumentError: The text is not a `<domain>` document.
    """
    content, metadata = cut_element(text, None, "metadata")
    return Definition(parse(content, "domain"), metadata)


def unparse_definition(definition: Definition, *, is_indented: bool = False) -> str:
    """Write a domain's definition, with the unchanged metadata."""
    text = unparse(definition.domain, "domain", is_indented=is_indented)
    return text if definition.metadata is None else append_element(text, definition.metadata)


def parse(text: str, root: str) -> Document:
    """Read a document and return the content of its root element.

    Raises:
        MalformedDocumentError: The text is not a document with this root element.
    """
    try:
        document = xmltodict.parse(
            text,
            strip_whitespace=False,
            force_list=_is_repeatable,  # type: ignore[arg-type] # the stubs take the path for one step of it
            disable_entities=True,
        )
    except (expat.ExpatError, ValueError) as error:
        raise MalformedDocumentError(f"not an XML document: {error}") from error
    if root not in document:
        raise MalformedDocumentError(f"the document is <{next(iter(document))}>, expected <{root}>")
    content = _without_blank_text(document[root])
    return content if isinstance(content, dict) else {}


def unparse(content: Document, root: str, *, is_indented: bool = False) -> str:
    """Write a document with this root element.

    Raises:
        ValueError: The content has a control character, which XML cannot represent.
    """
    text: str = xmltodict.unparse(
        {root: content}, full_document=False, short_empty_elements=True, pretty=is_indented, indent="  "
    )
    if NOT_XML.search(text):
        raise ValueError("a control character cannot stand in an XML document")
    # A parser turns a bare carriage return, which only content can have here, into a line feed.
    return text.replace("\r", "&#13;")


def cut_element(fragment: str, namespace: str | None, name: str) -> tuple[str, str | None]:
    """Cut the first child with this namespace and name out of an element, and return both texts.

    Raises:
        MalformedDocumentError: The text is not an element.
    """
    data = fragment.encode()
    parser = expat.ParserCreate("utf-8")
    depth = 0
    outer: dict[str, str] = {}
    found: list[int] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth < _DEPTH_OF_CHILD:
            outer.update(attributes)
        elif depth == _DEPTH_OF_CHILD and not found and is_named(tag, outer | attributes, namespace, name):
            found.append(parser.CurrentByteIndex)

    def end(tag: str) -> None:
        nonlocal depth
        if depth == _DEPTH_OF_CHILD and len(found) == 1:
            found.append(element_end(data, tag, parser.CurrentByteIndex))
        depth -= 1

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise MalformedDocumentError(f"not an XML document: {error}") from error
    if not found:
        return fragment, None
    return (data[: found[0]] + data[found[1] :]).decode(), data[found[0] : found[1]].decode()


def is_named(tag: str, attributes: dict[str, str], namespace: str | None, name: str) -> bool:
    """Return whether an element has this name and namespace. Without a namespace, the name includes the prefix.

    The attributes are those of the element and of the element around it: libvirt writes a namespace into `<metadata>`
    if a program declared the namespace there or further out, as `xml.etree` does.
    """
    if namespace is None:
        return tag == name
    prefix, _, local = tag.rpartition(":")
    return local == name and attributes.get(f"xmlns:{prefix}" if prefix else "xmlns") == namespace


def append_element(fragment: str, child: str) -> str:
    """Add a child at the end of an element, which may be an empty-element tag."""
    if fragment.rstrip().endswith("/>"):
        return f"{fragment.rstrip()[:-2].rstrip()}>{child}</{tag_of(fragment)}>"
    end = fragment.rindex("</")
    return fragment[:end] + child + fragment[end:]


def tag_of(element: str) -> str:
    """Return the name, with its prefix, in the first tag of an element."""
    return re.split(r"[\s/>]", element[1:], maxsplit=1)[0]


def parse_own(element: str, name: str) -> tuple[Document, str]:
    """Parse an element of ours, and return the prefix of its names, too: another tool may have rewritten the prefix."""
    tag = tag_of(element)
    prefix = tag[: tag.rfind(":") + 1]
    return parse(element, f"{prefix}{name}"), prefix


def element_end(data: bytes, tag: str, index: int) -> int:
    """Return the offset after an element whose end expat reports at this index; an empty-element tag ends there."""
    return data.index(b">", index) + 1 if data.startswith(f"</{tag}".encode(), index) else index


def _is_repeatable(path: Sequence[tuple[str, Any]], key: str, _value: Any) -> bool:  # noqa: ANN401
    parent = path[-1][0] if path else ""
    if parent == "devices":
        return key[0] not in "@#" and key != "emulator"
    return key in _REPEATABLE.get(parent, ())


def _without_blank_text(value: Any) -> Any:  # noqa: ANN401
    """Drop the blanks between child elements; a leaf's blanks belong to its value."""
    if isinstance(value, list):
        return [_without_blank_text(item) for item in value]
    if not isinstance(value, dict):
        return value
    has_children = any(key[0] not in "@#" for key in value)
    return {
        key: _without_blank_text(item)
        for key, item in value.items()
        if not (key == "#text" and has_children and not item.strip())
    }
