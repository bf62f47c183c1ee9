"""Clones of domains that run: all disks as of one moment, and the original never notices."""

import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import libvirt
import pytest

from tests.functional.runs import error_of, wait_for, wait_until_still
from tests.functional.support import (
    by_target,
    clone,
    clone_path,
    cloned,
    definition,
    image_info,
    pool_on,
    refused,
    unchanged,
)
from tests.lab import Inventory, Lab, Pool, Program, Result, boot, disk, domain, images, interface, running
from tests.lab.domains import OVMF_TEMPLATE, nvram
from tests.lab.guest import GuestReport, RunningGuest
from tests.lab.images import MIB
from tests.lab.ordinary_user import OrdinaryUser
from tests.lab.program import Background
from tests.lab.slow_disk import limit_backup, pause_jobs, slow_down, speed_up
from tests.lab.ssh import SshServer
from tests.lab.storage import make_pool

# A backup may have begun to read 64 MiB before anybody can slow it down; what is left then takes two minutes.
BUSY_BYTES = 192 * MIB


@pytest.fixture(scope="module")
def busy_domain(session_lab: Lab) -> Iterator[str]:
    """The name of a domain that runs, without a guest, and has a disk of which a backup takes a while."""
    mark = session_lab.mark()
    path = session_lab.pool.qcow2("busy.qcow2", BUSY_BYTES, data_bytes=BUSY_BYTES)
    session_lab.define(domain("busy", disks=[disk(path)], interfaces=[interface()])).create()
    yield "busy"
    session_lab.return_to(mark)


@pytest.fixture
def busy(lab: Lab, busy_domain: str) -> Any:
    """That domain, over the connection to whatever daemon there is now."""
    return lab.connection.lookupByName(busy_domain)


@contextmanager
def started(lab: Lab, xml: str) -> Iterator[Any]:
    """Define a domain and let it run for the time of the block."""
    found = lab.define(xml)
    found.create()
    try:
        yield found
    finally:
        with suppress(libvirt.libvirtError):
            found.destroy()


def has_job(found: Any) -> bool:
    """Tell whether a domain has a backup running."""
    try:
        found.backupGetXMLDesc(0)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN_BACKUP:
            raise
        return False
    return True


def has_job_for_long(found: Any, target: str = "vda") -> bool:
    """Tell whether a domain has a backup running that copies 1 MiB of a disk in a second, and has much to do."""
    info = found.blockJobInfo(target) or {}
    return info.get("bandwidth") == 1 and info["end"] - info["cur"] > BUSY_BYTES // 4


def begin_slowly(found: Any, **targets: Path) -> None:
    """Begin a backup of disks into files that takes very long."""
    disks = (
        f"<disk name='{name}' type='file'><driver type='{path.suffix[1:]}'/><target file='{path}'/></disk>"
        for name, path in targets.items()
    )
    document = f"<domainbackup mode='push'><disks>{''.join(disks)}</disks></domainbackup>"
    slow_down(found, "vda")
    found.backupBegin(document, None, libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL)
    limit_backup(found, "vda", MIB)
    speed_up(found)
    assert has_job_for_long(found)


def is_running(found: Any) -> bool:
    """Tell whether a domain runs and is not paused."""
    return bool(found.state()[0] == libvirt.VIR_DOMAIN_RUNNING)


def catch(virtomate: Program, found: Any, *words: str, target: str = "vda") -> Background:
    """Start to clone a running domain, and return the run, which stands still while its backup goes on."""
    slow_down(found, target)
    run = virtomate.pausing("virDomainBackupBegin").start("domain-clone", "--live", *words, json=True)
    wait_until_still(run.process.pid)
    speed_up(found)
    assert has_job_for_long(found, target)
    return run


def test_all_disks_are_of_one_moment(lab: Lab, virtomate: Program) -> None:
    """A guest writes records to two disks in turn: in the clone none before the last is missing, and it goes on."""
    pool = lab.pool
    system = pool.qcow2(
        "original.qcow2", 64 * MIB, cluster_bytes=128 << 10, options=["lazy_refcounts=on", "extended_l2=on"]
    )
    data = pool.raw("original-data.raw", 96 * MIB, data_bytes=8 * MIB)
    lab.define(
        domain(
            "original",
            disks=[disk(system), disk(data, "raw", "vdb")],
            interfaces=[interface()],
            guest=lab.guest,
            cmdline="lab.count lab.write",
        )
    )
    with running(lab.connection, "original") as guest:
        assert guest.report.records == 0
        wait_for(lambda: guest.domain.blockStats("vdb")[3] > 20 * 512, "the guest writes")

        document = clone(virtomate, "--live")

        written = guest.domain.blockStats("vdb")[3]
        wait_for(lambda: guest.domain.blockStats("vdb")[3] > written, "the guest goes on writing")
        assert not has_job(guest.domain)
        report = boot(lab.hypervisor.connect(), "clone")

    assert report.records > 0
    assert report.stray == 0
    assert document["consistency"] == "crash"
    assert document["warnings"] == []
    assert {item["transfer"] for item in document["disks"]} == {"backup"}
    copy, original = image_info(clone_path(document)), image_info(system)
    assert copy["format-specific"] == original["format-specific"]
    assert copy["cluster-size"] == original["cluster-size"]
    for target, capacity in (("vda", 64 * MIB), ("vdb", 96 * MIB)):
        taken = images.allocated_bytes(clone_path(document, target))
        assert taken < capacity // 2
        assert by_target(document)[target]["bytes_copied"] == taken


