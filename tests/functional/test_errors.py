"""Refusals: each is one sentence and a hint, has its type and exit status, and leaves everything as it was."""

import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.functional.runs import (
    BIG_BYTES,
    Refusal,
    check_refusal,
    error_of,
    make_big_source,
    midway,
    start_clone,
    unchanged,
)
from tests.lab import Lab, Program, disk, domain, images
from tests.lab.images import MIB
from tests.lab.ordinary_user import OrdinaryUser
from tests.lab.program import Background
from virtomate.definition import codec
from virtomate.definition.placeholders import claim_definition
from virtomate.definition.provenance import DomainReference
from virtomate.enums import Mode
from virtomate.errors import NoConnectionError
from virtomate.hypervisor.connection import connect
from virtomate.services.transaction import new_journal
from virtomate.words import binary_size

Words = tuple[str | Path, ...]
UUID = "11111111-2222-4333-8444-555555555555"

# A major and a minor version, as libvirt numbers them.
BROKEN_STREAMS = 11_003


class Case(NamedTuple):
    """A command that is refused, and what makes it so."""

    prepare: Callable[[Lab], Words]
    refusal: Refusal


TPM = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"


def define_source(lab: Lab, name: str = "src") -> Path:
    """Define a domain with one small raw disk and return the disk's path."""
    path = lab.pool.raw(f"{name}.raw", 8 * MIB)
    lab.define(domain(name, disks=[disk(path, "raw")]))
    return path


def clone_words(*words: str | Path) -> Words:
    """Return the usual command, with more words."""
    return ("domain-clone", *words, "src", "web")


def unknown_domain(_lab: Lab) -> Words:
    """Name a domain that is not there."""
    return ("domain-clone", "nobody", "web")


def taken_name(lab: Lab) -> Words:
    """Let another domain have the name."""
    define_source(lab)
    lab.define(domain("web", description="older"))
    return clone_words()


def running_source(lab: Lab) -> Words:
    """Start the source."""
    define_source(lab)
    lab.connection.lookupByName("src").create()
    return clone_words()


def paused_source(lab: Lab) -> Words:
    """Start the source and pause it."""
    words = running_source(lab)
    lab.connection.lookupByName("src").suspend()
    return words


def no_pool(lab: Lab) -> Words:
    """Put the volume where there is no pool, in a directory whose name a shell would split."""
    path = images.make_raw(lab.make_directory("no pool") / "a.raw", MIB)
    lab.define(domain("src", disks=[disk(path, "raw")]))
    return clone_words()


def inactive_pool(lab: Lab) -> Words:
    """Stop the volume's pool."""
    pool = lab.make_pool("stopped")
    lab.define(domain("src", disks=[disk(pool.raw("a.raw", MIB), "raw")]))
    pool.handle.destroy()
    return clone_words()


def inactive_named_pool(lab: Lab) -> Words:
    """Stop the pool that the disk names."""
    pool = lab.make_pool("stopped")
    pool.raw("a.raw", MIB)
    lab.define(domain("src", disks=[disk(("stopped", "a.raw"), "raw")]))
    pool.handle.destroy()
    return clone_words()


def missing_named_pool(lab: Lab) -> Words:
    """Name a pool that is not there."""
    lab.define(domain("src", disks=[disk(("gone", "a.raw"), "raw")]))
    return clone_words()


def missing_volume(lab: Lab) -> Words:
    """Name a file that is not there."""
    lab.define(domain("src", disks=[disk(lab.pool.path / "gone.raw", "raw")]))
    return clone_words()


def missing_named_volume(lab: Lab) -> Words:
    """Name a volume that is not there."""
    lab.define(domain("src", disks=[disk((lab.pool.name, "gone.raw"), "raw")]))
    return clone_words()


def taken_volume(lab: Lab) -> Words:
    """Let another volume have the name that the clone's would get."""
    define_source(lab)
    lab.pool.raw("web.raw", MIB, seed=9)
    return clone_words()


def taken_overlay(lab: Lab) -> Words:
    """Let another volume have the name that the clone's overlay would get."""
    define_source(lab)
    lab.pool.raw("web.qcow2", MIB, seed=9)
    return clone_words("--mode", "linked")


def written_by_another(lab: Lab) -> Words:
    """Let another domain have the disk open for writing."""
    path = define_source(lab)
    lab.define(domain("writer", disks=[disk(path, "raw")])).create()
    return clone_words()


