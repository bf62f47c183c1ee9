"""Paths, and names of files as others write them: in images, in definitions, on QEMU's command line."""

from __future__ import annotations

import json
import posixpath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

# Protocols of QEMU behind which a file of the host stands, some with something in between.
_PROTOCOLS_OF_FILES = frozenset({"blkdebug", "blkverify", "fat", "host_cdrom", "host_device", "nvme-file", "vvfat"})


def normalise(path: str) -> str:
    """The shortest spelling of an absolute path, without looking at any file.

    POSIX lets two leading slashes mean something else; on Linux, and for libvirt, they do not.
    """
    return posixpath.normpath("/" + path.lstrip("/")) if path.startswith("/") else posixpath.normpath(path)


def is_relative(backing_name: str) -> bool:
    """Whether an image with this name for what is below it means another file when it is in another directory."""
    protocol, colon, _ = backing_name.partition(":")
    if colon and "/" not in protocol and protocol not in {"file", "json"}:
        return False
    # a name that could not be read may be one
    return not backing_name or any(not file.startswith("/") for file in files_in(backing_name))


def files_in(name: str) -> tuple[str, ...]:
    """The files that a name of QEMU's may lead to, as they are written in it; relative ones are left so.

    QEMU takes a path, `file:` and a path, `json:` and an object of block devices, and names with a protocol in front
    (https://www.qemu.org/docs/master/system/images.html). What only may be the name of a file is among them: a name
    with a colon is one for whoever looks for a file of that name. Nothing here fails, whatever the name is.
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
            from urllib.parse import unquote  # noqa: PLC0415 - few names begin like that, and it takes a while to load

            path = "/" + rest.lstrip("/") if rest.startswith("/") else rest
            found |= dict.fromkeys((path, unquote(path)))
        elif protocol in _PROTOCOLS_OF_FILES:
            _, slash, path = rest.partition("/")
            found[slash + path if slash else rest.rpartition(":")[2]] = None
        elif "//" not in rest:
            found[f"{protocol}:{rest}"] = None
    return tuple(file for file in found if file)


def files_in_argument(argument: str) -> tuple[str, ...]:
    """The absolute paths in an argument of QEMU: by itself, as a value in a list with commas, or in an object."""
    if argument.lstrip().startswith("{"):
        names = _strings_of_json(argument)
    else:
        # a comma that belongs to a value is doubled
        pieces = [piece.replace("\0", ",") for piece in argument.replace(",,", "\0").split(",")]
        names = [*pieces, *(value for piece in pieces if (value := piece.partition("=")[2]))]
    return tuple({file: None for name in names for file in files_in(name) if file.startswith("/")})


def _split_protocol(name: str) -> tuple[str | None, str]:
    """The protocol of a name, as QEMU sees it: what is in front of a colon that comes before any slash."""
    protocol, colon, rest = name.partition(":")
    return (protocol, rest) if colon and protocol and "/" not in protocol else (None, name)


def _strings_of_json(text: str) -> list[str]:
    """What may be names in an object of block devices, nested or with dots in its keys."""
    try:
        node = json.loads(text)
    except (ValueError, RecursionError):
        # QEMU takes single quotes as well
        return [piece for piece in text.replace("'", '"').split('"') if piece.startswith("/")]
    return list(_strings_of(node))


def _strings_of(node: Any) -> Iterator[str]:  # noqa: ANN401
    left = [("", node)]
    while left:
        key, value = left.pop()
        if isinstance(value, dict):
            left += value.items()
        elif isinstance(value, list):
            left += (("", item) for item in value)
        elif isinstance(value, str) and (value.startswith("/") or key.rpartition(".")[2] == "filename"):
            yield value
