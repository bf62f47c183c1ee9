"""The claim: a small domain that cannot be started, whose metadata keep the journal; and libvirt's verdict on clones.

The claim of a clone has the clone's name and UUID, and becomes the clone; the claim of an import is undefined at the
end. The journal lists what is going to be made and what has been made, with fingerprints: whatever ends the run, the
claim says what is left.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING

from virtomate.definition import codec, readers
from virtomate.definition.mentions import read_mentions
from virtomate.definition.placeholders import claim_definition
from virtomate.definition.provenance import Provenance, find_provenance, read_record, with_provenance
from virtomate.enums import ArtifactKind
from virtomate.errors import (
    ConflictError,
    ConnectionLostError,
    HypervisorError,
    IllegalStateError,
    NotFoundError,
    SchemaError,
    VirtomateError,
)
from virtomate.hypervisor.domains import (
    check_definition,
    define_domain,
    find_domain_by_uuid,
    list_domains,
)
from virtomate.services.definitions import Definitions
from virtomate.services.storage import this_process
from virtomate.services.storage.artifacts import require_intact

if TYPE_CHECKING:
    from virtomate.definition.codec import Definition, Document
    from virtomate.definition.host_entries import HostEntry
    from virtomate.definition.provenance import Artifact, DomainReference
    from virtomate.enums import Mode
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.hypervisor.session import Session
    from virtomate.rollback import Rollback

_LOG = logging.getLogger(__name__)


class ClaimState(Enum):
    """How far a claim is; after COMPLETING it is COMPLETE, or CLAIMED again where libvirt refused."""

    UNCLAIMED = "unclaimed"
    CLAIMED = "claimed"
    COMPLETING = "completing"
    COMPLETE = "complete"


class Claim:
    """The hold on a name, and the journal in it.

    Several threads may record what they made; they take turns on the session's main connection, which nobody else uses
    meanwhile.

    Args:
        like: A domain whose hypervisor, architecture, machine and emulator the claim has.
        is_uuid_given: Whether the user chose the UUID, so that another run may want it, too.
    """

    def __init__(
        self, session: Session, name: str, provenance: Provenance, like: Document, *, is_uuid_given: bool = False
    ) -> None:
        self.provenance = provenance
        self.state = ClaimState.UNCLAIMED
        self._session = session
        self.name = name
        self._like = like
        self._is_uuid_given = is_uuid_given
        self._lock = threading.RLock()

    @property
    def token(self) -> str:
        """The token of everything that is made for the clone."""
        if self.provenance.artifact_token is None:
            raise AssertionError("a new clone has a token")
        return self.provenance.artifact_token

    def take(self) -> None:
        """Take the name, or raise ConflictError if another domain has the name or the UUID."""
        _LOG.info("claiming the name %r with UUID %s", self.name, self.provenance.uuid)
        if self._is_uuid_given:
            self._take_both()
        else:
            self._write()
        # libvirt says nothing when a second define has the same name and UUID
        self._require_ours()
        self.state = ClaimState.CLAIMED

    def find_conflict(self) -> ConflictError | None:
        """Return the error if another domain or claim uses a MAC address or a path that the user requested.

        Other addresses are random, and libvirt gives the names of new volumes only once.
        """
        reserved, definitions = self.provenance.reserved, Definitions()
        others = list_domains(self._session.connection) if reserved else []
        for domain in others:
            if domain.uuid == self.provenance.uuid:
                continue
            with suppress(NotFoundError):
                mentions = read_mentions(definitions.inactive(domain))
                records = (read_record(element, domain.uuid) for element in mentions.records)
                wanted = {value for record in records if record is not None for value in record.reserved}
                taken = wanted | mentions.mac_addresses | mentions.paths
                if (value := next((value for value in reserved if value in taken), None)) is not None:
                    return ConflictError(
                        f"'{value}' is already used by domain '{domain.name}'",
                        hint="Choose another value, or let virtomate choose one.",
                    )
        return None

    def _take_both(self) -> None:
        """Take a UUID that others may want as well, and then the name.

        libvirt replaces a domain silently when another is defined with its name and UUID. With a name that nobody else
        has it refuses a UUID that is taken, and to rename it refuses a name that is taken.
        """
        uuid = self.provenance.uuid
        try:
            domain = self._write(f"virtomate-claim-{self.provenance.token}")
        except ConnectionLostError:
            raise
        except HypervisorError as error:
            if (holder := self._find()) is None:
                raise
            if holder.name == self.name and self._is_ours(holder):
                # the connection broke before libvirt's answer to an earlier attempt
                return
            raise ConflictError(f"domain '{holder.name}' has the UUID '{uuid}'") from error
        domain.rename(self.name)

    def note(self, made: Artifact) -> None:
        """Add a line to the journal; the line is written with the next one that is recorded."""
        with self._lock:
            # in the order of the plan, whichever thread comes first
            noted = {(item.kind, item.path): item for item in self.provenance.made}
            noted[made.kind, made.path] = made
            self.provenance = self.provenance._replace(made=tuple(noted.values()))

    def record(self, made: Artifact) -> None:
        """Write a line of the journal: something is going to be made, or has been made."""
        with self._lock:
            self._require_ours()
            self.note(made)
            self._write()

    def record_entries(self, entries: tuple[HostEntry, ...]) -> None:
        """Write which DHCP entries are going to be made."""
        with self._lock:
            self._require_ours()
            self.provenance = self.provenance._replace(entries=entries)
            self._write()

    def hold_tpm_state(self, *, is_held: bool) -> None:
        """Write whether libvirt removes the state of a TPM by the clone's UUID together with the claim."""
        with self._lock:
            self._require_ours()
            self.provenance = self.provenance._replace(tpm=is_held)
            self._write()

    @property
    def _files(self) -> tuple[Artifact, ...]:
        return tuple(made for made in self.provenance.made if made.kind is not ArtifactKind.POOL)

    def require_intact(self) -> None:
        """Raise IllegalStateError if a file is not the one that was made, or the claim is not ours any more."""
        self._require_ours()
        require_intact(self._session.connection, self._files, self.token)

    def have_autostarted(self) -> None:
        """Have libvirt start the domain with the host, once it is the clone: the claim cannot be started."""
        self._require_ours()
        if (domain := self._find()) is not None:
            domain.set_autostart(True)

    def become(self, definition: Definition) -> None:
        """Replace the claim by the clone, which is complete then.

        Raises:
            IllegalStateError: The claim is not ours any more.
            HypervisorError: libvirt does not accept the definition.
        """
        self._require_ours()
        record = self.provenance
        rests = record.is_moment or any(made.base is not None for made in record.made)
        moment = record.moment if rests else None
        # libvirt removes the state of a TPM with the definition, and swtpm soon replaces the file
        made = tuple(made for made in self._files if made.kind is not ArtifactKind.TPM)
        finished = record._replace(finished=True, made=made, maker=None, reserved=(), moment=moment)
        text = codec.unparse_definition(with_provenance(definition, finished))
        self.state = ClaimState.COMPLETING
        _LOG.info("defining domain %r", self.name)
        try:
            define_domain(self._session.connection, self.name, text)
        except VirtomateError:
            # libvirt may have carried it out all the same, such as where the connection broke
            domain = self._find()
            if domain is None or not self._is_ours(domain, finished=True):
                self.state = ClaimState.CLAIMED
                raise
        self.state = ClaimState.COMPLETE

    def require_unfinished(self) -> None:
        """Raise IllegalStateError if the clone may be complete: then nothing of it is undone."""
        if self.state in {ClaimState.COMPLETING, ClaimState.COMPLETE}:
            raise IllegalStateError("kept, since the clone may be complete")

    def release(self) -> None:
        """Give the name back, if the claim is still there and ours."""
        self.require_unfinished()
        domain = self._find()
        if domain is not None and (self.state is ClaimState.CLAIMED or self._is_ours(domain)):
            self._require_ours()
            try:
                domain.undefine_keeping_nvram()
            except HypervisorError:
                # as in `become`
                if self._find() is not None:
                    raise
        self.state = ClaimState.UNCLAIMED

    def _write(self, name: str | None = None) -> Domain:
        name = name or self.name
        text = codec.unparse_definition(claim_definition(name, self.provenance, self._like))
        return define_domain(self._session.connection, name, text)

    def _find(self) -> Domain | None:
        return find_domain_by_uuid(self._session.connection, self.provenance.uuid)

    def _is_ours(self, domain: Domain, *, finished: bool = False) -> bool:
        found = find_provenance(domain.inactive_definition_without_secrets(), domain.uuid)
        return found is not None and (found.token, found.finished) == (self.provenance.token, finished)

    def _require_ours(self) -> None:
        domain = self._find()
        if domain is None or domain.is_active() or not self._is_ours(domain):
            raise IllegalStateError(f"domain '{self.name}' was changed by somebody else while it was being made")


