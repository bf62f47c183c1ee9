"""The graph of who uses what, without a hypervisor: the files are real, and libvirt is a narrow fake."""

from __future__ import annotations

import os
import posixpath
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import libvirt
import pytest

from tests.services.storage.fakes import LOCAL, REMOTE, FakeDomain, FakeLibvirt, FakePool, definition, failure
from tests.services.storage.images import write_qcow2, write_qed
from virtomate.definition.provenance import Artifact, DomainReference, Fingerprint, Owner, Provenance
from virtomate.duplication.image_headers import LONG_HEADER_BYTES
from virtomate.enums import ArtifactKind, ArtifactState, Mode
from virtomate.errors import HypervisorError
from virtomate.output.messages import sentences
from virtomate.services.storage.owner import this_process
from virtomate.services.storage.references.documents import ReferenceCache
from virtomate.services.storage.references.graph import ReferenceKind, References, scan_references

if TYPE_CHECKING:
    from pathlib import Path

    from virtomate.hypervisor.storage import Volume

CLONE = "00000000-0000-4000-8000-000000000001"
OTHER = "00000000-0000-4000-8000-000000000002"


def volume_of(path: Path | str, pool: str = "pool") -> Artifact:
    """A volume that cloning made."""
    seen = Fingerprint("1.0", 1, 1)
    return Artifact(ArtifactKind.VOLUME, ArtifactState.MADE, pool, posixpath.basename(str(path)), str(path), seen)


def record_of(uuid: str, *made: Artifact, mode: Mode = Mode.LINKED, maker: Owner | None = None) -> Provenance:
    """The record of a clone of the clone that is to be deleted; with a maker it is unfinished."""
    return Provenance(maker is None, uuid, "token", DomainReference("clone", CLONE), mode, 1.0, made, maker)


@dataclass
class Host:
    """A host with one pool and a clone with one volume in it."""

    root: Path
    libvirt: FakeLibvirt = field(default_factory=FakeLibvirt)

    def __post_init__(self) -> None:
        self.root.joinpath("pool").mkdir()
        self.outside = self.root / "outside"
        self.outside.mkdir()
        self.path = write_qcow2(self.root / "pool" / "clone.qcow2")
        self.made = volume_of(self.path)
        self.pool = FakePool("pool", self.path.parent)
        self.libvirt.pools.append(self.pool)
        self.define("clone", definition(self.path), uuid=CLONE)

    def define(self, name: str, text: str | Exception, **others: object) -> FakeDomain:
        """Define a domain."""
        domain = FakeDomain(name, text, **others)  # type: ignore[arg-type]
        self.libvirt.domains.append(domain)
        return domain

    def scan(self, cache: ReferenceCache | None = None, *others: Artifact) -> References:
        """Look at everything."""
        return scan_references(self.libvirt.connection, {CLONE: (self.made, *others)}, cache)

    def says(self) -> list[str]:
        """What the users of the clone's volume are said to do, with short paths."""
        return [user.says.replace(f"{self.root}/", "/") for user in self.scan().users(self.made)]

    def warns(self) -> str:
        """All warnings, with short paths."""
        return "\n".join(sentences(self.scan().warnings)).replace(f"{self.root}/", "/")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """The host, whose files are seen here."""
    return Host(tmp_path)


@pytest.fixture
def far(tmp_path: Path) -> Host:
    """The host, whose files are not seen here."""
    return Host(tmp_path, FakeLibvirt(REMOTE))


def test_nobody(host: Host) -> None:
    """What only the clone itself names has no user, and nothing is worth a warning."""
    host.define("other", definition(host.root / "pool" / "other.qcow2"))
    references = host.scan()

    assert references.users(host.made) == ()
    assert references.warnings == ()
    assert host.pool.refreshed == 0
    volume = references.volume(host.made)
    assert volume is not None
    assert volume.path == str(host.path)
    assert references.is_there(str(host.path))
    assert not references.is_there(str(host.root / "pool" / "none"))


