"""Results of small commands, and errors: as one JSON document, or for people."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from virtomate.errors import OutputError
from virtomate.output.json import document, error_document, import_document, run_document
from virtomate.output.streams import (
    error_message,
    has_result,
    message,
    print_json,
    print_lines,
    render_warnings,
    tell,
    write_bytes,
    writing,
)
from virtomate.output.text import aligned_below, printable
from virtomate.words import binary_size

if TYPE_CHECKING:
    from virtomate.errors import VirtomateError
    from virtomate.hypervisor.agent import RunResult
    from virtomate.output.json import CompletionDocument
    from virtomate.output.streams import Format
    from virtomate.services.guest import PingResult
    from virtomate.services.volume_import import ImportResult


def render_import(result: ImportResult, format_: Format) -> None:
    """Show what was imported."""
    volume = result.volume
    if format_.is_json:
        print_json(import_document(result, format_.reach), format_)
    else:
        rows = [
            ("volume", f"{volume.name} in {result.pool}"),
            ("path", volume.target.path or ""),
            ("format", volume.target.format or ""),
            ("capacity", binary_size(volume.capacity)),
            ("copied", binary_size(result.bytes_copied)),
        ]
        print_lines([f"Imported {printable(result.path)} in {result.seconds:.1f} s", *aligned_below(rows)])
    render_warnings(result.warnings, format_)


def render_completion_script(shell: str, script: str, format_: Format) -> None:
    """Print a completion script as it is."""
    if format_.is_json:
        printed: CompletionDocument = {"shell": shell, "script": script}
        print_json(printed, format_)
    else:
        print_lines(script.splitlines())


def render_ping(result: PingResult, format_: Format) -> None:
    """Show that a guest agent answers."""
    if format_.is_json:
        print_json(document(result, format_.reach), format_)
    else:
        print_lines([f"The guest agent of {printable(result.name)} answers"])


def render_run(result: RunResult, format_: Format, *, encode: bool) -> None:
    """Write the output of a program in a guest: byte for byte, or in JSON, there in Base64 if `encode`."""
    if format_.is_json:
        print_json(run_document(result, encode=encode), format_)
    else:
        write_bytes(sys.stdout, "stdout", result.stdout)
        write_bytes(sys.stderr, "stderr", result.stderr)
    for name in ("stdout", "stderr"):
        if getattr(result, f"{name}_truncated"):
            size = binary_size(len(getattr(result, name)))
            message("warning", f"{name} was truncated to its first {size}", format_)


def render_error(error: VirtomateError, format_: Format) -> None:
    """Show an error: as JSON on stdout if that is requested and possible, otherwise on stderr."""
    if format_.is_json and not isinstance(error, OutputError):
        with suppress(OutputError, BrokenPipeError):
            print_json(error_document(error, format_.reach), format_)
            return
    error_message(error, format_)


def render_interruption(error: VirtomateError, format_: Format, *, is_asking: bool) -> None:
    """Show that a signal ended the program at once; a result that is being written stays as it is."""
    tell("\n" if is_asking else "")
    if has_result.is_set():
        error_message(error, format_)
    else:
        render_error(error, format_)


def render_usage_error(usage: str, text: str, format_: Format) -> None:
    """Show on stderr why a command line cannot be understood."""
    if format_.has_json_messages:
        message("error", text, format_, type="UsageError")
        return
    tell(f"{usage}\n" if usage else "")
    message("error", text, format_)


def find_unwritten() -> OutputError | None:
    """Return the error if something could not be written to stdout."""
    try:
        with writing("stdout"):
            sys.stdout.flush()
    except OutputError as error:
        return error
    return None
