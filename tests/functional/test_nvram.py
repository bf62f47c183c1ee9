"""The NVRAM of a UEFI domain is the clone's own: copied byte for byte, wherever it lies."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.functional.runs import paused
from tests.functional.support import clone, cloned, definition, refused, unchanged
from tests.lab import Lab, Pool, Program, disk, domain, images, mounts, running
from tests.lab.domains import OVMF_CODE, OVMF_TEMPLATE, nvram
from tests.lab.ordinary_user import OrdinaryUser
from tests.lab.programs import require_program, run

MODES = ["copy", "linked", "reflink"]
KNOWS_NVRAM_FORMAT = 9_002_000
SELECTS_FIRMWARE_AT_ONCE = 9_002_000


def make_store(path: Path, seed: int = 7) -> Path:
    """Make a variable store with content that no template has."""
    size = OVMF_TEMPLATE.stat().st_size
    return images.make_raw(path, size, extents=[(0, 70_001), (size - 513, 513)], seed=seed)


def define_original(lab: Lab, pool: Pool, firmware: str, *, format_: str = "raw") -> None:
    """Define a UEFI domain with one small disk."""
    make = pool.raw if format_ == "raw" else pool.qcow2
    path = make("original.img", 4 * images.MIB)
    lab.define(domain("original", disks=[disk(path, format_)], firmware=firmware, memory_mib=256))


def pools_of(lab: Lab) -> list[str]:
    """Return the names of all pools."""
    return sorted(pool.name() for pool in lab.connection.listAllStoragePools())


@pytest.mark.parametrize("element", [False, True], ids=["text", "element"])
@pytest.mark.parametrize("place", ["pool of the disks", "other pool", "no pool", "inactive pool"])
def test_copied_wherever_it_lies(lab: Lab, virtomate: Program, place: str, element: bool) -> None:
    """The NVRAM is copied within its directory, in either spelling, and no pool is left behind."""
    directory = lab.pool.path
    if place != "pool of the disks":
        directory = lab.make_directory("nvram")
    if place in {"other pool", "inactive pool"}:
        pool = lab.make_pool("nvram", directory)
    store = make_store(directory / "original_VARS.fd")
    store.chmod(0o640)
    if lab.privileged:
        os.chown(store, 12345, 54321)
    if place == "inactive pool":
        pool.handle.destroy()
    elif place != "no pool":
        lab.connection.storagePoolLookupByName("nvram" if place == "other pool" else lab.pool.name).refresh()
    define_original(lab, lab.pool, nvram(store, element=element))
    before, digest = pools_of(lab), images.file_digest(store)

    document = clone(virtomate)

    path = directory / "clone_VARS.fd"
    assert document["nvram"] == {"action": "copied", "source": str(store), "clone": str(path), "format": "raw"}
    assert images.file_digest(path) == images.file_digest(store) == digest
    assert path.stat().st_ino != store.stat().st_ino
    assert oct(path.stat().st_mode) == oct(store.stat().st_mode)
    assert (path.stat().st_uid, path.stat().st_gid) == (store.stat().st_uid, store.stat().st_gid)
    spelling = f"<source file='{path}'/>" if element else f">{path}</nvram>"
    assert spelling in definition(lab, "clone")
    assert str(store) not in definition(lab, "clone")
    assert pools_of(lab) == before
    assert not any(pool.startswith("virtomate") for pool in before)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("place", ["pool", "no pool"])
def test_copied_byte_for_byte_in_every_mode(root_lab: Lab, virtomate: Program, mode: str, place: str) -> None:
    """Whatever becomes of the disks, the NVRAM is a copy that shares nothing with its original."""
    pool = root_lab.pools["xfs"]
    directory = pool.path
    if place == "no pool":
        directory = pool.path / "nvram"
        directory.mkdir()
    store = make_store(directory / "original_VARS.fd")
    pool.refresh()
    define_original(root_lab, pool, nvram(store))

    document = clone(virtomate, "--mode", mode)

    path = Path(document["nvram"]["clone"])
    assert document["nvram"]["action"] == "copied"
    assert images.file_digest(path) == images.file_digest(store)
    with path.open("r+b") as file:
        file.write(b"changed")
    assert images.file_digest(path) != images.file_digest(store)


@pytest.mark.parametrize("transfer", ["host", "stream", "server"])
def test_forced_transfer_is_no_matter_of_the_nvram(lab: Lab, virtomate: Program, transfer: str) -> None:
    """The NVRAM is copied byte for byte also where the disks go a way of their own."""
    store = make_store(lab.make_directory("nvram") / "original_VARS.fd")
    define_original(lab, lab.pool, nvram(store))

    document = clone(virtomate, "--transfer", transfer)

    assert images.file_digest(Path(document["nvram"]["clone"])) == images.file_digest(store)


def test_name_follows_the_rule_for_volumes(lab: Lab, virtomate: Program) -> None:
    """An NVRAM that is not named after its domain gets the clone's name in front; two never get the same name."""
    directory = lab.make_directory("nvram")
    stores = [make_store(directory / name, seed) for seed, name in enumerate(["efi.fd", "originals.fd"])]
    for name, store in zip(["original", "other"], stores, strict=True):
        lab.define(domain(name, firmware=nvram(store), memory_mib=256))

    document = clone(virtomate)
    other = cloned(virtomate("domain-clone", "other", "second", json=True))

    assert [Path(made["nvram"]["clone"]).name for made in (document, other)] == ["clone-efi.fd", "second-originals.fd"]
    for made, store in zip((document, other), stores, strict=True):
        assert images.file_digest(Path(made["nvram"]["clone"])) == images.file_digest(store)


