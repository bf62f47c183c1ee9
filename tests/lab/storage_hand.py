"""Keep a storage host running to try things on: `python3 -m tests.lab.storage_hand [DIRECTORY]`.

It prints the URI and how to log in, and ends with Ctrl-C. The directory is the lab's, `.lab` in the checkout if it is
not given.
"""

import signal
import sys
import time
from pathlib import Path

from tests.lab.storage_host import StorageHost
from tests.lab.workspace import Workspace


def main() -> int:
    """Start the host and wait for a signal."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = time.monotonic()
    base = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None
    with Workspace(base) as workspace, StorageHost(workspace) as host:
        print(f"Ready after {time.monotonic() - started:.1f} s", flush=True)
        print(f"virtomate here, libvirt there: virtomate -c '{host.uri}' domain-list")
        print(f"Both there: {host.ssh} root@127.0.0.1 {' '.join(host.argv('domain-list'))}")
        print(f"A shell: {host.ssh} -t root@127.0.0.1", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
