"""Conversion between libvirt's XML and dicts.

The dicts are xmltodict's: attributes start with `@`, text beside attributes is `#text`, an empty element is None.
Repeatable elements are always lists, and leaf text keeps its blanks. A domain's `<metadata>` stays text: it belongs to
other programs and may contain anything.
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
    "system": frozenset({"entry"}),
    "bios": frozenset({"entry"}),
    "chassis": frozenset({"entry"}),
    "baseBoard": frozenset({"entry"}),
    "oemStrings": frozenset({"entry"}),
    "sysinfo": frozenset({"baseBoard", "entry"}),
    "encryption": frozenset({"secret"}),
    "qemu:commandline": frozenset({"qemu:arg", "qemu:env"}),
}


class Definition(NamedTuple):
    """A domain's definition.

    Attributes:
        domain: The content of `<domain>` without its metadata.
        metadata: The text of the `<metadata>` element, tags included, or None.
    """

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
    data = text.encode()
    span = _find_element(data, depth=2, name="metadata")
    if span is None:
        return Definition(parse(text, "domain"), None)
    start, end = span
    return Definition(parse((data[:start] + data[end:]).decode(), "domain"), data[start:end].decode())


def unparse_definition(definition: Definition, *, is_indented: bool = False) -> str:
    """Write a domain's definition, with the unchanged metadata."""
    text = unparse(definition.domain, "domain", is_indented=is_indented)
    if definition.metadata is None:
        return text
    return append_element(text, definition.metadata)


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


def cut_element(fragment: str, namespace: str, name: str) -> tuple[str, str | None]:
    """Cut the first child with this namespace and name out of an element, and return both texts.

    The element was cut out of a document, so prefixes may be declared outside. libvirt writes our element with its own
    declaration, so children with other prefixes are not ours.
    """
    data = fragment.encode()
    span = _find_element(data, depth=2, name=name, namespace=namespace)
    if span is None:
        return fragment, None
    start, end = span
    return (data[:start] + data[end:]).decode(), data[start:end].decode()


def append_element(fragment: str, child: str) -> str:
    """Add a child at the end of an element, which may be an empty-element tag."""
    if fragment.rstrip().endswith("/>"):
        start = fragment.rstrip()[:-2].rstrip()
        name = re.match(r"<([^\s/>]+)", fragment)
        if name is None:
            raise MalformedDocumentError("not an element")
        return f"{start}>{child}</{name.group(1)}>"
    end = fragment.rindex("</")
    return fragment[:end] + child + fragment[end:]


def element_end(data: bytes, tag: str, index: int) -> int:
    """Return the offset after an element whose end expat reports at this index; an empty-element tag ends there."""
    return data.index(b">", index) + 1 if data.startswith(f"</{tag}".encode(), index) else index


def _find_element(data: bytes, depth: int, name: str, namespace: str | None = None) -> tuple[int, int] | None:
    """Return the byte offsets of the first element with this name (and namespace) at a depth; the root has depth 1."""
    parser = expat.ParserCreate("utf-8")
    stack: list[tuple[str, dict[str, str]]] = []
    found: list[int] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        scope = dict(stack[-1][1]) if stack else {}
        for key, value in attributes.items():
            if key == "xmlns" or key.startswith("xmlns:"):
                scope[key.partition(":")[2]] = value
        stack.append((tag, scope))
        prefix, _, local = tag.rpartition(":")
        if not found and len(stack) == depth and _matches(tag, local, scope.get(prefix)):
            found.append(parser.CurrentByteIndex)

    def _matches(tag: str, local: str, uri: str | None) -> bool:
        return tag == name if namespace is None else (local == name and uri == namespace)

    def end(tag: str) -> None:
        stack.pop()
        if len(found) == 1 and len(stack) == depth - 1:
            found.append(element_end(data, tag, parser.CurrentByteIndex))

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise MalformedDocumentError(f"not an XML document: {error}") from error
    return (found[0], found[1]) if found else None


def _is_repeatable(path: Sequence[tuple[str, Any]], key: str, _value: Any) -> bool:  # noqa: ANN401
    if key[0] in "@#":
        return False
    parent = path[-1][0] if path else ""
    if parent == "devices":
        return key != "emulator"
    return key in _REPEATABLE.get(parent, frozenset())


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
