"""Connections that cannot be made: each cause has a hint of its own."""

from __future__ import annotations

import errno
import socket
import sys
import threading
from typing import TYPE_CHECKING

import libvirt
import pytest

from virtomate.errors import NoConnectionError
from virtomate.hypervisor.connection import connect
from virtomate.hypervisor.unreached import Failure, advise_on_silence

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RPC, SYSTEM_ERROR = libvirt.VIR_FROM_RPC, libvirt.VIR_ERR_SYSTEM_ERROR


@pytest.fixture
def places(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What stands for braces in URIs: a directory with a socket of a daemon that is gone, and ports on this host.

    Nothing listens at the port `closed`; at the port `web`, a server of another protocol does.
    """
    with socket.socket(socket.AF_UNIX) as gone, socket.socket() as closed, socket.socket() as web:
        gone.bind(str(tmp_path / "gone"))
        closed.bind(("127.0.0.1", 0))
        web.bind(("127.0.0.1", 0))
        web.listen()

        def serve() -> None:
            try:
                while True:
                    with web.accept()[0] as client:
                        client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            except OSError:
                return

        server = threading.Thread(target=serve)
        server.start()
        ports = {name: str(place.getsockname()[1]) for name, place in (("closed", closed), ("web", web))}
        yield {"directory": str(tmp_path), **ports}
        web.shutdown(socket.SHUT_RDWR)
        server.join()


@pytest.mark.parametrize(
    ("uri", "hint"),
    [
        (
            "qemu+unix:///system?socket={directory}/none",
            "Check that libvirtd or virtqemud runs, or name another connection, such as",
        ),
        ("qemu+unix:///system?socket={directory}/gone", "Check that libvirtd or virtqemud runs, or name another"),
        (
            "qemu+tcp://127.0.0.1:{closed}/system",
            "Nothing listens at that port: check that libvirt does (libvirtd-tcp.",
        ),
        ("qemu+tcp://127.0.0.1:{web}/system", "Check that it is libvirt that listens at that port"),
        ("qemu+tcp://host.invalid/system", "Check how the host's name is spelled"),
        ("qemu+ssh://host.invalid/system?no_tty=1", "Check how the host's name is spelled"),
        ("qemu+ssh://127.0.0.1:{closed}/system?no_tty=1", "No SSH server answers there"),
        ("qemu+ssh://me@127.0.0.1:{web}/system?no_tty=1", ": ssh -p {web} me@127.0.0.1 true"),
        ("qemu+ssh://127.0.0.1/system?command={directory}/no-ssh", "Check that ssh is installed here"),
        ("qemu+tls://127.0.0.1:{closed}/system?pkipath={directory}", "TLS needs certificates on both sides"),
        ("qemu://127.0.0.1:{closed}/system?pkipath={directory}", "TLS needs certificates on both sides"),
        ("qmeu+unix:///system?socket={directory}/none", "Did you mean qemu+unix:///system?socket={directory}/none?"),
        ("nothing+unix:///system?socket={directory}/none", "Name a connection by a URI, such as qemu:///system"),
        ("qemu+ssl://host/system", "Name a connection by a URI, such as qemu:///system"),
        ("qemu+unix://host/system", "Name a connection by a URI, such as qemu:///system"),
        ("no-alias", "or by an alias from libvirt.conf"),
        ("://", "Name a connection by a URI, such as qemu:///system"),
        ("", "name another connection with -c"),
    ],
)
def test_hint_fits_what_libvirt_meets(
    uri: str, hint: str, places: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What libvirt says of a connection that cannot be made is told by its code, its errno, or its message."""
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "qemu+unix:///system?socket={directory}/none".format(**places))
    with pytest.raises(NoConnectionError) as caught:
        connect(uri.format(**places) or None)

    assert hint.format(**places) in str(caught.value.hint)
    assert (uri or "qemu+unix:///system?socket={directory}/none").format(**places) in caught.value.message


