"""Storage of each kind on a host with a device mapper: over SSH and on the host itself, killed and booted."""

import json
import shlex
import signal
from collections.abc import Iterator

import pytest

from tests.functional.runs import error_of, paused
from tests.functional.storage_host_disks import (
    Original,
    check_originals,
    check_volume,
    extents,
    leave_rubbish,
    made_of_clones,
    make_originals,
    paused_on_host,
    rounded,
    virtomate_at,
    without,
)
from tests.functional.support import by_target, cloned
from tests.lab import Lab, Program, disk, domain
from tests.lab.images import MIB, qemu_img, write_marker
from tests.lab.storage_host import StorageHost

pytestmark = [pytest.mark.stress, pytest.mark.timeout(3600)]

POOLS = {"files": "clones", "devices": "vg"}
WAYS = ("host", "stream", "server")
# A kill at the claim, when the first volume is made and not recorded, when the first is recorded and the second is not,
# in the middle of the content, and when both are recorded. The first stream of a run only reads what a file is.
MOMENTS = (
    "virStreamSend",
    "virDomainDefineXMLFlags-3",
    "virDomainDefineXMLFlags",
    "virStorageVolCreateXML",
    "virStorageVolCreateXML-2",
)


@pytest.fixture(scope="module")
def originals(session_storage_host: StorageHost) -> Iterator[dict[str, Original]]:
    """The disks of the domain `original`, by their targets, for all tests here: none changes them."""
    mark = session_storage_host.mark()
    yield make_originals(session_storage_host)
    session_storage_host.run("virsh -q pool-destroy parts; sfdisk --quiet --delete /dev/vdc")
    session_storage_host.return_to(mark)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", POOLS)
def test_each_kind_to_each(
    originals: dict[str, Original], storage_host: StorageHost, virtomate: Program, kind: str, way: str
) -> None:
    """Every disk is copied exactly into files and into logical volumes, and deleted again; the originals stay."""
    host, inside = storage_host, way == "host"
    stale = leave_rubbish(host)
    # of a thin volume, which libvirt 9.0 does not list, nothing is read from afar
    left_out = [] if inside else ["vdd"]
    if (kind, way) == ("devices", "stream"):
        # what is no raw image goes to a device through libvirt alone
        left_out.append("vdb")
    targets = [target for target in originals if target not in left_out]
    forced = [] if inside else ["--transfer", way]

    words = ("--block", "copy", "--pool", POOLS[kind], *forced, *without(*left_out))
    result = virtomate_at(host, virtomate, "domain-clone", *words, "original", "clone", inside=inside, json=True)

    new = by_target(cloned(result))
    for target in targets:
        original, path, form = originals[target], new[target]["clone"]["path"], new[target]["clone"]["format"]
        converted = kind == "devices" and original.form == "qcow2"
        assert new[target]["transfer"] == ("server" if converted else way), f"{target}: {new[target]}"
        if form == "qcow2":
            same = host.run(f"qemu-img compare -f qcow2 -F qcow2 {path} {original.path}")
            assert same == "Images are identical.\n"
        else:
            size_bytes = original.size_bytes if kind == "files" else rounded(original.size_bytes)
            check_volume(host, path, original.number, size_bytes)
        if kind == "devices":
            assert host.run(f"lvs --noheadings -o origin,pool_lv {path}").strip() == ""
            assert extents(host, path) <= stale
        else:
            assert form == original.form
            assert int(host.run(f"stat -c %b {path}")) * 512 < MIB
    # a file that is not seen bears no token, and a logical volume has its UUID
    consent = [] if kind == "devices" or inside else ["--yes-unproved"]
    deleted = virtomate_at(host, virtomate, "domain-delete", "--yes", *consent, "clone", inside=inside)
    assert deleted.status == 0, str(deleted)
    assert made_of_clones(host) == []
    check_originals(host, originals)


def test_thin_volume_from_afar(originals: dict[str, Original], storage_host: StorageHost, virtomate: Program) -> None:
    """A thin volume is in no pool of libvirt 9.0, so that nothing is read from it over SSH."""
    result = virtomate(
        *("domain-clone", "--block", "copy", "--pool", "vg", "original", "clone"), json=True, uri=storage_host.uri
    )

    assert result.status == 1, str(result)
    path = originals["vdd"].path
    assert f"'{path}' is in no active storage pool, and cannot be read here" in error_of(result)["message"]
    assert made_of_clones(storage_host) == []


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed(originals: dict[str, Original], storage_host: StorageHost, virtomate: Program, moment: str) -> None:
    """After a kill at any moment one command removes what is left, and asks at most for a volume of unknown UUID."""
    host = storage_host
    words = ("--block", "copy", "--pool", "vg", "--transfer", "stream", *without("vdb", "vdd", "vde"))
    started = virtomate.pausing(moment).start("domain-clone", *words, "original", "clone", uri=host.uri)
    with started as process, paused(process):
        process.signal(signal.SIGKILL)

    deleted = virtomate("domain-delete", "--yes", "clone", uri=host.uri)
    if deleted.status == 2:
        deleted = virtomate("domain-delete", "--yes-unproved", "clone", uri=host.uri)

    assert deleted.status == 0, str(deleted)
    assert made_of_clones(host) == []
    check_originals(host, originals)


