"""The firmware and the NVRAM of a domain's definition.

Source: https://libvirt.org/formatdomain.html#bios-bootloader
"""

from __future__ import annotations

import json
import shlex
from contextlib import suppress
from typing import TYPE_CHECKING

from virtomate.definition.readers import child, text
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.codec import Document

# libvirt's name for the file behind the second flash device of QEMU.
_NVRAM_NODE_NAME = "libvirt-pflash1-storage"
# The elements that decide which firmware libvirt selects.
_FIRMWARE = frozenset({"@firmware", "type", "firmware", "loader", "nvram"})
_FEATURES_OF_FIRMWARE = frozenset({"acpi", "apic", "gic", "smm"})


class NvramDefinition(NamedTuple):
    """The `<nvram>` of a definition, which holds the firmware's variables.

    Attributes:
        path: Path of the file; None where libvirt places the file, or the source is not a file.
        type: `file`, or another kind of source.
        template: File that libvirt copies where the NVRAM is missing, if the definition names a template.
    """

    path: str | None
    type: str
    format: str
    template: str | None = None


def nvram(domain: Document) -> NvramDefinition | None:
    """Return the NVRAM, if the definition shows it.

    The path is the element's text or, since libvirt 8.5, in a `<source>` beside `type='file'`.
    """
    os_element = child(domain, "os")
    if "nvram" not in os_element:
        return None
    attributes = child(os_element, "nvram")
    path = child(attributes, "source").get("@file") if "@type" in attributes else text(os_element["nvram"])
    return NvramDefinition(
        path=path.strip() if isinstance(path, str) else None,
        type=str(attributes.get("@type", "file")),
        format=str(attributes.get("@format", "raw")),
        template=attributes.get("@template"),
    )


def has_selected_nvram(domain: Document) -> bool:
    """Return whether libvirt places the NVRAM itself, which the definitions of libvirt 9.0 do not show.

    libvirt does so for autoselected EFI firmware (`<os firmware='efi'>`) and for a read-only pflash loader, unless the
    loader is stateless.
    """
    os_element = child(domain, "os")
    loader = child(os_element, "loader")
    is_read_only_flash = loader.get("@type") == "pflash" and loader.get("@readonly") == "yes"
    return loader.get("@stateless") != "yes" and (os_element.get("@firmware") == "efi" or is_read_only_flash)


def firmware_only(domain: Document) -> Document:
    """Return the part of a definition that decides about the firmware and the path of the NVRAM.

    libvirt is asked for the path with this part alone, since the same call fails for many host devices, and libvirt 9.0
    crashes on an `<interface type='hostdev'>`.
    """
    few: Document = {
        **{key: domain[key] for key in ("@type", "name", "uuid", "memory", "vcpu") if key in domain},
        "os": {key: value for key, value in child(domain, "os").items() if key in _FIRMWARE},
        "features": {key: value for key, value in child(domain, "features").items() if key in _FEATURES_OF_FIRMWARE},
    }
    emulator = child(domain, "devices").get("emulator")
    return few if emulator is None else {**few, "devices": {"emulator": emulator}}


def own_nvram_probe(domain: Document) -> Document:
    """Return a domain of the same name and machine whose NVRAM libvirt places itself, with any firmware or without."""
    probe = firmware_only(domain)
    # libvirt does not look for the loader before a start
    loader = {"@readonly": "yes", "@type": "pflash", "#text": "/firmware"}
    kept = {key: value for key, value in probe["os"].items() if key == "type"}
    return {**probe, "os": {**kept, "loader": loader}}


def selects_firmware(domain: Document) -> bool:
    """Return whether libvirt selects the firmware: the definition names its kind."""
    return "@firmware" in child(domain, "os")


def loader_path(domain: Document) -> str | None:
    """Return the path of the firmware, if the definition names it."""
    return text(child(domain, "os").get("loader"))


def nvram_path_of_command_line(command_line: str) -> str | None:
    """Return the NVRAM's path from the command line that libvirt would start QEMU with (`domainXMLToNative`)."""
    for word in shlex.split(command_line):
        if word.startswith("{") and _NVRAM_NODE_NAME in word:
            with suppress(ValueError):
                node = json.loads(word)
                if node.get("node-name") == _NVRAM_NODE_NAME and "filename" in node:
                    return str(node["filename"])
    return None