def test_qcow2_nvram(lab: Lab, virtomate: Program) -> None:
    """An NVRAM in qcow2 is copied byte for byte and stays qcow2."""
    if lab.connection.getLibVersion() < KNOWS_NVRAM_FORMAT:
        pytest.skip("this libvirt knows no format of an NVRAM")
    store = lab.make_directory("nvram") / "original_VARS.qcow2"
    images.qemu_img("convert", "-O", "qcow2", OVMF_TEMPLATE, store)
    define_original(lab, lab.pool, nvram(store, format_="qcow2", template=None))

    document = clone(virtomate)

    assert document["nvram"]["format"] == "qcow2"
    assert images.file_digest(Path(document["nvram"]["clone"])) == images.file_digest(store)
    assert "format='qcow2'" in definition(lab, "clone").split("<nvram")[1].split(">")[0]


def uefi_domain(lab: Lab, firmware: str) -> None:
    """Define a domain that boots from its own disk under UEFI."""
    path = lab.pool.copy(lab.guest.uefi_disk(), "original.qcow2")
    images.write_marker(path, "qcow2", "uefi", last_mib=True)
    lab.define(domain("original", disks=[disk(path)], firmware=firmware, memory_mib=320))


def test_clone_boots_with_its_own_nvram(lab: Lab, virtomate: Program) -> None:
    """A UEFI clone boots from its own disk and writes its own variables, none of its original's."""
    store = lab.make_directory("nvram") / "original_VARS.fd"
    store.write_bytes(OVMF_TEMPLATE.read_bytes())
    digest = images.file_digest(store)
    uefi_domain(lab, nvram(store, element=True))

    document = clone(virtomate)
    own = Path(document["nvram"]["clone"])
    assert images.file_digest(own) == digest

    report = lab.boot("clone")

    assert (report.firmware, report.markers, report.uuid) == ("uefi", {"vda": "uefi"}, document["uuid"])
    assert images.file_digest(own) != digest
    assert images.file_digest(store) == digest


def test_selected_firmware(lab: Lab, virtomate: Program) -> None:
    """An NVRAM in libvirt's own directory, which the definition does not show, is found and copied; the clone boots."""
    uefi_domain(lab, "auto")
    with running(lab.connection, "original") as guest:
        assert guest.report.firmware == "uefi"
    (store,) = nvram_files(lab)
    digest, before = images.file_digest(store), pools_of(lab)
    assert digest != images.file_digest(OVMF_TEMPLATE)

    document = clone(virtomate)

    own = Path(document["nvram"]["clone"])
    assert document["nvram"]["action"] == "copied"
    assert (own.name, on_lab(lab, own).parent) == ("clone_VARS.fd", store.parent)
    assert images.file_digest(on_lab(lab, own)) == images.file_digest(store) == digest
    assert pools_of(lab) == before
    assert str(own) in definition(lab, "clone")
    assert lab.boot("clone").markers == {"vda": "uefi"}
    assert images.file_digest(store) == digest


HOST_DEVICES = """
    <hostdev mode='subsystem' type='pci' managed='yes'>
      <source><address domain='0x0000' bus='0x3b' slot='0x00' function='0x0'/></source></hostdev>
    <hostdev mode='subsystem' type='usb'><source><vendor id='0x1234'/><product id='0xbeef'/></source></hostdev>
    <hostdev mode='subsystem' type='scsi'>
      <source><adapter name='scsi_host0'/><address bus='0' target='0' unit='0'/></source></hostdev>
    <interface type='hostdev'><mac address='52:54:00:00:00:18'/>
      <source><address type='pci' domain='0x0000' bus='0x3b' slot='0x00' function='0x1'/></source></interface>
    <interface type='network'><mac address='52:54:00:00:00:19'/><source network='nowhere'/></interface>
    <disk type='volume' device='cdrom'><source pool='gone' volume='x.iso'/><target dev='sdz' bus='sata'/></disk>"""


