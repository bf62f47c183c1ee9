"""QEMU with the storage host in it, and the way into the host by SSH. Nothing listens but on 127.0.0.1."""

import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from tests.lab.programs import require_program, run
from tests.lab.storage_image import Image

# Without KVM it takes 15 s here with both processors busy; the rest is for slow machines with much to do.
START_TIMEOUT_SECONDS = 300.0
RUN_TIMEOUT_SECONDS = 600.0

CMDLINE = "root=/dev/vda console=ttyS0 net.ifnames=0 quiet panic=-1 mitigations=off tsc=reliable random.trust_cpu=on"
READY = "LAB-READY"

CLIENT_SETTINGS = """
IdentityFile {key}
IdentitiesOnly yes
IdentityAgent none
UserKnownHostsFile {directory}/known_hosts
GlobalKnownHostsFile none
StrictHostKeyChecking yes
PasswordAuthentication no
LogLevel ERROR
"""


class Machine:
    """The storage host as a virtual machine without KVM, for a `with` block. It ends with the process that made it.

    Args:
        directory: where its files are made; it must not exist.
        image: what it starts from.
        disks: the images of its disks in order, each with its format; the system is on the first.
        control: the path of a socket, which ssh makes there.
    """

    def __init__(self, directory: Path, image: Image, disks: Sequence[tuple[Path, str]], control: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self._image = image
        self._disks = disks
        self._control = control
        self._numbers = count()
        self._processes: list[subprocess.Popen[bytes]] = []
        # It stays bound, so that nobody else gets the port; QEMU can listen on it all the same (SO_REUSEADDR).
        self._reservation = socket.socket()
        self._reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reservation.bind(("127.0.0.1", 0))
        self.port = int(self._reservation.getsockname()[1])

    def __enter__(self) -> Self:
        try:
            self._write_client()
            self._boot()
            self._wait_for(lambda: READY in self.console(), "does not start")
            # Each link takes a second of the slow processor, so what `run` starts shares one.
            self._start("master", self.ssh, "-M", "-N", "-S", self._control, "root@127.0.0.1")
            self._wait_for(self._control.exists, "lets nobody in")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait()
        self._processes.clear()
        self._reservation.close()

    @property
    def ssh(self) -> Path:
        """A program that is ssh with the settings and the port of this host."""
        return self.directory / "ssh"

    def uri(self, user: str) -> str:
        """Return the URI of libvirt on this host for a user of the host, as seen from here."""
        words = {"command": str(self.ssh)}
        return f"qemu+ssh://{user}@127.0.0.1:{self.port}/system?{urlencode(words, safe='/')}"

    def console(self) -> str:
        """Return what the host has said on its console so far."""
        log = self.directory / "console.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def start(self, command: str, **keywords: Any) -> subprocess.Popen[bytes]:
        """Start a shell command as root on the host, without input; keywords are those of `Popen`."""
        return subprocess.Popen(self._words(command), **{"stdin": subprocess.DEVNULL, **keywords})

    def run(
        self, command: str, *, stdin: bytes = b"", timeout_seconds: float = RUN_TIMEOUT_SECONDS
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run a shell command as root on the host to its end, whatever its status."""
        return subprocess.run(
            self._words(command), input=stdin, capture_output=True, timeout=timeout_seconds, check=False
        )

    @contextmanager
    def forwarded(self, path: str) -> Iterator[Path]:
        """Have a unix socket of the host answer at a path here for the block."""
        here = self._control.with_name(f"forward{next(self._numbers)}")
        words: list[str | Path] = [self.ssh, "-S", self._control, "-L", f"{here}:{path}", "root@127.0.0.1"]
        run(*words, "-O", "forward")
        try:
            yield here
        finally:
            run(*words, "-O", "cancel")
            here.unlink(missing_ok=True)

    def shut_down(self) -> None:
        """Have the host shut down cleanly, and wait for its end."""
        self.run("busybox poweroff")
        self._processes[0].wait(timeout=START_TIMEOUT_SECONDS)

    def _words(self, command: str) -> list[str]:
        return [str(self.ssh), "-S", str(self._control), "root@127.0.0.1", command]

    def _write_client(self) -> None:
        (self.directory / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {self._image.host_key}")
        settings = CLIENT_SETTINGS.format(key=self._image.key, directory=self.directory)
        (self.directory / "ssh_config").write_text(f"{settings}Port {self.port}\n")
        client = require_program("ssh", "openssh-client")
        self.ssh.write_text(f'#!/bin/sh\nexec {client} -F {self.directory}/ssh_config "$@"\n')
        self.ssh.chmod(0o755)

    def _boot(self) -> None:
        # The processor has no virtualization, so that the host's QEMU does not try KVM.
        machine = ("-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", "max,la57=off,svm=off,vmx=off")
        size = ("-smp", "2", "-m", "2048")
        bare = ("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none")
        kernel = ("-kernel", self._image.kernel, "-initrd", self._image.initrd, "-append", CMDLINE)
        forward = f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:22"
        devices: list[str] = []
        for number, (path, format_) in enumerate(self._disks):
            # What the host writes need not outlive this machine's crash.
            escaped = str(path).replace(",", ",,")
            devices += ["-drive", f"if=none,id=disk{number},file={escaped},format={format_},cache=unsafe,discard=unmap"]
            devices += ["-device", f"virtio-blk-pci,drive=disk{number}"]
        devices += ["-netdev", forward, "-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci"]
        qemu = require_program("qemu-system-x86_64", "qemu-system-x86")
        console = f"file:{str(self.directory / 'console.log').replace(',', ',,')}"
        self._start("qemu", qemu, *machine, *size, *bare, *kernel, *devices, "-serial", console)

    def _start(self, name: str, *argv: str | Path) -> None:
        with (self.directory / f"{name}.log").open("wb") as output:
            self._processes.append(
                subprocess.Popen(
                    # A killed test run takes the machine with it.
                    [require_program("setpriv", "util-linux"), "--pdeathsig", "KILL", "--", *argv],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    # Ctrl-C at the terminal is for the tests.
                    start_new_session=True,
                )
            )

    def _wait_for(self, happened: Any, problem: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not happened():
            ended = [process.args for process in self._processes if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                said = "".join(path.read_text(errors="replace") for path in sorted(self.directory.glob("*.log")))
                raise RuntimeError(f"The storage host {problem}:\n{said}")
            time.sleep(0.05)
