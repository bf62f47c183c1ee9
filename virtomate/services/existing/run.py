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
from virtomate.words import quoted

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtomate.notices import Notice
    from virtomate.services.clone_records import CloneRequest, CloneResult
    from virtomate.services.existing.replace import Replacement
    from virtomate.services.transaction import Run

    Clone = Callable[[Run, tuple[CloneRequest, ...]], tuple[CloneResult, ...]]


class ExistingClones:
    """The service `clone` for requests that keep or replace clones that exist.

    Args:
        warn: Is told what could not be looked at before a clone is replaced, and which definitions were restored.
    """

    def __init__(self, warn: Callable[[tuple[Notice, ...]], None]) -> None:
        self._warn = warn

    def preview_each(self, run: Run, requests: tuple[CloneRequest, ...]) -> tuple[CloneResult, ...]:
        """Return what cloning would do, as `clone.preview_each`; also what would be kept and replaced."""
        return self._preview(run, requests, service.preview_each)

    def preview_each_definition(self, run: Run, requests: tuple[CloneRequest, ...]) -> tuple[CloneResult, ...]:
        """Return likewise with the definitions of all clones, those of kept clones as they are."""
        results = self._preview(run, requests, service.preview_each_definition)
        return tuple(_with_definition(run, result) if result.is_kept else result for result in results)

    def clone_each(self, run: Run, requests: tuple[CloneRequest, ...]) -> tuple[CloneResult, ...]:
        """Make the clones as `clone.clone_each`, and start those that are kept if that was asked for."""
        if requests[0].if_exists is IfExists.REPLACE:
            return self._replace(run, requests)
        results = _with_kept(run, requests, service.clone_each)
        started = {name for request in requests if request.start for name in request.names}
        return tuple(
            _running(run, result) if result.is_kept and result.name in started else result for result in results
        )

    def _preview(self, run: Run, requests: tuple[CloneRequest, ...], preview: Clone) -> tuple[CloneResult, ...]:
        if requests[0].if_exists is IfExists.KEEP:
            return _with_kept(run, requests, preview)
        service.check_requests(requests)
        replacement = plan_replacement(run, requests, self._warn)
        if replacement is None:
            return preview(run, requests)
        return tuple(map(replacement.planned, preview(run, _giving_way(requests, replacement))))

    def _replace(self, run: Run, requests: tuple[CloneRequest, ...]) -> tuple[CloneResult, ...]:
        service.check_requests(requests)
        replacement = plan_replacement(run, requests, self._warn)
        if replacement is None:
            return service.clone_each(run, requests)
        try:
            results = service.clone_each(run, _giving_way(requests, replacement), replacement.make_room)
        except VirtomateError as error:
            raise replacement.explained(error) from error
        return tuple(map(replacement.done, results))


def _giving_way(requests: tuple[CloneRequest, ...], replacement: Replacement) -> tuple[CloneRequest, ...]:
    way = replacement.giving_way
    return tuple(request._replace(giving_way=way) for request in requests)


def _with_kept(run: Run, requests: tuple[CloneRequest, ...], make: Clone) -> tuple[CloneResult, ...]:
    """Return the clones of requests in order; only those that do not exist are planned or made."""
    service.check_requests(requests)
    kept = find_kept(run, requests)
    prepared = {name for request in requests if request.preparation is not None for name in request.names}
    if left_alone := sorted(prepared & kept.keys()):
        run.progress.note(f"--sysprep and --customize change new clones only, and {quoted(left_alone)} existed before")
    missing = (request.only(set(request.names) - kept.keys()) for request in requests)
    left = tuple(request for request in missing if request.names)
    made = {result.name: result for result in make(run, left)} if left else {}
    return tuple(kept.get(name) or made[name] for request in requests for name in request.names)


def _with_definition(run: Run, result: CloneResult) -> CloneResult:
    """Return a kept clone with its definition."""
    text = find_domain(run.target.connection, result.uuid).inactive_definition()
    return result._replace(definition=text.removesuffix("\n"))


def _running(run: Run, result: CloneResult) -> CloneResult:
    """Start a kept clone unless it runs; an error is the clone's own, since other clones have been made meanwhile."""
    try:
        domain = find_domain(run.target.connection, result.uuid)
        if domain.is_active():
            return result._replace(is_started=True)
        networks = readers.network_names(codec.parse_definition(domain.inactive_definition_without_secrets()).domain)
    except VirtomateError as error:
        return result._replace(error=error)
    return start_clone(run.target, result, run.cancel, networks)