def written_by_transient(lab: Lab) -> Words:
    """Let a domain that only exists while it runs have the disk open for writing, linked clones being no exception."""
    define_source(lab)
    lab.connection.createXML(domain("writer", disks=[disk((lab.pool.name, "src.raw"), "raw")]))
    return clone_words("--mode", "linked")


def saved_state(lab: Lab) -> Words:
    """Save the source's state, in whose middle its disks are."""
    define_source(lab)
    source = lab.connection.lookupByName("src")
    source.create()
    source.managedSave()
    return clone_words("--mode", "linked")


def wrong_format(lab: Lab) -> Words:
    """Call a raw image qcow2."""
    path = lab.pool.raw("src.raw", MIB)
    lab.define(domain("src", disks=[disk(path, "qcow2")]))
    return clone_words()


CASES = {
    "unknown domain": Case(unknown_domain, Refusal("NotFoundError", ("'nobody'",), ("virtomate domain-list",))),
    "name taken": Case(taken_name, Refusal("Conflict", ("domain 'web'",), ("another name",))),
    "source running": Case(
        running_source, Refusal("IllegalStateError", ("'src' is running", "shut off"), ("virsh shutdown src",))
    ),
    "source paused": Case(
        paused_source,
        Refusal("IllegalStateError", ("'src' is paused", "shut off"), ("virsh resume src; virsh shutdown src",)),
    ),
    "no pool": Case(
        no_pool,
        Refusal("IllegalStateError", ("no pool/a.raw'",), ("virsh pool-define-as", "no pool'", "virsh pool-start")),
    ),
    "pool inactive": Case(
        inactive_pool, Refusal("IllegalStateError", ("'stopped'", "not active"), ("virsh pool-start stopped",))
    ),
    "named pool inactive": Case(
        inactive_named_pool, Refusal("IllegalStateError", ("'stopped'", "not active"), ("virsh pool-start stopped",))
    ),
    "named pool missing": Case(missing_named_pool, Refusal("NotFoundError", ("'gone'",), ("virtomate pool-list",))),
    "volume missing": Case(missing_volume, Refusal("NotFoundError", ("/gone.raw'",), ("src",))),
    "named volume missing": Case(missing_named_volume, Refusal("NotFoundError", ("gone.raw'",), ("src",))),
    "volume name taken": Case(taken_volume, Refusal("Conflict", ("'web.raw'",), ("another name",))),
    "overlay name taken": Case(taken_overlay, Refusal("Conflict", ("'web.qcow2'",), ("another name",))),
    "written by another": Case(
        written_by_another, Refusal("IllegalStateError", ("vda", "src.raw'", "'writer'"), ("virsh shutdown writer",))
    ),
    "written by a transient domain": Case(
        written_by_transient, Refusal("IllegalStateError", ("vda", "src.raw'", "'writer'"), ("virsh", "writer"))
    ),
    "managed-save image": Case(
        saved_state, Refusal("IllegalStateError", ("'src'", "managed-save image"), ("--mode copy",))
    ),
    "wrong format": Case(wrong_format, Refusal("UnsupportedError", ("src.raw'", "qcow2", "raw"), ("src",))),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_refusal_says_why_and_changes_nothing(lab: Lab, virtomate: Program, case: Case) -> None:
    """A refusal is one sentence that names the value, and a hint; everything on the host stays as it was."""
    check_refusal(lab, virtomate, case.prepare(lab), case.refusal)


@pytest.mark.parametrize("case", [taken_name, taken_volume, running_source], ids=lambda case: case.__name__)
def test_dry_run_refuses_alike(lab: Lab, virtomate: Program, case: Callable[[Lab], Words]) -> None:
    """What would be refused is refused by --dry-run, with the same words."""
    words = case(lab)
    before = lab.inventory()

    real, dry = virtomate(*words, json=True), virtomate(*words, "--dry-run", json=True)

    assert (dry.status, dry.stdout) == (real.status, real.stdout)
    unchanged(before, lab)


@pytest.mark.parametrize(
    "name",
    ["", " ", ".", "..", "a/b", "../src", "a\nb", "a\x1b[31mb", "a\tb", "\x7f", "a\udcff", "x" * 237, "ä" * 119],
    ids=repr,
)
@pytest.mark.parametrize("as_json", [False, True], ids=["human", "json"])
def test_impossible_name_is_a_usage_error(lab: Lab, virtomate: Program, name: str, as_json: bool) -> None:
    """A name that can be no clone's is refused before anything is asked of libvirt, and never drives the terminal."""
    define_source(lab)
    before = lab.inventory()

    result = virtomate("domain-clone", "src", name, json=as_json)

    assert (result.status, result.stdout) == (2, ""), str(result)
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert "\x1b" not in result.stderr
    assert "name" in result.stderr
    unchanged(before, lab)


def test_impossible_name_needs_no_hypervisor(virtomate: Program) -> None:
    """A name that can be no clone's is a usage error even where there is no libvirt to ask."""
    assert virtomate("domain-clone", "src", "..", uri="qemu+unix:///system?socket=/nonexistent").status == 2


@pytest.mark.parametrize("words", [(), ("--disk", "vdb=copy")], ids=["alone", "beside a copy"])
def test_transfer_of_a_linked_clone_is_a_usage_error(lab: Lab, virtomate: Program, words: tuple[str, ...]) -> None:
    """An overlay has no content to transfer, whatever is copied beside it."""
    disks = [disk(lab.pool.raw(f"{name}.raw", MIB), "raw", target=name) for name in ("vda", "vdb")]
    lab.define(domain("src", disks=disks))
    before = lab.inventory()

    result = virtomate(*clone_words("--mode", "linked", "--transfer", "host", *words), json=True)

    assert (result.status, result.stdout) == (2, ""), str(result)
    assert result.stderr == "Error: --transfer host is not possible for a linked clone, which copies nothing\n"
    unchanged(before, lab)


def test_volume_name_too_long_is_a_usage_error(lab: Lab, virtomate: Program) -> None:
    """A name that fits a domain but not the volumes named after it is refused before anything is made."""
    path = lab.pool.raw("some-disk-of-a-guest.raw", MIB)
    lab.define(domain("src", disks=[disk(path, "raw")]))
    before = lab.inventory()

    result = virtomate("domain-clone", "src", "x" * 236, json=True)

    assert (result.status, result.stdout) == (2, ""), str(result)
    assert "some-disk-of-a-guest.raw" in result.stderr
    unchanged(before, lab)


@pytest.mark.parametrize("name", ["x" * 236, "ä" * 118], ids=["ascii", "multi-byte"])
def test_longest_name_works(lab: Lab, virtomate: Program, name: str) -> None:
    """A name that just fits can be used, journal and all, and the clone starts: nothing of it gets a longer name."""
    lab.define(domain("src", disks=[disk(lab.pool.raw("src.raw", MIB), "raw")], devices=TPM))

    result = virtomate("domain-clone", "src", name, json=True)

    assert result.status == 0, str(result)
    clone = lab.connection.lookupByName(name)
    assert clone.UUIDString() == result.json[0]["uuid"]
    clone.create()


def test_file_unknown_to_libvirt_is_left_alone(lab: Lab, virtomate: Program) -> None:
    """A file that has the volume's name is a conflict also where libvirt has not seen it yet."""
    define_source(lab)
    stranger = lab.pool.path / "web.raw"
    stranger.write_bytes(b"precious")
    before = lab.inventory()

    for mode, name in (("copy", "web.raw"), ("linked", "web.qcow2")):
        stranger = stranger.rename(lab.pool.path / name)
        result = virtomate("domain-clone", "--mode", mode, "src", "web", json=True)

        assert result.status == 1, str(result)
        assert error_of(result)["type"] == "Conflict"
        assert name in error_of(result)["message"]
        assert stranger.read_bytes() == b"precious"
        assert lab.inventory().domains == before.domains
    # That libvirt knows of the file by now is no change of the file.
    stranger.rename(lab.pool.path / "web.raw")
    assert lab.inventory().files == before.files


@pytest.mark.parametrize("format_", ["raw", "qcow2"])
def test_reflink_is_refused_where_the_file_system_cannot(root_lab: Lab, virtomate: Program, format_: str) -> None:
    """On ext4 there are no reflinks: that is said, with what can be done instead, and nothing is left behind."""
    pool = root_lab.pools["ext4"]
    path = pool.raw("src.raw", MIB) if format_ == "raw" else pool.qcow2("src.qcow2", MIB)
    root_lab.define(domain("src", disks=[disk(path, format_)]))

    check_refusal(
        root_lab,
        virtomate,
        clone_words("--mode", "reflink"),
        Refusal("UnsupportedError", (str(path), "reflink"), ("--mode copy", "--mode linked")),
    )


def test_no_daemon_is_a_clear_error(lab: Lab, virtomate: Program) -> None:
    """Where nothing listens, the error names the connection and says what to look at."""
    uri = f"qemu+unix:///system?socket={lab.directory}/no-socket"
    refusal = Refusal("libvirtError", (uri,), ("name another connection, such as", "libvirtd"))

    for words in (("domain-clone", "src", "web"), ("domain-list",), ("domain-delete", "web")):
        check_refusal(lab, virtomate, words, refusal, uri=uri)
    # It was never there, so it was not lost.
    assert "lost" not in virtomate("domain-list", uri=uri).stderr


@pytest.mark.parametrize(
    ("before", "after", "hint"),
    [
        ("qemu+", "qmeu+", "Did you mean qemu+unix:///"),
        ("qemu+", "nothing+", "Name a connection by a URI, such as qemu:///system"),
        ("/system?", "/sytem?", "Name a connection by a URI, such as qemu:///system"),
    ],
)
def test_connection_that_the_daemon_does_not_know(root_lab: Lab, before: str, after: str, hint: str) -> None:
    """A driver or a path that is none is no daemon that does not run."""
    with pytest.raises(NoConnectionError) as caught:
        connect(root_lab.uri.replace(before, after))

    assert hint in str(caught.value.hint)


def test_empty_session_points_to_the_system(root_lab: Lab, virtomate: Program) -> None:
    """Who has no domains at all in a session of their own meant the system's, mostly."""
    assert not root_lab.connection.listAllDomains()
    socket = root_lab.hypervisor.socket_path
    # in a session of root's, it is the system's socket that is looked for
    script = f'mount -t tmpfs tmpfs /run && mkdir /run/libvirt && ln -s {socket} /run/libvirt/libvirt-sock && exec "$@"'
    argv = ["unshare", "--mount", "sh", "-c", script, "sh", *virtomate.argv("domain-clone", "web", "web-2", json=True)]
    argv[argv.index("-c", argv.index("virtomate")) + 1] = "qemu:///session"
    with Background(argv, virtomate.env(), virtomate.directory) as run:
        result = run.wait()

    assert result.json == {
        "type": "NotFoundError",
        "message": "there is no domain 'web' on qemu:///session",
        "hint": "There are no domains at all on qemu:///session; virtomate -c qemu:///system domain-list shows the "
        "system's.",
    }


def test_read_only_socket_is_a_clear_error(lab: Lab, virtomate: Program) -> None:
    """Who may look but not touch is told so before anything is tried."""
    define_source(lab)

    check_refusal(lab, virtomate, clone_words(), Refusal("libvirtError", ("'src'",), ("account",)), uri=f"{lab.uri}-ro")


def test_closed_socket_is_a_clear_error(root_lab: Lab, nobody: OrdinaryUser) -> None:
    """Who may not open the daemon's socket is told which group may."""
    define_source(root_lab)
    socket = root_lab.hypervisor.socket_path
    mode = socket.stat().st_mode
    before = root_lab.inventory()
    socket.chmod(0o700)
    try:
        result = nobody(*clone_words())
    finally:
        socket.chmod(mode)
    unchanged(before, root_lab)

    assert result.status == 1, str(result)
    assert result.json["type"] == "libvirtError"
    assert socket.name in result.json["message"]
    assert "group libvirt" in result.json["hint"]


@pytest.mark.parametrize("mode", ["human", "json"])
def test_too_little_space_is_refused_with_both_figures(root_lab: Lab, virtomate: Program, mode: str) -> None:
    """The plan compares what it will write with what the pool has, and says both."""
    pool = root_lab.make_small_pool("small")
    path = pool.raw("src.raw", 40 * MIB, data_bytes=40 * MIB)
    root_lab.define(domain("src", disks=[disk(path, "raw")]))
    before = root_lab.inventory()

    result = virtomate(*clone_words(), json=mode == "json")

    assert result.status == 1, str(result)
    text = result.json["message"] if mode == "json" else result.stderr
    figures = os.statvfs(pool.path)
    left = binary_size(figures.f_bavail * figures.f_frsize)
    assert f"storage pool 'small' has {left} free; 40.0 MiB are needed" in text
    if mode == "json":
        assert result.json["type"] == "NoSpaceError"
        assert "--mode linked" in result.json["hint"]
    unchanged(before, root_lab)


def test_space_is_not_checked_when_told_so(root_lab: Lab, virtomate: Program) -> None:
    """Without the check, cloning begins, and fails clean where the space really is not there."""
    pool = root_lab.make_small_pool("small")
    path = pool.raw("src.raw", 40 * MIB, data_bytes=40 * MIB)
    root_lab.define(domain("src", disks=[disk(path, "raw")]))
    before = root_lab.inventory()

    plan = virtomate("domain-clone", "--dry-run", "--no-space-check", "src", "web", json=True)
    result = virtomate("domain-clone", "--no-space-check", "src", "web", json=True)

    assert plan.status == 0, str(plan)
    assert result.status == 1, str(result)
    assert error_of(result)["type"] == "NoSpaceError"
    unchanged(before, root_lab)


@pytest.mark.parametrize("transfer", ["host", "stream"])
def test_full_in_the_middle_fails_clean(root_lab: Lab, virtomate: Program, transfer: str) -> None:
    """When the space that the plan saw is gone before the copy is done, everything is undone."""
    if transfer == "stream" and root_lab.connection.getLibVersion() // 1000 == BROKEN_STREAMS:
        pytest.skip("the daemon of libvirt 11.3 frees something twice when it cannot write a stream, and dies or hangs")
    pool = root_lab.make_small_pool("small", size_bytes=3 * BIG_BYTES)
    make_big_source(root_lab, pool, "src")
    before = root_lab.inventory()
    eater = pool.path / "eater"

    watched = start_clone(virtomate, "--transfer", transfer, "src", "web")
    with midway(root_lab, watched, transfer, pool.path / "web.raw"), eater.open("xb") as file:
        free = os.fstatvfs(file.fileno())
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - MIB)
    result = watched.run.wait()
    eater.unlink()
    pool.refresh()

    assert result.status == 1, str(result)
    error = error_of(result)
    assert "web.raw" in error["message"]
    assert "No space left" in error["message"]
    assert error["type"] == "NoSpaceError"
    assert "hint" in error
    unchanged(before, root_lab)


