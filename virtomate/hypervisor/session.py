"""The connections of one run."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from virtomate.cancel import CancelToken, backoff
from virtomate.errors import NoConnectionError, SilentHostError
from virtomate.hypervisor.calls import calls_in_progress
from virtomate.hypervisor.connection import connect
from virtomate.hypervisor.opening import end_programs

__all__ = ["Session", "SpareConnections", "calls_in_progress", "end_programs", "open_session"]

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.opening import Ask

# How long an undo waits for a daemon that restarts.
_RESTART_SECONDS = 4.0


class SpareConnections:
    """Idle connections to one URI, kept since opening one over a network takes a while.

    Once a host has timed out, or a daemon that was lost has not come back, later calls do not wait again.
    """

    def __init__(self, uri: str | None, ask: Ask | None, cancel: CancelToken) -> None:
        self._uri = uri
        self._cancel = cancel
        self._ask = None if ask is None else _ask_once(ask)
        self._idle: SimpleQueue[Connection] = SimpleQueue()
        self._was_lost = False
        self._is_gone = False
        self._silence: SilentHostError | None = None

    def take(self) -> Connection:
        """Return a connection that works, opened if need be.

        Raises:
            NoConnectionError: No connection can be opened.
            InterruptedBySignalError: A signal arrived meanwhile.
        """
        with suppress(Empty):
            while True:
                connection = self._idle.get_nowait()
                if connection.is_alive:
                    return connection
                self.discard(connection)
        if self._silence is not None:
            # a new error for each clone, since each has its own leftovers
            raise SilentHostError(self._silence.message, self._silence.hint, self._silence.code)
        refusal = None
        # a daemon that restarts refuses connections for a moment
        for _ in backoff(_RESTART_SECONDS if self._was_lost and not self._is_gone else 0):
            try:
                return connect(self._uri, self._ask, self._cancel, was_lost=self._was_lost)
            except SilentHostError as error:
                self._silence = error
                raise
            except NoConnectionError as error:
                refusal = error
        self._is_gone = self._was_lost
        raise refusal or ValueError("no turn was given")

    def discard(self, connection: Connection) -> None:
        """Close a connection that broke."""
        connection.close()
        self._was_lost = True

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for the next caller of `take`."""
        self._idle.put(connection)

    def close(self) -> None:
        """Close all idle connections, for good."""
        with suppress(Empty):
            while True:
                connection = self._idle.get_nowait()
                self._was_lost |= not connection.is_alive
                connection.close()
        if self._was_lost:
            end_programs()


class Session:
    """The main connection of a thread, and others that the thread borrows.

    The main connection is opened when it is first needed, and again after it broke, so that an undo still works when
    the daemon was only restarted. Only one thread at a time may use a session; each thread beside it has a sibling.
    """

    def __init__(self, spare: SpareConnections) -> None:
        self._spare = spare
        self._main: Connection | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.give_back()

    def give_back(self) -> None:
        """Let others have the main connection; the next use of `connection` takes another."""
        with self._lock:
            if self._main is not None:
                self._spare.give_back(self._main)
                self._main = None

    @property
    def connection(self) -> Connection:
        """The main connection; NoConnectionError where no connection can be opened."""
        with self._lock:
            if self._main is not None and not self._main.is_alive:
                self._spare.discard(self._main)
                self._main = None
            if self._main is None:
                self._main = self._spare.take()
            return self._main

    def connect(self) -> None:
        """Make sure that there is a main connection, or raise NoConnectionError."""
        _ = self.connection

    def sibling(self) -> Session:
        """Return a session for another thread, to be entered; both share the idle connections."""
        return Session(self._spare)

    @contextmanager
    def borrow(self) -> Iterator[Connection]:
        """Lend one more connection to the calling thread, or raise NoConnectionError."""
        connection = self._spare.take()
        try:
            yield connection
        finally:
            self._spare.give_back(connection)


@contextmanager
def open_session(uri: str | None, ask: Ask | None = None, cancel: CancelToken | None = None) -> Iterator[Session]:
    """Yield the session of a run; its connections are opened by `connect` when needed, and closed at the end."""
    spare = SpareConnections(uri, ask, cancel or CancelToken())
    try:
        with Session(spare) as session:
            yield session
    finally:
        spare.close()


def _ask_once(ask: Ask) -> Ask:
    """Ask a person for each thing once, however many connections need the answer."""
    answers: dict[str, str | None] = {}
    lock = threading.Lock()

    def answer(prompt: str, is_secret: bool) -> str | None:
        with lock:
            if prompt not in answers:
                answers[prompt] = ask(prompt, is_secret)
            return answers[prompt]

    return answer
