"""Which NVRAM is a template, and where nothing can be written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from virtomate.definition import codec
from virtomate.hypervisor.connection import connect
from virtomate.services.firmware import is_certainly_read_only, is_template

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
        assert not is_certainly_read_only(connection, str(tmp_path))
        assert not is_certainly_read_only(connection, str(tmp_path / "missing"))
