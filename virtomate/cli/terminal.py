"""The terminal that a person sits at, if any."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Terminal:
    """Restores the terminal's settings: a program that asks for a password turns the echo off, and may be ended then.

    Attributes:
        is_asking: Whether a question stands in the last line.
    """

    def __init__(self) -> None:
        self.is_asking = False
        self._descriptor: int | None = None
        self._attributes: list[int | list[bytes | int]] | None = None

    def remember(self) -> None:
        """Read the settings of the terminal, if there is one."""
        import termios  # noqa: PLC0415 - completion asks nobody

        with suppress(OSError, termios.error):
            self._descriptor = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
            self._attributes = termios.tcgetattr(self._descriptor)

    def restore(self) -> None:
        """Restore the settings and discard what was typed of a password, unless another job has the terminal now."""
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
