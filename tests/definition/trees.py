"""XML documents compared by what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Iterator

Tree = tuple[str, tuple[tuple[str, str], ...], str, dict[str, list[Any]]]


def canonical(text: str) -> Tree:
    """What a document means.

    Elements of one name keep their order, those of different names have none; blanks beside children mean nothing, in a
    leaf they are its value.
    """
    return _canonical(ET.fromstring(text))


def _canonical(element: ET.Element) -> Tree:
    children: dict[str, list[Any]] = {}
    for child in element:
        children.setdefault(child.tag, []).append(_canonical(child))
    text = element.text or ""
    if children:
        text = "".join([text, *(child.tail or "" for child in element)]).strip()
    return element.tag, tuple(sorted(element.attrib.items())), text, children


def values(text: str) -> dict[str, str]:
    """Every value of a document by its XPath; an element without text has the empty one."""
    root = ET.fromstring(text)
    return dict(_values(root, f"/{root.tag}"))


def _values(element: ET.Element, path: str) -> Iterator[tuple[str, str]]:
    text = element.text or ""
    yield path, "" if len(element) else text
    for name, value in element.attrib.items():
        yield f"{path}/@{name}", value
    tags = [child.tag for child in element]
    seen: dict[str, int] = {}
    for child in element:
        seen[child.tag] = seen.get(child.tag, 0) + 1
        position = f"[{seen[child.tag]}]" if tags.count(child.tag) > 1 else ""
        yield from _values(child, f"{path}/{child.tag}{position}")
