"""Rendering of records: as one JSON document, or for people."""

from __future__ import annotations

import io
import os
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Event
from typing import TYPE_CHECKING, Any, TextIO

from virtomate.advice import Reach
from virtomate.enums import Action, DeletionStatus, Status, WaitFor
from virtomate.errors import InterruptedBySignalError, OutputError
from virtomate.output import json as documents
from virtomate.output.style import styled
from virtomate.output.tables import clone_table, domain_table
from virtomate.output.text import aligned, printable
from virtomate.words import binary_size, counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from virtomate.definition.volume import VolumeListing
    from virtomate.errors import VirtomateError
    from virtomate.hypervisor.agent import DomainInterface, RunResult
    from virtomate.services.clone.records import CloneResult, DiskResult, InterfaceResult
    from virtomate.services.delete.records import DeletionPreview, DeletionResult, DoomedThing
    from virtomate.services.guest.records import PingResult
    from virtomate.services.listings import DomainListing, PoolListing
    from virtomate.services.volume_import import ImportResult

_DONE = {
    Action.COPIED: "copied to",
    Action.LINKED: "linked as",
    Action.REFLINKED: "reflinked to",
    Action.SHARED: "left untouched",
    Action.DROPPED: "dropped",
}
_TO_DO = {
    Action.COPIED: "copy to",
    Action.LINKED: "link as",
    Action.REFLINKED: "reflink to",
    Action.SHARED: "leave untouched",
    Action.DROPPED: "drop",
}


# So many names a sentence holds.
_MAX_NAMES = 10

# Whether a result has been written to this process's stdout, or is being written.
_has_result = Event()


@dataclass(frozen=True)
class Format:
    """How results are written.

    Attributes:
        is_json: One JSON document on stdout.
        is_pretty: Indented.
        has_json_messages: Every line of stderr is JSON, too.
        reach: How commands in hints reach the libvirt that was asked.
    """

    is_json: bool = False
    is_pretty: bool = False
    has_json_messages: bool = False
    reach: Reach = field(default_factory=Reach)


def render_clones(results: Sequence[CloneResult], format_: Format, seconds: float | None = None) -> None:
    """Show how cloning went, or would go: several complete clones in a table, and what they are warned of once.

    Args:
        results: The clones.
        format_: How results are written.
        seconds: How long all of them took together; None where they are not made.
    """
    if format_.is_json:
        _print_json([documents.clone_document(result, format_.reach) for result in results], format_)
    present = [result for result in results if result.status in {Status.CLONED, Status.PLANNED}]
    if not format_.is_json and seconds is not None and len(results) > 1:
        _print_clones(present, seconds)
    elif not format_.is_json:
        for result in present:
            _print_lines(_clone_lines(result) if result.definition is None else [_xml(result.definition)])
    render_warnings(dict.fromkeys(warning for result in present for warning in result.warnings), format_)
    for result in results:
        if result.error is not None and not format_.is_json:
            _error_message(result.error, format_, "" if len(results) == 1 else f"{result.name}: ")
    if len(results) > max(1, len(present)) and not format_.is_json and not format_.has_json_messages:
        _tell(f"{len(present)} of {len(results)} clones {'is' if len(present) == 1 else 'are'} complete\n")


def render_clones_before_waiting(results: Sequence[CloneResult], format_: Format, seconds: float) -> None:
    """Show how cloning went before the clones are waited for; JSON is one document, which comes after that."""
    if not format_.is_json:
        render_clones(results, format_, seconds)


def render_answers(results: Iterable[CloneResult], what: WaitFor, format_: Format) -> tuple[CloneResult, ...]:
    """Show each clone that was waited for as soon as it has answered, or did not; as JSON, show all at the end.

    Returns:
        All of them, when the last one has come.
    """
    answered: list[CloneResult] = []
    for result in results:
        answered.append(result)
        if format_.is_json or not result.is_started or isinstance(result.error, InterruptedBySignalError):
            continue
        if result.error is None:
            _print_lines(_answer_lines(result, what))
        else:
            _error_message(result.error, format_)
    if format_.is_json:
        render_clones(answered, format_)
    else:
        _show_interrupted_wait(answered, format_)
    return tuple(answered)


def render_warnings(warnings: Iterable[str], format_: Format) -> None:
    """Show what somebody should know, each in a line of its own on stderr."""
    for warning in warnings:
        _message("warning", warning, format_)


def render_domains(listings: Sequence[DomainListing], format_: Format) -> None:
    """Show a list of domains."""
    if format_.is_json:
        _print_json([documents.domain_document(listing) for listing in listings], format_)
        return
    _print_table(*domain_table(listings, _terminal_columns()))


