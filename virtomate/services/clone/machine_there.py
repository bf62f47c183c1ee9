"""Whether the hypervisor of another host can run the machine of an original: emulator, CPU, firmware, TPM, memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition import codec, file_readers, moving
from virtomate.definition.capabilities import read_domain_capabilities
from virtomate.definition.readers import child, devices
from virtomate.enums import MapKind
from virtomate.errors import HypervisorError, NoFirmwareError
from virtomate.hypervisor import host
from virtomate.hypervisor.domains import native_command_line
from virtomate.services.clone.comparison import Lack
from virtomate.tuples import NamedTuple
from virtomate.words import binary_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.definition.capabilities import DomainCapabilities, HostCapabilities
    from virtomate.definition.moving import Machine
    from virtomate.services.clone.comparison import Comparison


class MachineThere(NamedTuple):
    """What is missing for a machine, and the firmware that libvirt knows on the other host, by path."""

    lacks: tuple[Lack, ...]
    loaders: frozenset[str] = frozenset()


def missing_for_machine(look: Comparison, there: HostCapabilities) -> MachineThere:
    """Return what the other host lacks; the emulator of that host is taken where the original's path is not there."""
    memory = tuple(_memory(look))
    original = moving.machine_of(look.survey.source.definition.domain)
    virt = look.use(MapKind.VIRT, original.virt_type, "domain")
    named = None if original.machine is None else look.use(MapKind.MACHINE, original.machine, "domain")
    machine = original._replace(virt_type=virt, machine=named)
    cpu = moving.cpu_of(look.survey.source.definition.domain)
    if cpu is not None:
        look.use(MapKind.CPU, cpu[1], "domain")
    if lacks := tuple(_types(look, original, machine, there)):
        return MachineThere((*lacks, *memory))
    capabilities = _emulator(look, machine)
    if capabilities is None:
        what = f"an emulator for machine type '{machine.machine}' and domains of type {machine.virt_type}"
        return MachineThere((Lack(what, None), *memory))
    lacks = (*_cpu(look, machine, capabilities), *_firmware(look), *_tpm(look, capabilities), *memory)
    return MachineThere(lacks, capabilities.loaders)


def _types(look: Comparison, original: Machine, machine: Machine, there: HostCapabilities) -> Iterator[Lack]:
    arch = machine.architecture
    if arch is None:
        return
    if arch not in there.virt_types:
        yield Lack(f"an emulator for architecture {arch}", None)
        return
    if machine.virt_type not in there.virt_types[arch]:
        yield look.lack(MapKind.VIRT, original.virt_type, f"architecture {arch}")
    known = there.machines.get(arch, frozenset())
    if known and machine.machine is not None and machine.machine not in known:
        yield look.lack(MapKind.MACHINE, original.machine or "", f"architecture {arch}")


def _emulator(look: Comparison, machine: Machine) -> DomainCapabilities | None:
    """Return what the emulator can do, and note the other host's own emulator where the original's is not there."""
    connection = look.survey.target.connection
    words = (machine.architecture, machine.machine, machine.virt_type)
    document = host.domain_capabilities(connection, machine.emulator, *words)
    if document is None and machine.emulator is not None:
        document = host.domain_capabilities(connection, None, *words)
        found = None if document is None else read_domain_capabilities(document).emulator
        look.moved = look.moved._replace(emulator=found)
    return None if document is None else read_domain_capabilities(document)


def _cpu(look: Comparison, machine: Machine, capabilities: DomainCapabilities) -> Iterator[Lack]:
    original = moving.cpu_of(look.survey.source.definition.domain)
    domain = moving.moved(look.survey.source.definition.domain, look.moved).domain
    now = moving.cpu_of(domain)
    if original is None or now is None:
        return
    if now[0] != "custom":
        if now[0] not in capabilities.cpu_modes:
            yield look.lack(MapKind.CPU, original[1], "domain")
        return
    words = (capabilities.emulator, machine.architecture, machine.machine, machine.virt_type)
    cpu = codec.unparse(child(domain, "cpu"), "cpu")
    if host.runs_cpu(look.survey.target.connection, *words, cpu) is False:
        yield look.lack(MapKind.CPU, original[1], "domain", "with all of its features")


def _firmware(look: Comparison) -> Iterator[Lack]:
    domain = moving.moved(look.survey.source.definition.domain, look.moved).domain
    if not file_readers.selects_firmware(domain):
        return
    probe = codec.unparse(file_readers.firmware_only(domain), "domain")
    try:
        native_command_line(look.survey.target.connection, probe)
    except NoFirmwareError as error:
        yield Lack(f"firmware that libvirt would select ({error.message})", None)
    except HypervisorError:
        # about something else, which libvirt will tell when it judges the definition of the clone
        return


def _tpm(look: Comparison, capabilities: DomainCapabilities) -> Iterator[Lack]:
    for tpm in devices(look.survey.source.definition.domain, "tpm"):
        kind = str(child(tpm, "backend").get("@type", ""))
        if capabilities.tpm_backends is not None and kind not in capabilities.tpm_backends:
            yield Lack(f"what a TPM of type {kind} needs", None)


def _memory(look: Comparison) -> Iterator[Lack]:
    shape = look.survey.request.shape
    asked = None if shape is None else shape.memory_bytes
    needed = asked or moving.memory_bytes(look.survey.source.definition.domain)
    there = host.memory_bytes(look.survey.target.connection)
    if needed > there:
        yield Lack(f"{binary_size(needed)} of memory (it has {binary_size(there)})", "--memory SIZE")