def test_full_in_the_middle_of_a_flattening_fails_clean(root_lab: Lab, virtomate: Program) -> None:
    """What libvirt itself fails to write is undone, too."""
    pool = root_lab.make_small_pool("small")
    base = root_lab.make_pool("elsewhere").qcow2("base.qcow2", 100 * MIB, data_bytes=100 * MIB)
    path = pool.overlay("src.qcow2", base, pattern=5)
    root_lab.define(domain("src", disks=[disk(path)]))
    before = root_lab.inventory()

    result = virtomate(*clone_words(), "--no-space-check", json=True)

    assert result.status == 1, str(result)
    assert "web.qcow2" in error_of(result)["message"]
    unchanged(before, root_lab)


def test_saved_state_is_warned_of_in_a_copy(lab: Lab, virtomate: Program) -> None:
    """A copy of a domain with a managed-save image is made, and the result says that the image stays behind."""
    saved_state(lab)
    before = lab.inventory()

    result = virtomate(*clone_words(), json=True)

    assert result.status == 0, str(result)
    (warning,) = result.json[0]["warnings"]
    assert "'src'" in warning
    assert "managed-save image" in warning
    assert f"Warning: {warning}" in result.stderr
    assert lab.connection.lookupByName("src").hasManagedSaveImage()
    assert not lab.connection.lookupByName("web").hasManagedSaveImage()
    assert lab.inventory().domains["src"] == before.domains["src"]


