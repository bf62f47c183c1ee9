"""What the clones of one run share: how many volumes are filled at a time, and what needs doing once."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.cancel import CancelToken

_POLL_SECONDS = 0.2


class RunLimits:
    """What clones that are made side by side share: how many volumes are filled at a time, and what needs doing once.

    Attributes:
        is_accepted: Whether libvirt has judged one of the definitions: those of one original's clones differ in names,
            paths and addresses of the same kinds.
        judging: Held while libvirt judges one, since the others may not have to be judged then.
    """

    def __init__(self, transfers: int) -> None:
        self.is_accepted = False
        self.judging = threading.Lock()
        self._free = threading.Semaphore(transfers)

    @contextmanager
    def transfer(self, cancel: CancelToken) -> Iterator[None]:
        """Wait for a turn to fill a volume.

        Raises:
            InterruptedBySignalError: A signal arrived.
            StoppedError: Another volume failed.
        """
        while not self._free.acquire(timeout=_POLL_SECONDS):
            cancel.check()
        try:
            yield
        finally:
            self._free.release()