@pytest.mark.parametrize("chain", [False, True], ids=["one image", "chain"])
def test_paused_domain(lab: Lab, virtomate: Program, chain: bool) -> None:
    """A paused domain is cloned as it is, its chain flattened, and stays paused."""
    path = lab.pool.qcow2("original.qcow2", 32 * MIB)
    if chain:
        path = lab.pool.overlay("original-top.qcow2", path, pattern=7)
    with started(lab, domain("original", disks=[disk(path)])) as found:
        found.suspend()
        before = images.guest_digest(path, "qcow2")

        document = clone(virtomate, "--live")

        assert found.state()[0] == libvirt.VIR_DOMAIN_PAUSED
        assert not has_job(found)
    assert images.guest_digest(clone_path(document), "qcow2") == before
    assert "backing-filename" not in image_info(clone_path(document))


def test_domain_that_is_off(lab: Lab, virtomate: Program) -> None:
    """With --live a domain that is shut off is cloned as ever."""
    lab.define(domain("original", disks=[disk(lab.pool.qcow2("original.qcow2", 4 * MIB))]))

    document = clone(virtomate, "--live", "--mode", "linked")

    assert document["consistency"] == "offline"
    assert document["disks"][0]["action"] == "linked"


def test_dry_run(lab: Lab, virtomate: Program, busy: Any) -> None:
    """The plan says how the disks are copied, and that all of their capacity must be free; nothing is changed."""
    before = lab.inventory()

    (plan,) = virtomate("domain-clone", "--live", "--dry-run", "busy", "clone", json=True).json

    assert plan["status"] == "planned"
    assert plan["consistency"] == "crash"
    assert plan["disks"][0]["transfer"] == "backup"
    assert plan["space"][0]["needed"] >= BUSY_BYTES
    said = virtomate("domain-clone", "--live", "--dry-run", "busy", "clone").stdout
    assert "by a backup of the running original" in said
    assert "; the backup reserves the full capacity of the disks while it runs\n" in said
    unchanged(lab, before)
    assert is_running(busy)


def test_nvram_of_a_running_domain(lab: Lab, virtomate: Program) -> None:
    """The NVRAM of a running domain is copied although QEMU has it open."""
    store = lab.make_directory("nvram") / "original_VARS.fd"
    store.write_bytes(OVMF_TEMPLATE.read_bytes())
    path = lab.pool.qcow2("original.qcow2", 4 * MIB)
    with started(lab, domain("original", disks=[disk(path)], firmware=nvram(store), memory_mib=256)) as found:
        found.suspend()
        document = clone(virtomate, "--live")
        content = store.read_bytes()

    assert document["nvram"]["action"] == "copied"
    assert Path(document["nvram"]["clone"]).read_bytes() == content


