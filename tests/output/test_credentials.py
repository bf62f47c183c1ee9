"""What people and scripts see of the credentials of a clone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.output.records import CLONED
from virtomate.enums import CredentialWay
from virtomate.output.clones import render_clones
from virtomate.output.streams import Format
from virtomate.services.clone_parts import CredentialResult, VolumeReference
from virtomate.words import Reach

if TYPE_CHECKING:
    import pytest

FILE = VolumeReference("p", "web-1-key.credential", "/p/web-1-key.credential", "raw")
RESULT = CLONED._replace(
    credentials=(
        CredentialResult("system.hostname", CredentialWay.SMBIOS, "web-1", None),
        CredentialResult("key", CredentialWay.FW_CFG, None, FILE),
    )
)


def test_credentials(capsys: pytest.CaptureFixture[str]) -> None:
    """A credential is shown with its value, and a secret with its file."""
    render_clones([RESULT], Format(is_json=False, is_pretty=False, has_json_messages=False, reach=Reach()))
    shown = capsys.readouterr().out
    render_clones([RESULT], Format(is_json=True, is_pretty=False, has_json_messages=False, reach=Reach()))
    (document,) = json.loads(capsys.readouterr().out)

    assert "credential  system.hostname=web-1 (SMBIOS)" in shown
    assert "credential  key (fw_cfg, /p/web-1-key.credential)" in shown
    assert [(item["name"], item["value"]) for item in document["credentials"]] == [
        ("system.hostname", "web-1"),
        ("key", None),
    ]
