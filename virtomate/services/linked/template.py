"""Templates: domains that are only cloned.

A template cannot be started by libvirt, is not started with its host, and nobody but root can write to its volumes, so
that linked clones can rest on them. The definition of the template says what the domain was before (see
`definition.template`). One call of libvirt changes the definition: whatever ends a run, the domain is a template or is
not, and the same command completes the rest.
"""

from __future__ import annotations

import logging
import os
import stat
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from virtomate.definition import TEMPLATE_NAMESPACE, codec, file_readers
from virtomate.definition.provenance import Artifact, read_provenance
from virtomate.definition.template import MarkedImage, TemplateMark, as_ordinary, as_template, is_template, read_mark
from virtomate.definition.volume import VolumeDescription, describe_volume
from virtomate.duplication.acl import WRITE_BITS
from virtomate.duplication.host_images import alone_with, forbid_writing
from virtomate.duplication.hostfs import open_visible, visible_status
from virtomate.enums import ArtifactKind, ArtifactState, TemplateStatus
from virtomate.errors import (
    IllegalStateError,
    InternalError,
    InterruptedBySignalError,
    NotFoundError,
    UnsupportedError,
    VirtomateError,
    combined_error,
)
from virtomate.hypervisor.domains import define_domain, find_domain_by_uuid
from virtomate.hypervisor.storage import get_volume
from virtomate.notices import Notice, TemplateWarning, notice
from virtomate.paths import normalise
from virtomate.rollback import Rollback
from virtomate.services.linked.base import WriteBits, refuse_written, remove_write_bits, restore_write_bits
from virtomate.services.origins import find_record
from virtomate.services.storage import read_pools
from virtomate.services.storage.references import scan_references
from virtomate.tuples import NamedTuple
from virtomate.words import shutdown_commands, virtomate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from virtomate.cancel import CancelToken
    from virtomate.definition.codec import Definition
    from virtomate.definition.file_readers import DiskDefinition
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain
    from virtomate.hypervisor.session import Session
    from virtomate.services.storage import PoolIndex
    from virtomate.services.storage.references import Reference, References

_LOG = logging.getLogger(__name__)
_FILE_TYPES = frozenset({"file", "volume"})
# How many users of a volume a refusal names.
_NAMED_USERS = 3


class TemplateResult(NamedTuple):
    """What became of one domain.

    Attributes:
        autostart: Whether libvirt starts the domain with its host while the domain is not a template.
        volumes: Paths of the volumes without write bits, or with their write bits again.
        warnings: What a template lacks, or an ordinary domain has not got back.
    """

    status: TemplateStatus
    name: str
    uuid: str
    autostart: bool = False
    volumes: tuple[str, ...] = ()
    warnings: tuple[Notice, ...] = ()
    error: VirtomateError | None = None


class _Plan(NamedTuple):
    """A domain as it was when it was planned.

    Attributes:
        text: The definition as libvirt gave it, passwords included.
        places: The files of the disks that can be written to, by target.
        disks: The volumes that these files are, as far as they can be looked at.
        warnings: What could not be looked at.
    """

    domain: Domain
    text: str
    definition: Definition
    places: Mapping[str, Artifact]
    disks: Mapping[str, VolumeDescription]
    warnings: tuple[Notice, ...] = ()


def make_templates(session: Session, names: tuple[str, ...], cancel: CancelToken) -> tuple[TemplateResult, ...]:
    """Make templates of domains, each given by name or UUID, and return how that went, in the order of the names.

    A domain that is a template already stays one, and gets what it lacks.

    Raises:
        VirtomateError: A domain is refused, and nothing was changed.
    """
    from virtomate.services.selection import select  # noqa: PLC0415 - domain-clone takes no patterns

    connection = session.connection
    selected = select(connection, names, cancel, _is_ordinary)
    errors = list(selected.errors(connection.name, "domain", None))
    plans = _plan_all(connection, selected.domains, errors, cancel, _plan_template)
    return _change_all(plans, cancel, TemplateStatus.TEMPLATE, partial(_make, session))


