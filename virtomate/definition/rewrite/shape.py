"""Rule: memory, virtual CPUs and networks are those that were asked for, where one value of the definition says so.

Where other elements depend on the value, the definition would contradict itself, and the request is refused. Source:
https://libvirt.org/formatdomain.html#memory-allocation, #cpu-allocation and #network-interfaces
"""

from __future__ import annotations

import re
from math import prod
from typing import TYPE_CHECKING, Any

from virtomate.definition import readers
from virtomate.definition.codec import copied
from virtomate.definition.readers import as_list, child, devices, name, text
from virtomate.definition.rewrite.unshared import Outcome
from virtomate.errors import UnsupportedError, UsageError
from virtomate.notices import Change, Notice, notice
from virtomate.words import binary_size, virsh

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.definition.codec import Document

_KIB = 1024
_UNITS = {"b": 1, "bytes": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    word: _KIB**power for power, words in enumerate(("k KiB", "M MiB", "G GiB", "T TiB"), 1) for word in words.split()
}
# Elements of `<cputune>` that are about single virtual CPUs, and the attributes that name these.
_TUNED = {"vcpupin": "@vcpu", "vcpusched": "@vcpus", "cachetune": "@vcpus", "memorytune": "@vcpus"}
# The host's end of such an interface is a device that is made or passed through for it.
_BOUND_TO_DEVICE = frozenset({"hostdev", "vdpa"})
# What an interface keeps in another network: the card that the guest sees, and limits that libvirt applies everywhere.
_KEPT = (
    *("mac", "model", "driver", "address", "boot", "rom", "alias", "acpi", "link", "mtu", "bandwidth", "filterref"),
    *("tune", "coalesce", "port"),
)
# What is of use only where the type stays as it is.
_KEPT_IN_BRIDGE = ("target", "virtualport", "vlan")
_KEPT_IN_NETWORK = ("target", "@trustGuestRxFilters")


def with_memory(domain: Document, new_bytes: int) -> Outcome:
    """Return the definition with this memory; the guest gets less of it only where the original's balloon says so.

    Raises:
        UnsupportedError: Other elements depend on the size.
    """
    _refuse(domain, "memory", _memory_obstacles(domain, new_bytes), "--memory")
    domain = copied(domain)
    old, now = size_bytes(domain.get("memory")), size_bytes(domain.get("currentMemory"))
    _set_size(domain, "memory", new_bytes)
    if "currentMemory" in domain and (now >= old or now > new_bytes):
        _set_size(domain, "currentMemory", new_bytes)
    return _changed(domain, "memory", binary_size(old), binary_size(new_bytes))


def _memory_obstacles(domain: Document, new_bytes: int) -> Iterator[str]:
    if "maxMemory" in domain:
        yield "<maxMemory> for memory that is plugged in later"
    if as_list(child(child(domain, "cpu"), "numa").get("cell")):
        yield "<numa> cells, each with a part of the memory"
    if devices(domain, "memory"):
        yield "<memory> devices, which are parts of the memory"
    pages = as_list(child(child(domain, "memoryBacking"), "hugepages").get("page"))
    for page in pages:
        page_bytes = size_bytes(page, "@size")
        if page_bytes and new_bytes % page_bytes:
            yield f"huge pages of {binary_size(page_bytes)}, of which {binary_size(new_bytes)} is no multiple"
    limit = size_bytes(child(domain, "memtune").get("hard_limit"))
    if 0 < limit < new_bytes:
        yield f"a <hard_limit> of {binary_size(limit)}"


def with_vcpus(domain: Document, count: int) -> Outcome:
    """Return the definition with so many virtual CPUs; those that are not plugged in yet stay so, as far as possible.

    Raises:
        UnsupportedError: Other elements depend on the number.
    """
    _refuse(domain, "number of virtual CPUs", _vcpu_obstacles(domain, count), "--vcpus")
    domain = copied(domain)
    element = domain.get("vcpu")
    old = text(element) or "1"
    if isinstance(element, dict):
        element["#text"] = str(count)
        if int(element.get("@current", 0)) >= count:
            element.pop("@current")
    else:
        domain["vcpu"] = str(count)
    return _changed(domain, "virtual CPUs", old, str(count))


