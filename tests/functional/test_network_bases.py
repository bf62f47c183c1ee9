"""Disks in a Ceph cluster: an overlay rests on the image, with the original's credentials, and nothing is copied.

There is no cluster here. libvirt defines storage pools and domains for a cluster that it cannot reach, and tells with
which command it would start them.
"""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.runs import Refusal, check_refusal, unchanged
from tests.functional.support import by_target, cloned, definition, image_info
from tests.lab import Lab, Program, domain
from tests.lab.images import GIB, MIB

SECRET = "11111111-2222-4333-8444-555555555555"
AUTH = f"<auth username='admin'><secret type='ceph' uuid='{SECRET}'/></auth>"
HOSTS = "<host name='mon1' port='6789'/><host name='fd00::2' port='3300'/>"
SERVERS = [{"host": "mon1", "port": "6789"}, {"host": "fd00::2", "port": "3300"}]
URL = "rbd://mon1:6789,[fd00::2]:3300/vms/original"


def network_disk(*, above: str = "", inside: str = "", more: str = "", format_: str = "raw") -> str:
    """Describe a disk in a cluster that is reached through two monitors."""
    return (
        f"<disk type='network' device='disk'><driver name='qemu' type='{format_}' cache='writeback'/>{above}"
        f"<source protocol='rbd' name='vms/original'>{HOSTS}{inside}</source>"
        f"<target dev='vda' bus='virtio'/>{more}</disk>"
    )


VOLUME_DISK = (
    "<disk type='volume' device='disk'><driver name='qemu' type='raw' cache='writeback'/>"
    "<source pool='ceph' volume='original'/><target dev='vda' bus='virtio'/></disk>"
)


@pytest.fixture
def cluster(lab: Lab) -> Iterator[None]:
    """A secret and a storage pool for a cluster that nobody reaches, so that the pool cannot be started."""
    connection = lab.connection
    secret = connection.secretDefineXML(
        f"<secret><uuid>{SECRET}</uuid><usage type='ceph'><name>client.admin</name></usage></secret>"
    )
    secret.setValue(b"key of the cluster")
    connection.storagePoolDefineXML(
        f"<pool type='rbd'><name>ceph</name><source>{HOSTS}<name>vms</name><auth type='ceph' username='admin'>"
        f"<secret uuid='{SECRET}'/></auth></source></pool>"
    )
    yield
    secret.undefine()


def linked(lab: Lab, size: str = ",size=1G") -> tuple[str, ...]:
    """Return the options that ask for an overlay."""
    return ("--disk", f"vda=linked,pool={lab.pool.name}{size}")


def block_devices(lab: Lab, name: str) -> list[dict[str, Any]]:
    """Return the block devices of QEMU's command line, the lowest first."""
    words = shlex.split(lab.connection.domainXMLToNative("qemu-argv", definition(lab, name)))
    return [json.loads(words[at + 1]) for at, word in enumerate(words) if word == "-blockdev"]


def told(device: dict[str, Any]) -> dict[str, Any]:
    """Return what a block device says of its image, and not of the command that it is in."""
    return {key: value for key, value in device.items() if key not in {"node-name", "key-secret", "file", "read-only"}}


@pytest.mark.parametrize(
    ("original", "more"),
    [
        (network_disk(), {}),
        (network_disk(above=AUTH), {"user": "admin"}),
        (network_disk(inside=AUTH), {"user": "admin"}),
        (
            network_disk(above=AUTH, inside="<snapshot name='s1'/><config file='/etc/ceph/c.conf'/>"),
            {"user": "admin", "snapshot": "s1", "conf": "/etc/ceph/c.conf"},
        ),
        (VOLUME_DISK, {"user": "admin"}),
    ],
    ids=["plain", "auth-of-disk", "auth-of-source", "snapshot", "volume"],
)
@pytest.mark.usefixtures("cluster")
def test_overlay_on_an_image_in_a_cluster(lab: Lab, virtomate: Program, original: str, more: dict[str, str]) -> None:
    """The overlay names the image, the definition also its secret, and QEMU gets what it gets for the original."""
    lab.define(domain("original", disks=[original]))
    before = lab.inventory()

    clone = cloned(virtomate("domain-clone", *linked(lab), "original", "web", json=True))

    item = by_target(clone)["vda"]
    url = URL + ("@s1" if "snapshot" in more else "")
    assert (item["action"], item["source"]["path"], item["capacity"]) == ("linked", url, GIB)
    path = Path(item["clone"]["path"])
    assert path == lab.pool.path / "web.qcow2"
    info = image_info(path)
    assert (info["virtual-size"], info["backing-filename-format"]) == (GIB, "raw")
    name = json.loads(info["backing-filename"].removeprefix("json:"))
    assert name == {
        "driver": "raw",
        "file": {"driver": "rbd", "pool": "vms", "image": "original", "server": SERVERS, **more},
    }
    # a snapshot never changes, so that the original can go on
    assert any("do not start 'original'" in warning for warning in clone["warnings"]) == ("snapshot" not in more)
    if original is not VOLUME_DISK:
        # libvirt resolves a volume of a storage pool only at the start
        below, base, *_ = block_devices(lab, "web")
        assert told(below) == told(block_devices(lab, "original")[0])
        assert ("key-secret" in below) == ("user" in more)
        assert base["read-only"]
    assert "<backingStore type='network'>" in definition(lab, "web")
    assert (f"<secret type='ceph' uuid='{SECRET}'/>" in definition(lab, "web")) == ("user" in more)
    assert virtomate("domain-delete", "--yes", "web").status == 0
    unchanged(before, lab)


