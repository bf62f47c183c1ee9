"""Whose a file is: nothing is deleted, handed out or taken over that is not proved to be this clone's."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.functional.runs import (
    Question,
    error_of,
    make_big_source,
    paused,
    reaching,
    unchanged,
    wait_for,
    wait_until_still,
)
from tests.functional.support import EVERYTHING, cloned
from tests.lab import Lab, Program, Result, disk, domain, images, interface, mounts
from tests.lab.domains import nvram
from tests.lab.hypervisor import Hypervisor
from tests.lab.images import MIB
from tests.lab.inventory import take_inventory
from tests.lab.storage import Pool, loop_device, make_pool
from virtomate.cancel import CancelToken
from virtomate.definition import codec
from virtomate.definition.placeholders import claim_definition
from virtomate.definition.provenance import Artifact, DomainReference, Fingerprint, Provenance
from virtomate.enums import ArtifactKind, ArtifactState, Mode, TokenPlace
from virtomate.hypervisor.domains import define_domain
from virtomate.hypervisor.session import open_session
from virtomate.progress import Progress
from virtomate.services.clone.run import clone_domains
from virtomate.services.clone_records import CloneRequest
from virtomate.services.delete import Selection, execute_plan, plan_deletion
from virtomate.services.storage.artifacts.looking import ATTRIBUTE
from virtomate.services.transaction import Run

UUID = "11111111-2222-4333-8444-555555555555"
IMAGES = Path("/var/lib/libvirt/images")
CLAIM = "virDomainDefineXMLFlags"
CREATION = "virStorageVolCreateXML"


def forge(lab: Lab, made: Artifact, *, finished: bool, mark: str | None = "0" * 32) -> None:
    """Define a domain whose metadata say that virtomate made a file for it."""
    provenance = Provenance(
        finished=finished,
        uuid=UUID,
        token="0" * 32,
        source=DomainReference("original", UUID),
        mode=Mode.COPY,
        created=0,
        made=(made,),
        mark=mark,
    )
    source: codec.Document = {"@type": "qemu", "os": {"type": {"@arch": "x86_64", "@machine": "q35", "#text": "hvm"}}}
    lab.define(codec.unparse_definition(claim_definition("forged", provenance, source)))


def define_source(lab: Lab, name: str = "src", **keywords: Any) -> Path:
    """Define a domain with one small raw disk; its path."""
    path = lab.pool.raw(f"{name}.raw", 4 * MIB)
    lab.define(domain(name, disks=[disk(path, "raw")], interfaces=[interface()], **keywords))
    return path


def delete(virtomate: Program, *names: str, uri: str | None = None) -> Result:
    """Delete clones without being asked about what is proved."""
    return virtomate("domain-delete", "--yes", *names, json=True, uri=uri)


def domains(connection: Any) -> set[str]:
    """Return the names of all domains."""
    return {found.name() for found in connection.listAllDomains()}


@pytest.mark.parametrize("state", list(ArtifactState))
def test_record_alone_deletes_no_file_outside_pools(lab: Lab, virtomate: Program, state: ArtifactState) -> None:
    """Whoever can define a domain can write any path into its metadata; no pool is started over that directory."""
    victim = lab.make_directory("precious") / "keys"
    victim.write_bytes(b"secret")
    seen = Fingerprint("0") if state is ArtifactState.MADE else None
    forge(lab, Artifact(ArtifactKind.NVRAM, state, "none", victim.name, str(victim), seen), finished=False)
    pools = lab.connection.listAllStoragePools()

    result = delete(virtomate, "forged")

    assert result.status == 3, str(result)
    assert any(str(victim) in leftover for leftover in error_of(result)["leftovers"])
    assert victim.read_bytes() == b"secret"
    assert "forged" not in domains(lab.connection)
    assert len(lab.connection.listAllStoragePools()) == len(pools)


@pytest.mark.parametrize("volume", ["victim.raw", None, "other.raw"])
def test_record_alone_deletes_no_volume(lab: Lab, virtomate: Program, volume: str | None) -> None:
    """Not even with --yes: what was made by 0.2.0 is shown and asked for, what cannot be the clone's is left."""
    victim = lab.pool.raw("victim.raw", 4 * MIB)
    lab.pool.raw("other.raw", 4 * MIB)
    made = Artifact(ArtifactKind.VOLUME, ArtifactState.MADE, lab.pool.name, volume, str(victim), Fingerprint("0"))
    forge(lab, made, finished=True, mark=None)

    result = delete(virtomate, "forged")

    assert result.status == (2 if volume == "victim.raw" else 3), str(result)
    assert str(victim) in result.stdout + result.stderr
    assert victim.exists()
    assert (victim.parent / "other.raw").exists()


