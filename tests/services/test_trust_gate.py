"""What is found out about pools' directories: by libvirt, by a look, and no more than is needed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from virtomate.definition.volume import PoolDescription
from virtomate.errors import HypervisorError
from virtomate.services.trust import PoolGate, runs_unprivileged

if TYPE_CHECKING:
    from pathlib import Path

STRANGER = 4_000_000_001
QEMU = 4_000_000_002

CAPABILITIES = (
    f"<capabilities><host><secmodel><model>dac</model><baselabel type='kvm'>+{QEMU}:+1</baselabel></secmodel>"
    "</host></capabilities>"
)


class Link:
    """Stands for a connection: the lab's hypervisor can't be had with another user for QEMU, nor far away."""

    def __init__(self, *, is_local: bool, is_session: bool = False, answer: str | None = CAPABILITIES) -> None:
        self.is_local = is_local
        self.is_session = is_session
        self.questions = 0
        self._answer = answer

    def capabilities(self) -> str:
        """What libvirt says of its host."""
        self.questions += 1
        if self._answer is None:
            raise HypervisorError("it does not say")
        return self._answer


class Pool:
    """Stands for a pool whose directory is not what libvirt thought it was."""

    def __init__(self, path: Path, mode: int, owner: int, *, can_refresh: bool = True) -> None:
        self.refreshes = 0
        self._path, self._mode, self._owner = path, mode, owner
        self._can_refresh = can_refresh

    def refresh(self) -> bool:
        """Have libvirt look again."""
        self.refreshes += 1
        return self._can_refresh

    def document(self) -> str:
        """What libvirt says by then."""
        return (
            f"<pool type='dir'><name>p</name><target><path>{self._path}</path>"
            f"<permissions><mode>{self._mode:04o}</mode><owner>{self._owner}</owner><group>0</group></permissions></target></pool>"
        )


def is_objectionable(link: Link, path: Path, told: tuple[int, int], pool: Pool) -> bool:
    """Whether the directory is found good."""
    description = PoolDescription("p", "dir", str(path), told[0], told[1], 0)
    connection: Any = link
    handle: Any = pool
    return not PoolGate(is_open=False).assess(connection, handle, description).objections


US = os.geteuid()


@pytest.mark.parametrize(
    ("is_local", "mode", "told", "then", "is_good", "refreshes"),
    [
        # seen here and told alike: the sticky bit is seen
        (True, 0o755, (0o755, US), None, True, 0),
        (True, 0o1777, (0o777, US), None, True, 0),
        (True, 0o777, (0o777, US), None, False, 0),
        # mended, or broken, since libvirt looked
        (True, 0o755, (0o777, US), (0o755, US), True, 1),
        (True, 0o777, (0o755, US), (0o777, US), False, 1),
        # the daemon's directory is another one
        (True, 0o755, (0o777, US), (0o777, US), False, 1),
        (True, 0o777, (0o755, US), (0o755, US), True, 1),
        # not seen from here
        (False, 0o777, (0o755, 0), None, True, 0),
        (False, 0o755, (0o755, STRANGER), (0o755, STRANGER), False, 1),
        (False, 0o755, (0o755, STRANGER), (0o755, 0), True, 1),
        # our number is somebody else's there
        (False, 0o755, (0o755, US or STRANGER), (0o755, US or STRANGER), False, 1),
    ],
)
def test_what_is_believed(
    tmp_path: Path,
    is_local: bool,
    mode: int,
    told: tuple[int, int],
    then: tuple[int, int] | None,
    is_good: bool,
    refreshes: int,
) -> None:
    """What is seen here counts if libvirt sees the same; what libvirt told may be old, so it looks again if need be."""
    tmp_path.chmod(mode)
    pool = Pool(tmp_path, *(then or told))

    assert is_objectionable(Link(is_local=is_local), tmp_path, told, pool) is is_good
    assert pool.refreshes == refreshes


def test_libvirt_that_cannot_look_again(tmp_path: Path) -> None:
    """While a volume is being built it cannot; what is seen here counts then, and from afar what it told."""
    tmp_path.chmod(0o755)
    pool = Pool(tmp_path, 0o777, US, can_refresh=False)

    assert is_objectionable(Link(is_local=True), tmp_path, (0o777, US), pool)
    assert not is_objectionable(Link(is_local=False), tmp_path, (0o777, 0), pool)


@pytest.mark.parametrize(
    ("owner", "answer", "is_good", "questions"),
    [
        (0, CAPABILITIES, True, 0),
        (QEMU, CAPABILITIES, True, 1),
        (STRANGER, CAPABILITIES, False, 1),
        (QEMU, "<capabilities><host/></capabilities>", False, 1),
        (QEMU, None, False, 1),
    ],
)
def test_user_of_qemu_is_trusted(tmp_path: Path, owner: int, answer: str | None, is_good: bool, questions: int) -> None:
    """QEMU's user may own a directory, as that of NVRAM; libvirt is asked who that is where it matters, and once."""
    link = Link(is_local=False, answer=answer)

    assert is_objectionable(link, tmp_path, (0o755, owner), Pool(tmp_path, 0o755, owner)) is is_good
    assert link.questions == questions


