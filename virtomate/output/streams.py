"""Writing of results to stdout and of messages to stderr, also where a stream is closed or full."""

from __future__ import annotations

import io
import os
import sys
from contextlib import contextmanager, suppress
from threading import Event
from typing import TYPE_CHECKING, Any, TextIO

from virtomate.errors import OutputError
from virtomate.output import json as documents
from virtomate.output.messages import sentence, sentences
from virtomate.output.text import aligned, bold, printable, styled
from virtomate.tuples import NamedTuple
from virtomate.words import Reach

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from virtomate.errors import VirtomateError
    from virtomate.notices import Notice
    from virtomate.output.text import Table

# Whether a result has been written to this process's stdout, or is being written.
has_result = Event()


class Format(NamedTuple):
    """How results are written.

    Attributes:
        is_json: One JSON document on stdout; `is_pretty` indents the document.
        has_json_messages: Every line of stderr is JSON, too.
        reach: How commands in hints reach the same libvirt.
    """

    is_json: bool = False
    is_pretty: bool = False
    has_json_messages: bool = False
    reach: Reach = Reach()


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Raise OutputError if a result cannot be written; Click handles BrokenPipeError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"{name} cannot be written: {os.strerror(error.errno or 0)}") from error


def tell(text: str) -> None:
    """Write to stderr; a closed stderr is no failure."""
    with suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def write_bytes(stream: TextIO, name: str, data: bytes) -> None:
    """Write bytes as they are."""
    with writing(name):
        stream.flush()
        stream.buffer.write(data)
        stream.flush()


def print_lines(lines: Iterable[str]) -> None:
    """Write lines to stdout; a character that the terminal's encoding lacks is spelled out."""
    has_result.set()
    with writing("stdout"):
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()


def print_table(table: Table) -> None:
    """Write a table to stdout; the terminal wraps a line that is too long, so that it can be copied."""
    header, *lines = aligned(table)
    print_lines([bold(header), *lines])


def print_json(document: Any, format_: Format) -> None:  # noqa: ANN401 - JSON is what it is
    """Write a document to stdout, in UTF-8 wherever it goes."""
    with writing("stdout"):
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")
    print_lines([documents.dump(document, pretty=format_.is_pretty)])


def print_records(records: Iterable[object], format_: Format) -> None:
    """Write records to stdout as a JSON array."""
    print_json([documents.document(record, format_.reach) for record in records], format_)


def message(kind: str, text: str, format_: Format, **more: object) -> None:
    """Write an error, a warning or a note to stderr."""
    text = format_.reach.fill(text)
    if format_.has_json_messages:
        line = documents.dump({"event": kind, "message": text, **more}, pretty=False)
    else:
        line = f"{styled(f'{kind.capitalize()}:', kind)} {printable(text)}"
    tell(f"{line}\n")


def error_message(error: VirtomateError, format_: Format, name: str = "") -> None:
    """Write an error with its leftovers and its hint to stderr, and the name of the clone if there are several."""
    if format_.has_json_messages:
        named = {"name": name} if name else {}
        message("error", error.message, format_, **named, **documents.error_document(error, format_.reach))
        return
    render_warnings(error.notices, format_)
    message("error", f"{name}: {error.message}" if name else error.message, format_)
    if error.leftovers:
        leftovers = [printable(format_.reach.fill(item)) for item in sentences(error.leftovers)]
        tell("Left behind:\n" + "".join(f"  {item}\n" for item in leftovers))
    if error.hint is not None:
        tell(f"Hint: {printable(format_.reach.fill(error.hint))}\n")


def render_warnings(warnings: Iterable[Notice], format_: Format) -> None:
    """Write warnings to stderr, each in a line of its own."""
    for warning in warnings:
        more = {"code": warning.code.value, "subject": warning.subject}
        message("warning", sentence(warning), format_, **more)
