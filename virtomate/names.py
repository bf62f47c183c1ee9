"""Names that domains and volumes may have, and characters that no XML document can hold."""

from __future__ import annotations

import re

from virtomate.errors import UsageError

# ext4, XFS and Btrfs take 255 bytes. Of the files that libvirt names after a domain, the log of a virtiofs server has
# the longest name; the log of an emulated TPM, NAME-swtpm.log, comes next.
MAX_FILE_NAME_BYTES = 255
_LIBVIRT_SUFFIX = "-fs99-virtiofsd.log"

# https://www.w3.org/TR/xml/#charsets
NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
# Control characters, which no terminal should get; XML allows some of them.
_CONTROL = "[\x00-\x1f\x7f-\x9f]"


def has_unwritable(text: str, allowed: str = "") -> bool:
    """Return whether a text has a character that no definition can hold, or a control character that is not allowed."""
    return NOT_XML.search(text) is not None or any(sign not in allowed for sign in re.findall(_CONTROL, text))


def writable(text: str) -> str:
    """Return a text with a replacement character for each character that `has_unwritable` finds."""
    return "".join("\N{REPLACEMENT CHARACTER}" if has_unwritable(sign) else sign for sign in text)


def check_clone_name(name: str) -> None:
    """Raise a UsageError if a name cannot be a domain's; libvirt 9.0, told to define `..`, deletes other files."""
    _check(name, "a clone", "a clone's name", MAX_FILE_NAME_BYTES - len(_LIBVIRT_SUFFIX))


def check_volume_name(name: str) -> None:
    """Raise a UsageError if a name cannot be a file's in a pool."""
    _check(name, "a volume", "the name of a volume", MAX_FILE_NAME_BYTES)


def _check(name: str, what: str, subject: str, max_bytes: int) -> None:
    expected = f"{subject} must be 1 to {max_bytes} bytes without '/' and control characters, and not '.' or '..'"
    if not name.strip() or name in {".", ".."} or "/" in name or has_unwritable(name):
        raise UsageError(f"'{name}' cannot be the name of {what}: {expected}")
    if len(name.encode()) > max_bytes:
        raise UsageError(f"'{name}' is too long for the name of {what}: {expected}")