def undo_templates(session: Session, names: tuple[str, ...], cancel: CancelToken) -> tuple[TemplateResult, ...]:
    """Make ordinary domains of templates, as they were before; see `make_templates`.

    A template on whose volumes anything rests is refused: as soon as somebody starts the domain, that is destroyed.
    """
    from virtomate.services.selection import select  # noqa: PLC0415 - domain-clone takes no patterns

    connection = session.connection
    selected = select(connection, names, cancel, _has_mark)
    errors = list(selected.errors(connection.name, "template", None))
    plans = _plan_all(connection, selected.domains, errors, cancel, _plan_ordinary)
    _refuse_used(_scan(connection, plans), plans)
    return _change_all(plans, cancel, TemplateStatus.ORDINARY, partial(_undo, session))


def _plan_all(
    connection: Connection,
    domains: tuple[Domain, ...],
    errors: list[VirtomateError],
    cancel: CancelToken,
    plan: Callable[[Connection, PoolIndex, Domain], _Plan],
) -> list[_Plan]:
    """Plan the change of all domains; raise one error for the errors that are known already and all refusals."""
    pools = read_pools(connection)
    plans = []
    for domain in domains:
        cancel.check()
        try:
            plans.append(plan(connection, pools, domain))
        except (IllegalStateError, NotFoundError, UnsupportedError) as error:
            errors.append(error)
    if errors:
        raise combined_error(errors)
    return plans


def _has_mark(domain: Domain) -> bool:
    return domain.metadata_element(TEMPLATE_NAMESPACE) is not None


def _is_ordinary(domain: Domain) -> bool:
    """Return whether a pattern means a domain that is to become a template: not one that only records something."""
    record = find_record(domain)
    return record is None or (record.finished and not record.is_moment)


def _plan_template(connection: Connection, pools: PoolIndex, domain: Domain) -> _Plan:
    plan = _read(pools, domain)
    provenance = read_provenance(plan.definition)
    if provenance is not None and (not provenance.finished or provenance.is_moment):
        what = "only keeps images for linked clones" if provenance.finished else f"is an unfinished {provenance.what}"
        raise IllegalStateError(
            f"domain '{domain.name}' {what}, and cannot become a template",
            hint=f"{virtomate('domain-list')} shows the domains.",
        )
    if domain.is_active():
        raise IllegalStateError(
            f"domain '{domain.name}' is {domain.state()}, and must be shut off to become a template",
            hint=f"Shut it down first: {shutdown_commands(domain.name, domain.state())}",
        )
    copying = virtomate("domain-clone", domain.name, "NEWNAME", options="--mode copy")
    return plan._replace(warnings=(*plan.warnings, *refuse_written(connection, domain, plan.disks, copying)))


def _plan_ordinary(_connection: Connection, pools: PoolIndex, domain: Domain) -> _Plan:
    plan = _read(pools, domain)
    if not is_template(plan.definition.domain) and read_mark(plan.definition) is None:
        raise IllegalStateError(
            f"domain '{domain.name}' is not a template", hint=f"{virtomate('domain-list')} shows the templates."
        )
    return plan


def _read(pools: PoolIndex, domain: Domain) -> _Plan:
    text = domain.inactive_definition()
    plan = _Plan(domain, text, codec.parse_definition(text), places={}, disks={})
    for disk in file_readers.disks(plan.definition.domain):
        if not (disk.is_readonly or disk.is_empty) and disk.type in _FILE_TYPES:
            plan = _with_disk(pools, plan, disk)
    return plan


def _with_disk(pools: PoolIndex, plan: _Plan, disk: DiskDefinition) -> _Plan:
    pool, name = disk.pool or "", disk.volume or ""
    path = disk.path or pools.path_of(pool, name)
    try:
        found = pools.find_named(pool, name) if disk.path is None else pools.find_path(disk.path)
    except (IllegalStateError, NotFoundError) as error:
        left_out = notice(TemplateWarning.WRITABLE, disk.location, reason=error.message)
        places = {} if path is None else {disk.target: _as_artifact("", None, path)}
        return plan._replace(places={**plan.places, **places}, warnings=(*plan.warnings, left_out))
    if not found.volume.is_file():
        return plan
    volume = found.description
    return plan._replace(
        places={**plan.places, disk.target: _as_artifact(volume.pool, volume.name, volume.path)},
        disks={**plan.disks, disk.target: volume},
    )


def _scan(connection: Connection, plans: list[_Plan]) -> References:
    return scan_references(connection, {plan.domain.uuid: tuple(plan.places.values()) for plan in plans})


