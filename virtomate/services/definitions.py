"""Definitions of domains that an operation only looks at, since they may use what it is about to take or to delete.

libvirt sends no definition that is longer than 4 MiB. One such domain does not keep others from being cloned, listed or
deleted: what libvirt tells of it otherwise is looked at, and the rest is a warning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition import PROVENANCE_NAMESPACE
from virtomate.definition.placeholders import abridged_definition
from virtomate.errors import OversizeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtomate.hypervisor.domains import Domain


class Definitions:
    """Reads definitions, in full or else abridged; several threads may use one.

    Attributes:
        abridged: Names of domains of which only the disks' paths and our record could be read.
    """

    def __init__(self) -> None:
        self.abridged: set[str] = set()

    def inactive(self, domain: Domain) -> str:
        """Return the definition that the next start will use; what a read-only connection may see."""
        return self._read(domain, domain.inactive_definition_without_secrets)

    def live(self, domain: Domain) -> str:
        """Return the definition as it is now."""
        return self._read(domain, domain.live_definition)

    def _read(self, domain: Domain, read: Callable[[], str]) -> str:
        try:
            return read()
        except OversizeError:
            self.abridged.add(domain.name)
            record = domain.metadata_element(PROVENANCE_NAMESPACE)
            return abridged_definition(domain.name, domain.uuid, domain.disk_paths(), record)
