"""A libvirt daemon of our own, with a host of its own around it, on which nothing but the lab runs."""

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import libvirt

from tests.lab import mounts
from tests.lab.programs import MissingPackageError, require_program, run
from tests.lab.workspace import Workspace

START_TIMEOUT_SECONDS = 120.0
REMOVAL_ATTEMPTS = 50
IDLE_TIMEOUT_SECONDS = 120.0

# The longest paths below their directories: of the daemon's own sockets, and of those that a session daemon keeps for
# domains beside its configuration. libvirt cuts a domain's name to 20 characters there.
DAEMON_SOCKET = "libvirt-admin-sock"
DOMAIN_SOCKET = f"libvirt/qemu/channel/target/domain-999-{20 * 'x'}/org.qemu.guest_agent.0"

# libvirt prints every error to stderr unless somebody else takes it.
libvirt.registerErrorHandler(lambda _context, _error: None, None)


class Hypervisor:
    """A private libvirtd that starts, dies and comes back as a test wishes, and ends with the process that made it.

    As root it is a host of its own: private mounts (its `/etc/libvirt`, `/var/lib/libvirt`, `/run` and so on are
    directories of the lab), its own processes and its own network. As an ordinary user it is a session daemon with
    private XDG directories.

    Args:
        workspace: where its directories are made.
        name: the name of its directory; several hosts can stand side by side in one workspace.
        visible_state: show its `/var/lib/libvirt` to the calling process too, at the same path, as if that process
            ran on the host. Without it the host is one whose files can only be reached through libvirt. Only root,
            and only one host of a process.
        without: capabilities(7) that the daemon lacks, such as `chown`, so that a file system seems to refuse. Only
            root.
    """

    def __init__(
        self, workspace: Workspace, name: str = "host", *, visible_state: bool = False, without: Sequence[str] = ()
    ) -> None:
        self.directory = workspace.directory / name
        self.directory.mkdir()
        self.privileged = os.geteuid() == 0
        self._without = without
        self._cache = workspace.cache
        self._sockets = workspace.socket_directory(f"{name}-sockets", DAEMON_SOCKET)
        self._config = self.directory / "config"
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._open: list[Any] = []
        self._connection: Any = None
        if self.privileged:
            self._make_system_directories()
            if visible_state:
                mounts.mount("--bind", self.on_host("/var/lib/libvirt"), "/var/lib/libvirt")
        else:
            self._config = workspace.socket_directory(f"{name}-config", DOMAIN_SOCKET)
            self._make_session_directories()
        self._visible_state = self.privileged and visible_state

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def socket_path(self) -> Path:
        """The daemon's unix socket."""
        return self._sockets / "libvirt-sock"

    @property
    def uri(self) -> str:
        """The URI that leads to this daemon and to no other."""
        kind = "system" if self.privileged else "session"
        return f"qemu+unix:///{kind}?socket={self.socket_path}"

    def start(self) -> None:
        """Start the daemon, and the host around it if need be, and wait until it answers."""
        if self._supervisor is None:
            self._supervisor = self._boot_host()
        self._ask(do="start")
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while True:
            with suppress(libvirt.libvirtError):
                libvirt.open(self.uri).close()
                return
            if not self._ask(do="status")["running"] or time.monotonic() > deadline:
                raise RuntimeError(f"libvirtd does not answer:\n{self.log()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End the daemon in an orderly way; guests stay as they are."""
        self._ask(do="stop")

    def kill(self) -> None:
        """End the daemon alone with SIGKILL, as a crash would; guests stay as they are."""
        self._ask(do="kill")

    def restart(self) -> None:
        """End the daemon and start it again with the same state."""
        self.stop()
        self.start()

    def signal(self, number: int) -> None:
        """Send the daemon a signal, such as SIGSTOP for one that hangs and SIGCONT for its end."""
        self._ask(do="signal", number=number)

    def close(self) -> None:
        """Switch the host off, so that the daemon and every guest end at once, and remove its directory."""
        for connection in self._open:
            with suppress(libvirt.libvirtError):
                connection.close()
        self._open.clear()
        if self._supervisor is not None:
            self._supervisor.communicate()
            self._supervisor = None
        if self._visible_state:
            mounts.unmount(Path("/var/lib/libvirt"))
            self._visible_state = False
        self._remove_directory()

    def _remove_directory(self) -> None:
        # What ran on the host may still have been writing a moment ago; a host of the same name may come next.
        for _ in range(REMOVAL_ATTEMPTS):
            shutil.rmtree(self.directory, ignore_errors=True)
            if not self.directory.exists():
                return
            time.sleep(0.1)
        shutil.rmtree(self.directory)

    @property
    def connection(self) -> Any:
        """A connection (`libvirt.virConnect`) to whatever daemon there is now; tests may kill and restart it."""
        try:
            self._connection.getLibVersion()
        except (AttributeError, libvirt.libvirtError):
            self._connection = self.connect()
        return self._connection

    def wait_until_idle(self) -> None:
        """Wait until the daemon has carried out what it was asked for, also by programs that were killed since."""
        admin = require_program("virt-admin", "libvirt-clients")
        kind = "system" if self.privileged else "session"
        uri = f"libvirtd:///{kind}?socket={self._sockets / DAEMON_SOCKET}"
        deadline = time.monotonic() + IDLE_TIMEOUT_SECONDS
        while True:
            said = run(admin, "-c", uri, "server-threadpool-info", "libvirtd").decode()
            found = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in said.splitlines()}
            if found["nWorkers"] == found["freeWorkers"] and found["jobQueueDepth"] == "0":
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"libvirtd is still busy: {found}")
            time.sleep(0.02)

    def answers(self) -> bool:
        """Tell whether the daemon is there."""
        try:
            libvirt.open(self.uri).close()
        except libvirt.libvirtError:
            return False
        return True

    def connect(self, *, read_only: bool = False) -> Any:
        """Open a connection (`libvirt.virConnect`); it is closed with the host at the latest."""
        connection = libvirt.openReadOnly(self.uri) if read_only else libvirt.open(self.uri)
        self._open.append(connection)
        return connection

    def run(self, *argv: str | Path) -> str:
        """Run a program on the host, among its processes and with its mounts, and return what it prints."""
        answer = self._ask(do="run", argv=[str(word) for word in argv])
        if answer["status"] != 0:
            raise RuntimeError(f"{argv} ended with {answer['status']}: {answer['stderr'].strip()}")
        return str(answer["stdout"])

    def on_host(self, path: str | Path) -> Path:
        """Return where a path of the host is found from here."""
        for ours, theirs in self._binds():
            if Path(path).is_relative_to(theirs):
                return ours / Path(path).relative_to(theirs)
        return Path(path)

    @property
    def file_directories(self) -> list[Path]:
        """Where the daemon puts files that belong to domains: variable stores, managed-save images, default images."""
        if not self.privileged:
            return [self._config / "libvirt/qemu/nvram"]
        return [self.on_host("/var/lib/libvirt") / part for part in ("images", "qemu/nvram", "qemu/save")]

    @property
    def state_directories(self) -> list[Path]:
        """Where the daemon keeps definitions, NVRAM and everything else that outlives it, as seen from here."""
        if self.privileged:
            return [self.on_host("/etc/libvirt"), self.on_host("/var/lib/libvirt")]
        return [self._config, self.directory / "data"]

    def log(self) -> str:
        """Return what the daemon has said so far."""
        texts = [path.read_text(errors="replace") for path in self._log_paths() if path.exists()]
        return "".join(texts) or "(it said nothing)"

    def keep_capabilities(self) -> None:
        """Keep in the cache what this daemon found out about QEMU, so that the next one need not probe (4 s)."""
        kept = self._cache.directory / "capabilities"
        kept.mkdir(exist_ok=True)
        for path in self._capabilities().glob("*.xml"):
            # Written whole and renamed, because other daemons may be copying it at this moment.
            scratch = kept / f".{uuid.uuid4().hex}"
            shutil.copyfile(path, scratch)
            scratch.replace(kept / path.name)

    def _capabilities(self) -> Path:
        if self.privileged:
            return self.on_host("/var/cache/libvirt") / "qemu/capabilities"
        return self.directory / "cache/libvirt/qemu/cache/capabilities"

    def _log_paths(self) -> Sequence[Path]:
        return [self.directory / "output.log", self.directory / "libvirtd.log"]

    def _binds(self) -> list[tuple[Path, Path]]:
        if not self.privileged:
            return []
        places = {
            "etc": "/etc/libvirt",
            "lib": "/var/lib/libvirt",
            "cache": "/var/cache/libvirt",
            # All of them, since swtpm and others keep things beside libvirt's.
            "log": "/var/log",
            "run": "/run",
        }
        if Path("/var/lib/swtpm-localca").is_dir():
            places["swtpm-localca"] = "/var/lib/swtpm-localca"
        return [(self.directory / ours, Path(theirs)) for ours, theirs in places.items()]

    def _make_system_directories(self) -> None:
        mounts.enter_private_mounts()
        for place in ("/etc/libvirt", "/var/lib/libvirt", "/var/cache/libvirt"):
            if not Path(place).is_dir():
                raise MissingPackageError(f"{place} is missing: apt-get install libvirt-daemon-system")
        for ours, _ in self._binds():
            ours.mkdir()
        # What libvirt would make at some later time, which would be a difference between two inventories, and
        # where it locks consoles, which it takes for granted (/var/lock leads there).
        for part in ("etc/qemu", "lib/images", "lib/qemu/nvram", "lib/dnsmasq", "run/lock"):
            (self.directory / part).mkdir(parents=True)
        self._write_settings(self.directory / "etc")

    def _make_session_directories(self) -> None:
        for part in ("data", "cache"):
            (self.directory / part).mkdir()
        (self._config / "libvirt").mkdir()
        self._write_settings(self._config / "libvirt")

    def _write_settings(self, directory: Path) -> None:
        _write_settings(
            directory / "libvirtd.conf",
            {
                "unix_sock_dir": str(self._sockets),
                "auth_unix_ro": "none",
                "auth_unix_rw": "none",
                "host_uuid": str(uuid.uuid4()),
                "log_outputs": f"3:file:{self.directory / 'libvirtd.log'}",
                # A test that stops the daemon on purpose decides itself how long it does.
                "keepalive_interval": -1,
                "max_clients": 500,
                "max_workers": 40,
            },
        )
        settings: dict[str, str | int | list[str]] = {"stdio_handler": "file", "security_driver": "none"}
        if self.privileged:
            settings |= {
                "user": "root",
                "group": "root",
                "remember_owner": 0,
                "namespaces": [],
                "cgroup_controllers": [],
                "swtpm_user": "root",
                "swtpm_group": "root",
            }
        _write_settings(directory / "qemu.conf", settings)
        _copy_capabilities(self._cache.directory / "capabilities", self._capabilities())

    def _boot_host(self) -> subprocess.Popen[bytes]:
        require_program("qemu-system-x86_64", "qemu-system-x86")
        daemon = [require_program("libvirtd", "libvirt-daemon-system")]
        if self._without:
            fewer = ",".join(f"-{capability}" for capability in self._without)
            daemon = [require_program("setpriv", "util-linux"), "--bounding-set", fewer, "--", *daemon]
        setup = {
            "private": self.privileged,
            "argv": daemon,
            "binds": [tuple(map(str, bind)) for bind in self._binds()],
            # They may be outside the lab's directory, where nobody would look for them after a killed run.
            "remove": [str(self._sockets), str(self._config)],
        }
        argv = [sys.executable, "-I", str(Path(__file__).with_name("supervisor.py")), json.dumps(setup)]
        if self.privileged:
            isolate = [require_program("unshare", "util-linux"), "--mount", "--pid", "--net", "--fork"]
            # Slave: what the tests mount later appears there, what is mounted there never appears here.
            argv = [*isolate, "--kill-child", "--mount-proc", "--propagation", "slave", "--", *argv]
        environment = self._environment()
        return subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            # Ctrl-C at the terminal is for the tests, which still need the daemon while they clear up.
            start_new_session=True,
        )

    def _environment(self) -> Mapping[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        kept["LAB_DAEMON_OUTPUT"] = str(self.directory / "output.log")
        kept["HOME"] = str(self.directory)
        if not self.privileged:
            kept |= {f"XDG_{part.upper()}_HOME": str(self.directory / part) for part in ("data", "cache")}
            kept["XDG_CONFIG_HOME"] = str(self._config)
            # Monitor sockets live below it, so it has to be short.
            kept["XDG_RUNTIME_DIR"] = str(self._sockets)
        return kept

    def _ask(self, **request: object) -> dict[str, Any]:
        host = self._supervisor
        if host is None or host.stdin is None or host.stdout is None:
            raise RuntimeError("The host is switched off")
        host.stdin.write(json.dumps(request).encode() + b"\n")
        host.stdin.flush()
        answer = host.stdout.readline()
        if not answer:
            raise RuntimeError(f"The host has ended:\n{self.log()}")
        return dict(json.loads(answer))


def _write_settings(path: Path, settings: Mapping[str, str | int | list[str]]) -> None:
    # libvirt's configuration files write strings, numbers and lists as JSON does.
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))


def _copy_capabilities(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for path in source.glob("*.xml"):
        shutil.copyfile(path, target / path.name)
