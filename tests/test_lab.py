"""The lab itself: what functional tests rely on without saying so."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import libvirt
import pytest

from tests.lab import Lab, disk, domain, images, interface, running
from tests.lab.domains import OUI_OTHER, OVMF_TEMPLATE, mac_address, nvram, rich_domain
from tests.lab.workspace import CHECKOUT, Cache, Workspace

UUID = "5a3f0a68-3c3b-4f0e-9a3e-d0a8a1a5b7c1"

# A run of its own that starts a lab and a domain in it, says so, and waits to be killed.
VICTIM = """
import sys, time
from pathlib import Path
from tests.lab import Lab, disk, domain
with Lab(Path(sys.argv[1])) as lab:
    lab.define(domain("victim", disks=[disk(lab.pool.raw("a.raw"), "raw")])).create()
    print(lab.directory, flush=True)
    time.sleep(600)
"""


def traces(directory: Path) -> list[str]:
    """Return the command lines and loop devices in which a directory occurs."""
    found = []
    places = [*Path("/proc").glob("[0-9]*/cmdline"), *Path("/sys/block").glob("loop*/loop/backing_file")]
    for path in places:
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(directory) in text:
            found.append(text)
    return found


def test_guest_reports_identity_and_disks(lab: Lab) -> None:
    """A booted guest says which UUID, MAC addresses and disks it sees, and its agent answers."""
    raw = lab.pool.raw("a.raw", marker="first")
    qcow2 = lab.pool.qcow2("b.qcow2", seed=2, marker="second")
    mac = mac_address(7, OUI_OTHER)
    lab.define(
        domain(
            "guest",
            guest=lab.guest,
            uuid_=UUID,
            smbios=True,
            agent=True,
            interfaces=[interface(mac)],
            disks=[disk(raw, "raw"), disk(qcow2, target="vdb", serial="B 1")],
        )
    )

    with running(lab.connection, "guest") as guest:
        assert guest.report.uuid == UUID
        assert guest.report.macs == [mac]
        assert guest.report.markers == {"vda": "first", "vdb": "second"}
        assert guest.report.disks["vdb"].serial == "B 1"
        assert guest.report.disks["vda"].capacity_bytes == 64 * images.MIB
        guest.wait_for_agent()

    assert not lab.connection.lookupByName("guest").isActive()


def test_network_gives_addresses(root_lab: Lab) -> None:
    """A guest in the lab's network gets an address, and libvirt knows the lease."""
    root_lab.make_network()
    link = interface(mac_address(9), type_="network", source="lab")
    root_lab.define(domain("leased", guest=root_lab.guest, cmdline="lab.dhcp", interfaces=[link]))

    with running(root_lab.connection, "leased") as guest:
        (lease,) = root_lab.connection.networkLookupByName("lab").DHCPLeases()
        assert guest.report.interfaces["eth0"].address == lease["ipaddr"]


def test_uefi_domain_boots_from_its_disk(lab: Lab) -> None:
    """A disk with the guest on it boots under OVMF, which keeps its variables where the definition says."""
    path = lab.pool.copy(lab.guest.uefi_disk(), "uefi.qcow2")
    images.write_marker(path, "qcow2", "uefi", last_mib=True)
    store = lab.make_directory("nvram") / "uefi_VARS.fd"
    lab.define(domain("uefi", disks=[disk(path)], firmware=nvram(store, element=True), memory_mib=320))

    report = lab.boot("uefi")

    assert (report.firmware, report.markers) == ("uefi", {"vda": "uefi"})
    assert images.file_digest(store) != images.file_digest(OVMF_TEMPLATE)


def test_bios_domain_boots_from_its_disk(lab: Lab) -> None:
    """A disk with the guest on it boots without UEFI, too."""
    path = lab.pool.copy(lab.guest.bios_disk(), "bios.qcow2")
    lab.define(domain("bios", disks=[disk(path)]))

    assert lab.boot("bios").firmware == "bios"


