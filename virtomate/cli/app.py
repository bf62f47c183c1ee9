"""The session, the progress and the cancel token of a command."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.cli.abandoned import Abandoned
    from virtomate.cli.options import Settings
    from virtomate.hypervisor.opening import Ask
    from virtomate.hypervisor.session import Session
    from virtomate.progress import Progress
    from virtomate.services.transaction import Run


class App:
    """One run of a command."""

    def __init__(self, settings: Settings, session: Session, ask: Ask | None = None) -> None:
        self.session = session
        self._ask = ask
        self.cancel = settings.signals.cancel
        self._settings = settings

    @cached_property
    def progress(self) -> Progress:
        """The progress of the command's work."""
        from virtomate.output.progress import make_progress  # noqa: PLC0415 - lists show none

        return make_progress(self._settings.progress, quiet=self._settings.quiet)

    @contextmanager
    def working(self, abandoned: Abandoned | None = None) -> Iterator[Progress]:
        """Show progress during the block, and what a signal does to the work, or leaves if the program ends at once."""
        signals = self._settings.signals
        signals.abandoned = abandoned
        signals.note, signals.close = self.progress.note, self.progress.close
        try:
            yield self.progress
        finally:
            signals.note = None
            self.progress.close()

    @contextmanager
    def making(self, abandoned: Abandoned, target: Session | None = None) -> Iterator[Run]:
        """Likewise, for services that make something, on the host of the original unless there is a target."""
        from virtomate.services.transaction import Run  # noqa: PLC0415 - few commands make something

        with self.working(abandoned) as progress:
            reach = self._settings.format.reach
            yield Run(self.session, target or self.session, progress, self.cancel, reach=reach)

    @contextmanager
    def other_session(self, uri: str | None) -> Iterator[Session]:
        """Open a session on another host, which connects at its first use; without a URI, the command's own session."""
        if uri is None:
            yield self.session
            return
        from virtomate.hypervisor import session as service  # noqa: PLC0415 - few commands work on two hosts

        with service.open_session(uri, self._ask, self.cancel) as session:
            yield session


@contextmanager
def open_app(settings: Settings) -> Iterator[App]:
    """Open the session of a command, which connects at its first use."""
    from virtomate.hypervisor import session as service  # noqa: PLC0415 - help and completion need no libvirt

    if settings.log is not None:
        from virtomate.output.log import start_log  # noqa: PLC0415 - few commands are logged

        start_log(settings.log, is_json=settings.format.has_json_messages)

    def ask(prompt: str, is_secret: bool) -> str | None:
        text = prompt.rstrip(": ")
        return settings.terminal.ask(lambda: click.prompt(text, hide_input=is_secret, err=True, type=str))

    settings.signals.abandon, settings.signals.calls = service.end_programs, service.calls_in_progress
    with service.open_session(settings.uri, ask, settings.signals.cancel) as session:
        yield App(settings, session, ask)
