"""Rule: what a definition tells the guest of its identity is the clone's where the clone gets a host name.

Otherwise there is a warning. The anchors in the docstrings are those of https://libvirt.org/formatdomain.html.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any

from virtomate.definition.codec import copied
from virtomate.definition.readers import as_list, child, text
from virtomate.definition.rewrite.unshared import Outcome
from virtomate.notices import Change, CloneWarning, Notice, notice
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.definition.codec import Document

_HOST_NAME, _INSTANCE_ID, _MACHINE_ID, _ADDRESS = "host name", "instance ID", "machine ID", "IP address"

# https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html: settings follow the name of the data source.
_NO_CLOUD = r"ds=nocloud(?:-net)?((?:;[^;\s]*)+)"
_NO_CLOUD_SETTINGS = {
    "h": _HOST_NAME, "local-hostname": _HOST_NAME, "i": _INSTANCE_ID, "instance-id": _INSTANCE_ID,
}  # fmt: skip
# a comma ends the value in an argument for QEMU
_NO_CLOUD_SETTING = r"(?<=;)(h|local-hostname|i|instance-id)=[^;,\s]*"
# https://systemd.io/CREDENTIALS/, systemd.system-credentials(7), kernel-command-line(7), machine-id(5); ip= is of
# https://docs.kernel.org/admin-guide/nfs/nfsroot.html and dracut.cmdline(7)
_CREDENTIAL = (
    r"(?:io\.systemd\.credential(?:\.binary)?:|io\.systemd\.credentials/|systemd\.set_credential(?:_binary)?=)system\."
)
_TELLING = (
    (rf"{_CREDENTIAL}hostname\b", _HOST_NAME),
    (rf"{_CREDENTIAL}machine_id\b", _MACHINE_ID),
    (r"^(?:systemd\.)?hostname=.", _HOST_NAME),
    (r"^systemd\.machine_id=(?!firmware$).", _MACHINE_ID),
    (r"^ip=(?:\d+\.\d|\[)", _ADDRESS),
)
# The values that give a host name, as text and in Base64: each pattern is of what stands before the value, and of it.
_HOST_NAMES = (
    r"(io\.systemd\.credential:system\.hostname=)[^,\s]*",
    r"(systemd\.set_credential=system\.hostname:)[^,\s]*",
    r"(^(?:systemd\.)?hostname=)\S+",
)
_HOST_NAMES_IN_BASE64 = (
    r"(io\.systemd\.credential\.binary:system\.hostname=)[^,\s]*",
    r"(systemd\.set_credential_binary=system\.hostname:)[^,\s]*",
)
# an argument for QEMU, whose content may be in a file
_FW_CFG = r"(io\.systemd\.credentials/system\.hostname),(?:string|file)=(?:[^,\s]|,,)*"
_NAMES = frozenset({_HOST_NAME, _INSTANCE_ID})
_KERNEL = "kernel argument"
_SMBIOS_WITH_SERIAL = ("system", "baseBoard", "chassis")


class _Message(NamedTuple):
    """A text that a guest reads from its definition.

    Attributes:
        noun: What the text is.
        text: The text, or the name of an entry whose content is the text.
        holder: The element or list in which a new text is put.
        key: The place of the text in the holder.
        is_entry: Whether the text is the name of an entry, and the place is that of its content.
    """

    noun: str
    text: str
    holder: Any
    key: Any
    is_entry: bool = False


def told_from_outside(domain: Document, *, has_new_name: bool) -> Iterator[Notice]:
    """Yield warnings of identities that the definition tells the guest, unless they are renewed with a new name."""
    for message in _messages(domain):
        for part in _parts(message):
            told = [what for what in dict.fromkeys(told_in(part)) if not (has_new_name and what in _NAMES)]
            if told:
                yield notice(CloneWarning.SAME_GUEST_DATA, f"{message.noun} '{part}'", told=" and ".join(told))


def tells_name(domain: Document) -> bool:
    """Return whether the definition tells the guest a host name or an instance ID."""
    return any(_NAMES & {*told_in(message.text)} for message in _messages(domain))


def with_told_name(domain: Document, host_name: str, uuid: str) -> Outcome:
    """Return the definition that tells the guest this host name, and the UUID as its instance ID.

    A definition that tells neither stays as it is.
    """
    domain = copied(domain)
    changes: dict[Notice, bool] = {}
    for message in _messages(domain):
        told = [what for what in dict.fromkeys(told_in(message.text)) if what in _NAMES]
        if told:
            if message.is_entry:
                message.holder.pop("@file", None)
                message.holder[message.key] = host_name
            else:
                message.holder[message.key] = _renewed(message.text, host_name, uuid)
            changes[notice(Change.TOLD, message.noun, told=" and ".join(told))] = True
    return Outcome(domain, tuple(changes))


def own_title(title: str, original_name: str, clone_name: str) -> str:
    """Return the title with the clone's name for the original's, or the name alone if the title does not have it."""
    word = rf"(?<![\w.-]){re.escape(original_name)}(?![\w-])"
    own, count = re.subn(word, lambda _match: clone_name, title)
    return own if count else clone_name


def smbios_serials(domain: Document) -> Iterator[tuple[str, str]]:
    """Yield serial numbers of SMBIOS tables (#smbios-system-information), which identify machines in inventories."""
    for table, entry in _serial_entries(domain):
        yield table, str(text(entry))


def told_in(value: str) -> list[str]:
    """Return the kinds of identity in a text."""
    told = []
    for word in value.split():
        if settings := re.search(_NO_CLOUD, word):
            keys = [setting.partition("=")[0] for setting in settings[1].split(";")]
            told += [_NO_CLOUD_SETTINGS[key] for key in keys if key in _NO_CLOUD_SETTINGS]
        told += [what for pattern, what in _TELLING if re.search(pattern, word)]
    return told


def _renewed(value: str, host_name: str, uuid: str) -> str:
    """Return a text with another host name and instance ID; words are separated by blanks, which stay."""
    return re.sub(r"\S+", lambda word: _renewed_word(word[0], host_name, uuid), value)


def _renewed_word(word: str, host_name: str, uuid: str) -> str:
    if re.search(_NO_CLOUD, word):
        values = {_HOST_NAME: host_name, _INSTANCE_ID: uuid}
        word = re.sub(_NO_CLOUD_SETTING, lambda found: f"{found[1]}={values[_NO_CLOUD_SETTINGS[found[1]]]}", word)
    for pattern in _HOST_NAMES:
        word = re.sub(pattern, lambda found: found[1] + host_name, word)
    encoded = base64.b64encode(host_name.encode()).decode()
    for pattern in _HOST_NAMES_IN_BASE64:
        word = re.sub(pattern, lambda found: found[1] + encoded, word)
    return re.sub(_FW_CFG, lambda found: f"{found[1]},string={host_name}", word)


def _parts(message: _Message) -> list[str]:
    """Return what a warning shows of a text: of the kernel's arguments, each by itself."""
    return message.text.split() if message.noun == _KERNEL else [message.text]


def _messages(domain: Document) -> Iterator[_Message]:
    """Yield each text that a guest reads from its definition."""
    for _, entry in _serial_entries(domain):
        yield _Message("SMBIOS serial number", str(text(entry)), entry, "#text")
    for sysinfo in as_list(domain.get("sysinfo")):
        strings = child(sysinfo, "oemStrings").get("entry", [])
        for index, entry in enumerate(strings):
            holder, key = (entry, "#text") if isinstance(entry, dict) else (strings, index)
            yield _Message("SMBIOS OEM string", text(entry) or "", holder, key)
        for entry in as_list(sysinfo.get("entry")):
            yield _Message("firmware configuration", str(entry.get("@name", "")), entry, "#text", is_entry=True)
    boot = child(domain, "os")
    if (cmdline := text(boot.get("cmdline"))) is not None:
        holder, key = (boot["cmdline"], "#text") if isinstance(boot["cmdline"], dict) else (boot, "cmdline")
        yield _Message(_KERNEL, cmdline, holder, key)
    for argument in as_list(child(domain, "qemu:commandline").get("qemu:arg")):
        yield _Message("QEMU argument", str(argument.get("@value", "")), argument, "@value")


def _serial_entries(domain: Document) -> Iterator[tuple[str, dict[str, Any]]]:
    for sysinfo in as_list(domain.get("sysinfo")):
        for table in _SMBIOS_WITH_SERIAL:
            for element in as_list(sysinfo.get(table)):
                for entry in as_list(element.get("entry")):
                    if entry.get("@name") == "serial" and text(entry):
                        yield table, entry
