"""Clones on another host: what gets there, what must be there, and what is left of a clone that did not get there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import libvirt
import pytest

from tests.functional import record_pace
from tests.functional.runs import paused, reaching, start_clone
from tests.functional.support import EVERYTHING, by_target, cloned, image_info
from tests.lab import Inventory, Lab, Program, disk, domain, images, interface
from tests.lab.domains import OVMF_TEMPLATE, nvram
from tests.lab.images import KIB, MIB, allocated_bytes, file_digest
from tests.lab.programs import run as run_program
from tests.lab.storage import make_mounted_directory, make_pool

if TYPE_CHECKING:
    from tests.lab.far import Far
    from tests.lab.program import Result
    from tests.lab.ssh import SshServer

# as libvirt counts its versions, without the last part
BROKEN_STREAMS = 11_003
NETWORK = "<network><name>{}</name></network>"
DHCP = (
    "<network><name>lab</name><ip address='192.168.78.1' netmask='255.255.255.0'>"
    "<dhcp><range start='192.168.78.2' end='192.168.78.99'/></dhcp></ip></network>"
)


def send(virtomate: Program, far: Far, *words: str | Path, json: bool = True) -> Result:
    """Clone the domain `original` to `clone` on the other host."""
    return virtomate("domain-clone", "--to", far.uri, *words, "original", "clone", json=json)


def nothing_happened(lab: Lab, far: Far, before: tuple[Inventory, Inventory]) -> None:
    """See that both hosts are as they were."""
    assert before[0].difference(lab.inventory()) == ""
    assert before[1].difference(far.inventory()) == ""


def test_content_of_every_kind(root_lab: Lab, virtomate: Program, far: Far) -> None:
    """Raw stays sparse, a qcow2 keeps its snapshots, an overlay comes without its base; nothing here changes."""
    pool = root_lab.pool
    raw = pool.raw("original.raw", 64 * MIB, extents=[(0, MIB), (40 * MIB, 64 * KIB)])
    image = pool.qcow2("data.qcow2", 32 * MIB, data_bytes=2 * MIB, snapshots=("one", "two"))
    base = pool.qcow2("base.qcow2", 16 * MIB, data_bytes=MIB)
    top = pool.overlay("top.qcow2", base)
    disks = [disk(raw, "raw", "vda"), disk(image, "qcow2", "vdb"), disk(top, "qcow2", "vdc")]
    root_lab.define(domain("original", disks=disks, interfaces=[interface()]))
    before = root_lab.inventory()

    document = cloned(send(virtomate, far, "--transfer", "stream"))

    assert before.difference(root_lab.inventory()) == ""
    found = by_target(document)
    assert [found[target]["transfer"] for target in found] == ["stream"] * 3
    paths = {target: Path(item["clone"]["path"]) for target, item in found.items()}
    assert {target: path.name for target, path in paths.items()} == {
        "vda": "clone.raw",
        "vdb": "clone-data.qcow2",
        "vdc": "clone-top.qcow2",
    }
    assert {path.parent for path in paths.values()} == {far.directory}
    assert file_digest(paths["vda"]) == file_digest(raw)
    assert allocated_bytes(paths["vda"]) <= 2 * MIB
    assert file_digest(paths["vdb"]) == file_digest(image)
    assert "backing-filename" not in image_info(paths["vdc"])
    assert images.qemu_img("compare", "-U", "-f", "qcow2", "-F", "qcow2", paths["vdc"], top)
    assert document["host"] == os.uname().nodename
    assert far.names() == ["clone"]


def normalised(text: str) -> list[str]:
    """Return a definition as lines without what every clone has for itself."""
    root = ET.fromstring(text)
    for path in ("name", "uuid", "metadata"):
        for found in root.findall(path):
            root.remove(found)
    for found in (*root.iterfind("devices/disk/source"), *root.iterfind("devices/interface/mac")):
        found.attrib.clear()
    for found in root.iterfind("os/nvram"):
        found.text = ""
    return ET.tostring(root, encoding="unicode").splitlines()


def test_whole_definition_and_nvram(root_lab: Lab, virtomate: Program, far: Far) -> None:
    """All that does not name the clone is as it was; the NVRAM is where the other host keeps such files."""
    path = root_lab.pool.raw("original.raw", 8 * MIB, data_bytes=MIB)
    variables = root_lab.make_directory("nvram") / "original_VARS.fd"
    variables.write_bytes(Path(OVMF_TEMPLATE).read_bytes().replace(b"\xff" * 64, b"variable" * 8, 1))
    metadata = '<app:note xmlns:app="urn:app">kept</app:note>'
    root_lab.define(
        domain(
            "original",
            disks=[disk(path, "raw")],
            interfaces=[interface()],
            firmware=nvram(variables),
            metadata=metadata,
            memory_mib=256,
        )
    )
    before, there = root_lab.inventory(), far.inventory()

    document = cloned(send(virtomate, far))

    assert before.difference(root_lab.inventory()) == ""
    definition, original = far.definition("clone"), root_lab.connection.lookupByName("original").XMLDesc(EVERYTHING)
    assert normalised(definition) == normalised(original)
    assert metadata in definition
    assert document["nvram"]["clone"] == "/var/lib/libvirt/qemu/nvram/clone_VARS.fd"
    assert far.host.on_host(document["nvram"]["clone"]).read_bytes() == variables.read_bytes()
    assert by_target(document)["vda"]["transfer"] == "host"
    assert [pool.name() for pool in far.host.connection.listAllStoragePools()] == [root_lab.pool.name]

    listed = virtomate("domain-list", json=True, uri=far.uri).json
    assert listed[0]["clone"]["host"] == os.uname().nodename
    # its NVRAM could not be seen here when it was made, and so it is not gone because it is not seen now
    refused = virtomate("domain-delete", "--yes", "clone", uri=far.uri)
    assert (refused.status, f"NVRAM '{document['nvram']['clone']}'" in refused.stderr) == (2, True), str(refused)
    deleted = virtomate("domain-delete", "--yes", "--yes-unproved", "clone", json=True, uri=far.uri)
    assert deleted.status == 0, str(deleted)
    nothing_happened(root_lab, far, (before, there))


def define_two_disks(lab: Lab) -> None:
    """Define `original` with two raw disks of which so much is written that both can be caught in the middle."""
    paths = [lab.pool.raw(f"original-{name}.raw", 40 * MIB, data_bytes=32 * MIB) for name in ("a", "b")]
    disks = [disk(path, "raw", target) for path, target in zip(paths, ("vda", "vdb"), strict=True)]
    lab.define(domain("original", disks=disks, interfaces=[interface()]))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ended_while_two_disks_are_written(root_lab: Lab, virtomate: Program, far: Far, number: int) -> None:
    """A signal undoes all; after a kill, domain-delete there removes all."""
    define_two_disks(root_lab)
    before = (root_lab.inventory(), far.inventory())
    words = ("domain-clone", "--to", far.uri, "--transfer", "stream", "original", "clone")

    run = virtomate.pausing("vda,vdb").start(*words, json=True)
    with paused(run):
        assert sorted(path.name for path in far.directory.iterdir()) == ["clone-a.raw", "clone-b.raw"]
        run.signal(number)
    result = run.wait()

    assert result.status == -number, str(result)
    if number == signal.SIGKILL:
        listed = virtomate("domain-list", json=True, uri=far.uri).json
        assert [(item["name"], item["clone"]["status"]) for item in listed] == [("clone", "unfinished")]
        assert virtomate("domain-delete", "clone", uri=far.uri).status == 0
    nothing_happened(root_lab, far, before)


def test_killed_with_an_image_on_the_way(root_lab: Lab, virtomate: Program, far: Far) -> None:
    """An overlay is made one image on its own host first; each host removes what is left on it."""
    base = root_lab.pool.qcow2("base.qcow2", 64 * MIB, data_bytes=24 * MIB)
    root_lab.define(domain("original", disks=[disk(root_lab.pool.overlay("original.qcow2", base))]))
    before = (root_lab.inventory(), far.inventory())
    words = ("domain-clone", "--to", far.uri, "--transfer", "stream", "original", "clone")

    run = virtomate.pausing("vda").start(*words, json=True)
    with paused(run):
        assert [path.name for path in far.directory.iterdir()] == ["clone.qcow2"]
        run.signal(signal.SIGKILL)
    run.wait()

    listed = virtomate("domain-list", "--clones", json=True).json
    assert [(item["name"], item["clone"]["status"]) for item in listed] == [("original-moment", "unfinished")]
    # half a copy of libvirt's proves nothing
    assert virtomate("domain-delete", "--yes-unproved", "original-moment").status == 0
    assert virtomate("domain-delete", "clone", uri=far.uri).status == 0
    nothing_happened(root_lab, far, before)


def test_names_and_addresses_are_free_on_both_hosts(root_lab: Lab, virtomate: Program, far: Far) -> None:
    """What a domain of either host has is refused, and the message names that host."""
    path = root_lab.pool.raw("original.raw", MIB)
    root_lab.define(domain("original", disks=[disk(path, "raw")], interfaces=[interface()]))
    mac, uuid = "52:54:00:00:00:99", "11111111-2222-4333-8444-555555555555"
    far.host.connection.defineXML(domain("there", interfaces=[interface(mac)], uuid_=uuid))
    far.pool.raw("clone.raw", MIB)
    before = (root_lab.inventory(), far.inventory())

    for words, message in (
        (("original", "there"), f"there is already a domain 'there' on {far.uri}"),
        (("original", "original"), f"there is already a domain 'original' on {root_lab.uri}"),
        (("--mac", mac, "original", "clone-1"), f"'{mac}' is already used by domain 'there' on {far.uri}"),
        (("--uuid", uuid, "original", "clone-1"), f"domain 'there' already has the UUID '{uuid}' on {far.uri}"),
        (("original", "clone"), "there is already a volume 'clone.raw' in storage pool"),
    ):
        result = virtomate("domain-clone", "--to", far.uri, *words, json=True)
        assert (result.status, message in result.json["message"]) == (1, True), str(result)
    nothing_happened(root_lab, far, before)


def test_everything_that_is_missing_is_named_at_once(root_lab: Lab, virtomate: Program, far: Far) -> None:
    """The sentence has all of it, the hint an option for each, and with these options the clone is made."""
    pool = root_lab.make_pool("only-here")
    disc = root_lab.make_directory("discs") / "disc.iso"
    images.make_iso(disc, "label")
    emulator = root_lab.make_directory("bin") / "qemu"
    emulator.symlink_to(shutil.which("qemu-system-x86_64") or "")
    usage = "<usage type='volume'><volume>/x</volume></usage>"
    known, unknown = "11111111-2222-4333-8444-555555555551", "11111111-2222-4333-8444-555555555552"
    far.host.connection.secretDefineXML(f"<secret ephemeral='no' private='no'><uuid>{known}</uuid>{usage}</secret>")
    far.host.connection.networkDefineXML(NETWORK.format("there"))
    cluster = (
        "<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='rbd' name='p/i'>"
        f"<host name='192.0.2.1'/><auth username='u'><secret type='ceph' uuid='{unknown}'/></auth></source>"
        "<target dev='vdc'/><readonly/></disk>"
    )
    disks = [
        disk(pool.raw("original.raw", MIB), "raw", "vda"),
        disk(disc, "raw", "sda", bus="sata", device="cdrom", read_only=True),
        cluster,
    ]
    links = [interface(type_="network", source="here"), interface(type_="bridge", source="nobridge0")]
    text = domain("original", disks=disks, interfaces=links, machine="q35")
    root_lab.define(text.replace("<devices>", f"<devices><emulator>{emulator}</emulator>"))
    disc.rename(disc.with_name("elsewhere.iso"))
    emulator.unlink()
    before = (root_lab.inventory(), far.inventory())

    result = send(virtomate, far)

    machine = ET.fromstring(root_lab.connection.lookupByName("original").XMLDesc()).findtext("os/type")
    assert machine == "hvm"
    assert result.status == 1, str(result)
    error = result.json
    for part in (
        "storage pool 'only-here' (disk vda)",
        f"file '{disc}' (disk sda)",
        "network 'here' (interface ",
        "bridge or network device 'nobridge0'",
        f"secret '{unknown}' (disk vdc)",
    ):
        assert part in error["message"], str(result)
    for part in (
        "--map pool:only-here=POOL",
        f"--map file:{disc}=FILE",
        "--disk sda=drop",
        "--map network:here=NETWORK",
        "--map bridge:nobridge0=BRIDGE",
        f"--map secret:{unknown}=SECRET",
    ):
        assert part in error["hint"], str(result)
    nothing_happened(root_lab, far, before)

    maps = {
        "pool:only-here": far.pool.name,
        f"file:{disc}": str(disc.with_name("elsewhere.iso")),
        "network:here": "there",
        "bridge:nobridge0": "lo",
        f"secret:{unknown}": known,
    }
    words = [word for old, new in maps.items() for word in ("--map", f"{old}={new}")]
    unused = send(virtomate, far, *words, "--map", "network:default=there")
    assert unused.status == 2, str(unused)
    assert "uses no network 'default'; it uses 'here'" in unused.stderr
    document = cloned(send(virtomate, far, *words))
    definition = far.definition("clone")
    for part in ("elsewhere.iso", "network='there'", "bridge='lo'", known):
        assert part in definition
    assert "emulator: '/usr/bin/qemu-system-x86_64' instead of" in " ".join(document["changes"])
    for item in far.host.connection.listAllSecrets():
        item.undefine()


def test_running_original(root_lab: Lab, virtomate: Program, far: Far) -> None:
    """With --live, a backup on the original's host is what goes to the other host, and is removed there."""
    path = root_lab.pool.qcow2("original.qcow2", 64 * MIB, data_bytes=8 * MIB)
    root_lab.define(domain("original", disks=[disk(path)])).create()
    before = root_lab.inventory()

    refused = send(virtomate, far)
    document = cloned(send(virtomate, far, "--live", "--transfer", "stream"))

    assert refused.status == 1, str(refused)
    assert document["consistency"] == "crash"
    copy = by_target(document)["vda"]
    assert copy["transfer"] == "stream"
    assert images.qemu_img("compare", "-U", "-f", "qcow2", "-F", "qcow2", path, copy["clone"]["path"])
    assert before.difference(root_lab.inventory()) == ""
    assert far.names() == ["clone"]


