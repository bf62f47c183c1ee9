"""What an active domain tells of itself: its guest agent, and its addresses.

Source: https://www.qemu.org/docs/master/interop/qemu-ga-ref.html
"""

from __future__ import annotations

import base64
import json
import logging
from typing import TYPE_CHECKING, Any

import libvirt
import libvirt_qemu

from virtomate.enums import AddressSource
from virtomate.errors import AgentUnresponsiveError, NoAgentError, OversizeError, ProgramError
from virtomate.hypervisor.translate import one_line, translate
from virtomate.tuples import NamedTuple
from virtomate.words import virtomate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from virtomate.errors import VirtomateError
    from virtomate.hypervisor.domains import Domain

_LOG = logging.getLogger(__name__)

# Since libvirt 11.2, whose names an older binding does not have.
_AGENT_COMMAND_TIMEOUT = 112
_AGENT_COMMAND_FAILED = 113

_SILENT = {libvirt.VIR_ERR_AGENT_UNRESPONSIVE, libvirt.VIR_ERR_AGENT_UNSYNCED, _AGENT_COMMAND_TIMEOUT}
# Before 11.2, that the agent refused a command was an internal error.
_REFUSED = {libvirt.VIR_ERR_INTERNAL_ERROR, _AGENT_COMMAND_FAILED}

_SOURCES = {
    AddressSource.LEASE: libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
    AddressSource.AGENT: libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
    AddressSource.ARP: libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
}
_ADDRESS_TYPES = {libvirt.VIR_IP_ADDR_TYPE_IPV4: "IPv4", libvirt.VIR_IP_ADDR_TYPE_IPV6: "IPv6"}

# A dead agent is noticed by the greeting that libvirt sends first (5 s); this is for one that has much to do.
_COMMAND_SECONDS = 30

# A message has to fit into the buffer of the agent's socket (208 KiB): libvirt 9.0 gets stuck in longer ones.
_MESSAGE_BYTES = 200_000


class Address(NamedTuple):
    """An IP address and the length of its network's prefix.

    Attributes:
        type: `IPv4` or `IPv6`.
    """

    type: str
    address: str
    prefix: int


class DomainInterface(NamedTuple):
    """A network interface of an active domain, with its addresses.

    Attributes:
        name: Its name on the host, or in the guest where the agent tells it.
        hwaddr: Its MAC address, None where it has none.
    """

    name: str
    hwaddr: str | None
    addresses: tuple[Address, ...]


class RunResult(NamedTuple):
    """How a program in a guest ended.

    Attributes:
        exit_code: None where a signal ended it.
        signal: Number of that signal, else None.
        stdout: What it wrote, byte for byte.
        stderr: Likewise.
        stdout_truncated: Whether it wrote more than that.
        stderr_truncated: Likewise.
    """

    exit_code: int | None
    signal: int | None
    stdout: bytes
    stderr: bytes
    stdout_truncated: bool = False
    stderr_truncated: bool = False


