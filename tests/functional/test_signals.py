"""What Ctrl-C and other signals do before anything is changed, at the end, and to the shell that is waiting."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pexpect
import pytest

from tests.functional.runs import (
    Watched,
    held_daemon,
    make_big_source,
    midway,
    reaching,
    start_clone,
    unchanged,
    wait_for,
    wait_until_still,
)
from tests.functional.test_terminal import Terminal
from tests.lab import Lab, Program, disk, domain
from tests.lab.images import MIB
from tests.lab.program import PAUSING, Background, Result
from tests.lab.programs import require_program

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WORDS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "interrupted by SIGTERM",
    signal.SIGHUP: "interrupted by SIGHUP",
}

# The program, but one that waits a second for a host that says nothing.
IMPATIENT = """
from virtomate.hypervisor import connection
connection._CONNECT_SECONDS = 1.0
from virtomate.__main__ import main
main()
"""

# The program, but one that does not notice that a link has died, and that stands still when it has connected.
TRUSTFUL = f"""
import runpy
from virtomate.hypervisor import connection
connection._KEEPALIVE_INTERVAL_SECONDS = -1
runpy.run_path({str(PAUSING)!r}, run_name="__main__")
"""

# The program, but one that gets Ctrl-C when it begins to import a module.
HASTY = """
import os, signal, sys

class Interrupting:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "typing":
            os.kill(os.getpid(), signal.SIGINT)

for name in ("typing", "virtomate", "virtomate.__main__"):
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Interrupting)
from virtomate.__main__ import main
main()
"""

# A driver that asks who is there before it looks for the host.
ASKING = "esx://127.0.0.1/"


@pytest.fixture(scope="module")
def big(session_lab: Lab) -> Iterator[Path]:
    """A domain `big` with a disk that takes a while to copy; its path."""
    mark = session_lab.mark()
    yield make_big_source(session_lab, session_lab.pool)
    session_lab.return_to(mark)


@pytest.fixture
def silent_hosts(lab: Lab) -> Iterator[dict[str, str]]:
    """URIs of hosts that answer nothing: the lab's daemon, which stands still, and one behind a TCP port."""
    with socket.socket() as server, held_daemon(lab):
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield {"unix": lab.uri, "tcp": f"qemu+tcp://127.0.0.1:{server.getsockname()[1]}/system"}


def wait_until_connecting(process: int) -> None:
    """Wait until a process has a socket; Python has none."""

    def has_socket() -> bool:
        links = []
        for path in Path(f"/proc/{process}/fd").iterdir():
            with suppress(FileNotFoundError):
                links.append(str(path.readlink()))
        return any(link.startswith("socket:") for link in links)

    wait_for(has_socket, "it connects")


def pid_of(child: Any) -> int:
    """Return the process at a pseudo-terminal."""
    return int(str(child.pid))


def only_child(process: int) -> int | None:
    """Return the process that another one, such as a shell, has started."""
    (task,) = Path(f"/proc/{process}/task").iterdir()
    children = (task / "children").read_text().split()
    return int(children[0]) if children else None


def wait_for_child(process: int) -> int:
    """Wait until a shell has started a program that stands still, and return the program's process."""
    wait_for(lambda: only_child(process) is not None, "the shell has started the program")
    child = only_child(process)
    assert child is not None
    wait_until_still(child)
    return child


@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_ctrl_c_while_connecting(silent_hosts: dict[str, str], virtomate: Program, transport: str) -> None:
    """At a terminal, Ctrl-C ends the waiting for a host that does not answer, at once and by the signal."""
    terminal = Terminal(virtomate, "domain-list", "-c", silent_hosts[transport], env={"TERM": "dumb"})
    wait_until_connecting(pid_of(terminal.child))
    terminal.child.send("\x03")

    assert terminal.finish() == (-signal.SIGINT, "^CError: interrupted\n")


def test_silent_host_is_given_up_at_a_terminal(silent_hosts: dict[str, str], virtomate: Program) -> None:
    """At a terminal, too, a host that does not answer is given up, where nobody could be typing a password."""
    argv = ["-c", IMPATIENT, "-c", silent_hosts["unix"], "domain-list"]
    child = pexpect.spawn(sys.executable, argv, env=virtomate.env(), encoding="utf-8", timeout=120)
    child.expect(pexpect.EOF)
    child.close()

    assert child.exitstatus == 1
    assert str(child.before).startswith(f"Error: cannot connect to {silent_hosts['unix']}: no answer in 1 s")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_signal_in_a_call_that_hangs(lab: Lab, virtomate: Program, number: signal.Signals) -> None:
    """A signal ends a command that has changed nothing, also where libvirt does not return; JSON says so."""
    argv = [sys.executable, "-P", "-c", TRUSTFUL, "virConnectOpenAuth", "-c", lab.uri, "--json", "domain-list"]
    with Background(argv, virtomate.env(), virtomate.directory) as run:
        wait_until_still(run.process.pid)
        with held_daemon(lab):
            run.signal(signal.SIGCONT)
            run.signal(number)
            result = run.wait()

    assert result.status == -number, str(result)
    assert result.json == {"type": "Interrupted", "message": WORDS[number]}
    assert result.stderr == ""


