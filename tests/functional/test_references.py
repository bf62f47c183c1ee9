"""Who uses a clone's volumes, in every way that a real libvirt and QEMU offer, and what must not stop the look."""

import os
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.functional.support import cloned
from tests.lab import Lab, Program, disk, domain, images
from tests.lab.images import MIB
from tests.lab.lab import remove_domain
from tests.lab.storage import loop_device
from virtomate.cancel import CancelToken
from virtomate.errors import IllegalStateError
from virtomate.hypervisor.session import open_session
from virtomate.output.messages import sentences
from virtomate.services.delete import DeletionPlan, Selection, plan_deletion

Way = Callable[["Host", ExitStack], str]


class Host:
    """A host with a clone `web` of two disks, a qcow2 and a raw one."""

    def __init__(self, lab: Lab, virtomate: Program) -> None:
        self.lab = lab
        self.virtomate = virtomate
        disks = [disk(lab.pool.qcow2("src.qcow2", 4 * MIB)), disk(lab.pool.raw("src.raw", 4 * MIB), "raw", "vdb")]
        lab.define(domain("src", disks=disks))
        clone = self.clone("src", "web")
        self.path, self.raw = (Path(part["clone"]["path"]) for part in clone["disks"])
        self.outside = lab.make_directory("outside")

    def clone(self, source: str, name: str, *words: str) -> Any:
        """Make a clone."""
        return cloned(self.virtomate("domain-clone", *words, source, name, json=True))

    def plan(self) -> DeletionPlan:
        """Plan the deletion of the clone."""
        with open_session(self.lab.uri) as session:
            return plan_deletion(session.connection, Selection(("web",)), CancelToken())

    def overlay(self, path: Path, below: Path | str, format_: str = "qcow2", below_format: str = "qcow2") -> Path:
        """Make an overlay without libvirt."""
        images.qemu_img("create", "-q", "-f", format_, "-b", str(below), "-F", below_format, path)
        return path

    def define(self, name: str, *disks: str, **keywords: Any) -> Any:
        """Define a domain."""
        return self.lab.define(domain(name, disks=disks, **keywords))


def chain_outside_of_pools(host: Host, _stack: ExitStack) -> str:
    """An overlay of an overlay, the lower one in no pool, and only the upper one in a definition."""
    lower = host.overlay(host.outside / "lower.qcow2", host.path)
    host.define("other", disk(host.overlay(host.outside / "upper.qcow2", "lower.qcow2")))
    return f"'{lower}', on which domain 'other' rests, rests on it"


def chain_through_an_inactive_pool(host: Host, _stack: ExitStack) -> str:
    """A linked clone of a linked clone, whose own definition is gone, in a pool that is not active."""
    pool = host.lab.make_pool("second")
    middle = host.overlay(pool.path / "middle.qcow2", host.path)
    host.define("other", disk(host.overlay(host.path.with_name("top.qcow2"), middle)))
    pool.handle.destroy()
    return f"'{middle}', on which domain 'other' rests, rests on it"


def external_data_file(host: Host, _stack: ExitStack) -> str:
    """A qcow2 that keeps its data in the clone's raw volume."""
    image = host.outside / "image.qcow2"
    content = host.raw.read_bytes()
    # qemu-img makes the data file anew
    images.qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={host.outside}/data,data_file_raw=on", image, "4M")
    images.qemu_img("amend", "-f", "qcow2", "-o", f"data_file={host.raw}", image)
    assert host.raw.read_bytes() == content
    host.define("other", disk(image))
    return f"'{image}' of domain 'other' keeps its data in it"


def overlay_on_a_block_device(host: Host, stack: ExitStack) -> str:
    """An overlay that is on a block device."""
    image = host.overlay(host.outside / "image", host.path)
    os.truncate(image, MIB)
    device = stack.enter_context(loop_device(image))
    host.define("other", disk(device).replace("type='file'", "type='block'").replace("file=", "dev="))
    return f"'{device}' of domain 'other' rests on it"


def saved_state_with_a_hot_plugged_disk(host: Host, _stack: ExitStack) -> str:
    """A domain whose managed-save image has a disk that its definition does not have."""
    other = host.define("other", machine="pc", memory_mib=64)
    other.create()
    other.attachDeviceFlags(disk(host.path, target="vdx"), libvirt.VIR_DOMAIN_AFFECT_LIVE)
    other.managedSave()
    return "the managed-save image of domain 'other' uses it"


