"""What is proved of the file at an artifact's place, case by case; nothing else lets a file be removed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.duplication.volumes import RAW, described
from virtomate.definition.provenance import Artifact, Fingerprint
from virtomate.enums import ArtifactKind, ArtifactState, TokenPlace, Transfer
from virtomate.services.storage.artifacts import Verdict, bears_token_here, judge, judge_outside_pools
from virtomate.services.storage.artifacts.looking import ATTRIBUTE, put_token
from virtomate.services.storage.artifacts.proof import Sighting, may_be_named

TOKEN = "11111111-2222-4333-8444-555555555555:0123456789abcdef"
OTHER = "99999999-2222-4333-8444-555555555555:0123456789abcdef"

THEN = Fingerprint("1767225600", inode=7, birth_time=70, directory=2)
MADE = Artifact(
    ArtifactKind.VOLUME,
    ArtifactState.MADE,
    "p",
    "a.raw",
    "/p/a.raw",
    THEN,
    TokenPlace.ATTRIBUTE,
    transfer=Transfer.HOST,
)
PLANNED = MADE._replace(state=ArtifactState.PLANNED, fingerprint=None, token_place=None)
OVERLAY = MADE._replace(transfer=Transfer.LINK, token_place=TokenPlace.HEADER, fingerprint=Fingerprint("1767225600"))
SEED = OVERLAY._replace(kind=ArtifactKind.SEED, transfer=None)
UNSEEN = MADE._replace(token_place=None, fingerprint=Fingerprint("1767225600", file_system_bytes=100))

SEEN = Sighting(RAW, is_seen=True, attribute=TOKEN, header=None, fingerprint=THEN)
BARE = SEEN._replace(attribute=None)
FAR = BARE._replace(is_seen=False, fingerprint=Fingerprint("1767225700"))
NOTHING = Sighting(None, is_seen=False, attribute=None, header=None, fingerprint=Fingerprint(None, directory=2))
EMPTY = RAW._replace(physical=0)
KEYED = UNSEEN._replace(fingerprint=Fingerprint(None, key="a1"))
DEVICE = Sighting(RAW._replace(type="block"), fingerprint=Fingerprint(None, key="a1"))


@pytest.mark.parametrize(
    ("made", "sighting", "verdict"),
    [
        pytest.param(MADE, SEEN, Verdict.PROVED, id="it bears the token"),
        pytest.param(PLANNED, SEEN, Verdict.PROVED, id="killed before the journal had it, and it bears the token"),
        pytest.param(OVERLAY, FAR._replace(header=TOKEN), Verdict.PROVED, id="an overlay bears it in its header"),
        pytest.param(PLANNED, FAR._replace(header=TOKEN), Verdict.PROVED, id="likewise before the journal had it"),
        pytest.param(MADE, SEEN._replace(attribute=OTHER), Verdict.FOREIGN, id="made for another clone"),
        pytest.param(UNSEEN, SEEN._replace(attribute=OTHER), Verdict.FOREIGN, id="made for another, seen only now"),
        pytest.param(MADE, BARE, Verdict.FOREIGN, id="put in its place, though the inode is given again"),
        pytest.param(OVERLAY, FAR, Verdict.FOREIGN, id="put in an overlay's place"),
        pytest.param(OVERLAY, FAR._replace(header=OTHER), Verdict.FOREIGN, id="another's overlay"),
        pytest.param(
            UNSEEN, FAR._replace(header=OTHER), Verdict.UNPROVED, id="a copy has the header of what it was copied from"
        ),
        pytest.param(
            MADE,
            SEEN._replace(fingerprint=THEN._replace(inode=8)),
            Verdict.UNPROVED,
            id="a copy of it, made with its attributes",
        ),
        pytest.param(
            MADE, BARE._replace(fingerprint=THEN._replace(birth_time=71)), Verdict.FOREIGN, id="born at another time"
        ),
        pytest.param(UNSEEN, FAR, Verdict.UNPROVED, id="no token can be read from here"),
        pytest.param(
            UNSEEN,
            FAR._replace(fingerprint=Fingerprint("1767225599")),
            Verdict.FOREIGN,
            id="it has not changed since before ours was made",
        ),
        pytest.param(MADE, FAR, Verdict.UNPROVED, id="made where it was seen, deleted from afar"),
        pytest.param(
            MADE._replace(token_place=None), BARE, Verdict.UNPROVED, id="made by a version that had no tokens"
        ),
        pytest.param(PLANNED, BARE, Verdict.FOREIGN, id="a line that only plans proves nothing"),
        pytest.param(PLANNED, FAR, Verdict.FOREIGN, id="nor does it over a connection"),
        pytest.param(PLANNED, BARE._replace(volume=EMPTY), Verdict.EMPTY, id="killed before the first byte"),
        pytest.param(PLANNED, BARE._replace(is_blank=True), Verdict.EMPTY, id="likewise, and its space is reserved"),
        pytest.param(
            PLANNED._replace(transfer=Transfer.BACKUP), BARE._replace(is_blank=True), Verdict.EMPTY, id="for a backup"
        ),
        pytest.param(MADE, BARE._replace(is_blank=True), Verdict.FOREIGN, id="a blank file in its place"),
        pytest.param(
            PLANNED._replace(transfer=Transfer.STREAM), FAR, Verdict.UNPROVED, id="reserved where it cannot be read"
        ),
        pytest.param(PLANNED._replace(transfer=Transfer.STREAM), BARE, Verdict.FOREIGN, id="read, and not blank"),
        pytest.param(OVERLAY, FAR._replace(volume=EMPTY), Verdict.EMPTY, id="an overlay before its header"),
        pytest.param(MADE, BARE._replace(volume=EMPTY), Verdict.FOREIGN, id="an empty file in its place"),
        pytest.param(
            PLANNED._replace(transfer=Transfer.SERVER), BARE, Verdict.UNPROVED, id="half a copy of libvirt's, perhaps"
        ),
        pytest.param(
            MADE, SEEN._replace(volume=RAW._replace(path="/q/a.raw")), Verdict.FOREIGN, id="the pool is another one"
        ),
        pytest.param(SEED, FAR._replace(header=TOKEN), Verdict.PROVED, id="a seed that is read over a connection"),
        pytest.param(SEED, FAR._replace(header=OTHER), Verdict.FOREIGN, id="the seed of another clone"),
        pytest.param(SEED, FAR, Verdict.FOREIGN, id="no seed of any clone"),
        pytest.param(SEED._replace(token_place=None), FAR, Verdict.UNPROVED, id="a seed that was not written, perhaps"),
        pytest.param(MADE._replace(volume=None), SEEN, Verdict.FOREIGN, id="a line that names no volume"),
        pytest.param(
            MADE._replace(volume="b.raw"), SEEN, Verdict.FOREIGN, id="a line whose volume is not what its path names"
        ),
        pytest.param(MADE, NOTHING, Verdict.GONE, id="deleted by hand"),
        pytest.param(PLANNED, NOTHING._replace(fingerprint=None), Verdict.GONE, id="never made"),
        pytest.param(
            MADE,
            NOTHING._replace(fingerprint=Fingerprint(None, directory=3)),
            Verdict.AWAY,
            id="its file system is not mounted",
        ),
        pytest.param(
            UNSEEN,
            NOTHING._replace(fingerprint=Fingerprint(None, file_system_bytes=99)),
            Verdict.AWAY,
            id="likewise over a connection",
        ),
        pytest.param(KEYED, DEVICE, Verdict.PROVED, id="a logical volume with the UUID of what was made"),
        pytest.param(
            KEYED,
            DEVICE._replace(fingerprint=Fingerprint(None, key="b2")),
            Verdict.FOREIGN,
            id="a logical volume that was made anew",
        ),
        pytest.param(
            KEYED,
            DEVICE._replace(fingerprint=Fingerprint(None)),
            Verdict.FOREIGN,
            id="a device that has no key",
        ),
        pytest.param(
            KEYED._replace(fingerprint=Fingerprint(None)),
            DEVICE._replace(fingerprint=Fingerprint(None)),
            Verdict.UNPROVED,
            id="neither has a key",
        ),
        pytest.param(PLANNED, DEVICE, Verdict.UNPROVED, id="a device that was about to be made"),
        pytest.param(
            PLANNED,
            DEVICE._replace(volume=RAW._replace(type="block", physical=0)),
            Verdict.UNPROVED,
            id="a device of which libvirt does not know the size",
        ),
    ],
)
def test_verdict(made: Artifact, sighting: Sighting, verdict: Verdict) -> None:
    """Only the clone's own token on the very file proves it; what is certainly another's is never in doubt."""
    assert judge(made, TOKEN, sighting).verdict is verdict


def test_record_without_token_proves_nothing() -> None:
    """No file can bear the token of a record that has none."""
    for sighting in (SEEN, BARE, FAR):
        assert judge(MADE, None, sighting).verdict is not Verdict.PROVED


def test_reason_goes_with_what_is_not_proved() -> None:
    """Whoever has to decide, or finds a file left alone, is told why."""
    assert judge(MADE, TOKEN, SEEN).reason == ""
    assert judge(UNSEEN, TOKEN, FAR).reason
    assert judge(MADE, TOKEN, BARE).reason


@pytest.fixture
def nvram(tmp_path: Path) -> Artifact:
    """An NVRAM that cloning made, in a directory that is no storage pool."""
    path = tmp_path / "web_VARS.fd"
    path.write_bytes(b"variables")
    volume = described(path)
    assert put_token(volume, TOKEN) is not None
    status = path.stat()
    seen = Fingerprint(volume.changed, status.st_ino, None, tmp_path.stat().st_ino)
    return Artifact(ArtifactKind.NVRAM, ArtifactState.MADE, "gone", path.name, str(path), seen, TokenPlace.ATTRIBUTE)


def test_nvram_outside_pools_is_proved_by_its_token_alone(nvram: Artifact) -> None:
    """Wherever it is: libvirt need not be asked, and no storage pool is started to look at it."""
    assert bears_token_here(nvram, TOKEN)
    assert judge_outside_pools(nvram, TOKEN, frozenset(), is_local=True).verdict is Verdict.PROVED
    assert judge_outside_pools(nvram, OTHER, frozenset(), is_local=True).verdict is Verdict.FOREIGN
    assert judge_outside_pools(nvram, None, frozenset(), is_local=True).verdict is Verdict.FOREIGN


def test_nvram_outside_pools_that_was_restored_from_a_copy(nvram: Artifact, tmp_path: Path) -> None:
    """`cp -a` copies the token along, so the file is not said to lack the token."""
    assert nvram.fingerprint is not None
    original = nvram._replace(fingerprint=nvram.fingerprint._replace(inode=1))

    inside = judge_outside_pools(original, TOKEN, frozenset({str(tmp_path)}), is_local=True)
    elsewhere = judge_outside_pools(original, TOKEN, frozenset(), is_local=True)

    assert (inside.verdict, inside.reason) == (Verdict.UNPROVED, "is a copy of what was made")
    assert elsewhere.verdict is Verdict.FOREIGN
    assert elsewhere.reason == "is in no storage pool, and is a copy of what was made"


def test_nvram_that_the_journal_only_plans_is_proved_by_its_token(nvram: Artifact) -> None:
    """A run was killed when it had made the file, and before it wrote that down."""
    planned = nvram._replace(state=ArtifactState.PLANNED, fingerprint=None, token_place=None)

    assert judge_outside_pools(planned, TOKEN, frozenset(), is_local=True).verdict is Verdict.PROVED


def test_link_to_a_file_with_the_token_proves_nothing(nvram: Artifact, tmp_path: Path) -> None:
    """A symbolic link in its place leads to what somebody chose."""
    path = tmp_path / "moved"
    Path(nvram.path).rename(path)
    Path(nvram.path).symlink_to(path)

    assert not bears_token_here(nvram, TOKEN)


def test_unproved_nvram_is_touched_only_where_libvirt_keeps_nvram(nvram: Artifact, tmp_path: Path) -> None:
    """A record names any path: elsewhere than in libvirt's own directory it is no reason even to ask."""
    os.removexattr(nvram.path, ATTRIBUTE)
    old = nvram._replace(token_place=None)
    own = frozenset({str(tmp_path)})

    assert judge_outside_pools(old, TOKEN, frozenset(), is_local=True).verdict is Verdict.FOREIGN
    assert judge_outside_pools(old, TOKEN, own, is_local=True).verdict is Verdict.UNPROVED
    assert judge_outside_pools(old, TOKEN, own, is_local=False).verdict is Verdict.UNPROVED
    assert judge_outside_pools(nvram, TOKEN, own, is_local=True).verdict is Verdict.FOREIGN
    planned = old._replace(state=ArtifactState.PLANNED, fingerprint=None)
    assert judge_outside_pools(planned, TOKEN, own, is_local=True).verdict is Verdict.FOREIGN


