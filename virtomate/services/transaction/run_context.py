"""What a run works with."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.cancel import CancelToken
    from virtomate.hypervisor.session import Session
    from virtomate.progress import Progress


class Run(NamedTuple):
    """What a command works with that makes something; each of its threads has a run of its own (`beside`).

    Attributes:
        source: Session on the host of the original.
        target: Session on the host of what is made; today the same session.
    """

    source: Session
    target: Session
    progress: Progress
    cancel: CancelToken

    @contextmanager
    def beside(self) -> Iterator[Run]:
        """The run for another thread; connections go back and forth between the two."""
        with self.target.sibling() as target, self.source.sibling() as source:
            # a sibling that nobody uses opens no connection
            yield self._replace(source=target if self.source is self.target else source, target=target)