def test_plan_changes_nothing(root_lab: Lab, virtomate: Program, far: Far) -> None:
    """A plan names the host, the volumes there, and their space; the definition is that of the clone."""
    path = root_lab.pool.raw("original.raw", 4 * MIB, data_bytes=MIB)
    root_lab.define(domain("original", disks=[disk(path, "raw")], interfaces=[interface()]))
    before = (root_lab.inventory(), far.inventory())

    human = send(virtomate, far, "--dry-run", json=False)
    text = send(virtomate, far, "--print-xml", json=False)

    assert human.status == text.status == 0, str(human)
    assert f"Would clone original to clone on host {os.uname().nodename} (copy)" in human.stdout
    assert str(far.directory / "clone.raw") in human.stdout
    assert str(far.directory / "clone.raw") in text.stdout
    nothing_happened(root_lab, far, before)


def test_full_disk_there(root_lab: Lab, virtomate: Program, far: Far) -> None:
    """A file system that gets full undoes the clone on both hosts."""
    path = root_lab.pool.raw("original.raw", 64 * MIB, data_bytes=48 * MIB)
    root_lab.define(domain("original", disks=[disk(path, "raw")]))
    directory = make_mounted_directory(root_lab.directory / "small", "ext4", 24 << 20)
    small = make_pool(far.host, "small", directory)
    before = (root_lab.inventory(), far.inventory())

    planned = send(virtomate, far, "--pool", small.name)
    # the daemon of libvirt 11.3 frees something twice when it cannot write a stream, and dies or hangs
    is_broken = far.host.connection.getLibVersion() // 1000 == BROKEN_STREAMS
    transfer = "host" if is_broken else "stream"
    filled = send(virtomate, far, "--pool", small.name, "--no-space-check", "--transfer", transfer)

    assert planned.json["type"] == "NoSpaceError", str(planned)
    assert filled.status == 1, str(filled)
    assert filled.json[0]["status"] == "failed"
    assert small.volumes() == []
    nothing_happened(root_lab, far, before)