def render_pools(listings: Sequence[PoolListing], format_: Format) -> None:
    """Show a list of storage pools."""
    if format_.is_json:
        _print_json([documents.pool_document(listing) for listing in listings], format_)
        return
    header = ("Name", "State", "Capacity", "Allocation", "Available", "Volumes", "Persistent")
    rows: list[tuple[str, ...]] = [
        (
            printable(item.name),
            item.state,
            *(binary_size(size) for size in (item.capacity, item.allocation, item.available)),
            "" if item.volume_count is None else str(item.volume_count),
            "yes" if item.is_persistent else "no",
        )
        for item in listings
    ]
    _print_table(header, rows)


def render_volumes(listings: Sequence[VolumeListing], format_: Format) -> None:
    """Show a list of volumes."""
    if format_.is_json:
        _print_json([documents.volume_listing_document(listing) for listing in listings], format_)
        return
    header = ("Name", "Format", "Capacity", "Allocation", "Backing store")
    rows: list[tuple[str, ...]] = [
        (
            printable(item.name),
            item.target.format or item.type,
            binary_size(item.capacity),
            binary_size(item.allocation),
            "" if item.backing_store is None else printable(item.backing_store.path or ""),
        )
        for item in listings
    ]
    _print_table(header, rows)


def render_import(result: ImportResult, format_: Format) -> None:
    """Show what was imported."""
    volume = result.volume
    if format_.is_json:
        _print_json(documents.import_document(result, format_.reach), format_)
    else:
        rows: list[tuple[str, ...]] = [
            ("volume", f"{volume.name} in {result.pool}"),
            ("path", volume.target.path or ""),
            ("format", volume.target.format or ""),
            ("capacity", binary_size(volume.capacity)),
            ("copied", binary_size(result.bytes_copied)),
        ]
        lines = aligned([(key, printable(value)) for key, value in rows])
        head = f"Imported {printable(result.path)} in {result.seconds:.1f} s"
        _print_lines([head, *(f"  {line}" for line in lines)])
    render_warnings(result.warnings, format_)


def render_deletions(results: Sequence[DeletionResult], format_: Format) -> None:
    """Show how deleting went."""
    if format_.is_json:
        _print_json([documents.deletion_document(result, format_.reach) for result in results], format_)
        return
    untouched = []
    for result in results:
        if result.error is None:
            lines = [*result.removed, *(f"kept: {item}" for item in result.kept)]
            _print_lines([f"Deleted {printable(result.name)}", *(f"  {printable(line)}" for line in lines)])
        elif result.status is DeletionStatus.INTERRUPTED and not result.error.leftovers:
            untouched.append(result)
        else:
            _error_message(result.error, format_)
    if untouched and untouched[0].error is not None:
        _error_message(untouched[0].error, format_)
        _message("note", f"not deleted: {_names(untouched)}", format_)


def render_deletion_plan(previews: Sequence[DeletionPreview]) -> None:
    """Show what would be deleted, for somebody who is to agree: on stderr, as the question is."""
    for preview in previews:
        what = "clone" if preview.is_finished else "unfinished clone"
        rows = [
            (thing.what, "" if thing.size_bytes is None else binary_size(thing.size_bytes)) for thing in preview.doomed
        ]
        lines = [f"{preview.name} ({what} of {preview.source.name}, {preview.mode.value})"]
        lines += [f"  {line}" for line in aligned([(printable(what), size) for what, size in rows])]
        lines += [f"  not proved: {_doubt(thing)}" for thing in preview.doomed if thing.doubt is not None]
        lines += [f"  kept: {item}" for item in preview.kept]
        _tell("".join(f"{printable(line)}\n" for line in lines))
    total = sum(thing.size_bytes or 0 for preview in previews for thing in preview.doomed)
    _tell(f"{counted(len(previews), 'domain')}, {binary_size(total)} in volumes\n")


def _doubt(thing: DoomedThing) -> str:
    """What somebody needs to know of a file that may not be the clone's, in order to decide."""
    parts = [f"it {thing.doubt}"]
    if thing.owner is not None:
        parts.append(f"it belongs to {thing.owner}")
    if thing.modified is not None:
        written = datetime.fromtimestamp(thing.modified, tz=UTC).astimezone()
        parts.append(f"it was last written to on {written:%Y-%m-%d at %H:%M}")
    return f"{thing.what}: {', '.join(parts)}"


def end_question() -> None:
    """Leave the line of a question that nobody answered to what comes next."""
    _tell("\n")


def render_completion_script(shell: str, script: str, format_: Format) -> None:
    """Print a completion script as it is."""
    if format_.is_json:
        _print_json(documents.completion_document(shell, script), format_)
        return
    _print_lines(script.splitlines())


