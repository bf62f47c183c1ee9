"""Domains that were flattened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.enums import FlattenStatus, FlattenWay
from virtomate.output.streams import error_message, print_lines, print_records
from virtomate.output.text import aligned_below, printable
from virtomate.words import binary_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from virtomate.output.streams import Format
    from virtomate.services.linked import FlattenedDisk, FlattenResult

_WAYS = {FlattenWay.IN_PLACE: "in place", FlattenWay.PULL: "by a block pull"}


def render_flattened(results: Sequence[FlattenResult], format_: Format) -> None:
    """Show what became of domains that were to be flattened."""
    if format_.is_json:
        print_records(results, format_)
        return
    for result in results:
        name = printable(result.name)
        if result.status is FlattenStatus.UNCHANGED:
            print_lines([f"{name} rests on no other image"])
        elif result.status is FlattenStatus.FLATTENED:
            rows = [(disk.target, _disk_words(disk)) for disk in result.disks]
            print_lines([f"Flattened {name} in {result.seconds:.1f} s", *aligned_below(rows)])
        if result.error is not None:
            error_message(result.error, format_, f"{name}: " if len(results) > 1 else "")


def _disk_words(disk: FlattenedDisk) -> str:
    return f"{disk.path}, {binary_size(disk.allocation)}, {_WAYS[disk.way]} (was on {disk.base})"
