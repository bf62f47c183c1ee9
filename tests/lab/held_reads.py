"""A file whose readers are kept waiting, so that a copy that somebody else makes can be caught in the middle.

Source: fanotify(7). The kernel asks before each read, and goes on only when it is answered.
"""

import ctypes
import os
import select
import struct
import threading
from pathlib import Path

FAN_CLOEXEC = 0x01
FAN_CLASS_CONTENT = 0x04
FAN_MARK_ADD = 0x01
FAN_ACCESS_PERM = 0x00020000
FAN_ALLOW = 0x01
AT_FDCWD = -100

# Length, version, reserved, length of the head, mask, descriptor, process.
EVENT = struct.Struct("IBBHQii")
ANSWER = struct.Struct("iI")

LOOK_EVERY_SECONDS = 0.05
# A test that fails may forget to release.
LONGEST_SECONDS = 240.0


class HeldReads:
    """Lets so many reads of a file pass, whoever reads, and holds the next ones until `release`. Needs root."""

    def __init__(self, path: Path, passing: int) -> None:
        self._path = path
        self._left = passing
        self._is_released = threading.Event()

    def hold(self) -> None:
        """Begin; who has opened the file before is not held."""
        libc = ctypes.CDLL(None, use_errno=True)
        self._group = libc.fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC, os.O_RDONLY)
        if self._group < 0:
            raise OSError(ctypes.get_errno(), "fanotify_init")
        mask = ctypes.c_uint64(FAN_ACCESS_PERM)
        if libc.fanotify_mark(self._group, FAN_MARK_ADD, mask, AT_FDCWD, os.fsencode(self._path)) < 0:
            os.close(self._group)
            raise OSError(ctypes.get_errno(), "fanotify_mark", self._path)
        threading.Thread(target=self._answer, name="held-reads", daemon=True).start()

    def release(self) -> None:
        """Let everybody read."""
        self._is_released.set()

    def _answer(self) -> None:
        # Whoever still waits when the group is closed goes on.
        with os.fdopen(self._group, "r+b", buffering=0) as group:
            while not self._is_released.is_set():
                if not select.select([group], [], [], LOOK_EVERY_SECONDS)[0]:
                    continue
                for descriptor in _descriptors(group.read(4096)):
                    if self._left == 0:
                        self._is_released.wait(LONGEST_SECONDS)
                    else:
                        self._left -= 1
                    group.write(ANSWER.pack(descriptor, FAN_ALLOW))
                    os.close(descriptor)


def _descriptors(events: bytes) -> list[int]:
    """Return the descriptor of the file that each event is about."""
    return [event[5] for event in EVENT.iter_unpack(events)]