def test_question_shows_what_is_unproved(lab: Lab, virtomate: Program) -> None:
    """Its size, owner and age, with the reason; --yes answers for what is proved alone."""
    victim = lab.pool.raw("victim.raw", 4 * MIB)
    made = Artifact(ArtifactKind.VOLUME, ArtifactState.MADE, lab.pool.name, victim.name, str(victim), Fingerprint("0"))
    forge(lab, made, finished=True, mark=None)

    question = Question(virtomate, "--yes", "forged")
    status, after = question.answer("n\n")

    assert f"not proved: volume '{victim}'" in question.text
    assert "it bears no token that can be read here" in question.text
    assert f"it belongs to {victim.stat().st_uid}:{victim.stat().st_gid}" in question.text
    assert "it was last written to on " in question.text
    assert (status, "Nothing was deleted." in after, victim.exists()) == (1, True, True)
    status, after = Question(virtomate, "forged").answer("y\n")
    assert status == 0, after
    assert not victim.exists()


def test_record_that_claims_a_token_deletes_no_volume(lab: Lab, virtomate: Program) -> None:
    """A forger cannot put the token on somebody else's file."""
    victim = lab.pool.raw("victim.raw", 4 * MIB)
    made = Artifact(ArtifactKind.VOLUME, ArtifactState.MADE, lab.pool.name, victim.name, str(victim), Fingerprint("0"))
    forge(lab, made._replace(token_place=TokenPlace.ATTRIBUTE), finished=True)

    result = delete(virtomate, "forged")

    assert result.status == 3, str(result)
    assert any("does not bear the clone's token" in leftover for leftover in error_of(result)["leftovers"])
    assert victim.exists()


def test_volume_that_took_the_place_of_a_planned_one_stays(lab: Lab, virtomate: Program) -> None:
    """A run was killed when it had made an overlay, somebody deleted that and made a volume of that name."""
    define_source(lab)
    run = virtomate.pausing(CREATION).start("domain-clone", "--mode", "linked", "src", "web")
    wait_until_still(run.process.pid)
    run.end()
    path = lab.pool.path / "web.qcow2"
    path.unlink()
    images.make_raw(path, 4 * MIB)
    before = path.stat()

    result = virtomate("domain-delete", "web", json=True)

    assert result.status == 3, str(result)
    assert any(str(path) in leftover for leftover in error_of(result)["leftovers"])
    assert path.stat().st_ino == before.st_ino
    assert "web" not in domains(lab.connection)


@pytest.mark.parametrize("moment", [CLAIM, CREATION])
@pytest.mark.parametrize("mode", ["copy", "linked"])
def test_killed_before_the_first_byte(lab: Lab, virtomate: Program, moment: str, mode: str) -> None:
    """What is left then is a claim, and perhaps an empty file: it goes without a question."""
    define_source(lab)
    before = lab.inventory()
    run = virtomate.pausing(moment).start("domain-clone", "--mode", mode, "src", "web")
    wait_until_still(run.process.pid)
    run.end()

    result = virtomate("domain-delete", "web", json=True)

    assert result.status == 0, str(result)
    unchanged(before, lab)