def end_by_second_ctrl_c(lab: Lab, virtomate: Program, moment: str, *words: str) -> tuple[Result, list[str]]:
    """End a command by Ctrl-C while libvirt does not answer at a moment; return its result, and the notes before."""
    argv = [sys.executable, "-P", "-c", TRUSTFUL, moment, "-c", lab.uri, "--progress", "json", "--json", *words]
    with Background(argv, virtomate.env({"PATIENCE_SECONDS": "0.2"}), virtomate.directory) as run:
        wait_until_still(run.process.pid)
        with held_daemon(lab):
            watched = Watched(run)
            run.signal(signal.SIGCONT)
            run.signal(signal.SIGINT)
            notes = [watched.wait_for_event("note")["message"] for _ in range(2)]
            run.signal(signal.SIGINT)
            result = run.wait()
    lab.hypervisor.wait_until_idle()
    return result, notes


@pytest.mark.parametrize("moment", ["virDomainDefineXMLFlags", "virStorageVolCreateXML", "vda", "virStreamFinish"])
def test_second_ctrl_c_where_libvirt_does_not_answer(lab: Lab, virtomate: Program, moment: str) -> None:
    """The first one is answered at once, and the second one ends the program; domain-delete removes what is left."""
    path = lab.pool.raw("original.raw", 40 * MIB, data_bytes=32 * MIB)
    lab.define(domain("original", disks=[disk(path, "raw")]))
    before = lab.inventory()

    result, notes = end_by_second_ctrl_c(
        lab, virtomate, moment, "domain-clone", "--transfer", "stream", "original", "web"
    )

    assert notes[0].startswith("Interrupted, cleaning up…")
    assert notes[1].startswith("libvirt does not answer yet. Another Ctrl-C ends virtomate at once")
    assert (result.status, result.json["type"]) == (3, "Interrupted"), str(result)
    assert result.json["leftovers"] == ["what was begun (libvirt did not answer)"]
    assert reaching(lab.uri, "virtomate domain-list --clones") in result.json["hint"]
    deleted = virtomate("domain-delete", "--yes", "--yes-unproved", "web")
    assert deleted.status == 0, str(deleted)
    unchanged(before, lab)


def test_second_ctrl_c_in_an_import(lab: Lab, virtomate: Program) -> None:
    """An import speaks of the volume that it leaves, and not of clones; what it names removes the volume."""
    file = virtomate.directory / "image.raw"
    file.write_bytes(bytes(MIB) + b"data" * MIB)
    before = lab.inventory()

    result, _ = end_by_second_ctrl_c(
        lab, virtomate, "virStorageVolCreateXML", "volume-import", str(file), lab.pool.name
    )

    assert (result.status, result.json["type"]) == (3, "Interrupted"), str(result)
    deletes = reaching(lab.uri, "virtomate domain-delete")
    assert result.json["hint"].startswith(
        f"Volume 'image.raw' in storage pool '{lab.pool.name}' may be incomplete. "
        f"When libvirt answers again, {deletes} removes it, "
    )
    (left,) = virtomate("domain-list", "--clones", json=True).json
    assert left["name"].startswith("virtomate-import-")
    deleted = virtomate("domain-delete", "--yes", "--yes-unproved", left["name"])
    assert deleted.status == 0, str(deleted)
    unchanged(before, lab)