@pytest.mark.parametrize(
    ("says", "keywords"),
    [
        ("domain 'other' uses it", {"text": True}),
        ("domain 'other' uses it", {"live": True}),
        ("the managed-save image of domain 'other' uses it", {"saved": True}),
        ("snapshot 's' of domain 'other' uses it", {"snapshots": True}),
        ("checkpoint 's' of domain 'other' uses it", {"checkpoints": True}),
    ],
)
def test_states(host: Host, says: str, keywords: dict[str, bool]) -> None:
    """A domain uses a file now, later, when its managed-save image is resumed, or when a snapshot is reverted to."""
    (state,) = keywords
    text = definition(host.path)
    documents: dict[str, object] = {state: {"s": f"<domainsnapshot>{text}</domainsnapshot>"}}
    if not state.endswith("s"):
        documents = {state: text}
    other = host.define("other", str(documents.pop("text", definition())), **documents)

    (user,) = host.scan().users(host.made)

    assert user.says == says
    assert (user.kind, user.domain_uuid, user.path) == (ReferenceKind.NAMES, other.uuid, None)


def test_calls_do_not_grow_with_the_states(host: Host) -> None:
    """Five lists tell which domains have a state, a snapshot or a checkpoint."""
    for number in range(20):
        host.define(f"other-{number}", definition())
    host.scan()

    assert host.libvirt.calls == 5


def ways_to_name(host: Host) -> dict[str, str]:
    """Definitions that name the clone's volume."""
    path = host.path
    host.outside.joinpath("link").symlink_to(path)
    host.outside.joinpath("directory").symlink_to(path.parent)
    os.link(path, host.outside / "hard")
    host.libvirt.pools.append(FakePool("again", host.outside / "directory"))
    arguments = "<qemu:commandline><qemu:arg value='{}'/></qemu:commandline>"
    return {
        "path": definition(path),
        "spelling": definition(f"{path.parent}/../pool//{path.name}"),
        "link": definition(host.outside / "link"),
        "directory": definition(host.outside / "directory" / path.name),
        "hard link": definition(host.outside / "hard"),
        "pool": definition(extra="<disk><source pool='pool' volume='clone.qcow2'/></disk>"),
        "other pool": definition(extra="<disk><source pool='again' volume='clone.qcow2'/></disk>"),
        "argument": definition(extra=arguments.format(f"file={path},if=none")),
        "argument through a link": definition(extra=arguments.format(f"file={host.outside}/link,if=none")),
        "argument without form": definition(extra=arguments.format(f"on the way to:{path}")),
        "argument that goes on": definition(extra=arguments.format(f"file={path},file={path}-2")),
        "json": definition(extra=arguments.format(f'{{"driver":"file","filename":"{path}"}}')),
        "kernel": f"<domain><os><kernel>\n{path}</kernel></os></domain>",
        "future": f"<domain><unknown><really path='{path}'/></unknown></domain>",
    }


def test_ways_to_name(host: Host) -> None:
    """However a definition names a file, it is the same file."""
    for way, text in ways_to_name(host).items():
        other = host.define("other", text)
        assert host.says() == ["domain 'other' uses it"], way
        host.libvirt.domains.remove(other)
    assert host.says() == []


def test_what_only_metadata_mention_is_not_used(host: Host) -> None:
    """What other tools note in a definition is no use of a file."""
    host.define("other", f"<domain><metadata><t:x xmlns:t='urn:t'>{host.path}</t:x></metadata></domain>")

    assert host.says() == []


def test_chain_to_its_end(host: Host) -> None:
    """An image far above counts wherever the images in between are, and the domain at the end is named."""
    lower = write_qcow2(host.outside / "lower.qcow2", host.path)
    write_qcow2(host.outside / "upper.qcow2", lower.name)
    host.define("other", definition(host.outside / "upper.qcow2"))

    (user,) = host.scan().users(host.made)

    assert user.says == f"'{lower}', on which domain 'other' rests, rests on it"
    assert (user.kind, user.domain_uuid, user.path) == (ReferenceKind.RESTS, None, str(lower))


def test_image_of_a_domain(host: Host) -> None:
    """The domain whose image rests on the volume is named."""
    host.define("other", definition(write_qcow2(host.outside / "over.qcow2", host.path)))

    assert host.says() == ["'/outside/over.qcow2' of domain 'other' rests on it"]