def test_interrupted(originals: dict[str, Original], storage_host: StorageHost, virtomate: Program) -> None:
    """Ctrl-C in the middle leaves nothing."""
    host = storage_host
    words = ("--block", "copy", "--pool", "vg", "--transfer", "stream", *without("vdb", "vdd", "vde"))
    started = virtomate.pausing("virStreamSend").start("domain-clone", *words, "original", "clone", uri=host.uri)
    with started as process:
        with paused(process):
            process.signal(signal.SIGINT)
        result = process.wait()

    assert result.status == -signal.SIGINT, str(result)
    assert made_of_clones(storage_host) == []
    check_originals(storage_host, originals)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_ended_on_the_host(originals: dict[str, Original], storage_host: StorageHost, number: signal.Signals) -> None:
    """The same on the host itself, from a file and a thin volume to devices, and from a thick one to a file."""
    host = storage_host
    chosen = (f"{target}=copy,pool={pool}" for target, pool in (("vda", "vg"), ("vdc", "clones"), ("vdd", "vg")))
    words = [*(word for choice in chosen for word in ("--disk", choice)), *without("vdb", "vde")]

    with paused_on_host(host, "sync-1", "domain-clone", *words, "original", "clone") as (run, pid):
        assert "clone" in " ".join(made_of_clones(host))
        host.run(f"kill -{number.name.removeprefix('SIG')} {pid}; kill -CONT {pid} || true")
        run.wait()
    if number is signal.SIGKILL:
        # the key in a record alone proves no logical volume
        asked = host.virtomate("domain-delete", "--yes", "clone")
        assert (asked.status, "nothing proves" in asked.stderr) == (2, True), str(asked)
        deleted = host.virtomate("domain-delete", "--yes-unproved", "clone")
        assert deleted.status == 0, str(deleted)

    assert made_of_clones(host) == []
    check_originals(host, originals)


def test_member_of_the_group(originals: dict[str, Original], storage_host: StorageHost, virtomate: Program) -> None:
    """Who is in the group libvirt, and may open no device on the host, has libvirt read and write all of them."""
    host = storage_host
    words = ("domain-clone", "--block", "copy", "--transfer", "stream", *without("vdb", "vdd"))
    argv = host.argv("-c", "qemu:///system", *words, "--pool", "clones", "original", "here", json=True)

    afar = virtomate(*words, "--pool", "vg", "original", "afar", json=True, uri=host.member_uri)
    here = json.loads(host.run(f"su member -c {shlex.quote(shlex.join(argv))}"))[0]

    for document, kind in ((cloned(afar), "devices"), (here, "files")):
        for target in ("vda", "vdc", "vde"):
            original, volume = originals[target], by_target(document)[target]
            assert volume["transfer"] == "stream"
            size_bytes = rounded(original.size_bytes) if kind == "devices" else original.size_bytes
            check_volume(host, volume["clone"]["path"], original.number, size_bytes)
    deleted = virtomate("domain-delete", "--yes", "--yes-unproved", "afar", "here", uri=host.member_uri)
    assert deleted.status == 0, str(deleted)
    assert made_of_clones(host) == []
    check_originals(host, originals)


def test_booted(originals: dict[str, Original], storage_host: StorageHost, root_lab: Lab) -> None:
    """Guests boot from a file on a logical volume, a thick one in a file, a thin one on a thick, and from overlays.

    They boot here, from what is on the clones' volumes: on the host, without KVM in a machine without KVM, no guest
    comes up in bearable time.
    """
    host = storage_host
    image = root_lab.pool.copy(root_lab.guest.bios_disk(), "bootable.qcow2")
    paths = {"vda": "/srv/clones/bootable.qcow2", "vdb": host.make_lv("thick", 48), "vdc": host.make_thin("thin", 48)}
    markers = {target: f"disk {target}" for target in paths}
    for target, path in paths.items():
        write_marker(image, "qcow2", markers[target], last_mib=True)
        host.run(f"cat >{path if target == 'vda' else '/srv/one.qcow2'}", stdin=image.read_bytes())
        if target != "vda":
            host.run(f"qemu-img convert -n -f qcow2 -O raw /srv/one.qcow2 {path} && rm /srv/one.qcow2")
    for pool in POOLS.values():
        host.connection.storagePoolLookupByName(pool).refresh()
    disks = [disk(path, "qcow2" if target == "vda" else "raw", target) for target, path in paths.items()]
    host.connection.defineXML(domain("bootable", disks=disks))

    chosen = [f"{target}=copy,pool={pool}" for target, pool in (("vda", "vg"), ("vdb", "clones"), ("vdc", "vg"))]
    copies = cloned(
        host.virtomate("domain-clone", *(w for word in chosen for w in ("--disk", word)), "bootable", "copy", json=True)
    )
    words = ("--block", "linked", "--pool", "clones", *without("vda"))
    overlays = cloned(host.virtomate("domain-clone", *words, "bootable", "linked", json=True))

    found = {}
    for document, targets in ((copies, ("vda", "vdb", "vdc")), (overlays, ("vdb", "vdc"))):
        for target in targets:
            volume = by_target(document)[target]
            name = f"{document['name']}-{target}"
            fetched = host.fetch(volume["clone"]["path"], root_lab.pool.path / name)
            if volume["action"] == "linked":
                base = host.fetch(paths[target], root_lab.pool.path / f"{name}-base")
                qemu_img("rebase", "-u", "-f", "qcow2", "-b", base, "-F", "raw", fetched)
            root_lab.define(domain(name, disks=[disk(fetched, volume["clone"]["format"])]))
            found[name] = root_lab.boot(name).markers["vda"]
    assert found == {
        **{f"copy-{target}": marker for target, marker in markers.items()},
        **{f"linked-{target}": markers[target] for target in ("vdb", "vdc")},
    }
    check_originals(host, originals)
