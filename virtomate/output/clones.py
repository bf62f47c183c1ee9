"""How cloning went, for people and as JSON."""

from __future__ import annotations

import sys
from itertools import compress
from typing import TYPE_CHECKING

from virtomate.enums import Action, Consistency, CredentialWay, SideFileAction, Status, Transfer, WaitFor
from virtomate.errors import InterruptedBySignalError
from virtomate.notices import StartWarning
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
from virtomate.output.text import addresses_text, aligned_below, listed, printable
from virtomate.words import binary_size, counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from virtomate.errors import VirtomateError
    from virtomate.output.streams import Format
    from virtomate.services.clone_parts import (
        CredentialResult,
        DiskResult,
        FrozenDiskResult,
        PreparedResult,
        ReplacedClone,
        TpmResult,
    )
    from virtomate.services.clone_records import CloneResult
    from virtomate.services.delete import DeletionResult
    from virtomate.services.storage import SpaceNeed
    from virtomate.words import Reach

# What is planned for a disk, and what was done.
_WORDS = {
    Action.COPIED: ("copy to", "copied to"),
    Action.SHALLOW_COPIED: ("copy the top image to", "copied the top image to"),
    Action.LINKED: ("link as", "linked as"),
    Action.REFLINKED: ("reflink to", "reflinked to"),
    Action.SHARED: ("share with the original", "shared with the original"),
    Action.DROPPED: ("drop", "dropped"),
    Action.KEPT: ("keep", "kept"),
    Action.REPLACED: ("replace by the seed", "replaced by the seed"),
}
_MODES = {Action.COPIED: "copy", Action.LINKED: "linked", Action.REFLINKED: "reflink"}
_WAYS = {
    Transfer.HOST: "directly",
    Transfer.STREAM: "through the connection",
    Transfer.SERVER: "by libvirt",
    Transfer.CONVERT: "by qemu-img",
    Transfer.BACKUP: "by a backup of the running original",
}


def render_clones(results: Sequence[CloneResult], format_: Format, seconds: float | None = None) -> None:
    """Show how cloning went, or would go: several complete clones in a table, and equal warnings once.

    `seconds` is what all clones took together; None for plans, and for clones that were shown before.
    """
    present = [result for result in results if result.status in {Status.CLONED, Status.PLANNED, Status.UNCHANGED}]
    if format_.is_json:
        print_json([clone_document(result, format_.reach) for result in results], format_)
    elif seconds is not None and len(results) > 1:
        _print_several(present, seconds)
    else:
        _print_each(present, format_.reach)
    render_warnings(dict.fromkeys(warning for result in present for warning in result.warnings), format_)
    if format_.is_json:
        return
    interruption = None
    for result in results:
        if is_only_interrupted(result.error) and result.replaced is None:
            interruption = result.error
        elif result.error is not None:
            error_message(result.error, format_, "" if len(results) == 1 else result.name)
    if interruption is not None:
        error_message(interruption, format_)
    if not format_.has_json_messages:
        _tell_missing(results, present)


def render_answers(
    made: Sequence[CloneResult], answers: Iterable[CloneResult], what: WaitFor, format_: Format, seconds: float
) -> tuple[CloneResult, ...]:
    """Show clones and then their answers, and return the clones with the answers; JSON comes at the end.

    `answers` yields each clone as soon as it has answered, or will not answer any more.
    """
    if format_.is_json:
        answered = tuple(answers)
        render_clones(answered, format_)
        return answered
    render_clones(made, format_, seconds)
    answered = ()
    interrupted = []
    for result in answers:
        answered += (result,)
        if not result.is_started:
            continue
        if isinstance(result.error, InterruptedBySignalError):
            interrupted.append(result)
        elif result.error is not None:
            _tell_since_start(result, format_)
            error_message(result.error, format_)
        else:
            print_lines(_answer_lines(result, what))
            _tell_since_start(result, format_)
    tell_interrupted(interrupted, "kept and running, but not waited for any longer", format_)
    return answered


