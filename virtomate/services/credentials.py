"""Credentials that systemd in a guest takes from its machine.

https://systemd.io/CREDENTIALS/, systemd.system-credentials(7)
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from virtomate.errors import UsageError
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection

# systemd's own limit is that of a file name
_NAME = r"[A-Za-z0-9_@+-][A-Za-z0-9_@+.-]{0,199}"
_MAX_BYTES = 1 << 20
# Whoever may see the arguments of processes on the host may know these; all others are secrets.
_HARMLESS = frozenset(
    {
        *("system.hostname", "firstboot.keymap", "firstboot.locale", "firstboot.locale-messages"),
        *("firstboot.timezone", "login.issue", "login.motd", "network.dns", "network.hosts"),
        *("network.search_domains", "sysctl.extra"),
    }
)
_HARMLESS_KINDS = ("getty.ttys.", "network.conf.", "network.link.", "network.network.", "vconsole.")


class Credential(NamedTuple):
    """A credential of the clones.

    Attributes:
        values: A value for each clone, or one value for all.
        is_secret: Whether others on the host must not see the values.
    """

    name: str
    values: tuple[bytes, ...]
    is_secret: bool

    def __repr__(self) -> str:
        """Return a text for logs and tracebacks, without the values."""
        return f"Credential({self.name!r}, is_secret={self.is_secret})"

    def only(self, numbers: Collection[int]) -> Credential:
        """Return the credential for some of the clones, by their numbers."""
        return self._replace(values=tuple(self.value(number) for number in numbers) or self.values)

    def value(self, number: int) -> bytes:
        """Return the value for a clone by its number, from 0 on."""
        return self.values[number % len(self.values)]


def is_secret(name: str) -> bool:
    """Return whether the credential of this name may be a secret, as every one that is not known to be harmless."""
    return name not in _HARMLESS and not name.startswith(_HARMLESS_KINDS)


def check_credential_name(name: str) -> None:
    """Raise UsageError if no credential can have a name."""
    if re.fullmatch(_NAME, name) is None:
        raise UsageError(
            f"'{name}' cannot be the name of a credential: expected are at most 200 letters, digits and '.', '_', '-', "
            "'+', '@', with no '.' first"
        )


def read_credential_file(name: str, path: str) -> bytes:
    """Return the content of a file, which may also be a pipe; raise UsageError if the file cannot be read."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise UsageError(f"'{path}' for credential '{name}' cannot be read: {reason}") from error
    if len(data) > _MAX_BYTES:
        raise UsageError(f"'{path}' is too long for credential '{name}': expected are at most {_MAX_BYTES >> 20} MiB")
    if not data:
        raise UsageError(f"'{path}' for credential '{name}' is empty: expected is a value")
    return data