def test_several_clones_with_seeds(root_lab: Lab, virtomate: Program, far: Far) -> None:
    """Several clones get there side by side, each with a seed of its own, and start there."""
    path = root_lab.pool.raw("original.raw", 4 * MIB, data_bytes=MIB)
    root_lab.define(domain("original", disks=[disk(path, "raw")], interfaces=[interface()]))
    words = ("--to", far.uri, "--count", "2", "--seed", "--start", "original", "clone")

    result = virtomate("domain-clone", *words, json=True)

    assert result.status == 0, str(result)
    assert [(item["name"], item["started"]) for item in result.json] == [("clone-1", True), ("clone-2", True)]
    assert sorted(item.name() for item in far.host.connection.listAllDomains() if item.isActive()) == far.names()
    assert {path.suffix for path in far.directory.iterdir()} == {".raw", ".iso"}
    assert len(list(far.directory.iterdir())) == 4


def test_local_domain_is_not_taken_for_the_original(root_lab: Lab, virtomate: Program, far: Far) -> None:
    """A domain there with the UUID of the original is no original of the clone."""
    uuid = "11111111-2222-4333-8444-555555555556"
    path = root_lab.pool.raw("original.raw", MIB)
    root_lab.define(domain("original", disks=[disk(path, "raw")], uuid_=uuid))
    assert send(virtomate, far).status == 0
    assert virtomate("domain-list", "--clones-of", "original", json=True, uri=far.uri).json[0]["name"] == "clone"

    far.host.connection.defineXML(domain("other", uuid_=uuid))

    assert virtomate("domain-list", "--clones-of", "other", json=True, uri=far.uri).json == []
    shown = virtomate("domain-list", "--clones", uri=far.uri).stdout
    assert f"original on {os.uname().nodename} (copy)" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--mode", "linked"), "--mode linked is not possible on host"),
        (("--disk", "vda=reflink"), "--disk vda=reflink is not possible on host"),
        (("--disk", "vda=share"), "disk vda ("),
    ],
)
def test_what_needs_the_volumes_of_the_original(
    root_lab: Lab, virtomate: Program, far: Far, words: tuple[str, ...], message: str
) -> None:
    """What rests on volumes of the original, or shares them, is refused."""
    path = root_lab.pool.raw("original.raw", MIB)
    root_lab.define(domain("original", disks=[disk(path, "raw")]))
    before = (root_lab.inventory(), far.inventory())

    result = send(virtomate, far, *words)

    assert (result.status, message in result.json["message"]) == (1, True), str(result)
    nothing_happened(root_lab, far, before)