@pytest.mark.usefixtures("cluster")
def test_clones_of_a_clone_keep_the_secret(lab: Lab, virtomate: Program) -> None:
    """A linked or shallow clone of a clone has the image at the end of its chain, and a copy is refused."""
    lab.define(domain("original", disks=[network_disk(above=AUTH)]))
    assert virtomate("domain-clone", *linked(lab), "original", "web").status == 0
    lowest = told(block_devices(lab, "web")[0])
    refusal = Refusal("UnsupportedError", (URL, "is in a Ceph cluster"), ("--mode linked", "--mode shallow"))

    check_refusal(lab, virtomate, ("domain-clone", "web", "copy"), refusal)
    for mode, count in (("linked", 6), ("shallow", 4)):
        cloned(virtomate("domain-clone", "--mode", mode, "web", mode, json=True))
        devices = block_devices(lab, mode)
        assert (told(devices[0]), len(devices)) == (lowest, count)
        assert "key-secret" in devices[0]


@pytest.mark.usefixtures("cluster")
def test_commands_for_linked_clones(lab: Lab, virtomate: Program) -> None:
    """The tree shows the image, verifying claims nothing about the image, and no command takes it for a file."""
    lab.define(domain("original", disks=[network_disk(inside="<config file='/etc/ceph/c.conf'/>")]))
    assert virtomate("domain-clone", *linked(lab), "original", "web").status == 0
    assert virtomate("domain-clone", "--mode", "linked", "web", "web-a").status == 0

    verified = virtomate("domain-verify", json=True)
    tree = virtomate("domain-list", "--tree", json=True)

    assert verified.status == 0, str(verified)
    assert [item["name"] for item in verified.json] == ["web", "web-a"]
    (volume,), (above,) = (item["volumes"] for item in verified.json)
    assert (volume["status"], volume["reason"], volume["base"]) == ("unverified", "unseen-base", URL)
    for found in (volume, above):
        assert found["reason"] == "unseen-base"
        assert found["message"] == f"'{URL}' cannot be looked at: it is in a Ceph cluster"
    assert virtomate("domain-delete", "--yes", "web-a").status == 0
    web = next(item for item in tree.json if item["name"] == "web")
    assert [(base["path"], base["missing"]) for base in web["base"]] == [(URL, False)]
    assert tree.stderr == ""
    refusal = Refusal("UnsupportedError", (URL, "which libvirt cannot copy"), ("while it runs",))
    check_refusal_of_flatten(lab, virtomate, refusal)
    deleted = virtomate("domain-delete", "--yes", "web", json=True)
    assert (deleted.status, deleted.json[0].get("warnings", [])) == (0, []), str(deleted)


def check_refusal_of_flatten(lab: Lab, virtomate: Program, refusal: Refusal) -> None:
    """See that a clone is not flattened, and that the error says why."""
    before = lab.inventory()
    result = virtomate("domain-flatten", "web", json=True)
    unchanged(before, lab)
    error = result.json if isinstance(result.json, dict) else result.json[0]["error"]
    assert (result.status, error["type"]) == (1, refusal.type), str(result)
    assert all(part in error["message"] for part in refusal.message)
    assert all(part in error["hint"] for part in refusal.hint)


@pytest.mark.parametrize(
    ("original", "options", "message", "hint"),
    [
        (network_disk(), ("--disk", "vda=copy,pool={}"), "cannot be copied: libvirt neither reads", "vda=linked,pool="),
        (VOLUME_DISK, ("--disk", "vda=reflink"), "leaves a protected snapshot on the original", "vda=linked,pool="),
        (network_disk(), ("--disk", "vda=linked,pool={}"), "no active storage pool tells its size", "size=SIZE"),
        (VOLUME_DISK, ("--disk", "vda=linked,pool={}"), "no active storage pool tells its size", "size=SIZE"),
        (network_disk(more="<shareable/>"), (), "it is shareable", "vda=share"),
        (network_disk(format_="qcow2"), (), "its format is qcow2", "vda=drop"),
        (network_disk(), ("--freeze", "--disk", "vda=linked,pool={},size=1G"), "--freeze cannot move", "vda=share"),
    ],
    ids=["copy", "reflink", "size", "size-of-volume", "shareable", "qcow2", "freeze"],
)
@pytest.mark.usefixtures("cluster")
def test_refusals(
    lab: Lab, virtomate: Program, original: str, options: tuple[str, ...], message: str, hint: str
) -> None:
    """What cannot be is refused with the reason, before anything is made."""
    lab.define(domain("original", disks=[original]))
    words = [word.format(lab.pool.name) for word in options] or linked(lab)
    refusal = Refusal("UnsupportedError", ("disk vda", URL, message), (hint,))

    check_refusal(lab, virtomate, ("domain-clone", *words, "original", "web"), refusal)


