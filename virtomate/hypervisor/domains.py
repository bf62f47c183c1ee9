"""Domains of a connection, and what libvirt says of their definitions."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import libvirt

from virtomate.errors import (
    ConflictError,
    HypervisorError,
    IllegalStateError,
    NoFirmwareError,
    NotFoundError,
    OversizeError,
    SchemaError,
)
from virtomate.hypervisor.translate import Answer, look_up, one_line, sanitise, translate, translating_errors
from virtomate.words import virsh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from virtomate.hypervisor.connection import Connection

SHUT_OFF = "shut-off"
# The names that virtomate 0.1.2 documented; https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainState
_STATES = {
    libvirt.VIR_DOMAIN_NOSTATE: "no state",
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "blocked",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "shutdown",
    libvirt.VIR_DOMAIN_SHUTOFF: SHUT_OFF,
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "suspended",
}
_Stats: TypeAlias = list[tuple[libvirt.virDomain, dict[str, Any]]]

# of a driver that does not know a flag
_UNKNOWN = (libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED)


def _told(ask: Callable[[], Answer], otherwise: Answer) -> Answer:
    """Return the driver's answer, or another value for any error: few drivers know snapshots, for example."""
    try:
        return ask()
    except libvirt.libvirtError:
        return otherwise


class DomainRecord:
    """A snapshot or checkpoint that libvirt keeps a document of."""

    def __init__(self, handle: libvirt.virDomainSnapshot | libvirt.virDomainCheckpoint) -> None:
        self.name: str = handle.getName()
        self._handle = handle

    def document(self) -> str:
        """Return the document, with the definition that the domain had then."""
        with translating_errors(f"cannot read '{self.name}'"):
            return sanitise(lambda: self._handle.getXMLDesc(0))