def test_selected_firmware_beside_devices_of_the_host(lab: Lab, virtomate: Program) -> None:
    """Where the NVRAM is does not depend on devices, on which libvirt would fail or die when asked how it starts."""
    lab.define(domain("original", firmware="auto", memory_mib=256, devices=HOST_DEVICES))

    document = clone(virtomate)

    assert Path(document["nvram"]["clone"]).name == "clone_VARS.fd"
    assert document["nvram"]["action"] == "fresh"
    assert lab.connection.lookupByName("clone").UUIDString() == document["uuid"]


@pytest.mark.parametrize("firmware", ["selected", "no pool", "pool"])
@pytest.mark.parametrize("mode", ["copy", "linked"])
def test_never_made_nvram_starts_fresh(lab: Lab, virtomate: Program, firmware: str, mode: str) -> None:
    """A domain that never ran has no NVRAM yet, which is no error: its clone gets a fresh one of its own."""
    if firmware == "selected":
        define_original(lab, lab.pool, "auto", format_="qcow2")
    else:
        directory = lab.pool.path if firmware == "pool" else lab.make_directory("nvram")
        define_original(lab, lab.pool, nvram(directory / "original_VARS.fd"), format_="qcow2")
    before = pools_of(lab)

    document = clone(virtomate, "--mode", mode)

    own = Path(document["nvram"]["clone"])
    assert document["nvram"]["action"] == "fresh"
    assert own.name == "clone_VARS.fd"
    assert not on_lab(lab, own).exists()
    assert pools_of(lab) == before
    lab.connection.lookupByName("clone").create()
    assert on_lab(lab, own).exists()
    assert not on_lab(lab, own.with_name("original_VARS.fd")).exists()


@pytest.mark.parametrize("made", [True, False], ids=["made", "never-made"])
@pytest.mark.parametrize("place", ["pool", "no pool", "selected"])
def test_taken_path_is_a_conflict(lab: Lab, virtomate: Program, place: str, made: bool) -> None:
    """A file where the clone's NVRAM would be is somebody's: libvirt would silently use it, so nothing is cloned."""
    if place == "selected":
        (directory,) = [path for path in lab.hypervisor.file_directories if path.name == "nvram"]
        firmware = "auto"
    else:
        directory = lab.pool.path if place == "pool" else lab.make_directory("nvram")
        firmware = nvram(directory / "original_VARS.fd")
    directory.mkdir(parents=True, exist_ok=True)
    if made:
        make_store(directory / "original_VARS.fd")
    stranger = make_store(directory / "clone_VARS.fd", seed=99)
    lab.pool.refresh()
    define_original(lab, lab.pool, firmware)
    before = lab.inventory()

    error = refused(lab, before, virtomate("domain-clone", "original", "clone", json=True))

    assert error["type"] == "Conflict"
    assert stranger.name in error["message"]


@pytest.mark.parametrize("made", [True, False], ids=["made", "never-made"])
@pytest.mark.parametrize("place", ["pool", "no pool"])
def test_dangling_link_is_a_conflict(lab: Lab, virtomate: Program, place: str, made: bool) -> None:
    """A link where the clone's NVRAM would be stays, and nothing comes into being where it leads."""
    directory = lab.pool.path if place == "pool" else lab.make_directory("nvram")
    victim = lab.make_directory("elsewhere") / "victim"
    if made:
        make_store(directory / "original_VARS.fd")
    (directory / "clone_VARS.fd").symlink_to(victim)
    lab.pool.refresh()
    define_original(lab, lab.pool, nvram(directory / "original_VARS.fd"))
    before = lab.inventory()

    error = refused(lab, before, virtomate("domain-clone", "original", "clone", json=True))

    assert "clone_VARS.fd" in error["message"]
    assert not victim.exists()


def test_directory_that_is_not_there(lab: Lab, virtomate: Program) -> None:
    """Where no NVRAM can be made, the error names the directory as the user does."""
    store = make_store(lab.make_directory("nvram") / "original_VARS.fd")
    define_original(lab, lab.pool, nvram(store))
    before = lab.inventory()

    result = virtomate("domain-clone", "--nvram", "/no/such/directory/x.fd", "original", "clone", json=True)

    error = refused(lab, before, result)
    assert "/no/such/directory'" in error["message"]
    assert "/." not in error["message"]