def snapshot_of_a_domain_that_had_it(host: Host, _stack: ExitStack) -> str:
    """A domain that had the disk when a snapshot of it was made."""
    other = host.define("other", disk(host.path))
    other.snapshotCreateXML("<domainsnapshot><name>then</name></domainsnapshot>", 0)
    other.detachDeviceFlags(disk(host.path), libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    return "snapshot 'then' of domain 'other' uses it"


def overlay_of_another_format(format_: str) -> Way:
    """An overlay in a format that libvirt's volumes hardly ever have."""

    def make(host: Host, _stack: ExitStack) -> str:
        if format_ == "vmdk":
            # qemu-img makes one on top of a vmdk alone; the name has the same length
            image = host.outside / "image.vmdk"
            base = host.outside / ("b" * (len(str(host.path)) - len(str(host.outside)) - 1))
            images.qemu_img("create", "-q", "-f", "vmdk", base, "4M")
            host.overlay(image, base, "vmdk", "vmdk")
            image.write_bytes(image.read_bytes().replace(str(base).encode(), str(host.path).encode()))
        else:
            image = host.overlay(host.outside / f"image.{format_}", host.path, format_)
        host.define("other", disk(image, format_))
        return f"'{image}' of domain 'other' rests on it"

    return make


def linked_clone_on_a_file_system_that_is_not_mounted(host: Host, stack: ExitStack) -> str:
    """A linked clone whose record is all that can be seen of it."""
    pool = host.lab.make_pool("away")
    clone = host.clone("web", "linked", "--mode", "linked", "--pool", "away")
    pool.handle.destroy()
    away = pool.path.rename(pool.path.with_name("elsewhere"))
    pool.path.mkdir()
    stack.callback(shutil.rmtree, away)
    path = clone["disks"][0]["clone"]["path"]
    return f"'{path}' of domain 'linked' cannot be read and was made to rest on it"


WAYS: dict[str, Way] = {
    "chain outside of pools": chain_outside_of_pools,
    "chain through an inactive pool": chain_through_an_inactive_pool,
    "external data file": external_data_file,
    "block device": overlay_on_a_block_device,
    "managed-save image": saved_state_with_a_hot_plugged_disk,
    "snapshot": snapshot_of_a_domain_that_had_it,
    "qed": overlay_of_another_format("qed"),
    "qcow": overlay_of_another_format("qcow"),
    "vmdk": overlay_of_another_format("vmdk"),
    "not mounted": linked_clone_on_a_file_system_that_is_not_mounted,
}


@contextmanager
def cleared_up(lab: Lab) -> Iterator[ExitStack]:
    """Have the domains go away that are made in the block, and what the block wants to go away."""
    before = {found.name() for found in lab.connection.listAllDomains()}
    with ExitStack() as stack:
        yield stack
        for found in lab.connection.listAllDomains():
            if found.name() not in before:
                remove_domain(found)


def test_whoever_uses_it_is_seen(root_lab: Lab, virtomate: Program) -> None:
    """Nobody's base, data or managed-save image is deleted, whichever way it came to be that, and the user is named."""
    host = Host(root_lab, virtomate)
    for way, make in WAYS.items():
        with cleared_up(root_lab) as stack:
            expected = make(host, stack)
            with pytest.raises(IllegalStateError) as refusal:
                host.plan()
            assert expected in refusal.value.message, way
            for path in (*host.outside.iterdir(), host.path.with_name("top.qcow2")):
                path.unlink(missing_ok=True)
    with suppress(libvirt.libvirtError):
        root_lab.connection.storagePoolLookupByName("second").undefine()
    assert host.plan().warnings == ()


def nested(depth: int) -> str:
    """A record like ours that is nested so deep."""
    inside = "<a b='1'/>t<a>" * depth + "</a>" * depth
    return f"<v:clone xmlns:v='urn:virtomate:clone:1' schema='1'>{inside}</v:clone>"


@pytest.mark.timeout(240)
def test_nothing_stops_the_look(root_lab: Lab, virtomate: Program) -> None:
    """Whatever others have on the host, one clone is deleted: it is read in bounded time, or a warning."""
    lab = root_lab
    host = Host(lab, virtomate)
    pipe = host.outside / "pipe"
    os.mkfifo(pipe)
    kernels = ("/proc/kmsg", str(pipe), "/dev/tty", "/sys/kernel/debug/tracing/trace_pipe")
    for number, kernel in enumerate(kernels):
        text = domain(f"waits-{number}", disks=[disk(kernel, "raw")])
        lab.define(text.replace("<os>", f"<os><kernel>{kernel}</kernel>"))
    lab.define(domain("blanks", description=f"/{' ' * 400_000}/"))
    lab.define(domain("deep", metadata=nested(249)))
    # a guest can write this to its raw disk, and libvirt cannot describe the volume any more
    broken = host.path.with_name("broken.raw")
    name = b"x" * 300
    header = struct.pack(">4sIQI", b"QFI\xfb", 2, 512, len(name)).ljust(512, b"\0")
    broken.write_bytes((header + name).ljust(MIB, b"\0"))
    gone = lab.make_pool("gone")
    gone.path.rename(gone.path.with_name("elsewhere"))

    warnings = sentences(host.plan().warnings)
    listed = virtomate("domain-list")
    deleted = virtomate("domain-delete", "--yes", "web", json=True)

    gone.path.with_name("elsewhere").rename(gone.path)
    broken.unlink()
    assert listed.status == 0, str(listed)
    assert (deleted.status, deleted.json[0]["status"]) == (0, "deleted"), str(deleted)
    assert not host.path.exists()
    assert sorted(warnings) == [
        "libvirt cannot read storage pool 'gone': its volumes are not known",
        "the record of virtomate in the definition of domain 'deep' is nested too deeply, and was not read",
    ]
    assert "is nested too deeply" in deleted.stderr
