"""What will be deleted, and what was deleted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from virtomate.enums import DeletionStatus
from virtomate.output.messages import sentences
from virtomate.output.streams import error_message, message, print_lines, print_records, tell
from virtomate.output.text import aligned, listed, printable
from virtomate.words import binary_size, counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from virtomate.output.streams import Format
    from virtomate.services.delete import Deletion, DeletionResult, DoomedThing


def render_deletions(results: Sequence[DeletionResult], format_: Format) -> None:
    """Show how deleting went."""
    if format_.is_json:
        print_records(results, format_)
        return
    untouched = []
    for result in results:
        if result.error is None:
            lines = [*result.removed, *(f"kept: {item}" for item in sentences(result.kept))]
            print_lines([f"Deleted {printable(result.name)}", *(f"  {printable(line)}" for line in lines)])
        elif result.status is DeletionStatus.INTERRUPTED and not result.error.leftovers:
            untouched.append(result)
        else:
            error_message(result.error, format_)
    if untouched and untouched[0].error is not None:
        error_message(untouched[0].error, format_)
        message("note", f"not deleted: {listed(untouched)}", format_)


def render_deletion_plan(deletions: Sequence[Deletion]) -> None:
    """Show on stderr what will be deleted, before the question."""
    for deletion in deletions:
        what = "clone" if deletion.is_finished else "unfinished clone"
        rows = [
            (printable(thing.what), "" if thing.size_bytes is None else binary_size(thing.size_bytes))
            for thing in deletion.doomed
        ]
        lines = [f"{deletion.name} ({what} of {deletion.source.name}, {deletion.mode.value})"]
        lines += [f"  {line}" for line in aligned(rows)]
        lines += [f"  not proved: {_doubt(thing)}" for thing in deletion.doomed if thing.doubt is not None]
        lines += [f"  kept: {item}" for item in sentences(deletion.kept)]
        tell("".join(f"{printable(line)}\n" for line in lines))
    total = sum(thing.size_bytes or 0 for deletion in deletions for thing in deletion.doomed)
    tell(f"{counted(len(deletions), 'domain')}, {binary_size(total)} in volumes\n")


def _doubt(thing: DoomedThing) -> str:
    """Describe a file that may belong to something other than the clone."""
    parts = [f"it {thing.doubt}"]
    if thing.owner is not None:
        parts.append(f"it belongs to {thing.owner}")
    if thing.modified is not None:
        written = datetime.fromtimestamp(thing.modified, tz=UTC).astimezone()
        parts.append(f"it was last written to on {written:%Y-%m-%d at %H:%M}")
    return f"{thing.what}: {', '.join(parts)}"