@pytest.mark.parametrize("transfer", ["host", "stream"])
def test_bandwidth(root_lab: Lab, virtomate: Program, far: Far, tmp_path: Path, transfer: str) -> None:
    """All that two disks write on the other host is written at the one pace that was asked for."""
    paths = [root_lab.pool.raw(f"original-{name}.raw", 16 * MIB, data_bytes=2 * MIB) for name in ("a", "b")]
    disks = [disk(path, "raw", target) for path, target in zip(paths, ("vda", "vdb"), strict=True)]
    root_lab.define(domain("original", disks=disks))
    words = ("domain-clone", "--to", far.uri, "--bandwidth", "3", "--transfer", transfer, "original", "clone")

    done = subprocess.run(
        [sys.executable, record_pace.__file__, tmp_path / "report", "-c", root_lab.uri, "--json", *words],
        env=virtomate.env(),
        stdout=subprocess.PIPE,
        check=True,
    )

    asked = json.loads((tmp_path / "report").read_text())
    (document,) = json.loads(done.stdout)
    assert {rate for rate, _ in asked} == {3 * MIB}
    assert sum(written for _, written in asked) == sum(item["bytes_copied"] for item in document["disks"]) >= 4 * MIB
    assert [item["transfer"] for item in document["disks"]] == [transfer] * 2