class Domain:
    """A domain that libvirt knew when it was looked up."""

    def __init__(self, handle: libvirt.virDomain) -> None:
        self.handle = handle
        self.name: str = handle.name()
        self.uuid: str = handle.UUIDString()

    @property
    def run_id(self) -> int:
        """A number that differs from run to run of an active domain; -1 for an inactive one."""
        return int(self.handle.ID())

    def state(self) -> str:
        """Return the state by its documented name."""
        with translating_errors(f"cannot read the state of domain '{self.name}'"):
            return _STATES.get(self.handle.state(0)[0], "no state")

    def is_active(self) -> bool:
        """Return whether the domain runs in any way, paused included."""
        with translating_errors(f"cannot read the state of domain '{self.name}'"):
            return bool(self.handle.isActive())

    def is_persistent(self) -> bool:
        """Return whether libvirt keeps the domain when it is shut off."""
        with translating_errors(f"cannot read the state of domain '{self.name}'"):
            return bool(self.handle.isPersistent())

    def has_managed_save(self) -> bool:
        """Return whether the domain has a managed-save image."""
        with translating_errors(f"cannot read the state of domain '{self.name}'"):
            return bool(self.handle.hasManagedSaveImage(0))

    def snapshot_count(self) -> int:
        """Return the number of snapshots that libvirt keeps of the domain."""
        return _told(lambda: int(self.handle.snapshotNum(0)), 0)

    def external_snapshot_count(self) -> int:
        """Return the number of external snapshots, which made overlays."""
        return _told(lambda: int(self.handle.snapshotNum(libvirt.VIR_DOMAIN_SNAPSHOT_LIST_EXTERNAL)), 0)

    def external_snapshots(self) -> tuple[tuple[str, str], ...]:
        """Return the names and documents of external snapshots, each before the snapshot that it was made on."""
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_LIST_EXTERNAL | libvirt.VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL
        found: list[tuple[str, str]] = _told(
            lambda: [(item.getName(), item.getXMLDesc(0)) for item in self.handle.listAllSnapshots(flags)],
            [],
        )
        return tuple(reversed(found))

    def checkpoint_count(self) -> int:
        """Return the number of checkpoints that libvirt keeps of the domain."""
        return _told(lambda: len(self.handle.listAllCheckpoints(0)), 0)

    def is_autostarted(self) -> bool:
        """Return whether libvirt starts the domain with the host."""
        return _told(lambda: bool(self.handle.autostart()), False)

    def set_autostart(self, is_on: bool) -> None:
        """Have libvirt start the domain with the host, or not."""
        with translating_errors(f"cannot change the autostart of domain '{self.name}'"):
            self.handle.setAutostart(int(is_on))

    def inactive_definition(self) -> str:
        """Return the definition that the next start will use, passwords included."""
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
        with self._reading_definition():
            return str(self.handle.XMLDesc(flags))

    def inactive_definition_without_secrets(self) -> str:
        """Return the definition that the next start will use, without passwords; a read-only connection may see it."""
        with self._reading_definition():
            return str(self.handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))

    def active_definition(self) -> str:
        """Return the definition that an active domain runs with, passwords included."""
        with self._reading_definition():
            return str(self.handle.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE))

    def live_definition(self) -> str:
        """Return the current definition, which for an active domain names the files in use."""
        with self._reading_definition():
            # a live definition shows the backing chain that libvirt found in the images
            return sanitise(lambda: self.handle.XMLDesc(0))

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
        """Return the element of the metadata in a namespace, without the namespace; None where there is none.

        Raises:
            HypervisorError: libvirt cannot tell: a lost connection makes no clone an ordinary domain.
        """
        return look_up(
            lambda: str(self.handle.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, namespace)),
            f"cannot read the metadata of domain '{self.name}'",
            libvirt.VIR_ERR_NO_DOMAIN_METADATA,
            libvirt.VIR_ERR_NO_DOMAIN,
            # of a driver without metadata
            libvirt.VIR_ERR_NO_SUPPORT,
            libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
        )

    def disk_paths(self) -> tuple[str, ...]:
        """Return the paths of the disks by libvirt's statistics; nothing where libvirt cannot tell."""
        kinds, flags = libvirt.VIR_DOMAIN_STATS_BLOCK, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        found: _Stats = _told(lambda: self.handle.connect().domainListGetStats([self.handle], kinds, flags), [])
        return tuple(str(value) for _, stats in found for key, value in stats.items() if key.endswith(".path"))

    def saved_definition(self) -> str:
        """Return the definition in the managed-save image, for the next start; HypervisorError without an image."""
        with translating_errors(f"cannot read the managed-save image of domain '{self.name}'"):
            return sanitise(lambda: self.handle.managedSaveGetXMLDesc(0))

    def snapshots(self) -> list[DomainRecord]:
        """Return the snapshots that libvirt keeps."""
        with translating_errors(f"cannot list the snapshots of domain '{self.name}'"):
            return [DomainRecord(found) for found in self.handle.listAllSnapshots(0)]

    def checkpoints(self) -> list[DomainRecord]:
        """Return the checkpoints that libvirt keeps."""
        with translating_errors(f"cannot list the checkpoints of domain '{self.name}'"):
            return [DomainRecord(found) for found in self.handle.listAllCheckpoints(0)]

    def rename(self, name: str) -> None:
        """Rename the domain.

        Raises:
            ConflictError: Another domain has the name.
            NoSpaceError: libvirt has no room for the definition.
            HypervisorError: libvirt cannot rename the domain.
        """
        try:
            self.handle.rename(name, 0)
        except libvirt.libvirtError as error:
            translation = translate(error, f"cannot rename domain '{self.name}'", f"the definition of '{name}'")
            # an invalid operation has other reasons than a taken name, too
            if isinstance(translation, IllegalStateError) and self._is_taken(name):
                translation = ConflictError(f"there is already a domain '{name}'")
            raise translation from error

    def _is_taken(self, name: str) -> bool:
        return _told(lambda: bool(self.handle.connect().lookupByName(name)), False)

    def start(self) -> None:
        """Start the domain, or raise HypervisorError."""
        with translating_errors(f"cannot start domain '{self.name}'"):
            self.handle.create()

    def shut_down(self) -> None:
        """Ask the guest to shut down: its agent where it has one, else by ACPI, as libvirt chooses."""
        with translating_errors(f"cannot shut down domain '{self.name}'"):
            self.handle.shutdown()

    def end(self) -> None:
        """End an active domain at once, as if its power were cut; a domain that is off by then is none the worse."""
        try:
            with translating_errors(f"cannot end domain '{self.name}'"):
                self.handle.destroy()
        except IllegalStateError:
            if self.is_active():
                raise

    def discard_managed_save(self) -> None:
        """Remove the managed-save image."""
        with translating_errors(f"cannot remove the managed-save image of domain '{self.name}'"):
            self.handle.managedSaveRemove(0)

    def undefine_with_state(self) -> None:
        """Remove the definition and all that libvirt keeps with it but the NVRAM, which would be deleted by its path.

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
            self.handle.undefineFlags(flags)

    def undefine_keeping_nvram(self) -> None:
        """Remove the definition alone: libvirt would delete the NVRAM by its path, even another domain's."""
        with translating_errors(f"cannot undefine domain '{self.name}'"):
            self.handle.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)


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
    raise connection.missing(
        "domain", name_or_uuid, lambda: [known.name for known in list_domains(connection)], "domain-list"
    )


def find_domain_by_name(connection: Connection, name: str) -> Domain | None:
    """Return the domain with this name, or None."""
    return _find(connection.handle.lookupByName, name)


def find_domain_by_uuid(connection: Connection, uuid: str) -> Domain | None:
    """Return the domain with this UUID; None where there is none, or the text is not a UUID."""
    return _find(connection.handle.lookupByUUIDString, uuid)


