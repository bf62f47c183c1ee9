"""The one look at all domains of a connection: who uses which MAC address, and which files are open for writing."""

from __future__ import annotations

import os
import posixpath
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from virtomate.definition import codec, file_readers, readers
from virtomate.definition.mentions import read_mentions
from virtomate.errors import ConflictError, NotFoundError, UsageError, VirtomateError
from virtomate.hypervisor.domains import find_domain_by_uuid, list_active_domains, list_domains
from virtomate.paths import normalise
from virtomate.services.clone.taken import NamedFiles, named_files
from virtomate.services.definitions import Definitions
from virtomate.services.transaction import submit
from virtomate.tuples import NamedTuple
from virtomate.words import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from virtomate.definition.codec import Document
    from virtomate.definition.mentions import Place
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.services.clone.original import Source
    from virtomate.services.clone_records import CloneRequest

    Borrow = Callable[[], AbstractContextManager[Connection]]

# Whoever reads a definition waits for libvirt most of the time; opening a connection takes as long as a few dozens.
_DOMAINS_FOR_A_HELPER = 100
_MAX_HELPERS = 3

# Where libvirt keeps the state of emulated TPMs, by the UUID of the domain (src/qemu/qemu_conf.c).
_TPM_STATES = "/var/lib/libvirt/swtpm"


class Identities(NamedTuple):
    """What is in use on a connection.

    Attributes:
        names: Of all domains.
        mac_addresses: Names of the domains by the MAC addresses of their interfaces, in lower case.
        named: Files that definitions name.
        writers: Who has a disk open for writing: the name of the active domain, by the disk's path, or by its pool and
            volume where the disk is named by those.
        abridged: Names of domains of which libvirt tells the disks, and not the MAC addresses.
    """

    names: frozenset[str]
    mac_addresses: Mapping[str, str]
    named: NamedFiles
    writers: dict[str | tuple[str, str], str]
    abridged: frozenset[str] = frozenset()


def scan_identities(connection: Connection, borrow: Borrow | None = None) -> Identities:
    """Look at every domain once; an active one twice, since its next start may use other things than it does now.

    A domain that vanishes meanwhile is passed over.

    Args:
        connection: The connection.
        borrow: Gives further ones for a while, so that many domains can be looked at by several threads.
    """
    writers: dict[str | tuple[str, str], str] = {}
    domains = list_domains(connection)
    definitions = Definitions()
    scan = _Scan(domains, definitions)
    scan.run(borrow)
    mac_addresses = dict(scan.mac_addresses)
    for domain in list_active_domains(connection):
        try:
            live = codec.parse_definition(definitions.live(domain)).domain
        except NotFoundError:
            continue
        mac_addresses.update(dict.fromkeys(readers.mac_addresses(live), domain.name))
        for disk in file_readers.open_for_writing(live):
            if disk.path is not None:
                writers[normalise(disk.path)] = domain.name
            if disk.pool is not None and disk.volume is not None:
                writers[disk.pool, disk.volume] = domain.name
    names = frozenset(domain.name for domain in domains)
    named = named_files(scan.named)
    return Identities(names, mac_addresses, named, writers, frozenset(definitions.abridged))


class _Scan:
    """The reading of all domains' MAC addresses and files, by several threads where there are many domains.

    The definitions are not turned into dicts: with a thousand domains that would take longer than the clone.

    Attributes:
        named: For each domain its name, and what it names.
    """

    def __init__(self, domains: list[Domain], definitions: Definitions) -> None:
        self._domains = domains
        self._definitions = definitions
        self._left = deque(domain.name for domain in domains)
        self.mac_addresses: dict[str, str] = {}
        self.named: list[tuple[str, frozenset[Place]]] = []

    def run(self, borrow: Borrow | None) -> None:
        """Read them."""
        count = 0 if borrow is None else min(len(self._domains) // _DOMAINS_FOR_A_HELPER, _MAX_HELPERS)
        if borrow is not None and count:
            with ThreadPoolExecutor(count, "scan-") as helpers:
                for _ in range(count):
                    submit(helpers, self._help, borrow)
                self._read(self._domains)
        # all, or what a helper whose connection failed has left
        self._read(self._domains)

    def _help(self, borrow: Borrow) -> None:
        with suppress(VirtomateError), borrow() as connection:
            self._read(list_domains(connection))

    def _read(self, domains: list[Domain]) -> None:
        """Read those that nobody has read yet."""
        by_name = {domain.name: domain for domain in domains}
        with suppress(IndexError):
            while True:
                name = self._left.pop()
                try:
                    if name in by_name:
                        self._read_one(by_name[name])
                except BaseException:
                    self._left.append(name)
                    raise

    def _read_one(self, domain: Domain) -> None:
        with suppress(NotFoundError):
            mentions = read_mentions(self._definitions.inactive(domain))
            self.mac_addresses.update(dict.fromkeys(mentions.mac_addresses, domain.name))
            self.named.append((domain.name, mentions.paths | mentions.volumes))


def check_identity(connection: Connection, request: CloneRequest, source: Source, identities: Identities) -> None:
    """Refuse a UUID or MAC address that was asked for and cannot be had."""
    refuse_taken_uuid(connection, request)
    if request.uuid is not None:
        _refuse_tpm_state(connection, request.uuid, source.definition.domain)
    count = len(readers.mac_addresses(source.definition.domain))
    if len(request.mac_addresses) > count:
        raise UsageError(
            f"--mac gives {counted(len(request.mac_addresses), 'MAC address')}, but domain "
            f"'{source.reference.name}' has {counted(count, 'network interface')}"
        )
    for address in request.mac_addresses:
        if address in identities.mac_addresses:
            raise ConflictError(
                f"MAC address '{address}' is already used by domain '{identities.mac_addresses[address]}'",
                hint="Choose another address, or let virtomate choose one.",
            )


def refuse_taken_uuid(connection: Connection, request: CloneRequest) -> None:
    """Refuse a UUID that was asked for and is another domain's."""
    if request.uuid is not None and (holder := find_domain_by_uuid(connection, request.uuid)) is not None:
        raise ConflictError(
            f"domain '{holder.name}' already has the UUID '{request.uuid}'",
            hint="Leave out --uuid, or choose another UUID.",
        )


def _refuse_tpm_state(connection: Connection, uuid: str, domain: Document) -> None:
    """Refuse a UUID under which the state of an emulated TPM is kept: the clone would start with that."""
    if not connection.is_local or connection.is_session or not readers.devices(domain, "tpm"):
        return
    path = posixpath.join(_TPM_STATES, uuid)
    if os.path.lexists(path):
        raise ConflictError(
            f"'{path}' holds the state of a TPM, which the clone would take for its own",
            hint="Leave out --uuid, choose another UUID, or move that directory away.",
        )