def test_the_same_libvirt_is_no_other_host(root_lab: Lab, virtomate: Program) -> None:
    """A URI that leads to the libvirt of the original is a usage error."""
    path = root_lab.pool.raw("original.raw", MIB)
    root_lab.define(domain("original", disks=[disk(path, "raw")]))

    for uri in (root_lab.uri, f"{root_lab.uri}&no_verify=1"):
        result = virtomate("domain-clone", "--to", uri, "original", "clone")
        assert (result.status, "leave out --to" in result.stderr) == (2, True), str(result)


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (("--disk", "vda=copy,pool=nowhere"), "virtomate pool-list"),
        (("--nvram", "nowhere/clone_VARS.fd"), "virtomate pool-list"),
        (("--network", "nowhere"), "virsh net-list --all"),
        (("--ip", "192.168.78.9"), "virsh net-edit lab"),
    ],
)
def test_commands_of_hints_reach_the_other_host(
    root_lab: Lab, virtomate: Program, far: Far, words: tuple[str, ...], command: str
) -> None:
    """What is missing or taken there is to be looked at there."""
    variables = root_lab.make_directory("nvram") / "original_VARS.fd"
    variables.write_bytes(OVMF_TEMPLATE.read_bytes())
    disks = [disk(root_lab.pool.raw("original.raw", MIB), "raw")]
    links = [interface(type_="network", source="lab")]
    root_lab.define(domain("original", disks=disks, interfaces=links, firmware=nvram(variables)))
    root_lab.make_network()
    entry = "<host mac='52:54:00:11:22:33' name='clone' ip='192.168.78.8'/></dhcp>"
    far.host.connection.networkDefineXML(DHCP.replace("</dhcp>", entry))

    result = send(virtomate, far, *words)

    assert result.status == 1, str(result)
    assert reaching(far.uri, command) in result.json["hint"], str(result)


