"""The devices that a domain has while it runs, compared with those in its definition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from virtomate.definition.readers import child, devices

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.definition.codec import Document

# Where the name of a device stands.
_NAMES = {"disk": ("target", "@dev"), "interface": ("mac", "@address")}
# What a plugged memory module changes beside the devices.
_SIZES = ("memory", "currentMemory")


def with_active_devices(inactive: Document, active: Document) -> Document:
    """Return a definition with the devices of the running domain, as they are to be defined.

    Everything else stays, since a running domain has a CPU model and labels of its own. What libvirt adds to devices
    for the time of a run, it drops when a definition is defined, except for the backing chains that it found.
    """
    found = child(active, "devices")
    disks = [{key: value for key, value in disk.items() if key != "backingStore"} for disk in devices(active, "disk")]
    sizes = {key: active[key] for key in _SIZES if "memory" in found and key in active}
    return {**inactive, **sizes, "devices": {**found, "disk": disks} if disks else found}


def plugged_devices(inactive: Document, active: Document) -> Iterator[str]:
    """Yield a name for each device that the running domain has, and its definition has not."""
    for kind, found in child(active, "devices").items():
        if not isinstance(found, list):
            continue
        known = [_key(kind, device) for device in devices(inactive, kind)]
        for device in devices(active, kind):
            key = _key(kind, device)
            if key in known:
                known.remove(key)
            else:
                yield _name(kind, device)


def _key(kind: str, device: dict[str, Any]) -> object:
    """Return what a device has in common in both definitions, and with no other device of the domain."""
    if kind in _NAMES:
        return _name(kind, device)
    if address := child(device, "address"):
        # the place of a memory module in the guest's memory is known only when the domain runs
        return frozenset(item for item in address.items() if item[0] != "@base")
    target = child(device, "target")
    return device.get("@type"), device.get("@bus"), target.get("@name"), target.get("@port"), device.get("key")


def _name(kind: str, device: dict[str, Any]) -> str:
    place, key = _NAMES.get(kind, ("alias", "@name"))
    name = child(device, place).get(key)
    return f"{kind} {name}" if name else f"device of type {kind}"
