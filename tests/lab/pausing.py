"""virtomate, which stands still at a certain moment: `pausing.py MOMENT ARGUMENT...`.

MOMENT is a function of libvirt's C library, which has just been called, with `-N` for the N-th time; `freeze`, when a
guest has just been frozen; `sync-N`, when the program has just waited the N-th time until a file was on the disk;
volumes, separated by commas, of each of which some has been written; or `never`. SIGCONT lets the program go on. A
backup or a block pull that has just begun goes on at 1 MiB/s, and a guest that is frozen stays so.
"""

import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import libvirt  # noqa: F401 - what it calls while it is being imported is none of the program's
import libvirtmod
import libvirtmod_qemu

from virtomate.cli import signals
from virtomate.hypervisor import connection, freeze, watchdog
from virtomate.output import progress as output
from virtomate.services.guest import program

# Who has lost a connection meanwhile may take long to get a new one on a busy machine.
connection._RECONNECT_SECONDS = 60.0
# So may a new connection over SSH.
connection._CONNECT_SECONDS = 120.0
watchdog.THAW_AFTER_SECONDS = 600.0
# A guest on a busy machine may take long to answer, to freeze its file systems, and to start a program.
freeze._ANSWER_SECONDS = freeze._FREEZE_SECONDS = 60
program._CLEANUP_SECONDS = 60.0
# So may libvirt, and few tests are about what is said then.
signals._PATIENCE_SECONDS = float(os.environ.get("PATIENCE_SECONDS", "600"))

_HANDLING_SECONDS = 60.0
_handled = threading.Event()


def stand_still() -> None:
    """Stop this process, with all of its threads; what it is sent meanwhile is handled before this thread goes on."""
    # sent to the process, it would let this thread go on for a while where another thread takes it
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
    main_thread = threading.main_thread()
    if threading.current_thread() is not main_thread and main_thread.ident is not None:
        # Python handles signals in the main thread alone, the one with the highest number last
        signal.pthread_kill(main_thread.ident, signal.SIGRTMIN)
        _handled.wait(_HANDLING_SECONDS)


def pause_after(name: str, module: Any = libvirtmod, number: int = 1) -> None:
    """Stand still when a function has been called so many times."""
    function, left = getattr(module, name), number

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        nonlocal left
        if name == "virDomainBlockPull":
            domain, disk, _rate, flags = arguments
            arguments = (domain, disk, 1, flags)
        result = function(*arguments)
        if name == "virDomainBackupBegin":
            slow_down(arguments[0])
        left -= 1
        if left == 0:
            setattr(module, name, function)
            stand_still()
        return result

    setattr(module, name, call)


def pause_after_sync(number: int) -> None:
    """Stand still when the program has waited so many times for a disk."""
    left, sync = number, os.fdatasync

    def call(fd: Any) -> None:
        nonlocal left
        sync(fd)
        left -= 1
        if left == 0:
            stand_still()

    os.fdatasync = call


def slow_down(domain: Any) -> None:
    """Let the backup of a domain take very long, unless it is over already; libvirt's own call can wait for the end."""
    jobs = json.loads(libvirtmod_qemu.virDomainQemuMonitorCommand(domain, '{"execute": "query-block-jobs"}', 0))
    for job in jobs["return"]:
        speed = {"execute": "block-job-set-speed", "arguments": {"device": job["device"], "speed": 1 << 20}}
        libvirtmod_qemu.virDomainQemuMonitorCommand(domain, json.dumps(speed), 0)


def pause_while_writing(volumes: list[str]) -> None:
    """Stand still when some of each volume has been written; the first ones wait for the others."""
    left = set(volumes)
    meeting = threading.Barrier(len(volumes), stand_still)
    make = output.make_progress

    def watched(advanced: Callable[[str, int], None]) -> Callable[[str, int], None]:
        def call(volume: str, done_bytes: int) -> None:
            advanced(volume, done_bytes)
            if done_bytes and volume in left:
                left.remove(volume)
                meeting.wait()

        return call

    def make_progress(*arguments: Any, **keywords: Any) -> Any:
        progress: Any = make(*arguments, **keywords)
        progress.advanced = watched(progress.advanced)
        return progress

    output.make_progress = make_progress


def main() -> None:
    """Run the program."""
    signal.signal(signal.SIGRTMIN, lambda _number, _frame: _handled.set())
    moment = sys.argv.pop(1)
    if moment.startswith("vir"):
        name, _, number = moment.partition("-")
        pause_after(name, number=int(number or 1))
    elif moment == "freeze":
        pause_after(moment, freeze)
    elif moment.startswith("sync-"):
        pause_after_sync(int(moment.removeprefix("sync-")))
    elif moment != "never":
        pause_while_writing(moment.split(","))
    from virtomate.__main__ import main as run  # noqa: PLC0415 - it must find the functions as they are now

    run()


if __name__ == "__main__":
    main()