def test_inode_given_again_on_a_file_system_without_birth_times(root_lab: Lab, virtomate: Program) -> None:
    """A volume in the clone's place is not the clone's, whatever number its file system gives it."""
    directory = root_lab.make_directory("old-ext4")
    image = directory.with_name("old-ext4.img")
    image.touch()
    os.truncate(image, 64 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-I", "128", "-O", "^metadata_csum", image], check=True, capture_output=True)
    mounts.mount_image(image, directory)
    pool = root_lab.make_pool("old", directory)
    root_lab.define(domain("src", disks=[disk(pool.raw("src.raw", 4 * MIB), "raw")]))
    path = Path(cloned(virtomate("domain-clone", "src", "web", json=True))["disks"][0]["clone"]["path"])
    path.unlink()
    pool.raw(path.name, 4 * MIB)

    result = delete(virtomate, "web")

    assert result.status == 3, str(result)
    assert path.exists()


def test_redefined_pool_gets_no_clone(lab: Lab, virtomate: Program) -> None:
    """A storage pool that comes to be over another directory meanwhile: the clone fails, and its file is removed."""
    pool = lab.make_pool("moving")
    make_big_source(lab, pool)
    other = lab.make_directory("elsewhere")
    document = pool.handle.XMLDesc()
    run = virtomate.pausing("vda").start("domain-clone", "big", "web2", json=True)
    with paused(run):
        pool.handle.destroy()
        lab.connection.storagePoolDefineXML(document.replace(str(pool.path), str(other))).create()
    result = run.wait()

    assert result.status == 1, str(result)
    assert "moving" in error_of(result)["message"]
    assert "web2" not in domains(lab.connection)
    assert not list(pool.path.glob("web2*"))


def test_replaced_volume_is_not_handed_out(lab: Lab, virtomate: Program) -> None:
    """Somebody puts a file in the place of the one that is being filled: the clone fails, and that file stays."""
    make_big_source(lab, lab.pool)
    run = virtomate.pausing("vda").start("domain-clone", "big", "web", json=True)
    path = lab.pool.path / "web.raw"
    with paused(run):
        path.rename(path.with_name("moved"))
        path.write_bytes(b"mine")
    result = run.wait()

    assert result.status == 3, str(result)
    assert path.read_bytes() == b"mine"
    assert any(str(path) in leftover for leftover in error_of(result)["leftovers"])


def test_two_hosts_on_one_directory(root_lab: Lab, virtomate: Program) -> None:
    """Two hosts make a clone of the same name in a pool that they share: one gets it, the other leaves it alone."""
    shared = root_lab.make_pool("shared")
    base = shared.qcow2("src.qcow2", 8 * MIB)
    with root_lab.make_host("two") as two:
        make_pool(two, "shared", shared.path)
        for connection in (root_lab.connection, two.connection):
            connection.defineXML(domain("src", disks=[disk(base)]))
        for mode in ("linked", "copy"):
            for uri in (root_lab.uri, two.uri):
                first = virtomate.pausing(CREATION).start("domain-clone", "--mode", mode, "src", "web", uri=uri)
                other = two.uri if uri == root_lab.uri else root_lab.uri
                with paused(first):
                    second = virtomate("domain-clone", "--mode", mode, "src", "web", uri=other)
                won = first.wait()
                assert (won.status, second.status) == (0, 1), f"{won}\n{second}"
                assert (shared.path / "web.qcow2").exists()
                images.qemu_img("check", "-q", shared.path / "web.qcow2")
                assert delete(virtomate, "web", uri=uri).status == 0
                assert not (shared.path / "web.qcow2").exists()


@pytest.fixture
def far(root_lab: Lab) -> Iterator[Hypervisor]:
    """A host whose files are not where they are on this one."""
    with root_lab.make_host("far") as host:
        yield host


@pytest.fixture
def far_pool(far: Hypervisor) -> Pool:
    """Its pool, with the path at which it is seen from here."""
    make_pool(far, "images", IMAGES)
    return Pool(far, "images", far.on_host(IMAGES))


def test_unseen_raw_volume_is_unproved_and_unseen_overlay_proved(
    far: Hypervisor, far_pool: Pool, virtomate: Program
) -> None:
    """Over a connection that shows no files only overlays bear a token; the rest takes a word of its own."""
    far_pool.raw("src.raw", 4 * MIB)
    far.connection.defineXML(domain("src", disks=[disk(IMAGES / "src.raw", "raw")]))
    before = take_inventory(far.connection, far.state_directories)
    for words in (("copied",), ("--mode", "linked", "linked")):
        cloned(virtomate("domain-clone", *words[:-1], "src", words[-1], json=True, uri=far.uri))

    linked = delete(virtomate, "linked", uri=far.uri)
    refused = delete(virtomate, "copied", uri=far.uri)

    assert linked.status == 0, str(linked)
    assert refused.status == 2, str(refused)
    assert f"{IMAGES}/copied.raw" in refused.stderr
    assert "--yes-unproved" in refused.stderr
    done = virtomate("domain-delete", "--yes", "--yes-unproved", "copied", json=True, uri=far.uri)
    assert done.status == 0, str(done)
    assert before.difference(take_inventory(far.connection, far.state_directories)) == ""


def test_unseen_volume_that_is_older_than_the_clones_stays(far: Hypervisor, far_pool: Pool, virtomate: Program) -> None:
    """Not even with --yes-unproved: it has not changed since before the clone's was made."""
    old = far_pool.raw("old.raw", 4 * MIB)
    far_pool.raw("src.raw", 4 * MIB)
    far.connection.defineXML(domain("src", disks=[disk(IMAGES / "src.raw", "raw")]))
    cloned(virtomate("domain-clone", "src", "web", json=True, uri=far.uri))
    status = old.stat()
    with contextlib.suppress(FileNotFoundError):
        (far_pool.path / "web.raw").unlink()
    os.link(old, far_pool.path / "web.raw")
    far_pool.refresh()

    result = virtomate("domain-delete", "--yes", "web", json=True, uri=far.uri)

    assert result.status != 0, str(result)
    assert (far_pool.path / "web.raw").stat().st_ino == status.st_ino


@pytest.mark.parametrize("moment", [CLAIM, CREATION])
def test_deletion_while_a_clone_is_linked(lab: Lab, virtomate: Program, moment: str) -> None:
    """domain-clone --mode linked holds its base from before the claim until its definition: deleting is refused."""
    define_source(lab)
    cloned(virtomate("domain-clone", "src", "web", json=True))
    run = virtomate.pausing(moment).start("domain-clone", "--mode", "linked", "web", "over", json=True)
    with paused(run):
        refused = delete(virtomate, "web")
    linked = run.wait()

    assert refused.status == 1, str(refused)
    assert linked.status == 0, str(linked)
    assert (lab.pool.path / "web.raw").exists()
    assert delete(virtomate, "web", "over").status == 0


@pytest.mark.parametrize("moment", [CLAIM, "virStorageVolDelete"])
def test_linking_while_the_base_is_deleted(lab: Lab, virtomate: Program, moment: str) -> None:
    """domain-delete holds QEMU's exclusive lock from before its look until the file is gone: linking is refused."""
    define_source(lab)
    cloned(virtomate("domain-clone", "src", "web", json=True))
    run = virtomate.pausing(moment).start("domain-delete", "--yes", "web", json=True)
    with paused(run):
        refused = virtomate("domain-clone", "--mode", "linked", "web", "over", json=True)
    deleted = run.wait()

    assert refused.status == 1, str(refused)
    assert deleted.status == 0, str(deleted)
    assert "over" not in domains(lab.connection)
    assert not list(lab.pool.path.glob("over*"))


@pytest.mark.parametrize("pause", ["linking at its claim", "linking at its volume", "deleting"])
def test_deletion_against_linking_where_no_file_is_seen(
    far: Hypervisor, far_pool: Pool, virtomate: Program, pause: str
) -> None:
    """Each leaves a mark and then looks for the other's: at least one of them gives way."""
    far_pool.qcow2("src.qcow2", 4 * MIB)
    far.connection.defineXML(domain("src", disks=[disk(IMAGES / "src.qcow2")]))
    cloned(virtomate("domain-clone", "--mode", "linked", "src", "web", json=True, uri=far.uri))
    link = ("domain-clone", "--mode", "linked", "web", "over")
    end = ("domain-delete", "--yes", "web")
    first, second = (end, link) if pause == "deleting" else (link, end)
    moment = CREATION if pause == "linking at its volume" else CLAIM
    run = virtomate.pausing(moment).start(*first, json=True, uri=far.uri)
    with paused(run):
        meanwhile = virtomate(*second, json=True, uri=far.uri)
    result = run.wait()

    assert sorted((result.status, meanwhile.status)) != [0, 0], f"{result}\n{meanwhile}"
    left = domains(far.connection)
    assert ("over" in left) <= (far_pool.path / "web.qcow2").exists()
    assert ("web" in left) == (far_pool.path / "web.qcow2").exists()


def test_domain_that_starts_with_the_base_meanwhile(lab: Lab, virtomate: Program) -> None:
    """Where the files are seen, QEMU does not get the base of a clone in the making for writing."""
    path = define_source(lab)
    other = lab.define(domain("other", disks=[disk(path, "raw")]))
    run = virtomate.pausing(CREATION).start("domain-clone", "--mode", "linked", "src", "web", json=True)
    with paused(run), pytest.raises(libvirt.libvirtError, match=r"lock|monitor"):
        other.create()

    assert run.wait().status == 0


@pytest.mark.parametrize("started", ["src", "other"])
@pytest.mark.parametrize("mode", ["linked", "copy"])
def test_domain_that_starts_with_the_unseen_base_meanwhile(
    far: Hypervisor, far_pool: Pool, virtomate: Program, mode: str, started: str
) -> None:
    """Where they are not seen, the clone fails, whichever domain it is, and nothing is left of it."""
    far_pool.qcow2("src.qcow2", 4 * MIB)
    for name in ("src", "other"):
        far.connection.defineXML(domain(name, disks=[disk(IMAGES / "src.qcow2")]))
    words = ("domain-clone", "--transfer", "stream") if mode == "copy" else ("domain-clone", "--mode", "linked")
    run = virtomate.pausing(CREATION).start(*words, "src", "web", json=True, uri=far.uri)
    with paused(run):
        far.connection.lookupByName(started).create()
    result = run.wait()
    far.connection.lookupByName(started).destroy()

    assert result.status == 1, str(result)
    assert error_of(result)["type"] == "SourceChangedError"
    assert f"'{started}'" in error_of(result)["message"]
    assert "web" not in domains(far.connection)
    assert not (far_pool.path / "web.qcow2").exists()


def test_path_that_a_definition_names_is_taken(lab: Lab, virtomate: Program) -> None:
    """The file of another domain is away: a clone in its place would be that domain's disk at its next start."""
    define_source(lab)
    lab.define(domain("old", disks=[disk(lab.pool.path / "web.raw", "raw")]))
    before = lab.inventory()

    result = virtomate("domain-clone", "src", "web", json=True)

    assert result.status == 1, str(result)
    assert result.json["type"] == "Conflict"
    assert "domain 'old'" in result.json["message"]
    unchanged(before, lab)


def test_nvram_that_was_never_made_is_taken_all_the_same(lab: Lab, virtomate: Program) -> None:
    """Two clones would share one file once they are started."""
    directory = lab.make_directory("stores")
    lab.define(domain("src", firmware=nvram(directory / "src_VARS.fd"), memory_mib=256))
    path = directory / "one.fd"
    assert virtomate("domain-clone", "--nvram", str(path), "src", "first").status == 0

    again = virtomate("domain-clone", "--nvram", str(path), "src", "second", json=True)

    assert again.status == 1, str(again)
    assert (again.json["type"], "domain 'first'" in again.json["message"]) == ("Conflict", True)


def test_one_address_asked_for_by_two_runs_goes_to_one(lab: Lab, virtomate: Program) -> None:
    """However they meet: each leaves a claim with the address before it looks for others'."""
    define_source(lab)
    address = "52:54:00:12:34:56"
    names = [f"web-{number}" for number in range(3)]
    runs = [virtomate.start("domain-clone", "--mac", address, "src", name, json=True) for name in names]
    results = [run.wait() for run in runs]

    assert sorted(result.status for result in results) == [0, 1, 1], "\n".join(map(str, results))
    holders = [found.name() for found in lab.connection.listAllDomains() if address in found.XMLDesc()]
    assert len(holders) == 1
    assert domains(lab.connection) == {"src", *holders}


def test_two_pools_over_one_directory_are_one(lab: Lab, virtomate: Program) -> None:
    """One is reached through a symbolic link: two disks whose overlays would get one name get two."""
    link = lab.directory / "link"
    link.symlink_to(lab.pool.path)
    second = lab.make_pool("linked-pool", link)
    first_path = lab.pool.raw("src.img", 4 * MIB)
    lab.pool.qcow2("src.qcow2", 4 * MIB)
    second.refresh()
    disks = [disk(first_path, "raw"), disk(link / "src.qcow2", target="vdb")]
    lab.define(domain("src", disks=disks))

    clone = cloned(virtomate("domain-clone", "--mode", "linked", "src", "web", json=True))

    paths = {os.path.realpath(part["clone"]["path"]) for part in clone["disks"]}
    assert len(paths) == 2, clone


def test_volume_on_a_file_system_that_is_away_is_not_called_deleted(root_lab: Lab, virtomate: Program) -> None:
    """An unmounted file system has no volumes; the clone stays as the record of them."""
    pool = root_lab.make_small_pool("removable")
    root_lab.define(domain("src", disks=[disk(pool.raw("src.raw", 4 * MIB), "raw")]))
    clone = cloned(virtomate("domain-clone", "src", "web", json=True))
    path = Path(clone["disks"][0]["clone"]["path"])
    pool.handle.destroy()
    image = pool.path.with_name(f"{pool.path.name}.img")
    mounts.unmount(pool.path)
    pool.handle.create()

    result = delete(virtomate, "web")

    assert result.status == 1, str(result)
    assert str(path) in result.json["message"]
    assert f"Mount the file system of '{pool.path}'" in result.json["hint"]
    assert reaching(root_lab.uri, "virsh undefine --keep-nvram web removes") in result.json["hint"]
    assert "web" in domains(root_lab.connection)
    pool.handle.destroy()
    mounts.mount_image(image, pool.path)
    pool.handle.create()
    assert delete(virtomate, "web").status == 0
    assert not path.exists()


def test_token_is_on_every_file_that_is_seen(lab: Lab, virtomate: Program) -> None:
    """In every mode, on volumes and NVRAM, with the UUID of the clone; what the original bears is not taken along."""
    directory = lab.make_directory("stores")
    store = directory / "src_VARS.fd"
    store.write_bytes(b"variables")
    define_source(lab, firmware=nvram(store), memory_mib=256)
    first = cloned(virtomate("domain-clone", "src", "a", json=True))
    second = cloned(virtomate("domain-clone", "--mode", "linked", "a", "b", json=True))
    for clone in (first, second):
        for path in (clone["disks"][0]["clone"]["path"], clone["nvram"]["clone"]):
            token = os.getxattr(path, ATTRIBUTE).decode()
            assert token.startswith(f"{clone['uuid']}:"), path
            assert f'mark="{token.partition(":")[2]}"' in lab.connection.lookupByName(clone["name"]).XMLDesc()


def finish_job(one: Any, disk_name: str) -> None:
    """Wait for the end of a block job."""
    wait_for(lambda: not one.blockJobInfo(disk_name), "the block job ends")


def test_image_that_was_freed_of_its_base_is_copied_byte_for_byte(lab: Lab, virtomate: Program) -> None:
    """Libvirt still tells of the base after a block pull; the image's own header says that it stands alone."""
    lab.pool.qcow2("src.qcow2", 8 * MIB)
    lab.define(domain("src", disks=[disk(lab.pool.path / "src.qcow2")]))
    cloned(virtomate("domain-clone", "--mode", "linked", "src", "web", json=True))
    one = lab.connection.lookupByName("web")
    one.create()
    one.blockPull("vda")
    finish_job(one, "vda")
    one.destroy()
    images.qemu_img("snapshot", "-c", "inside", lab.pool.path / "web.qcow2")

    clone = cloned(virtomate("domain-clone", "web", "copy", json=True))

    path = Path(clone["disks"][0]["clone"]["path"])
    assert clone["disks"][0]["transfer"] in {"host", "stream"}
    assert b"inside" in images.qemu_img("snapshot", "-l", path)


def test_chain_that_lost_its_middle_is_cloned(lab: Lab, virtomate: Program) -> None:
    """A block commit took the middle image out of the chain, and its file was deleted; libvirt remembers it."""
    base = lab.pool.qcow2("src.qcow2", 8 * MIB)
    middle = lab.pool.overlay("src.middle.qcow2", base, pattern=5)
    top = lab.pool.overlay("src.top.qcow2", middle, pattern=7)
    one = lab.define(domain("src", disks=[disk(top)]))
    one.create()
    one.blockCommit("vda", str(base), str(middle), 0, 0)
    finish_job(one, "vda")
    one.destroy()
    middle.unlink()

    clone = cloned(virtomate("domain-clone", "src", "web", json=True))

    assert images.same_content(Path(clone["disks"][0]["clone"]["path"]), "qcow2", top, "qcow2")


def test_clone_that_starts_while_it_is_deleted_keeps_its_definition(
    far: Hypervisor, far_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no lock keeps it from starting: it goes on, with the definition that it had."""
    far_pool.qcow2("src.qcow2", 4 * MIB)
    far.connection.defineXML(domain("src", disks=[disk(IMAGES / "src.qcow2")]))
    with open_session(far.uri) as session:
        request = CloneRequest("src", ("web",), mode=Mode.LINKED)
        (made,) = clone_domains(Run(session, session, Progress(), CancelToken()), request)
        assert made.error is None
        one = far.connection.lookupByName("web")
        before = one.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        plan = plan_deletion(session.connection, Selection(("web",)), CancelToken())

        def define_too_late(*arguments: Any) -> Any:
            if not one.isActive():
                one.create()
            return define_domain(*arguments)

        monkeypatch.setattr("virtomate.services.delete.placeholder.define_domain", define_too_late)
        (result,) = execute_plan(session, plan, Progress(), CancelToken())

    assert result.error is not None
    assert (result.error.exit_status, "started" in result.error.message) == (1, True), result.error
    assert one.isActive()
    one.destroy()
    assert one.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) == before
    assert (far_pool.path / "web.qcow2").exists()


@pytest.mark.parametrize("mode", ["copy", "linked", "stream", "import"])
def test_file_that_takes_the_place_of_the_new_one_is_not_filled(lab: Lab, virtomate: Program, mode: str) -> None:
    """Libvirt has just made an empty file; what somebody puts there before it is filled is not that file, and stays."""
    define_source(lab)
    words: dict[str, tuple[str, ...]] = {
        "copy": ("domain-clone", "src", "web"),
        "stream": ("domain-clone", "--transfer", "stream", "src", "web"),
        "linked": ("domain-clone", "--mode", "linked", "src", "web"),
        "import": ("volume-import", str(lab.pool.path / "src.raw"), lab.pool.name, "web.raw"),
    }
    path = lab.pool.path / ("web.qcow2" if mode == "linked" else "web.raw")
    run = virtomate.pausing(CREATION).start(*words[mode], json=True)
    with paused(run):
        path.unlink()
        path.write_bytes(b"precious")
    result = run.wait()

    assert result.status in {1, 3}, str(result)
    assert path.read_bytes() == b"precious"
    assert os.listxattr(path) == []
    if mode != "import":
        virtomate("domain-delete", "--yes", "--yes-unproved", "web")
        assert path.read_bytes() == b"precious"


def test_nobody_opens_what_is_being_deleted(lab: Lab, virtomate: Program) -> None:
    """QEMU's lock is held on a volume from before the last look until it is gone."""
    define_source(lab)
    path = Path(cloned(virtomate("domain-clone", "src", "web", json=True))["disks"][0]["clone"]["path"])
    run = virtomate.pausing(CLAIM).start("domain-delete", "--yes", "web", json=True)
    with paused(run), pytest.raises(RuntimeError, match="lock"):
        images.qemu_io(path, "raw", "read 0 512")

    assert run.wait().status == 0
    assert not path.exists()


def test_killed_before_anything_was_removed(lab: Lab, virtomate: Program) -> None:
    """The placeholder holds the definition, its passwords where nobody else reads them; the next run gives it back."""
    define_source(lab, devices="<graphics type='vnc' autoport='yes' passwd='secret'/><graphics type='egl-headless'/>")
    path = Path(cloned(virtomate("domain-clone", "src", "web", json=True))["disks"][0]["clone"]["path"])
    web = lab.connection.lookupByName("web")
    before = web.XMLDesc(EVERYTHING)
    assert "passwd='secret'" in before
    run = virtomate.pausing(CLAIM).start("domain-delete", "--yes", "web", json=True)
    with paused(run):
        assert "<disk" not in web.XMLDesc(EVERYTHING)
        assert "secret" not in web.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        run.signal(signal.SIGKILL)
    run.wait()

    late = lab.define(domain("late", disks=[disk(path, "raw")]))
    refused = delete(virtomate, "web")

    assert (refused.status, "domain 'late' uses it" in refused.json["message"]) == (1, True), str(refused)
    assert "'web' has its definition back" in refused.stderr
    assert web.XMLDesc(EVERYTHING) == before
    late.undefine()
    assert delete(virtomate, "web").status == 0
    assert not path.exists()


def test_domain_that_is_given_the_volume_after_the_plan_keeps_it(lab: Lab, virtomate: Program) -> None:
    """Who uses a volume is looked at once more right before it is removed; the clone gets its definition back."""
    define_source(lab)
    path = Path(cloned(virtomate("domain-clone", "src", "web", json=True))["disks"][0]["clone"]["path"])
    before = lab.connection.lookupByName("web").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    run = virtomate.pausing(CLAIM).start("domain-delete", "--yes", "web", json=True)
    with paused(run):
        late = lab.define(domain("late", disks=[disk(path, "raw")]))
    result = run.wait()

    assert result.status == 1, str(result)
    assert "domain 'late' uses it" in result.json[0]["error"]["message"]
    assert path.exists()
    assert lab.connection.lookupByName("web").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) == before
    late.undefine()
    assert delete(virtomate, "web").status == 0


def test_volume_under_a_loop_device_stays(root_lab: Lab, virtomate: Program) -> None:
    """A loop device takes none of QEMU's locks on its file, and a guest that has the device names no file."""
    define_source(root_lab)
    path = Path(cloned(virtomate("domain-clone", "src", "web", json=True))["disks"][0]["clone"]["path"])
    with loop_device(path) as device:
        result = delete(virtomate, "web")

        assert result.status == 1, str(result)
        assert f"'{device}'" in result.stdout
        assert path.exists()
    assert delete(virtomate, "web").status == 0


def test_empty_nvram_of_a_killed_run_goes_with_its_claim(lab: Lab, virtomate: Program) -> None:
    """It was made in a temporary pool, which is still there, and the run was killed before the first byte."""
    directory = lab.make_directory("stores")
    store = directory / "src_VARS.fd"
    store.write_bytes(b"variables")
    lab.define(domain("src", firmware=nvram(store), memory_mib=256))
    before = lab.inventory()
    run = virtomate.pausing(CREATION).start("domain-clone", "src", "web")
    wait_until_still(run.process.pid)
    run.end()
    assert (directory / "web_VARS.fd").stat().st_size == 0
    # the next run needs a temporary pool of its own, and leaves the one that the claim lists
    cloned(virtomate("domain-clone", "src", "next", json=True))
    assert delete(virtomate, "next").status == 0

    result = virtomate("domain-delete", "web", json=True)

    assert result.status == 0, str(result)
    unchanged(before, lab)


def test_saved_state_is_asked_for_whatever_the_record_says(lab: Lab, virtomate: Program) -> None:
    """An unfinished clone has none: somebody wrote such a record into another domain's metadata."""
    forge(
        lab,
        Artifact(ArtifactKind.VOLUME, ArtifactState.PLANNED, lab.pool.name, "none", str(lab.pool.path / "none")),
        finished=False,
    )
    text = lab.connection.lookupByName("forged").XMLDesc()
    metadata = text[text.index("<virtomate:clone") : text.index("</metadata>")]
    lab.connection.lookupByName("forged").undefine()
    one = lab.define(domain("real", uuid_=UUID, metadata=metadata, memory_mib=32))
    one.create()
    one.managedSave()

    result = virtomate("domain-delete", "real", json=True)

    assert result.status == 2, str(result)
    assert one.hasManagedSaveImage()