def test_absent_nvram_outside_pools(nvram: Artifact) -> None:
    """One that was deleted by hand is gone; in a directory that is another one it may still be somewhere."""
    Path(nvram.path).unlink()

    assert judge_outside_pools(nvram, TOKEN, frozenset(), is_local=True).verdict is Verdict.GONE
    assert nvram.fingerprint is not None
    elsewhere = nvram._replace(fingerprint=nvram.fingerprint._replace(directory=1))
    assert judge_outside_pools(elsewhere, TOKEN, frozenset(), is_local=True).verdict is Verdict.AWAY


def test_nvram_outside_pools_that_was_never_seen_here(nvram: Artifact, tmp_path: Path) -> None:
    """A daemon behind a local socket may have other files than we: one is not gone because it is not seen here."""
    Path(nvram.path).unlink()
    unseen = nvram._replace(fingerprint=Fingerprint("1.5", file_system_bytes=4096), token_place=None)

    inside = judge_outside_pools(unseen, TOKEN, frozenset({str(tmp_path)}), is_local=True)
    elsewhere = judge_outside_pools(unseen, TOKEN, frozenset(), is_local=True)

    assert (inside.verdict, inside.reason) == (Verdict.UNPROVED, "bears no token that can be read here")
    assert elsewhere.verdict is Verdict.FOREIGN


