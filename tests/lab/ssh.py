"""An SSH server on the loopback interface, with keys and a configuration of its own on both ends."""

import getpass
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from tests.lab.hypervisor import Hypervisor
from tests.lab.programs import require_program, run, unpack_packages
from tests.lab.workspace import Cache

# Unpacked; the libraries that it needs are installed.
SERVER_PACKAGES = ["openssh-server"]
SERVER_USER = "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n"

START_TIMEOUT_SECONDS = 60.0

# As a netcat for libvirt: `nc -U SOCKET`. It can have the link to its client go dead: then the server's process for it
# stands still, and so it does for every other link of the same URI. What opens a connection does not count
# (REMOTE_PROC_CONNECT_OPEN, _SUPPORTS_FEATURE and _AUTH_LIST in libvirt's remote_protocol.x), and neither does what
# keeps the link alive, since how much there is of that is a matter of time. And it can break the link at certain calls,
# counted over all links of the URI: before libvirt gets the call, or with libvirt's answer.
NETCAT = """#!{python} -I
import atexit, fcntl, os, pathlib, select, signal, socket, sys
OPENING = {{1, 60, 66}}
LAST_CALL = {last_call}
CUTS = {cuts}
KEEPALIVE = int.from_bytes(b"keep")

pid, name = os.getpid(), ""
while "(sshd" not in name:
    name, _, rest = pathlib.Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")
    server, pid = pid, int(rest.split()[1])
mark = pathlib.Path("{directory}", f"link-{{server}}")
mark.touch()
atexit.register(mark.unlink)

dead = pathlib.Path(sys.argv[0] + ".dead")

def die():
    os.kill(server, signal.SIGSTOP)
    dead.touch()

def number_of(procedure):
    # The number of a call, over all links.
    with open(sys.argv[0] + ".calls", "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        print(procedure, file=file, flush=True)
        file.seek(0)
        return len(file.readlines())

def received(buffer):
    # The program and the procedure of each message that has come whole.
    while len(buffer) >= 4 and len(buffer) >= (length := int.from_bytes(buffer[:4])):
        yield int.from_bytes(buffer[4:8]), int.from_bytes(buffer[12:16])
        del buffer[:length]

if "-U" not in sys.argv:
    sys.exit("only -U SOCKET is known")
link = socket.socket(socket.AF_UNIX)
link.connect(sys.argv[-1])
calls = 0
buffer = bytearray()
while True:
    for ready in select.select([0, link], [], [])[0]:
        data = os.read(0, 65536) if ready == 0 else link.recv(65536)
        if not data:
            sys.exit()
        if ready == 0 and dead.exists():
            die()
        elif ready == 0:
            buffer += data
            for program, procedure in received(buffer):
                if program != KEEPALIVE:
                    calls += calls > 0 or procedure not in OPENING
                    if calls == LAST_CALL:
                        die()
                    if calls and (number := number_of(procedure)) in CUTS:
                        answer = bytearray()
                        if CUTS[number]:
                            link.sendall(data)
                        while CUTS[number] and all(program == KEEPALIVE for program, _ in received(answer)):
                            answer += link.recv(65536)
                        os.kill(server, signal.SIGKILL)
                        sys.exit()
            link.sendall(data)
        else:
            while data:
                data = data[os.write(1, data):]
"""

SERVER_SETTINGS = """
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/user_key.pub
PidFile none
MaxStartups 100
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
"""

CLIENT_SETTINGS = """
IdentityFile {directory}/user_key
IdentitiesOnly yes
IdentityAgent none
UserKnownHostsFile {directory}/known_hosts
GlobalKnownHostsFile none
StrictHostKeyChecking yes
PasswordAuthentication no
"""


