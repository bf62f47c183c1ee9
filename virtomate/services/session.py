"""The connections of one run."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from virtomate.hypervisor.connection import connect

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from virtomate.hypervisor.connection import Connection


class Session:
    """Opens connections to one URI, and keeps the main one.

    The main connection is opened when it is first needed, and opened again after it broke, so that an undo can still do
    its work when a daemon was only restarted. Only one thread at a time may use it.
    """

    def __init__(self, uri: str | None, ask: Callable[[str, bool], str] | None = None) -> None:
        self._uri = uri
        self._ask = None if ask is None else _ask_once(ask)
        self._main: Connection | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._main is not None:
            self._main.close()

    @property
    def connection(self) -> Connection:
        """The main connection.

        Raises:
            NoConnectionError: It cannot be opened.
        """
        with self._lock:
            if self._main is not None and not self._main.is_alive:
                self._main.close()
                self._main = None
            if self._main is None:
                self._main = self.connect()
            return self._main

    def connect(self) -> Connection:
        """Open one more connection, for the thread that asks.

        Raises:
            NoConnectionError: It cannot be opened.
        """
        return connect(self._uri, self._ask)


def _ask_once(ask: Callable[[str, bool], str]) -> Callable[[str, bool], str]:
    """Ask a person for each thing once, however many connections want to know it."""
    answers: dict[str, str] = {}
    lock = threading.Lock()

    def answer(prompt: str, is_secret: bool) -> str:
        with lock:
            if prompt not in answers:
                answers[prompt] = ask(prompt, is_secret)
            return answers[prompt]

    return answer