def test_rich_domain_starts(root_lab: Lab) -> None:
    """Libvirt accepts the definition with every kind of device, and starts what the lab has the means for."""
    root_lab.make_network()
    volume = root_lab.pool.raw("a.raw")
    logs = root_lab.make_directory("logs")
    root_lab.define(rich_domain("defined", [disk(volume, "raw")], logs))

    started = root_lab.define(rich_domain("started", [disk(volume, "raw")], logs, startable=True))
    started.create()

    assert started.isActive()


def test_images_differ_by_seed_and_not_by_format(lab: Lab) -> None:
    """The same seed gives the same content in every format; sparse images take no more than their data."""
    pool = lab.pool
    raw = pool.raw("a.raw", data_bytes=8 * images.MIB, seed=3)
    old = pool.qcow2("b.qcow2", data_bytes=8 * images.MIB, seed=3, compat="0.10", snapshots=())
    other = pool.qcow2("c.qcow2", data_bytes=8 * images.MIB, seed=4)
    overlay = pool.overlay("d.qcow2", old, pattern=5)

    assert images.allocated_bytes(raw) < 9 * images.MIB
    assert images.same_content(raw, "raw", old, "qcow2")
    assert not images.same_content(raw, "raw", other, "qcow2")
    assert not images.same_content(old, "qcow2", overlay, "qcow2")
    assert pool.volumes() == ["a.raw", "b.qcow2", "c.qcow2", "d.qcow2"]


def test_digest_ignores_holes(tmp_path: Path) -> None:
    """Zeros count the same whether they are written or a hole, and every other byte counts."""
    hole, zeros, other = tmp_path / "hole", tmp_path / "zeros", tmp_path / "other"
    images.make_raw(hole, images.MIB, extents=[(300_000, 5)])
    zeros.write_bytes(hole.read_bytes())
    other.write_bytes(hole.read_bytes()[:-1] + b"\1")

    assert images.file_digest(hole) == images.file_digest(zeros)
    assert images.file_digest(hole) != images.file_digest(other)


@pytest.mark.parametrize("file_system", ["xfs", "btrfs"])
def test_reflink_works_where_promised(root_lab: Lab, file_system: str) -> None:
    """On XFS and Btrfs files can share their data, on ext4 they cannot."""
    for name, works in ((file_system, True), ("ext4", False)):
        path = root_lab.pools[name].raw("a.raw")
        argv = ["cp", "--reflink=always", str(path), f"{path}.copy"]
        assert (subprocess.run(argv, capture_output=True, check=False).returncode == 0) == works


def test_small_pool_runs_out_of_space(root_lab: Lab) -> None:
    """A small pool is full soon, and goes away with its test."""
    pool = root_lab.make_small_pool("small", size_bytes=32 * images.MIB)

    with pytest.raises(OSError, match="No space left"):
        pool.raw("full.raw", 64 * images.MIB, data_bytes=64 * images.MIB)


def test_inventory_tells_what_changed(lab: Lab) -> None:
    """An inventory equals a later one until something changes, and then names it."""
    path = lab.pool.raw("a.raw")
    kept = lab.define(domain("kept", disks=[disk(path, "raw")]))
    before = lab.inventory()
    assert before == lab.inventory()
    assert not before.difference(lab.inventory())

    with path.open("r+b") as file:
        file.write(b"x")
    lab.define(domain("new"))
    kept.setMetadata(libvirt.VIR_DOMAIN_METADATA_TITLE, "changed", None, None, libvirt.VIR_DOMAIN_AFFECT_CONFIG)

    difference = before.difference(lab.inventory())
    assert "+ domain new" in difference
    assert "+  <title>changed</title>" in difference
    assert f"~ file {path}" in difference


