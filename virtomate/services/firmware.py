"""The firmware of the original, as libvirt would find it, and where its NVRAM is or should be."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from virtomate.definition import codec, file_readers, readers
from virtomate.errors import ConnectionLostError, HypervisorError, NoFirmwareError
from virtomate.hypervisor.domains import native_command_line
from virtomate.notices import CloneWarning, Notice, notice
from virtomate.paths import normalise
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.codec import Document
    from virtomate.hypervisor.connection import Connection

# What belongs to packages, and is nobody else's to write to (FHS 3.0, 4.1). /usr/local is the host's own (4.9).
_OF_PACKAGES = ("/usr/", "/nix/store/", "/gnu/store/")
_OF_THE_HOST = "/usr/local/"


class Firmware(NamedTuple):
    """What libvirt makes of the original's firmware.

    Attributes:
        nvram_path: Normalised path of the NVRAM, if it is a file.
        missing: The warning of firmware that libvirt's host lacks, as far as can be seen.
        is_unselectable: Whether libvirt would have to select firmware, and finds none.
    """

    nvram_path: str | None
    missing: Notice | None = None
    is_unselectable: bool = False

    def for_clones(self, *, leaving: bool) -> Firmware:
        """Return the same for clones; whether another host has firmware for them was looked at before."""
        return self._replace(missing=None, is_unselectable=False) if leaving else self


def read_firmware(connection: Connection, domain: Document) -> Firmware:
    """Find out where the original's NVRAM is, and whether there is firmware to start it with.

    libvirt 9.0 does not show the NVRAM that it chose itself, but would start QEMU with it.

    Raises:
        HypervisorError: Neither the definition nor libvirt tells where the NVRAM is.
    """
    nvram = file_readers.nvram(domain)
    named = None if nvram is None or nvram.path is None else normalise(nvram.path)
    is_hidden = named is None and (
        nvram.type == "file" if nvram is not None else file_readers.has_selected_nvram(domain)
    )
    if not is_hidden and not file_readers.selects_firmware(domain):
        return Firmware(named, _missing_loader(connection, domain))
    try:
        found = _nvram_path_of(connection, file_readers.firmware_only(domain))
    except NoFirmwareError as error:
        path = own_nvram_path(connection, domain) if is_hidden else named
        missing = notice(CloneWarning.NO_FIRMWARE, readers.name(domain), reason=error.message)
        return Firmware(path, missing, is_unselectable=True)
    except HypervisorError as error:
        if is_hidden or isinstance(error, ConnectionLostError):
            raise
        return Firmware(named)
    return Firmware(found if is_hidden else named, _missing_loader(connection, domain))


def own_nvram_path(connection: Connection, domain: Document) -> str | None:
    """Return the path that libvirt gives to the NVRAM of a domain by itself, or raise HypervisorError."""
    return _nvram_path_of(connection, file_readers.own_nvram_probe(domain))


def _nvram_path_of(connection: Connection, probe: Document) -> str | None:
    """Return the path of the NVRAM with which libvirt would start a domain, or raise HypervisorError."""
    path = file_readers.nvram_path_of_command_line(native_command_line(connection, codec.unparse(probe, "domain")))
    return None if path is None else normalise(path)


def is_template(domain: Document, path: str) -> bool:
    """Return whether an NVRAM is a template of others, by the definition or because a package brought it."""
    nvram = file_readers.nvram(domain)
    if nvram is not None and nvram.template is not None and normalise(nvram.template) == path:
        return True
    return path.startswith(_OF_PACKAGES) and not path.startswith(_OF_THE_HOST)


def _missing_loader(connection: Connection, domain: Document) -> Notice | None:
    path = file_readers.loader_path(domain)
    if path is None or not connection.is_local:
        return None
    try:
        os.stat(path)
    except FileNotFoundError:
        return notice(CloneWarning.MISSING_LOADER, readers.name(domain), path=path)
    except (OSError, ValueError):
        pass
    return None
