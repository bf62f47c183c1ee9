"""Paths, and names of files in images, in definitions and on QEMU's command line."""

from __future__ import annotations

import json
import posixpath
import re
from contextlib import suppress
from typing import Any

# Protocols of QEMU that lead to a file of the host, some through another protocol.
_PROTOCOLS_OF_FILES = frozenset({"blkdebug", "blkverify", "fat", "host_cdrom", "host_device", "nvme-file", "vvfat"})

# The rules of udev for the device mapper and for block devices make these links.
_NAMED_DEVICE = re.compile("/dev/(?:mapper/|disk/by-id/dm-name-)((?:[^-/]|--)+)-((?:[^-/]|--)+)")
_DEVICE_WITH_UUID = re.compile("/dev/disk/by-id/dm-uuid-LVM-.{32}(.{6})" + "(.{4})" * 5 + "(.{6})")
_NAMELESS_DEVICE = re.compile("/dev/(?:dm-[0-9]+|block/.+|disk/by-(?:diskseq|label|uuid)/.+)")
_DEVICES = ("/dev", "/proc", "/sys")
_FILES_AMONG_DEVICES = ("/dev/shm", "/dev/hugepages")  # noqa: S108 - nothing is made there


def normalise(path: str) -> str:
    """Return the shortest spelling of an absolute path, without a look at any file; a URL stays as it is.

    POSIX lets two leading slashes mean another root; Linux and libvirt do not.
    """
    if path.startswith("/"):
        return posixpath.normpath("/" + path.lstrip("/"))
    return path if is_url(path) else posixpath.normpath(path)


def logical_volume_path(path: str) -> str | None:
    """Return the path that LVM gives to a logical volume, by a path with the name of its device; None of another path.

    Source: dmsetup(8): the names of group and volume stand on both sides of a hyphen, with their own hyphens doubled.
    """
    found = _NAMED_DEVICE.fullmatch(path)
    return None if found is None else "/dev/" + "/".join(name.replace("--", "-") for name in found.groups())


def logical_volume_key(path: str) -> str | None:
    """Return the UUID of a logical volume by a path with the UUIDs of group and volume; None of any other path.

    libvirt's key of the volume is this UUID, with hyphens as LVM shows them.
    """
    found = _DEVICE_WITH_UUID.fullmatch(path)
    return None if found is None else "-".join(found.groups())


def is_nameless_device(path: str) -> bool:
    """Return whether a path leads to any block device of a host, a logical volume for example, without its name."""
    return _NAMELESS_DEVICE.fullmatch(path) is not None


def is_among_devices(path: str) -> bool:
    """Return whether a normalised path leads to a directory of devices, or to something in such a directory."""
    return _lies_in(path, _DEVICES) and not _lies_in(path, _FILES_AMONG_DEVICES)


def is_url(path: str) -> bool:
    """Return whether the path of an image is the URL of an image in a network."""
    return path.startswith("rbd://")


def url_in(name: str) -> str | None:
    """Return the URL of the image in a Ceph cluster that an image names below it; None for any other name."""
    if not name.startswith("json:"):
        return None
    with suppress(ValueError, RecursionError, AttributeError, KeyError, TypeError):
        file = json.loads(name[len("json:") :])["file"]
        if file["driver"] == "rbd":
            hosts = [(server["host"], server["port"]) for server in file.get("server", ())]
            named = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in hosts)
            snapshot = f"@{file['snapshot']}" if "snapshot" in file else ""
            return f"rbd://{named}/{file['pool']}/{file['image']}{snapshot}"
    return None


def is_relative(backing_name: str) -> bool:
    """Return whether the name of a backing image leads to another file when the overlay is in another directory."""
    protocol, colon, _ = backing_name.partition(":")
    if colon and "/" not in protocol and protocol not in {"file", "json"}:
        return False
    # a name that could not be read may be relative
    return not backing_name or any(not file.startswith("/") for file in files_in(backing_name))


def files_in(name: str) -> tuple[str, ...]:
    """Return the files that a name of QEMU's may lead to, as the name spells them; relative paths stay relative.

    QEMU takes a path, `file:` and a path, `json:` and an object of block devices, and names with a protocol in front
    (https://www.qemu.org/docs/master/system/images.html). A name with a colon is among the results, since a file may
    have that name. No name raises an error.
    """
    found: dict[str, None] = {}
    left = [name]
    while left:
        protocol, rest = _split_protocol(left.pop())
        if protocol is None:
            found[rest] = None
        elif protocol == "json":
            left += _strings_of_json(rest)
        elif protocol == "file":
            from urllib.parse import unquote  # noqa: PLC0415 - slow to load, for few names

            path = "/" + rest.lstrip("/") if rest.startswith("/") else rest
            found |= dict.fromkeys((path, unquote(path)))
        elif protocol in _PROTOCOLS_OF_FILES:
            _, slash, path = rest.partition("/")
            found[slash + path if slash else rest.rpartition(":")[2]] = None
        elif "//" not in rest:
            found[f"{protocol}:{rest}"] = None
    return tuple(file for file in found if file)


def files_in_argument(argument: str) -> tuple[str, ...]:
    """Return the absolute paths in an argument of QEMU: itself, a value in a list with commas, or in an object."""
    if argument.lstrip().startswith("{"):
        names = _strings_of_json(argument)
    else:
        # a comma that belongs to a value is doubled
        pieces = [piece.replace("\0", ",") for piece in argument.replace(",,", "\0").split(",")]
        names = [*pieces, *(value for piece in pieces if (value := piece.partition("=")[2]))]
    return tuple({file: None for name in names for file in files_in(name) if file.startswith("/")})


def _split_protocol(name: str) -> tuple[str | None, str]:
    """Return the protocol of a name, in front of a colon that comes before any slash, and the rest."""
    protocol, colon, rest = name.partition(":")
    return (protocol, rest) if colon and protocol and "/" not in protocol else (None, name)


def _strings_of_json(text: str) -> list[str]:
    """Return possible names of files in an object of block devices, nested or with dots in its keys."""
    try:
        left: list[tuple[str, Any]] = [("", json.loads(text))]
    except (ValueError, RecursionError):
        # QEMU takes single quotes as well
        return [piece for piece in text.replace("'", '"').split('"') if piece.startswith("/")]
    names = []
    while left:
        key, value = left.pop()
        if isinstance(value, dict):
            # the configuration of Ceph is no image
            left += ((name, item) for name, item in value.items() if name.rpartition(".")[2] != "conf")
        elif isinstance(value, list):
            left += (("", item) for item in value)
        elif isinstance(value, str) and (value.startswith("/") or key.rpartition(".")[2] == "filename"):
            names.append(value)
    return names


def _lies_in(path: str, directories: tuple[str, ...]) -> bool:
    return any(path == directory or path.startswith(f"{directory}/") for directory in directories)
