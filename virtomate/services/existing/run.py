"""Cloning, and its preview, where domains have the names of clones already."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition import codec, readers
from virtomate.enums import IfExists
from virtomate.errors import VirtomateError
from virtomate.hypervisor.domains import find_domain
from virtomate.services import clone as service
from virtomate.services.clone_start import start_clone
from virtomate.services.existing.keep import find_kept
from virtomate.services.existing.replace import plan_replacement

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtomate.notices import Notice
    from virtomate.services.clone_records import CloneRequest, CloneResult
    from virtomate.services.transaction import Run

    Clone = Callable[[Run, CloneRequest], tuple[CloneResult, ...]]


class ExistingClones:
    """The service `clone` for requests that keep or replace clones that exist.

    Args:
        warn: Is told what could not be looked at before a clone is replaced, and which definitions were restored.
    """

    def __init__(self, warn: Callable[[tuple[Notice, ...]], None]) -> None:
        self._warn = warn

    def preview_clones(self, run: Run, request: CloneRequest) -> tuple[CloneResult, ...]:
        """Return what cloning would do, as `clone.preview_clones`; also what would be kept and replaced."""
        return self._preview(run, request, service.preview_clones)

    def preview_definitions(self, run: Run, request: CloneRequest) -> tuple[CloneResult, ...]:
        """Return likewise with the definitions of all clones, those of kept clones as they are."""
        results = self._preview(run, request, service.preview_definitions)
        return tuple(_with_definition(run, result) if result.is_kept else result for result in results)

    def clone_domains(self, run: Run, request: CloneRequest) -> tuple[CloneResult, ...]:
        """Make the clones as `clone.clone_domains`, and start those that are kept if that was asked for."""
        if request.if_exists is IfExists.REPLACE:
            return self._replace(run, request)
        results = _with_kept(run, request, service.clone_domains)
        if not request.start:
            return results
        return tuple(_running(run, result) if result.is_kept else result for result in results)

    def _preview(self, run: Run, request: CloneRequest, preview: Clone) -> tuple[CloneResult, ...]:
        if request.if_exists is IfExists.KEEP:
            return _with_kept(run, request, preview)
        service.check_request(request)
        replacement = plan_replacement(run, request, self._warn)
        if replacement is None:
            return preview(run, request)
        results = preview(run, request._replace(giving_way=replacement.giving_way))
        return tuple(map(replacement.planned, results))

    def _replace(self, run: Run, request: CloneRequest) -> tuple[CloneResult, ...]:
        service.check_request(request)
        replacement = plan_replacement(run, request, self._warn)
        if replacement is None:
            return service.clone_domains(run, request)
        request = request._replace(giving_way=replacement.giving_way)
        try:
            results = service.clone_domains(run, request, replacement.make_room)
        except VirtomateError as error:
            raise replacement.explained(error) from error
        return tuple(map(replacement.done, results))


def _with_kept(run: Run, request: CloneRequest, make: Clone) -> tuple[CloneResult, ...]:
    """Return the clones of a request in order; only those that do not exist are planned or made."""
    service.check_request(request)
    kept = find_kept(run.target.connection, request, run.cancel)
    left = request.only(set(request.names) - kept.keys())
    made = {result.name: result for result in make(run, left)} if left.names else {}
    return tuple(kept.get(name) or made[name] for name in request.names)


def _with_definition(run: Run, result: CloneResult) -> CloneResult:
    """Return a kept clone with its definition."""
    text = find_domain(run.target.connection, result.uuid).inactive_definition()
    return result._replace(definition=text.removesuffix("\n"))


def _running(run: Run, result: CloneResult) -> CloneResult:
    """Start a kept clone unless it runs."""
    domain = find_domain(run.target.connection, result.uuid)
    if domain.is_active():
        return result._replace(is_started=True)
    networks = readers.network_names(codec.parse_definition(domain.inactive_definition_without_secrets()).domain)
    return start_clone(run.target, result, run.cancel, networks)
