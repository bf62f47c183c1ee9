"""What the firmware of a domain is, where it is missing, and which NVRAM is nobody's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import libvirt
import pytest

from virtomate.definition import codec
from virtomate.errors import ConflictError, HypervisorError
from virtomate.hypervisor.connection import Connection, connect
from virtomate.hypervisor.domains import check_definition, define_domain
from virtomate.notices import CloneWarning, notice
from virtomate.services.firmware import Firmware, is_template, read_firmware
from virtomate.services.storage import is_certainly_unwritable

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("nvram", "path", "expected"),
    [
        ("<nvram>/usr/share/OVMF/OVMF_VARS_4M.fd</nvram>", "/usr/share/OVMF/OVMF_VARS_4M.fd", True),
        ("<nvram>/nix/store/abc-OVMF/FV/OVMF_VARS.fd</nvram>", "/nix/store/abc-OVMF/FV/OVMF_VARS.fd", True),
        ("<nvram template='/srv/./VARS.fd'>/srv/VARS.fd</nvram>", "/srv/VARS.fd", True),
        ("<nvram template='/v.fd' type='file'><source file='/v.fd'/></nvram>", "/v.fd", True),
        ("<nvram template='/srv/VARS.fd'>/srv/web_VARS.fd</nvram>", "/srv/web_VARS.fd", False),
        ("<nvram>/usr/local/vm/web_VARS.fd</nvram>", "/usr/local/vm/web_VARS.fd", False),
        ("<nvram>/usrdata/web_VARS.fd</nvram>", "/usrdata/web_VARS.fd", False),
        ("", "/var/lib/libvirt/qemu/nvram/web_VARS.fd", False),
    ],
)
def test_template(nvram: str, path: str, expected: bool) -> None:
    """A template is what the definition calls one, and whatever packages bring."""
    domain = codec.parse_definition(f"<domain><os>{nvram}</os></domain>").domain

    assert is_template(domain, path) is expected


def test_what_cannot_be_seen_is_not_read_only(tmp_path: Path) -> None:
    """A directory that is not there, or can be written to, is not called read-only."""
    (tmp_path / "node.xml").write_text("<node/>")
    with connect(f"test://{tmp_path}/node.xml") as connection:
        assert not is_certainly_unwritable(connection, str(tmp_path))
        assert not is_certainly_unwritable(connection, str(tmp_path / "missing"))


def refusal(domain: int, message: str) -> libvirt.libvirtError:
    """An error of libvirt's for an operation that failed."""
    error = libvirt.libvirtError("failed")
    error.err = (libvirt.VIR_ERR_OPERATION_FAILED, domain, message, 2, None, None, None, -1, -1)
    return error


class NewerLibvirt:
    """The answers of libvirt 11.3 where there is no firmware to select, which older ones look for only at a start."""

    def __init__(self, from_: int = libvirt.VIR_FROM_QEMU) -> None:
        self.asked: list[str] = []
        self._error = refusal(from_, "operation failed: Unable to find 'efi' firmware")

    def getURI(self) -> str:  # noqa: N802 - libvirt's name
        """Where it is."""
        return "qemu+ssh://far/system"

    def domainXMLToNative(self, _format: str, definition: str, _flags: int) -> str:  # noqa: N802 - likewise
        """Tell how a domain that names its firmware would be started."""
        self.asked.append(definition)
        if "firmware=" in definition:
            raise self._error
        return """-blockdev '{"filename":"/own/web_VARS.fd","node-name":"libvirt-pflash1-storage"}'"""

    def defineXMLFlags(self, _definition: str, _flags: int) -> None:  # noqa: N802 - likewise
        """Refuse it."""
        raise self._error

    def lookupByName(self, _name: str) -> Any:  # noqa: N802 - likewise
        """The claim has the name."""
        return NewerLibvirt

    @staticmethod
    def name() -> str:
        """Of the claim."""
        return "web"

    @staticmethod
    def UUIDString() -> str:  # noqa: N802 - likewise
        """Of the claim."""
        return "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"


NAMED = "<nvram>/srv/web_VARS.fd</nvram>"
MISSING = notice(CloneWarning.NO_FIRMWARE, "web", reason="operation failed: Unable to find 'efi' firmware")


@pytest.mark.parametrize(
    ("os", "expected"),
    [
        (f"<os firmware='efi'>{NAMED}</os>", Firmware("/srv/web_VARS.fd", MISSING, is_unselectable=True)),
        (
            f"<os firmware='efi'><loader>/c</loader>{NAMED}</os>",
            Firmware("/srv/web_VARS.fd", MISSING, is_unselectable=True),
        ),
        ("<os firmware='efi'/>", Firmware("/own/web_VARS.fd", MISSING, is_unselectable=True)),
        ("<os firmware='efi'><loader stateless='yes'/></os>", Firmware(None, MISSING, is_unselectable=True)),
        ("<os firmware='bios'/>", Firmware(None, MISSING, is_unselectable=True)),
        (f"<os><loader readonly='yes' type='pflash'>/c</loader>{NAMED}</os>", Firmware("/srv/web_VARS.fd")),
        ("<os><loader readonly='yes' type='pflash'>/c</loader></os>", Firmware("/own/web_VARS.fd")),
        ("<os/>", Firmware(None)),
    ],
)
def test_firmware_that_libvirt_does_not_find(os: str, expected: Firmware) -> None:
    """That there is none is told, and where the NVRAM is all the same."""
    domain = codec.parse_definition(f"<domain><name>web</name>{os}</domain>").domain

    assert read_firmware(Connection(NewerLibvirt()), domain) == expected


def test_definition_without_firmware_is_not_accepted() -> None:
    """Where libvirt looks for firmware when a domain is defined, that it finds none is not taken for a taken name."""
    connection = Connection(NewerLibvirt())

    with pytest.raises(HypervisorError, match=r"does not accept the definition of 'web': .*firmware"):
        check_definition(connection, "web", "<domain/>")
    with pytest.raises(HypervisorError, match=r"does not accept the definition of 'web': .*firmware"):
        define_domain(connection, "web", "<domain/>")

    taken = Connection(NewerLibvirt(libvirt.VIR_FROM_DOMAIN))
    check_definition(taken, "web", "<domain/>")
    with pytest.raises(ConflictError):
        define_domain(taken, "web", "<domain/>")
