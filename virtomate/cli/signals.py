"""Signals: they set a cancel token and raise nothing."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from virtomate.cancel import CancelToken
    from virtomate.progress import Progress

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def cancelling(cancel: CancelToken, progress: Progress) -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP cancel the work; what the caller of this program ignores stays ignored (nohup)."""

    def handle(number: int, _frame: FrameType | None) -> None:
        is_repeated = cancel.signal_number is not None
        cancel.interrupt(number)
        what = "still cleaning up" if is_repeated else "interrupted; cleaning up"
        progress.note(f"{signal.Signals(number).name}: {what}")

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    handled = [number for number, handler in before.items() if handler != signal.SIG_IGN]
    for number in handled:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])
