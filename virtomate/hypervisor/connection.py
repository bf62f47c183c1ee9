"""Connections to libvirt.

Two threads on one connection can stall each other for seconds, so a connection belongs to one thread at a time.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

import libvirt

from virtomate.cancel import CancelToken
from virtomate.errors import NoConnectionError, NotFoundError, VirtomateError
from virtomate.hypervisor.translate import look_up, one_line, translating_errors
from virtomate.words import virtomate

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from virtomate.hypervisor.opening import Ask

# A dead link is noticed after interval x (count + 1) seconds of silence.
_KEEPALIVE_INTERVAL_SECONDS = 5
_KEEPALIVE_COUNT = 3

# The wait for a silent host. After a link has died, an undo delays the error by the second time.
_CONNECT_SECONDS = 20.0
_RECONNECT_SECONDS = 4.0

# A qcow2 with subclusters: libvirt 8.0, QEMU 5.2, both as numbers that libvirt has for versions
_SUBCLUSTERS_LIBVIRT = 8_000_000
_SUBCLUSTERS_QEMU = 5_002_000
# libvirt writes zeroes to a block device where it gets a hole
_ZEROES_LIBVIRT = 6_007_000

_event_loop_lock = threading.Lock()
_event_loop_runs = False


class Connection:
    """An open connection; use it as a context manager, or close it."""

    def __init__(self, handle: libvirt.virConnect) -> None:
        self.handle = handle

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def is_alive(self) -> bool:
        """Whether the link still stands, as far as libvirt has noticed."""
        with suppress(libvirt.libvirtError):
            return bool(self.handle.isAlive())
        return False

    @property
    def name(self) -> str:
        """The URI of the connection, also where libvirt chose it."""
        with translating_errors("cannot read the connection's URI"):
            return str(self.handle.getURI())

    @property
    def driver(self) -> str:
        """The name of libvirt's driver, such as `QEMU`."""
        with translating_errors("cannot tell the hypervisor"):
            return str(self.handle.getType())

    @property
    def is_local(self) -> bool:
        """Whether the daemon runs on this host: a URI without a host name goes through a local socket."""
        return self.name.partition("://")[2].startswith("/")

    @property
    def is_session(self) -> bool:
        """Whether the daemon is a user's own, which may not give files to other users."""
        return self.name.partition("?")[0].endswith("/session")

    @cached_property
    def knows_subclusters(self) -> bool:
        """Whether libvirt and its QEMU know subclusters of a qcow2."""
        with translating_errors("cannot read the versions of libvirt and QEMU"):
            return bool(
                self.handle.getLibVersion() >= _SUBCLUSTERS_LIBVIRT and self.handle.getVersion() >= _SUBCLUSTERS_QEMU
            )

    @cached_property
    def zeroes_devices(self) -> bool:
        """Whether a block device reads as zeroes where it was sent a hole."""
        with translating_errors("cannot read the version of libvirt"):
            return bool(self.handle.getLibVersion() >= _ZEROES_LIBVIRT)

    def capabilities(self) -> str:
        """Return the document in which libvirt describes its host and itself."""
        with translating_errors("cannot read the capabilities of the host"):
            return str(self.handle.getCapabilities())

    def is_network_active(self, name: str) -> bool | None:
        """Return whether a network is active; None where there is no such network."""
        failure = f"cannot look up network '{name}'"
        return look_up(
            lambda: bool(self.handle.networkLookupByName(name).isActive()), failure, libvirt.VIR_ERR_NO_NETWORK
        )

    def network_definitions(self, name: str) -> tuple[str, ...]:
        """Return the current definition of a network and the one of its next start; none where libvirt does not tell.

        The network, the driver for networks, or its daemon may be missing.
        """
        definitions: list[str] = []
        # a broken connection shows in the next call
        with suppress(libvirt.libvirtError):
            network = self.handle.networkLookupByName(name)
            definitions.append(str(network.XMLDesc(0)))
            if network.isActive() and network.isPersistent():
                definitions.append(str(network.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE)))
        return tuple(definitions)

    def close(self) -> None:
        """Close the connection; a broken link is not an error."""
        with suppress(libvirt.libvirtError):
            self.handle.close()

    def missing(self, kind: str, name: str, list_names: Callable[[], list[str]], command: str) -> NotFoundError:
        """Return the error for an unknown name of a kind such as `domain`; the command of virtomate lists the names."""
        hint = f"{virtomate(command)} shows the {kind}s of this connection."
        with suppress(VirtomateError):
            hint = self._advice(kind, name, list_names(), command) or hint
        return NotFoundError(f"there is no {kind} '{name}' on {self.name}", hint=hint)

    def _advice(self, kind: str, name: str, names: list[str], command: str) -> str | None:
        import difflib  # noqa: PLC0415 - few names are wrong

        by_folded = {known.casefold(): known for known in names}
        for similar in difflib.get_close_matches(name.casefold(), by_folded, n=1):
            return f"Did you mean '{by_folded[similar]}'? {virtomate(command)} shows all {kind}s of this connection."
        # a URI with parameters names another socket, and the system's daemon cannot be told from the user's
        if names or not self.is_session or "?" in self.name:
            return None
        system = virtomate(command, uri=self.name.removesuffix("session") + "system")
        return f"There are no {kind}s at all on {self.name}; {system} shows the system's."


