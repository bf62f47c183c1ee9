"""The libvirt where the clones will live: the identities and files in use there, and what clones cannot have."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from virtomate.definition import codec, file_readers, readers
from virtomate.definition.provenance import find_provenance
from virtomate.errors import ConflictError, NotFoundError, UsageError, VirtomateError, combined_error, rewording
from virtomate.hypervisor.domains import find_domain_by_name, find_domain_by_uuid, list_active_domains, list_domains
from virtomate.paths import normalise
from virtomate.services.clone.in_use import InUse
from virtomate.services.clone.original import describe_unfinished
from virtomate.services.definitions import Definitions
from virtomate.services.transaction import submit
from virtomate.services.trust import admit
from virtomate.tuples import NamedTuple
from virtomate.words import Reach, counted, quoted, virtomate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from virtomate.enums import Transfer
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.notices import Notice
    from virtomate.services.clone.original import Source
    from virtomate.services.clone.volume_names import TakenNames
    from virtomate.services.clone_records import CloneRequest
    from virtomate.services.other_host import Crossing
    from virtomate.services.storage import PoolEntry, PoolIndex, SpaceLedger
    from virtomate.services.trust import PoolGate, Trust

    Borrow = Callable[[], AbstractContextManager[Connection]]

# Reading a definition is mostly waiting for libvirt; opening a connection takes as long as reading a few dozen.
_DOMAINS_FOR_A_HELPER = 100
_MAX_HELPERS = 3


class Identities(NamedTuple):
    """The identities and files in use on a connection.

    Attributes:
        names: The names of all domains.
        in_use: The MAC addresses, files and volumes that the domains name.
        writers: The names of the active domains that have a disk open for writing, by the disk's path or URL, or by
            pool and volume where the definition names those.
        abridged: The names of domains of which libvirt tells the disks, but not the MAC addresses.
    """

    names: frozenset[str]
    in_use: InUse
    writers: dict[str | tuple[str, str], str]
    abridged: frozenset[str] = frozenset()

    def without_writer(self, name: str) -> Identities:
        """Return the same, but for the disks that one domain has open: it will be shut down, or may write."""
        return self._replace(writers={disk: writer for disk, writer in self.writers.items() if writer != name})


class Side(NamedTuple):
    """One of the two hosts of a run, as it was looked at: that of the original, or that where the clones will live.

    Attributes:
        gate: Tells how far the directories of pools are trusted.
        space: The space that the volumes planned so far will take there.
        taken: The names that new volumes cannot have there.
    """

    connection: Connection
    identities: Identities
    pools: PoolIndex
    gate: PoolGate
    space: SpaceLedger
    taken: TakenNames


class Survey(NamedTuple):
    """What is known before the clones of a request are planned one after another.

    Attributes:
        original: The host of the original.
        target: The host where the clones will live; mostly the same object.
        is_leaving: Whether what is planned is only a step on the way to another host.
        crossing: How the clones get to another host, None where they stay.
    """

    request: CloneRequest
    source: Source
    original: Side
    target: Side
    is_leaving: bool = False
    crossing: Crossing | None = None

    @property
    def has_two_hosts(self) -> bool:
        """Whether the clones will live on another host than the original."""
        return self.target is not self.original

    @property
    def connection(self) -> Connection:
        """The connection to the host of the original."""
        return self.original.connection

    @property
    def pools(self) -> PoolIndex:
        """The pools on the host of the original."""
        return self.original.pools

    @property
    def keeps_owner(self) -> bool:
        """Whether new volumes get the owners of their originals; an unprivileged daemon cannot give files away."""
        # users have other numbers on another host
        return not self.has_two_hosts and not self.target.connection.is_session

    def has_address(self, address: str) -> bool:
        """Return whether a domain on either host uses a MAC address, which is in lower case."""
        return any(side.identities.in_use.owner_of_address(address) is not None for side in self.sides)

    @property
    def sides(self) -> tuple[Side, ...]:
        """The hosts, each once."""
        return (self.target, self.original) if self.has_two_hosts else (self.target,)

    def admit(
        self, transfers: tuple[Transfer, ...], written: PoolEntry, read: Iterable[PoolEntry], what: str
    ) -> tuple[tuple[Transfer, ...], tuple[Notice, ...]]:
        """Return the transfers that may be used, and warnings of the directories, see `admitted`.

        Args:
            transfers: The possible transfers, the best first.
            written: The pool of the new volume.
            read: The pools of the volumes that are read, on the host of the original.
            what: What is duplicated, such as `disk vda`.

        Raises:
            IllegalStateError: No transfer may be used.
        """
        assessed: dict[tuple[int, str], Trust] = {}
        for side, known in ((self.target, written), *((self.original, entry) for entry in read)):
            trust = side.gate.assess(side.connection, known.pool, known.description)
            assessed.setdefault((id(side), known.pool.name), trust)
        return admit(transfers, list(assessed.values()), what)

    @property
    def has_siblings(self) -> bool:
        """Whether the run makes several clones."""
        return self.request.beside + max(len(self.request.names), self.request.auto_names) > 1

    def gives_way(self, path: str) -> bool:
        """Return whether the file with a path is deleted before the clones are made."""
        return normalise(path) in self.request.giving_way.paths


def scan_identities(
    connection: Connection, borrow: Borrow | None = None, leaving: frozenset[str] = frozenset()
) -> Identities:
    """Look at every domain once; at an active domain twice, since its next start may use other things.

    A domain that vanishes meanwhile is ignored, and so are the domains with the UUIDs in `leaving`. `borrow` opens
    further connections, so that several threads can look at many domains.
    """
    domains = [domain for domain in list_domains(connection) if domain.uuid not in leaving]
    scan = _Scan(domains)
    scan.run(borrow)
    writers: dict[str | tuple[str, str], str] = {}
    for domain in list_active_domains(connection):
        try:
            live = scan.definitions.live(domain)
        except NotFoundError:
            continue
        scan.in_use.add(domain.name, live)
        for disk in file_readers.open_for_writing(codec.parse_definition(live).domain):
            if disk.path is not None:
                writers[normalise(disk.path)] = domain.name
            if disk.type == "network" and disk.address is not None:
                writers[disk.address] = domain.name
            if disk.pool is not None and disk.volume is not None:
                writers[disk.pool, disk.volume] = domain.name
    names = frozenset(domain.name for domain in domains)
    return Identities(names, scan.in_use, writers, frozenset(scan.definitions.abridged))


class _Scan:
    """The reading of all domains' definitions, by several threads where there are many domains."""

    def __init__(self, domains: list[Domain]) -> None:
        self.definitions = Definitions()
        self.in_use = InUse()
        self._domains = domains
        self._left = deque(domain.name for domain in domains)

    def run(self, borrow: Borrow | None) -> None:
        """Read all domains."""
        count = min(len(self._domains) // _DOMAINS_FOR_A_HELPER, _MAX_HELPERS)
        if borrow is not None and count:
            with ThreadPoolExecutor(count, "scan-") as helpers:
                for _ in range(count):
                    submit(helpers, self._help, borrow)
                self._read(self._domains)
        # all domains, or those that a helper with a broken connection has left
        self._read(self._domains)

    def _help(self, borrow: Borrow) -> None:
        with suppress(VirtomateError), borrow() as connection:
            self._read(list_domains(connection))

    def _read(self, domains: list[Domain]) -> None:
        """Read the domains that no thread has read yet."""
        by_name = {domain.name: domain for domain in domains}
        with suppress(IndexError):
            while True:
                name = self._left.pop()
                try:
                    if name in by_name:
                        self._read_domain(by_name[name])
                except BaseException:
                    self._left.append(name)
                    raise

    def _read_domain(self, domain: Domain) -> None:
        with suppress(NotFoundError):
            self.in_use.add(domain.name, self.definitions.inactive(domain))


def refuse_taken_names(connection: Connection, names: Iterable[str]) -> None:
    """Raise ConflictError for all names of existing domains at once."""
    taken, refusals = [], []
    for name in names:
        domain = find_domain_by_name(connection, name)
        if domain is None:
            continue
        if (unfinished := _unfinished(domain)) is None:
            taken.append(name)
        else:
            what, cure = unfinished
            refusals.append(ConflictError(f"there is already a domain '{name}', {what}", cure))
    if len(taken) == 1:
        hint = "Choose another name for the clone. --if-exists keeps or replaces a clone of this name."
        refusals.append(ConflictError(f"there is already a domain '{taken[0]}'", hint))
    elif taken:
        hint = "Choose other names for the clones. --if-exists keeps or replaces clones of these names."
        refusals.append(ConflictError(f"there are already domains {quoted(taken)}", hint))
    if refusals:
        raise combined_error(refusals)


def check_identity(connection: Connection, request: CloneRequest, source: Source, identities: Identities) -> None:
    """Refuse a UUID or MAC address that was asked for and that the clone cannot have."""
    refuse_taken_uuid(connection, request)
    count = len(readers.mac_addresses(source.definition.domain))
    if len(request.mac_addresses) > count:
        raise UsageError(
            f"--mac gives {counted(len(request.mac_addresses), 'MAC address')}, but domain "
            f"'{source.reference.name}' has {counted(count, 'network interface')}"
        )
    for address in request.mac_addresses:
        if (owner := identities.in_use.owner_of_address(address)) is not None:
            raise ConflictError(
                f"MAC address '{address}' is already used by domain '{owner}'",
                hint="Choose another address, or let virtomate choose one.",
            )


def refuse_taken_uuid(connection: Connection, request: CloneRequest) -> None:
    """Raise ConflictError if another domain has the UUID that was asked for."""
    if request.uuid is None or request.uuid in request.giving_way.uuids:
        return
    if (holder := find_domain_by_uuid(connection, request.uuid)) is None:
        return
    advice = "Leave out --uuid, or choose another UUID."
    if (unfinished := _unfinished(holder)) is None:
        raise ConflictError(f"domain '{holder.name}' already has the UUID '{request.uuid}'", advice)
    what, cure = unfinished
    raise ConflictError(f"domain '{holder.name}', {what}, already has the UUID '{request.uuid}'", f"{cure} {advice}")


def _unfinished(domain: Domain) -> tuple[str, str] | None:
    """Return how a sentence calls an unfinished clone or import, and the hint how to remove it; None for the others."""
    provenance = find_provenance(Definitions().inactive(domain), domain.uuid)
    if provenance is None or provenance.finished:
        return None
    delete = virtomate("domain-delete", domain.name)
    return (
        describe_unfinished(provenance),
        f"If no other virtomate is making that domain, {delete} removes the domain and its volumes.",
    )


@contextmanager
def errors_of(uri: str | None) -> Iterator[None]:
    """Let the commands in an error of the block reach another libvirt than the one in use; None for the one in use."""
    with rewording(str if uri is None else Reach(uri, uri).fill):
        yield