def test_nvram_in_a_directory_that_we_may_not_search(
    nvram: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's daemon keeps NVRAM where an ordinary user may not look: it is not gone because of that."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    for name in ("lstat", "getxattr"):
        monkeypatch.setattr(os, name, refuse)

    judgement = judge_outside_pools(nvram, TOKEN, frozenset({str(tmp_path)}), is_local=True)

    assert (judgement.verdict, judgement.reason) == (Verdict.UNPROVED, "bears no token that can be read here")


@pytest.mark.parametrize(
    ("made", "sighting", "expected"),
    [
        pytest.param(MADE, SEEN, True, id="it bears the token"),
        pytest.param(MADE, FAR, False, id="its token cannot be read any more"),
        pytest.param(UNSEEN, FAR, True, id="it never had one, and was never seen"),
        pytest.param(MADE._replace(token_place=None), BARE, True, id="it never had one, and is seen again"),
        pytest.param(MADE._replace(token_place=None), FAR, False, id="it was seen, and a link may be there now"),
        pytest.param(
            MADE._replace(token_place=None), FAR._replace(fingerprint=THEN), True, id="it was seen and never readable"
        ),
        pytest.param(UNSEEN, FAR._replace(attribute=OTHER), False, id="it is another clone's"),
        pytest.param(UNSEEN, NOTHING, False, id="it is gone"),
    ],
)
def test_what_a_definition_may_name(made: Artifact, sighting: Sighting, expected: bool) -> None:
    """Nothing that could have taken the place of what was made."""
    assert may_be_named(made, judge(made, TOKEN, sighting).verdict, sighting) is expected
