"""Domains of a connection."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import libvirt

from virtomate.errors import (
    ConflictError,
    HypervisorError,
    IllegalStateError,
    NoSpaceError,
    NotFoundError,
    OversizeError,
    VirtomateError,
)
from virtomate.hypervisor.missing import missing
from virtomate.hypervisor.text import sanitise
from virtomate.hypervisor.translate import no_room, translate, translating_errors
from virtomate.words import virsh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from virtomate.hypervisor.connection import Connection

# The names that virtomate 0.1.2 documented; https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainState
_STATES = {
    libvirt.VIR_DOMAIN_NOSTATE: "no state",
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "blocked",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "shutdown",
    libvirt.VIR_DOMAIN_SHUTOFF: "shut-off",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "suspended",
}

Answer = TypeVar("Answer")

# Of a domain without such an element, one that is gone, and of a driver that keeps no metadata
_WITHOUT_METADATA = frozenset(
    {
        libvirt.VIR_ERR_NO_DOMAIN_METADATA,
        libvirt.VIR_ERR_NO_DOMAIN,
        libvirt.VIR_ERR_NO_SUPPORT,
        libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
    }
)

# what a driver says to a flag that it does not know
_UNKNOWN = frozenset({libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED})


def _told(ask: Callable[[], Answer], otherwise: Answer) -> Answer:
    """Return what the driver answers, or another value where it does not know of such a thing."""
    try:
        return ask()
    except libvirt.libvirtError:
        return otherwise


class DomainRecord:
    """A snapshot or checkpoint that libvirt keeps a document of."""

    def __init__(self, name: str, handle: libvirt.virDomainSnapshot | libvirt.virDomainCheckpoint) -> None:
        self.name = name
        self._handle = handle

    def document(self) -> str:
        """The document, with the definition that the domain had then."""
        with translating_errors(f"cannot read '{self.name}'"):
            return sanitise(lambda: self._handle.getXMLDesc(0))


class Domain:
    """A domain that libvirt knew when it was looked up."""

    def __init__(self, handle: libvirt.virDomain) -> None:
        self._handle = handle
        self.name: str = handle.name()
        self.uuid: str = handle.UUIDString()

    @property
    def handle(self) -> libvirt.virDomain:
        """The object of libvirt's binding, for the other modules of this package."""
        return self._handle

    @property
    def daemon_version(self) -> int:
        """The version of its libvirt, 9000000 for 9.0.0; 0 where libvirt does not tell."""
        return _told(lambda: int(self._handle.connect().getLibVersion()), 0)

    @property
    def run_id(self) -> int:
        """A number that differs from run to run of an active domain; -1 for an inactive one."""
        return int(self._handle.ID())

    def state(self) -> str:
        """The state by its documented name."""
        with translating_errors(f"cannot read the state of domain '{self.name}'"):
            return _STATES.get(self._handle.state(0)[0], "no state")

    def is_active(self) -> bool:
        """Whether the domain runs in any way, paused included."""
        with translating_errors(f"cannot read the state of domain '{self.name}'"):
            return bool(self._handle.isActive())

    def has_managed_save(self) -> bool:
        """Whether it has a managed-save image."""
        with translating_errors(f"cannot read the state of domain '{self.name}'"):
            return bool(self._handle.hasManagedSaveImage(0))

    def snapshot_count(self) -> int:
        """Return how many snapshots libvirt keeps of the domain; 0 where the driver has none."""
        return _told(lambda: int(self._handle.snapshotNum(0)), 0)

    def external_snapshot_count(self) -> int:
        """Return how many of the snapshots are external ones, which made overlays."""
        return _told(lambda: int(self._handle.snapshotNum(libvirt.VIR_DOMAIN_SNAPSHOT_LIST_EXTERNAL)), 0)

    def external_snapshots(self) -> tuple[tuple[str, str], ...]:
        """Return the names and documents of external snapshots, each before the snapshot that it was made on."""
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_LIST_EXTERNAL | libvirt.VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL

        def read() -> tuple[tuple[str, str], ...]:
            return tuple(
                (item.getName(), item.getXMLDesc(0)) for item in reversed(self._handle.listAllSnapshots(flags))
            )

        return _told(read, ())

    def checkpoint_count(self) -> int:
        """Return how many checkpoints libvirt keeps of the domain; 0 where the driver has none."""
        return _told(lambda: len(self._handle.listAllCheckpoints(0)), 0)

    def has_metadata(self, namespace: str) -> bool:
        """Whether its metadata has an element in this namespace."""
        return bool(self.metadata_element(namespace))

    def is_autostarted(self) -> bool:
        """Whether libvirt starts the domain with the host; False where the driver does not do that."""
        return _told(lambda: bool(self._handle.autostart()), False)

    def inactive_definition(self) -> str:
        """The definition that the next start will use, passwords included."""
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
        with self._reading_definition():
            return str(self._handle.XMLDesc(flags))

    def inactive_definition_without_secrets(self) -> str:
        """The definition that the next start will use, without passwords, as a read-only connection may see it."""
        with self._reading_definition():
            return str(self._handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))

    def live_definition(self) -> str:
        """The current definition, which for an active domain names the files that it really uses."""
        with self._reading_definition():
            # A live definition shows the backing chain that libvirt found in the images.
            return sanitise(lambda: self._handle.XMLDesc(0))

    @contextmanager
    def _reading_definition(self) -> Iterator[None]:
        try:
            with translating_errors(f"cannot read the definition of domain '{self.name}'"):
                yield
        except OversizeError as error:
            raise error.adding(
                hint=f"Shorten what makes it long: {virsh('desc', self.name)} changes its description, "
                f"{virsh('metadata', self.name)} its metadata."
            ) from error

    def metadata_element(self, namespace: str) -> str | None:
        """The element of its metadata in this namespace, without the namespace; None where there is none.

        Raises:
            HypervisorError: libvirt cannot tell: a lost connection does not make other domains of clones.
        """
        try:
            return str(self._handle.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, namespace))
        except libvirt.libvirtError as error:
            if error.get_error_code() in _WITHOUT_METADATA:
                return None
            raise translate(error, f"cannot read the metadata of domain '{self.name}'") from error

    def disk_paths(self) -> tuple[str, ...]:
        """The paths of its disks, by libvirt's statistics and not the definition; empty where libvirt cannot tell."""
        kinds, flags = libvirt.VIR_DOMAIN_STATS_BLOCK, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT

        def read() -> tuple[str, ...]:
            found = self._handle.connect().domainListGetStats([self._handle], kinds, flags)
            return tuple(str(value) for _, stats in found for key, value in stats.items() if key.endswith(".path"))

        return _told(read, ())

    def saved_definition(self) -> str:
        """The definition in the managed-save image, which the next start uses; HypervisorError without an image."""
        with translating_errors(f"cannot read the managed-save image of domain '{self.name}'"):
            return sanitise(lambda: self._handle.managedSaveGetXMLDesc(0))

    def snapshots(self) -> list[DomainRecord]:
        """The snapshots that libvirt keeps."""
        with translating_errors(f"cannot list the snapshots of domain '{self.name}'"):
            return [DomainRecord(found.getName(), found) for found in self._handle.listAllSnapshots(0)]

    def checkpoints(self) -> list[DomainRecord]:
        """The checkpoints that libvirt keeps."""
        with translating_errors(f"cannot list the checkpoints of domain '{self.name}'"):
            return [DomainRecord(found.getName(), found) for found in self._handle.listAllCheckpoints(0)]

    def rename(self, name: str) -> None:
        """Rename the domain.

        Raises:
            ConflictError: Another domain has the name.
            NoSpaceError: libvirt has no room for the definition.
            HypervisorError: libvirt cannot rename the domain.
        """
        try:
            self._handle.rename(name, 0)
        except libvirt.libvirtError as error:
            translation = translate(error, f"cannot rename domain '{self.name}'")
            # a taken name is an invalid operation, as other things are: look
            if isinstance(translation, IllegalStateError) and self._is_taken(name):
                translation = ConflictError(f"there is already a domain '{name}'")
            if isinstance(translation, NoSpaceError):
                translation = no_room(error, f"the definition of '{name}'")
            raise translation from error

    def _is_taken(self, name: str) -> bool:
        return _told(lambda: bool(self._handle.connect().lookupByName(name)), False)

    def start(self) -> None:
        """Start the domain, or raise HypervisorError."""
        with translating_errors(f"cannot start domain '{self.name}'"):
            self._handle.create()

    def undefine_with_state(self) -> None:
        """Remove the definition and all that libvirt keeps with it but the NVRAM, which it would delete by its path.

        That is the managed-save image, the metadata of snapshots and checkpoints, and the state of an emulated TPM
        unless the definition keeps it. Older libvirts do not know every flag, so only the flags needed are given.
        """
        flags = libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
        if self.has_managed_save():
            flags |= libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        if self.snapshot_count():
            flags |= libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        if self.checkpoint_count():
            flags |= libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        with translating_errors(f"cannot undefine domain '{self.name}'"):
            self._handle.undefineFlags(flags)

    def undefine_keeping_nvram(self) -> None:
        """Remove the definition alone: libvirt would delete the NVRAM by its path, even another domain's."""
        with translating_errors(f"cannot undefine domain '{self.name}'"):
            self._handle.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)


