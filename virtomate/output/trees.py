"""The tree of domains and volumes, for people or as JSON."""

from __future__ import annotations

import sys
from itertools import compress
from typing import TYPE_CHECKING, Any

from virtomate.output.json import document, domain_document
from virtomate.output.lists import origin_text, state_text
from virtomate.output.streams import print_json, print_table, render_warnings
from virtomate.output.text import addresses_text, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from virtomate.output.streams import Format
    from virtomate.output.text import Row
    from virtomate.services.domain_tree import DomainTree, VolumeNode
    from virtomate.services.listings import DomainListing

    Node = DomainListing | VolumeNode

# In front of a node: below others, the last one, and in front of what is below these.
_BRANCHES = ("├─ ", "└─ ", "│  ", "   ")
_PLAIN_BRANCHES = ("|- ", "`- ", "|  ", "   ")
_AGAIN = " (see above)"


def render_tree(tree: DomainTree, format_: Format) -> None:
    """Show which domains and volumes rest on which."""
    if format_.is_json:
        print_json([_document(node, format_) for node in tree.nodes], format_)
    else:
        has_addresses = any(getattr(node, "addresses", None) is not None for node in tree.nodes)
        is_shown = (True, True, has_addresses, True, True)
        rows = [("Name", "State", "Addresses", "Disks", "Clone of"), *_Forest(tree.nodes).rows()]
        print_table([tuple(compress(row, is_shown)) for row in rows])
    render_warnings(tree.warnings, format_)


def _document(node: Any, format_: Format) -> dict[str, Any]:  # noqa: ANN401 - one of two records
    return document(node, format_.reach) if node.uuid is None else domain_document(node, format_.reach)


class _Forest:
    """The nodes as trees: each below what it rests on."""

    def __init__(self, nodes: tuple[Node, ...]) -> None:
        self._nodes: Mapping[str, Node] = {node.key: node for node in nodes}
        self._below: dict[str, dict[str, list[str]]] = {}
        self._children: dict[str, dict[str, None]] = {key: {} for key in self._nodes}
        for key, node in self._nodes.items():
            targets = self._below.setdefault(key, {})
            for image in node.base or ():
                for parent in image.owners:
                    if parent != key and parent in self._nodes:
                        targets.setdefault(parent, []).append(image.target or "")
                        self._children[parent][key] = None
        self._branches = _BRANCHES if _can_show(_BRANCHES) else _PLAIN_BRANCHES
        self._shown: set[str] = set()

    def rows(self) -> Iterator[Row]:
        """Yield a line for each node; what rests on a node that has been shown before is not shown again."""
        for key in self._sorted(key for key in self._nodes if not self._below[key]):
            yield from self._rows(key)
        # of a circle no node is below all others
        for key in self._sorted(self._nodes):
            if key not in self._shown:
                yield from self._rows(key)

    def _rows(self, root: str) -> Iterator[Row]:
        left: list[tuple[str, str | None, str, str]] = [(root, None, "", "")]
        while left:
            key, parent, prefix, below = left.pop()
            is_again = key in self._shown
            self._shown.add(key)
            children = self._sorted(self._children[key])
            yield self._row(key, parent, prefix, is_again=is_again and bool(children))
            if is_again:
                continue
            branch, last, line, blank = self._branches
            for number, child in enumerate(reversed(children)):
                left.append((child, key, below + (branch if number else last), below + (line if number else blank)))

    def _row(self, key: str, parent: str | None, prefix: str, *, is_again: bool) -> Row:
        node: Any = self._nodes[key]
        again = _AGAIN if is_again else ""
        if node.uuid is None:
            name = node.name if node.pool is None else f"{node.pool}/{node.volume}"
            return (f"{prefix}{printable(name)}{again}", "missing" if node.is_missing else "volume", "", "", "")
        disks = ", ".join(dict.fromkeys(filter(None, self._below[key].get(parent or "", ()))))
        addresses = addresses_text(node.addresses or ())
        return (
            f"{prefix}{printable(node.name)}{again}",
            state_text(node),
            addresses,
            printable(disks),
            origin_text(node),
        )

    def _sorted(self, keys: Any) -> list[str]:  # noqa: ANN401 - any iterable of keys
        return sorted(keys, key=lambda key: (self._nodes[key].uuid is None, self._nodes[key].name, key))


def _can_show(texts: tuple[str, ...]) -> bool:
    """Return whether the encoding of stdout has all signs of these texts."""
    try:
        "".join(texts).encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
