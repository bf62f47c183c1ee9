"""How work gets to the threads of a run."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

Words = ParamSpec("Words")
Result = TypeVar("Result")


def submit(
    executor: Executor, work: Callable[Words, Result], *words: Words.args, **named: Words.kwargs
) -> Future[Result]:
    """Have an executor do some work; where the system has no thread left for it, the calling thread does it."""
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
        # The executor keeps what it could start no thread for, and may still do it with those that it has.
        if future.cancel():
            future = Future[Result]()
            do(future)
    return future