def define_big(lab: Lab) -> tuple[str, ...]:
    """Define `original` with a disk whose copy can be caught in the middle, and return the words of the command."""
    path = lab.pool.raw("original.raw", 40 * MIB, data_bytes=32 * MIB)
    lab.define(domain("original", disks=[disk(path, "raw")], interfaces=[interface()]))
    return ("--transfer", "stream", "original", "clone")


def test_link_that_breaks_is_mended_for_the_undo(root_lab: Lab, virtomate: Program, far: Far, sshd: SshServer) -> None:
    """When only the link to the other host breaks, nothing is left there."""
    words = define_big(root_lab)
    before = (root_lab.inventory(), far.inventory())

    run = virtomate.pausing("vda").start("domain-clone", "--to", sshd.uri(far.host), *words, json=True)
    with paused(run):
        for children in Path(f"/proc/{run.process.pid}/task").glob("*/children"):
            for pid in children.read_text().split():
                os.kill(int(pid), signal.SIGKILL)
    result = run.wait()

    assert result.status == 1, str(result)
    assert "the connection to libvirt was lost" in result.json[0]["error"]["message"]
    nothing_happened(root_lab, far, before)


def test_daemon_that_is_gone_there(root_lab: Lab, virtomate: Program, far: Far) -> None:
    """What cannot be undone there is named with the command that removes it there; the original is not touched."""
    words = define_big(root_lab)
    before = (root_lab.inventory(), far.inventory())

    run = virtomate.pausing("vda").start("domain-clone", "--to", far.uri, *words, json=True)
    with paused(run):
        far.host.kill()
    result = run.wait()
    far.host.start()

    assert result.status == 3, str(result)
    error = result.json[0]["error"]
    assert any("clone.raw" in item for item in error["leftovers"])
    assert f"virtomate -c '{far.uri}' domain-delete clone removes what is left" in error["hint"]
    assert virtomate("domain-delete", "clone", uri=far.uri).status == 0
    nothing_happened(root_lab, far, before)


