"""Definitions that libvirt does not take back are kept where their user finds them."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

import pytest

from virtomate.services.delete.kept_definitions import keep_definition

TEXT = "<domain><name>web ü</name></domain>"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's state directory, and below it one for temporary files."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return tmp_path / "state"


@pytest.mark.parametrize(("name", "prefix"), [("web", "web-"), ("a/b", "a_b-"), (60 * "ü", 50 * "ü" + "-")])
def test_kept_in_the_state_directory(state: Path, name: str, prefix: str) -> None:
    """Every definition has a file of its own, named after the domain, that nobody else can read."""
    paths = {keep_definition(name, TEXT) for _ in range(2)}

    assert len(paths) == 2
    for path in paths:
        assert path is not None
        kept = Path(path)
        assert (kept.parent, kept.read_text(encoding="utf-8")) == (state / "virtomate", TEXT)
        assert kept.name.startswith(prefix)
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_kept_elsewhere(state: Path) -> None:
    """Where the state directory cannot be made, it goes among the temporary files."""
    state.write_text("a file", encoding="utf-8")

    path = keep_definition("web", TEXT)

    assert path is not None
    assert Path(path).parent == state.parent / "tmp"


def test_kept_nowhere(state: Path) -> None:
    """Where nothing can be written at all, that is told."""
    state.write_text("a file", encoding="utf-8")
    (state.parent / "tmp").rmdir()

    assert keep_definition("web", TEXT) is None


@pytest.mark.parametrize("value", ["", "relative"])
def test_default_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Without an absolute XDG_STATE_HOME, the directory is in the user's home."""
    monkeypatch.setenv("XDG_STATE_HOME", value)
    monkeypatch.setenv("HOME", str(tmp_path))

    path = keep_definition("web", TEXT)

    assert path is not None
    assert Path(path).parent == tmp_path / ".local/state/virtomate"