def test_signal_while_nobody_reads(virtomate: Program) -> None:
    """A signal ends a command that cannot get rid of its result, and nothing is written into the middle of it."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, bytes(4096))
    argv = virtomate.argv("completion", "bash", json=True)
    process = subprocess.Popen(argv, env=virtomate.env(), stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    wait_for(lambda: is_writing(process.pid), "it waits for its reader")
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=120)
    with os.fdopen(reader, "rb") as file:
        shown = file.read()

    assert process.returncode == -signal.SIGTERM
    assert stderr == b"Error: interrupted by SIGTERM\n"
    assert shown == bytes(4096)


def is_writing(process: int) -> bool:
    """Tell whether a thread of a process waits for room in a pipe; kernels call that by similar names."""
    return any("pipe_write" in path.read_text() for path in Path(f"/proc/{process}/task").glob("*/wchan"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_terminal_is_left_as_it_was(virtomate: Program, number: signal.Signals) -> None:
    """Who leaves at the prompt for a password gets a terminal that shows what is typed."""
    argv = virtomate.argv("domain-list", uri=ASKING)
    script = 'trap : INT; "$@"; stty -a | grep -o -- "-\\?echo "'
    child = pexpect.spawn("bash", ["-c", script, "sh", *argv], env=virtomate.env(), encoding="utf-8", timeout=120)
    child.expect("[Uu]sername.*: ")
    child.sendline("somebody")
    child.expect("[Pp]assword.*: ")
    wait_for(lambda: not child.getecho(), "the echo is off")
    if number == signal.SIGINT:
        child.send("\x03")
    else:
        child.send("secr")
        os.kill(only_child(pid_of(child)) or 0, number)
    child.expect(pexpect.EOF)

    lines = str(child.before).split("\r\n")
    assert f"Error: {WORDS[number]}" in lines
    assert "echo " in lines
    assert "secr" not in str(child.before)


@pytest.mark.usefixtures("big")
def test_ctrl_c_ends_a_loop_of_a_shell(lab: Lab, virtomate: Program) -> None:
    """A shell whose loop makes clones stops when one of them is interrupted, since the program ends by the signal."""
    before = lab.inventory()
    argv = virtomate.pausing("vda").argv("domain-clone", "--transfer", "host", "big")
    script = 'for i in 1 2 3; do echo "run $i"; "$@" "web-$i"; done; echo after'
    child = pexpect.spawn("bash", ["-c", script, "sh", *argv], env=virtomate.env(), encoding="utf-8", timeout=120)
    process = wait_for_child(pid_of(child))
    child.send("\x03")
    os.kill(process, signal.SIGCONT)
    child.expect(pexpect.EOF)
    child.close()

    shown = str(child.before)
    assert "Error: interrupted\r\n" in shown
    assert "run 2" not in shown
    assert "after" not in shown
    assert child.signalstatus == signal.SIGINT
    unchanged(before, lab)


@pytest.mark.usefixtures("big")
def test_terminal_that_is_closed(lab: Lab, virtomate: Program) -> None:
    """When the terminal goes away in the middle of a copy, nothing of the clone is left."""
    before = lab.inventory()
    terminal = Terminal(virtomate.pausing("vda"), "domain-clone", "--transfer", "host", "big", "web")
    process = pid_of(terminal.child)
    wait_until_still(process)
    os.close(terminal.child.child_fd)
    os.kill(process, signal.SIGCONT)
    _, status = os.waitpid(process, 0)
    terminal.child.closed = terminal.child.terminated = True

    assert os.waitstatus_to_exitcode(status) == -signal.SIGHUP
    unchanged(before, lab)


@pytest.mark.usefixtures("big")
def test_status_that_a_shell_sees(virtomate: Program) -> None:
    """A shell has 128 plus the signal's number in $?."""
    argv = virtomate.pausing("vda").argv("domain-clone", "--transfer", "host", "big", "web")
    script = ["bash", "-c", '"$@"; echo "status $?"', "sh", *argv]
    with Background(script, virtomate.env(), virtomate.directory) as shell:
        process = wait_for_child(shell.process.pid)
        os.kill(process, signal.SIGTERM)
        os.kill(process, signal.SIGCONT)
        result = shell.wait()

    assert result.stdout == "status 143\n", str(result)


@pytest.mark.usefixtures("root_lab")
def test_first_process_of_a_container(silent_hosts: dict[str, str], virtomate: Program) -> None:
    """Where the signal does not end the program, since it is process 1, it exits with 128 plus the number."""
    unshare = [require_program("unshare", "util-linux"), "--pid", "--fork", "--kill-child", "--"]
    argv = [*unshare, *virtomate.argv("domain-list", uri=silent_hosts["tcp"])]
    with Background(argv, virtomate.env(), virtomate.directory) as run:
        wait_for(lambda: only_child(run.process.pid) is not None, "it has been started")
        process = only_child(run.process.pid)
        assert process is not None
        wait_until_connecting(process)
        os.kill(process, signal.SIGTERM)
        result = run.wait()

    assert (result.status, result.stderr) == (143, "Error: interrupted by SIGTERM\n"), str(result)


@pytest.mark.usefixtures("big")
def test_repeated_signals_say_what_is_waited_for(lab: Lab, virtomate: Program) -> None:
    """What libvirt is in the midst of has to be waited for before it can be undone; each further signal says so."""
    before = lab.inventory()
    watched = start_clone(virtomate, "--transfer", "server", "big", "web")
    notes = []
    with midway(lab, watched, "server", lab.pool.path / "web.raw"):
        for number in SIGNALS:
            watched.run.signal(number)
            notes.append(watched.wait_for_event("note")["message"])
    result = watched.run.wait()

    awaited = "Waiting for libvirt to finish writing 'web.raw'."
    assert notes == [f"Interrupted, cleaning up… {awaited}", *[f"Still cleaning up… {awaited}"] * 2]
    assert result.status == -signal.SIGINT, str(result)
    unchanged(before, lab)


def test_interruption_of_the_first_imports() -> None:
    """Ctrl-C ends the program without a traceback, however early it comes."""
    ended = subprocess.run(
        [sys.executable, "-P", "-c", HASTY, "--version"], capture_output=True, text=True, check=False
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")
