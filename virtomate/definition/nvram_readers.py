"""The firmware and the NVRAM of a domain's definition.

Source: https://libvirt.org/formatdomain.html#bios-bootloader
"""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

from virtomate.definition.readers import child, text
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.codec import Document

# The name that libvirt gives to the file behind the second flash device when it starts QEMU.
_NVRAM_NODE_NAME = "libvirt-pflash1-storage"
# The elements that decide which firmware libvirt selects.
_FIRMWARE = frozenset({"@firmware", "type", "firmware", "loader", "nvram"})
_FEATURES_OF_FIRMWARE = frozenset({"acpi", "apic", "gic", "smm"})


class NvramDefinition(NamedTuple):
    """The `<nvram>` of a definition, which holds the firmware's variables.

    Attributes:
        path: Path of the file; None where libvirt places the file, or the source is not a file.
        type: `file`, or another kind of source.
        format: `raw` unless the definition says otherwise.
        template: File that libvirt copies where the NVRAM is missing, if the definition names one.
    """

    path: str | None
    type: str
    format: str
    template: str | None = None


def nvram(domain: Document) -> NvramDefinition | None:
    """Return the NVRAM, if the definition shows one.

    The path is the element's text or, since libvirt 8.5, in a `<source>` beside `type='file'`.
    """
    os_element = child(domain, "os")
    if "nvram" not in os_element:
        return None
    element = os_element["nvram"]
    attributes = element if isinstance(element, dict) else {}
    kind = str(attributes.get("@type", "file"))
    format_ = str(attributes.get("@format", "raw"))
    path = child(attributes, "source").get("@file") if "@type" in attributes else text(element)
    return NvramDefinition(path.strip() if isinstance(path, str) else None, kind, format_, attributes.get("@template"))


def has_selected_nvram(domain: Document) -> bool:
    """Return whether libvirt places the NVRAM itself, which the definitions of libvirt 9.0 do not show.

    libvirt does so for autoselected EFI firmware (`<os firmware='efi'>`) and for a read-only pflash loader, unless the
    loader is stateless.
    """
    os_element = child(domain, "os")
    loader = child(os_element, "loader")
    if loader.get("@stateless") == "yes":
        return False
    if os_element.get("@firmware") == "efi":
        return True
    return loader.get("@type") == "pflash" and loader.get("@readonly") == "yes"


def firmware_only(domain: Document) -> Document:
    """Return the part of a definition that decides about the firmware and the path of the NVRAM.

    libvirt is asked for the path with this part alone, since the same call fails for many host devices, and libvirt 9.0
    crashes on an `<interface type='hostdev'>`.
    """
    os_element = child(domain, "os")
    features = child(domain, "features")
    emulator = child(domain, "devices").get("emulator")
    few: Document = {
        **{key: domain[key] for key in ("@type", "name", "uuid", "memory", "vcpu") if key in domain},
        "os": {key: value for key, value in os_element.items() if key in _FIRMWARE},
        "features": {key: value for key, value in features.items() if key in _FEATURES_OF_FIRMWARE},
    }
    return few if emulator is None else {**few, "devices": {"emulator": emulator}}


def own_nvram_probe(domain: Document) -> Document:
    """Return a domain of the same name and machine whose NVRAM libvirt places itself, with any firmware or none."""
    probe = firmware_only(domain)
    os_element = {key: value for key, value in probe["os"].items() if key == "type"}
    # libvirt does not look for the loader before a start
    return {**probe, "os": {**os_element, "loader": {"@readonly": "yes", "@type": "pflash", "#text": "/firmware"}}}


def selects_firmware(domain: Document) -> bool:
    """Return whether libvirt selects the firmware: the definition names its kind."""
    return "@firmware" in child(domain, "os")


def loader_path(domain: Document) -> str | None:
    """Return the path of the firmware, if the definition names it."""
    return text(child(domain, "os").get("loader"))


def nvram_path_of_command_line(command_line: str) -> str | None:
    """Return the NVRAM's path from the command line that libvirt would start QEMU with (`domainXMLToNative`)."""
    for word in shlex.split(command_line):
        if not word.startswith("{"):
            continue
        try:
            node = json.loads(word)
        except ValueError:
            continue
        if isinstance(node, dict) and node.get("node-name") == _NVRAM_NODE_NAME and "filename" in node:
            return str(node["filename"])
    return None
