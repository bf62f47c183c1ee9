"""Libvirt refuses one call of a deletion after the other: what is reported, what is kept, and that nothing is lost."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import libvirt
import pytest

from tests.duplication.volumes import described
from tests.services.storage.fakes import FakeDomain, FakeLibvirt, FakePool, Refusing, definition, failure
from tests.services.storage.images import write_qcow2
from virtomate.cancel import CancelToken
from virtomate.definition import codec
from virtomate.definition.provenance import Artifact, DomainReference, Fingerprint, Provenance, find_provenance
from virtomate.enums import ArtifactKind, ArtifactState, DeletionStatus, Mode, TokenPlace
from virtomate.errors import VirtomateError
from virtomate.hypervisor.connection import Connection
from virtomate.notices import Leftover, Notice
from virtomate.output.messages import sentences
from virtomate.progress import Progress
from virtomate.services.delete import Consent, DeletionResult, Selection, delete_clones, execute_plan, plan_deletion
from virtomate.services.storage.artifacts import put_token

if TYPE_CHECKING:
    from pathlib import Path

    from virtomate.hypervisor.session import Session

WEB = Selection(("web",))
CLONE = "00000000-0000-4000-8000-000000000001"
INTERNAL = libvirt.VIR_ERR_INTERNAL_ERROR
GONE = {"a.qcow2": False, "b.qcow2": False}
WHOLE = dict.fromkeys(GONE, True)


@dataclass
class Host:
    """A host with a clone of two volumes."""

    root: Path
    libvirt: FakeLibvirt = field(default_factory=FakeLibvirt)

    def __post_init__(self) -> None:
        self.directory = self.root / "pool"
        self.directory.mkdir()
        record = Provenance(True, CLONE, "t", DomainReference("src", "s"), Mode.COPY, 1.0, (), mark="m")
        paths = [write_qcow2(self.directory / name) for name in WHOLE]
        made = tuple(map(self._made, paths, [record.artifact_token] * len(paths)))
        self.libvirt.pools.append(FakePool("pool", self.directory))
        text = definition(*paths, record=record._replace(made=made))
        whole = codec.parse_definition(text)
        self.text = codec.unparse_definition(whole._replace(domain={**whole.domain, "name": "web", "uuid": CLONE}))
        self.libvirt.domains.append(FakeDomain("web", self.text, uuid=CLONE, host=self.libvirt))

    def _made(self, path: Path, token: str | None) -> Artifact:
        marked = put_token(described(path), token or "")
        assert marked is not None
        status = path.stat()
        seen = Fingerprint(marked.changed, status.st_ino, None, self.directory.stat().st_ino)
        return Artifact(
            ArtifactKind.VOLUME, ArtifactState.MADE, "pool", path.name, str(path), seen, TokenPlace.ATTRIBUTE
        )

    def session(self, refused: int | str | None = None, code: int = INTERNAL) -> tuple[Session, Refusing]:
        """Return a session of which one call is refused, by its number or its name."""
        handle = Refusing(self.libvirt, refused, failure(code))
        connection = Connection(cast("Any", handle))
        return cast("Session", SimpleNamespace(connection=connection)), handle

    def delete(self, refused: int | str | None = None, code: int = INTERNAL) -> DeletionResult:
        """Plan undisturbed, and have one call of what comes then refused."""
        plan = plan_deletion(self.session()[0].connection, WEB, CancelToken())
        (result,) = execute_plan(self.session(refused, code)[0], plan, Progress(), CancelToken())
        return result

    def calls(self) -> list[str]:
        """Delete the clone, and return the calls that this took after the plan."""
        plan = plan_deletion(self.session()[0].connection, WEB, CancelToken())
        session, handle = self.session()
        (result,) = execute_plan(session, plan, Progress(), CancelToken())
        assert result.status is DeletionStatus.DELETED
        return handle.called

    @property
    def files(self) -> dict[str, bool]:
        """Which of the volumes are there."""
        return {name: self.directory.joinpath(name).exists() for name in WHOLE}

    @property
    def state(self) -> str:
        """What stands in the clone's place."""
        if not self.libvirt.domains:
            return "nothing"
        text = self.libvirt.domains[0].definition
        assert isinstance(text, str)
        record = find_provenance(text, CLONE)
        assert record is not None
        assert {made.volume for made in record.made} == WHOLE.keys()
        if record.finished:
            assert text == self.text
        return "clone" if record.finished else "placeholder"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """The host."""
    return Host(tmp_path)


