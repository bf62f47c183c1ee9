"""Rule: name everything that still identifies both original and clone; change nothing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from virtomate.definition.readers import as_list, child, command_line_arguments, devices, text
from virtomate.notices import CloneWarning, Notice, notice

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from virtomate.definition.codec import Document

_HOST_NAME, _INSTANCE_ID, _MACHINE_ID, _ADDRESS = "host name", "instance ID", "machine ID", "IP address"

# https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html: settings follow the name of the data source.
_NO_CLOUD = re.compile(r"ds=nocloud(?:-net)?((?:;[^;\s]*)+)")
_NO_CLOUD_SETTINGS = {
    "h": _HOST_NAME, "local-hostname": _HOST_NAME, "i": _INSTANCE_ID, "instance-id": _INSTANCE_ID,
}  # fmt: skip
# https://systemd.io/CREDENTIALS/, systemd.system-credentials(7), kernel-command-line(7), machine-id(5); ip= is of
# https://docs.kernel.org/admin-guide/nfs/nfsroot.html and dracut.cmdline(7)
_CREDENTIAL = (
    r"(?:io\.systemd\.credential(?:\.binary)?:|io\.systemd\.credentials/|systemd\.set_credential(?:_binary)?=)system\."
)
_TELLING = (
    (re.compile(rf"{_CREDENTIAL}hostname\b"), _HOST_NAME),
    (re.compile(rf"{_CREDENTIAL}machine_id\b"), _MACHINE_ID),
    (re.compile(r"^(?:systemd\.)?hostname=."), _HOST_NAME),
    (re.compile(r"^systemd\.machine_id=(?!firmware$)."), _MACHINE_ID),
    (re.compile(r"^ip=(?:\d+\.\d|\[)"), _ADDRESS),
)
_SMBIOS_WITH_SERIAL = ("system", "baseBoard", "chassis")


def same_identity(domain: Document, duplicated: Collection[int], *, has_new_title: bool) -> tuple[Notice, ...]:
    """Return a warning for each thing that identifies both original and clone.

    Args:
        domain: The definition of the original.
        duplicated: Positions of the duplicated disks.
        has_new_title: Whether a title was chosen for the clone.
    """
    return (
        *(() if has_new_title else _title(domain)),
        *_serial_numbers(domain),
        *_disks(domain, duplicated),
        *_told_from_outside(domain),
    )


def _title(domain: Document) -> Iterator[Notice]:
    title = text(domain.get("title"))
    if title:
        yield Notice(CloneWarning.SAME_TITLE, title)


def _serial_numbers(domain: Document) -> Iterator[Notice]:
    """Serial numbers in the SMBIOS tables (#smbios-system-information), by which inventories identify machines."""
    for table, value in _smbios_serials(domain):
        if not _told(value):
            yield notice(CloneWarning.SAME_SERIALS, table, serial=value)


def _smbios_serials(domain: Document) -> Iterator[tuple[str, str]]:
    for sysinfo in as_list(domain.get("sysinfo")):
        for table in _SMBIOS_WITH_SERIAL:
            for element in as_list(sysinfo.get(table)):
                for entry in as_list(element.get("entry")):
                    value = text(entry)
                    if entry.get("@name") == "serial" and value:
                        yield table, value


def _disks(domain: Document, duplicated: Collection[int]) -> Iterator[Notice]:
    """Serial numbers and world wide names of duplicated disks; a shared disk is the same disk."""
    for index, disk in enumerate(devices(domain, "disk")):
        serial, wwn = text(disk.get("serial")), text(disk.get("wwn"))
        names = [f"serial number '{serial}'"] if serial else []
        names += [f"WWN '{wwn}'"] if wwn else []
        if names and index in duplicated:
            target = child(disk, "target").get("@dev", str(index))
            yield notice(CloneWarning.SAME_DISK_SERIALS, target, identifiers=" and ".join(names))


def _told_from_outside(domain: Document) -> Iterator[Notice]:
    """Identities that the definition tells the guest."""
    for where, value in _messages(domain):
        told = list(dict.fromkeys(_told(value)))
        if told:
            yield notice(CloneWarning.SAME_GUEST_DATA, where, told=" and ".join(told))


def _messages(domain: Document) -> Iterator[tuple[str, str]]:
    """Return each text that a guest reads from its definition, with a phrase for it."""
    for _, serial in _smbios_serials(domain):
        yield f"SMBIOS serial number '{serial}'", serial
    for sysinfo in as_list(domain.get("sysinfo")):
        for entry in child(sysinfo, "oemStrings").get("entry", []):
            value = text(entry) or ""
            yield f"SMBIOS OEM string '{value}'", value
        for entry in as_list(sysinfo.get("entry")):
            name = str(entry.get("@name", ""))
            yield f"firmware configuration '{name}'", name
    for word in (text(child(domain, "os").get("cmdline")) or "").split():
        yield f"kernel argument '{word}'", word
    for argument in command_line_arguments(domain):
        yield f"QEMU argument '{argument}'", argument


def _told(value: str) -> list[str]:
    """Return the kinds of identity in a text."""
    told = []
    for word in value.split():
        settings = _NO_CLOUD.search(word)
        if settings is not None:
            keys = [setting.partition("=")[0] for setting in settings[1].split(";")]
            told += [_NO_CLOUD_SETTINGS[key] for key in keys if key in _NO_CLOUD_SETTINGS]
        told += [what for pattern, what in _TELLING if pattern.search(word)]
    return told