class Memo(Claim):
    """The journal of an import in memory, where libvirt defines no domain: nothing lists what a killed run leaves."""

    def take(self) -> None:
        """Do nothing: there is no name to take."""

    def record(self, made: Artifact) -> None:
        """Add a line to the journal."""
        self.note(made)

    def release(self) -> None:
        """Do nothing: there is no name to give back."""

    def _require_ours(self) -> None:
        """Do nothing: nobody else knows of the journal."""


def new_journal(
    uuid: str,
    source: DomainReference,
    mode: Mode,
    made: tuple[Artifact, ...],
    reserved: tuple[str, ...] = (),
    snapshot: str | None = None,
) -> Provenance:
    """Return the journal of what this process begins to make now; for the arguments see `Provenance`."""
    return Provenance(
        finished=False,
        uuid=uuid,
        token=os.urandom(16).hex(),
        source=source,
        mode=mode,
        created=time.time(),
        made=made,
        maker=this_process(),
        mark=os.urandom(16).hex(),
        reserved=reserved,
        snapshot=snapshot,
    )


def release_unless_needed(claim: Claim, rollback: Rollback) -> None:
    """Give the name back, unless the claim is needed to tell what could not be removed."""
    if rollback.leftovers:
        raise IllegalStateError("kept, since it records what is left")
    claim.release()


