"""The connections of one run."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from virtomate.cancel import CancelToken
from virtomate.errors import SilentHostError
from virtomate.hypervisor.connection import connect
from virtomate.hypervisor.opening import end_programs

__all__ = ["Session", "SpareConnections", "end_programs", "open_session"]

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.opening import Ask


class SpareConnections:
    """The connections to one URI that nobody uses at the moment; opening one over a network takes a while.

    A host that does not answer any more is tried once, and not by every part of an undo.
    """

    def __init__(self, uri: str | None, ask: Ask | None, cancel: CancelToken) -> None:
        self._uri = uri
        self._cancel = cancel
        self._ask = None if ask is None else _ask_once(ask)
        self._idle: SimpleQueue[Connection] = SimpleQueue()
        self._was_lost = False
        self._silence: SilentHostError | None = None

    def take(self) -> Connection:
        """One that works, opened if need be.

        Raises:
            NoConnectionError: It cannot be opened.
            InterruptedBySignalError: A signal arrived meanwhile.
        """
        with suppress(Empty):
            while True:
                connection = self._idle.get_nowait()
                if connection.is_alive:
                    return connection
                self.discard(connection)
        if self._silence is not None:
            # one of its own for each clone that fails, since each has other leftovers
            raise SilentHostError(self._silence.message, self._silence.hint, self._silence.code)
        try:
            return connect(self._uri, self._ask, self._cancel, was_lost=self._was_lost)
        except SilentHostError as error:
            self._silence = error
            raise

    def discard(self, connection: Connection) -> None:
        """Close one that broke."""
        connection.close()
        self._was_lost = True

    def give_back(self, connection: Connection) -> None:
        """Keep one for whoever needs it next."""
        self._idle.put(connection)

    def close(self) -> None:
        """Close all that nobody uses, for good."""
        with suppress(Empty):
            while True:
                connection = self._idle.get_nowait()
                self._was_lost |= not connection.is_alive
                connection.close()
        if self._was_lost:
            end_programs()


class Session:
    """The main connection of a thread, and others that it borrows.

    The main connection is opened when it is first needed, and opened again after it broke, so that an undo can still do
    its work when a daemon was only restarted. Only one thread at a time may use it; work that goes on side by side has
    a sibling for each of its threads.
    """

    def __init__(self, spare: SpareConnections) -> None:
        self._spare = spare
        self._main: Connection | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.give_back()

    def give_back(self) -> None:
        """Let others have the main connection; whoever needs it again gets another one."""
        with self._lock:
            if self._main is not None:
                self._spare.give_back(self._main)
                self._main = None

    @property
    def connection(self) -> Connection:
        """The main connection.

        Raises:
            NoConnectionError: It cannot be opened.
        """
        with self._lock:
            if self._main is not None and not self._main.is_alive:
                self._spare.discard(self._main)
                self._main = None
            if self._main is None:
                self._main = self._spare.take()
            return self._main

    def connect(self) -> None:
        """Make sure that there is a main connection.

        Raises:
            NoConnectionError: It cannot be opened.
        """
        _ = self.connection

    def sibling(self) -> Session:
        """A session for another thread, to be entered; connections go back and forth between the two."""
        return Session(self._spare)

    @contextmanager
    def borrow(self) -> Iterator[Connection]:
        """One more connection, for the thread that asks.

        Raises:
            NoConnectionError: It cannot be opened.
        """
        connection = self._spare.take()
        try:
            yield connection
        finally:
            self._spare.give_back(connection)


@contextmanager
def open_session(uri: str | None, ask: Ask | None = None, cancel: CancelToken | None = None) -> Iterator[Session]:
    """The session of a run, whose connections are closed at its end; none is opened before it is needed.

    Args:
        uri: libvirt's URI, None lets libvirt decide.
        ask: Gets a prompt and whether the answer is secret, and returns the answer, or None where there is none.
        cancel: Ends the waiting for a host.
    """
    spare = SpareConnections(uri, ask, cancel or CancelToken())
    try:
        with Session(spare) as session:
            yield session
    finally:
        spare.close()


def _ask_once(ask: Ask) -> Ask:
    """Ask a person for each thing once, however many connections want to know it."""
    answers: dict[str, str | None] = {}
    lock = threading.Lock()

    def answer(prompt: str, is_secret: bool) -> str | None:
        with lock:
            if prompt not in answers:
                answers[prompt] = ask(prompt, is_secret)
            return answers[prompt]

    return answer