def _vcpu_obstacles(domain: Document, count: int) -> Iterator[str]:
    if str(count) == (text(domain.get("vcpu")) or "1"):
        return
    if "vcpus" in domain:
        yield "<vcpus>, which describes each of them"
    topology = child(child(domain, "cpu"), "topology")
    product = prod(int(value) for value in topology.values())
    if topology and product != count:
        yield f"a <topology> of {product}"
    if any("@cpus" in cell for cell in as_list(child(child(domain, "cpu"), "numa").get("cell"))):
        yield "<numa> cells, each with some of them"
    for kind, key in _TUNED.items():
        for tuned in as_list(child(domain, "cputune").get(kind)):
            if any(int(number) >= count for number in re.findall(r"\d+", str(tuned.get(key, "")))):
                yield f"<{kind}> of virtual CPU {tuned[key]}"


def find_interface(domain: Document, word: str | None) -> int:
    """Return the position of an interface: by its name on the host, its MAC address, or its number from 1 on.

    Raises:
        UsageError: There is no such interface, or none was named and there are several.
    """
    interfaces = devices(domain, "interface")
    if not interfaces:
        raise UsageError(f"--network: domain '{name(domain)}' has no network interface")
    names = [f"{number} ({_describe(interface)})" for number, interface in enumerate(interfaces, 1)]
    if word is None:
        if len(interfaces) > 1:
            raise UsageError(
                f"--network: domain '{name(domain)}' has {len(interfaces)} network interfaces, {', '.join(names)}; "
                "expected: IF=NETWORK with the number, MAC address or target device of an interface"
            )
        return 0
    if (position := readers.find_interface(domain, word)) is None:
        raise UsageError(
            f"--network: domain '{name(domain)}' has no network interface '{word}': it has {', '.join(names)}"
        )
    return position


def with_network(domain: Document, position: int, kind: str, source: str) -> Outcome:
    """Return the definition with an interface in another network, or at another bridge of the host.

    Args:
        domain: The definition.
        position: The interface.
        kind: `network` or `bridge`.
        source: Name of the network or bridge.

    Raises:
        UnsupportedError: The interface is a device of the host.
    """
    domain = copied(domain)
    old = devices(domain, "interface")[position]
    before = str(old.get("@type"))
    if before in _BOUND_TO_DEVICE:
        raise UnsupportedError(
            f"interface {_describe(old)} is a device of the host (type {before}), and --network cannot connect it",
            hint=_virt_xml("--network"),
        )
    where = _describe_source(old)
    new: dict[str, Any] = {"@type": kind}
    if before == kind:
        kept: tuple[str, ...] = _KEPT_IN_NETWORK if kind == "network" else _KEPT_IN_BRIDGE
    else:
        kept = ()
    for key in (*_KEPT, *kept):
        if key in old:
            new[key] = old[key]
    new["source"] = {f"@{kind}": source}
    domain["devices"]["interface"][position] = new
    mac = child(old, "mac").get("@address", position + 1)
    return _changed(domain, f"interface {mac}", where, _describe_source(new))


def _describe(interface: Document) -> str:
    mac, target = child(interface, "mac").get("@address"), child(interface, "target").get("@dev")
    return ", ".join(str(part) for part in (mac, target, _describe_source(interface)) if part)


def _describe_source(interface: Document) -> str:
    kind, source = str(interface.get("@type")), child(interface, "source")
    where = source.get(f"@{kind}") or source.get("@dev")
    return f"{kind} '{where}'" if where else kind


def _refuse(domain: Document, what: str, obstacles: Iterator[str], option: str) -> None:
    obstacle = next(obstacles, None)
    if obstacle is not None:
        raise UnsupportedError(
            f"the {what} of clones of '{name(domain)}' cannot be changed alone: the definition has {obstacle}",
            hint=_virt_xml(option),
        )


def _virt_xml(option: str) -> str:
    return f"Leave out {option}, and change the clone with {virsh('edit')} or virt-xml."


def _changed(domain: Document, what: str, old: str, new: str) -> Outcome:
    changes: tuple[Notice, ...] = () if old == new else (notice(Change.ASKED, what, old=old, new=new),)
    return Outcome(domain, changes)


def _set_size(domain: Document, key: str, new_bytes: int) -> None:
    """Set a size; other attributes of the element stay."""
    element = domain.get(key)
    others = element if isinstance(element, dict) else {}
    domain[key] = {**others, "@unit": "KiB", "#text": str(new_bytes // _KIB)}


def size_bytes(element: Any, key: str = "#text") -> int:  # noqa: ANN401 - as the codec has it
    """Return a size, which is in KiB without a unit; 0 where there is none."""
    if not isinstance(element, dict):
        element = {"#text": element}
    value = str(element.get(key) or "")
    return int(value) * _UNITS.get(str(element.get("@unit", "KiB")), _KIB) if value.isdecimal() else 0
