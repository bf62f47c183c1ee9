"""The opening of a connection: a call that can hang, and during which a person may be asked for a password."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeAlias

import libvirt

from virtomate.errors import SilentHostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtomate.cancel import CancelToken

# Gets a prompt and whether the answer is secret, and returns the answer, or None where there is none.
Ask: TypeAlias = "Callable[[str, bool], str | None]"

_LOOK_EVERY_SECONDS = 0.05

_SECRET_CREDENTIALS = {libvirt.VIR_CRED_PASSPHRASE, libvirt.VIR_CRED_NOECHOPROMPT}
_CREDENTIALS = [libvirt.VIR_CRED_USERNAME, libvirt.VIR_CRED_AUTHNAME, libvirt.VIR_CRED_ECHOPROMPT, *_SECRET_CREDENTIALS]


class Opening:
    """The opening of one connection, in a thread of its own since the call cannot be interrupted."""

    def __init__(self, uri: str | None, ask: Ask | None) -> None:
        self._uri = uri
        self._ask = ask
        self._is_asking = False
        self._heard = 0.0
        self._thread: threading.Thread | None = None
        self._outcomes: SimpleQueue[libvirt.virConnect | libvirt.libvirtError] = SimpleQueue()

    def run(self, seconds: float, cancel: CancelToken, *, is_patient: bool) -> libvirt.virConnect:
        """Open the connection, or give up a silent host; for the errors see `connect`.

        A token that is set already does not end the waiting: then the connection is for an undo. Where a person may be
        typing a password, the waiting has no end if `is_patient`.
        """
        was_cancelled = cancel.is_set
        self._heard = time.monotonic()
        self._thread = threading.Thread(target=self._open, name="connect", daemon=True)
        self._thread.start()
        while True:
            with suppress(Empty):
                outcome = self._outcomes.get(timeout=_LOOK_EVERY_SECONDS)
                break
            if cancel.is_set and not was_cancelled:
                _end_children(self._task)
                cancel.check()
            if time.monotonic() - self._heard > seconds and not (is_patient and self._somebody_may_be_asked()):
                from virtomate.hypervisor.unreached import advise_on_silence  # noqa: PLC0415 - most hosts answer

                _end_children(self._task)
                raise SilentHostError(
                    f"cannot connect to {self._uri or 'libvirt'}: no answer in {seconds:.0f} s",
                    hint=advise_on_silence(self._uri),
                )
        if isinstance(outcome, libvirt.libvirtError):
            raise outcome
        return outcome

    def _open(self) -> None:
        try:
            self._outcomes.put(libvirt.openAuth(self._uri, [_CREDENTIALS, self._answer, None], 0))
        except libvirt.libvirtError as error:
            self._outcomes.put(error)

    def _answer(self, credentials: list[list[Any]], _opaque: object) -> int:
        if self._ask is None:
            return -1
        self._is_asking = True
        try:
            for credential in credentials:
                credential[4] = self._ask(str(credential[1]), credential[0] in _SECRET_CREDENTIALS)
                if credential[4] is None:
                    return -1
        finally:
            self._heard = time.monotonic()
            self._is_asking = False
        return 0

    @property
    def _task(self) -> str:
        return str(self._thread.native_id if self._thread else 0)

    def _somebody_may_be_asked(self) -> bool:
        """Return whether a person may be typing a password: for us, for an ssh, or for an agent of polkit's."""
        if self._is_asking:
            return True
        if _children(self._task):
            return "SSH_ASKPASS" in os.environ or _has_terminal()
        return _polkit_may_ask(self._uri)


def end_programs() -> None:
    """End the processes below this one: an ssh that libvirt started for a link that died would outlive it."""
    for task in os.listdir("/proc/self/task"):
        _end_children(task)


def _end_children(task: str) -> None:
    for process in _descendants(task):
        with suppress(OSError):
            os.kill(process, signal.SIGKILL)


def _descendants(task: str, process: int | str = "self") -> list[int]:
    """Return the processes below a thread, parents first: an ssh to a jump host would outlive the ssh it serves."""
    found = []
    for child in _children(task, process):
        found += [child, *_descendants(str(child), child)]
    return found


def _children(task: str, process: int | str = "self") -> list[int]:
    """Return the processes that a thread has started (proc_pid_task_children(5))."""
    with suppress(OSError), open(f"/proc/{process}/task/{task}/children", encoding="ascii") as children:
        return [int(child) for child in children.read().split()]
    return []


def _has_terminal() -> bool:
    with suppress(OSError):
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
        return True
    return False


def _polkit_may_ask(uri: str | None) -> bool:
    """Return whether polkit may ask the user of a desktop (https://libvirt.org/auth.html).

    Polkit asks neither root nor the owner of the daemon.
    """
    _, _, rest = (uri or ":///").partition("://")
    is_local_system = rest.startswith("/") and not rest.partition("?")[0].endswith("/session")
    has_desktop = not os.environ.keys().isdisjoint({"DISPLAY", "WAYLAND_DISPLAY"})
    return os.geteuid() != 0 and has_desktop and is_local_system
