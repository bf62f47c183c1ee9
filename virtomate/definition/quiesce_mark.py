"""The mark that a run puts on a running domain before the run freezes the file systems of the guest."""

from __future__ import annotations

from virtomate.definition import codec
from virtomate.definition.provenance import Owner
from virtomate.errors import MalformedDocumentError
from virtomate.tuples import NamedTuple

_ELEMENT = "freeze"


class QuiesceMark(NamedTuple):
    """The mark of a freeze.

    Attributes:
        token: Token of the claim for whose volumes the file systems are frozen.
        run_id: The run of the domain; the freeze ends with the run.
        maker: The process that freezes and thaws.
    """

    token: str
    run_id: int
    maker: Owner


def write_mark(mark: QuiesceMark) -> str:
    """Return the element of a mark."""
    maker = mark.maker
    values = {"token": mark.token, "run": mark.run_id, "host": maker.host, "pid": maker.pid, "started": maker.started}
    return codec.unparse({f"@{key}": str(value) for key, value in values.items()}, _ELEMENT)


def read_mark(element: str | None) -> QuiesceMark | None:
    """Return the mark in an element as libvirt returns it, None where there is no mark that can be read."""
    if element is None:
        return None
    try:
        values = codec.parse(element, codec.tag_of(element))
        maker = Owner(values["@host"], int(values["@pid"]), int(values["@started"]))
        return QuiesceMark(values["@token"], int(values["@run"]), maker)
    except (MalformedDocumentError, KeyError, ValueError):
        return None