def _tell_since_start(result: CloneResult, format_: Format) -> None:
    """Show the warnings about a clone that runs; the others were shown when the clone was complete."""
    render_warnings((warning for warning in result.warnings if isinstance(warning.code, StartWarning)), format_)


def is_only_interrupted(error: VirtomateError | None) -> bool:
    """Tell whether an error is an interruption by a signal that left nothing behind."""
    return isinstance(error, InterruptedBySignalError) and not error.leftovers


def tell_interrupted(results: Sequence[CloneResult | DeletionResult], what: str, format_: Format) -> None:
    """Show one interruption, and a note with the names of all clones that it concerns."""
    if results and results[0].error is not None:
        error_message(results[0].error, format_)
        message("note", f"{what}: {listed([result.name for result in results])}", format_)


def _tell_missing(results: Sequence[CloneResult], present: Sequence[CloneResult]) -> None:
    """Say how many clones are complete, and whether nothing is left of the others."""
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
    """Print a line for each clone, and a line for all of them."""
    if not results:
        return
    kept = sum(result.is_kept for result in results)
    texts = [addresses_text(result.addresses or ()) or ", ".join(_kept_addresses(result)) for result in results]
    has_addresses = any(texts)
    is_shown = (True, True, has_addresses, any(_state(result) for result in results))
    rows = [("Name", "MAC address", "Addresses", "State")]
    for result, addresses in zip(results, texts, strict=True):
        macs = ", ".join(printable(interface.mac) for interface in result.interfaces)
        rows.append((printable(result.name), macs, addresses, _state(result)))
    print_table([tuple(compress(row, is_shown)) for row in rows])
    original, mode = _original(results[0]), ", ".join(dict.fromkeys(result.mode.value for result in results))
    there = f", and {counted(kept, 'clone')} {'was' if kept == 1 else 'were'} there before" if kept else ""
    made = f"{counted(len(results) - kept, 'clone')} of {original} ({mode}){_host_words(results[0])}"
    print_lines([f"{made} in {seconds:.1f} s{there}"])
    moved = [disk for disk in results[0].frozen if disk.is_new]
    print_lines([printable(f"{disk.target} of the original moved to {disk.overlay.path}") for disk in moved])
    if (frozen := _frozen_words(results[0])) is not None:
        print_lines([f"  guest  {frozen}"])


def _state(result: CloneResult) -> str:
    """Describe what became of a clone besides its making."""
    words = (
        (result.is_kept, "unchanged"),
        (result.replaced is not None, "replaced"),
        (result.is_started, "running" if result.is_kept else "started"),
    )
    return ", ".join(word for is_so, word in words if is_so)


def _kept_addresses(result: CloneResult) -> list[str]:
    """Return the addresses that DHCP entries keep for a clone."""
    return [interface.dhcp_entry.address for interface in result.interfaces if interface.dhcp_entry is not None]


def _print_each(results: Sequence[CloneResult], reach: Reach) -> None:
    """Print each clone, plan or definition, and after several plans the space that all of them need."""
    for result in results:
        if result.definition is not None:
            print_lines([_xml(result.definition)])
        else:
            print_lines(_kept_lines(result) if result.is_kept else _clone_lines(result, reach))
    needs = {
        (need.pool, need.directory): need for result in results for need in result.space if result.definition is None
    }
    planned = sum(not result.is_kept for result in results)
    if planned > 1:
        for need in needs.values():
            needed, available = binary_size(need.total_needed_bytes), binary_size(need.available_bytes)
            clones = counted(planned, "clone")
            print_lines([f"{clones} need {needed} in {printable(_space_place(need))}, which has {available}"])


def _space_place(need: SpaceNeed) -> str:
    return f"pool {need.pool}" if need.directory is None else f"directory {need.directory}"