@pytest.mark.usefixtures("cluster")
def test_overlay_needs_a_pool_of_files(lab: Lab, virtomate: Program) -> None:
    """The place of the overlay is never guessed, and a cluster holds none."""
    lab.define(domain("original", disks=[network_disk()]))
    refusal = Refusal(
        "UnsupportedError",
        (f"disk vda ('{URL}') needs a storage pool for its overlay",),
        ("--disk vda=linked,pool=POOL, or --pool POOL",),
    )

    check_refusal(lab, virtomate, ("domain-clone", "--disk", "vda=linked,size=1G", "original", "web"), refusal)


@pytest.mark.parametrize("original", [network_disk(), VOLUME_DISK], ids=["network", "volume"])
@pytest.mark.parametrize("mode", ["copy", "linked"])
@pytest.mark.usefixtures("cluster")
def test_image_is_left_untouched_unless_asked(lab: Lab, virtomate: Program, original: str, mode: str) -> None:
    """Without an option for the disk, original and clone share the image, also of a pool that is not active."""
    lab.define(domain("original", disks=[original]))

    clone = cloned(virtomate("domain-clone", "--mode", mode, "original", "web", json=True))

    assert by_target(clone)["vda"]["action"] == "shared"
    assert [notice["code"] for notice in clone["notices"]].count("shared-disk") == 1


def test_image_that_an_active_domain_writes_to(tmp_path: Path, virtomate: Program) -> None:
    """A storage pool tells the size; a smaller size, a place on a device, and an image in use are refused.

    libvirt's test driver has an active pool for a cluster, and active domains that use it.
    """
    write_node(tmp_path, writer="vms/other")
    uri = f"test://{tmp_path}/node.xml"
    words = ("domain-clone", "--dry-run", "--disk")
    plan = virtomate(*words, "vda=linked,pool=files", "original", "web", json=True, uri=uri)
    larger = virtomate(*words, "vda=linked,pool=files,size=4G", "original", "web", json=True, uri=uri)
    smaller = virtomate(*words, "vda=linked,pool=files,size=1G", "original", "web", uri=uri)
    on_device = virtomate(*words, "vda=linked,pool=vg", "original", "web", json=True, uri=uri)
    write_node(tmp_path, writer="vms/original")
    taken = virtomate(*words, "vda=linked,pool=files", "original", "web", json=True, uri=uri)

    assert [run.json[0]["disks"][0]["capacity"] for run in (plan, larger)] == [2000 * MIB, 4 * GIB]
    assert (on_device.status, on_device.json["type"]) == (1, "UnsupportedError"), str(on_device)
    assert "storage pool 'vg' is of type logical" in on_device.json["message"]
    assert smaller.status == 2
    assert "--disk vda: a size of 1.0 GiB is less than the 2.0 GiB of the original's disk" in smaller.stderr
    assert (taken.status, taken.json["type"]) == (1, "IllegalStateError"), str(taken)
    assert "is open for writing by domain 'writer', which is active" in taken.json["message"]


def write_node(directory: Path, writer: str) -> None:
    """Describe a host of the test driver, on which the domain `writer` runs with an image."""
    disks = (
        "<devices><disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='rbd' name='{}'>"
        "<host name='mon1' port='6789'/></source><target dev='vda' bus='virtio'/></disk></devices>"
    )
    domains = [
        f"<domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'><test:runstate>{state}"
        f"</test:runstate><name>{name}</name><memory>1024</memory><os><type>hvm</type></os>{disks.format(image)}</domain>"
        for name, state, image in (("original", 5, "vms/original"), ("writer", 1, writer))
    ]
    pools = (
        f"<pool type='dir'><name>files</name><target><path>{directory}</path></target></pool><pool type='rbd'>"
        "<name>ceph</name><source><host name='mon1' port='6789'/><name>vms</name></source><volume><name>original</name>"
        "<capacity unit='M'>2000</capacity><target><format type='raw'/></target></volume></pool>"
        "<pool type='logical'><name>vg</name><target><path>/dev/vg</path></target></pool>"
    )
    counts = "".join(f"<{name}>1</{name}>" for name in ("active", "nodes", "sockets", "cores", "threads"))
    host = f"<cpu><mhz>6000</mhz><model>i986</model>{counts}</cpu><memory>8192000</memory>"
    (directory / "node.xml").write_text(f"<node>{host}{''.join(domains)}{pools}</node>")
