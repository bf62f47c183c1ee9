"""The making of volumes, as a table of what goes wrong: nothing of others' is touched, and nothing is left but told.

Directories and files are real, so that tokens and the host transfer are; libvirt is as narrow as what is asked of it.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import libvirt
import pytest

from tests.duplication.volumes import described
from tests.services.storage.fakes import LOCAL, FakePool, FakeVolume
from tests.services.transaction.fakes import FakeHost, Fault, error
from tests.services.transaction.test_claim import LIKE, NAME, OTHER_UUID, UUID, record_of
from virtomate.cancel import CancelToken
from virtomate.definition.provenance import DomainReference
from virtomate.duplication import hostfs
from virtomate.duplication.transfers.base import Duplication, Place
from virtomate.enums import Action, ArtifactKind, ArtifactState, Mode, Transfer
from virtomate.errors import ConflictError, HypervisorError, UnsupportedError, VirtomateError
from virtomate.notices import CloneWarning, Notice
from virtomate.output.messages import sentences
from virtomate.progress import Progress
from virtomate.rollback import Rollback
from virtomate.services.transaction import Run
from virtomate.services.transaction.claim import Claim, new_journal, release_unless_needed
from virtomate.services.transaction.fill import Filled, create_volumes, fill_volumes
from virtomate.services.transaction.jobs import VolumeJob, duplicating

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONTENT = b"content of the original" * 1000


class MakingPool(FakePool):
    """A pool in which volumes are made and deleted; each of its calls can go wrong."""

    host: MakingHost

    def createXML(self, text: str, _flags: int) -> FakeVolume:  # noqa: N802 - libvirt's name
        """Make an empty file."""
        (name,) = re.findall("<name>(.*?)</name>", text)
        return cast("FakeVolume", self.host.call("create", lambda: self._make(name)))

    def _make(self, name: str) -> FakeVolume:
        path = self.directory / name
        if path.exists():
            raise error(libvirt.VIR_ERR_STORAGE_VOL_EXIST)
        path.write_bytes(b"")
        self.known = {*(self.known or ()), name}
        return MadeVolume(self, name)

    def storageVolLookupByName(self, name: str) -> FakeVolume:  # noqa: N802 - libvirt's name
        """Find a volume that can be deleted."""
        return MadeVolume(self, super().storageVolLookupByName(name).title)


class MadeVolume(FakeVolume):
    """A volume that can be deleted."""

    def delete(self, _flags: int) -> None:
        """Delete the file."""
        pool = cast("MakingPool", self.pool)
        pool.host.call("delete", (pool.directory / self.title).unlink)

    def XMLDesc(self, flags: int) -> str:  # noqa: N802 - libvirt's name
        """Describe it as raw."""
        return super().XMLDesc(flags).replace("type='qcow2'", "type='raw'")


@dataclass
class MakingHost(FakeHost):
    """A host with domains and a pool."""

    pools: list[FakePool] = field(default_factory=list)

    def getURI(self) -> str:  # noqa: N802 - libvirt's name
        """Be on this host."""
        return LOCAL

    def isAlive(self) -> bool:  # noqa: N802 - libvirt's name
        """Stay connected."""
        return True

    def storagePoolLookupByName(self, name: str) -> FakePool:  # noqa: N802 - libvirt's name
        """Find the pool."""
        for pool in self.pools:
            if pool.title == name:
                return pool
        raise error(libvirt.VIR_ERR_NO_STORAGE_POOL)


@dataclass
class Making:
    """A clone with two disks that is being made."""

    host: MakingHost
    directory: Path
    run: Run
    claim: Claim
    jobs: tuple[VolumeJob, ...]
    undo: Rollback

    def make(self) -> dict[str, Filled]:
        """Create all volumes, then fill all."""
        volumes = create_volumes(self.run, self.jobs, self.claim, self.undo)
        with ThreadPoolExecutor(2) as transfers:
            return fill_volumes(self.run, volumes, transfers)

    @property
    def files(self) -> dict[str, bytes]:
        """What is in the pool beside the originals."""
        return {path.name: path.read_bytes() for path in self.directory.iterdir() if path.name.startswith(NAME)}


@pytest.fixture
def making(tmp_path: Path) -> Making:
    """A claim that has been taken, and two disks to be copied."""
    host = MakingHost()
    jobs = []
    for disk in ("a", "b"):
        (tmp_path / f"original-{disk}.raw").write_bytes(CONTENT)
    pool = MakingPool("p", tmp_path)
    pool.host = host
    host.pools = [pool]
    for disk in ("a", "b"):
        way = Duplication(
            label=disk,
            kind=ArtifactKind.VOLUME,
            source=described(tmp_path / f"original-{disk}.raw"),
            place=Place("p", "p", str(tmp_path), f"{NAME}-{disk}.raw"),
            action=Action.COPIED,
            transfers=(Transfer.HOST,),
            below=(),
            keep_owner=True,
            is_read_again=False,
        )
        jobs.append(duplicating(way))
    session = host.session
    session.borrow = lambda: nullcontext(session.connection)
    planned = tuple(job.planned() for job in jobs)
    journal = new_journal(UUID, DomainReference("original", OTHER_UUID), Mode.COPY, planned)
    claim = Claim(session, NAME, journal, LIKE.domain)
    undo = Rollback()
    undo.push(f"domain '{NAME}', an unfinished clone", lambda: release_unless_needed(claim, undo))
    claim.take()
    return Making(host, tmp_path, Run(session, session, Progress(), CancelToken()), claim, tuple(jobs), undo)


def test_volumes_that_are_made_and_undone(making: Making) -> None:
    """Both are created before either is filled, both bear the token, and the undo leaves neither, nor the claim."""
    making.make()

    assert making.files == {f"{NAME}-a.raw": CONTENT, f"{NAME}-b.raw": CONTENT}
    assert [made.state for made in making.claim.provenance.made] == [ArtifactState.MADE, ArtifactState.MADE]
    assert making.undo.run() == ()
    assert making.files == {}
    assert making.host.domains == []


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("fault", Fault)
def test_volume_that_cannot_be_created(making: Making, number: int, fault: Fault) -> None:
    """Whether libvirt had made the file when it failed, and whichever disk it was, nothing stays."""
    making.host.faults["create", number] = fault

    with pytest.raises(HypervisorError):
        making.make()

    assert making.undo.run() == ()
    assert making.files == {}
    assert making.host.domains == []


@pytest.mark.parametrize("disk", ["a", "b"])
def test_name_that_is_taken(making: Making, disk: str) -> None:
    """A file that has the name stays, and what was made beside it goes."""
    path = making.directory / f"{NAME}-{disk}.raw"
    path.write_bytes(b"somebody's")

    with pytest.raises(ConflictError):
        making.make()

    assert making.undo.run() == ()
    assert making.files == {path.name: b"somebody's"}
    assert making.host.domains == []


def _replaced(making: Making) -> Callable[[object], object]:
    def replace(_host: object) -> None:
        path = making.directory / f"{NAME}-a.raw"
        path.unlink()
        path.write_bytes(b"somebody's")

    return replace


def test_file_that_others_put_in_the_place_of_a_new_one(making: Making) -> None:
    """What is not certainly ours is left and told, and the claim stays with the record of it."""
    making.host.meanwhile["create", 0] = _replaced(making)

    with pytest.raises(ConflictError, match="another file"):
        making.make()
    leftovers = sentences(making.undo.run())

    assert making.files == {f"{NAME}-a.raw": b"somebody's"}
    assert [leftover.partition(" (")[0] for leftover in leftovers] == [
        f"volume '{making.directory}/{NAME}-a.raw'",
        f"domain '{NAME}', an unfinished clone",
    ]
    record = record_of(making.host)
    assert record is not None
    assert len(record.made) == len(making.jobs)


def test_file_that_others_put_in_the_place_of_a_full_one(making: Making) -> None:
    """The same when the copy was there already: the token of the new file, which is missing, decides."""
    making.make()
    _replaced(making)(None)

    leftovers = sentences(making.undo.run())

    assert making.files == {f"{NAME}-a.raw": b"somebody's"}
    assert len(leftovers) == len(making.jobs)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(("fault", "times"), [(Fault.REFUSED, 1), (Fault.LOST, 3)])
def test_volume_that_cannot_be_deleted(making: Making, number: int, fault: Fault, times: int) -> None:
    """The undo goes on with the others, and the claim stays as the record of what is left."""
    making.make()
    making.host.faults |= {("delete", number + attempt): fault for attempt in range(times)}

    leftovers = sentences(making.undo.run())

    assert len(leftovers) == 2
    assert leftovers[-1].startswith(f"domain '{NAME}'")
    assert len(making.files) == 1
    assert record_of(making.host) is not None


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("fault", [Fault.LOST, Fault.CARRIED_OUT])
def test_volume_that_is_deleted_at_the_second_attempt(making: Making, number: int, fault: Fault) -> None:
    """Where the connection breaks, another one shows whether there is still something to delete."""
    making.make()
    making.host.faults["delete", number] = fault

    assert making.undo.run() == ()
    assert making.files == {}
    assert record_of(making.host) is None


def test_reflink_that_turns_out_to_be_impossible(making: Making, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a copy will do as well, it is made instead of the reflink; where it will not, nothing is left."""

    def refuse(_target: int, _source: int, path: str) -> None:
        raise UnsupportedError(f"'{path}' has no reflinks")

    monkeypatch.setattr(hostfs, "reflink", refuse)
    copies = [job.way for job in making.jobs if job.way is not None]
    reflinks = [way._replace(action=Action.REFLINKED) for way in copies]
    caution = Notice(CloneWarning.SNAPSHOTS, "a")
    copy = copies[0]._replace(cautions=(caution,), place=copies[0].place._replace(name=""))
    making.jobs = (duplicating(reflinks[0]._replace(otherwise=copy)), duplicating(copies[1]))

    filled = making.make()

    assert making.files == {f"{NAME}-a.raw": CONTENT, f"{NAME}-b.raw": CONTENT}
    done = filled[copies[0].place.path]
    assert done.way is not None
    assert (done.way.action, done.reason, done.warnings) == (
        Action.COPIED,
        f"'{making.directory}/original-a.raw' has no reflinks",
        (caution,),
    )
    making.undo.run()
    making.jobs = (duplicating(reflinks[0]),)
    with pytest.raises(UnsupportedError, match="has no reflinks"):
        making.make()
    assert making.undo.run() == ()
    assert making.files == {}


def test_original_that_is_gone(making: Making) -> None:
    """When one volume cannot be filled, the undo removes both."""
    (making.directory / "original-b.raw").unlink()

    with pytest.raises(VirtomateError):
        making.make()

    assert making.undo.run() == ()
    assert making.files == {}


def test_claim_of_another_run(making: Making) -> None:
    """A run that lost its claim still removes what bears its token, and leaves the other's claim."""
    making.make()
    making.host.domains.clear()

    assert making.undo.run() == ()
    assert making.files == {}