def test_devices(lab: Lab, virtomate: Program) -> None:
    """A hot-plugged device is named in a warning; a hot-plugged disk is not copied."""
    path = lab.pool.qcow2("original.qcow2", 4 * MIB)
    more = lab.pool.qcow2("more.qcow2", 4 * MIB)
    # q35 has no slots to plug anything into
    xml = domain("original", disks=[disk(path)], interfaces=[interface("52:54:00:00:00:01")], machine="pc")
    with started(lab, xml) as found:
        for device in (disk(more, target="vdb"), interface("52:54:00:00:00:02")):
            found.attachDeviceFlags(device, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        document = clone(virtomate, "--live")

    warned = [item["subject"] for item in document["notices"] if item["code"] == "without-hot-plugged-device"]
    assert "disk vdb" in warned
    assert "interface 52:54:00:00:00:02" in warned
    assert [item["target"] for item in document["disks"]] == ["vda"]


def test_devices_of_the_moment(lab: Lab, virtomate: Program) -> None:
    """With --live-devices hot-plugged devices are in the clone, a hot-plugged disk with its content, and it starts."""
    path = lab.pool.qcow2("original.qcow2", 4 * MIB)
    more = lab.pool.qcow2("more.qcow2", 4 * MIB)
    xml = domain("original", disks=[disk(path)], interfaces=[interface("52:54:00:00:00:01")], machine="pc", agent=True)
    with started(lab, xml) as found:
        for device in (disk(more, target="vdb"), interface("52:54:00:00:00:02")):
            found.attachDeviceFlags(device, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        document = clone(virtomate, "--live", "--live-devices")
        assert images.same_content(clone_path(document, "vdb"), "qcow2", more, "qcow2")
        # beside the original, so nothing of its run is left in the clone's definition
        lab.connection.lookupByName("clone").create()

    assert document["warnings"] == []
    assert [item["source_mac"] for item in document["interfaces"]] == ["52:54:00:00:00:01", "52:54:00:00:00:02"]
    said = definition(lab, "clone")
    assert "<alias name='ua-" not in said
    assert "domain-" not in "".join(line for line in said.splitlines() if "source mode='bind'" in line)


REFUSALS = {
    "not asked for": (("busy", "clone"), "is running, and must be shut off", "--live"),
    "transfer": (
        ("--live", "--transfer", "host", "busy", "clone"),
        "--transfer host needs one that is shut",
        "Leave out --transfer, or shut the domain down first: ",
    ),
    "no agent": (("--live", "--quiesce", "require", "busy", "clone"), "'busy' has no guest agent", "--quiesce auto"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused_while_it_runs(lab: Lab, virtomate: Program, busy: Any, case: str) -> None:
    """What cannot be done with a running domain is refused, and nothing is touched."""
    words, message, hint = REFUSALS[case]
    before = lab.inventory()

    error = refused(lab, before, virtomate("domain-clone", *words, json=True))

    assert message in error["message"]
    assert hint in error["hint"]
    assert is_running(busy)


def test_refused_while_another_job_runs(lab: Lab, virtomate: Program, busy: Any) -> None:
    """A job of the domain, or of the disk, is named."""
    target = lab.pool.raw("target.raw", BUSY_BYTES, data_bytes=0)

    begin_slowly(busy, vda=target)
    try:
        error = virtomate("domain-clone", "--live", "busy", "clone", json=True).json
        assert has_job(busy)
    finally:
        busy.abortJob()
        wait_for(lambda: not has_job(busy), "the backup ends")
    assert "has another job running: backup" in error["message"]
    assert "domjobinfo busy" in error["hint"]
    assert "domain-delete of that clone ends the job" in error["hint"]

    mirror = f"<disk type='file'><source file='{lab.pool.path}/mirror.qcow2'/><driver type='qcow2'/></disk>"
    busy.blockCopy("vda", mirror, {"bandwidth": 1 << 20}, libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)
    try:
        error = virtomate("domain-clone", "--live", "busy", "clone", json=True).json
    finally:
        busy.blockJobAbort("vda", 0)
    assert "disk vda of domain 'busy' has a block copy running" in error["message"]


def test_disk_that_is_another_one_now(lab: Lab, virtomate: Program) -> None:
    """Where the running domain and its definition differ in a disk, neither is cloned."""
    path = lab.pool.qcow2("original.qcow2", 4 * MIB)
    other = lab.pool.qcow2("other.qcow2", 4 * MIB)
    with started(lab, domain("original", disks=[disk(path)])) as found:
        found.updateDeviceFlags(disk(other), libvirt.VIR_DOMAIN_AFFECT_CONFIG)
        error = virtomate("domain-clone", "--live", "original", "clone", json=True).json
        assert f"disk vda of the running domain 'original' is '{path}'" in error["message"]
        assert str(other) in error["message"]
        found.updateDeviceFlags(disk(path), libvirt.VIR_DOMAIN_AFFECT_CONFIG)
        found.attachDeviceFlags(disk(other, target="vdb"), libvirt.VIR_DOMAIN_AFFECT_CONFIG)

        error = virtomate("domain-clone", "--live", "original", "clone", json=True).json
        assert "disk vdb is in the definition of domain 'original', but not in the running domain" in error["message"]
        assert "--disk vdb=drop" in error["hint"]
        cloned(virtomate("domain-clone", "--live", "--disk", "vdb=drop", "original", "clone", json=True))


def test_file_system_that_reserves_nothing(root_lab: Lab, virtomate: Program) -> None:
    """Where space cannot be reserved the original is at risk: refused, unless somebody takes the risk."""
    path = root_lab.pool.qcow2("original.qcow2", 16 * MIB)
    with started(root_lab, domain("original", disks=[disk(path)])) as found:
        found.suspend()
        words = ("domain-clone", "--live", "--pool", "btrfs", "original", "clone")
        before = root_lab.inventory()

        error = refused(root_lab, before, virtomate(*words, json=True))
        assert "does not reserve space" in error["message"]
        assert "--risk-original" in error["hint"]

        document = cloned(virtomate(*words, "--risk-original", json=True))
        assert images.same_content(clone_path(document), "qcow2", path, "qcow2")


def test_full_disk(root_lab: Lab, virtomate: Program, busy: Any) -> None:
    """All of the capacity must be free beforehand; where it is not, the original never notices."""
    small = root_lab.make_small_pool("small", size_bytes=BUSY_BYTES // 2)
    words = ("domain-clone", "--live", "--pool", small.name, "busy", "clone")
    before = root_lab.inventory()

    error = refused(root_lab, before, virtomate(*words, json=True))
    assert error["type"] == "NoSpaceError"
    # no less room would do, and none is saved by compression
    assert error["hint"] == (
        "A backup of a running original reserves the full capacity of its disks: make room, or choose another pool "
        "with --pool."
    )
    error = refused(root_lab, before, virtomate(*words, "--no-space-check", json=True))
    assert error["type"] == "NoSpaceError"
    assert is_running(busy)
    assert not has_job(busy)


def test_interruption_aborts_the_backup(lab: Lab, virtomate: Program, busy: Any) -> None:
    """Ctrl-C ends the backup and leaves nothing; the original runs on."""
    before = lab.inventory()
    run = catch(virtomate, busy, "busy", "clone")
    run.signal(signal.SIGINT)
    run.signal(signal.SIGCONT)
    result = run.wait()

    assert result.status == -signal.SIGINT, str(result)
    (attempt,) = result.json
    assert attempt["status"] == "interrupted"
    assert "leftovers" not in attempt["error"]
    assert not has_job(busy)
    assert is_running(busy)
    unchanged(lab, before)


def test_deletion_ends_the_backup_of_a_killed_run(lab: Lab, virtomate: Program, busy: Any) -> None:
    """What kill -9 leaves goes away with one command, the backup that goes on included."""
    before = lab.inventory()
    run = catch(virtomate, busy, "busy", "clone")
    run.signal(signal.SIGKILL)
    run.wait()
    assert has_job(busy)

    result = virtomate("domain-delete", "clone")

    assert result.status == 0, str(result)
    assert not has_job(busy)
    assert is_running(busy)
    unchanged(lab, before)


def test_deletion_leaves_the_backup_of_others(lab: Lab, virtomate: Program, busy: Any) -> None:
    """A backup that writes to other images, too, is not the killed run's: nothing is touched."""
    second = lab.pool.raw("second.raw", 4 * MIB)
    busy.attachDeviceFlags(disk(second, "raw", "vdb"), libvirt.VIR_DOMAIN_AFFECT_LIVE)
    try:
        run = catch(virtomate, busy, "busy", "clone")
        run.signal(signal.SIGKILL)
        run.wait()
        busy.abortJob()
        wait_for(lambda: not has_job(busy), "the backup ends")
        target = lab.pool.path / "clone.qcow2"
        assert target.exists()
        other = lab.pool.raw("other.raw", 4 * MIB)

        begin_slowly(busy, vda=target, vdb=other)
        result = virtomate("domain-delete", "clone", json=True)
        assert has_job(busy), str(result)
        assert target.exists()
        busy.abortJob()
        wait_for(lambda: not has_job(busy), "the backup ends")
    finally:
        busy.detachDeviceFlags(disk(second, "raw", "vdb"), libvirt.VIR_DOMAIN_AFFECT_LIVE)

    assert result.status == 1, str(result)
    assert "and to other images" in str(result.json)
    assert virtomate("domain-delete", "clone").status == 0


def test_another_backup_takes_the_place_of_ours(lab: Lab, virtomate: Program, busy: Any) -> None:
    """Where somebody has ended our backup and begun another one, the clone is undone and that one goes on."""
    run = catch(virtomate, busy, "busy", "clone")
    busy.abortJob()
    wait_for(lambda: not has_job(busy), "the backup ends")
    target = lab.pool.raw("target.raw", BUSY_BYTES, data_bytes=0)
    begin_slowly(busy, vda=target)
    try:
        run.signal(signal.SIGCONT)
        result = run.wait()
        assert has_job(busy)
    finally:
        busy.abortJob()
        wait_for(lambda: not has_job(busy), "the backup ends")

    assert result.status == 1, str(result)
    assert "another backup of domain 'busy' began meanwhile" in error_of(result)["message"]
    assert "leftovers" not in error_of(result)
    assert "clone" not in lab.connection.listDefinedDomains()
    assert not (lab.pool.path / "clone.qcow2").exists()


def test_daemon_restarts_during_the_backup(lab: Lab, virtomate: Program, busy: Any) -> None:
    """A backup outlives the daemon: the clone is undone, and the backup ended, over another connection."""
    before = lab.inventory()
    run = catch(virtomate, busy, "busy", "clone")
    lab.hypervisor.restart()
    again = lab.connection.lookupByName("busy")
    assert has_job(again)
    run.signal(signal.SIGCONT)
    result = run.wait()

    assert result.status == 1, str(result)
    assert "leftovers" not in error_of(result)
    assert not has_job(again)
    assert is_running(again)
    unchanged(lab, before)


# What becomes of a domain during the backup, and what is said of it.
ENDS = {
    "shut off": (True, False, "was shut off while", "Run the command again"),
    "restarted": (True, True, "was shut off and started again while", "Run the command again"),
    "gone": (False, False, "was shut off while", None),
    "another transient run": (False, True, "was shut off and started again while", "Run the command again"),
}


@pytest.mark.parametrize("case", ENDS)
def test_domain_is_shut_off_during_the_backup(lab: Lab, virtomate: Program, case: str) -> None:
    """The backup of a domain that is shut off meanwhile is no clone, whether the domain is persistent or transient."""
    is_persistent, is_restarted, message, hint = ENDS[case]
    path = lab.pool.qcow2("original.qcow2", BUSY_BYTES, data_bytes=BUSY_BYTES)
    xml = domain("original", disks=[disk(path)])
    if is_persistent:
        lab.define(xml)
    found = lab.connection.createXML(xml)
    try:
        run = catch(virtomate, found, "original", "clone")
        found.destroy()
        if is_restarted:
            found = lab.connection.createXML(xml)
        run.signal(signal.SIGCONT)
        result = run.wait()
    finally:
        with suppress(libvirt.libvirtError):
            found.destroy()

    assert result.status == 1, str(result)
    error = error_of(result)
    assert f"domain 'original' {message} it was being cloned" in error["message"]
    assert error["type"] == "SourceChangedError"
    assert (error.get("hint") or "").startswith(hint or "")
    assert ("hint" in error) == (hint is not None)
    assert "leftovers" not in error
    assert not (lab.pool.path / "clone.qcow2").exists()
    assert "clone" not in lab.connection.listDefinedDomains()


@pytest.mark.parametrize("words", ["--live-devices", "--risk-original"])
def test_words_that_need_live(virtomate: Program, words: str) -> None:
    """What is about a running original is refused without --live."""
    result = virtomate("domain-clone", words, "a", "b")

    assert result.status == 2
    assert f"{words} is for an original that runs, and needs --live" in result.stderr


def test_member_of_the_group(root_lab: Lab, nobody: OrdinaryUser) -> None:
    """Who cannot open the files has them copied from images that are removed, so that no reserved space is kept."""
    path = nobody.pool.raw("original.raw", 16 * MIB, data_bytes=MIB)
    path.chmod(0o600)
    nobody.pool.refresh()
    with started(root_lab, domain("original", disks=[disk(path, "raw")])) as found:
        found.suspend()
        document = cloned(nobody("domain-clone", "--live", "original", "clone"))

    assert document["disks"][0]["transfer"] == "stream"
    assert images.allocated_bytes(clone_path(document)) < 8 * MIB
    assert images.same_content(clone_path(document), "raw", path, "raw")
    assert nobody.pool.volumes() == ["clone.raw", "original.raw"]


def test_over_ssh(lab: Lab, sshd: SshServer, virtomate: Program) -> None:
    """Over SSH all disks are copied from images of one moment, which are removed."""
    with paused_original(lab, lab.pool) as (system, data):
        document = clone(virtomate, "--live", uri=sshd.uri(lab.hypervisor))

        assert images.same_content(clone_path(document), "qcow2", system, "qcow2")
        assert images.same_content(clone_path(document, "vdb"), "raw", data, "raw")
        assert images.allocated_bytes(clone_path(document, "vdb")) < 8 * MIB
    assert [name for name in lab.pool.volumes() if "moment" in name] == []
    assert sorted(lab.connection.listDefinedDomains()) == ["clone", "original"]


def test_files_out_of_sight(root_lab: Lab, virtomate: Program) -> None:
    """Where the daemon's files are not seen, libvirt copies the images, and they are removed."""
    with root_lab.make_host("live") as host:
        there = Path("/var/lib/libvirt/images")
        make_pool(host, "images", there)
        path = Pool(host, "images", host.on_host(there)).qcow2("original.qcow2", 16 * MIB)
        found = host.connection.defineXML(domain("original", disks=[disk(there / path.name)]))
        found.create()
        found.suspend()
        document = clone(virtomate, "--live", "--trust-pool", uri=host.uri)
        copy = host.on_host(clone_path(document))

        assert document["disks"][0]["transfer"] == "server"
        assert images.same_content(copy, "qcow2", path, "qcow2")
        assert [item.name() for item in host.connection.listAllDomains() if "moment" in item.name()] == []
        assert sorted(file.name for file in copy.parent.iterdir()) == ["clone.qcow2", "original.qcow2"]


def test_link_drops_during_the_backup(lab: Lab, sshd: SshServer, virtomate: Program, busy: Any) -> None:
    """Where the link to a remote host drops, the clone is undone, and the backup ended, over a new link."""
    before = lab.inventory()
    run = catch(replace(virtomate, uri=sshd.uri(lab.hypervisor)), busy, "busy", "clone")
    sshd.cut()
    run.signal(signal.SIGCONT)
    result = run.wait()

    assert result.status == 1, str(result)
    assert "leftovers" not in error_of(result), str(result)
    assert not has_job(busy)
    assert is_running(busy)
    unchanged(lab, before)


@pytest.mark.stress
@pytest.mark.timeout(600)
def test_link_dies_during_the_backup(lab: Lab, sshd: SshServer, virtomate: Program, busy: Any) -> None:
    """Where no new link can be made, the error names what is left, and `domain-delete` ends the backup."""
    before = lab.inventory()
    run = catch(replace(virtomate, uri=sshd.uri(lab.hypervisor)), busy, "busy", "clone")
    sshd.freeze()
    run.signal(signal.SIGCONT)
    result = run.wait(400)

    assert result.status == 3, str(result)
    assert any("domain 'busy-moment'" in line for line in error_of(result)["leftovers"]), str(result)
    assert has_job(busy)
    assert virtomate("domain-delete", "--yes-unproved", "busy-moment").status == 0
    assert not has_job(busy)
    assert is_running(busy)
    unchanged(lab, before)


@contextmanager
def paused_original(lab: Lab, pool: Pool) -> Iterator[tuple[Path, Path]]:
    """Have a domain `original` that is paused, with a qcow2 and a raw disk, and yield their paths."""
    system = pool.qcow2("original.qcow2", 16 * MIB)
    data = pool.raw("original-data.raw", 16 * MIB, data_bytes=2 * MIB)
    with started(lab, domain("original", disks=[disk(system), disk(data, "raw", "vdb")])) as found:
        found.suspend()
        yield system, data


def documents_of(result: Result) -> Any:
    """Return the clones of a run that must have succeeded."""
    assert result.status == 0, str(result)
    return result.json


def test_linked_clones_of_one_moment(lab: Lab, virtomate: Program) -> None:
    """Linked clones of a running original rest on images of their own, which are deleted with the last clone."""
    before = lab.inventory()
    with paused_original(lab, lab.pool) as (system, data):
        clones = documents_of(virtomate("domain-clone", "--live", "--mode", "linked", "original", "a", "b", json=True))

        for document in clones:
            assert document["moment"] == "original-moment"
            assert document["warnings"] == []
            assert {item["transfer"] for item in document["disks"]} == {"link"}
            assert by_target(document)["vda"]["source"]["volume"] == "original-moment.qcow2"
            assert images.same_content(clone_path(document), "qcow2", system, "qcow2")
            assert images.guest_digest(clone_path(document, "vdb"), "qcow2") == images.guest_digest(data, "raw")
        assert images.allocated_bytes(lab.pool.path / "original-moment-data.raw") < 8 * MIB
        refusal = virtomate("domain-clone", "original-moment", "c", json=True)
        assert "only keeps images of 'original' for linked clones" in refusal.json["message"]
        refusal = virtomate("domain-delete", "--yes", "original-moment", json=True)
        assert refusal.status == 1
        assert "of domain 'a' rests on it" in refusal.json["message"]

        assert [item["name"] for item in documents_of(virtomate("domain-delete", "--yes", "a", json=True))] == ["a"]
        deleted = documents_of(virtomate("domain-delete", "--yes", "b", json=True))
        assert [item["name"] for item in deleted] == ["b", "original-moment"]
    lab.connection.lookupByName("original").undefine()
    system.unlink()
    data.unlink()
    lab.pool.refresh()
    unchanged(lab, before)


@pytest.mark.parametrize("mode", ["copy", "reflink"])
def test_independent_clones_of_one_moment(lab: Lab, virtomate: Program, mode: str) -> None:
    """Copies and reflinks of one moment are independent, and nothing is left of its images."""
    pool = pool_on(lab, "xfs" if mode == "reflink" else "ext4")
    with paused_original(lab, pool) as (system, data):
        words = ("domain-clone", "--live", "--mode", mode, "--count", "2", "original", "c")
        for document in documents_of(virtomate(*words, json=True)):
            assert document["consistency"] == "crash"
            assert document["moment"] is None
            assert images.same_content(clone_path(document), "qcow2", system, "qcow2")
            assert images.same_content(clone_path(document, "vdb"), "raw", data, "raw")
            assert images.allocated_bytes(clone_path(document, "vdb")) < 8 * MIB
    assert [name for name in pool.volumes() if "moment" in name] == []
    assert sorted(lab.connection.listDefinedDomains()) == ["c-1", "c-2", "original"]


def test_interruption_of_several(lab: Lab, virtomate: Program, busy: Any) -> None:
    """Ctrl-C while the images are made leaves nothing, and says so of each clone."""
    before = lab.inventory()
    run = catch(virtomate, busy, "--mode", "linked", "busy", "one", "two")
    run.signal(signal.SIGINT)
    run.signal(signal.SIGCONT)
    result = run.wait()

    assert result.status == -signal.SIGINT, str(result)
    assert [item["status"] for item in result.json] == ["interrupted", "interrupted"]
    assert not has_job(busy)
    unchanged(lab, before)


def test_killed_while_the_images_are_made(lab: Lab, virtomate: Program, busy: Any) -> None:
    """What kill -9 leaves of images is an unfinished clone as any other."""
    before = lab.inventory()
    run = catch(virtomate, busy, "--mode", "linked", "busy", "one", "two")
    run.signal(signal.SIGKILL)
    run.wait()
    (left,) = (item for item in virtomate("domain-list", "--clones", json=True).json)
    assert (left["name"], left["clone"]["status"]) == ("busy-moment", "unfinished")

    assert virtomate("domain-delete", "busy-moment").status == 0
    assert not has_job(busy)
    unchanged(lab, before)


CREATED_FIRST = {
    "qcow2": ("vdb=drop", "killed.qcow2"),
    "raw": ("vda=drop", "killed-data.raw"),
    "NVRAM": (None, "killed_VARS.fd"),
}


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("case", CREATED_FIRST)
def test_killed_while_a_volume_is_created(lab: Lab, virtomate: Program, case: str) -> None:
    """A volume whose space libvirt has reserved, and that has no token yet, is deleted without a question."""
    choice, name = CREATED_FIRST[case]
    choices = ("vda=drop", "vdb=drop") if choice is None else (choice,)
    words = [word for chosen in choices for word in ("--disk", chosen)]
    before = lab.inventory()
    run = virtomate.pausing("virStorageVolCreateXML").start("domain-clone", "--live", *words, "brief", "killed")
    wait_until_still(run.process.pid)
    run.signal(signal.SIGKILL)
    run.wait()
    assert images.allocated_bytes(lab.pool.path / name) > 0

    result = virtomate("domain-delete", "killed")

    assert result.status == 0, str(result)
    assert name in result.stdout
    unchanged(lab, before)


@pytest.fixture(scope="module")
def brief(session_lab: Lab) -> Iterator[None]:
    """A domain `brief` that is paused, and has two small disks and an NVRAM."""
    mark = session_lab.mark()
    pool = session_lab.pool
    disks = [disk(pool.qcow2("brief.qcow2", 48 * MIB, data_bytes=32 * MIB))]
    disks.append(disk(pool.raw("brief-data.raw", 48 * MIB, data_bytes=32 * MIB), "raw", "vdb"))
    store = pool.copy(OVMF_TEMPLATE, "brief_VARS.fd")
    found = session_lab.define(domain("brief", disks=disks, firmware=nvram(store), memory_mib=256))
    found.create()
    found.suspend()
    yield
    session_lab.return_to(mark)


WAYS = {"copy": ("brief", "a"), "linked": ("--mode", "linked", "brief", "a", "b")}
DISTURBANCES = ("interrupted", "killed", "restarted daemon", "full disk", "dropped link")


class Disturber:
    """Disturbs runs in one way.

    Attributes:
        uri: Over which connection the runs work.
        words: What is added to their command lines.
        leaves: Whether a run that is disturbed so may leave an unfinished clone.
    """

    def __init__(self, lab: Lab, way: str, request: pytest.FixtureRequest) -> None:
        self.uri = lab.uri
        self.words: tuple[str, ...] = ()
        self.leaves = way in {"killed", "restarted daemon", "dropped link"}
        self._lab, self._way = lab, way
        if way == "dropped link":
            self._server = request.getfixturevalue("sshd")
            self.uri = self._server.uri(lab.hypervisor)
        elif way == "full disk":
            self._pool = request.getfixturevalue("root_lab").make_small_pool("small", size_bytes=256 * MIB)
            self.words = ("--pool", "small")

    def disturb(self, run: Background) -> Result:
        """Disturb a run, and return how it ended."""
        match self._way:
            case "interrupted":
                run.signal(signal.SIGINT)
            case "killed":
                run.signal(signal.SIGKILL)
            case "restarted daemon":
                self._lab.hypervisor.restart()
            case "dropped link":
                self._server.cut()
            case "full disk":
                return self._wait_without_room(run)
        return run.wait()

    def _wait_without_room(self, run: Background) -> Result:
        filler = self._pool.path / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))
        result = run.wait()
        filler.unlink()
        # libvirt may have seen the filler
        self._pool.refresh()
        return result


def remove_clones(virtomate: Program) -> set[str]:
    """Delete all clones with one command, and return what they were: finished, unfinished."""
    clones = {item["name"]: item["clone"] for item in virtomate("domain-list", "--clones", json=True).json}
    if clones:
        # What was made over a connection bears no token.
        consent = [] if virtomate.uri is not None and "ssh" not in virtomate.uri else ["--yes-unproved"]
        result = virtomate("domain-delete", "--yes", *consent, *clones)
        assert result.status == 0, str(result)
    return {clone["status"] for clone in clones.values()}


def disturb(
    lab: Lab, virtomate: Program, words: Sequence[str], disturber: Disturber, moments: Iterable[float]
) -> Counter[str]:
    """Disturb clones of `brief` at moments of their making, 0 to 1: nothing is left, or one command removes it.

    The original goes on as before, without a backup. Return what the disturbances left: nothing, finished or unfinished
    clones.
    """
    program = replace(virtomate, uri=disturber.uri)
    found = lab.connection.lookupByName("brief")
    state, disks = found.state(), disks_of(found)
    before = without(lab.inventory(), disks)
    words = ("domain-clone", "--live", *disturber.words, *words)
    first = program(*words, json=True)
    assert first.status == 0, str(first)
    assert remove_clones(program) == {"finished"}
    outcomes: Counter[str] = Counter()
    for moment in moments:
        with program.start(*words, json=True) as run:
            time.sleep(first.seconds * moment)
            result = disturber.disturb(run)
        lab.hypervisor.wait_until_idle()
        assert "Traceback" not in result.stderr, str(result)
        left = remove_clones(program)
        assert disturber.leaves or left <= {"finished"}, str(result)
        outcomes[" and ".join(sorted(left)) or "nothing"] += 1
        found = lab.connection.lookupByName("brief")
        assert not has_job(found)
        assert found.state() == state
        assert before.difference(without(lab.inventory(), disks)) == ""
    return outcomes


def disks_of(found: Any) -> set[str]:
    """Return the paths of a running domain's disks, if its guest may write to them."""
    is_writing = found.state()[0] == libvirt.VIR_DOMAIN_RUNNING
    sources = ET.fromstring(found.XMLDesc(0)).iterfind("devices/disk/source")
    return {source.attrib["file"] for source in sources} if is_writing else set()


def without(inventory: Inventory, paths: set[str]) -> Inventory:
    """Return an inventory without what a guest may write to."""
    return replace(inventory, files={path: entry for path, entry in inventory.files.items() if path not in paths})


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("disturbance", DISTURBANCES)
def test_disturbed_at_some_moments(
    lab: Lab, virtomate: Program, request: pytest.FixtureRequest, disturbance: str
) -> None:
    """Whatever disturbs a clone of a domain that runs, the clone is complete or one command removes what is left."""
    disturb(lab, virtomate, WAYS["linked"], Disturber(lab, disturbance, request), (0.25, 0.5, 0.75))


@pytest.mark.stress
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("disturbance", DISTURBANCES)
@pytest.mark.parametrize("way", WAYS)
def test_disturbed_at_every_moment(
    lab: Lab,
    virtomate: Program,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    way: str,
    disturbance: str,
    part: int,
) -> None:
    """Likewise, at thirty moments, while a guest writes all the time, which reads back everything that it wrote.

    Each part has ten of the moments, all over the making of a clone.
    """
    disks = [disk(lab.pool.qcow2("brief.qcow2", 48 * MIB, data_bytes=32 * MIB))]
    disks.append(disk(lab.pool.raw("brief-data.raw", 48 * MIB, data_bytes=32 * MIB), "raw", "vdb"))
    lab.define(domain("brief", disks=disks, guest=lab.guest, cmdline="lab.write"))
    with running(lab.connection, "brief") as guest:
        moments = [(number + 1) / 31 for number in range(part, 30, 3)]
        outcomes = disturb(lab, virtomate, WAYS[way], Disturber(lab, disturbance, request), moments)
        report = require_whole(lab, guest)

    with capsys.disabled():
        print(f"\n{way}, {disturbance}, part {part}: left {dict(outcomes)}; the guest wrote {report.checked} records")


def require_whole(lab: Lab, guest: RunningGuest) -> GuestReport:
    """Make sure that a guest goes on writing, and finds everything that it wrote."""
    connection = lab.hypervisor.connect()
    earlier = guest.hear(connection, lambda _: True)
    report = guest.hear(connection, lambda report: report.checked > earlier.checked)
    assert report.wrong == 0
    return report


@pytest.mark.stress
@pytest.mark.timeout(2400)
def test_twenty_clones_under_load(lab: Lab, virtomate: Program, capsys: pytest.CaptureFixture[str]) -> None:
    """A guest writes records to two disks in turn all the time: no clone has a record without those before."""
    disks = [disk(lab.pool.qcow2("original.qcow2", 64 * MIB)), disk(lab.pool.raw("o.raw", 64 * MIB), "raw", "vdb")]
    lab.define(domain("original", disks=disks, guest=lab.guest, cmdline="lab.count lab.write"))
    names = [f"c-{number}" for number in range(20)]
    with running(lab.connection, "original") as guest:
        for name in names:
            assert virtomate("domain-clone", "--live", "original", name).status == 0
        require_whole(lab, guest)
    reports = [lab.boot(name) for name in names]

    assert {report.stray for report in reports} == {0}
    counted = [report.records for report in reports]
    assert counted == sorted(counted)
    assert counted[0] < counted[-1]
    with capsys.disabled():
        print(f"\nthe last records of twenty clones: {counted}")


@pytest.mark.stress
@pytest.mark.timeout(600)
def test_original_that_waits_for_room_is_resumed(root_lab: Lab, virtomate: Program) -> None:
    """Where a backup has no room for what the guest overwrites, the guest waits: it is resumed, and goes on."""
    small = root_lab.make_small_pool("small", "btrfs", BUSY_BYTES + (256 << 20))
    system = root_lab.pool.qcow2("original.qcow2", 16 * MIB)
    data = root_lab.pool.qcow2("original-data.qcow2", BUSY_BYTES, data_bytes=BUSY_BYTES)
    disks = [disk(system), disk(data, target="vdb")]
    root_lab.define(domain("original", disks=disks, guest=root_lab.guest, cmdline="lab.write"))
    with running(root_lab.connection, "original") as guest:
        run = catch(virtomate, guest.domain, "--risk-original", "--pool", small.name, "original", "clone", target="vdb")
        pause_jobs(guest.domain)
        filler = small.path / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(64 << 10))
        waiting = [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR]
        wait_for(lambda: guest.domain.state() == waiting, "the guest waits for room")
        run.signal(signal.SIGCONT)
        result = run.wait()

        assert result.status == 1, str(result)
        message = error_of(result)["message"]
        assert "has no room for what its guest is about to overwrite" in message
        assert "was resumed" in message
        assert not has_job(guest.domain)
        assert is_running(guest.domain)
        filler.unlink()
        written = guest.domain.blockStats("vdb")[3]
        wait_for(lambda: guest.domain.blockStats("vdb")[3] > written, "the guest goes on writing")


def test_disk_that_no_backup_takes(lab: Lab, virtomate: Program) -> None:
    """A disk whose changes are thrown away is refused by its name."""
    path = lab.pool.qcow2("original.qcow2", 4 * MIB)
    with started(lab, domain("original", disks=[disk(path, extra="<transient/>")])):
        error = virtomate("domain-clone", "--live", "original", "clone", json=True).json

    assert error["message"].startswith("disk vda")
    assert "is transient, so that no backup of it can be made" in error["message"]


def test_volume_of_two_disks(lab: Lab, virtomate: Program) -> None:
    """A volume to which the guest writes by two disks is refused before anything is made, whichever is cloned."""
    path = lab.pool.raw("original.raw", 4 * MIB)
    twice = [disk(path, "raw", target, shareable=True) for target in ("vda", "vdb")]
    with started(lab, domain("original", disks=twice)):
        for words in ((), ("--disk", "vdb=drop"), ("--mode", "copy", "--count", "2")):
            before = lab.inventory()
            error = refused(lab, before, virtomate("domain-clone", "--live", *words, "original", "clone", json=True))
            assert f"disk vda ('{path}') is also disk vdb, so that no backup of it can be made" in error["message"]
            assert "Shut the domain down first" in error["hint"]


def test_reflinks_where_there_are_none(lab: Lab, virtomate: Program) -> None:
    """Reflinks of a running original are refused before the backup, where the file system has none."""
    pool = pool_on(lab, "ext4")
    with paused_original(lab, pool):
        before = lab.inventory()
        words = ("domain-clone", "--live", "--mode", "reflink", "original", "clone")
        # before the claim: there is no attempt with a name and a UUID
        error = virtomate(*words, json=True)
        assert error.json["type"] == "UnsupportedError", str(error)
        assert "its file system does not support reflinks" in error.json["message"]
        unchanged(lab, before)


# The first version whose libvirt was seen to limit no backup that runs.
LIBVIRT_WITHOUT_LIMIT = 11_003_000


def test_bandwidth(lab: Lab, virtomate: Program, busy: Any) -> None:
    """A limit on what is written holds for the backup; where libvirt cannot keep it, there is no clone."""
    # so slow that the backup is not over before it is interrupted
    run = catch(virtomate, busy, "--bandwidth", "2", "busy", "clone")
    run.signal(signal.SIGCONT)
    if lab.connection.getLibVersion() >= LIBVIRT_WITHOUT_LIMIT:
        result = run.wait()
        assert result.status == 1, str(result)
        assert "cannot limit the backup of domain 'busy'" in error_of(result)["message"]
        assert not has_job(busy)
        return
    wait_for(lambda: busy.blockJobInfo("vda").get("bandwidth") == 2, "the backup is limited")
    run.signal(signal.SIGINT)

    assert run.wait().status == -signal.SIGINT
    assert not has_job(busy)
