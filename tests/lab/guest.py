"""Start a domain with the lab's guest in it and read what the guest says of itself."""

import json
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import libvirt
import libvirt_qemu

# A boot takes 3 s here (7 s with UEFI); the rest is for slow machines with much to do.
BOOT_TIMEOUT_SECONDS = 240.0
AGENT_TIMEOUT_SECONDS = 120.0

REPORT = re.compile(rb"LAB-GUEST (\{[^\r\n]*\}) LAB-END")


@dataclass(frozen=True)
class DiskReport:
    """A disk as the guest sees it: its size, its marker, and the SHA-256 of its first and its last MiB."""

    capacity_bytes: int
    marker: str
    first_mib: str
    last_mib: str
    serial: str
    read_only: bool


@dataclass(frozen=True)
class InterfaceReport:
    """A network interface as the guest sees it; without DHCP (`lab.dhcp` on the command line) it has no address."""

    mac: str
    address: str


@dataclass(frozen=True)
class GuestReport:
    """What a guest says of itself on its serial port.

    Attributes:
        records: the number of the last record of a writer (`lab.write` on the command line) on its disks, if it was
            asked to count them (`lab.count`).
        stray: how many of the records before that one are missing: the disks are not of one moment.
        checked: the number of the last record of its own writer, when that last read everything back that was written.
        wrong: how often that failed, or could not be written.
    """

    uuid: str
    firmware: str
    cmdline: str
    agent: bool
    disks: Mapping[str, DiskReport]
    interfaces: Mapping[str, InterfaceReport]
    boot_seconds: float
    records: int
    stray: int
    checked: int
    wrong: int

    @property
    def markers(self) -> dict[str, str]:
        """The marker of each disk."""
        return {name: disk.marker for name, disk in self.disks.items()}

    @property
    def macs(self) -> list[str]:
        """The MAC address of each interface, in the guest's order."""
        return [interface.mac for interface in self.interfaces.values()]


@dataclass(frozen=True)
class RunningGuest:
    """A domain whose guest is up."""

    domain: Any
    report: GuestReport

    def hear(self, connection: Any, condition: Callable[[GuestReport], bool]) -> GuestReport:
        """Wait for a report of which something is true; the first one that is heard may be an old one.

        The connection may be to a daemon that was started since.
        """
        return _await_report(connection, connection.lookupByUUID(self.domain.UUID()), BOOT_TIMEOUT_SECONDS, condition)

    def agent(self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout_seconds: int = 10) -> Any:
        """Have the guest agent carry out a command and return its answer."""
        request: dict[str, Any] = {"execute": command}
        if arguments is not None:
            request["arguments"] = dict(arguments)
        return json.loads(libvirt_qemu.qemuAgentCommand(self.domain, json.dumps(request), timeout_seconds, 0))["return"]

    def wait_for_agent(self, timeout_seconds: float = AGENT_TIMEOUT_SECONDS) -> None:
        """Wait until the guest agent answers."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                self.agent("guest-ping", timeout_seconds=2)
            except libvirt.libvirtError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return


def boot(connection: Any, name: str, timeout_seconds: float = BOOT_TIMEOUT_SECONDS) -> GuestReport:
    """Start a domain, return its guest's report and switch it off again."""
    with running(connection, name, timeout_seconds) as guest:
        return guest.report


@contextmanager
def running(connection: Any, name: str, timeout_seconds: float = BOOT_TIMEOUT_SECONDS) -> Iterator[RunningGuest]:
    """Start a domain, wait for its guest's report, and switch it off at the end of the block."""
    domain = connection.lookupByName(name)
    domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    try:
        yield RunningGuest(domain, _await_report(connection, domain, timeout_seconds))
    finally:
        with suppress(libvirt.libvirtError):
            domain.destroy()


def _await_report(
    connection: Any,
    domain: Any,
    timeout_seconds: float,
    condition: Callable[[GuestReport], bool] = lambda _: True,
) -> GuestReport:
    # The console blocks its connection, so it gets one of its own. It ends when the connection is closed.
    console = libvirt.open(connection.getURI())
    chunks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    stream = console.newStream()
    try:
        console.lookupByUUID(domain.UUID()).openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
        reader = threading.Thread(target=_read, args=(stream, chunks.put), daemon=True)
        reader.start()
        started = time.monotonic()
        if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
            domain.resume()
        said = b""
        while True:
            while (found := REPORT.search(said)) is not None:
                report = _parse(json.loads(found[1]), time.monotonic() - started)
                if condition(report):
                    return report
                said = said[found.end() :]
            left = started + timeout_seconds - time.monotonic()
            try:
                chunk = chunks.get(timeout=max(left, 0))
            except queue.Empty:
                raise TimeoutError(f"{domain.name()} did not report in {timeout_seconds} s: {said!r}") from None
            if not chunk:
                raise RuntimeError(f"{domain.name()} ended before it reported: {said!r}")
            said += chunk
    finally:
        with suppress(libvirt.libvirtError):
            stream.abort()
        console.close()


def _read(stream: Any, put: Callable[[bytes], None]) -> None:
    """Hand on what a stream yields, and an empty chunk at its end."""
    with suppress(libvirt.libvirtError):
        while chunk := stream.recv(65536):
            put(chunk)
    put(b"")


def _parse(document: Mapping[str, Any], boot_seconds: float) -> GuestReport:
    disks = {
        name: DiskReport(
            capacity_bytes=disk["bytes"],
            marker=disk["marker"],
            first_mib=disk["first_mib"],
            last_mib=disk["last_mib"],
            serial=disk["serial"],
            read_only=disk["read_only"] == 1,
        )
        for name, disk in document["disks"].items()
    }
    interfaces = {name: InterfaceReport(**interface) for name, interface in document["interfaces"].items()}
    return GuestReport(
        uuid=document["uuid"],
        firmware=document["firmware"],
        cmdline=document["cmdline"],
        agent=bool(document["agent"]),
        disks=disks,
        interfaces=interfaces,
        boot_seconds=boot_seconds,
        records=document["records"],
        stray=document["stray"],
        checked=document["checked"],
        wrong=document["wrong"],
    )
