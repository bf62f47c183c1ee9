"""The other host that clones are made on, as it is asked for, and how clones get there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.codec import Document
    from virtomate.definition.moving import Moved
    from virtomate.enums import MapKind
    from virtomate.notices import Notice


class HostMap(NamedTuple):
    """What a thing of the original's host is called on the other host."""

    kind: MapKind
    old: str
    new: str

    @property
    def word(self) -> str:
        """The word of the command line."""
        return f"{self.kind.value}:{self.old}={self.new}"


class OtherHost(NamedTuple):
    """The host that clones are made on, if that is another than the original's."""

    uri: str
    maps: tuple[HostMap, ...] = ()


class HostNames(NamedTuple):
    """The hosts of a clone on another host than its original's.

    Attributes:
        original: What the host of the original calls itself.
        target: What the host of the clone calls itself.
        uri: URI of the libvirt there.
    """

    original: str
    target: str
    uri: str


class Crossing(NamedTuple):
    """How clones get to another host.

    Attributes:
        moved: What they have otherwise there.
        domain: The original's definition with that.
        warnings: What nothing shows about the other host.
    """

    hosts: HostNames
    moved: Moved
    domain: Document
    warnings: tuple[Notice, ...]
