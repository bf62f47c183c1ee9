"""How cloning went, for people and as JSON."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from virtomate.enums import Action, Status, Transfer, WaitFor
from virtomate.errors import InterruptedBySignalError
from virtomate.output.json import clone_document
from virtomate.output.messages import sentences
from virtomate.output.streams import (
    error_message,
    message,
    print_json,
    print_lines,
    print_table,
    render_warnings,
    tell,
)
from virtomate.output.tables import aligned_below, clone_table
from virtomate.output.text import listed, printable
from virtomate.words import binary_size, counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from virtomate.output.streams import Format
    from virtomate.services.clone_records import CloneResult, DiskResult, InterfaceResult

_DONE = {
    Action.COPIED: "copied to",
    Action.LINKED: "linked as",
    Action.REFLINKED: "reflinked to",
    Action.SHARED: "shared with the original",
    Action.DROPPED: "dropped",
}
_TO_DO = {
    Action.COPIED: "copy to",
    Action.LINKED: "link as",
    Action.REFLINKED: "reflink to",
    Action.SHARED: "share with the original",
    Action.DROPPED: "drop",
}
_WAYS = {Transfer.HOST: "directly", Transfer.STREAM: "through the connection", Transfer.SERVER: "by libvirt"}


def render_clones(results: Sequence[CloneResult], format_: Format, seconds: float | None = None) -> None:
    """Show how cloning went, or would go: several complete clones in a table, and what they are warned of once.

    Args:
        results: The clones.
        format_: How results are written.
        seconds: How long all of them took together; None where they are not made.
    """
    present = [result for result in results if result.status in {Status.CLONED, Status.PLANNED}]
    if format_.is_json:
        print_json([clone_document(result, format_.reach) for result in results], format_)
    elif seconds is not None and len(results) > 1:
        _print_several(present, seconds)
    else:
        for result in present:
            print_lines(_clone_lines(result) if result.definition is None else [_xml(result.definition)])
    render_warnings(dict.fromkeys(warning for result in present for warning in result.warnings), format_)
    if not format_.is_json:
        interruption = None
        for result in results:
            if _is_only_interrupted(result) and not format_.has_json_messages:
                interruption = result.error
            elif result.error is not None:
                error_message(result.error, format_, "" if len(results) == 1 else f"{result.name}: ")
        # once for all of them: a signal interrupts fifty clones alike
        if interruption is not None:
            error_message(interruption, format_)
        if not format_.has_json_messages:
            _tell_missing(results, present)


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
            print_lines(_answer_lines(result, what))
        else:
            error_message(result.error, format_)
    if format_.is_json:
        render_clones(answered, format_)
    else:
        _show_interrupted_wait(answered, format_)
    return tuple(answered)


def _is_only_interrupted(result: CloneResult) -> bool:
    """Tell whether a signal ended the making of a clone, and nothing is left of the clone."""
    return isinstance(result.error, InterruptedBySignalError) and not result.error.leftovers


def _tell_missing(results: Sequence[CloneResult], present: Sequence[CloneResult]) -> None:
    """Say how many clones are complete, and that nothing is left of the others where that is so."""
    missing = [result for result in results if result not in present]
    if not missing:
        return
    is_clean = not any(result.error is not None and result.error.leftovers for result in missing)
    if len(results) == 1:
        tell(f"Nothing is left of '{printable(missing[0].name)}'.\n" if is_clean else "")
        return
    others = "them" if not present else "the other" if len(missing) == 1 else "the others"
    rest = f"; nothing is left of {others}" if is_clean else ""
    tell(f"{len(present)} of {len(results)} clones {'is' if len(present) == 1 else 'are'} complete{rest}\n")


def _print_several(results: Sequence[CloneResult], seconds: float) -> None:
    """A line for each of several clones, and one for all of them."""
    if not results:
        return
    print_table(clone_table(results))
    first = results[0]
    source = printable(first.source.name)
    print_lines([f"{counted(len(results), 'clone')} of {source} ({first.mode.value}) in {seconds:.1f} s"])


def _clone_lines(result: CloneResult) -> list[str]:
    is_plan = result.status is Status.PLANNED
    verb, verbs = ("Would clone", _TO_DO) if is_plan else ("Cloned", _DONE)
    took = "" if is_plan else f" in {result.seconds:.1f} s"
    rows = [("UUID", result.uuid)]
    rows += [(disk.target, f"{verbs[disk.action]}{_details(disk, is_plan=is_plan)}") for disk in result.disks]
    if result.nvram is not None:
        rows.append(("NVRAM", f"{result.nvram.clone or 'no file'} ({result.nvram.action.value})"))
    rows += [("MAC", _mac(interface)) for interface in result.interfaces]
    rows += [("new", text) for text in sentences(result.changes) if is_plan]
    for need in result.space:
        needed, available = binary_size(need.needed_bytes), binary_size(need.available_bytes)
        rows.append(("space", f"{needed} in pool {need.pool}, which has {available}"))
    if result.is_started:
        rows.append(("state", "started"))
    head = f"{verb} {printable(result.source.name)} to {printable(result.name)} ({result.mode.value}){took}"
    return [head, *aligned_below(rows)]


def _details(disk: DiskResult, *, is_plan: bool) -> str:
    if disk.action is Action.DROPPED:
        # the only reason is that dropping was asked for
        return ""
    if disk.action is Action.SHARED:
        return f" ({disk.reason})"
    if disk.action is Action.LINKED:
        return f" {disk.clone.path}, on {disk.source.path}"
    details = f" {disk.clone.path}"
    if disk.action is Action.COPIED and disk.transfer is not None:
        details += f", {binary_size(disk.bytes_copied)}"
        details += f", {_WAYS[disk.transfer]}" if is_plan and disk.transfer in _WAYS else ""
    return details


def _show_interrupted_wait(results: Sequence[CloneResult], format_: Format) -> None:
    """Say once that a signal ended the waiting, however many clones were still waited for."""
    running = [result for result in results if result.is_started and isinstance(result.error, InterruptedBySignalError)]
    if running and running[0].error is not None:
        error_message(running[0].error, format_)
        message("note", f"kept and running, but not waited for any longer: {listed(running)}", format_)


def _answer_lines(result: CloneResult, what: WaitFor) -> list[str]:
    name = printable(result.name)
    head = f"The guest agent of {name} answers" if what is WaitFor.AGENT else f"{name} has an IP address"
    rows = [
        ("address", f"{address.address}/{address.prefix} ({interface.name})")
        for interface in result.addresses or ()
        for address in interface.addresses
    ]
    return [head, *aligned_below(rows)]


def _xml(definition: str) -> str:
    """XML for whoever reads stdout; at a terminal, what could drive it is written as XML has it, too."""
    if not sys.stdout.isatty():
        return definition
    return "".join(sign if sign in "\t\n" or printable(sign) == sign else f"&#{ord(sign)};" for sign in definition)


def _mac(interface: InterfaceResult) -> str:
    if interface.mac == interface.source_mac:
        return f"{interface.mac} (as before)"
    return f"{interface.mac} (was {interface.source_mac})"