def call_agent(domain: Domain, command: str, arguments: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401 - JSON
    """Have the guest agent carry out a command and return its answer; takes up to five seconds where there is none.

    Raises:
        IllegalStateError: The domain is not running.
        AgentUnresponsiveError: The agent does not answer.
        ProgramError: It does not carry out the command.
    """
    request: dict[str, Any] = {"execute": command}
    if arguments is not None:
        request["arguments"] = dict(arguments)
    message = json.dumps(request)
    if len(message) > _MESSAGE_BYTES:
        raise ProgramError(
            f"what is to be passed on to the guest agent of domain '{domain.name}' is too long: {len(message)} bytes, "
            f"of {_MESSAGE_BYTES} at most"
        )
    _LOG.debug("asking the guest agent of domain '%s': %s", domain.name, command)
    failure = f"the guest agent of domain '{domain.name}' does not carry out {command}"
    try:
        answer = libvirt_qemu.qemuAgentCommand(domain.handle, message, _COMMAND_SECONDS, 0)
    except libvirt.libvirtError as error:
        raise _translate(error, domain, failure) from error
    return json.loads(answer)["return"]


def ping_agent(domain: Domain) -> None:
    """Ask the guest agent for an answer, at most for five seconds; for the errors see `call_agent`."""
    call_agent(domain, "guest-ping")


def start_program(
    domain: Domain, program: str, arguments: Sequence[str], *, stdin: bytes | None = None, capture: bool = True
) -> int:
    """Start a program in the guest and return the number of its process.

    Args:
        domain: The domain.
        program: Name or path of the program.
        arguments: Its arguments.
        stdin: What it gets to read; 140 KiB at most.
        capture: Keep what it writes.

    Raises:
        ProgramError: The agent could not start it.
        IllegalStateError: The domain is not running.
        AgentUnresponsiveError: The agent does not answer.
    """
    request: dict[str, Any] = {"path": program, "arg": list(arguments), "capture-output": capture}
    if stdin is not None:
        request["input-data"] = base64.b64encode(stdin).decode("ascii")
    return int(call_agent(domain, "guest-exec", request)["pid"])


def program_end(domain: Domain, pid: int) -> RunResult | None:
    """How a started program ended, None while it runs; the agent tells the end once, and forgets it.

    Raises:
        ProgramError: The agent does not know the process, or it wrote more than libvirt passes on (3 MiB).
        IllegalStateError: The domain is not running.
        AgentUnresponsiveError: The agent does not answer.
    """
    try:
        status = call_agent(domain, "guest-exec-status", {"pid": pid})
    except OversizeError as error:
        raise ProgramError(f"process {pid} wrote more than libvirt passes on in a message") from error
    if not status["exited"]:
        return None
    return RunResult(
        exit_code=status.get("exitcode"),
        signal=status.get("signal"),
        stdout=base64.b64decode(status.get("out-data", "")),
        stderr=base64.b64decode(status.get("err-data", "")),
        stdout_truncated=bool(status.get("out-truncated", False)),
        stderr_truncated=bool(status.get("err-truncated", False)),
    )


def interface_addresses(domain: Domain, source: AddressSource) -> tuple[DomainInterface, ...]:
    """The network interfaces of an active domain of which the source knows, by name, with their addresses.

    Raises:
        IllegalStateError: The domain is not active; with `agent`, it is not running.
        AgentUnresponsiveError: The agent was to be asked and does not answer.
    """
    try:
        found = domain.handle.interfaceAddresses(_SOURCES[source], 0)
    except libvirt.libvirtError as error:
        failure = f"cannot read the addresses of domain '{domain.name}'"
        # only of an agent do the codes say what they say of one
        translation = _translate(error, domain, failure) if source is AddressSource.AGENT else translate(error, failure)
        raise translation from error
    interfaces = [
        DomainInterface(name or "", interface["hwaddr"] or None, tuple(sorted(map(_address, interface["addrs"] or []))))
        for name, interface in found.items()
    ]
    return tuple(sorted(interfaces, key=lambda interface: interface.name))


def _address(address: Mapping[str, Any]) -> Address:
    return Address(_ADDRESS_TYPES[address["type"]], address["addr"], address["prefix"])


def _translate(error: libvirt.libvirtError, domain: Domain, failure: str) -> VirtomateError:
    code = error.get_error_code()
    if code in _SILENT:
        wait = virtomate("guest-ping", domain.name, options="--wait SECONDS")
        return AgentUnresponsiveError(
            f"the guest agent of domain '{domain.name}' does not answer: {one_line(error)}",
            hint=f"It may still be starting: {wait} waits for it. Or the guest has none.",
            code=code,
        )
    if code == libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED:
        return NoAgentError(
            f"domain '{domain.name}' has no guest agent: {one_line(error)}",
            hint="Add a channel called org.qemu.guest_agent.0 to its definition, and qemu-guest-agent to the guest.",
            code=code,
        )
    if code in _REFUSED and error.get_error_domain() == libvirt.VIR_FROM_QEMU:
        return ProgramError(f"{failure}: {one_line(error)}")
    return translate(error, failure)