def test_daemon_of_the_original_that_is_gone(root_lab: Lab, virtomate: Program, far: Far) -> None:
    """The clone is undone on the other host although the original's host does not answer any more."""
    words = define_big(root_lab)
    before = (root_lab.inventory(), far.inventory())

    run = virtomate.pausing("vda").start("domain-clone", "--to", far.uri, *words, json=True)
    with paused(run):
        root_lab.hypervisor.kill()
    result = run.wait()
    root_lab.hypervisor.start()

    assert result.status == 1, str(result)
    assert "leftovers" not in result.json[0]["error"]
    nothing_happened(root_lab, far, before)


def test_clones_that_exist_there(root_lab: Lab, virtomate: Program, far: Far) -> None:
    """A whole clone counts as done or is replaced; a clone from elsewhere does not, and hints reach that host."""
    path = root_lab.pool.raw("original.raw", MIB)
    root_lab.define(domain("original", disks=[disk(path, "raw")]))
    first = cloned(send(virtomate, far))
    before = (root_lab.inventory(), far.inventory())

    (kept,) = send(virtomate, far, "--if-exists", "keep").json
    (planned,) = send(virtomate, far, "--if-exists", "replace", "--dry-run").json

    assert (kept["status"], kept["uuid"], kept["host"]) == ("unchanged", first["uuid"], os.uname().nodename)
    assert planned["replaced"]["uuid"] == first["uuid"]
    nothing_happened(root_lab, far, before)
    replaced = cloned(send(virtomate, far, "--if-exists", "replace"))
    assert replaced["replaced"]["uuid"] == first["uuid"] != replaced["uuid"]
    assert [path.name for path in far.directory.iterdir()] == ["clone.raw"]

    far.host.connection.defineXML(domain("web", uuid_=replaced["source"]["uuid"]))
    for words, uri, message, hint in (
        (("--to", far.uri, "original", "web"), None, "is not a clone made by virtomate", f"virsh -c '{far.uri}' undef"),
        (("--mode", "copy", "web", "clone"), far.uri, "is a clone of 'original' on host", "Choose another name"),
    ):
        choice = "replace" if uri is None else "keep"
        refused = virtomate("domain-clone", "--if-exists", choice, *words, json=True, uri=uri)
        assert (refused.status, message in refused.json["message"]) == (1, True), str(refused)
        assert hint in refused.json["hint"]


def test_base_of_a_replaced_clone(root_lab: Lab, virtomate: Program, far: Far) -> None:
    """The command that deletes what the former clone rested on reaches the other host, in a plan and in a result."""
    root_lab.define(domain("original", disks=[disk(root_lab.pool.raw("original.raw", MIB), "raw")]))
    base = far.pool.qcow2("base.qcow2", MIB)
    origin = far.host.connection.defineXML(domain("origin", disks=[disk(base)]))
    assert virtomate("domain-clone", "--mode", "linked", "origin", "clone", uri=far.uri).status == 0
    origin.undefine()

    for words in (("--dry-run",), ()):
        (document,) = send(virtomate, far, "--if-exists", "replace", *words).json
        (kept,) = document["replaced"]["kept"]
        assert reaching(far.uri, f"virsh vol-delete --pool {far.pool.name} base.qcow2") in kept