def _as_artifact(pool: str, volume: str | None, path: str) -> Artifact:
    return Artifact(ArtifactKind.VOLUME, ArtifactState.MADE, pool, volume, normalise(path))


def _refuse_used(references: References, plans: list[_Plan]) -> None:
    errors = [
        _used(plan.domain.name, target, place.path, users)
        for plan in plans
        for target, place in plan.places.items()
        if (users := references.users(place))
    ]
    if errors:
        raise combined_error(errors)


def _used(name: str, target: str, path: str, users: Sequence[Reference]) -> IllegalStateError:
    says = [user.says for user in users[:_NAMED_USERS]]
    if len(users) > len(says):
        says.append(f"and {len(users) - len(says)} more")
    return IllegalStateError(
        f"'{name}' must stay a template, since to start it would corrupt what uses disk {target} ('{path}'): "
        + ", ".join(says),
        hint=f"Copy the template to change it: {virtomate('domain-clone', name, 'NEWNAME')}. Then make a template of "
        f"the changed copy. Or first make linked clones independent ({virtomate('domain-flatten', 'CLONE')}), or delete"
        " what uses the volume.",
    )


def _change_all(
    plans: list[_Plan],
    cancel: CancelToken,
    status: TemplateStatus,
    change: Callable[[_Plan, Rollback], TemplateResult],
) -> tuple[TemplateResult, ...]:
    """Change domains one after the other; a signal lets the current domain be finished."""
    cancel.begin()
    results = []
    for plan in plans:
        name, uuid = plan.domain.name, plan.domain.uuid
        undo = Rollback()
        try:
            cancel.check()
            with cancel.awaiting(f"the change of '{name}'"):
                result = change(plan, undo)
            undo.commit()
            results.append(result._replace(status=status))
        except Exception as unforeseen:  # noqa: BLE001 - the other domains still have their turn
            error = unforeseen if isinstance(unforeseen, VirtomateError) else InternalError(unforeseen)
            if leftovers := undo.run(cancel.awaiting):
                error = error.adding(leftovers=leftovers)
            is_interrupted = isinstance(error, InterruptedBySignalError)
            failed = TemplateStatus.INTERRUPTED if is_interrupted else TemplateStatus.FAILED
            results.append(TemplateResult(failed, name, uuid, error=error))
    return tuple(results)


def _make(session: Session, plan: _Plan, undo: Rollback) -> TemplateResult:
    domain, mark = plan.domain, _new_mark(plan)
    definition = as_template(plan.definition, mark)
    _LOG.info("making a template of %r", domain.name)
    with _unwritten(plan.disks):
        _require_as_planned(plan)
        undo.push(f"the definition of template '{domain.name}'", partial(_give_back, session, plan))
        define_domain(session.connection, domain.name, codec.unparse_definition(definition))
        if domain.is_active():
            raise IllegalStateError(f"domain '{domain.name}' was started meanwhile", hint="Shut it down first.")
        if mark.autostart:
            undo.push(f"the autostart of domain '{domain.name}'", partial(_set_back, session, domain.uuid, is_on=True))
            _set_autostart(domain, is_on=False)
        outcomes = [remove_write_bits(volume) for volume in plan.disks.values()]
    writable = [notice(TemplateWarning.WRITABLE, item.path, reason=item.obstacle) for item in outcomes if item.obstacle]
    return _result(plan, mark, outcomes, (*plan.warnings, *writable))


def _undo(session: Session, plan: _Plan, undo: Rollback) -> TemplateResult:
    domain = plan.domain
    mark = read_mark(plan.definition) or TemplateMark(domain.uuid, autostart=False, images=())
    definition = as_ordinary(plan.definition)
    _LOG.info("making an ordinary domain of template %r", domain.name)
    # from before the second look: who links to the volumes now fails, and who did before is seen
    with ExitStack() as stack:
        for volume in plan.disks.values():
            if visible_status(volume) is not None:
                stack.enter_context(alone_with(volume.path))
        _refuse_used(_scan(session.connection, [plan]), [plan])
        _require_as_planned(plan)
        outcomes = _give_write_bits_back(session, plan, mark, undo)
        if mark.autostart:
            undo.push(f"the autostart of domain '{domain.name}'", partial(_set_back, session, domain.uuid, is_on=False))
            _set_autostart(domain, is_on=True)
        define_domain(session.connection, domain.name, codec.unparse_definition(definition))
    obstacles = {item.path: item.obstacle for item in outcomes}
    changed = "it is another file than before, or cannot be seen here"
    left = [(image.path, obstacles.get(image.path, changed)) for image in mark.images]
    warnings = (notice(TemplateWarning.UNWRITABLE, path, reason=reason) for path, reason in left if reason is not None)
    return _result(plan, mark, outcomes, tuple(warnings))


