"""The TPM of a domain's definition.

Source: https://libvirt.org/formatdomain.html#tpm-device
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from virtomate.definition.codec import copied
from virtomate.definition.readers import child, devices
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.codec import Document

EMULATOR = "emulator"
# of a backend, what decides about the state that libvirt keeps
_STATE = ("@persistent_state", "encryption")


class TpmDefinition(NamedTuple):
    """A TPM.

    Attributes:
        backend: `emulator`, `passthrough`, `external`.
        version: `1.2` or `2.0`; libvirt tells the version of every emulator.
        path: Path of a device, a socket, or the state of an emulator; None where libvirt chooses the path of the state.
        place: What is at the path of the state of an emulator: `dir` or `file`; None for all other paths.
    """

    backend: str
    version: str
    path: str | None
    place: str | None = None

    @property
    def is_emulated(self) -> bool:
        """Return whether libvirt runs an emulator, whose state it keeps."""
        return self.backend == EMULATOR


def read_tpm(domain: Document) -> TpmDefinition | None:
    """Return the TPM of a domain, None without a TPM; of two devices one is a proxy without state of its own."""
    found = [_read(child(device, "backend")) for device in devices(domain, "tpm")]
    return next((tpm for tpm in found if tpm.is_emulated), found[0] if found else None)


def has_emulated_tpm(domain: Document) -> bool:
    """Return whether a domain has a TPM whose state libvirt keeps."""
    tpm = read_tpm(domain)
    return tpm is not None and tpm.is_emulated


def _read(backend: dict[str, Any]) -> TpmDefinition:
    source = child(backend, "source")
    path = child(backend, "device").get("@path") or source.get("@path")
    place = source.get("@type") if _names_place(backend) else None
    return TpmDefinition(str(backend.get("@type", "")), str(backend.get("@version", "2.0")), path, place)


def _names_place(backend: dict[str, Any]) -> bool:
    """Return whether a definition names the place of the state of an emulated TPM (libvirt from 10.10 on)."""
    return backend.get("@type") == EMULATOR and "source" in backend


def with_place_of_tpm(domain: Document, path: str | None, place: str | None) -> Document:
    """Return a definition that names a place if it named one before; None leaves the place to libvirt."""
    domain = copied(domain)
    for device in devices(domain, "tpm"):
        backend = child(device, "backend")
        if _names_place(backend) and path is None:
            del backend["source"]
        elif _names_place(backend):
            backend["source"] = {"@type": place, "@path": path}
    return domain


def with_removable_state(tpm: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - as xmltodict has it
    """Return emulated TPMs such that libvirt removes the state that it keeps by UUID with the definition.

    State at a place that the definition names is left out: libvirt would remove whatever is there, with all files of a
    directory.
    """
    backends = [(device, child(device or {}, "backend")) for device in tpm or []]
    return [
        {**device, "backend": {key: value for key, value in backend.items() if key not in _STATE}}
        for device, backend in backends
        if backend.get("@type") == EMULATOR and not _names_place(backend)
    ]


def without_places_of_tpm(tpm: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - as xmltodict has it
    """Return TPMs without those of which libvirt would remove the state at the place that the definition names."""
    return [device for device in tpm or [] if not _names_place(child(device or {}, "backend"))]