def _clone_lines(result: CloneResult, reach: Reach) -> list[str]:
    is_plan = result.status is Status.PLANNED
    verb, took = ("Would clone", "") if is_plan else ("Cloned", f" in {result.seconds:.1f} s")
    frozen = _frozen_words(result)
    rows = [("UUID", result.uuid)]
    rows += [(disk.target, _disk_words(disk, is_plan=is_plan)) for disk in result.disks]
    if result.nvram is not None:
        rows.append(("NVRAM", f"{result.nvram.clone or 'no file'} ({result.nvram.action.value})"))
    rows += [("TPM", words) for words in _tpm_words(result.tpm)]
    if result.seed is not None:
        files = "" if not result.seed.files else f"; {', '.join(result.seed.files)}"
        rows.append(
            ("seed", f"{result.seed.clone.path} ({result.seed.target}; host name {result.seed.host_name}{files})")
        )
    if result.prepared is not None:
        rows.append(("inside", _prepared_words(result.prepared, is_plan=is_plan)))
    rows += [("credential", _credential_words(item)) for item in result.credentials or ()]
    rows += _interface_rows(result)
    rows += [("new", text) for text in sentences(result.changes) if is_plan]
    for need in result.space:
        needed, available = binary_size(need.needed_bytes), binary_size(need.available_bytes)
        has_backup = frozen is not None and not result.frozen
        reserved = "; the backup reserves the full capacity of the disks while it runs" if has_backup else ""
        rows.append(("space", f"{needed} in {_space_place(need)}, which has {available}{reserved}"))
    if result.restarted is not None:
        done = "started again" if result.restarted else "shut off"
        to_do = "shut down for cloning" + (", then started again" if result.restarted else "")
        rows.append(("original", to_do if is_plan else done))
    if frozen is not None:
        rows.append(("guest", frozen))
    if result.moment is not None:
        rows.append(("base", f"{result.moment}, which domain-delete removes with the last clone that rests on it"))
    rows += [("original", _move_words(disk, is_plan=is_plan)) for disk in result.frozen]
    rows += [("replaces" if is_plan else "replaced", words) for words in _replaced_words(result.replaced, reach)]
    if result.is_started:
        rows.append(("state", "started"))
    head = f"{verb} {_original(result)} to {printable(result.name)}{_host_words(result)} ({_mode_words(result)}){took}"
    return [head, *aligned_below(rows)]


def _mode_words(result: CloneResult) -> str:
    """Name the modes in which disks were duplicated: --disk and --block choose others than --mode."""
    made = dict.fromkeys(_MODES[disk.action] for disk in result.disks if disk.action in _MODES)
    return ", ".join(made) if made and result.mode.value in _MODES.values() else result.mode.value


def _prepared_words(prepared: PreparedResult, *, is_plan: bool) -> str:
    """Describe what a program changes in the guest."""
    parts = [] if prepared.host_name is None else [f"host name {prepared.host_name}"]
    parts += [", ".join(prepared.operations)] if prepared.operations else []
    to_do = "to be prepared" if is_plan else "prepared"
    return f"{to_do} by {prepared.program}" + (f" ({'; '.join(parts)})" if parts else "")


def _tpm_words(tpm: TpmResult | None) -> list[str]:
    """Describe a TPM with a place of its own, or that was to be copied; warnings tell of the others."""
    if tpm is None or tpm.action not in {SideFileAction.COPIED, SideFileAction.FRESH}:
        return []
    what = tpm.action.value if tpm.reason is None else f"new: {tpm.reason}"
    if tpm.clone is not None:
        return [f"{tpm.clone} ({what})"]
    return [] if tpm.reason is None else [f"new ({tpm.reason})"]


def _kept_lines(result: CloneResult) -> list[str]:
    rows = [("UUID", result.uuid)]
    rows += [(disk.target, f"kept {disk.clone.path}") for disk in result.disks if disk.clone.path is not None]
    rows += [("MAC", interface.mac) for interface in result.interfaces]
    rows += [("state", "running")] if result.is_started else []
    head = f"{printable(result.name)} is there already, a clone of {_original(result)} ({result.mode.value})"
    return [head, *aligned_below(rows)]


