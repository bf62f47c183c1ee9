"""The guest agent and the addresses of an active domain.

Source: https://www.qemu.org/docs/master/interop/qemu-ga-ref.html
"""

from __future__ import annotations

import json
import logging
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

import libvirt
import libvirt_qemu

from virtomate.enums import AddressSource
from virtomate.errors import AgentUnresponsiveError, NoAgentError, OversizeError, ProgramError
from virtomate.hypervisor.calls import asking
from virtomate.hypervisor.translate import one_line, translate
from virtomate.tuples import NamedTuple
from virtomate.words import virtomate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from virtomate.errors import VirtomateError
    from virtomate.hypervisor.domains import Domain
    from virtomate.hypervisor.networks import ReservedAddress

# Since libvirt 11.2; an older binding does not have their names.
_AGENT_COMMAND_TIMEOUT = 112
_AGENT_COMMAND_FAILED = 113

_SILENT = {libvirt.VIR_ERR_AGENT_UNRESPONSIVE, libvirt.VIR_ERR_AGENT_UNSYNCED, _AGENT_COMMAND_TIMEOUT}
# A refusal of the agent was an internal error before 11.2.
_REFUSED = {libvirt.VIR_ERR_INTERNAL_ERROR, _AGENT_COMMAND_FAILED}

_SOURCES = {
    AddressSource.LEASE: libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
    AddressSource.AGENT: libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
    AddressSource.ARP: libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
}
_ADDRESS_TYPES = {libvirt.VIR_IP_ADDR_TYPE_IPV4: "IPv4", libvirt.VIR_IP_ADDR_TYPE_IPV6: "IPv6"}

# The time for an agent with much to do; the greeting that libvirt sends first unmasks a dead agent after 5 s.
_COMMAND_SECONDS = 30

# A message has to fit into the buffer of the agent's socket (208 KiB): libvirt 9.0 gets stuck in longer ones.
_MESSAGE_BYTES = 200_000


class Address(NamedTuple):
    """An IP address and the length of its network's prefix; the type is `IPv4` or `IPv6`."""

    type: str
    address: str
    prefix: int


class DomainInterface(NamedTuple):
    """A network interface of an active domain.

    Attributes:
        name: The name on the host, or in the guest where the agent tells it.
        hwaddr: The MAC address, None for an interface without one.
        dhcp_entry: The address that its network keeps for it, None where there is none or that was not asked for.
    """

    name: str
    hwaddr: str | None
    addresses: tuple[Address, ...]
    dhcp_entry: ReservedAddress | None = None


class RunResult(NamedTuple):
    """The end of a program in a guest.

    Attributes:
        exit_code: None where a signal ended the program.
        signal: Number of that signal, else None.
        stdout: The program's output, byte for byte.
        stdout_truncated: Whether the program wrote more than that.
    """

    exit_code: int | None
    signal: int | None
    stdout: bytes
    stderr: bytes
    stdout_truncated: bool = False
    stderr_truncated: bool = False


def call_agent(
    domain: Domain, command: str, arguments: Mapping[str, Any] | None = None, seconds: int = _COMMAND_SECONDS
) -> Any:  # noqa: ANN401 - JSON
    """Have the guest agent carry out a command and return the answer.

    Args:
        domain: The domain of the guest.
        command: The command.
        arguments: Its arguments.
        seconds: How long the agent may take; libvirt waits 5 seconds at least for an agent that hangs.

    Raises:
        IllegalStateError: The domain is not running.
        AgentUnresponsiveError: The agent does not answer.
        ProgramError: The agent does not carry out the command.
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
    logging.getLogger(__name__).debug("asking the guest agent of domain '%s': %s", domain.name, command)
    try:
        with asking(f"the guest agent of domain '{domain.name}'"):
            answer = libvirt_qemu.qemuAgentCommand(domain.handle, message, seconds, 0)
    except libvirt.libvirtError as error:
        failure = f"the guest agent of domain '{domain.name}' does not carry out {command}"
        raise _translate(error, domain, failure) from error
    return json.loads(answer)["return"]


def start_program(
    domain: Domain, program: str, arguments: Sequence[str], *, stdin: bytes | None = None, capture: bool = True
) -> int:
    """Start a program in the guest and return the number of its process; for the errors see `call_agent`.

    The input is 140 KiB at most. The agent keeps the output only if told to capture it.
    """
    request: dict[str, Any] = {"path": program, "arg": list(arguments), "capture-output": capture}
    if stdin is not None:
        request["input-data"] = b64encode(stdin).decode("ascii")
    return int(call_agent(domain, "guest-exec", request)["pid"])


def program_end(domain: Domain, pid: int) -> RunResult | None:
    """Return how a program ended, None while the program runs; the agent tells the end once, and forgets it.

    Raises:
        ProgramError: The agent does not know the process, or the output is more than libvirt passes on (3 MiB).
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
        stdout=b64decode(status.get("out-data", "")),
        stderr=b64decode(status.get("err-data", "")),
        stdout_truncated=bool(status.get("out-truncated", False)),
        stderr_truncated=bool(status.get("err-truncated", False)),
    )


def interface_addresses(domain: Domain, source: AddressSource) -> tuple[DomainInterface, ...]:
    """Return the network interfaces of an active domain that the source knows, by name.

    Raises:
        IllegalStateError: The domain is not active, or, with the agent as source, not running.
        AgentUnresponsiveError: The source is the agent, which does not answer.
    """
    try:
        found = domain.handle.interfaceAddresses(_SOURCES[source], 0)
    except libvirt.libvirtError as error:
        failure = f"cannot read the addresses of domain '{domain.name}'"
        # the codes have another meaning where no agent was asked
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
