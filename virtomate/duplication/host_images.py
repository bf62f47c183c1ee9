"""Images that can be seen from here, read without opening anything else.

A definition can name any path: a kernel at `/proc/kmsg`, a disk at a pipe or a terminal. Only regular files and block
devices are opened, and none in a file system that the kernel makes up.
"""

from __future__ import annotations

import os
import stat

from virtomate.duplication.image_headers import HEADER_BYTES, LONG_HEADER_BYTES, ImageLinks, read_links

# should a pipe or a terminal take the place of the file meanwhile
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

# File systems without files of anybody's: https://docs.kernel.org/filesystems/
_MADE_UP = frozenset(
    {
        *("autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "efivarfs", "fusectl"),
        *("mqueue", "nsfs", "proc", "pstore", "rpc_pipefs", "securityfs", "selinuxfs", "sysfs", "tracefs"),
    }
)


def made_up_devices() -> frozenset[int]:
    """The device numbers of mounted file systems that the kernel makes up (proc_pid_mountinfo(5))."""
    devices = set()
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        fields = line.split(b" ")
        kind = fields[fields.index(b"-") + 1].decode(errors="replace")
        if kind in _MADE_UP:
            major, _, minor = fields[2].partition(b":")
            devices.add(os.makedev(int(major), int(minor)))
    return frozenset(devices)


def may_be_image(status: os.stat_result, made_up: frozenset[int] = frozenset()) -> bool:
    """Return whether a file with this status, outside of made-up file systems, can be an image."""
    return (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)) and status.st_dev not in made_up


def read_links_here(path: str, made_up: frozenset[int]) -> ImageLinks | None:
    """What an image says of other files; None where there is no image.

    Raises:
        OSError: It cannot be read.
        ValueError: The path cannot be one.
    """
    if not may_be_image(os.stat(path), made_up):
        return None
    descriptor = os.open(path, _FLAGS)
    try:
        if not may_be_image(os.fstat(descriptor), made_up):
            return None
        links = read_links(_read(descriptor, HEADER_BYTES))
        return read_links(_read(descriptor, LONG_HEADER_BYTES)) if links.needs_more else links
    finally:
        os.close(descriptor)


def _read(descriptor: int, length: int) -> bytes:
    head = b""
    while len(head) < length and (piece := os.pread(descriptor, length - len(head), len(head))):
        head += piece
    return head