class SshServer:
    """An SSH server for `qemu+ssh://`, for a `with` block as root.

    Nothing of the machine's or the user's SSH is touched.

    Args:
        directory: where its files are made; it must not exist.
        cache: where Debian's package of the server is unpacked.
        hypervisor: whose socket is where libvirt's usually is, for who comes in.
    """

    def __init__(self, directory: Path, cache: Cache, hypervisor: Hypervisor | None = None) -> None:
        directory.mkdir()
        self._cache = cache
        self._hypervisor = hypervisor
        self.directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        # It stays bound, so that nobody else gets the port; the server can listen on it all the same (SO_REUSEADDR).
        self._reservation = socket.socket()
        self._reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reservation.bind(("127.0.0.1", 0))
        self.port = int(self._reservation.getsockname()[1])
        self._count = 0

    def __enter__(self) -> Self:
        keygen = require_program("ssh-keygen", "openssh-client")
        for name in ("host_key", "user_key"):
            run(keygen, "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", self.directory / name)
        host_key = (self.directory / "host_key.pub").read_text()
        self._write("known_hosts", f"[127.0.0.1]:{self.port} {host_key}")
        self._write("sshd_config", SERVER_SETTINGS.format(port=self.port, directory=self.directory))
        self._write("ssh_config", CLIENT_SETTINGS.format(directory=self.directory))
        client = require_program("ssh", "openssh-client")
        self._write("ssh", f'#!/bin/sh\nexec {client} -F {self.directory}/ssh_config "$@"\n', executable=True)
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._signal_links(signal.SIGKILL)
        self._reservation.close()

    def clients(self) -> list[str]:
        """Return the command lines of all ssh that talk to this server, or try to."""
        lines = []
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            # It is gone when the process has ended meanwhile.
            with suppress(OSError):
                lines.append(place.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        return [line for line in lines if f"-F {self.directory}/ssh_config" in line]

    def count_dead_links(self) -> int:
        """Return to how many URIs the link has gone dead."""
        return sum(1 for _ in self.directory.glob("nc-*.dead"))

    def freeze(self) -> None:
        """Let the whole server stand still."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)
        self._signal_links(signal.SIGSTOP)

    def cut(self) -> None:
        """Break every link that there is; new ones can be made."""
        self._signal_links(signal.SIGKILL)

    def _signal_links(self, number: signal.Signals) -> None:
        # Of a link that is closed the mark is gone.
        for mark in self.directory.glob("link-*"):
            with suppress(ProcessLookupError):
                os.kill(int(mark.name.partition("-")[2]), number)

    def uri(self, hypervisor: Hypervisor, last_call: int | None = None, cuts: Mapping[int, bool] | None = None) -> str:
        """Return the URI that leads to a hypervisor through this server.

        Args:
            hypervisor: where it leads to.
            last_call: the link goes dead with this call, counted from 1 in each connection; 0 is its opening.
            cuts: calls with which their link breaks, counted from 1 over all connections; and whether libvirt answers
                the call before that.
        """
        self._count += 1
        netcat = f"nc-{self._count}"
        self._write(
            netcat,
            NETCAT.format(python=sys.executable, last_call=last_call, cuts=dict(cuts or {}), directory=self.directory),
            executable=True,
        )
        kind = "system" if hypervisor.privileged else "session"
        words = {
            "socket": str(hypervisor.socket_path),
            "command": str(self.directory / "ssh"),
            "netcat": str(self.directory / netcat),
            "proxy": "netcat",
        }
        return f"qemu+ssh://{getpass.getuser()}@127.0.0.1:{self.port}/{kind}?{urlencode(words, safe='/')}"

    def calls(self, uri: str) -> list[int]:
        """Return which procedures of libvirt were called over all connections of a URI, in order."""
        netcat = dict(parse_qsl(urlsplit(uri).query))["netcat"]
        return [int(line) for line in Path(f"{netcat}.calls").read_text().splitlines()]

    def _write(self, name: str, text: str, *, executable: bool = False) -> None:
        path = self.directory / name
        path.write_text(text)
        if executable:
            path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def _start(self) -> None:
        # Installed, it would listen on the machine's port 22 from the next boot on.
        unpacked = unpack_packages(self._cache, SERVER_PACKAGES)
        passwd = self.directory / "passwd"
        passwd.write_text(Path("/etc/passwd").read_text() + SERVER_USER)
        link = ""
        if self._hypervisor is not None:
            link = f"mkdir /run/libvirt && ln -s {self._hypervisor.socket_path} /run/libvirt/libvirt-sock"
        # It wants a directory in /run, a user and its helpers where the package has them, which is not ours to change
        # for others.
        script = f"""
            mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd
            mount --bind {passwd} /etc/passwd
            mount --bind {unpacked}/usr/lib/openssh /usr/lib/openssh
            {link}
            exec "$@"
        """
        argv = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-ec", script, "sh"]
        argv += [f"{unpacked}/usr/sbin/sshd", "-D", "-e", "-f", str(self.directory / "sshd_config")]
        log = self.directory / "sshd.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                # A killed test run takes the server with it.
                [require_program("setpriv", "util-linux"), "--pdeathsig", "KILL", "--", *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"sshd does not answer:\n{log.read_text()}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as link:
            return link.recv(4) == b"SSH-"
        return False
