"""Files behind the names that QEMU takes."""

from __future__ import annotations

import json

import pytest

from virtomate.paths import (
    files_in,
    files_in_argument,
    is_nameless_device,
    is_relative,
    logical_volume_key,
    logical_volume_path,
    normalise,
    url_in,
)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("/a", {"/a"}),
        ("/a:b", {"/a:b"}),
        ("a", {"a"}),
        ("../a/b", {"../a/b"}),
        ("./a:b", {"./a:b"}),
        # QEMU takes the first for a protocol, but whoever wrote it may have meant the file
        ("a:b", {"a:b"}),
        ("file:/a", {"/a"}),
        ("file:a", {"a"}),
        ("file:///a%20b", {"/a%20b", "/a b"}),
        ("host_device:/dev/a", {"/dev/a"}),
        ("fat:rw:/a", {"/a"}),
        ("blkdebug:/config:/a", {"/config:/a"}),
        ("nbd://host:10809/a", set()),
        ("https://host/a", set()),
        ("json:{}", set()),
        ("json:", set()),
        ('json:{"driver":"qcow2","file":{"driver":"file","filename":"/a"}}', {"/a"}),
        ('json:{"driver":"raw","file.filename":"a"}', {"a"}),
        ('json:{"filename":"json:{\\"filename\\":\\"\\/a\\"}"}', {"/a"}),
        (
            'json:{"file":{"filename":"file:/a"},"backing":{"file.filename":"b"},"data-file":{"filename":"/c"}}',
            {"/a", "b", "/c"},
        ),
        ('json:{"server":{"type":"unix","path":"/socket"},"export":"a"}', {"/socket"}),
        ("json:{'driver':'qcow2','file':{'driver':'file','filename':'/a'}}", {"/a"}),
        ('json:{"driver":"quorum","children":[{"filename":"/a"},{"file":{"filename":"b"}}]}', {"/a", "b"}),
        ("json:{", set()),
        ("json:" + '{"a":' * 100_000, set()),
        ('json:[1, null, [true, "/a"]]', {"/a"}),
        ("", set()),
        (":", {":"}),
        ("file:", set()),
        ("fat:", set()),
    ],
)
def test_files_in(name: str, files: set[str]) -> None:
    """Every file that QEMU may open for a name is found, and for a name in the network none."""
    assert set(files_in(name)) == files


def test_many_names() -> None:
    """A name full of names, one within the other, is read to its end."""
    name = "/a"
    for _ in range(12):
        name = "json:" + json.dumps({"filename": name, "other": ["/b"] * 100})

    assert set(files_in(name)) == {"/a", "/b"}


@pytest.mark.parametrize(
    ("argument", "files"),
    [
        ("/a", {"/a"}),
        ("a", set()),
        ("file=/a,if=virtio,format=raw", {"/a"}),
        ("file=/a,,b", {"/a,b"}),
        ("file.filename=/a=b", {"/a=b"}),
        ('node-name=x,file=json:{"driver":"raw",,"file.filename":"/a"}', {"/a"}),
        ('{"driver":"qcow2","file":{"driver":"file","filename":"/a"},"backing":"node"}', {"/a"}),
        (' {"filename":"/a"}', {"/a"}),
        ("{", set()),
        ("", set()),
    ],
)
def test_files_in_argument(argument: str, files: set[str]) -> None:
    """Every file in an argument of QEMU's command line is found."""
    assert set(files_in_argument(argument)) == files


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("base.qcow2", True),
        ("../q/base.qcow2", True),
        ("file:base.qcow2", True),
        ('json:{"file": {"filename": "base.qcow2"}}', True),
        ("./a:b", True),
        ("", True),
        ("/p/base.qcow2", False),
        ("file:/p/base.qcow2", False),
        ('json:{"file.filename": "/p/base.qcow2"}', False),
        ("nbd://host/export", False),
        ("rbd:pool/image", False),
    ],
)
def test_is_relative(name: str, expected: bool) -> None:
    """A path that does not begin at the root is relative to the image; a protocol's address is not."""
    assert is_relative(name) is expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/a/../b//c/.", "/b/c"), ("//a", "/a"), ("/", "/"), ("a/./b", "a/b"), ("/a b/", "/a b")],
)
def test_normalise(path: str, expected: str) -> None:
    """The shortest spelling of a path; two leading slashes mean what one means."""
    assert normalise(path) == expected


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ('json:{"driver":"raw","file":{"driver":"rbd","pool":"p","image":"i"}}', "rbd:///p/i"),
        (
            'json:{"file":{"driver":"rbd","pool":"p","image":"i","snapshot":"s","server":[{"host":"::1","port":"7"}]}}',
            "rbd://[::1]:7/p/i@s",
        ),
        ('json:{"driver":"raw","file":{"driver":"file","filename":"/a"}}', None),
        ('json:{"file":{"driver":"rbd"}}', None),
        ('json:{"file":3}', None),
        ("json:[]", None),
        ("json:{", None),
        ("rbd:p/i", None),
        ("/a", None),
    ],
)
def test_image_in_a_cluster(name: str, url: str | None) -> None:
    """The name of an image in a cluster is told as a URL, any other name is not, and none raises an error."""
    assert url_in(name) == url


def test_configuration_of_ceph_is_no_image() -> None:
    """The file that says how to reach a cluster holds no data of the disk."""
    assert files_in('json:{"file":{"driver":"rbd","pool":"p","image":"i","conf":"/etc/ceph/c.conf"}}') == ()


def test_url_is_no_path() -> None:
    """A URL has no other spelling."""
    assert normalise("rbd://mon:1/p//i") == "rbd://mon:1/p//i"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/dev/mapper/vg-lv", "/dev/vg/lv"),
        ("/dev/mapper/a--b-c--d", "/dev/a-b/c-d"),
        ("/dev/mapper/a---b", "/dev/a-/b"),
        ("/dev/mapper/a--b", None),
        ("/dev/mapper/a-b-c", None),
        ("/dev/mapper/control", None),
        ("/dev/disk/by-id/dm-name-a--b-c", "/dev/a-b/c"),
        ("/dev/disk/by-id/scsi-a-b", None),
        ("/dev/vg/a-b", None),
        ("", None),
    ],
)
def test_logical_volume_path(path: str, expected: str | None) -> None:
    """Hyphens of names are doubled, so that the one between group and volume is known."""
    assert logical_volume_path(path) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (
            f"/dev/disk/by-id/dm-uuid-LVM-{'v' * 32}abcdefGHIJklmnOPQRstuvWXYZ012345",
            "abcdef-GHIJ-klmn-OPQR-stuv-WXYZ-012345",
        ),
        (f"/dev/disk/by-id/dm-uuid-LVM-{'v' * 32}abcdef", None),
        (f"/dev/disk/by-id/dm-uuid-CRYPT-{'v' * 64}", None),
        ("/dev/vg/lv", None),
    ],
)
def test_logical_volume_key(path: str, expected: str | None) -> None:
    """The UUID of the group comes first, and neither has its hyphens."""
    assert logical_volume_key(path) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/dev/dm-12", True),
        ("/dev/block/253:1", True),
        ("/dev/disk/by-uuid/1234", True),
        ("/dev/sda", False),
        ("/dev/mapper/vg-lv", False),
        ("/dev/disk/by-path/pci-0000", False),
        ("/srv/dm-1", False),
    ],
)
def test_nameless_device(path: str, expected: bool) -> None:
    """Some names of devices do not tell whether the device is a logical volume."""
    assert is_nameless_device(path) is expected
