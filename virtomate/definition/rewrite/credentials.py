"""Rule: credentials for systemd stand in SMBIOS tables or in the firmware configuration, each name once.

Sources: https://systemd.io/CREDENTIALS/, https://libvirt.org/formatdomain.html#smbios-system-information
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any

from virtomate.definition.codec import copied
from virtomate.definition.readers import as_list, child, text
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from virtomate.definition.codec import Document

FW_CFG_PREFIX = "opt/io.systemd.credentials/"
_TEXT, _BINARY = "io.systemd.credential:", "io.systemd.credential.binary:"
_QEMU = frozenset({"qemu", "kvm", "hvf"})
_X86 = frozenset({"x86_64", "i686"})
_ARM = frozenset({"aarch64", "armv7l"})
# Machines of x86 without SMBIOS tables
_WITHOUT_SMBIOS = ("microvm", "isapc", "xenfv", "xenpv")


class Carriers(NamedTuple):
    """What a machine has that can carry credentials: OEM strings of SMBIOS, and QEMU's firmware configuration."""

    smbios: bool
    fw_cfg: bool


class FirmwareEntry(NamedTuple):
    """A credential in the firmware configuration: its value, or the path of a file with the value."""

    name: str
    value: str | None
    path: str | None


def carriers(domain: Document) -> Carriers:
    """Return what can carry credentials to the guest of a domain.

    SMBIOS tables of the host stay as they are, and so do those that the definition describes and does not use.
    """
    os_element = child(domain, "os")
    type_ = child(os_element, "type")
    machine, arch = str(type_.get("@machine", "")), type_.get("@arch")
    if domain.get("@type") not in _QEMU or text(type_) != "hvm":
        return Carriers(smbios=False, fw_cfg=False)
    is_described = any(sysinfo.get("@type") == "smbios" for sysinfo in as_list(domain.get("sysinfo")))
    mode = child(os_element, "smbios").get("@mode", "emulate")
    is_free = mode == "sysinfo" or (mode == "emulate" and not is_described)
    if arch in _X86:
        return Carriers(is_free and not machine.startswith(_WITHOUT_SMBIOS), fw_cfg=True)
    if arch in _ARM and machine.startswith("virt"):
        # UEFI firmware gives the tables to the guest
        return Carriers(is_free and ("loader" in os_element or os_element.get("@firmware") == "efi"), fw_cfg=True)
    return Carriers(smbios=False, fw_cfg=False)


def without_credentials(domain: Document, names: Collection[str]) -> Document:
    """Return the definition without the credentials of these names."""
    domain = copied(domain)
    pattern = rf"io\.systemd\.credential(?:\.binary)?:({'|'.join(map(re.escape, names))})="
    for sysinfo in as_list(domain.get("sysinfo")):
        strings = child(sysinfo, "oemStrings")
        if "entry" in strings:
            strings["entry"] = [entry for entry in _items(strings) if not re.match(pattern, text(entry) or "")]
            if not strings["entry"]:
                sysinfo.pop("oemStrings")
        if sysinfo.get("@type") == "fwcfg" and "entry" in sysinfo:
            taken = {FW_CFG_PREFIX + name for name in names}
            sysinfo["entry"] = [entry for entry in as_list(sysinfo["entry"]) if entry.get("@name") not in taken]
    return domain


def oem_string(name: str, value: bytes) -> str:
    """Return the OEM string of a credential; bytes that are no plain text are encoded."""
    if (plain := plain_text(value)) is not None:
        return f"{_TEXT}{name}={plain}"
    return f"{_BINARY}{name}={base64.b64encode(value).decode()}"


def plain_text(value: bytes) -> str | None:
    """Return a value as text that an element can hold as it is; None for any other value."""
    try:
        plain = value.decode()
    except UnicodeDecodeError:
        return None
    return plain if plain.isprintable() and plain == plain.strip() else None


def with_credentials(domain: Document, strings: Iterable[str], entries: Iterable[FirmwareEntry]) -> Document:
    """Return the definition with these OEM strings and entries of the firmware configuration."""
    domain = copied(domain)
    if added := list(strings):
        smbios = _sysinfo(domain, "smbios")
        oem = smbios.get("oemStrings") or {}
        smbios["oemStrings"] = {**oem, "entry": [*_items(oem), *added]}
        child(domain, "os")["smbios"] = {"@mode": "sysinfo"}
    items: list[dict[str, Any]] = []
    for entry in entries:
        content = {"#text": entry.value} if entry.path is None else {"@file": entry.path}
        items.append({"@name": FW_CFG_PREFIX + entry.name, **content})
    if items:
        fwcfg = _sysinfo(domain, "fwcfg")
        fwcfg["entry"] = [*as_list(fwcfg.get("entry")), *items]
    return domain


def _items(element: dict[str, Any]) -> list[Any]:
    """Return entries, which may be plain texts."""
    entries = element.get("entry", [])
    return list(entries) if isinstance(entries, list) else [entries]


def _sysinfo(domain: Document, kind: str) -> dict[str, Any]:
    """Return the element of a kind in a definition, to which it is added if it is not there."""
    known = as_list(domain.get("sysinfo"))
    found = next((sysinfo for sysinfo in known if sysinfo.get("@type") == kind), None)
    if found is None:
        found = {"@type": kind}
        domain["sysinfo"] = [*known, found]
    return found
