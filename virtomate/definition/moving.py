"""What a definition takes from its host, and the same definition with what another host has instead.

Source: https://libvirt.org/formatdomain.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from virtomate.definition.codec import copied
from virtomate.definition.file_readers import loader_path
from virtomate.definition.readers import as_list, child, devices, text
from virtomate.definition.rewrite.shape import size_bytes
from virtomate.definition.rewrite.unshared import Outcome
from virtomate.enums import MapKind
from virtomate.notices import Change, Notice, notice
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from virtomate.definition.codec import Document

# The elements of <os> that are paths of files of the host.
_BOOT_FILES = ("kernel", "initrd", "dtb", "shim")
# Words for a CPU that are modes and no models.
CPU_MODES = frozenset({"host-model", "host-passthrough", "maximum"})
# The CPU that libvirt gives to a domain whose definition names none.
DEFAULT_CPU = "default"
# A host device that the clone does not get.
NO_DEVICE = "none"


class Need(NamedTuple):
    """A thing of the host that a definition names.

    Attributes:
        kind: What `--map` calls its kind.
        name: Its name, as `--map` has it.
        where: What uses it, such as `interface 52:54:00:00:00:01`.
    """

    kind: MapKind
    name: str
    where: str


class Machine(NamedTuple):
    """What a hypervisor must be able to run; None where the definition leaves the choice to libvirt."""

    virt_type: str
    architecture: str | None
    machine: str | None
    emulator: str | None


def machine_of(domain: Document) -> Machine:
    """Return what a hypervisor must be able to run."""
    type_ = child(domain, "os").get("type")
    attributes = type_ if isinstance(type_, dict) else {}
    emulator = text(child(domain, "devices").get("emulator"))
    return Machine(str(domain.get("@type", "kvm")), attributes.get("@arch"), attributes.get("@machine"), emulator)


def memory_bytes(domain: Document) -> int:
    """Return the memory of the guest at its start, in bytes; 0 where the definition does not tell."""
    return size_bytes(domain.get("memory"))


def cpu_of(domain: Document) -> tuple[str, str] | None:
    """Return the mode of the CPU, and the name that `--map` has for it; None where the definition names none."""
    cpu = child(domain, "cpu")
    mode = str(cpu.get("@mode", "custom"))
    model = text(cpu.get("model"))
    if mode == "custom":
        return None if model is None else (mode, model)
    return mode, mode


def needs(domain: Document) -> Iterator[Need]:
    """Yield the networks, bridges, secrets, files of the boot loader, and host devices that a definition names."""
    for number, interface in enumerate(devices(domain, "interface"), 1):
        where = f"interface {child(interface, 'mac').get('@address', number)}"
        kind, source = interface.get("@type"), child(interface, "source")
        if kind == "network" and "@network" in source:
            yield Need(MapKind.NETWORK, str(source["@network"]), where)
        elif kind == "bridge" and "@bridge" in source:
            yield Need(MapKind.BRIDGE, str(source["@bridge"]), where)
        elif kind == "direct" and "@dev" in source:
            yield Need(MapKind.BRIDGE, str(source["@dev"]), where)
    yield from (Need(MapKind.SECRET, name, where) for name, where in _secrets(domain))
    yield from (Need(MapKind.FILE, path, what) for what, path in boot_files(domain))
    yield from (Need(MapKind.HOSTDEV, _device_name(device), "host device") for device in devices(domain, "hostdev"))


def boot_files(domain: Document) -> Iterator[tuple[str, str]]:
    """Yield the files of the host that are read at the start, with what each is."""
    os_element = child(domain, "os")
    if (loader := loader_path(domain)) is not None:
        yield "firmware", loader
    if (template := child(os_element, "nvram").get("@template")) is not None:
        yield "template of the NVRAM", str(template)
    for key in _BOOT_FILES:
        if (path := text(os_element.get(key))) is not None:
            yield key, path


def _secrets(domain: Document) -> Iterator[tuple[str, str]]:
    """Yield the secrets of disks and TPMs by UUID, else by type and usage as `TYPE/USAGE`."""
    for disk in devices(domain, "disk"):
        where = f"disk {child(disk, 'target').get('@dev', '')}"
        yield from ((_secret_name(secret), where) for secret in _secret_elements(disk))
    for tpm in devices(domain, "tpm"):
        encryption = child(child(tpm, "backend"), "encryption")
        if "@secret" in encryption:
            yield str(encryption["@secret"]), "TPM"


def _secret_elements(element: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - as the codec has it
    for item in element if isinstance(element, list) else [element]:
        if isinstance(item, dict):
            yield from as_list(item.get("secret"))
            for key, value in item.items():
                if key != "secret":
                    yield from _secret_elements(value)


def _secret_name(secret: Document) -> str:
    return str(secret["@uuid"]) if "@uuid" in secret else f"{secret.get('@type', 'volume')}/{secret.get('@usage', '')}"


def _device_name(device: Document) -> str:
    """Return the name of a host device: of a PCI device as libvirt has it, of others what the definition tells."""
    source, kind = child(device, "source"), str(device.get("@type", ""))
    address = next(iter(as_list(source.get("address"))), {})
    if kind == "pci":
        values = [int(str(address.get(f"@{part}", "0")), 0) for part in ("domain", "bus", "slot", "function")]
        return "pci_{:04x}_{:02x}_{:02x}_{:x}".format(*values)
    if kind == "usb" and "vendor" in source:
        return f"usb_{child(source, 'vendor').get('@id', '')}_{child(source, 'product').get('@id', '')}"
    return "_".join(
        (kind or "device", *(str(value) for value in {**source, **address}.values() if isinstance(value, str)))
    )


class Moved(NamedTuple):
    """What a clone has otherwise on another host; by kind and name as in `Need`.

    Attributes:
        names: The new names.
        emulator: The path of the emulator there, None where that of the original is there, too.
    """

    names: Mapping[tuple[MapKind, str], str]
    emulator: str | None = None

    def name(self, kind: MapKind, name: str) -> str:
        """Return what a thing is called there."""
        return self.names.get((kind, name), name)


def moved(domain: Document, new: Moved) -> Outcome:
    """Return the definition for another host, and what that changes."""
    domain = copied(domain)
    changes: list[Notice] = []

    def change(element: dict[str, Any], key: str, kind: MapKind, where: str) -> None:
        old = element.get(key)
        if isinstance(old, str) and (name := new.name(kind, old)) != old:
            element[key] = name
            changes.append(notice(Change.ASKED, where, old=f"{kind.value} '{old}'", new=f"'{name}'"))

    if new.emulator is not None:
        old = text(child(domain, "devices").get("emulator")) or ""
        domain["devices"]["emulator"] = new.emulator
        changes.append(notice(Change.OTHER_HOST, "emulator", old=f"'{old}'", new=f"'{new.emulator}'"))
    change(domain, "@type", MapKind.VIRT, "domain")
    type_ = child(domain, "os").get("type")
    if isinstance(type_, dict):
        change(type_, "@machine", MapKind.MACHINE, "machine")
    for number, interface in enumerate(devices(domain, "interface"), 1):
        where, source = f"interface {child(interface, 'mac').get('@address', number)}", child(interface, "source")
        change(source, "@network", MapKind.NETWORK, where)
        change(source, "@bridge", MapKind.BRIDGE, where)
        if interface.get("@type") == "direct":
            change(source, "@dev", MapKind.BRIDGE, where)
    _move_cpu(domain, new, changes)
    _move_files(domain, change)
    _move_secrets(domain, new, changes)
    _move_host_devices(domain, new, changes)
    return Outcome(domain, tuple(changes))


def _move_cpu(domain: Document, new: Moved, changes: list[Notice]) -> None:
    found = cpu_of(domain)
    if found is None or (name := new.name(MapKind.CPU, found[1])) == found[1]:
        return
    changes.append(notice(Change.ASKED, "CPU", old=f"'{found[1]}'", new=f"'{name}'"))
    kept = {key: value for key, value in child(domain, "cpu").items() if key in {"topology", "numa"}}
    if name == DEFAULT_CPU:
        cpu: dict[str, Any] = kept
    elif name in CPU_MODES:
        cpu = {"@mode": name, **kept}
    else:
        cpu = {"@mode": "custom", "@match": "exact", "model": {"@fallback": "forbid", "#text": name}, **kept}
    if cpu:
        domain["cpu"] = cpu
    else:
        domain.pop("cpu")


def _move_files(domain: Document, change: Any) -> None:  # noqa: ANN401 - a function of `moved`
    os_element = child(domain, "os")
    for key in (*_BOOT_FILES, "loader"):
        if isinstance(os_element.get(key), dict):
            change(os_element[key], "#text", MapKind.FILE, key)
        else:
            change(os_element, key, MapKind.FILE, key)
    change(child(os_element, "nvram"), "@template", MapKind.FILE, "template of the NVRAM")
    for disk in devices(domain, "disk"):
        change(child(disk, "source"), "@file", MapKind.FILE, f"disk {child(disk, 'target').get('@dev', '')}")


def _move_secrets(domain: Document, new: Moved, changes: list[Notice]) -> None:
    for disk in devices(domain, "disk"):
        where = f"disk {child(disk, 'target').get('@dev', '')}"
        for secret in _secret_elements(disk):
            old = _secret_name(secret)
            if (name := new.name(MapKind.SECRET, old)) != old:
                secret.pop("@usage", None)
                secret["@uuid"] = name
                changes.append(notice(Change.ASKED, where, old=f"secret '{old}'", new=f"'{name}'"))
    for tpm in devices(domain, "tpm"):
        encryption = child(child(tpm, "backend"), "encryption")
        was = encryption.get("@secret")
        if isinstance(was, str) and (name := new.name(MapKind.SECRET, was)) != was:
            encryption["@secret"] = name
            changes.append(notice(Change.ASKED, "TPM", old=f"secret '{was}'", new=f"'{name}'"))


def _move_host_devices(domain: Document, new: Moved, changes: list[Notice]) -> None:
    kept = []
    for device in devices(domain, "hostdev"):
        name = _device_name(device)
        if new.name(MapKind.HOSTDEV, name) == NO_DEVICE:
            changes.append(notice(Change.ASKED, f"host device '{name}'", old="the original's", new="none"))
        else:
            kept.append(device)
    if len(kept) != len(devices(domain, "hostdev")):
        domain["devices"]["hostdev"] = kept
