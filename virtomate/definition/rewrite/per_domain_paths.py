"""Rule: files and sockets outside storage pools get a path with the clone's name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from virtomate.definition.codec import copied
from virtomate.definition.readers import child, devices
from virtomate.definition.rewrite.outcome import Outcome
from virtomate.notices import Change, CloneWarning, Notice, notice

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtomate.definition.codec import Document

# Character devices: https://libvirt.org/formatdomain.html#consoles-serial-parallel-channel-devices
CHARACTER_DEVICES = ("serial", "parallel", "console", "channel", "smartcard", "redirdev", "rng")
_CHARACTER_FILES = frozenset({"file", "pipe"})
_NOWHERE = "/dev/null"


def own_paths(domain: Document, source: str, clone: str) -> Outcome:
    """Give the clone its own path for everything that the guest or QEMU writes to or listens on.

    These are files, pipes, sockets and log files of character devices, audio files, the pstore's file and passt's log.
    If the original's name is a word of the path, the clone's name replaces it in the last component with the name,
    since other directories may not exist. Otherwise both domains use one path, with a warning.

    Args:
        domain: The definition.
        source: Name of the original.
        clone: Name of the clone.

    Source: https://libvirt.org/formatdomain.html#consoles-serial-parallel-channel-devices,
    https://libvirt.org/formatdomain.html#audio-devices, https://libvirt.org/formatdomain.html#pstore and
    https://libvirt.org/formatdomain.html#userspace-connection-using-passt
    """
    domain = copied(domain)
    # by path, since a serial port and its console are one device with two elements
    changes: dict[str, Notice] = {}
    warnings: dict[str, Notice] = {}
    for what, element, key in _places(domain):
        path = str(element[key])
        if path == _NOWHERE:
            continue
        own = _renamed(path, source, clone)
        element[key] = own
        if own == path:
            warnings.setdefault(path, Notice(CloneWarning.SHARED, f"{what} '{path}'"))
        else:
            changes.setdefault(path, notice(Change.OWN_PATH, what, path=own))
    return Outcome(domain, tuple(changes.values()), tuple(warnings.values()))


def _places(domain: Document) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Return each of these paths: its description, its element and its key."""
    for kind in CHARACTER_DEVICES:
        for device in devices(domain, kind):
            # an entropy source has its character device in the backend
            character = child(device, "backend") if kind == "rng" else device
            yield from _character_places(kind, character, str(character.get("@type", "")))
    for audio in devices(domain, "audio"):
        if audio.get("@type") == "file" and "@path" in audio:
            yield "audio file", audio, "@path"
    for pstore in devices(domain, "pstore"):
        if isinstance(pstore.get("path"), str):
            yield "pstore file", pstore, "path"
    for interface in devices(domain, "interface"):
        backend = child(interface, "backend")
        if "@logFile" in backend:
            yield "passt log file", backend, "@logFile"


def _character_places(kind: str, device: dict[str, Any], type_: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    source = child(device, "source")
    if type_ in _CHARACTER_FILES and "@path" in source:
        yield f"{kind} {type_}", source, "@path"
    # a socket that QEMU connects to belongs to another program, which may serve several clients
    if type_ == "unix" and source.get("@mode", "bind") == "bind" and "@path" in source:
        yield f"{kind} socket", source, "@path"
    log = child(device, "log")
    if "@file" in log:
        yield f"{kind} log file", log, "@file"


def _renamed(path: str, source: str, clone: str) -> str:
    """Return the path with the clone's name instead of the original's in the last component with that word."""
    word = re.compile(rf"(?<![^._-]){re.escape(source)}(?![^._-])")
    components = path.split("/")
    for index in reversed(range(len(components))):
        components[index], count = word.subn(lambda _match: clone, components[index])
        if count:
            break
    return "/".join(components)
