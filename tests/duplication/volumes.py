"""Volume descriptions for tests."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from virtomate.definition.volume import VolumeDescription

if TYPE_CHECKING:
    from pathlib import Path

RAW = VolumeDescription(
    pool="p",
    name="a.raw",
    path="/p/a.raw",
    capacity=10_000_000,
    allocation=4_000_000,
    physical=10_000_000,
    format="raw",
    compat=None,
    cluster_size=None,
    features=(),
    backing_path=None,
    backing_format=None,
    is_encrypted=False,
    mode="0600",
    owner="64055",
    group="106",
    changed="1767225600.500000000",
    modified="1767225600.500000000",
)
QCOW2 = RAW._replace(
    name="a.qcow2",
    path="/p/a.qcow2",
    physical=4_500_000,
    format="qcow2",
    compat="1.1",
    cluster_size=65536,
    features=("lazy_refcounts",),
)


def described(path: Path, **changes: Any) -> VolumeDescription:
    """A file as libvirt would describe it."""
    status = os.lstat(path)
    return RAW._replace(
        name=path.name,
        path=str(path),
        physical=status.st_size,
        capacity=status.st_size,
        allocation=status.st_blocks * 512,
        changed=libvirt_time(status.st_ctime_ns),
        modified=libvirt_time(status.st_mtime_ns),
        **changes,
    )


def libvirt_time(nanoseconds: int) -> str:
    """A time as libvirt writes it: without a fraction where that is zero."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    return f"{seconds}.{fraction:09d}" if fraction else str(seconds)