class Acceptance:
    """libvirt's verdict on the definitions of a run's clones: of one original, they differ in names and addresses.

    The first clone with a claim asks for the verdict, before any volume is made; the others wait for it.
    """

    def __init__(self) -> None:
        self._judging = threading.Lock()
        self._is_accepted = False

    def require(self, connection: Connection, name: str, definition: Definition, original: Definition) -> None:
        """Have libvirt judge the final definition of a claimed clone, unless it has accepted another one of the run."""
        with self._judging:
            if not self._is_accepted:
                require_acceptable(connection, name, _probe(definition), original)
                self._is_accepted = True


def require_acceptable(connection: Connection, name: str, probe: Definition, original: Definition) -> None:
    """Have libvirt judge the definition of a clone, by its schema only if the original's passes that.

    libvirt lets people define what its schema does not allow, such as an empty `<rom file=''>`, and the clone of such a
    domain is like it. The original's definition is judged only if the clone's was refused.

    The probe is the clone's definition, with the UUID of an existing domain and a name that this domain does not have.
    Raise HypervisorError if libvirt does not accept it.
    """
    text = codec.unparse_definition(probe)
    try:
        check_definition(connection, name, text)
    except SchemaError:
        if _passes_schema(connection, original):
            raise
        _LOG.info("judging the definition of %r without the schema, which its original's does not pass either", name)
        check_definition(connection, name, text, with_schema=False)


def _probe(definition: Definition) -> Definition:
    name = f"{readers.name(definition.domain)}.virtomate-check"
    return definition._replace(domain={**definition.domain, "name": name})


def _passes_schema(connection: Connection, original: Definition) -> bool:
    try:
        check_definition(connection, readers.name(original.domain), codec.unparse_definition(_probe(original)))
    except SchemaError:
        return False
    except VirtomateError:
        # libvirt checks the schema first, so it refused the definition for another reason
        return True
    return True