def test_dry_run_changes_nothing(lab: Lab, virtomate: Program) -> None:
    """A plan makes no pool over the NVRAM's directory, not even for a moment that could be seen later."""
    store = make_store(lab.make_directory("nvram") / "original_VARS.fd")
    define_original(lab, lab.pool, nvram(store))
    before = lab.inventory()

    result = virtomate("domain-clone", "--dry-run", "original", "clone", json=True)

    assert result.status == 0, str(result)
    assert result.json[0]["nvram"]["clone"] == str(store.with_name("clone_VARS.fd"))
    unchanged(lab, before)


def test_temporary_pool_of_a_killed_run(lab: Lab, virtomate: Program) -> None:
    """A temporary pool without a claim is told by its name: the next run stops it if its owner is gone."""
    define_original(lab, lab.pool, nvram(make_store(lab.make_directory("nvram") / "original_VARS.fd")))
    before = pools_of(lab)

    for sweep in (("domain-clone", "original", "second"), ("domain-delete", "--yes", "clone")):
        run = virtomate.pausing("virStoragePoolCreateXML").start("domain-clone", "original", "killed")
        with paused(run):
            (left,) = set(pools_of(lab)) - set(before)
            if sweep[0] == "domain-clone":
                clone(virtomate)
            assert left in pools_of(lab)
            run.signal(signal.SIGKILL)
            run.process.wait()
        assert pools_of(lab) == sorted([*before, left])
        assert virtomate(*sweep).status == 0
        assert pools_of(lab) == before
    assert sorted(found.name() for found in lab.connection.listAllDomains()) == ["original", "second"]


@pytest.mark.parametrize("mode", ["copy", "linked"])
def test_many_at_once_in_one_directory(lab: Lab, virtomate: Program, mode: str) -> None:
    """Clones that are made at the same time do not get in each other's way over a directory that is no pool."""
    store = make_store(lab.make_directory("nvram") / "original_VARS.fd")
    define_original(lab, lab.pool, nvram(store), format_="qcow2")
    before = pools_of(lab)

    names = [f"clone-{number}" for number in range(20)]
    runs = [virtomate.start("domain-clone", "--mode", mode, "original", name, json=True) for name in names]
    documents: list[Any] = [cloned(run.wait()) for run in runs]

    assert [Path(document["nvram"]["clone"]).name for document in documents] == [f"{name}_VARS.fd" for name in names]
    for document in documents:
        assert images.file_digest(Path(document["nvram"]["clone"])) == images.file_digest(store)
    assert len({document["uuid"] for document in documents}) == len(names)
    assert pools_of(lab) == before
    for name in names:
        assert f">{store.with_name(name)}_VARS.fd</nvram>" in definition(lab, name)


def own_directory(lab: Lab) -> Path:
    """Return where libvirt itself puts variable stores, as definitions have it."""
    lab.define(domain("probe", firmware="auto", memory_mib=256))
    told = lab.connection.domainXMLToNative("qemu-argv", definition(lab, "probe"))
    lab.connection.lookupByName("probe").undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)
    return Path(re.findall(r'"filename":"([^"]*)/probe_VARS.fd"', told)[0])


def test_template_of_others(lab: Lab, virtomate: Program) -> None:
    """Nothing is put beside a template that a domain has for its NVRAM, and that the domain writes to it is said."""
    template = make_store(lab.make_directory("templates") / "VARS.fd")
    define_original(lab, lab.pool, nvram(template, template=template))
    digest = images.file_digest(template)

    document = clone(virtomate)
    second = cloned(virtomate("domain-clone", "--nvram", "any name.fd", "original", "second", json=True))
    third = cloned(virtomate("domain-clone", "--nvram", template.with_name("x.fd"), "original", "third", json=True))

    own = own_directory(lab)
    assert [Path(made["nvram"]["clone"]) for made in (document, second, third)] == [
        own / "clone_VARS.fd",
        own / "any name.fd",
        template.with_name("x.fd"),
    ]
    for made in (document, second, third):
        assert made["nvram"]["action"] == "copied"
        assert images.file_digest(on_lab(lab, Path(made["nvram"]["clone"]))) == digest
        assert [warning for warning in made["warnings"] if str(template) in warning] == [
            f"'original' uses a template ('{template}') as its NVRAM, and writes to it when it runs"
        ]
    assert sorted(path.name for path in template.parent.iterdir()) == ["VARS.fd", "x.fd"]
    assert images.file_digest(template) == digest