@pytest.mark.parametrize(
    ("call", "code", "state", "files", "leftovers"),
    [
        pytest.param("delete", INTERNAL, "clone", WHOLE, 0, id="no volume can be deleted: the clone is given back"),
        pytest.param("delete", libvirt.VIR_ERR_NO_STORAGE_VOL, "nothing", WHOLE, 0, id="libvirt knows no volume"),
        pytest.param("undefineFlags", INTERNAL, "placeholder", GONE, 1, id="the placeholder cannot be undefined"),
        pytest.param("defineXMLFlags", INTERNAL, "clone", WHOLE, 0, id="the placeholder cannot be defined"),
        pytest.param("lookupByUUIDString", INTERNAL, "clone", WHOLE, 0, id="the clone cannot be looked up"),
        pytest.param("lookupByUUIDString", libvirt.VIR_ERR_NO_DOMAIN, "clone", WHOLE, 0, id="the clone is gone"),
        pytest.param("isActive", INTERNAL, "clone", WHOLE, 0, id="nobody knows whether the clone runs"),
        pytest.param("listAllDomains", INTERNAL, "clone", WHOLE, 0, id="nobody knows who uses the volumes"),
        pytest.param("storageVolLookupByName", INTERNAL, "clone", WHOLE, 0, id="no volume can be looked up"),
        pytest.param("storagePoolLookupByName", INTERNAL, "clone", WHOLE, 0, id="no pool can be looked up"),
        pytest.param("refresh", INTERNAL, "nothing", GONE, 0, id="a refresh is best effort"),
    ],
)
def test_call_that_is_refused_each_time(
    host: Host, call: str, code: int, state: str, files: dict[str, bool], leftovers: int
) -> None:
    """What could not be removed is kept with its record; where nothing could be removed, the clone is whole."""
    result = host.delete(call, code)

    assert (host.state, host.files) == (state, files)
    assert len(result.error.leftovers if result.error else ()) == leftovers
    assert (result.status is DeletionStatus.DELETED) == (state == "nothing")


@pytest.mark.parametrize("code", [INTERNAL, libvirt.VIR_ERR_OPERATION_FAILED, libvirt.VIR_ERR_OPERATION_INVALID])
def test_each_call_in_turn_is_refused_once(tmp_path: Path, code: int) -> None:
    """Nothing is lost: a file that is left has a record, and the next run removes all of it."""
    whole = tmp_path / "whole"
    whole.mkdir()
    for number, name in enumerate(Host(whole).calls(), start=1):
        root = tmp_path / str(number)
        root.mkdir()
        host = Host(root)
        result = host.delete(number, code)
        where = f"call {number}, {name}: {host.state}, {host.files}, {result}"
        assert (result.error is None) == (host.state == "nothing"), where
        assert host.state != "nothing" or host.files == GONE, where
        assert host.state != "clone" or host.files == WHOLE, where
        assert {f"volume '{host.directory / file}'" for file, is_there in host.files.items() if not is_there} == set(
            result.removed
        ), where
        if host.state == "placeholder":
            assert result.error is not None
            told = sentences(result.error.leftovers)
            assert any("domain 'web', an unfinished clone" in item for item in told), where
        if host.state != "nothing":
            # as that of a process that is gone: this one may still be at work
            _end_owner(host)
            again = host.delete()
            assert again.error is None, (where, again)
            assert (host.state, host.files) == ("nothing", GONE), where


def test_placeholder_is_gone_although_libvirt_failed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the connection breaks during the last call, a look tells whether anything is left."""
    undefine = FakeDomain.undefineFlags

    def undefine_and_fail(domain: FakeDomain, flags: int) -> None:
        undefine(domain, flags)
        raise failure(INTERNAL)

    monkeypatch.setattr(FakeDomain, "undefineFlags", undefine_and_fail)
    result = host.delete()

    assert (result.status, result.error) == (DeletionStatus.DELETED, None)
    assert (host.state, host.files) == ("nothing", GONE)


@pytest.mark.parametrize("call", ["pools.get_pool", "temporary_pools.list_pools"])
def test_mistake_after_the_deletions(host: Host, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails when everything is deleted hides no result."""
    plan = plan_deletion(host.session()[0].connection, WEB, CancelToken())
    session = host.session()[0]

    def fail(*_words: object) -> None:
        raise RuntimeError("mistake")

    monkeypatch.setattr(f"virtomate.services.storage.{call}", fail)
    (result,) = execute_plan(session, plan, Progress(), CancelToken())

    assert (result.status, host.state, host.files) == (DeletionStatus.DELETED, "nothing", GONE)


