"""What a run works with, and how work gets to its threads."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from virtomate.duplication.pace import UNLIMITED
from virtomate.errors import rewording
from virtomate.tuples import NamedTuple
from virtomate.words import Reach

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor

    from virtomate.cancel import CancelToken
    from virtomate.duplication.pace import Pace
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.session import Session
    from virtomate.progress import Progress

Words = ParamSpec("Words")
Result = TypeVar("Result")


class Run(NamedTuple):
    """What a command works with that makes something; each of its threads has a run of its own (`beside`).

    Attributes:
        source: Session on the host of the original.
        target: Session on the host of what is made; the same session where that is the same host.
        pace: The limit on what transfers write; all threads share it.
        reach: How commands reach the host of the original.
    """

    source: Session
    target: Session
    progress: Progress
    cancel: CancelToken
    pace: Pace = UNLIMITED
    reach: Reach = Reach()

    def at_original(self, text: str) -> str:
        """Return a text with commands that reach the host of the original, also in a result about another host."""
        return self.reach.fill(text) if self.has_two_hosts else text

    @contextmanager
    def about_original(self) -> Iterator[None]:
        """Let the commands in an error of the block reach the host of the original, see `at_original`."""
        with rewording(self.at_original):
            yield

    @property
    def has_two_hosts(self) -> bool:
        """Whether things are made on another host than that of the original."""
        return self.target is not self.source

    @property
    def at_source(self) -> Run:
        """The run for what is made on the host of the original."""
        return self._replace(target=self.source)

    @contextmanager
    def borrow_other(self) -> Iterator[Connection | None]:
        """Lend one more connection to the host of the original, None where that is the same host."""
        if self.has_two_hosts:
            with self.source.borrow() as connection:
                yield connection
        else:
            yield None

    @contextmanager
    def beside(self) -> Iterator[Run]:
        """The run for another thread; connections go back and forth between the two."""
        with self.target.sibling() as target, self.source.sibling() as source:
            # a sibling that nobody uses opens no connection
            yield self._replace(source=target if self.source is self.target else source, target=target)


def submit(
    executor: Executor, work: Callable[Words, Result], *words: Words.args, **named: Words.kwargs
) -> Future[Result]:
    """Have an executor do some work; the calling thread does the work if the system has no thread left."""
    future = Future[Result]()

    def do(future: Future[Result]) -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(work(*words, **named))
            except BaseException as error:  # noqa: BLE001 - it is raised again where the result is asked for
                future.set_exception(error)

    try:
        executor.submit(do, future)
    except RuntimeError:
        # the executor has queued the work, and another of its threads may still take it
        if future.cancel():
            future = Future[Result]()
            do(future)
    return future
