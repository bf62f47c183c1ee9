"""The terminal of the person who runs the command, if there is one."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

Answer = TypeVar("Answer")


class Terminal:
    """Restores the terminal's settings, since a program that asks for a password may be ended while the echo is off.

    Attributes:
        is_asking: Whether a question stands in the last line.
    """

    def __init__(self) -> None:
        self.is_asking = False
        self._before: tuple[int, list[int | list[bytes | int]]] | None = None

    def remember(self) -> None:
        """Read the settings of the terminal, if there is one."""
        import termios  # noqa: PLC0415 - completion asks nobody

        with suppress(OSError, termios.error):
            descriptor = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
            self._before = descriptor, termios.tcgetattr(descriptor)

    def restore(self) -> None:
        """Restore the settings and discard a half-typed password, unless another job has the terminal now."""
        if self._before is None:
            return
        import termios  # noqa: PLC0415 - as above

        descriptor, attributes = self._before
        with suppress(OSError, termios.error):
            if os.tcgetpgrp(descriptor) == os.getpgrp() and termios.tcgetattr(descriptor) != attributes:
                termios.tcflush(descriptor, termios.TCIFLUSH)
                termios.tcsetattr(descriptor, termios.TCSANOW, attributes)

    def ask(self, question: Callable[[], Answer]) -> Answer | None:
        """Return the answer to a question of Click, or None after Ctrl-D."""
        self.is_asking = True
        try:
            return question()
        except click.Abort:
            return None
        finally:
            self.is_asking = False