def _give_write_bits_back(session: Session, plan: _Plan, mark: TemplateMark, undo: Rollback) -> list[WriteBits]:
    """Give the volumes of a template, as far as they are the same files, the write bits that they had before."""
    outcomes = []
    for volume in plan.disks.values():
        image, status = _marked(volume, mark), visible_status(volume)
        if image is None or status is None:
            continue
        if image.mode & WRITE_BITS & ~status.st_mode:
            undo.push(f"the missing write bits of '{volume.path}'", partial(_remove_again, session, volume))
            outcomes.append(restore_write_bits(volume, image.mode))
        else:
            # they could not be removed, or somebody has restored them
            outcomes.append(WriteBits(volume.path, stat.S_IMODE(status.st_mode)))
    return outcomes


def _result(plan: _Plan, mark: TemplateMark, outcomes: list[WriteBits], warnings: tuple[Notice, ...]) -> TemplateResult:
    status = TemplateStatus.TEMPLATE
    changed = tuple(item.path for item in outcomes if item.obstacle is None)
    return TemplateResult(status, plan.domain.name, plan.domain.uuid, mark.autostart, changed, warnings)


@contextmanager
def _unwritten(disks: Mapping[str, VolumeDescription]) -> Iterator[None]:
    """Keep every QEMU from opening volumes for writing, as far as they are seen here; refuse those that are open."""
    with ExitStack() as stack:
        for volume in disks.values():
            descriptor = open_visible(volume, os.O_RDONLY)
            if descriptor is not None:
                stack.callback(os.close, descriptor)
                forbid_writing(descriptor, volume.path)
        yield


def _require_as_planned(plan: _Plan) -> None:
    """Raise IllegalStateError if somebody else has started or changed the domain since it was read."""
    if plan.domain.is_active() or plan.domain.inactive_definition() != plan.text:
        raise IllegalStateError(
            f"domain '{plan.domain.name}' was started or changed by somebody else meanwhile", hint="Try again."
        )


def _give_back(session: Session, plan: _Plan) -> None:
    define_domain(session.connection, plan.domain.name, plan.text)


def _set_autostart(domain: Domain, *, is_on: bool) -> None:
    if domain.is_autostarted() is not is_on:
        domain.set_autostart(is_on)


def _set_back(session: Session, uuid: str, *, is_on: bool) -> None:
    # found anew: the connection of the domain that was changed may have broken
    if (domain := find_domain_by_uuid(session.connection, uuid)) is not None:
        _set_autostart(domain, is_on=is_on)


def _remove_again(session: Session, volume: VolumeDescription) -> None:
    connection = session.connection
    now = describe_volume(volume.pool, get_volume(connection, volume.pool, volume.name).document())
    if (obstacle := remove_write_bits(now).obstacle) is not None:
        raise IllegalStateError(obstacle)


def _new_mark(plan: _Plan) -> TemplateMark:
    """Return the mark of a template; what a killed run, or an earlier one, has marked already stays as it is."""
    before = read_mark(plan.definition) or TemplateMark(plan.domain.uuid, autostart=False, images=())
    images = []
    for volume in plan.disks.values():
        if (image := _marked(volume, before)) is not None:
            images.append(image)
        elif (status := visible_status(volume)) is not None:
            images.append(MarkedImage(volume.path, stat.S_IMODE(status.st_mode), status.st_ino))
    return before._replace(autostart=before.autostart or plan.domain.is_autostarted(), images=tuple(images))


def _marked(volume: VolumeDescription, mark: TemplateMark) -> MarkedImage | None:
    """Return the mark of a volume, if the file is still the one that was marked."""
    status = visible_status(volume)
    known = (volume.path, None if status is None else status.st_ino)
    return next((image for image in mark.images if (image.path, image.inode) == known), None)