def test_clean_up_leaves_the_lab_as_it_was(session_lab: Lab) -> None:
    """What a test makes is gone afterwards: domains that run, pools, volumes, directories."""
    before, mark = session_lab.inventory(), session_lab.mark()
    pool = session_lab.make_pool("extra")
    pool.raw("a.raw")
    session_lab.define(domain("active", disks=[disk(("extra", "a.raw"), "raw")])).create()
    session_lab.connection.storagePoolLookupByName(session_lab.pool.name).destroy()

    session_lab.return_to(mark)

    assert not before.difference(session_lab.inventory())


def test_guests_outlive_the_daemon(lab: Lab) -> None:
    """The daemon can be killed and comes back with its pools and running guests."""
    lab.define(domain("survivor")).create()

    lab.hypervisor.kill()
    with pytest.raises(libvirt.libvirtError):
        lab.hypervisor.connect()
    lab.hypervisor.start()

    assert lab.connection.lookupByName("survivor").isActive()
    assert lab.pool.handle.isActive()


def test_other_host_is_out_of_sight(root_lab: Lab) -> None:
    """A second host has domains, network and files of its own, and its files are not seen at their path."""
    root_lab.define(domain("same"))
    with root_lab.make_host("far") as far:
        far.connection.defineXML(domain("same"))
        image = Path("/var/lib/libvirt/images/a.raw")
        far.on_host(image).write_bytes(b"far")

        assert not image.exists()
        assert far.run("cat", image) == "far"
        assert far.connection.getHostname() == root_lab.connection.getHostname()
        assert far.connection.lookupByName("same").UUID() != root_lab.connection.lookupByName("same").UUID()


def test_killed_run_leaves_nothing(root_lab: Lab, tmp_path: Path) -> None:
    """SIGKILL takes the daemon, the guests and the loop devices with it; the next run removes the directory."""
    base = tmp_path / "base"
    kept = root_lab.workspace.cache.directory / "capabilities"
    # Another lab may be writing there.
    shutil.copytree(kept, base / "cache/capabilities", ignore=shutil.ignore_patterns(".*"))
    with subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(base)], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    ) as victim:
        try:
            assert victim.stdout is not None
            directory = Path(victim.stdout.readline().strip())
            sockets = (directory / "host-sockets").resolve()
            before = traces(directory)
        finally:
            victim.kill()
    assert any("qemu-system" in trace for trace in before)
    assert any(trace.startswith(str(directory)) for trace in before)

    deadline = time.monotonic() + 180
    while traces(directory) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert traces(directory) == []
    assert not sockets.exists()
    assert directory.exists()
    Workspace(base).close()
    assert not directory.exists()


def test_lab_changes_no_mounts_of_the_machine(root_lab: Lab) -> None:
    """The lab's mounts are seen by its own processes and nowhere else."""
    own, outside = Path("/proc/self/mounts").read_text(), Path(f"/proc/{os.getppid()}/mounts").read_text()

    assert str(root_lab.directory) in own
    assert str(root_lab.directory) not in outside


def test_cache_is_built_once_and_whole(tmp_path: Path) -> None:
    """Something that fails half way leaves nothing in the cache, and what is there is not made again."""
    cache = Cache(tmp_path)
    calls = []

    def make(target: Path) -> None:
        calls.append(target)
        (target / "part").write_text("x")
        if len(calls) == 1:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cache.build("thing", make)
    assert not (tmp_path / "thing").exists()
    assert cache.build("thing", make) == cache.build("thing", make)
    assert len(calls) == 2


def test_chains_of_images(tmp_path: Path) -> None:
    """Many images that rest on each other are as qemu-img would have made each of them."""
    first, second = images.make_chains(tmp_path, 2, 3)

    for number, top in enumerate((first, second)):
        found = json.loads(images.qemu_img("info", "--backing-chain", "--output=json", top))
        assert [Path(item["filename"]).name for item in found] == [
            f"chain-{number:05}-{level:02}.qcow2" for level in (2, 1, 0)
        ]