def test_loop_of_images(host: Host) -> None:
    """Images that rest on each other are read once."""
    write_qcow2(host.path.with_name("a"), "b")
    write_qcow2(host.path.with_name("b"), "a")
    write_qcow2(host.path, host.path)

    assert host.says() == ["'/pool/clone.qcow2', which is in the chain of disk vda of 'clone' itself, rests on it"]


def test_inactive_pool(host: Host) -> None:
    """Images in the directory of a pool that is not active are seen."""
    over = write_qcow2(host.outside / "over.qcow2", host.path)
    host.libvirt.pools.append(FakePool("inactive", host.outside, active=False))

    assert host.says() == [f"'/outside/{over.name}' rests on it"]


def test_pool_whose_directory_is_gone(host: Host) -> None:
    """Libvirt puts a pool out of service whose directory is not there; that is a warning and nothing more."""
    away = host.root / "away"
    host.libvirt.pools += [FakePool("gone", away), FakePool("inactive", away, active=False)]
    references = host.scan()

    assert references.users(host.made) == ()
    assert sentences(references.warnings) == ["libvirt cannot read storage pool 'gone': its volumes are not known"]
    known = references.pools.find("gone")
    assert known is not None
    assert not known.is_active


@pytest.mark.parametrize("name", ["over.raw", "over.qcow2", "over"])
def test_formats(host: Host, name: str) -> None:
    """The content of an image decides what it is, whatever its name."""
    write_qed(host.path.with_name(name), host.path)

    assert host.says() == [f"'/pool/{name}' rests on it"]


def test_external_data(host: Host) -> None:
    """An image that keeps its data in the volume uses it."""
    write_qcow2(host.outside / "image", data_file=host.path)
    host.define("other", definition(host.outside / "image"))

    assert host.says() == ["'/outside/image' of domain 'other' keeps its data in it"]


def test_what_libvirt_remembers_does_not_count(host: Host) -> None:
    """An image that rested on the volume once, by what libvirt remembers, does not any more."""
    write_qcow2(host.path.with_name("over"))
    host.pool.backing["over"] = str(host.path)
    host.pool.known = {"over", host.path.name}

    assert host.says() == []


def test_relative_name_beside_a_link(host: Host) -> None:
    """A relative name may refer to the directory of a link or to that of the file that it leads to."""
    real = write_qcow2(host.outside / "real", host.path.name)
    host.path.with_name("link").symlink_to(real)
    assert host.says() == ["'/pool/link' rests on it"]

    host.path.with_name("link").unlink()
    (host.root / "deeper" / "down").mkdir(parents=True)
    (host.outside / "link").symlink_to(write_qcow2(host.root / "deeper" / "down" / "real", "../../pool/clone.qcow2"))
    host.define("other", definition(host.outside / "link"))
    assert host.says() == ["'/outside/link' of domain 'other' rests on it"]


def test_one_image_in_two_directories(host: Host) -> None:
    """A relative name leads to another file from each directory in which the image is."""
    (host.root / "first").mkdir()
    image = write_qcow2(host.root / "first" / "image", host.path.name)
    os.link(image, host.path.with_name("image"))
    host.libvirt.pools.insert(0, FakePool("first", image.parent))

    assert host.says() == ["'/pool/image' rests on it"]


def test_one_image_under_two_names(host: Host) -> None:
    """It is one user, whatever its names."""
    image = write_qcow2(host.path.with_name("image"), host.path)
    os.link(image, host.outside / "other")
    host.define("other", definition(host.outside / "other"))

    assert len(host.says()) == 1


def test_own_snapshot(host: Host) -> None:
    """When the clone's disk has become an overlay on its volume, that is told apart from others' overlays."""
    first = write_qcow2(host.path.with_suffix(".s1"), host.path)
    second = write_qcow2(host.path.with_suffix(".s2"), first)
    host.libvirt.domains[0].definition = definition(second)

    (user,) = host.scan().users(host.made)

    assert user.kind is ReferenceKind.OWN_CHAIN
    assert user.says == f"'{first}', which is in the chain of disk vda of 'clone' itself, rests on it"
    assert user.path == str(first)

    host.define("other", definition(second))
    assert host.says() == ["'/pool/clone.s1', on which domain 'clone' rests, rests on it"]