def is_put_elsewhere(lab: Lab, document: Any, store: Path) -> None:
    """Make sure that the clone's NVRAM is where libvirt puts its own, and that this is said."""
    path = own_directory(lab) / "clone_VARS.fd"
    assert document["nvram"] == {"action": "copied", "source": str(store), "clone": str(path), "format": "raw"}
    assert images.file_digest(on_lab(lab, path)) == images.file_digest(store)
    (warning,) = document["warnings"]
    assert f"'{store.parent}', is read-only" in warning


def test_directory_that_is_mounted_read_only(root_lab: Lab, nobody: OrdinaryUser) -> None:
    """Nothing is put where libvirt cannot write, which anybody can see of a mount."""
    directory = nobody.pool.path / "nvram"
    directory.mkdir()
    store = make_store(directory / "efi.fd")
    root_lab.define(domain("original", firmware=nvram(store), memory_mib=256))

    with read_only(directory):
        document = cloned(nobody("domain-clone", "original", "clone"))

    is_put_elsewhere(root_lab, document, store)


def test_directory_that_cannot_be_written_to(root_lab: Lab, virtomate: Program) -> None:
    """Nor where nothing can be made for other reasons, if we may do what libvirt may."""
    directory = root_lab.pool.path / "nvram"
    directory.mkdir()
    store = make_store(directory / "efi.fd")
    define_original(root_lab, root_lab.pool, nvram(store))

    with immutable(directory):
        document = clone(virtomate)

    is_put_elsewhere(root_lab, document, store)


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Have nobody write into a directory, by the way it is mounted."""
    mounts.mount("--bind", directory, directory)
    mounts.mount("--options", "remount,bind,ro", directory)
    try:
        yield
    finally:
        mounts.unmount(directory)


@contextmanager
def immutable(directory: Path) -> Iterator[None]:
    """Have nobody write into a directory, by its attributes."""
    chattr = require_program("chattr", "e2fsprogs")
    run(chattr, "+i", directory)
    try:
        yield
    finally:
        run(chattr, "-i", directory)


WITHOUT_FIRMWARE = {
    "hidden": ("", "clone_VARS.fd"),
    "named": ("<nvram>{}/original_VARS.fd</nvram>", "clone_VARS.fd"),
    "none": ("<loader stateless='yes'/>", None),
}


@pytest.mark.parametrize("which", WITHOUT_FIRMWARE)
def test_firmware_that_is_missing(lab: Lab, virtomate: Program, which: str) -> None:
    """A domain for which libvirt finds no firmware is cloned with a warning, wherever its NVRAM is."""
    if lab.connection.getLibVersion() >= SELECTS_FIRMWARE_AT_ONCE:
        pytest.skip("this libvirt defines no domain for which it finds no firmware")
    more, name = WITHOUT_FIRMWARE[which]
    # no machine of this kind has secure boot
    wanted = (
        f"<firmware><feature enabled='yes' name='secure-boot'/></firmware>{more.format(lab.make_directory('nvram'))}"
    )
    text = domain("original", firmware="auto", memory_mib=256, machine="pc")
    lab.define(re.sub("<firmware>.*</firmware>", wanted, text))
    with pytest.raises(libvirt.libvirtError, match="firmware"):
        lab.connection.lookupByName("original").create()

    document = clone(virtomate)

    made = document["nvram"] and Path(document["nvram"]["clone"])
    assert (made and made.name) == name
    (warning,) = document["warnings"]
    assert warning.startswith("'original' and its clone cannot be started here: libvirt finds no firmware (")


def test_firmware_file_that_is_missing(lab: Lab, virtomate: Program) -> None:
    """So is one whose definition names a firmware that is not there, as far as that can be seen."""
    firmware = nvram(lab.make_directory("nvram") / "original_VARS.fd").replace(str(OVMF_CODE), "/no/such/CODE.fd")
    lab.define(domain("original", firmware=firmware, memory_mib=256))

    (warning,) = clone(virtomate)["warnings"]

    assert warning == "'original' and its clone cannot be started here: there is no firmware '/no/such/CODE.fd'"


def nvram_files(lab: Lab) -> list[Path]:
    """Return the files in the directory where libvirt itself puts variable stores."""
    return [path for place in lab.hypervisor.file_directories for path in place.rglob("*_VARS*") if path.is_file()]


def on_lab(lab: Lab, path: Path) -> Path:
    """Return where a path of the lab's host is found from here."""
    return lab.hypervisor.on_host(path)