def _find(find: Callable[[str], libvirt.virDomain], what: str) -> Domain | None:
    # a text that is not a UUID is an invalid argument
    absent = (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_INVALID_ARG)
    return look_up(lambda: Domain(find(what)), f"cannot look up domain '{what}'", *absent)


def list_domains(connection: Connection) -> list[Domain]:
    """Return all domains, active and inactive, persistent and transient."""
    return _list(connection, 0)


def domain_states(connection: Connection) -> dict[str, str]:
    """Return the states of all domains by UUID, in one call; nothing where the driver does not know that call."""
    found: _Stats = _told(lambda: connection.handle.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE, 0), [])
    return {handle.UUIDString(): _STATES.get(stats.get("state.state"), "no state") for handle, stats in found}


def list_active_domains(connection: Connection) -> list[Domain]:
    """Return the active domains."""
    return _list(connection, libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)


def list_saved_domains(connection: Connection) -> list[Domain]:
    """Return the domains with a managed-save image."""
    return _list(connection, libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE, *_UNKNOWN)


def list_domains_with_snapshots(connection: Connection) -> list[Domain]:
    """Return the domains of which libvirt keeps snapshots."""
    return _list(connection, libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT, *_UNKNOWN)


def list_domains_with_checkpoints(connection: Connection) -> list[Domain]:
    """Return the domains of which libvirt keeps checkpoints."""
    return _list(connection, libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_CHECKPOINT, *_UNKNOWN)


def _list(connection: Connection, flags: int, *unknown: int) -> list[Domain]:
    """Return the domains that match the flags; none where the driver does not know the flags."""
    found = look_up(lambda: connection.handle.listAllDomains(flags), "cannot list the domains", *unknown)
    return [Domain(handle) for handle in found or ()]


def define_domain(connection: Connection, name: str, definition: str) -> Domain:
    """Define a domain, or redefine the domain with the same name and UUID.

    libvirt does not check the schema here, which takes as long as all the rest; `check_definition` has it checked.

    Raises:
        ConflictError: Another domain has the name or the UUID.
        NoSpaceError: libvirt has no room for the definition, and keeps the former one.
        HypervisorError: libvirt does not accept the definition.
    """
    try:
        return Domain(connection.handle.defineXMLFlags(definition, 0))
    except libvirt.libvirtError as error:
        # a failed operation has other reasons than a taken name, too
        if _is_about_names(error):
            holder = find_domain_by_name(connection, name)
            # a domain that is redefined stands in nobody's way
            if holder is not None and f"<uuid>{holder.uuid}</uuid>" not in definition:
                raise ConflictError(f"there is already a domain '{name}'") from error
        failure = f"libvirt does not accept the definition of '{name}'"
        raise translate(error, failure, f"the definition of '{name}'") from error


def check_definition(connection: Connection, name: str, definition: str, *, with_schema: bool = True) -> None:
    """Have libvirt judge a definition without defining it.

    The definition must have the UUID of an existing domain under another name: libvirt then parses all of the
    definition, checks the schema, and refuses only in the end, since one UUID cannot have two names.

    Raises:
        SchemaError: The definition does not pass the schema.
        HypervisorError: libvirt does not accept the definition.
    """
    try:
        handle = connection.handle.defineXMLFlags(definition, libvirt.VIR_DOMAIN_DEFINE_VALIDATE if with_schema else 0)
    except libvirt.libvirtError as error:
        if _is_about_names(error):
            return
        code = error.get_error_code()
        translation = translate(error, f"libvirt does not accept the definition of '{name}'")
        if code == libvirt.VIR_ERR_XML_INVALID_SCHEMA:
            translation = SchemaError(translation.message, code=code)
        raise translation from error
    # the domain that should have been in the way is gone
    Domain(handle).undefine_keeping_nvram()
    raise HypervisorError(f"somebody else undefined the domain that kept libvirt from defining '{name}' when asked")


def _is_about_names(error: libvirt.libvirtError) -> bool:
    """Return whether a definition was refused for name and UUID alone: such errors come from the list of domains."""
    told = (error.get_error_domain(), error.get_error_code())
    return told == (libvirt.VIR_FROM_DOMAIN, libvirt.VIR_ERR_OPERATION_FAILED)


def native_command_line(connection: Connection, definition: str) -> str:
    """Return the command line that libvirt would start the domain with; nothing is started or defined.

    Raises:
        NoFirmwareError: No installed firmware fits the definition.
        HypervisorError: libvirt could not start the domain for another reason.
    """
    try:
        return str(connection.handle.domainXMLToNative("qemu-argv", definition, 0))
    except libvirt.libvirtError as error:
        # of all that goes wrong before a start, only the search for firmware is a failed operation
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_FAILED:
            raise NoFirmwareError(one_line(error), code=error.get_error_code()) from error
        raise translate(error, "cannot ask libvirt how it would start the domain") from error