def _replaced_words(replaced: ReplacedClone | None, reach: Reach) -> list[str]:
    """Describe the clone that gives way to a new one, and what is removed and kept of the former clone."""
    if replaced is None:
        return []
    clone = f"the clone {replaced.uuid} of {printable(replaced.source.name)} ({replaced.mode.value})"
    return [clone, *replaced.removed, *(f"kept: {reach.fill(item)}" for item in sentences(replaced.kept))]


def _credential_words(credential: CredentialResult) -> str:
    """Describe a credential, without the value of a secret."""
    where = "SMBIOS" if credential.way is CredentialWay.SMBIOS else "fw_cfg"
    if credential.clone is not None:
        where += f", {credential.clone.path}"
    value = "" if credential.value is None else f"={credential.value}"
    return f"{credential.name}{value} ({where})"


def _interface_rows(result: CloneResult) -> Iterator[tuple[str, str]]:
    """Yield the rows about the network interfaces."""
    for interface in result.interfaces:
        before = "as before" if interface.mac == interface.source_mac else f"was {interface.source_mac}"
        yield "MAC", f"{interface.mac} ({before})"
        if (entry := interface.dhcp_entry) is not None:
            name = "" if entry.name is None else f"; name {entry.name}"
            yield "IP", f"{entry.address} (DHCP entry of network {entry.network}{name})"


def _frozen_words(result: CloneResult) -> str | None:
    """Describe whether the file systems of the running original were frozen; None for an original that was off."""
    is_plan = result.status is Status.PLANNED
    if result.consistency in {None, Consistency.OFFLINE} or result.snapshot is not None:
        return None
    if result.consistency is Consistency.CRASH:
        return f"file systems not frozen, disks {'will be ' if is_plan else ''}as after a power cut"
    if is_plan:
        then = "the disks move" if result.frozen else "the copy begins"
        return f"file systems to be frozen for the moment in which {then}"
    by = "by somebody else" if result.frozen_seconds is None else f"for {result.frozen_seconds:.2f} s"
    return f"file systems frozen {by}"


def _host_words(result: CloneResult) -> str:
    return "" if result.host is None else f" on host {printable(result.host)}"


def _original(result: CloneResult) -> str:
    snapshot = "" if result.snapshot is None else f" at snapshot {printable(result.snapshot.name)}"
    return f"{printable(result.source.name)}{snapshot}"


def _disk_words(disk: DiskResult, *, is_plan: bool) -> str:
    to_do, done = _WORDS[disk.action]
    words = to_do if is_plan else done
    if disk.action is Action.SHARED:
        return f"{words} ({disk.reason})"
    if disk.action is Action.LINKED:
        return f"{words} {disk.clone.path}, on {disk.base_path}"
    if disk.action is not Action.DROPPED:
        words += f" {disk.clone.path}"
    if disk.action in {Action.COPIED, Action.SHALLOW_COPIED} and disk.transfer is not None:
        words += f", {binary_size(disk.bytes_copied)}"
        words += f", {_WAYS[disk.transfer]}" if is_plan and disk.transfer in _WAYS else ""
    return words


def _move_words(frozen: FrozenDiskResult, *, is_plan: bool) -> str:
    """Describe a disk of the original that is on an overlay."""
    if not frozen.is_new:
        return f"{frozen.target} is on {frozen.overlay.path}, which holds nothing yet"
    return f"{frozen.target} {'moves' if is_plan else 'moved'} to {frozen.overlay.path}"


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
    """Return a definition; for a terminal, signs that could drive it become references of XML."""
    if not sys.stdout.isatty():
        return definition
    return "".join(sign if sign in "\t\n" or printable(sign) == sign else f"&#{ord(sign)};" for sign in definition)
