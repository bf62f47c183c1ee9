"""Guests, through their agents: pings, programs, addresses."""

import base64
import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import libvirt_qemu
import pytest

from tests.functional.runs import Watched, wait_for
from tests.lab import Lab, Program, domain, interface, running
from tests.lab.domains import mac_address
from tests.lab.program import Background

LINE = b"0123456789abcdefghijklmnopqrstu\n"
MAC = mac_address(7)
OTHER_MAC = mac_address(8)
ANY_BYTES = bytes(range(256)) * 4


@pytest.fixture(scope="module")
def guest(session_lab: Lab) -> Iterator[str]:
    """The name of a domain with a running guest, for all tests; as root it has an address."""
    mark = session_lab.mark()
    interfaces = []
    if session_lab.privileged:
        session_lab.make_network()
        interfaces = [interface(MAC, type_="network", source="lab"), interface(OTHER_MAC)]
    session_lab.define(
        domain("web", guest=session_lab.guest, agent=True, cmdline="lab.dhcp", interfaces=interfaces, memory_mib=256)
    )
    with running(session_lab.connection, "web") as started:
        started.wait_for_agent()
        yield "web"
    session_lab.return_to(mark)


def run(virtomate: Program, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run the program with bytes for what it reads and writes."""
    return subprocess.run(virtomate.argv(*words), env=virtomate.env(), input=stdin, capture_output=True, check=False)


def spools(virtomate: Program, guest: str) -> set[str]:
    """The files that runs have left in the guest; this one's own are called by another name."""
    result = virtomate("guest-run", guest, "sh", "-c", "ls /tmp; readlink /proc/self/fd/1")
    *names, own = result.stdout.split()
    return {name for name in names if not own.removeprefix("/tmp/").startswith(name.rpartition(".")[0])}


def process(virtomate: Program, guest: str, command_line: str) -> int:
    """The one process in the guest that has this command line; it may still be starting."""
    script = (
        "for place in /proc/[0-9]*; do "
        """[ "$(tr '\\0' ' ' <$place/cmdline)" = "$1 " ] && echo ${place#/proc/}; """
        "done"
    )
    while not (found := virtomate("guest-run", guest, "sh", "-c", script, "sh", command_line).stdout.split()):
        time.sleep(0.1)
    (pid,) = found
    return int(pid)


def refused(virtomate: Program, *words: str) -> Any:
    """The error of a command that must have failed with status 1."""
    result = virtomate(*words, json=True)
    assert result.status == 1, str(result)
    return result.json


def test_ping(virtomate: Program, guest: str) -> None:
    """An agent that answers is told of, as JSON with these keys."""
    for_people = virtomate("guest-ping", guest)
    for_scripts = virtomate("guest-ping", "--wait", "60", guest, json=True)

    assert (for_people.status, for_people.stdout, for_people.stderr) == (0, "The guest agent of web answers\n", "")
    assert for_scripts.json.keys() == {"name", "uuid", "seconds"}
    assert virtomate("guest-ping", for_scripts.json["uuid"]).status == 0


def test_listing_with_addresses(lab: Lab, virtomate: Program, guest: str) -> None:
    """domain-list tells the address that the guest got, for people and for scripts."""
    (item,) = virtomate("domain-list", "--addresses", "--running", json=True).json
    header, line = virtomate("domain-list", "--addresses").stdout.splitlines()

    assert header.split()[:3] == ["Name", "State", "Addresses"]
    # without root there is no network in which the guest could get one
    assert [interface["hwaddr"] for interface in item["addresses"]] == ([MAC] if lab.privileged else [])
    known = [address["address"] for interface in item["addresses"] for address in interface["addresses"]]
    assert line.split() == [guest, "running", *known, item["uuid"]]
    (host,) = virtomate("domain-list", "--output", "ansible").json["_meta"]["hostvars"].values()
    assert (host.get("ansible_host"), host["virtomate_addresses"]) == (next(iter(known), None), known)


def test_ping_of_domains_that_do_not_answer(lab: Lab, virtomate: Program) -> None:
    """Status 125 is for agents that do not answer; domains that are not running, or are not there, are errors."""
    for name, has_channel in (("deaf", True), ("mute", False)):
        lab.define(domain(name, agent=has_channel)).create()
    lab.define(domain("off", agent=True))

    once = virtomate("guest-ping", "deaf", json=True)
    assert (once.status, once.json["type"]) == (125, "libvirtError")
    waited = virtomate("guest-ping", "--wait", "0.2", "deaf")
    assert (waited.status, waited.stdout) == (125, "")
    assert "0.2 seconds" in waited.stderr
    # no waiting for what will never come
    assert virtomate("guest-ping", "--wait", "3600", "mute").status == 125
    assert virtomate("guest-run", "deaf", "ls").status == 125
    assert virtomate("domain-iface-list", "--source", "agent", "deaf").status == 125
    for words in (["guest-ping"], ["guest-ping", "--wait", "3600"], ["domain-iface-list"]):
        assert refused(virtomate, *words, "off")["type"] == "IllegalStateError"
        assert refused(virtomate, *words, "nobody")["type"] == "NotFoundError"
    assert refused(virtomate, "guest-run", "off", "ls")["type"] == "IllegalStateError"
    lab.connection.lookupByName("deaf").suspend()
    assert refused(virtomate, "guest-ping", "--wait", "3600", "deaf")["type"] == "IllegalStateError"


# Stops the agent again and again, each time for longer, until a file says that it is enough.
HANG = """
seconds=7
while [ ! -e /tmp/enough ]; do
    kill -STOP $(pidof qemu-ga)
    sleep $seconds
    kill -CONT $(pidof qemu-ga)
    left=$seconds
    while [ $left -gt 0 ] && [ ! -e /tmp/enough ]; do sleep 1; left=$((left - 1)); done
    seconds=$((seconds * 2))
done
rm /tmp/enough
touch /tmp/awake"""


def test_ping_waits_for_an_agent_that_hangs(virtomate: Program, guest: str) -> None:
    """An agent that takes what it is sent and says nothing is silent; when it wakes up, the waiting ends."""
    assert virtomate("guest-run", guest, "sh", "-c", f"(sleep 1; {HANG}) >/dev/null 2>&1 &").status == 0

    # A slow machine may come too late while the agent is stopped for the first time.
    while (status := virtomate("guest-ping", "--wait", "2", guest).status) == 0:
        pass
    assert status == 125
    assert virtomate("guest-ping", "--wait", "200", guest).status == 0
    wait_for(lambda: virtomate("guest-run", guest, "touch", "/tmp/enough").status == 0, "the agent hears that")
    wait_for(lambda: virtomate("guest-run", guest, "rm", "/tmp/awake").status == 0, "the agent is not stopped any more")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_the_waiting_for_an_agent(lab: Lab, virtomate: Program, number: signal.Signals) -> None:
    """A signal ends guest-ping --wait, and the program by that signal."""
    lab.define(domain("deaf", agent=True)).create()
    waiting = virtomate.start("-l", "debug", "guest-ping", "--wait", "3600", "deaf")
    assert waiting.process.stderr is not None
    # it is waiting when it has asked for the first time
    assert "guest-ping" in waiting.process.stderr.readline()
    waiting.signal(number)

    assert waiting.wait().status == -number


def is_silent(lab: Lab, guest: str) -> bool:
    """Whether the agent answers nothing for some seconds; libvirt itself waits longer."""
    asked = lab.connection.lookupByName(guest)
    words = (asked, json.dumps({"execute": "guest-ping"}), 60, 0)
    asking = threading.Thread(target=libvirt_qemu.qemuAgentCommand, args=words, daemon=True)
    asking.start()
    asking.join(4)
    return asking.is_alive()


def test_second_ctrl_c_where_the_agent_does_not_answer(lab: Lab, virtomate: Program, guest: str) -> None:
    """It is the agent that is waited for, and not libvirt; the program ends, and tells what may go on in the guest."""
    stop = "sleep 1; kill -STOP $(pidof qemu-ga); sleep 25; kill -CONT $(pidof qemu-ga)"
    words = ("--progress", "json", "--json", "guest-run", guest, "sh", "-c", stop)
    argv = virtomate.pausing("never").argv(*words)

    with Background(argv, virtomate.env({"PATIENCE_SECONDS": "0.2"}), virtomate.directory) as run:
        watched = Watched(run)
        wait_for(lambda: is_silent(lab, guest), "the agent is stopped")
        run.signal(signal.SIGINT)
        notes = [watched.wait_for_event("note")["message"] for _ in range(2)]
        run.signal(signal.SIGINT)
        result = run.wait()

    assert notes[1].startswith(f"The guest agent of domain '{guest}' does not answer yet. Another Ctrl-C ends")
    assert (result.status, result.json["type"]) == (3, "Interrupted"), str(result)
    assert result.json["leftovers"] == [f"what was begun (the guest agent of domain '{guest}' did not answer)"]
    assert result.json["hint"].startswith(f"The program may go on in the guest of domain '{guest}'")
    assert "clone" not in result.json["hint"]
    assert virtomate("guest-ping", "--wait", "120", guest).status == 0


def test_program_writes_and_ends_as_in_the_guest(virtomate: Program, guest: str) -> None:
    """Without --json what a program writes and its status come through as they are, whatever bytes there are."""
    script = "cat; echo 'to stderr' >&2; exit 42"

    result = run(virtomate, "guest-run", "--stdin", guest, "sh", "-c", script, stdin=ANY_BYTES)

    assert (result.returncode, result.stdout, result.stderr) == (42, ANY_BYTES, b"to stderr\n")
    # without --stdin there is nothing to read
    assert run(virtomate, "guest-run", guest, "cat", stdin=b"not for the guest").stdout == b""


def test_json_of_a_program(virtomate: Program, guest: str) -> None:
    """With --json the status tells whether it could be run; what was not written is null, and --encode keeps bytes."""
    plain = virtomate("guest-run", guest, "sh", "-c", "echo ü; exit 3", json=True)
    encoded = virtomate("guest-run", "-e", guest, "--", "printf", r"\377\000", json=True)
    replaced = virtomate("guest-run", guest, "printf", r"a\377", json=True)

    rest = {"signal": None, "stderr": None, "stderr_truncated": False, "stdout_truncated": False}
    assert (plain.status, plain.json) == (0, {"exit_code": 3, "stdout": "ü\n", **rest})
    assert list(plain.json) == sorted(plain.json)
    assert (encoded.status, base64.b64decode(encoded.json["stdout"])) == (0, b"\xff\0")
    assert replaced.json["stdout"] == "a\N{REPLACEMENT CHARACTER}"


def test_program_that_a_signal_ends(virtomate: Program, guest: str) -> None:
    """The status of a program that a signal ends is 128 and the signal's number; in JSON it has no exit code."""
    words = ("guest-run", guest, "sh", "-c", "echo before; kill -KILL $$")

    for_people, for_scripts = virtomate(*words), virtomate(*words, json=True)

    assert (for_people.status, for_people.stdout) == (128 + signal.SIGKILL, "before\n")
    document = for_scripts.json
    assert (for_scripts.status, document["exit_code"], document["signal"]) == (0, None, signal.SIGKILL)
    assert document["stdout"] == "before\n"


@pytest.mark.parametrize("mark", [(), ("--",)])
def test_everything_from_the_program_on_is_the_guests(virtomate: Program, guest: str, mark: tuple[str, ...]) -> None:
    """Options after the program are the program's, with and without `--`; those before it are ours, wherever."""
    result = virtomate("guest-run", guest, "--timeout", "60", *mark, "echo", "-v", "--json", "--", "-c", "it's", "")

    assert (result.status, result.stdout) == (0, "-v --json -- -c it's \n")


@pytest.mark.parametrize("program", ["nothing-like-this", "/nothing/like/this", "/etc/passwd", "/etc"])
def test_program_that_is_none(virtomate: Program, guest: str, program: str) -> None:
    """A program that is not there or cannot be executed is an error that names it."""
    error = refused(virtomate, "guest-run", guest, program)

    assert error["type"] == "ProgramError"
    assert program in error["message"]


def test_much_output_and_input(virtomate: Program, guest: str) -> None:
    """Five megabytes of output arrive whole, beside errors, and input beyond one message of libvirt's goes in."""
    size = 5_000_000
    output = (LINE * (size // len(LINE) + 1))[:size]
    before = spools(virtomate, guest)
    script = f"yes '{LINE.decode().strip()}' | head -c {size}; echo done >&2"

    result = run(virtomate, "guest-run", guest, "sh", "-c", script)
    back = run(virtomate, "guest-run", "--stdin", guest, "cat", stdin=output[:400_000])

    assert (result.returncode, result.stdout, result.stderr) == (0, output, b"done\n")
    assert (back.returncode, back.stdout) == (0, output[:400_000])
    assert spools(virtomate, guest) <= before


def test_program_that_outlives_its_time(virtomate: Program, guest: str) -> None:
    """A program that takes too long goes on; the error names its process, and nothing else is left in the guest."""
    before = spools(virtomate, guest)

    error = refused(virtomate.pausing("never"), "guest-run", "--timeout", "0.3", guest, "sleep", "7001")

    assert error["type"] == "TimeoutError"
    pid = process(virtomate, guest, "sleep 7001")
    assert f"process {pid} " in error["message"]
    assert f"guest-run web kill {pid}" in error["hint"]
    wait_for(lambda: spools(virtomate, guest) <= before, "the files are gone")
    assert virtomate("guest-run", guest, "kill", str(pid)).status == 0


def test_signal_while_a_program_runs(virtomate: Program, guest: str) -> None:
    """A signal ends the waiting for a program, which goes on; the error names its process."""
    waiting = virtomate.start("guest-run", guest, "sleep", "7002")
    pid = process(virtomate, guest, "sleep 7002")
    waiting.signal(signal.SIGINT)
    result = waiting.wait()

    assert result.status == -signal.SIGINT, str(result)
    assert process(virtomate, guest, "sleep 7002") == pid
    assert f"Process {pid} goes on" in result.stderr
    assert virtomate("guest-run", guest, "kill", str(pid)).status == 0


def test_guest_without_a_place_for_output(virtomate: Program, guest: str) -> None:
    """Where a guest has no shell, or no place for files, its agent keeps the output, as far as libvirt passes it on."""
    # what was written before is below the new file system, and cannot be read
    hidden = refused(virtomate, "guest-run", guest, "mount", "-t", "tmpfs", "-o", "ro", "none", "/tmp")
    assert "has run" in hidden["message"]
    result = run(virtomate, "guest-run", "--stdin", guest, "cat", stdin=ANY_BYTES)
    assert (result.returncode, result.stdout) == (0, ANY_BYTES)
    assert virtomate("guest-run", guest, "umount", "/tmp").status == 0

    # what has no shell any more when it ends has run, all the same
    moved = refused(virtomate, "guest-run", guest, "mv", "/bin/sh", "/bin/kept-sh")
    assert moved["type"] == "ProgramError"
    assert "has run" in moved["message"]
    try:
        result = run(virtomate, "guest-run", "--stdin", guest, "cat", stdin=ANY_BYTES)
        assert (result.returncode, result.stdout) == (0, ANY_BYTES)
        assert refused(virtomate, "guest-run", guest, "nothing-like-this")["type"] == "ProgramError"
        too_much = refused(virtomate, "guest-run", guest, "head", "-c", "4000000", "/dev/zero")
        assert too_much["type"] == "ProgramError"
    finally:
        assert virtomate("guest-run", guest, "busybox", "mv", "/bin/kept-sh", "/bin/sh").status == 0
    assert virtomate("guest-run", guest, "sh", "-c", "rm -f /tmp/virtomate-*").status in {0, 1}


def test_addresses(root_lab: Lab, virtomate: Program, guest: str) -> None:
    """Lease and agent know the guest's address, each by its name of the interface; one without is there, too."""
    by_lease = virtomate("domain-iface-list", guest, json=True).json
    by_agent = virtomate("domain-iface-list", "--source", "agent", guest, json=True).json
    for_people = virtomate("domain-iface-list", "--source", "agent", guest).stdout.splitlines()

    without, lease = by_lease
    assert without == {"name": "net1", "hwaddr": OTHER_MAC, "addresses": []}
    assert lease.keys() == {"name", "hwaddr", "addresses"}
    (address,) = lease["addresses"]
    assert (lease["hwaddr"], address["prefix"], address["type"]) == (MAC, 24, "IPv4")
    assert address["address"].startswith("192.168.77.")
    assert [entry["name"] for entry in by_agent] == ["eth0", "eth1", "lo"]
    assert [entry["hwaddr"] for entry in by_agent[:2]] == [MAC, OTHER_MAC]
    assert address in by_agent[0]["addresses"]
    assert {"address": "::1", "prefix": 128, "type": "IPv6"} in by_agent[2]["addresses"]
    assert for_people[0].split() == ["Name", "MAC", "address", "Address"]
    assert for_people[1].split() == ["eth0", MAC, f"{address['address']}/24"]
    assert root_lab.privileged


# Answers that it has addresses, one of which is none. A ping has it leave the port to the agent that was there before.
FAKE_AGENT = r"""
sleep 0.5
agent=$(pidof qemu-ga)
arguments=$(tr '\0' ' ' </proc/$agent/cmdline)
port=${arguments#*--path }
kill $agent
while kill -0 $agent; do sleep 0.1; done
exec 3<>${port%% *}
while :; do
    read -r line <&3 || { sleep 0.1; continue; }
    answer='{}'
    case $line in
    *guest-network-get-interfaces*)
        answer='[{"name": "tun0", "ip-addresses": [
            {"ip-address-type": "ipv4", "ip-address": "10.0.0.999", "prefix": 24},
            {"ip-address-type": "ipv4", "ip-address": "192.0.2.7", "prefix": 24}]}]'
        ;;
    *guest-sync*)
        answer=${line##*\"id\":}
        answer=${answer%%\}*}
        ;;
    esac
    echo "{\"return\": $(echo $answer)}" >&3
    case $line in *guest-ping*) break ;; esac
done
sleep 1
exec 3>&-
$arguments"""


def test_agent_whose_addresses_are_none(root_lab: Lab, virtomate: Program, guest: str) -> None:
    """What is no address is left out, whoever calls it one; interfaces that the agent does not tell of are there."""
    assert root_lab.privileged
    detached = f"({FAKE_AGENT}) >/dev/null 2>&1 &"
    assert virtomate("guest-run", guest, "sh", "-c", detached).status == 0

    def listed() -> list[Any]:
        result = virtomate("domain-iface-list", "--source", "agent", guest, json=True)
        return list(result.json) if result.status == 0 else []

    interfaces: dict[str, Any] = {}
    while "tun0" not in interfaces:
        interfaces = {item["name"]: item for item in listed()}

    addresses = [{"address": "192.0.2.7", "prefix": 24, "type": "IPv4"}]
    assert interfaces.pop("tun0") == {"name": "tun0", "hwaddr": None, "addresses": addresses}
    assert {item["hwaddr"] for item in interfaces.values()} == {MAC, OTHER_MAC}
    assert virtomate("guest-ping", "--wait", "100", guest).status == 0
    wait_for(lambda: "lo" in {item["name"] for item in listed()}, "the agent that was there before is back")
