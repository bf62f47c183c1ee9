"""The definition that stands in a clone's place while the clone is being deleted.

It cannot be started, and lists what was made for the clone, as the claim of an unfinished clone does.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from virtomate.definition import codec
from virtomate.definition.placeholders import half_deleted_definition
from virtomate.definition.provenance import find_provenance, with_provenance
from virtomate.errors import ConnectionLostError, IllegalStateError, NotFoundError, VirtomateError
from virtomate.hypervisor.domains import define_domain, find_domain_by_uuid
from virtomate.notices import Leftover, Notice
from virtomate.services.storage import this_process
from virtomate.words import virtomate

if TYPE_CHECKING:
    from virtomate.definition.provenance import Artifact
    from virtomate.hypervisor.domains import Domain
    from virtomate.hypervisor.session import Session
    from virtomate.services.delete.records import Deletion


class Placeholder:
    """The placeholder of one clone; `is_there` if it stands in the clone's place, as far as is known."""

    def __init__(self, session: Session, deletion: Deletion) -> None:
        self.is_there = False
        self._session = session
        self._deletion = deletion
        self._token = ""

    def take_place(self, pools: tuple[Artifact, ...]) -> None:
        """Put the placeholder in the clone's place; it lists the temporary pools that the deletion is going to start.

        A run that is still making the clone somewhere finds its claim gone, and does not finish. Raise
        IllegalStateError if the clone was started or changed since the plan.
        """
        deletion = self._deletion
        self._token = os.urandom(16).hex()
        made = (*pools, *deletion.provenance.made)
        record = deletion.provenance._replace(finished=False, token=self._token, maker=this_process(), made=made)
        domain = _require_inactive(self._find())
        definition = codec.parse_definition(deletion.text)
        if deletion.is_finished:
            record = record._replace(replaced=domain.inactive_definition_without_secrets())
            definition = half_deleted_definition(deletion.name, record, definition.domain)
        else:
            definition = with_provenance(definition, record)
        document = codec.unparse_definition(definition)
        # libvirt cannot compare and replace in one call: nothing stands between the two
        if domain.inactive_definition() != deletion.text:
            raise self._changed()
        self.is_there = True
        try:
            define_domain(self._session.connection, deletion.name, document)
        except ConnectionLostError:
            # libvirt may have carried out the call
            raise
        except VirtomateError:
            self.is_there = False
            raise

    def require(self) -> Domain:
        """Return the domain, or raise an error if somebody changed, started or removed it.

        libvirt says nothing when two processes put their placeholders at once: the first has lost its own.
        """
        return _require_inactive(self._require_ours())

    def give_back(self, failed: tuple[Notice, ...] = ()) -> None:
        """Give the clone its own definition back; nothing of the clone has been removed, `failed` could not be.

        A clone that was started meanwhile gets its definition back, too: it could not be started again without.

        Raises:
            VirtomateError: The definition could not be put back; the placeholder holds it, and the hint says so.
        """
        try:
            domain = self._require_ours()
        except (IllegalStateError, NotFoundError):
            # the domain is somebody else's by now, who must not be told to put the definition back
            self.is_there = False
            raise
        except VirtomateError as error:
            raise self._with_way_back(error, failed) from error
        try:
            define_domain(self._session.connection, domain.name, _renamed(self._deletion, domain.name))
        except VirtomateError as error:
            raise self._with_way_back(error, failed) from error
        self.is_there = False

    def undefine(self) -> None:
        """Undefine the placeholder, with everything that libvirt keeps of the clone."""
        if self._look_up() is not None:
            try:
                self.require().undefine_with_state()
            except VirtomateError:
                # libvirt may have carried out the call all the same, such as where the connection broke
                if self._look_up() is not None:
                    raise
        self.is_there = False

    def _look_up(self) -> Domain | None:
        return find_domain_by_uuid(self._session.connection, self._deletion.uuid)

    def _find(self) -> Domain:
        if (domain := self._look_up()) is None:
            raise NotFoundError(f"domain '{self._deletion.name}' does not exist any more")
        return domain

    def _require_ours(self) -> Domain:
        domain = self._find()
        found = find_provenance(domain.inactive_definition_without_secrets(), domain.uuid)
        if found is None or found.token != self._token or found.finished:
            raise self._changed()
        return domain

    def _changed(self) -> IllegalStateError:
        return IllegalStateError(f"domain '{self._deletion.name}' was changed by somebody else meanwhile")

    def _with_way_back(self, error: VirtomateError, failed: tuple[Notice, ...]) -> VirtomateError:
        """Return an error that says, too, that the placeholder holds the definition of a finished clone."""
        if not self._deletion.is_finished:
            return error
        name = self._deletion.name
        return error.adding(
            hint=f"{virtomate('domain-delete', name)} gives the clone its definition back before it asks.",
            leftovers=(*failed, Notice(Leftover.PLACEHOLDER, name)),
        )


def _require_inactive(domain: Domain) -> Domain:
    if domain.is_active():
        raise IllegalStateError(
            f"domain '{domain.name}' was started meanwhile", hint="Shut it down, then run the command again."
        )
    return domain


def _renamed(deletion: Deletion, name: str) -> str:
    """Return the clone's own definition, under the name that the domain has now."""
    if name == deletion.name:
        return deletion.text
    definition = codec.parse_definition(deletion.text)
    return codec.unparse_definition(definition._replace(domain={**definition.domain, "name": name}))
