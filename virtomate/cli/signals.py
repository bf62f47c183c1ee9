"""Signals: they set a cancel token and raise nothing."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING

from virtomate.errors import EXIT_FAILED, EXIT_NO_AGENT, InterruptedBySignalError, VirtomateError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from virtomate.cancel import CancelToken
    from virtomate.progress import Progress

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_OUTRANKED = {EXIT_FAILED, EXIT_NO_AGENT}


@contextmanager
def cancelling(cancel: CancelToken, progress: Progress) -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP cancel the work; what the caller of this program ignores stays ignored (nohup).

    Raises:
        InterruptedBySignalError: The work failed after a signal had come, and left nothing behind; a signal can be what
            it failed of, since an ssh in the terminal gets it as well.
    """
    notes: SimpleQueue[str | None] = SimpleQueue()

    def handle(number: int, _frame: FrameType | None) -> None:
        is_repeated = cancel.signal_number is not None
        cancel.interrupt(number)
        what = "still cleaning up" if is_repeated else "interrupted; cleaning up"
        # A handler runs in the midst of anything, writing to stderr included; putting into this queue is allowed there.
        notes.put(f"{signal.Signals(number).name}: {what}")

    def tell() -> None:
        while (note := notes.get()) is not None:
            progress.note(note)

    teller = threading.Thread(target=tell, name="signal-notes", daemon=True)
    teller.start()

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    handled = [number for number, handler in before.items() if handler != signal.SIG_IGN]
    for number in handled:
        signal.signal(number, handle)
    try:
        yield
    except VirtomateError as error:
        if cancel.signal_number is None or error.exit_status not in _OUTRANKED:
            raise
        raise InterruptedBySignalError(cancel.signal_number) from error
    finally:
        for number in handled:
            signal.signal(number, before[number])
        notes.put(None)
        teller.join()
