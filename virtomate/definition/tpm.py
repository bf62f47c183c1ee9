"""The TPM of a domain's definition.

Source: https://libvirt.org/formatdomain.html#tpm-device
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from virtomate.definition.readers import child, devices
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.codec import Document

EMULATOR = "emulator"
# of a backend, what decides about the state that libvirt keeps
_STATE = ("@persistent_state", "encryption", "source")


class TpmDefinition(NamedTuple):
    """A TPM.

    Attributes:
        backend: `emulator`, `passthrough`, `external`.
        version: `1.2` or `2.0`; libvirt tells the version of every emulator.
        path: Path of a device, a socket, or the state of an emulator; None where libvirt chooses the path of the state.
    """

    backend: str
    version: str
    path: str | None

    @property
    def is_emulated(self) -> bool:
        """Return whether libvirt runs an emulator, whose state it keeps."""
        return self.backend == EMULATOR


def read_tpm(domain: Document) -> TpmDefinition | None:
    """Return the TPM of a domain, None without a TPM; of two devices one is a proxy without state of its own."""
    found = [_read(child(device, "backend")) for device in devices(domain, "tpm")]
    return next((tpm for tpm in found if tpm.is_emulated), found[0] if found else None)


def _read(backend: dict[str, Any]) -> TpmDefinition:
    path = child(backend, "device").get("@path") or child(backend, "source").get("@path")
    return TpmDefinition(str(backend.get("@type", "")), str(backend.get("@version", "2.0")), path)


def with_removable_state(tpm: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - as xmltodict has it
    """Return emulated TPMs such that libvirt removes the state that it keeps by UUID with the definition."""
    devices_ = [device for device in tpm or [] if child(device or {}, "backend").get("@type") == EMULATOR]
    return [
        {**device, "backend": {key: value for key, value in device["backend"].items() if key not in _STATE}}
        for device in devices_
    ]