def test_unfinished_clone_is_no_source(lab: Lab, virtomate: Program) -> None:
    """What a killed run left can neither be cloned nor have its name taken, and the hint says how to be rid of it."""
    make_big_source(lab, lab.pool, "src")
    watched = start_clone(virtomate, "--transfer", "host", "src", "half done")
    with midway(lab, watched, "host", lab.pool.path / "half done.raw"):
        watched.run.signal(signal.SIGKILL)
    watched.run.wait()

    hint = ("virtomate domain-delete 'half done'",)
    check_refusal(
        lab,
        virtomate,
        ("domain-clone", "half done", "web"),
        Refusal("IllegalStateError", ("'half done'", "unfinished"), hint),
    )
    check_refusal(
        lab,
        virtomate,
        ("domain-clone", "src", "half done"),
        Refusal("Conflict", ("'half done'", "unfinished", "'src'"), hint),
    )


def test_uuid_of_a_claim_without_its_name_is_freed_by_the_command_in_the_hint(lab: Lab, virtomate: Program) -> None:
    """A run with --uuid that is killed before it renames its claim leaves a UUID that domain-delete frees."""
    define_source(lab)
    original = DomainReference("src", lab.connection.lookupByName("src").UUIDString())
    like: codec.Document = {"@type": "qemu", "os": {"type": {"@arch": "x86_64", "@machine": "q35", "#text": "hvm"}}}
    journal = new_journal(UUID, original, Mode.COPY, ())._replace(maker=None)
    lab.define(codec.unparse_definition(claim_definition("virtomate-claim-0a1b", journal, like)))
    words = clone_words("--uuid", UUID)

    refusal = Refusal(
        "Conflict",
        (f"domain 'virtomate-claim-0a1b', an unfinished clone of 'src', already has the UUID '{UUID}'",),
        ("virtomate domain-delete virtomate-claim-0a1b", "another UUID"),
    )
    check_refusal(lab, virtomate, words, refusal)
    assert virtomate("domain-delete", "virtomate-claim-0a1b").status == 0
    assert virtomate(*words).status == 0