@pytest.mark.parametrize("kind", ["internal", "external"])
def test_snapshot(root_lab: Lab, virtomate: Program, far: Far, kind: str) -> None:
    """A clone there has the content that the original had at its snapshot, in one image that the result describes."""
    path = root_lab.pool.qcow2("original.qcow2", 8 * MIB, data_bytes=MIB)
    original = root_lab.define(domain("original", disks=[disk(path)]))
    flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY if kind == "external" else 0
    original.snapshotCreateXML("<domainsnapshot><name>before</name></domainsnapshot>", flags)
    written = path.with_name("original.before") if kind == "external" else path
    run_program("qemu-io", "-f", "qcow2", "-c", "write -P 9 0 64k", written)
    root_lab.pool.refresh()
    then = root_lab.directory / "then.qcow2"
    words = ["-l", "snapshot.name=before"] if kind == "internal" else []
    images.qemu_img("convert", "-f", "qcow2", "-O", "qcow2", *words, path, then)
    before = root_lab.inventory()

    document = cloned(send(virtomate, far, "--snapshot", "before", "--transfer", "stream"))

    assert before.difference(root_lab.inventory()) == ""
    copy = by_target(document)["vda"]
    assert (copy["clone"]["format"], copy["capacity"]) == ("qcow2", 8 * MIB)
    assert images.same_content(Path(copy["clone"]["path"]), "qcow2", then, "qcow2")
    assert "backing-filename" not in image_info(Path(copy["clone"]["path"]))


def test_original_is_shut_down_and_started_on_its_own_host(root_lab: Lab, virtomate: Program, far: Far) -> None:
    """With --shutdown the original of a clone there runs again here, and the clone does not run."""
    path = root_lab.pool.qcow2("original.qcow2", 8 * MIB, data_bytes=MIB)
    original = root_lab.define(domain("original", disks=[disk(path)]))
    original.create()
    words = ("--shutdown", "--shutdown-timeout", "100", "original", "clone")

    watched = start_clone(virtomate, "--to", far.uri, *words, moment="never")
    watched.wait_for_event("note")
    original.destroy()
    document = cloned(watched.run.wait())

    assert (document["restarted"], document["host"]) == (True, os.uname().nodename)
    assert original.isActive()
    assert not far.host.connection.lookupByName("clone").isActive()
    assert [item.name() for item in root_lab.connection.listAllDomains()] == ["original"]


def test_what_is_about_the_other_host(root_lab: Lab, virtomate: Program, far: Far) -> None:
    """The DHCP entry is in the network there; a disk in no pool gets into one there, and no pool stays here."""
    path = images.make_qcow2(root_lab.make_directory("outside") / "original.qcow2", 8 * MIB, data_bytes=MIB)
    root_lab.define(domain("original", disks=[disk(path)], interfaces=[interface(type_="network", source="lab")]))
    root_lab.make_network()
    network = far.host.connection.networkDefineXML(DHCP)
    before = (root_lab.inventory(), far.inventory())
    words = ("--outside-pools", "--pool", far.pool.name, "--ip", "192.168.78.9", "--title", "There")

    missing = send(virtomate, far)
    document = cloned(send(virtomate, far, *words))

    assert "--pool POOL with --outside-pools" in missing.json["hint"], str(missing)
    assert images.same_content(Path(by_target(document)["vda"]["clone"]["path"]), "qcow2", path, "qcow2")
    assert "ip='192.168.78.9'" in network.XMLDesc()
    assert "<title>There</title>" in far.definition("clone")
    assert before[0].difference(root_lab.inventory()) == ""
    assert virtomate("domain-delete", "--yes", "clone", uri=far.uri).status == 0
    nothing_happened(root_lab, far, before)


def test_space_of_a_pool_with_the_name_of_the_originals(root_lab: Lab, virtomate: Program, far: Far) -> None:
    """The original's volume proves nothing of the pool of that name on the other host: libvirt there tells its space.

    On ext4, libvirt counts the blocks that are reserved for root, too.
    """
    here = root_lab.make_pool("images")
    directory = make_mounted_directory(root_lab.directory / "images-there", "ext4", 64 * MIB)
    there = make_pool(far.host, "images", directory)
    root_lab.define(domain("original", disks=[disk(here.qcow2("original.qcow2", 8 * MIB, data_bytes=MIB))]))

    planned = send(virtomate, far, "--dry-run")

    (need,) = planned.json[0]["space"]
    assert (need["pool"], need["available"]) == ("images", there.handle.info()[3])
