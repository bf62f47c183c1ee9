"""What a command works with: its session, its progress, and the token that a signal sets."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from virtomate.output.log import start_log
from virtomate.output.progress import make_progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.cancel import CancelToken
    from virtomate.cli.options import Settings
    from virtomate.hypervisor.session import Session
    from virtomate.progress import Progress


@dataclass(frozen=True)
class Run:
    """One run of a command that may take a while."""

    session: Session
    progress: Progress
    cancel: CancelToken


@contextmanager
def open_run(settings: Settings) -> Iterator[Run]:
    """The session for a command's connection, with progress that gets what is to be said of signals as well."""
    progress = make_progress(settings.progress, quiet=settings.quiet)
    settings.signals.note = progress.note
    with open_session(settings) as session:
        yield Run(session, progress, settings.signals.cancel)


@contextmanager
def open_session(settings: Settings) -> Iterator[Session]:
    """The session for a command's connection; nothing is connected before it is needed."""
    from virtomate.hypervisor import session as service  # noqa: PLC0415 - help and completion need no libvirt

    if settings.log is not None:
        start_log(settings.log, is_json=settings.format.has_json_messages)

    def ask(prompt: str, is_secret: bool) -> str | None:
        with settings.terminal.asking():
            try:
                return str(click.prompt(prompt.rstrip(": "), hide_input=is_secret, err=True))
            except click.Abort:
                return None

    settings.signals.abandon = service.end_programs
    with service.open_session(settings.uri, ask, settings.signals.cancel) as session:
        yield session
