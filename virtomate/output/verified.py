"""Whether what clones rest on is intact, as JSON or for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.enums import BaseProperty
from virtomate.output.messages import sentence
from virtomate.output.streams import print_records, print_table
from virtomate.output.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from virtomate.output.streams import Format
    from virtomate.services.linked import Verification

_PROPERTIES = {
    BaseProperty.SIZE: "length",
    BaseProperty.MODIFIED: "modification time",
    BaseProperty.INODE: "inode number",
    BaseProperty.BIRTH_TIME: "birth time",
    BaseProperty.HEADER: "qcow2 header",
    BaseProperty.KEY: "UUID of the logical volume",
}


def render_verifications(results: Sequence[Verification], format_: Format) -> None:
    """Show which clones are intact, a line for each clone."""
    if format_.is_json:
        print_records(results, format_)
        return
    rows = [("Name", "Status", "Reason")]
    rows += [(printable(result.name), result.status.value, _reason(result, format_)) for result in results]
    print_table(rows)


def _reason(result: Verification, format_: Format) -> str:
    told = [volume.message for volume in result.volumes if volume.message is not None]
    if told:
        return printable(format_.reach.fill("; ".join(dict.fromkeys(map(sentence, told)))))
    unchecked = {item for volume in result.volumes for item in volume.unchecked}
    words = [word for item, word in _PROPERTIES.items() if item in unchecked]
    return f"not compared: {', '.join(words)}" if words else ""
