"""Clones that stand for those that are asked for: of the same original, made in the same mode, and whole."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from virtomate.definition import codec, file_readers, readers
from virtomate.definition.tpm import has_emulated_tpm, read_tpm
from virtomate.enums import Action, ArtifactKind, SideFileAction, Status, TpmTreatment
from virtomate.errors import ConflictError, NotFoundError, VirtomateError, combined_error
from virtomate.hypervisor.domains import find_domain, find_domain_by_name
from virtomate.hypervisor.host import host_name
from virtomate.paths import normalise
from virtomate.services.clone import errors_of
from virtomate.services.clone_parts import DiskResult, InterfaceResult, NvramResult, TpmResult, VolumeReference
from virtomate.services.clone_records import CloneResult
from virtomate.services.delete import judge_made
from virtomate.services.linked import Sights, refuse_broken
from virtomate.services.origins import find_record
from virtomate.services.storage import is_running, read_pools
from virtomate.services.storage.artifacts import OWN, Verdict, name_artifact

if TYPE_CHECKING:
    from virtomate.definition.codec import Definition
    from virtomate.definition.provenance import Provenance
    from virtomate.hypervisor.domains import Domain
    from virtomate.services.clone_records import CloneRequest
    from virtomate.services.storage import PoolIndex
    from virtomate.services.transaction import Run

_NO_VOLUME = VolumeReference(None, None, None, None)
_ADVICE = "Choose another name for the clone, or delete that domain first."


def find_kept(run: Run, requests: tuple[CloneRequest, ...]) -> dict[str, CloneResult]:
    """Return the clones of requests for one original that exist already where clones would be made, by name.

    Raises:
        NotFoundError: There is no original of that name or UUID.
        ConflictError: A domain has the name of a clone, and is another one than is asked for.
        IllegalStateError: Such a clone is not finished, lacks a volume, or rests on an image that was changed.
        InterruptedBySignalError: A signal arrived.
    """
    original = find_domain(run.source.connection, requests[0].source)
    kept, errors = {}, []
    wanted = {name: request for request in requests for name in request.names}
    with errors_of(requests[0].target_uri):
        look = _Look(run, original)
        for name, request in wanted.items():
            run.cancel.check()
            if (found := find_domain_by_name(run.target.connection, name)) is None:
                continue
            try:
                kept[name] = look.keep(found, request.only({name}))
            except NotFoundError:
                # it has vanished meanwhile
                continue
            except VirtomateError as error:
                errors.append(error)
        if errors:
            raise combined_error(errors)
    return kept


class _Look:
    """Judges the domains that have the names of clones; pools and bases are looked at once."""

    def __init__(self, run: Run, original: Domain) -> None:
        self._connection = run.target.connection
        self._original = original
        # the names of the original's host and the clone's, None for one host
        self._from = host_name(run.source.connection) if run.has_two_hosts else None
        self._host = host_name(self._connection) if run.has_two_hosts else None
        self._pools: PoolIndex = read_pools(self._connection)
        self._sights = Sights(self._connection)

    def keep(self, domain: Domain, wanted: CloneRequest) -> CloneResult:
        """Return the clone that a domain is, or raise the error that names the difference to the request for it."""
        name, record = domain.name, find_record(domain)
        definition = codec.parse_definition(domain.inactive_definition_without_secrets())
        if record is None:
            raise ConflictError(f"there is already a domain '{name}', which virtomate did not make", hint=_ADVICE)
        unfitness = _unfitness(record) or _other_tpm(definition, record, wanted)
        if (difference := unfitness or self._difference(definition, record, wanted)) is not None:
            raise ConflictError(f"there is already a domain '{name}', which {difference}", hint=_ADVICE)
        for made in record.made:
            if made.kind is ArtifactKind.POOL:
                continue
            known = self._pools.find(made.pool)
            judgement, _ = judge_made(self._connection, definition, record, made, known)
            # without a pool, the NVRAM on another host cannot be seen
            is_hidden = judgement.verdict is Verdict.AWAY and made.kind is ArtifactKind.NVRAM
            if judgement.verdict not in OWN and not is_hidden:
                reason = judgement.reason or "does not exist any more"
                raise ConflictError(f"the clone '{name}' is not whole: {name_artifact(made)} {reason}", hint=_ADVICE)
        refuse_broken(self._connection, name, record, self._sights)
        return self._result(domain, definition, record)

    def _difference(self, definition: Definition, record: Provenance, request: CloneRequest) -> str | None:
        """Return how a finished clone differs from the clone that is asked for, as the end of a sentence."""
        source = f"'{record.source.name}'"
        if (record.host, record.source.uuid) != (self._from, self._original.uuid):
            return self._other_original(record)
        if record.snapshot != request.snapshot:
            at = "at no snapshot" if record.snapshot is None else f"at snapshot '{record.snapshot}'"
            return f"is a clone of {source} {at}"
        if record.mode is not request.mode:
            return f"is a clone of {source} in mode {record.mode.value}"
        wanted, uuid = request.mac_addresses, readers.uuid(definition.domain)
        macs = readers.mac_addresses(definition.domain)
        if request.uuid not in {None, uuid}:
            return f"has the UUID '{uuid}'"
        if macs[: len(wanted)] != wanted:
            noun = "MAC address" if len(macs) == 1 else "MAC addresses"
            return f"has the {noun} {', '.join(macs)}" if macs else "has no MAC address"
        kept = {entry.address for entry in record.entries}
        addresses = (address for wish in request.addresses for address in wish.addresses)
        missing = next((address for address in addresses if address not in kept), None)
        return None if missing is None else f"has no DHCP entry with the address '{missing}'"

    def _other_original(self, record: Provenance) -> str:
        source = f"'{record.source.name}'"
        if record.host != self._from:
            return f"is a clone of {source} on " + (f"host '{record.host}'" if record.host else "its own host")
        is_named_alike = record.source.name == self._original.name
        return f"is a clone of another domain that was called {source}" if is_named_alike else f"is a clone of {source}"

    def _result(self, domain: Domain, definition: Definition, record: Provenance) -> CloneResult:
        described = definition.domain
        nvram = file_readers.nvram(described)
        return CloneResult(
            status=Status.UNCHANGED,
            name=domain.name,
            uuid=domain.uuid,
            source=record.source._replace(name=self._original.name),
            mode=record.mode,
            disks=tuple(self._disk(disk) for disk in file_readers.disks(described)),
            nvram=None if nvram is None else NvramResult(SideFileAction.KEPT, None, nvram.path, nvram.format),
            interfaces=_interfaces(definition, record),
            changes=(),
            warnings=(),
            seconds=0.0,
            consistency=None,
            host=self._host,
            tpm=None if read_tpm(described) is None else TpmResult(SideFileAction.KEPT, None, None),
        )

    def _disk(self, disk: file_readers.DiskDefinition) -> DiskResult:
        pool, volume, path = disk.pool, disk.volume, disk.path
        if pool is not None and volume is not None:
            path = self._pools.path_of(pool, volume)
        elif path is not None and (known := self._pools.covering(posixpath.dirname(normalise(path)))) is not None:
            pool, volume = known.pool.name, posixpath.basename(path)
        clone = VolumeReference(pool, volume, path or disk.address, disk.format)
        return DiskResult(disk.target, Action.KEPT, None, _NO_VOLUME, clone, None, 0, None)


def _other_tpm(definition: Definition, record: Provenance, request: CloneRequest) -> str | None:
    """Return how the TPM of a clone differs from what is asked for, as the end of a sentence; None if it does not."""
    copy = f"a copy of the TPM of '{record.source.name}'"
    if request.tpm is not TpmTreatment.COPY:
        return f"has {copy}" if record.tpm else None
    is_as_asked = record.tpm or record.stateless or not has_emulated_tpm(definition.domain)
    return None if is_as_asked else f"has a TPM of its own, and not {copy}"


def _interfaces(definition: Definition, record: Provenance) -> tuple[InterfaceResult, ...]:
    macs = readers.mac_addresses(definition.domain)
    if not record.entries:
        return tuple(InterfaceResult(mac, None) for mac in macs)
    from virtomate.services.host_entries import reserved_addresses  # noqa: PLC0415 - few clones have an entry

    kept = reserved_addresses(record.entries)
    return tuple(InterfaceResult(mac, None, kept.get(mac)) for mac in macs)


def _unfitness(record: Provenance) -> str | None:
    """Return why a domain with a record is not a finished clone, as the end of a sentence."""
    source = f"'{record.source.name}'"
    if record.finished:
        return f"keeps images of {source} for linked clones" if record.is_moment else None
    if record.maker is not None and is_running(record.maker):
        return f"is an unfinished {record.what} of {source}; process {record.maker.pid} is still at work on it"
    return f"is an unfinished {record.what} of {source}"
