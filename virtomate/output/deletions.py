"""What deleting would do, and how it went, for people and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.output.clones import is_only_interrupted, tell_interrupted
from virtomate.output.messages import sentences
from virtomate.output.streams import error_message, print_lines, print_records, tell
from virtomate.output.text import aligned, printable
from virtomate.words import binary_size, counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from virtomate.notices import Notice
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
            lines = [*result.removed, *(f"kept: {format_.reach.fill(item)}" for item in sentences(result.kept))]
            if result.restarted is not None:
                lines.append(f"started '{result.restarted}' again, which an interrupted run had shut down")
            print_lines([f"Deleted {printable(result.name)}", *(f"  {printable(line)}" for line in lines)])
        elif is_only_interrupted(result.error):
            untouched.append(result)
        else:
            error_message(result.error, format_)
    tell_interrupted(untouched, "not deleted", format_)


def render_deletion_plan(deletions: Sequence[Deletion], freed: Iterable[Notice], format_: Format) -> None:
    """Show on stderr what will be deleted, before the question: each clone below the clone that it rests on."""
    for deletion, level in _as_tree(deletions):
        what = "clone" if deletion.is_finished else "unfinished clone"
        running = "" if deletion.state is None else f"; {deletion.state}, and ended first"
        rows = [
            (printable(thing.what), "" if thing.size_bytes is None else binary_size(thing.size_bytes))
            for thing in deletion.doomed
        ]
        record = deletion.provenance
        lines = [f"{deletion.name} ({what} of {record.source.name}, {record.mode.value}{running})"]
        lines += [f"  {line}" for line in aligned(rows)]
        lines += [f"  not proved: {_doubt(thing)}" for thing in deletion.doomed if thing.doubt is not None]
        lines += [f"  kept: {item}" for item in sentences(deletion.kept)]
        tell("".join(f"{'  ' * level}{printable(line)}\n" for line in lines))
    tell("".join(f"kept: {printable(format_.reach.fill(item))}\n" for item in sentences(freed)))
    total = sum(thing.size_bytes or 0 for deletion in deletions for thing in deletion.doomed)
    tell(f"{counted(len(deletions), 'domain')}, {binary_size(total)} in volumes\n")


def _as_tree(deletions: Sequence[Deletion]) -> Iterator[tuple[Deletion, int]]:
    """Yield each deletion with its level, after the deletion of the clone directly below."""
    by_uuid = {deletion.uuid: deletion for deletion in deletions}
    above = {deletion.uuid: _all_above(deletion, by_uuid) for deletion in deletions}
    levels = {uuid: sum(uuid in others for others in above.values()) for uuid in by_uuid}
    shown: set[str] = set()

    def show(deletion: Deletion, level: int) -> Iterator[tuple[Deletion, int]]:
        if deletion.uuid in shown:
            return
        shown.add(deletion.uuid)
        yield deletion, level
        for other in sorted(above[deletion.uuid], key=lambda uuid: (levels[uuid], by_uuid[uuid].name)):
            yield from show(by_uuid[other], level + 1)

    for deletion in sorted(deletions, key=lambda deletion: levels[deletion.uuid]):
        yield from show(deletion, 0)


def _all_above(deletion: Deletion, by_uuid: Mapping[str, Deletion]) -> set[str]:
    """Return the UUIDs of all clones that must be deleted before a clone."""
    found: set[str] = set()
    left = [deletion]
    while left:
        new = (left.pop().needs - found) & by_uuid.keys()
        found |= new
        left += (by_uuid[uuid] for uuid in new)
    return found


def _doubt(thing: DoomedThing) -> str:
    """Describe a file that may belong to something other than the clone."""
    from datetime import UTC, datetime  # noqa: PLC0415 - few files are unproved

    parts = [f"it {thing.doubt}"]
    if thing.owner is not None:
        parts.append(f"it belongs to {thing.owner}")
    if thing.modified is not None:
        written = datetime.fromtimestamp(thing.modified, tz=UTC).astimezone()
        parts.append(f"it was last written to on {written:%Y-%m-%d at %H:%M}")
    return f"{thing.what}: {', '.join(parts)}"
