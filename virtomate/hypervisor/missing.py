"""The error for a name that a connection does not know."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from virtomate.errors import NotFoundError, VirtomateError
from virtomate.words import virtomate

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtomate.hypervisor.connection import Connection


def missing(
    connection: Connection, what: str, name: str, list_names: Callable[[], list[str]], command: str
) -> NotFoundError:
    """Return an error that names the connection, with a similar name in its hint.

    Args:
        connection: Where the name was looked up.
        what: What was looked up, such as `domain`.
        name: The given name.
        list_names: Return all names.
        command: The command of virtomate that lists the names.
    """
    hint = f"{virtomate(command)} shows the {what}s of this connection."
    with suppress(VirtomateError):
        hint = _meant(connection, what, name, list_names(), command) or hint
    return NotFoundError(f"there is no {what} '{name}' on {connection.name}", hint=hint)


def _meant(connection: Connection, what: str, name: str, names: list[str], command: str) -> str | None:
    import difflib  # noqa: PLC0415 - few names are wrong

    by_folded = {known.casefold(): known for known in names}
    for similar in difflib.get_close_matches(name.casefold(), by_folded, n=1):
        return f"Did you mean '{by_folded[similar]}'? {virtomate(command)} shows all {what}s of this connection."
    system = connection.system_uri
    if names or system is None:
        return None
    return f"There are no {what}s at all on {connection.name}; {virtomate(command, uri=system)} shows the system's."
