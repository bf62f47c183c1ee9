"""What became of originals and linked clones after cloning, as JSON or for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.enums import ResetStatus, TemplateStatus
from virtomate.output.streams import error_message, message, print_lines, print_records, render_warnings
from virtomate.output.text import aligned_below, printable
from virtomate.words import binary_size, quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from virtomate.output.streams import Format
    from virtomate.services.linked import ResetResult, TemplateResult


def render_templates(results: Sequence[TemplateResult], format_: Format) -> None:
    """Show which domains are templates or ordinary domains now."""
    if format_.is_json:
        print_records(results, format_)
        return
    untouched = [result for result in results if result.status is TemplateStatus.INTERRUPTED]
    for result in results:
        name = printable(result.name)
        if result.status is TemplateStatus.TEMPLATE:
            print_lines([f"{name} is a template", *(f"  cannot be written to: {path}" for path in result.volumes)])
        elif result.status is TemplateStatus.ORDINARY:
            autostart = ["  starts with its host"] if result.autostart else []
            print_lines([f"{name} is an ordinary domain again", *autostart])
        elif result.error is not None and result not in untouched:
            error_message(result.error, format_)
        render_warnings(result.warnings, format_)
    if untouched and untouched[0].error is not None:
        error_message(untouched[0].error, format_)
        message("note", f"not changed: {quoted(result.name for result in untouched)}", format_)


def render_resets(results: Sequence[ResetResult], format_: Format) -> None:
    """Show which clones are back at their first moment."""
    if format_.is_json:
        print_records(results, format_)
        return
    untouched = [result for result in results if result.status is ResetStatus.INTERRUPTED]
    for result in results:
        if result.status is ResetStatus.RESET:
            print_lines(_reset_lines(result))
        if result.error is not None and result not in untouched:
            error_message(result.error, format_)
        render_warnings(result.warnings, format_)
    if untouched and untouched[0].error is not None:
        error_message(untouched[0].error, format_)
        message("note", f"not reset: {quoted(result.name for result in untouched)}", format_)


def _reset_lines(result: ResetResult) -> list[str]:
    rows = [(disk.target, f"discarded {binary_size(disk.discarded_bytes)}") for disk in result.disks]
    if result.nvram is not None:
        rows.append(("NVRAM", "as the original's"))
    if result.is_started:
        rows.append(("state", "started"))
    return [f"Reset {printable(result.name)}", *aligned_below(rows)]
