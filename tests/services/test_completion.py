"""How names for shells are found where a host asks for a password, or has too many."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pexpect
import pytest

from tests.hypervisor.test_opening import is_alive
from tests.services.storage.fakes import FakeLibvirt, FakePool
from virtomate.services import completion

if TYPE_CHECKING:
    from pathlib import Path

# Says whether it could ask somebody, and has another ssh say nothing, as for a jump host.
SSH = """\
#!/bin/sh
(: </dev/tty) 2>/dev/null && touch '{directory}/terminal'
sleep 600 &
echo $! >'{directory}/pid.new' && mv '{directory}/pid.new' '{directory}/pid'
wait
"""


@pytest.mark.parametrize("is_leader", [True, False])
def test_nobody_is_asked(tmp_path: Path, is_leader: bool) -> None:
    """An ssh has no terminal and ends with all that it started, also where a shell completes by a job of its own.

    The leader of such a job's process group can have no new session.
    """
    ssh = tmp_path / "ssh"
    ssh.write_text(SSH.format(directory=tmp_path))
    ssh.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "_VIRTOMATE_COMPLETE": "zsh_complete",
    }
    command = [sys.executable, "-m", "virtomate", "-c", "qemu+ssh://root@127.0.0.1/system", "domain-delete", ""]

    # a busy machine may not have come to ssh in time
    while not (tmp_path / "pid").exists():
        shell = pexpect.spawn(
            "bash", ["-mc" if is_leader else "-c", f"{shlex.join(command)}; :"], env=environment, timeout=120
        )
        shell.expect(pexpect.EOF)
        assert not shell.before

    assert not (tmp_path / "terminal").exists()
    assert not is_alive(int((tmp_path / "pid").read_text()))


def test_pool_that_libvirt_does_not_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The volumes of the other pools are found."""
    pools = []
    for name in ("large", "small"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "volume").touch()
        pools.append(FakePool(name, tmp_path / name, is_too_large=name == "large"))
    host = FakeLibvirt(pools=pools)
    monkeypatch.setattr(completion, "connect_read_only", lambda *_: nullcontext(host.connection))
    monkeypatch.setattr(completion, "_leave_terminal", lambda: None)
    monkeypatch.setattr(completion, "_LIMIT_SECONDS", 60)

    assert completion.list_names(completion.Kind.VOLUME, None) == ["small/volume"]
