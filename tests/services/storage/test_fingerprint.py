"""Fingerprints tell a file from another of its name; the files are real."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.duplication.volumes import RAW, described, libvirt_time
from virtomate.definition.provenance import Fingerprint
from virtomate.duplication.hostfs import birth_time, nanoseconds
from virtomate.services.storage.artifacts.proof import contradicts
from virtomate.services.storage.file_pools import FilePools

if TYPE_CHECKING:
    from pathlib import Path

fingerprint = FilePools().fingerprint

INVISIBLE = "/nonexistent/of/another/host.raw"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that cloning made."""
    path = tmp_path / "clone.raw"
    path.write_bytes(b"content")
    return path


def _touch_later(path: Path) -> None:
    """Change a file's change time, in whatever grain the file system keeps it."""
    before = os.lstat(path).st_ctime_ns
    while os.lstat(path).st_ctime_ns == before:
        path.chmod(path.stat().st_mode)


def test_visible_file_testifies_itself(file: Path) -> None:
    """A file that can be seen here is told by its inode and time of birth, its place by its directory's inode."""
    volume = described(file)

    assert fingerprint(volume) == Fingerprint(
        volume.changed, os.lstat(file).st_ino, birth_time(str(file)), os.lstat(file.parent).st_ino
    )


def test_birth_is_not_after_the_change(file: Path) -> None:
    """Where the file system keeps the time of birth, it is that of the file."""
    born = birth_time(str(file))
    if born is None:
        pytest.skip("this file system keeps no time of birth")
    _touch_later(file)

    assert birth_time(str(file)) == born < os.lstat(file).st_ctime_ns
    assert birth_time(INVISIBLE) is None


@pytest.mark.parametrize("path", [INVISIBLE, "", "/p/\x00"])
def test_invisible_file_has_its_change_time_alone(path: str) -> None:
    """Of a file that is not here only what libvirt reports is known."""
    assert fingerprint(RAW._replace(path=path)) == Fingerprint(RAW.changed)


def test_path_alone_proves_nothing(file: Path) -> None:
    """A file at the path whose change time is not what libvirt reports is not the daemon's."""
    volume = described(file)._replace(changed=libvirt_time(os.lstat(file).st_ctime_ns + 1))

    assert fingerprint(volume) == Fingerprint(volume.changed)


def test_link_is_not_followed(file: Path, tmp_path: Path) -> None:
    """A symbolic link is not the file that it leads to."""
    link = tmp_path / "link.raw"
    _touch_later(file)
    while True:  # until the link has another change time than the file, whatever the grain of the clock
        link.unlink(missing_ok=True)
        link.symlink_to(file)
        if os.lstat(link).st_ctime_ns != os.lstat(file).st_ctime_ns:
            break

    assert fingerprint(described(file)._replace(path=str(link))).inode is None


def test_same_file_is_recognised(file: Path) -> None:
    """A file stays itself when it is written to, renamed away and back, or given other rights."""
    before = fingerprint(described(file))
    file.write_bytes(b"a guest wrote")
    _touch_later(file)
    file.rename(file.with_suffix(".away")).rename(file)

    assert not contradicts(before, fingerprint(described(file)))


def test_file_that_took_the_place_is_not_the_same(file: Path, tmp_path: Path) -> None:
    """A file that somebody put under the same name is another one, even with the same content and times."""
    before = fingerprint(described(file))
    other = tmp_path / "other"
    other.write_bytes(file.read_bytes())
    os.utime(other, ns=(os.lstat(file).st_atime_ns, os.lstat(file).st_mtime_ns))
    other.rename(file)

    assert contradicts(before, fingerprint(described(file)))


def test_reused_inode_is_not_the_same(file: Path) -> None:
    """File systems give an inode number again, so the time of birth counts as well."""
    before = fingerprint(described(file))
    if before.birth_time is None:
        pytest.skip("this file system keeps no time of birth")

    assert contradicts(before._replace(birth_time=before.birth_time - 1), before)
    assert contradicts(before._replace(inode=(before.inode or 0) + 1), before)
    assert not contradicts(before._replace(birth_time=None), before)


@pytest.mark.parametrize(
    ("made", "now", "expected"),
    [
        ("1767225600.500000000", "1767225600.500000000", False),
        ("1767225600.500000000", "1767225601", False),
        ("1767225600", "1767225600.000001000", False),
        ("1767225600.500000000", "1767225600.499999000", True),
        ("1767225600.500000000", "1767225599.999999999", True),
        ("1767225600.500000000", None, False),
        (None, None, False),
    ],
)
def test_unseen_file_that_changed_before_ours_was_made_is_another(
    made: str | None, now: str | None, expected: bool
) -> None:
    """Where nothing can be seen, a file whose last change is older than the making of ours is certainly not ours."""
    assert contradicts(Fingerprint(made), Fingerprint(now)) is expected


def test_file_made_out_of_sight_is_recognised_where_it_can_be_seen(file: Path) -> None:
    """Made over a remote connection, looked at on the host: it was born before the change that was recorded of it."""
    _touch_later(file)
    before = Fingerprint(described(file).changed)
    _touch_later(file)

    assert not contradicts(before, fingerprint(described(file)))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, 0),
        ("", 0),
        ("1767225600", 1767225600_000000000),
        ("1767225600.500000000", 1767225600_500000000),
        ("1.000000001", 1_000000001),
    ],
)
def test_time(value: str | None, expected: int) -> None:
    """What stands behind the dot are nanoseconds."""
    assert nanoseconds(value) == expected
