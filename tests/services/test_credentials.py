"""Which credentials are secrets, and what their files may hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from virtomate.duplication.transfers.base import Place
from virtomate.enums import ArtifactKind, CredentialWay
from virtomate.errors import UsageError
from virtomate.services.clone.credentials import CredentialPlan
from virtomate.services.credentials import Credential, check_credential_name, is_secret, read_credential_file
from virtomate.services.transaction import Bytes, VolumeJob

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", ["system.hostname", "network.network.10-lan", "login.motd", "firstboot.timezone"])
def test_harmless(name: str) -> None:
    """What is known to be harmless may stand on a command line."""
    assert not is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        *("passwd.hashed-password.root", "ssh.authorized_keys.root", "network.netdev.10-wg", "tls.key", "anything"),
        *("system.machine_id", "my.password", "system.hostname.x", "Network.network.x"),
    ],
)
def test_secrets(name: str) -> None:
    """What is not known to be harmless is a secret."""
    assert is_secret(name)


@pytest.mark.parametrize("name", ["", ".", "a/b", "a:b", "a b", "a,b", "ä", ".a", "x" * 201])
def test_names(name: str) -> None:
    """A name that systemd, QEMU or a file system would not take is refused."""
    with pytest.raises(UsageError, match="cannot be the name of a credential"):
        check_credential_name(name)


def test_files(tmp_path: Path) -> None:
    """A file is read as it is; no message has its content."""
    path = tmp_path / "key"
    path.write_bytes(b"\0\n secret")
    assert read_credential_file("a", str(path)) == b"\0\n secret"
    for content, message in ((b"", "is empty"), (bytes((1 << 20) + 1), "is too long")):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=message):
            read_credential_file("a", str(path))
    with pytest.raises(UsageError, match="No such file"):
        read_credential_file("a", str(tmp_path / "none"))


def test_values_of_clones() -> None:
    """One value is for all clones, several are for one clone each."""
    assert [Credential("a", (b"x",), is_secret=False).value(number) for number in (0, 5)] == [b"x", b"x"]
    assert [Credential("a", (b"x", b"y"), is_secret=False).value(number) for number in (0, 1)] == [b"x", b"y"]


def test_no_value_in_a_text_for_logs() -> None:
    """What describes a credential to developers has no value in it, whether the value is a secret or not."""
    place = Place("images", "", "/srv", "web.credential")
    job = VolumeJob("credential a", ArtifactKind.CREDENTIAL, place, Bytes(b"swordfish"))
    described = (
        Credential("a", (b"swordfish",), is_secret=True),
        CredentialPlan("a", CredentialWay.FW_CFG, b"swordfish", is_secret=True, job=job),
        job,
    )
    assert all("swordfish" not in text for item in described for text in (repr(item), str(item), f"{(item,)}"))
