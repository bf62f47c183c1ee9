"""A second libvirt on the storage host: a host of its own to everybody, and another client of the NFS server.

It has a network, a host name and mounts of its own, so the kernel keeps what it knows of a directory of the server
apart from what it knows for the storage host itself, as on two machines. Files outside of NFS are those of the storage
host.
"""

import shlex
from contextlib import ExitStack
from typing import Any, Self

import libvirt

from tests.lab.storage_host import OPEN_EXPORT, StorageHost

PLACE = "/lab/second"
SERVER_ADDRESS = "10.9.0.1"
ADDRESS = "10.9.0.2"

START = f"""
set -e
# all that libvirt finds out about QEMU, which takes long here
virsh capabilities >/dev/null
mkdir -p {PLACE}/etc {PLACE}/lib {PLACE}/cache {PLACE}/run {PLACE}/log {PLACE}/sockets
cp -a /etc/libvirt/. {PLACE}/etc
cp -a /var/cache/libvirt/. {PLACE}/cache
cat >>{PLACE}/etc/libvirtd.conf <<END
unix_sock_dir = "{PLACE}/sockets"
host_uuid = "5704a6e0-0000-4000-8000-000000000002"
END
ip link add near type veth peer name far
ip address add {SERVER_ADDRESS}/24 dev near
ip link set near up
exportfs -o rw,async,no_root_squash,no_subtree_check,fsid=2 {ADDRESS}:{OPEN_EXPORT}
unshare --mount --net --uts --pid --fork --mount-proc --propagation private sh -c '
    hostname second
    for pair in etc:/etc/libvirt lib:/var/lib/libvirt cache:/var/cache/libvirt run:/run log:/var/log; do
        mount --bind {PLACE}/${{pair%%:*}} ${{pair#*:}}
    done
    until ip link show far >/dev/null 2>&1; do sleep 0.1; done
    ip link set lo up
    ip address add {ADDRESS}/24 dev far
    ip link set far up
    exec libvirtd
' </dev/null >{PLACE}/output 2>&1 &
until pgrep -P $! >{PLACE}/pid; do sleep 0.1; done
ip link set far netns $(cat {PLACE}/pid)
for _ in $(seq 300); do
    [ -S {PLACE}/sockets/libvirt-sock ] && exit
    sleep 0.2
done
cat {PLACE}/output
exit 1
"""
# the end of the first process ends everything there, mounts included
STOP = f"""
pid=$(cat {PLACE}/pid) && kill -KILL $pid
while [ -e /proc/$pid ]; do sleep 0.1; done
ip link delete near 2>/dev/null
exportfs -u {ADDRESS}:{OPEN_EXPORT}
rm -rf {PLACE}
"""


class SecondHost:
    """The second host, for a `with` block within that of the storage host."""

    def __init__(self, host: StorageHost) -> None:
        self._host = host
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._host.run, STOP)
            self._host.run(START)
            self._socket = stack.enter_context(self._host.forwarded(f"{PLACE}/sockets/libvirt-sock"))
            self.connection: Any = libvirt.open(self.uri)
            stack.callback(self.connection.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def uri(self) -> str:
        """The URI of its libvirt, as seen from here."""
        return f"qemu+unix:///system?socket={self._socket}"

    @property
    def uri_on_host(self) -> str:
        """The same URI, as seen from the storage host."""
        return f"qemu+unix:///system?socket={PLACE}/sockets/libvirt-sock"

    def run(self, command: str) -> str:
        """Run a shell command as root there, and return what it prints; its failure is an error."""
        return self._host.run(f"nsenter --all --target $(cat {PLACE}/pid) sh -c {shlex.quote(command)}")
