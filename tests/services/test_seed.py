"""What is read into a seed, and what is refused before anything is made."""

from __future__ import annotations

import gzip
import re
from typing import TYPE_CHECKING

import pytest

from virtomate.errors import UsageError
from virtomate.services.seed import SeedFiles, SeedOptions, check_host_name, check_user, identity_in, read_seed

if TYPE_CHECKING:
    from pathlib import Path

KEY = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAA= ada"


@pytest.mark.parametrize(
    "name", ["a", "web-1", "WEB.example.org", "1", "3com.example", "a" * 63, ".".join(["a" * 60] * 4)]
)
def test_host_names(name: str) -> None:
    """RFC 1123 allows these."""
    check_host_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-a",
        "a-",
        "a.-b",
        "a..b",
        "a.",
        "web_1",
        "web 1",
        "ä",
        "a" * 64,
        ".".join(["a" * 60] * 5),
        "192.0.2.1",
        "a\n",
    ],
)
def test_no_host_names(name: str) -> None:
    """RFC 1123 allows none of these."""
    with pytest.raises(UsageError, match="cannot be a host name"):
        check_host_name(name)


@pytest.mark.parametrize("name", ["", "1a", "a b", "a:b", "a" * 33, "ada\n", "é"])
def test_no_users(name: str) -> None:
    """A name that would break the cloud-config or /etc/passwd is refused."""
    check_user("_Ada.b-1")
    with pytest.raises(UsageError, match="cannot be the name of a user"):
        check_user(name)


@pytest.mark.parametrize(
    "data",
    [
        b"#cloud-config\n{}\n",
        b"\n  #Cloud-Config\n",
        b"#cloud-config-archive\n",
        b"#!/bin/sh\n",
        b"#include\nhttps://example.org/\n",
        b"#include-once\n",
        b"#cloud-boothook\n",
        b"#part-handler\n",
        b"## template: jinja\n#cloud-config\n",
        b"Content-Type: multipart/mixed\nMIME-Version: 1.0\n\n",
        gzip.compress(b"#!/bin/sh\n", mtime=0),
        b"#ps1_sysnative\n",
    ],
)
def test_user_data_that_cloud_init_knows(tmp_path: Path, data: bytes) -> None:
    """What cloud-init recognises by its beginning is passed on as it is."""
    path = tmp_path / "data"
    path.write_bytes(data)

    assert read_seed(SeedOptions(user_data=str(path))) == SeedFiles(user_data=data)
    assert read_seed(SeedOptions(vendor_data=str(path))).vendor_data == data


@pytest.mark.parametrize(
    "data", [b"", b"packages: [vim]\n", b"# cloud-config\n", b"#cloud-confg\n", b"\0\0", b"MIME\n"]
)
def test_user_data_that_cloud_init_ignores(tmp_path: Path, data: bytes) -> None:
    """Anything else is refused, without its content."""
    path = tmp_path / "data"
    path.write_bytes(data)

    for options in (SeedOptions(user_data=str(path)), SeedOptions(vendor_data=str(path))):
        with pytest.raises(UsageError, match=f"cloud-init would ignore '{path}'") as caught:
            read_seed(options)
        assert "packages" not in caught.value.message


@pytest.mark.parametrize(
    "data", ["version: 1\nconfig: disabled\n", "network:\n  version: 2\n", '{"version": 2}', "---\nversion: 2"]
)
def test_network_configuration(tmp_path: Path, data: str) -> None:
    """A network configuration has a version, itself or below `network`."""
    path = tmp_path / "network"
    path.write_text(data)

    assert read_seed(SeedOptions(network_data=str(path))).network_config == data.encode()
    path.write_text("#cloud-config\nhostname: web\n")
    with pytest.raises(UsageError, match="expected is a network configuration with a version"):
        read_seed(SeedOptions(network_data=str(path)))


def test_keys(tmp_path: Path) -> None:
    """A key is a text or stands in a file; options before a key are kept; root may log in if asked for."""
    path = tmp_path / "authorized_keys"
    path.write_text(f'# mine\n\nfrom="192.0.2.*" {KEY}\n')

    data = read_seed(SeedOptions(ssh_keys=(str(path), KEY), user="root")).user_data.decode()

    assert data == (
        '#cloud-config\nuser: {name: "root"}\ndisable_root: false\nssh_authorized_keys:\n'
        f'  - "from=\\"192.0.2.*\\" {KEY}"\n  - "{KEY}"\n'
    )
    assert read_seed(SeedOptions(user="ada")).user_data == b'#cloud-config\nuser: {name: "ada"}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nsecret\n", "holds a private key: expected is the public key, such as"),
        ("secret\n", "has no public key of SSH"),
        (f"{KEY}\nsecret\n", "has no public key of SSH"),
        ("# none\n", "has no public key of SSH"),
    ],
)
def test_files_without_a_public_key(tmp_path: Path, content: str, message: str) -> None:
    """A private key or anything else is refused, without its content."""
    path = tmp_path / "id"
    path.write_text(content)

    with pytest.raises(UsageError, match=message) as caught:
        read_seed(SeedOptions(ssh_keys=(str(path),)))

    assert "secret" not in caught.value.message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A path that leads nowhere, to a directory or to endless zeros is refused by its name."""
    for path, reason in ((tmp_path / "missing", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(UsageError, match=f"'{path}' cannot be read: {reason}"):
            read_seed(SeedOptions(user_data=str(path)))
    with pytest.raises(UsageError, match="'/dev/zero' is too long for a seed"):
        read_seed(SeedOptions(user_data="/dev/zero"))
    with pytest.raises(UsageError, match="neither a file nor a public key"):
        read_seed(SeedOptions(ssh_keys=("ssh-ed25519",)))


def test_directories(tmp_path: Path) -> None:
    """A directory has files of a seed, and nothing that cloud-init would not read; hidden files do not count."""
    with pytest.raises(UsageError, match="has no file of a seed; expected: meta-data, user-data, network-config or"):
        read_seed(SeedOptions(directory=str(tmp_path)))
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_seed(SeedOptions(directory=str(tmp_path / "missing")))
    (tmp_path / ".git").mkdir()
    (tmp_path / "meta-data").write_text("{}")
    with pytest.raises(UsageError, match="is JSON"):
        read_seed(SeedOptions(directory=str(tmp_path)))
    (tmp_path / "meta-data").write_text("rack: 7\n")
    (tmp_path / "user-data").touch()
    assert read_seed(SeedOptions(directory=str(tmp_path))) == SeedFiles(b"rack: 7\n")
    (tmp_path / "user_data").touch()
    with pytest.raises(UsageError, match=re.escape(f"'{tmp_path}/user_data' is not a file of a seed")):
        read_seed(SeedOptions(directory=str(tmp_path)))


def test_identity_that_the_user_gives() -> None:
    """Keys of the top level count, however they are quoted; a clone's own identity is not added to them."""
    given = b'# instance-id: no\n"instance-id": mine\nnested:\n  local-hostname: no\n'

    assert identity_in(given) == {"instance-id": "mine"}
    assert SeedFiles(given).of_clone("uuid", "web")["meta-data"] == given + b'local-hostname: "web"\n'
    assert SeedFiles(b"rack: 7").of_clone("uuid", "web") == {
        "meta-data": b'rack: 7\ninstance-id: "uuid"\nlocal-hostname: "web"\n',
        "user-data": b"",
    }
