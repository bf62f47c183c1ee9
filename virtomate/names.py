"""What domains and volumes may be called, and which characters no XML document can hold."""

from __future__ import annotations

import re

from virtomate.errors import UsageError

# ext4, XFS and Btrfs take 255 bytes. Of what libvirt calls files after a domain, the log of a server for one of its
# file systems has the longest name; that of an emulated TPM's, NAME-swtpm.log, comes next.
MAX_FILE_NAME_BYTES = 255
_LIBVIRT_SUFFIX = "-fs99-virtiofsd.log"

# https://www.w3.org/TR/xml/#charsets
NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
# XML also allows the control characters that no terminal should get.
_CONTROL = "[\x00-\x1f\x7f-\x9f]"


def has_unwritable(text: str, allowed: str = "") -> bool:
    """Return whether a text has a control character or a character that no definition can hold.

    Args:
        text: The text.
        allowed: Control characters that may be in it.
    """
    return NOT_XML.search(text) is not None or any(sign not in allowed for sign in re.findall(_CONTROL, text))


def writable(text: str) -> str:
    """Return a text with a replacement character for each character that `has_unwritable` finds."""
    return "".join("\N{REPLACEMENT CHARACTER}" if has_unwritable(sign) else sign for sign in text)


def check_clone_name(name: str) -> None:
    """Refuse a name that cannot be a domain's; libvirt is never asked (9.0, told to define `..`, deletes other things).

    Raises:
        UsageError: The name is empty, `.` or `..`, has a slash or control character, or is too long.
    """
    _check(name, "a clone", "a clone's name", MAX_FILE_NAME_BYTES - len(_LIBVIRT_SUFFIX))


def check_volume_name(name: str) -> None:
    """Refuse a name that cannot be a file's in a pool; libvirt is never asked.

    Raises:
        UsageError: The name is empty, `.` or `..`, has a slash or control character, or is too long.
    """
    _check(name, "a volume", "the name of a volume", MAX_FILE_NAME_BYTES)


def _check(name: str, what: str, subject: str, max_bytes: int) -> None:
    expected = f"{subject} must be 1 to {max_bytes} bytes without '/' and control characters, and not '.' or '..'"
    if not name.strip() or name in {".", ".."} or "/" in name or has_unwritable(name):
        raise UsageError(f"'{name}' cannot be the name of {what}: {expected}")
    if len(name.encode()) > max_bytes:
        raise UsageError(f"'{name}' is too long for the name of {what}: {expected}")
