"""Loop devices of this host: access through a loop device takes none of QEMU's locks on the file."""

from __future__ import annotations

import os
from pathlib import Path

_BLOCK_DEVICES = Path("/sys/block")


def loop_device_over(path: str) -> str | None:
    """Return the name of a loop device whose content is in a file, None where there is none.

    Source: Documentation/ABI/testing/sysfs-block of Linux (loop/backing_file).
    """
    try:
        wanted = os.stat(path)  # noqa: PTH116 - no path object is needed
        devices = sorted(_BLOCK_DEVICES.glob("loop*/loop/backing_file"))
    except (OSError, ValueError):
        return None
    for backing_file in devices:
        try:
            found = backing_file.read_text(encoding="utf-8", errors="surrogateescape").rstrip("\n")
            if os.path.samestat(os.stat(found), wanted):  # noqa: PTH116 - likewise
                return f"/dev/{backing_file.parents[1].name}"
        except (OSError, ValueError):
            # taken down meanwhile, or of a file that was deleted
            continue
    return None