def find_domain(connection: Connection, name_or_uuid: str) -> Domain:
    """Return the domain with this name, else with this UUID, or raise NotFoundError."""
    try:
        name_or_uuid.encode()
    except UnicodeEncodeError as error:
        raise NotFoundError(f"there is no domain {name_or_uuid!r}: names are UTF-8, and this is not") from error
    for lookup in (find_domain_by_name, find_domain_by_uuid):
        domain = lookup(connection, name_or_uuid)
        if domain is not None:
            return domain
    raise missing(
        connection,
        "domain",
        name_or_uuid,
        lambda: [domain.name for domain in list_domains(connection)],
        "domain-list",
    )


def find_domain_by_name(connection: Connection, name: str) -> Domain | None:
    """The domain with this name, or None."""
    try:
        return Domain(connection.handle.lookupByName(name))
    except libvirt.libvirtError as error:
        _raise_unless_missing(error, name)
        return None


def find_domain_by_uuid(connection: Connection, uuid: str) -> Domain | None:
    """Return the domain with this UUID; None where there is none, or the text is not a UUID."""
    try:
        return Domain(connection.handle.lookupByUUIDString(uuid))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_INVALID_ARG:
            return None
        _raise_unless_missing(error, uuid)
        return None


def list_domains(connection: Connection) -> list[Domain]:
    """All domains, active and inactive, persistent and transient."""
    return _list(connection, 0)


