"""The terminal that a person sits at, if any."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Terminal:
    """Remembers how the terminal was, since whoever asks for a password turns its echo off and may not come back.

    Attributes:
        is_asking: Whether a person is being asked something, in a line that is not ended.
    """

    def __init__(self) -> None:
        self.is_asking = False
        self._descriptor: int | None = None
        self._attributes: list[int | list[bytes | int]] | None = None

    def remember(self) -> None:
        """Note how the terminal is; without one, there is nothing to restore."""
        import termios  # noqa: PLC0415 - completion asks nobody

        with suppress(OSError, termios.error):
            self._descriptor = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
            self._attributes = termios.tcgetattr(self._descriptor)

    def restore(self) -> None:
        """Put it back, unless another job has it by now; what was typed of a password is for nobody else."""
        descriptor, attributes = self._descriptor, self._attributes
        if descriptor is None or attributes is None:
            return
        import termios  # noqa: PLC0415 - as above

        with suppress(OSError, termios.error):
            if os.tcgetpgrp(descriptor) == os.getpgrp() and termios.tcgetattr(descriptor) != attributes:
                termios.tcflush(descriptor, termios.TCIFLUSH)
                termios.tcsetattr(descriptor, termios.TCSANOW, attributes)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Ask a person something in the block."""
        self.is_asking = True
        try:
            yield
        finally:
            self.is_asking = False
