"""Names: what a clone may be called, and what its volumes are called after it."""

from __future__ import annotations

import itertools
import re
import unicodedata
from typing import TYPE_CHECKING

from virtomate.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

# ext4, XFS and Btrfs take 255 bytes. Of what libvirt calls files after a domain, the log of a server for one of its
# file systems has the longest name; that of an emulated TPM's, NAME-swtpm.log, comes next.
_MAX_FILE_NAME_BYTES = 255
_LIBVIRT_SUFFIX = "-fs99-virtiofsd.log"

# https://www.w3.org/TR/xml/#charsets
_NO_XML = frozenset("\ufffe\uffff")

_IMAGE_SUFFIX = re.compile(r"\.(raw|img|qcow2)$", re.IGNORECASE)


def check_clone_name(name: str) -> None:
    """Refuse a name that cannot be a domain's; libvirt is never asked (9.0, told to define `..`, deletes other things).

    Raises:
        UsageError: The name is empty, `.` or `..`, has a slash or control character, or is too long.
    """
    expected = "a clone's name must be 1 to {} bytes without '/' and control characters, and not '.' or '..'"
    expected = expected.format(_MAX_FILE_NAME_BYTES - len(_LIBVIRT_SUFFIX))
    if not name.strip() or name in {".", ".."}:
        raise UsageError(f"'{name}' cannot be the name of a clone: {expected}")
    if "/" in name or any(map(_is_unwritable, name)):
        raise UsageError(f"'{name}' cannot be the name of a clone: {expected}")
    if len(name.encode()) + len(_LIBVIRT_SUFFIX) > _MAX_FILE_NAME_BYTES:
        raise UsageError(f"'{name}' is too long for the name of a clone: {expected}")


def check_volume_name(name: str) -> None:
    """Refuse a name that cannot be a file's in a pool; libvirt is never asked.

    Raises:
        UsageError: The name is empty, `.` or `..`, has a slash or control character, or is too long.
    """
    expected = (
        f"the name of a volume must be 1 to {_MAX_FILE_NAME_BYTES} bytes without '/' and control characters, and not "
        "'.' or '..'"
    )
    is_bad = not name.strip() or name in {".", ".."} or "/" in name
    if is_bad or any(map(_is_unwritable, name)):
        raise UsageError(f"'{name}' cannot be the name of a volume: {expected}")
    if len(name.encode()) > _MAX_FILE_NAME_BYTES:
        raise UsageError(f"'{name}' is too long for the name of a volume: {expected}")


def automatic_names(source: str) -> Iterator[str]:
    """Names for clones of a domain, without end: `base-clone`, `base-clone-2`, and so on."""
    yield f"{source}-clone"
    for number in itertools.count(2):
        yield f"{source}-clone-{number}"


def new_volume_name(volume: str, source: str, clone: str, *, is_overlay: bool) -> str:
    """The name of a clone's volume.

    Where the original volume is named after its domain, as a whole word, the clone's volume is named after the clone;
    otherwise the clone's name is put in front. An overlay is qcow2, whatever its original was.

    Args:
        volume: Name of the original volume.
        source: Name of the original domain.
        clone: Name of the clone.
        is_overlay: Whether the new volume is an overlay.
    """
    rest = volume.removeprefix(source)
    is_named_after_source = rest != volume and (not rest or rest[0] in ".-_")
    name = clone + rest if is_named_after_source else f"{clone}-{volume}"
    if is_overlay:
        stem = _IMAGE_SUFFIX.sub("", name)
        name = f"{stem}.qcow2" if stem != name else name
    return name


def distinct_volume_name(name: str, target: str, taken: set[str]) -> str:
    """The name, with the disk's target added where another volume of the same clone has it already.

    Raises:
        UsageError: The name is too long for a file.
    """
    candidate = name
    if candidate in taken:
        stem, dot, suffix = name.rpartition(".")
        stem, suffix = (f"{stem}-{target}", dot + suffix) if stem else (f"{name}-{target}", "")
        candidate = stem + suffix
        counter = 2
        while candidate in taken:
            candidate = f"{stem}-{counter}{suffix}"
            counter += 1
    if len(candidate.encode()) > _MAX_FILE_NAME_BYTES:
        raise UsageError(
            f"the clone's volume would be called '{candidate}', which has more than {_MAX_FILE_NAME_BYTES} bytes; "
            "a shorter name for the clone is needed"
        )
    return candidate


def _is_unwritable(character: str) -> bool:
    """Whether it is a control character, or no definition can hold it."""
    return unicodedata.category(character) in {"Cc", "Cs"} or character in _NO_XML