def test_own_chain_by_the_definition_alone(host: Host) -> None:
    """The clone's own definition may know of an overlay that cannot be read."""
    below = f"<backingStore><source file='{host.path}'/></backingStore><target dev='vdb'/>"
    host.libvirt.domains[0].definition = definition(extra=f"<disk><source file='/x/top'/>{below}</disk>")

    assert host.says() == ["'/x/top', which is in the chain of disk vdb of 'clone' itself, rests on it"]


def test_clones_that_go_together(host: Host) -> None:
    """The image of another clone bears the path that its record has, by whichever way it was found."""
    host.outside.joinpath("directory").symlink_to(host.path.parent)
    over = write_qcow2(host.path.with_name("over.qcow2"), host.path)
    host.libvirt.pools.insert(0, FakePool("again", host.outside / "directory"))
    references = scan_references(host.libvirt.connection, {CLONE: (host.made,), OTHER: (volume_of(over),)})

    assert [user.path for user in references.users(host.made)] == [str(over)]


def unreadable(monkeypatch: pytest.MonkeyPatch, *paths: Path) -> None:
    """Have files be there that cannot be opened."""
    real_open = os.open

    def open_(path: str, *arguments: int) -> int:
        if str(path) in map(str, paths):
            raise PermissionError(13, "Permission denied")
        return real_open(path, *arguments)

    monkeypatch.setattr(os, "open", open_)


