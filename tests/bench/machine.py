"""The machine that a run was made on, without anything that tells whose it is."""

import os
import platform
from pathlib import Path
from typing import Any


def describe_machine(connection: Any) -> dict[str, str | int]:
    """Describe what the figures depend on: processor, memory, kernel, libvirt (`libvirt.virConnect`), QEMU, Python."""
    return {
        "cores": os.cpu_count() or 0,
        "processor": _processor(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "kernel": f"{platform.system()} {platform.release()}",
        "libvirt": _version(connection.getLibVersion()),
        "qemu": _version(connection.getVersion()),
        "python": platform.python_version(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
