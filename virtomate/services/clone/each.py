"""The requests of a run: mostly one, or several with options of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.services.clone.run import clone_domains, keep_all, preview_clones, preview_definitions

if TYPE_CHECKING:
    from virtomate.services.clone.run import MakeRoom
    from virtomate.services.clone_records import CloneRequest, CloneResult
    from virtomate.services.transaction import Run


def preview_each(run: Run, requests: tuple[CloneRequest, ...]) -> tuple[CloneResult, ...]:
    """Return what cloning would do for requests with one original, as `preview_clones`."""
    if len(requests) == 1:
        return preview_clones(run, requests[0])
    from virtomate.services.clone.several import preview_several  # noqa: PLC0415 - few runs have several requests

    return preview_several(run, requests)


def preview_each_definition(run: Run, requests: tuple[CloneRequest, ...]) -> tuple[CloneResult, ...]:
    """Return likewise with the definitions of the clones, as `preview_definitions`."""
    if len(requests) == 1:
        return preview_definitions(run, requests[0])
    from virtomate.services.clone.several import preview_several_definitions  # noqa: PLC0415 - as above

    return preview_several_definitions(run, requests)


def clone_each(run: Run, requests: tuple[CloneRequest, ...], make_room: MakeRoom = keep_all) -> tuple[CloneResult, ...]:
    """Make the clones of requests with one original; for arguments, results and errors see `clone_domains`."""
    if len(requests) == 1:
        return clone_domains(run, requests[0], make_room)
    from virtomate.services.clone.several import clone_several  # noqa: PLC0415 - as above

    return clone_several(run, requests, make_room)