def domain_states(connection: Connection) -> dict[str, str]:
    """The states of all domains by UUID, in one call; nothing where the driver cannot tell them in this way."""
    try:
        found = connection.handle.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE, 0)
    except libvirt.libvirtError:
        return {}
    return {handle.UUIDString(): _STATES.get(stats.get("state.state"), "no state") for handle, stats in found}


def list_active_domains(connection: Connection) -> list[Domain]:
    """Return the active domains."""
    return _list(connection, libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)


def list_saved_domains(connection: Connection) -> list[Domain]:
    """Return the domains with a managed-save image."""
    return _list_if_known(connection, libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)


def list_domains_with_snapshots(connection: Connection) -> list[Domain]:
    """Return the domains of which libvirt keeps snapshots."""
    return _list_if_known(connection, libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT)


def list_domains_with_checkpoints(connection: Connection) -> list[Domain]:
    """Return the domains of which libvirt keeps checkpoints; before libvirt 5.6 there are none."""
    return _list_if_known(connection, libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_CHECKPOINT)


def _list_if_known(connection: Connection, flags: int) -> list[Domain]:
    """Return the domains that match the flags; none where the driver does not know the flags."""
    try:
        return _list(connection, flags)
    except HypervisorError as error:
        if error.code in _UNKNOWN:
            return []
        raise


def _list(connection: Connection, flags: int) -> list[Domain]:
    with translating_errors("cannot list the domains"):
        return [Domain(handle) for handle in connection.handle.listAllDomains(flags)]


def _raise_unless_missing(error: libvirt.libvirtError, what: str) -> None:
    translation: VirtomateError = translate(error, f"cannot look up domain '{what}'")
    if not isinstance(translation, NotFoundError):
        raise translation from error
