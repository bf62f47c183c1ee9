"""What clones and their volumes are called, unless somebody says otherwise."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

from virtomate.errors import UsageError
from virtomate.names import MAX_FILE_NAME_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

_IMAGE_SUFFIX = r"(?i)\.(raw|img|qcow2)$"


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
        stem = re.sub(_IMAGE_SUFFIX, "", name)
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
    if len(candidate.encode()) > MAX_FILE_NAME_BYTES:
        raise UsageError(
            f"the clone's volume would be called '{candidate}', which has more than {MAX_FILE_NAME_BYTES} bytes; "
            "a shorter name for the clone is needed"
        )
    return candidate
