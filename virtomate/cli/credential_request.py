"""The credentials of a request of `domain-clone`, made of the words of the command line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from virtomate.services.credentials import Credential, check_credential_name, is_secret, read_credential_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def read_credentials(
    words: Sequence[str], number: str, numbered: Callable[[str], tuple[str, ...]] | None
) -> tuple[Credential, ...]:
    """Return credentials for all clones.

    Args:
        words: NAME=VALUE or NAME=@FILE.
        number: Pattern of the place of a clone's number in a value.
        numbered: Makes the values of one value with such a place; None without numbers.

    Raises:
        click.UsageError: A word is not understood, or a name is given twice.
        UsageError: A name is not possible, or a file cannot be read.
    """
    credentials: dict[str, Credential] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not value:
            # what follows may be a secret
            raise click.UsageError(f"--credential '{name}' has no value; expected: NAME=VALUE or NAME=@FILE.")
        check_credential_name(name)
        if name in credentials:
            raise click.UsageError(f"--credential is given twice for '{name}'.")
        if value.startswith("@"):
            credentials[name] = Credential(name, (read_credential_file(name, value[1:]),), is_secret=True)
            continue
        values: tuple[str, ...] = (value,)
        if re.search(number, value):
            if numbered is None:
                raise click.UsageError(f"The value of --credential '{name}' has a place for a number without --count.")
            values = numbered(value)
        encoded = tuple(text.encode("utf-8", "surrogateescape") for text in values)
        credentials[name] = Credential(name, encoded, is_secret(name))
    return tuple(credentials.values())