def render_interfaces(interfaces: Sequence[DomainInterface], format_: Format) -> None:
    """Show the interfaces of an active domain, a line for each address."""
    if format_.is_json:
        _print_json([documents.domain_interface_document(interface) for interface in interfaces], format_)
        return
    rows: list[tuple[str, ...]] = []
    for interface in interfaces:
        head = (printable(interface.name), printable(interface.hwaddr or ""))
        shown = [printable(f"{address.address}/{address.prefix}") for address in interface.addresses]
        rows.extend((*(head if first else ("", "")), text) for first, text in _marked(shown or [""]))
    _print_table(("Name", "MAC address", "Address"), rows)


def render_ping(result: PingResult, format_: Format) -> None:
    """Show that a guest agent answers."""
    if format_.is_json:
        _print_json(documents.ping_document(result), format_)
        return
    _print_lines([f"The guest agent of {printable(result.name)} answers"])


def render_run(result: RunResult, format_: Format, *, encode: bool) -> None:
    """Hand on what a program in a guest wrote; without JSON byte for byte.

    Args:
        result: How it ended.
        format_: How results are written.
        encode: In JSON, write its output in Base64.
    """
    if format_.is_json:
        _print_json(documents.run_document(result, encode=encode), format_)
    else:
        _write(sys.stdout, "stdout", result.stdout)
        _write(sys.stderr, "stderr", result.stderr)
    for name, data, is_truncated in (
        ("stdout", result.stdout, result.stdout_truncated),
        ("stderr", result.stderr, result.stderr_truncated),
    ):
        if is_truncated:
            _message("warning", f"of {name}, only the first {binary_size(len(data))} are here", format_)


def render_error(error: VirtomateError, format_: Format) -> None:
    """Show an error: on stdout as JSON where that was asked for and is possible, else on stderr."""
    if format_.is_json and not isinstance(error, OutputError):
        with suppress(OutputError, BrokenPipeError):
            _print_json(documents.error_document(error, format_.reach), format_)
            return
    _error_message(error, format_)


def render_interruption(error: VirtomateError, format_: Format, *, is_asking: bool) -> None:
    """Show that a command was left alone in the midst of what it did: the result, if it is being written, is not ours.

    Args:
        error: What to say.
        format_: How results are written.
        is_asking: A question stands in a line that nobody will answer.
    """
    if is_asking:
        _tell("\n")
    if _has_result.is_set():
        _error_message(error, format_)
    else:
        render_error(error, format_)


def render_usage_error(usage: str, message: str, format_: Format) -> None:
    """Show that the words of a call are off: always on stderr."""
    if format_.has_json_messages:
        _message("error", message, format_, type="UsageError")
        return
    _tell(f"{usage}\n" if usage else "")
    _message("error", message, format_)


def find_unwritten() -> OutputError | None:
    """What is wrong if something could not be written to stdout."""
    try:
        with _writing("stdout"):
            sys.stdout.flush()
    except OutputError as error:
        return error
    return None


def render_help(text: str) -> None:
    """Show help to who did not ask for it: on stderr."""
    _tell(f"{text}\n")


def _print_clones(results: Sequence[CloneResult], seconds: float) -> None:
    """A line for each of several clones, and one for all of them."""
    if not results:
        return
    _print_table(*clone_table(results))
    first = results[0]
    source = printable(first.source.name)
    _print_lines([f"{counted(len(results), 'clone')} of {source} ({first.mode.value}) in {seconds:.1f} s"])


def _clone_lines(result: CloneResult) -> list[str]:
    is_plan = result.status is Status.PLANNED
    verb, verbs = ("Would clone", _TO_DO) if is_plan else ("Cloned", _DONE)
    took = "" if is_plan else f" in {result.seconds:.1f} s"
    lines = [f"{verb} {printable(result.source.name)} to {printable(result.name)} ({result.mode.value}){took}"]
    rows = [("UUID", result.uuid)]
    for disk in result.disks:
        if disk.action is Action.DROPPED:
            # the only reason is that it was asked for
            text = verbs[disk.action]
        elif disk.action is Action.SHARED:
            text = f"{verbs[disk.action]} ({disk.reason})"
        else:
            text = f"{verbs[disk.action]} {disk.clone.path}{_details(disk)}"
        rows.append((disk.target, text))
    if result.nvram is not None:
        rows.append(("NVRAM", f"{result.nvram.clone or 'no file'} ({result.nvram.action.value})"))
    rows.extend(("MAC", _mac(interface)) for interface in result.interfaces)
    rows.extend(("new", change) for change in result.changes if is_plan)
    rows.extend(
        (
            "space",
            f"{binary_size(need.needed_bytes)} in pool {need.pool}, which has {binary_size(need.available_bytes)}",
        )
        for need in result.space
    )
    if result.is_started:
        rows.append(("state", "started"))
    return lines + _aligned_below(rows)