@pytest.mark.parametrize(("is_local", "is_good"), [(True, True), (False, False)])
def test_who_called_sudo_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_local: bool, is_good: bool
) -> None:
    """Whoever became root for this command owns their own directories, on this host."""
    monkeypatch.setenv("SUDO_UID", str(STRANGER))
    missing = tmp_path / "not seen here"

    assert (
        is_objectionable(Link(is_local=is_local), missing, (0o755, STRANGER), Pool(missing, 0o755, STRANGER)) is is_good
    )


def test_a_directory_is_judged_once(tmp_path: Path) -> None:
    """However many volumes go there."""
    gate = PoolGate(is_open=False)
    link, pool = Link(is_local=False), Pool(tmp_path, 0o777, 0)
    connection: Any = link
    handle: Any = pool
    description = PoolDescription("p", "dir", str(tmp_path), 0o777, 0, 0)

    assert gate.assess(connection, handle, description) is gate.assess(connection, handle, description)
    assert pool.refreshes == 1


def test_what_a_directory_lies_in(tmp_path: Path) -> None:
    """Also the directories above are seen, on both sides of a symbolic link, and only of a local daemon."""
    shared = tmp_path / "shared"
    (shared / "pool").mkdir(parents=True)
    (tmp_path / "link").symlink_to(shared / "pool")
    shared.chmod(0o777)
    gate = PoolGate(is_open=False)
    near: Any = Link(is_local=True)
    far: Any = Link(is_local=False)

    trust = gate.assess_here(near, str(tmp_path / "link"))

    assert any(f"lies in '{shared}'" in caution for caution in trust.cautions)
    assert gate.assess_here(far, str(tmp_path / "link")).cautions == ()
    assert PoolGate(is_open=True).assess_here(near, str(tmp_path / "link")).cautions == ()


@pytest.mark.parametrize(
    ("is_session", "is_local", "user", "expected"),
    [
        (True, True, 1000, True),
        (True, False, 1000, True),
        (True, False, 0, True),
        (True, True, 0, False),
        (False, True, 1000, False),
        (False, False, 0, False),
    ],
)
def test_daemon_of_an_ordinary_user(
    monkeypatch: pytest.MonkeyPatch, is_session: bool, is_local: bool, user: int, expected: bool
) -> None:
    """A session's daemon can overwrite nothing that is not its user's; root's session is the system's daemon."""
    monkeypatch.setattr(os, "geteuid", lambda: user)
    connection: Any = Link(is_local=is_local, is_session=is_session)

    assert runs_unprivileged(connection) is expected
