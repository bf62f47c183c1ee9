"""The session that a command works in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from virtomate.output.log import start_log

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from virtomate.cli.options import Settings
    from virtomate.services.session import Session


def open_session(settings: Settings) -> AbstractContextManager[Session]:
    """The session for a command's connection; nothing is connected before it is needed."""
    from virtomate.services import session  # noqa: PLC0415 - help and completion need no libvirt

    if settings.log is not None:
        start_log(settings.log, is_json=settings.format.has_json_messages)
    return session.open_session(settings.uri, _ask)


def _ask(prompt: str, is_secret: bool) -> str:
    return str(click.prompt(prompt.rstrip(": "), hide_input=is_secret, err=True))