@pytest.mark.parametrize("said", ["Cannot write data: Broken pipe", "internal error: client socket is closed"])
def test_ssh_that_is_missing_whenever_libvirt_notices(tmp_path: Path, said: str) -> None:
    """A program that is not there is the cause also where libvirt notices only that nothing reads from the pipe."""
    missing = Failure(f"qemu+ssh://host/system?command={tmp_path}/no-ssh", SYSTEM_ERROR, RPC, errno.EPIPE, said)
    present = missing._replace(uri=f"qemu+ssh://host/system?command={sys.executable}")

    assert missing.advice == "Check that ssh is installed here."
    assert present.advice == "Check that this works: ssh host true"


def ssh_failure(said: str, uri: str = "qemu+ssh://root@host/system") -> Failure:
    """What comes of an ssh that says something and ends."""
    return Failure(uri, SYSTEM_ERROR, RPC, errno.ECONNRESET, f"Cannot recv data: {said}: Connection reset by peer")


@pytest.mark.parametrize(
    ("failure", "hint"),
    [
        (
            Failure(
                "qemu:///system", SYSTEM_ERROR, RPC, errno.EACCES, "Failed to connect socket to '…': Permission denied"
            ),
            "a member of the group libvirt, or root. A group takes effect with the next login",
        ),
        (
            Failure(None, libvirt.VIR_ERR_AUTH_UNAVAILABLE, RPC, -1, "authentication unavailable: no polkit agent"),
            "a member of the group libvirt, or root, or have polkit let you in",
        ),
        (
            Failure("qemu+tcp://host/system", libvirt.VIR_ERR_AUTH_FAILED, RPC, -1, "authentication failed"),
            "Check user name and password; on the host, saslpasswd2",
        ),
        (
            Failure("qemu+libssh://host/system", libvirt.VIR_ERR_AUTH_FAILED, RPC, -1, "authentication failed"),
            "this has to work: ssh host true",
        ),
        (
            Failure("qemu+tcp://host/system", SYSTEM_ERROR, RPC, errno.EHOSTUNREACH, "No route to host"),
            "neither the network nor a firewall",
        ),
        (
            ssh_failure("root@host: Permission denied (publickey,password)."),
            "Give ssh a key or a password that the host accepts; this has to work: ssh root@host true",
        ),
        (
            ssh_failure("Host key verification failed.", "qemu+ssh://[::1]:2222/system"),
            "Compare the host's key with the one that is known, or get to know it: ssh -p 2222 ::1 true",
        ),
        (ssh_failure("ssh: connect to host host port 22: Connection timed out"), "neither the network nor a firewall"),
        (ssh_failure("sh: 1: nc: not found"), "The host needs virt-ssh-helper"),
        (
            ssh_failure("virt-ssh-helper: cannot connect to '/run/libvirt/libvirt-sock': Permission denied"),
            "Who comes in by SSH may not use libvirt there: it takes a member of the group libvirt, or root",
        ),
        (
            ssh_failure("virt-ssh-helper: cannot connect to '/run/libvirt/libvirt-sock': No such file or directory"),
            "Check that libvirtd or virtqemud runs on the host",
        ),
        (ssh_failure("something else"), "Check that this works: ssh root@host true"),
        (ssh_failure("ssh: connect to host h port 22: Connection refused", "alias"), "No SSH server answers there"),
    ],
)
def test_hint_fits_what_cannot_be_met_here(failure: Failure, hint: str) -> None:
    """Refusals that take another user, host or network to see, as libvirt reports them."""
    assert hint in failure.advice


@pytest.mark.parametrize(
    ("uri", "hint"),
    [
        (None, "The daemon is there, but does not react"),
        ("qemu:///system", "The daemon is there, but does not react"),
        ("qemu+tcp://host/system", "neither the network nor a firewall"),
    ],
)
def test_hint_for_silence(uri: str | None, hint: str) -> None:
    """Of a host that says nothing only its place is known."""
    assert hint in advise_on_silence(uri)
