"""What another host must have for the clones of a domain, looked at before anything is made there.

All that is missing is told at once, with the options that name what is there instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition import moving
from virtomate.definition.capabilities import read_host_capabilities
from virtomate.errors import NotFoundError, UsageError
from virtomate.hypervisor import host
from virtomate.hypervisor.domains import find_domain_by_uuid
from virtomate.services.clone.comparison import NOUNS, Comparison
from virtomate.services.clone.machine_there import missing_for_machine
from virtomate.services.clone.things_there import missing_things
from virtomate.services.other_host import Crossing, HostNames
from virtomate.words import quoted

if TYPE_CHECKING:
    from virtomate.definition.capabilities import HostCapabilities
    from virtomate.enums import MapKind
    from virtomate.services.clone.target import Survey
    from virtomate.services.other_host import OtherHost


def survey_crossing(survey: Survey, other: OtherHost) -> Crossing:
    """Compare what clones need with what another host has.

    Raises:
        UsageError: Both URIs lead to the same libvirt, or a mapping names something that the original does not use.
        NotFoundError: Something is missing there.
    """
    original, target = survey.original.connection, survey.target.connection
    capabilities = read_host_capabilities(target.capabilities())
    _refuse_same(survey, other, capabilities)
    hosts = HostNames(host.host_name(original), host.host_name(target), other.uri)
    look = Comparison(survey, other, hosts)
    machine = missing_for_machine(look, capabilities)
    lacks = list(dict.fromkeys((*machine.lacks, *missing_things(look, machine.loaders))))
    _refuse_unused(survey, other, look.used)
    if lacks:
        cures = list(dict.fromkeys(lack.cure for lack in lacks if lack.cure is not None))
        raise NotFoundError(
            f"host '{hosts.target}' has not all that the clone needs: {'; '.join(lack.what for lack in lacks)}",
            hint=f"Make what is missing on that host, or use {', '.join(cures)}." if cures else None,
        )
    domain = moving.moved(survey.source.definition.domain, look.moved).domain
    return Crossing(hosts, look.moved, domain, tuple(dict.fromkeys(look.warnings)))


def _refuse_same(survey: Survey, other: OtherHost, there: HostCapabilities) -> None:
    connection, target = survey.original.connection, survey.target.connection
    is_same = connection.name == target.name
    if not is_same and find_domain_by_uuid(target, survey.source.reference.uuid) is not None:
        here = read_host_capabilities(connection.capabilities())
        is_same = here.uuid == there.uuid and here.uuid is not None and connection.is_session == target.is_session
    if is_same:
        raise UsageError(f"--to '{other.uri}' leads to the libvirt of the original itself; leave out --to")


def _refuse_unused(survey: Survey, other: OtherHost, used: dict[tuple[MapKind, str], str]) -> None:
    for item in other.maps:
        if (item.kind, item.old) not in used:
            names = sorted(name for kind, name in used if kind is item.kind)
            noun = NOUNS[item.kind]
            uses = f"it uses {quoted(names)}" if names else f"it uses no {noun} at all"
            raise UsageError(
                f"--map {item.word}: domain '{survey.source.reference.name}' uses no {noun} '{item.old}'; {uses}"
            )