def connect(
    uri: str | None, ask: Ask | None = None, cancel: CancelToken | None = None, *, was_lost: bool = False
) -> Connection:
    """Open a connection; give up a silent host after a while, unless a person may be typing a password.

    Args:
        uri: libvirt's URI; None lets libvirt decide (https://libvirt.org/uri.html#default-uri-choice).
        ask: Asks a person. Without it, a server that asks for a password refuses.
        cancel: Ends the waiting, unless it is set already.
        was_lost: Whether a connection to the host broke before; then the wait is shorter.

    Raises:
        SilentHostError: The host does not answer.
        NoConnectionError: There is no daemon, or it refuses access.
        InterruptedBySignalError: A signal arrived.
    """
    from virtomate.hypervisor.opening import Opening  # noqa: PLC0415 - completion opens no connection in this way

    _start_event_loop()
    seconds = _RECONNECT_SECONDS if was_lost else _CONNECT_SECONDS
    try:
        handle = Opening(uri, ask).run(seconds, cancel or CancelToken(), is_patient=not was_lost)
    except libvirt.libvirtError as error:
        message = one_line(error)
        given = uri or os.environ.get("LIBVIRT_DEFAULT_URI") or None
        from virtomate.hypervisor.unreached import Failure  # noqa: PLC0415 - most connections are made

        failure = Failure(
            given, error.get_error_code(), error.get_error_domain(), error.get_int1(), message, is_chosen=bool(uri)
        )
        raise NoConnectionError(
            f"cannot connect to {given or 'libvirt'}: {message}", hint=failure.advice, code=failure.code
        ) from error
    # drivers without a link, such as the test driver, have nothing to keep alive
    with suppress(libvirt.libvirtError):
        handle.setKeepAlive(_KEEPALIVE_INTERVAL_SECONDS, _KEEPALIVE_COUNT)
    return Connection(handle)


def connect_read_only(uri: str | None) -> Connection:
    """Open a connection that can change nothing, without asking anybody for a password, or raise libvirtError."""
    libvirt.registerErrorHandler(_ignore, None)
    return Connection(libvirt.openReadOnly(_without_terminal(uri)))


def connect_unattended(uri: str) -> Connection:
    """Open a connection without asking anybody for a password; for the errors see `connect`."""
    return connect(_without_terminal(uri))


def _without_terminal(uri: str | None) -> str | None:
    """Return the URI, extended so that ssh asks for no password (https://libvirt.org/uri.html#ssh-transport)."""
    uri = uri or os.environ.get("LIBVIRT_DEFAULT_URI") or None
    if uri is None or "ssh" not in uri.partition("://")[0].partition("+")[2]:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}no_tty=1"


def _start_event_loop() -> None:
    """Run libvirt's event loop in a daemon thread, for keepalive, once per process."""
    global _event_loop_runs  # noqa: PLW0603 - libvirt's event loop is global as well
    with _event_loop_lock:
        if _event_loop_runs:
            return
        # libvirt prints every error to stderr unless a handler takes the error
        libvirt.registerErrorHandler(_ignore, None)
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=_run_event_loop, name="libvirt-events", daemon=True).start()
        _event_loop_runs = True


def _ignore(_opaque: object, _error: object) -> None:
    return


def _run_event_loop() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()
