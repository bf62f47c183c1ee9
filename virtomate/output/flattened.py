"""Domains that were flattened or got another base."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.enums import BaseCheck, FlattenStatus, FlattenWay
from virtomate.output.json import document
from virtomate.output.messages import sentences
from virtomate.output.streams import error_message, print_json, print_lines, print_records, render_warnings
from virtomate.output.text import aligned_below, printable
from virtomate.words import binary_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from virtomate.output.streams import Format
    from virtomate.services.linked import FlattenedDisk, FlattenResult, RebaseResult

_WAYS = {FlattenWay.IN_PLACE: "in place", FlattenWay.PULL: "by a block pull", FlattenWay.COPY: "by a copy"}

_CHECKS = {
    BaseCheck.CONTENT: "the same content as before",
    BaseCheck.RECORD: "as in the record of the clone",
    BaseCheck.SKIPPED: "none",
}


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
            kept = [f"  kept: {printable(item)}" for item in sentences(result.kept)]
            print_lines([f"Flattened {name} in {result.seconds:.1f} s", *aligned_below(rows), *kept])
        render_warnings(result.warnings, format_)
        if result.error is not None:
            error_message(result.error, format_, name if len(results) > 1 else "")


def render_rebased(result: RebaseResult, format_: Format) -> None:
    """Show which base a disk has now."""
    if format_.is_json:
        print_json(document(result, format_.reach), format_)
        return
    rows = [
        ("image", result.path),
        ("base", f"{result.base} ({result.format})"),
        ("was", result.former_base),
        ("check", _CHECKS[result.check]),
    ]
    print_lines([f"Disk {result.target} of {printable(result.name)} has another base", *aligned_below(rows)])
    render_warnings(result.warnings, format_)


def _disk_words(disk: FlattenedDisk) -> str:
    return f"{disk.path}, {binary_size(disk.allocation)}, {_WAYS[disk.way]} (was on {disk.base})"