UNUSUAL_NAMES = [
    "two words",
    'it\'s "quoted"',
    "$HOME;true&`id`|x",
    "[red]x[bold]:smile:",
    "größe-日本-🐧",
    "<a>&amp;",
    "100%",
    "a\\b",
    "*?",
    "~",
    "{x}",
    "-lead",
    "a,b=c",
]


@pytest.mark.parametrize("name", UNUSUAL_NAMES)
def test_unusual_names_are_only_names(lab: Lab, virtomate: Program, name: str) -> None:
    """Names are data: as DOMAIN and as NEWNAME, in files, in output and in hints."""
    path = lab.pool.raw("a.raw", MIB)
    lab.define(domain(name, disks=[disk(path, "raw")]))

    result = virtomate("domain-clone", "--", name, f"{name} 2", json=True)

    assert result.status == 0, str(result)
    (clone,) = result.json
    assert (clone["name"], clone["source"]["name"]) == (f"{name} 2", name)
    assert clone["disks"][0]["clone"]["volume"] == f"{name} 2-a.raw"
    assert f"{name} 2-a.raw" in lab.pool.volumes()
    assert images.same_content(path, "raw", Path(clone["disks"][0]["clone"]["path"]), "raw")
    assert lab.connection.lookupByName(f"{name} 2").UUIDString() == clone["uuid"]
    listed = virtomate("domain-list").stdout
    assert f"\n{name} 2 " in listed
    assert f"{name} (copy)" in listed
    again = virtomate("domain-clone", "--", name, f"{name} 2")
    assert again.stderr.startswith(f"Error: there is already a domain '{name} 2'\n")
    refused = virtomate("domain-delete", "--", name, json=True)
    assert refused.json["type"] == "IllegalStateError"
    assert shlex.quote(name) in refused.json["hint"]
    deleted = virtomate("domain-delete", "--yes", "--", f"{name} 2", json=True)
    assert [(item["status"], item["name"]) for item in deleted.json] == [("deleted", f"{name} 2")]
    assert f"{name} 2-a.raw" not in lab.pool.volumes()


def test_domain_is_found_by_uuid(lab: Lab, virtomate: Program) -> None:
    """DOMAIN may be a UUID; a name that looks like one comes first."""
    define_source(lab)
    uuid = lab.connection.lookupByName("src").UUIDString()

    by_uuid = virtomate("domain-clone", uuid, "web", json=True)
    path = lab.pool.raw("other.raw", MIB)
    lab.define(domain(uuid, disks=[disk(path, "raw")]))
    by_name = virtomate("domain-clone", uuid, "web-2", json=True)

    assert by_uuid.json[0]["source"] == {"name": "src", "uuid": uuid}
    assert by_name.json[0]["source"]["name"] == uuid


def test_errors_of_both_forms_are_the_same(lab: Lab, virtomate: Program) -> None:
    """With --progress json an error for people is a line of JSON, too, and stdout stays empty."""
    result = virtomate("--progress", "json", "domain-clone", "nobody", "web")

    assert (result.status, result.stdout) == (1, "")
    (line,) = result.progress
    assert (line["event"], line["type"]) == ("error", "NotFoundError")
    assert line["message"] == virtomate("domain-clone", "nobody", "web", json=True).json["message"]
    assert not lab.connection.listAllDomains()
