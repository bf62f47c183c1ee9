"""Fixtures that functional tests share: the lab, a clean lab for each test, and the program under test."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Hypervisor, Lab, Program
from tests.lab.far import Far
from tests.lab.ordinary_user import NoInterpreterError, OrdinaryUser
from tests.lab.ssh import SshServer
from tests.lab.storage_host import StorageHost
from tests.lab.workspace import CHECKOUT, Workspace


def pytest_configure() -> None:
    """Keep pytest's temporary directories in the checkout as well, and start programs that hear signals.

    A script ignores SIGINT for what it runs in the background, and nohup SIGHUP; so would all that tests start.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            # A handler is not passed on.
            signal.signal(number, lambda _number, _frame: None)
    directory = CHECKOUT / ".lab" / "pytest"
    directory.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(directory))


@pytest.fixture(scope="session")
def session_lab() -> Iterator[Lab]:
    """The lab, started once for all tests of this process."""
    with Lab() as lab:
        yield lab


@pytest.fixture
def lab(session_lab: Lab) -> Iterator[Lab]:
    """The lab, for one test: what the test makes in it goes away with the test."""
    mark = session_lab.mark()
    yield session_lab
    session_lab.return_to(mark)


@pytest.fixture
def root_lab(request: pytest.FixtureRequest) -> Lab:
    """The lab, for a test that wants file systems, networks or hosts of its own, which only root can make."""
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts, networks and hosts of its own")
    lab: Lab = request.getfixturevalue("lab")
    return lab


@pytest.fixture(scope="module")
def far_host(session_lab: Lab) -> Iterator[Hypervisor]:
    """Another host, started once for a module."""
    if not session_lab.privileged:
        pytest.skip("needs root: a host of its own")
    with session_lab.make_host("far") as host:
        yield host


@pytest.fixture
def far(root_lab: Lab, far_host: Hypervisor) -> Iterator[Far]:
    """Another host, for one test; its files are seen here, too, so streams are asked for where they are meant."""
    far = Far(root_lab, far_host)
    yield far
    far.clear()


@pytest.fixture
def nobody(root_lab: Lab) -> Iterator[OrdinaryUser]:
    """The program, run by an ordinary user of the lab."""
    try:
        user = OrdinaryUser(root_lab)
    except NoInterpreterError as error:
        pytest.skip(str(error))
    with user:
        yield user


@pytest.fixture
def sshd(root_lab: Lab, tmp_path: Path) -> Iterator[SshServer]:
    """An SSH server with keys of its own, whose files are not the lab's."""
    with SshServer(tmp_path / "ssh", root_lab.workspace.cache) as server:
        yield server


@pytest.fixture(scope="session")
def session_storage_host() -> Iterator[StorageHost]:
    """The storage host, started once for all tests of this process."""
    if os.geteuid() != 0:
        pytest.skip("needs root: a Debian in a directory")
    with Workspace() as workspace, StorageHost(workspace) as host:
        yield host


@pytest.fixture
def storage_host(session_storage_host: StorageHost) -> Iterator[StorageHost]:
    """The storage host, for one test: what the test makes on the host goes away with the test."""
    mark = session_storage_host.mark()
    yield session_storage_host
    session_storage_host.return_to(mark)


@pytest.fixture
def connection(lab: Lab) -> Any:
    """A libvirt connection to the lab."""
    return lab.connection


@pytest.fixture
def virtomate(lab: Lab, tmp_path: Path) -> Iterator[Program]:
    """The program under test: `virtomate("domain-clone", "a", "b", json=True).status`."""
    program = Program(lab.uri, tmp_path)
    yield program
    program.end()
