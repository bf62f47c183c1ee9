"""virtomate, with its calls of libvirt counted: `count_calls.py REPORT ARGUMENT...`.

At its end REPORT holds, as JSON, how often each function of libvirt's C library was called that asks the daemon, and
the process's peak memory in bytes.
"""

import functools
import json
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt  # noqa: F401 - what it calls while it is being imported is none of the program's
import libvirtmod

# What the client library answers by itself; how often the event loop turns is a matter of time.
LOCAL = re.compile(
    r"virEvent\w+|virGetLastError|virRegisterErrorHandler|virStreamNew|virConnect(GetURI|IsAlive|SetKeepAlive)"
    r"|vir\w+(Free|GetName|GetUUIDString)"
)

CALLS: Counter[str] = Counter()
_LOCK = threading.Lock()


def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, counting how often it is called."""

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        with _LOCK:
            CALLS[name] += 1
        return function(*arguments)

    return call


def peak_memory_bytes() -> int:
    """The largest resident set of this program; unlike getrusage(2), nothing of who started it counts (proc(5))."""
    found = re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def main() -> None:
    """Run the program, and write the report."""
    report = Path(sys.argv.pop(1))
    for name in dir(libvirtmod):
        if name.startswith("vir") and LOCAL.fullmatch(name) is None:
            setattr(libvirtmod, name, counted(name, getattr(libvirtmod, name)))
    from virtomate.cli import run  # noqa: PLC0415 - it must find the functions as they are now

    status = run(sys.argv[1:])
    report.write_text(json.dumps({"calls": CALLS, "peak_memory_bytes": peak_memory_bytes()}), encoding="ascii")
    sys.exit(status)


if __name__ == "__main__":
    main()