def _show_interrupted_wait(results: Sequence[CloneResult], format_: Format) -> None:
    """Say once that a signal ended the waiting, however many clones were still waited for."""
    running = [result for result in results if result.is_started and isinstance(result.error, InterruptedBySignalError)]
    if running and running[0].error is not None:
        _error_message(running[0].error, format_)
        _message("note", f"started, and not waited for any longer: {_names(running)}", format_)


def _answer_lines(result: CloneResult, what: WaitFor) -> list[str]:
    name = printable(result.name)
    head = f"The guest agent of {name} answers" if what is WaitFor.AGENT else f"{name} has an IP address"
    rows = [
        ("address", f"{address.address}/{address.prefix} ({interface.name})")
        for interface in result.addresses or ()
        for address in interface.addresses
    ]
    return [head, *_aligned_below(rows)]


def _aligned_below(rows: list[tuple[str, str]]) -> list[str]:
    """Keys and values as they stand below a headline."""
    return [f"  {line}" for line in aligned([(printable(key), printable(value)) for key, value in rows])]


def _xml(definition: str) -> str:
    """XML for whoever reads stdout; at a terminal, what could drive it is written as XML has it, too."""
    if not sys.stdout.isatty():
        return definition
    return "".join(sign if sign in "\t\n" or printable(sign) == sign else f"&#{ord(sign)};" for sign in definition)


def _mac(interface: InterfaceResult) -> str:
    if interface.mac == interface.source_mac:
        return f"{interface.mac} (as before)"
    return f"{interface.mac} (was {interface.source_mac})"


def _details(disk: DiskResult) -> str:
    if disk.action is Action.LINKED:
        return f", on {disk.source.path}"
    if disk.action is Action.COPIED and disk.transfer is not None:
        return f", {binary_size(disk.bytes_copied)} ({disk.transfer.value})"
    return ""


def _names(results: Sequence[CloneResult] | Sequence[DeletionResult]) -> str:
    names = [f"'{result.name}'" for result in results[:_MAX_NAMES]]
    if len(results) > len(names):
        names.append(f"{len(results) - len(names)} more")
    return ", ".join(names)


def _marked(texts: list[str]) -> list[tuple[bool, str]]:
    """Each text, and whether it is the first one."""
    return [(number == 0, text) for number, text in enumerate(texts)]


@contextmanager
def _writing(name: str) -> Iterator[None]:
    """Turn the failure to write what was asked for into an error; of who stopped reading, Click takes care."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"{name} cannot be written: {os.strerror(error.errno or 0)}") from error


def _tell(text: str) -> None:
    """Write to stderr; who closed it does not want to know, and nothing fails for that."""
    with suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def _write(stream: TextIO, name: str, data: bytes) -> None:
    with _writing(name):
        stream.flush()
        stream.buffer.write(data)
        stream.flush()


def _terminal_columns() -> int | None:
    """How many columns a table has at a terminal; None where it may be as wide as it gets."""
    if not sys.stdout.isatty():
        return None
    from virtomate.output.console import stdout_console  # noqa: PLC0415 - a pipe needs no rich

    return stdout_console().width


def _print_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    _has_result.set()
    if not sys.stdout.isatty():
        _print_lines(aligned([header, *rows]))
        return
    from rich.table import Table  # noqa: PLC0415 - a pipe needs no rich
    from rich.text import Text  # noqa: PLC0415

    from virtomate.output.console import stdout_console  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    for title in header:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    with _writing("stdout"):
        stdout_console().print(table, soft_wrap=False)


def _print_json(document: Any, format_: Format) -> None:  # noqa: ANN401
    # JSON is UTF-8 wherever it goes
    with _writing("stdout"):
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")
    _print_lines([documents.dump(document, pretty=format_.is_pretty)])


def _print_lines(lines: list[str]) -> None:
    _has_result.set()
    with _writing("stdout"):
        # a name that the terminal's encoding lacks is spelled out
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()


def _error_message(error: VirtomateError, format_: Format, subject: str = "") -> None:
    if format_.has_json_messages:
        _message("error", error.message, format_, **documents.error_document(error, format_.reach))
        return
    _message("error", subject + error.message, format_)
    if error.leftovers:
        leftovers = [printable(format_.reach.fill(item)) for item in error.leftovers]
        _tell("Left behind:\n" + "".join(f"  {item}\n" for item in leftovers))
    if error.hint is not None:
        _tell(f"Hint: {printable(format_.reach.fill(error.hint))}\n")


def _message(kind: str, text: str, format_: Format, **more: object) -> None:
    text = format_.reach.fill(text)
    if format_.has_json_messages:
        line = documents.dump({"event": kind, "message": text, **more}, pretty=False)
    else:
        line = f"{styled(f'{kind.capitalize()}:', kind)} {printable(text)}"
    _tell(f"{line}\n")