def test_image_that_cannot_be_opened(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in an active pool, libvirt tells about; of the rest that is a warning."""
    over = write_qcow2(host.path.with_name("over"), host.path)
    hidden = write_qcow2(host.outside / "hidden", host.path)
    host.pool.backing["over"] = str(host.path)
    host.pool.known = {"over", host.path.name}
    host.define("other", definition(hidden))
    unreadable(monkeypatch, over, hidden)

    assert host.says() == ["'/pool/over' rests on it"]
    assert host.warns() == "cannot read '/outside/hidden' (Permission denied): the backing files are not known"


def test_record_of_a_linked_clone(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A linked clone whose image cannot be looked at uses its base; one whose image can does what that says."""
    over = write_qcow2(host.outside / "over.qcow2")
    record = record_of(OTHER, volume_of(over, "away"))
    host.define("linked", definition(over, record=record), uuid=OTHER)
    assert host.says() == []

    with monkeypatch.context() as patch:
        unreadable(patch, over)
        (user,) = host.scan().users(host.made)
    assert user.says == f"'{over}' of domain 'linked' cannot be read and was made to rest on it"
    assert (user.kind, user.domain_uuid, user.path) == (ReferenceKind.RECORD, OTHER, str(over))

    # its file system is not mounted, and what is there is empty
    over.unlink()
    assert [user.kind for user in host.scan().users(host.made)] == [ReferenceKind.RECORD]
    # it is, and the file is not there
    host.outside.joinpath("something").touch()
    assert host.says() == []
    shutil.rmtree(host.outside)
    assert [user.kind for user in host.scan().users(host.made)] == [ReferenceKind.RECORD]


@pytest.mark.parametrize(("mode", "uuid"), [(Mode.COPY, OTHER), (Mode.LINKED, "00000000-0000-4000-8000-000000000003")])
def test_record_that_says_nothing(host: Host, mode: Mode, uuid: str) -> None:
    """A copy rests on nothing, and a record that was carried over counts for nothing."""
    record = record_of(uuid, volume_of("/nonexistent/over.qcow2", "away"), mode=mode)
    host.define("copied", definition(record=record), uuid=OTHER)

    assert host.says() == []


@pytest.mark.parametrize(("is_running", "expected"), [(True, ["domain 'x' is being cloned from it"]), (False, [])])
def test_claim(host: Host, is_running: bool, expected: list[str]) -> None:
    """Somebody who is cloning the clone uses it, unless that run is dead."""
    maker = this_process()
    maker = maker if is_running else Owner(maker.host, maker.pid, maker.started + 1)
    host.define("x", definition(record=record_of(OTHER, maker=maker)), uuid=OTHER)

    assert host.says() == expected


@pytest.mark.parametrize(
    ("path", "is_guess"),
    [
        ("/nonexistent/clone.qcow2", True),
        ("/nonexistent/other.qcow2", False),
        ("{root}/outside/clone.qcow2", True),
        ("{root}/outside/dangling", True),
        ("{root}/pool/away/clone.qcow2", True),
        ("{root}/pool/clone.qcow2/clone.qcow2", False),
        ("{root}/full/clone.qcow2", False),
    ],
)
def test_path_that_leads_nowhere(host: Host, path: str, is_guess: bool) -> None:
    """A file that may be elsewhere under the same name is taken for the volume, unless it certainly is not there."""
    (host.root / "full").mkdir()
    (host.root / "full" / "something").touch()
    (host.outside / "dangling").symlink_to("/nonexistent/clone.qcow2")
    if not path.endswith("dangling"):
        (host.outside / "dangling").unlink()
    path = path.format(root=host.root)
    other = host.define("other", definition(path))

    users = host.scan().users(host.made)

    assert [user.says for user in users] == (
        [f"domain 'other' names '{path}', which cannot be seen and may be the same file"] if is_guess else []
    )
    assert all((user.kind, user.domain_uuid) == (ReferenceKind.MAY_NAME, other.uuid) for user in users)


def test_unknown_pool(host: Host) -> None:
    """A volume of a pool that is not there is a volume of that name."""
    host.libvirt.pools.clear()
    for volume in ("clone.qcow2", "other.qcow2"):
        host.define(volume, definition(extra=f"<disk><source pool='pool' volume='{volume}'/></disk>"))
    host.define("elsewhere", definition(extra="<disk><source pool='else' volume='clone.qcow2'/></disk>"))

    assert host.says() == ["domain 'clone.qcow2' uses it"]


@pytest.mark.parametrize("code", [libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_ERR_RPC, libvirt.VIR_ERR_NO_DOMAIN])
def test_document_that_cannot_be_read(host: Host, code: int) -> None:
    """Whatever one domain has that cannot be read, others are looked at; a domain that is gone is no news."""
    error = failure(code)
    host.define("broken", error, live=error, saved=error, snapshots={"s": error}, checkpoints={"c": error})
    host.define("other", definition(host.path))

    assert host.says() == ["domain 'other' uses it"]
    warnings = host.warns()
    for what in (
        "the definition of domain",
        "the managed-save image of domain",
        "snapshot 's' of domain",
        "checkpoint 'c' of",
    ):
        assert (f"{what} " in f"{warnings} ") == (code != libvirt.VIR_ERR_NO_DOMAIN)


def test_connection_that_broke(host: Host) -> None:
    """When nothing can be read any more, nothing can be said."""
    host.define("other", failure())
    host.libvirt.alive = False

    with pytest.raises(HypervisorError):
        host.scan()


def test_states_that_a_driver_does_not_know(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver without managed-save images has none."""
    real = FakeLibvirt.listAllDomains

    def refuse(self: FakeLibvirt, flags: int) -> list[FakeDomain]:
        if flags not in {0, libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE}:
            raise failure(libvirt.VIR_ERR_INVALID_ARG)
        return real(self, flags)

    monkeypatch.setattr(FakeLibvirt, "listAllDomains", refuse)

    assert host.says() == []


def test_malformed(host: Host) -> None:
    """A document or an image that makes no sense is a warning, with what it says before that counting."""
    host.define("cut", definition(host.path)[:-10])
    deep = f"{'<a>' * 249}{'</a>' * 249}</virtomate:clone>"
    text = definition(record=record_of(OTHER)).replace("</virtomate:clone>", deep)
    host.define("deep", text, uuid=OTHER)
    for name in ("a", "b", "c"):
        host.path.with_name(name).write_bytes(b"QFI\xfb" + b"\xff" * 600)

    assert host.says() == ["domain 'cut' uses it"]
    warnings = host.warns()
    assert "the definition of domain 'cut' is not well-formed XML" in warnings
    assert "the record of virtomate in the definition of domain 'deep' is nested too deeply" in warnings
    assert " and 1 more (malformed image header" in warnings


@pytest.mark.timeout(60)
def test_nothing_is_waited_for(host: Host) -> None:
    """Neither a pipe nor a file of the kernel's stops the look, wherever it stands."""
    os.mkfifo(host.path.with_name("pipe"))
    host.define("other", definition(host.path.with_name("pipe"), "/dev/tty", "/proc/kmsg", "/proc/self/mem", "/"))
    write_qcow2(host.path.with_name("over"), "pipe")

    assert host.says() == []
    assert host.warns() == ""


def counted_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have every file that is opened noted."""
    opened: list[str] = []
    real_open = os.open

    def open_(path: str, *arguments: int) -> int:
        opened.append(path)
        return real_open(path, *arguments)

    monkeypatch.setattr(os, "open", open_)
    return opened


def test_second_look_is_cheap(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is the same is not read again, and what has changed is."""
    over = write_qcow2(host.path.with_name("over"))
    for path in (over, host.path):
        os.utime(path, (1, 1))
    cache = ReferenceCache()
    monkeypatch.setattr(
        "virtomate.services.storage.references.documents.time.time_ns", lambda: over.stat().st_ctime_ns + 10**10
    )
    opened = counted_reads(monkeypatch)
    host.scan(cache)
    assert str(over) in opened
    opened.clear()

    assert host.scan(cache).users(host.made) == ()
    assert opened == []

    write_qcow2(over, host.path)
    # it has been written too recently to be sure that it will not be written again within the same moment
    monkeypatch.setattr(
        "virtomate.services.storage.references.documents.time.time_ns", lambda: over.stat().st_ctime_ns + 10**8
    )
    for _ in range(2):
        opened.clear()
        assert [user.path for user in host.scan(cache).users(host.made)] == [str(over)]
        assert str(over) in opened


def test_directory_of_another_host(host: Host) -> None:
    """A directory here with other files than the daemon's says nothing; libvirt tells what is in its own."""
    theirs = host.root / "theirs"
    shutil.copytree(host.path.parent, theirs)
    write_qcow2(theirs / "over")
    host.pool.says = str(host.path.parent)
    host.pool.directory = theirs
    host.pool.backing["over"] = str(host.path)
    # here it is the clone's volume, there it is not
    host.path.with_name("plain").symlink_to(host.path)
    (theirs / "plain").touch()
    host.pool.known = {"over", "plain", host.path.name}
    host.define("other", definition(host.path.with_name("over")))
    host.define("unrelated", definition(host.path.with_name("plain")))

    assert host.says() == ["'/pool/over' of domain 'other' rests on it"]

    # what is there of it is the same, but not all is there
    (theirs / "clone.qcow2").unlink()
    os.link(host.path, theirs / "clone.qcow2")
    assert host.says() == ["'/pool/over' of domain 'other' rests on it"]

    # with the same names, but not the same files
    (theirs / "clone.qcow2").unlink()
    write_qcow2(theirs / "clone.qcow2")
    write_qcow2(host.path.with_name("over"))
    os.utime(theirs / "over", (1, 1))
    os.utime(theirs / "clone.qcow2", (1, 1))
    assert host.says() == ["'/pool/over' of domain 'other' rests on it"]


@pytest.mark.parametrize("is_daemons", [True, False])
def test_pool_that_libvirt_does_not_list(host: Host, is_daemons: bool) -> None:
    """A few files tell whether a directory is the daemon's, if libvirt does not list all."""
    over = write_qcow2(host.path.with_name("over"), host.path)
    host.pool.is_too_large = True
    if not is_daemons:
        host.pool.directory = host.outside
        host.pool.says = str(host.path.parent)
        host.pool.known = {"clone.qcow2", "over"}
        for name in host.pool.known:
            write_qcow2(host.outside / name)

    references = host.scan()

    is_seen = [user.path for user in references.users(host.made)] == [str(over)]
    assert (is_seen, bool(references.warnings)) == (is_daemons, not is_daemons)


def test_empty_directory_here_of_a_pool_that_libvirt_does_not_list(host: Host) -> None:
    """Where the pool has many files, an empty directory of that name is another one, and libvirt is asked."""
    theirs = host.root / "theirs"
    host.path.parent.rename(theirs)
    host.path.parent.mkdir()
    write_qcow2(theirs / "over")
    host.pool.directory, host.pool.says = theirs, str(host.path.parent)
    host.pool.known = {"clone.qcow2", "over"}
    host.pool.backing["over"] = str(host.path)
    host.pool.is_too_large = True
    host.define("other", definition(host.path.with_name("over")))

    assert host.says() == ["'/pool/over' of domain 'other' rests on it"]


def test_far_host(far: Host) -> None:
    """Where no file is seen, a fresh look of libvirt's tells what rests on what."""
    write_qcow2(far.path.with_name("over"))
    far.pool.backing["over"] = "clone.qcow2"
    far.define("other", definition(far.path.with_name("over")))

    assert far.says() == ["'/pool/over' of domain 'other' rests on it"]
    assert far.pool.refreshed == 1
    assert far.warns() == ""


def test_far_broken_volume(far: Host) -> None:
    """One volume that libvirt cannot describe is a warning."""
    far.path.with_name("broken").touch()
    far.pool.broken.add("broken")
    far.define("other", definition(far.path))

    assert far.says() == ["domain 'other' uses it"]
    assert "cannot read '/pool/broken' (" in far.warns()


def test_far_pool_that_libvirt_does_not_list(far: Host) -> None:
    """Of a pool with too many volumes, only those are known that definitions name, and a warning says so."""
    for name in ("over", "unnamed"):
        write_qcow2(far.path.with_name(name))
        far.pool.backing[name] = "clone.qcow2"
    far.define("other", definition(far.path.with_name("over")))
    far.pool.is_too_large = True

    assert far.says() == ["'/pool/over' of domain 'other' rests on it"]
    assert "storage pool 'pool' has more volumes than libvirt lists (16384)" in far.warns()


def test_far_record_in_a_pool_that_libvirt_does_not_list(far: Host) -> None:
    """A volume that no definition names may be there."""
    far.pool.is_too_large = True
    base = far.path.with_name("lost.qcow2")
    record = record_of(OTHER, volume_of(base, "pool"))
    far.define("linked", definition(record=record), uuid=OTHER)

    assert [user.kind for user in far.scan().users(far.made)] == [ReferenceKind.RECORD]


def test_far_link_to_the_directory(far: Host) -> None:
    """A path that libvirt does not know may lead to the volume, if it has its name."""
    far.define("other", definition("/link/clone.qcow2"))
    far.define("unrelated", definition("/link/else.qcow2"))

    assert far.says() == ["domain 'other' names '/link/clone.qcow2', which cannot be seen and may be the same file"]
    assert "cannot read '/link/clone.qcow2' and '/link/else.qcow2' (it is in no active storage pool)" in far.warns()


def test_far_device(far: Host) -> None:
    """A device that is not seen is named as one, whatever pool it is in: libvirt's directories do not tell that."""
    far.define("other", definition("/dev/disk/by-path/lun-1"))

    assert far.says() == []
    assert "cannot read '/dev/disk/by-path/lun-1' (it is a block device)" in far.warns()


def test_far_pool_over_a_link(far: Host) -> None:
    """Volumes of two pools that agree in name, length and times are one file."""
    far.outside.joinpath("link").symlink_to(far.path.parent)
    far.libvirt.pools.append(FakePool("again", far.outside / "link"))
    far.define("other", definition(extra="<disk><source pool='again' volume='clone.qcow2'/></disk>"))
    assert far.says() == ["domain 'other' uses it"]

    far.outside.joinpath("link").unlink()
    far.outside.joinpath("link").mkdir()
    write_qcow2(far.outside / "link" / "clone.qcow2")
    assert far.says() == []


def test_far_record_of_a_linked_clone(far: Host) -> None:
    """A linked clone whose volume cannot be looked at uses its base; one whose volume is gone does not."""
    record = record_of(OTHER, volume_of(far.outside / "over.qcow2", "else"))
    far.define("linked", definition(far.outside / "over.qcow2", record=record), uuid=OTHER)
    assert [user.kind for user in far.scan().users(far.made)] == [ReferenceKind.RECORD]

    far.libvirt.pools.append(FakePool("else", far.outside))
    assert far.says() == []

    write_qcow2(far.outside / "over.qcow2")
    far.libvirt.pools[-1].backing["over.qcow2"] = str(far.path)
    assert far.says() == ["'/outside/over.qcow2' of domain 'linked' rests on it"]

    # libvirt lists the volume, and cannot describe it
    far.libvirt.pools[-1].broken.add("over.qcow2")
    assert [user.kind for user in far.scan().users(far.made)] == [ReferenceKind.RECORD]


def test_loose_name_below(far: Host) -> None:
    """An image may rest on the volume by a path that libvirt does not know; if it certainly does, that is said."""
    write_qcow2(far.path.with_name("over"))
    far.pool.backing["over"] = "/link/clone.qcow2"

    (user,) = far.scan().users(far.made)

    assert user.kind is ReferenceKind.MAY_NAME
    assert "rests on '/link/clone.qcow2', which cannot be seen and may be the same file" in user.says

    far.pool.active = False
    far.pool.says = "/elsewhere"
    far.made = volume_of("/link/clone.qcow2")
    far.libvirt.pools.append(FakePool("other", far.path.parent, backing={"over": "/link/clone.qcow2"}))
    assert far.says() == ["'/pool/over' rests on it"]


def test_refresh_that_fails(far: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """While something is being built libvirt does not look anew; then images that are named are read through it."""
    over = write_qcow2(far.path.with_name("over"), far.path)
    far.pool.known = {"over", far.path.name}
    far.pool.can_refresh = False
    far.pool.backing["over"] = "/what/libvirt/remembers"
    far.define("other", definition(over))

    def read_head(_connection: object, volume: Volume, length: int) -> bytes:
        assert length == LONG_HEADER_BYTES
        return far.path.with_name(volume.name).read_bytes()

    monkeypatch.setattr("virtomate.services.storage.references.chains.read_head", read_head)

    assert far.says() == ["'/pool/over' of domain 'other' rests on it"]


@pytest.mark.parametrize("uri", [LOCAL, REMOTE])
def test_other_kinds_of_pools(tmp_path: Path, uri: str) -> None:
    """Pools without files are not looked through."""
    host = Host(tmp_path, FakeLibvirt(uri))
    for kind in ("rbd", "iscsi", "disk", "mpath"):
        host.libvirt.pools.append(FakePool(kind, tmp_path / "none", says="/dev", type=kind))

    assert host.says() == []
    assert host.warns() == ""


def test_far_device_under_another_name(far: Host) -> None:
    """The device mapper has a name of its own for a logical volume, and libvirt does not know that name."""
    far.pool.type, far.pool.says = "logical", "/dev/a-b"
    far.made = volume_of("/dev/a-b/clone", "pool")
    far.define("other", definition("/dev/mapper/a--b-clone"))
    far.define("unrelated", definition("/dev/mapper/a-b--clone"))

    assert far.says() == ["domain 'other' uses it"]


def test_far_device_by_its_uuid(far: Host) -> None:
    """A link with the UUID of a logical volume leads to that volume; other names of devices leave doubts."""
    key = "abcdef-GHIJ-klmn-OPQR-stuv-WXYZ-012345"
    links = [f"/dev/disk/by-id/dm-uuid-LVM-{'v' * 32}{text.replace('-', '')}" for text in (key, key[:-1] + "6")]
    far.pool.type, far.pool.says = "logical", "/dev/a-b"
    far.made = volume_of("/dev/a-b/clone", "pool")._replace(fingerprint=Fingerprint(None, key=key))
    far.define("other", definition(links[0]))
    far.define("unrelated", definition(links[1]))
    far.define("nameless", definition("/dev/dm-3"))
    far.define("disk", definition("/dev/sdb"))

    assert far.says() == [
        "domain 'other' uses it",
        "domain 'nameless' names '/dev/dm-3', which cannot be seen and may be the same device",
    ]