def _end_owner(host: Host) -> None:
    """Have the placeholder's owner be a process that is gone."""
    (domain,) = host.libvirt.domains
    assert isinstance(domain.definition, str)
    domain.definition = domain.definition.replace('started="', 'started="9')


def _leave_placeholder(host: Host, monkeypatch: pytest.MonkeyPatch) -> DeletionResult:
    """Have a deletion fail that then cannot give the definition back, and its process end."""
    refusing = failure(libvirt.VIR_ERR_OPERATION_INVALID)
    plan = plan_deletion(host.session()[0].connection, WEB, CancelToken())
    defined = host.libvirt.defineXMLFlags

    def define_once(text: str, flags: int) -> FakeDomain:
        if 'state="finished"' in text:
            raise refusing
        return defined(text, flags)

    with monkeypatch.context() as patch:
        patch.setattr(host.libvirt, "defineXMLFlags", define_once)
        (result,) = execute_plan(host.session("delete")[0], plan, Progress(), CancelToken())
    assert (host.state, host.files) == ("placeholder", WHOLE)
    _end_owner(host)
    return result


def test_definition_that_is_not_taken_back(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The placeholder holds the definition, and the next run restores it before it asks."""
    result = _leave_placeholder(host, monkeypatch)

    assert result.error is not None
    assert result.error.leftovers[-1] == Notice(Leftover.PLACEHOLDER, "web")
    asked = []

    def refuse(plan: object) -> bool:
        asked.append(plan)
        return False

    answer = delete_clones(host.session()[0], WEB, Progress(), CancelToken(), agree=refuse, warn=lambda _warnings: None)
    assert (answer, len(asked)) == (None, 1)
    assert (host.state, host.files) == ("clone", WHOLE)


def test_refused_deletion_tells_of_the_definition_that_it_restored(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody wonders why a clone is complete again, though its deletion was refused for another domain's sake."""
    _leave_placeholder(host, monkeypatch)
    warned: list[Notice] = []

    with pytest.raises(VirtomateError, match="'missing'"):
        delete_clones(
            host.session()[0],
            Selection(("web", "missing")),
            Progress(),
            CancelToken(),
            consent=Consent(finished=True, unproved=True),
            agree=lambda _plan: True,
            warn=warned.extend,
        )

    assert sentences(warned) == ["'web' has its definition back, which an interrupted deletion had put aside"]
    assert (host.state, host.files) == ("clone", WHOLE)


@pytest.mark.parametrize(
    ("consent", "answer", "questions", "state"),
    [
        pytest.param(Consent(), False, 1, "clone", id="nobody agrees"),
        pytest.param(Consent(), True, 1, "nothing", id="somebody agrees"),
        pytest.param(Consent(finished=True), False, 0, "nothing", id="nobody needs to be asked"),
    ],
)
def test_question(host: Host, consent: Consent, answer: bool, questions: int, state: str) -> None:
    """A finished clone is asked for once, unless consent was given before."""
    asked = []

    def agree(plan: object) -> bool:
        asked.append(plan)
        return answer

    session = host.session()[0]
    delete_clones(
        session,
        WEB,
        Progress(),
        CancelToken(),
        consent=consent,
        agree=agree,
        warn=lambda _warnings: None,
    )

    assert (len(asked), host.state) == (questions, state)


def test_clone_that_changes_during_the_question(host: Host) -> None:
    """What was agreed to is not what would be deleted."""

    def agree(_plan: object) -> bool:
        host.libvirt.domains[0].saved = "<domain/>"
        return True

    with pytest.raises(VirtomateError, match="changed since the question"):
        delete_clones(host.session()[0], WEB, Progress(), CancelToken(), agree=agree, warn=lambda _warnings: None)

    assert (host.state, host.files) == ("clone", WHOLE)
