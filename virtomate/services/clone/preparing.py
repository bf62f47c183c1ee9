"""The preparation of clones: virt-sysprep and virt-customize change complete volumes before the clone is defined.

Both programs open images by their paths. They open nothing but volumes that were made for the clone, and, below an
overlay, the images that it rests on, which they only read.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import stat
from typing import TYPE_CHECKING

from virtomate.definition import readers
from virtomate.duplication.hostfs import open_visible
from virtomate.enums import Action, ArtifactKind
from virtomate.errors import HypervisorError, IllegalStateError, UnsupportedError, UsageError, VirtomateError
from virtomate.services.clone_parts import PreparedResult
from virtomate.services.sysprep import (
    SYSPREP,
    USUAL_OPERATIONS,
    Preparation,
    check_operations,
    command_line,
    find_program,
)
from virtomate.services.trust import runs_unprivileged
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from virtomate.definition.provenance import Artifact
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.base import Duplication
    from virtomate.services.clone.disks import DiskPlan
    from virtomate.services.clone.target import Survey
    from virtomate.services.transaction import Claim, Filled, Run

_LOG = logging.getLogger(__name__)

_ROOT = 0
# Both programs write "[   1.2] Performing "machine-id" ..."; commands and texts of users are not passed on.
_STEP = re.compile(r'\[ *[0-9.]+\] (Examining the guest|Performing "[a-z0-9-]+"|Setting the (?:hostname|machine ID))')
_FIRST_STEP = "Examining"
_ERROR = re.compile(r"virt-(?:sysprep|customize): error: (?:libguestfs error: )?(.*)")
_LAUNCH = re.compile(r"guestfs_launch|appliance|supermin|/dev/kvm")
# A process of 64 bits also runs programs of 32 bits.
_ALIKE = {"i386": "x86_64", "i486": "x86_64", "i586": "x86_64", "i686": "x86_64"}


class PreparedPlan(NamedTuple):
    """The preparation of one clone.

    Attributes:
        program: Path of the program.
        host_name: Host name that the guest gets, None for none.
        targets: The disks of the clone that the program opens.
        runs_commands: Whether programs of the guest can run on this host.
        tells_steps: Whether each step is a note; of several clones, only the first step is.
    """

    program: str
    preparation: Preparation
    host_name: str | None
    targets: tuple[str, ...]
    runs_commands: bool
    tells_steps: bool

    def result(self) -> PreparedResult:
        """Return the preparation for the result of a clone."""
        operations = (self.preparation.operations or USUAL_OPERATIONS) if self.preparation.program == SYSPREP else ()
        return PreparedResult(self.preparation.program, operations, self.host_name, self.targets)


class SurveyedPreparation(NamedTuple):
    """What the preparations of all clones have in common; for the attributes see `PreparedPlan`."""

    program: str
    preparation: Preparation
    targets: tuple[str, ...]
    runs_commands: bool
    tells_steps: bool

    def plan(self, clone_name: str, host_name: str | None) -> PreparedPlan:
        """Plan the preparation of one clone, which is called by its own name if no host name was asked for."""
        if host_name is None and self.preparation.gives_host_name:
            from virtomate.services.seed import host_name_of  # noqa: PLC0415 - few clones get a host name

            host_name = host_name_of(clone_name)
        if not self.preparation.may_customize:
            host_name = None
        return PreparedPlan(
            self.program, self.preparation, host_name, self.targets, self.runs_commands, self.tells_steps
        )


def survey_preparation(
    survey: Survey, preparation: Preparation, disks: Iterable[DiskPlan], images: Collection[str]
) -> SurveyedPreparation:
    """Look whether the volumes of clones can be prepared, and raise VirtomateError if they cannot.

    At the paths of `images` a run makes images of disks first, so nothing can be read there yet.

    Raises:
        UsageError: No disk is left to open, or an operation is unknown.
        UnsupportedError: The program is missing, or the volumes cannot be opened on this host.
    """
    option = preparation.option
    if survey.request.host_names and not preparation.may_customize:
        raise UsageError(f"--hostname needs the operation customize in --sysprep={','.join(preparation.operations)}")
    if not survey.target.connection.is_local:
        raise UnsupportedError(
            f"{option} opens the volumes of clones on this host, but the hypervisor is on another host",
            hint="Run virtomate on that host. Or use --seed, which needs no access to the volumes.",
        )
    own = [item for item in disks if item.duplication is not None and not item.disk.is_readonly]
    if not own:
        raise UsageError(f"{option} needs a disk that is duplicated, and every disk is shared or dropped")
    for item in own:
        if item.duplication is not None:
            _require_access(survey, option, item.disk.target, item.duplication, images)
    program = find_program(preparation)
    check_operations(program, preparation)
    machine = platform.machine()
    type_ = readers.child(readers.child(survey.source.definition.domain, "os"), "type")
    architecture = str(type_.get("@arch", machine))
    return SurveyedPreparation(
        program,
        preparation,
        tuple(item.disk.target for item in own),
        runs_commands=_ALIKE.get(architecture, architecture) == _ALIKE.get(machine, machine),
        tells_steps=not survey.has_siblings,
    )


def _require_access(survey: Survey, option: str, target: str, way: Duplication, images: Collection[str]) -> None:
    """Raise an error if the new volume of a disk cannot be opened on this host when it is there."""
    read = (way.source, *way.below)
    if any(volume.is_encrypted for volume in read):
        raise UnsupportedError(
            f"{option} cannot open disk {target}, since volume '{way.source.path}' is encrypted",
            hint="Use --seed, which needs no access to the volumes.",
        )
    hidden = next((volume for volume in read if volume.path not in images and not _can_be_read(volume)), None)
    if hidden is not None or not _is_writable(survey, way):
        path = way.source.path if hidden is None else hidden.path
        what = f"a copy of '{path}' would belong to another user" if hidden is None else f"'{path}' cannot be read here"
        raise UnsupportedError(
            f"{option} cannot open disk {target} of the clones, since {what}",
            hint="Run virtomate as root on the host of the hypervisor. Or use --seed, which needs no access to the "
            "volumes.",
        )
    known = survey.target.pools.named(way.place.pool)
    trust = survey.target.gate.assess(survey.target.connection, known.pool, known.description)
    if trust.objections:
        raise IllegalStateError(
            f"disk {target}: {option} would follow a symbolic link that somebody else puts into '{trust.path}', which "
            f"{' and '.join(trust.objections)}",
            hint=f"Make the directory safe ({'; '.join(trust.remedies)}), use another pool, or give --trust-pool if "
            "you trust whoever can write there.",
        )


def _can_be_read(volume: VolumeDescription) -> bool:
    descriptor = open_visible(volume, os.O_RDONLY)
    if descriptor is not None:
        os.close(descriptor)
    # the times of a file that a guest writes to are not those that libvirt has told
    return descriptor is not None or _is_readable_file(volume.path)


def _is_readable_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode) and os.access(path, os.R_OK)
    except (OSError, ValueError):
        return False


def _is_writable(survey: Survey, way: Duplication) -> bool:
    user = os.geteuid()
    return (
        user == _ROOT
        or runs_unprivileged(survey.target.connection)
        or (way.keep_owner and way.source.owner == str(user))
    )


def prepare(
    run: Run, prepared: PreparedPlan, disks: Iterable[DiskPlan], filled: Mapping[str, Filled], claim: Claim
) -> None:
    """Prepare a clone whose volumes are complete.

    Raises:
        InterruptedBySignalError: A signal arrived.
        VirtomateError: The program failed, or a volume is not the one that was made.
    """
    from virtomate.duplication.appliance import run_in_appliance  # noqa: PLC0415 - few clones are prepared

    name = prepared.preparation.program
    words = command_line(
        prepared.program,
        prepared.preparation,
        list(_images(prepared, disks, filled, claim).items()),
        prepared.host_name,
        runs_commands=prepared.runs_commands,
    )

    def hear(line: str) -> None:
        _LOG.info("%s for %r: %s", name, claim.name, line)
        step = _STEP.match(line)
        if step is not None and (prepared.tells_steps or step[1].startswith(_FIRST_STEP)):
            run.progress.note(f"{name}, {claim.name}: {step[1]}")

    _LOG.info("running %s in the volumes of %r", name, claim.name)
    try:
        outcome = run_in_appliance(words, run.cancel, hear)
    except (OSError, ValueError) as error:
        raise HypervisorError(f"{name} cannot be run: {error}") from error
    if outcome.status:
        raise _failure(name, claim.name, outcome.lines)


def _images(
    prepared: PreparedPlan, disks: Iterable[DiskPlan], filled: Mapping[str, Filled], claim: Claim
) -> dict[str, str]:
    """Return the formats of the images to open by their paths, each once, in the order of the disks."""
    made = {item.path: item for item in claim.provenance.made if item.kind is ArtifactKind.VOLUME}
    images: dict[str, str] = {}
    for disk in disks:
        if disk.duplication is None or disk.disk.target not in prepared.targets:
            continue
        path = disk.duplication.place.path
        way = filled[path].way or disk.duplication
        _require_own(made[path])
        images[path] = "qcow2" if way.action is Action.LINKED else way.source.format
    return images


def _require_own(made: Artifact) -> None:
    """Raise IllegalStateError if the file at a path here is not the volume that was made."""
    try:
        status = os.lstat(made.path)
    except OSError:
        status = None
    inode = None if made.fingerprint is None else made.fingerprint.inode
    if inode is None or status is None or not stat.S_ISREG(status.st_mode) or status.st_ino != inode:
        raise IllegalStateError(
            f"'{made.path}' on this host is not the volume that was made",
            hint="The daemon may have another file system than this program, or somebody replaced the file.",
        )


def _failure(program: str, clone_name: str, lines: tuple[str, ...]) -> VirtomateError:
    """Return why a program failed, from its output."""
    found = [(number, match[1]) for number, line in enumerate(lines) if (match := _ERROR.match(line))]
    reason = "it did not say why"
    if found:
        number, first = found[-1]
        more = []
        for line in lines[number + 1 :]:
            if not line.strip():
                break
            more.append(line.strip())
        reason = " ".join([first, *more])
    hint = "`-l info` shows everything that the program says."
    if _LAUNCH.search(reason):
        hint = f"`libguestfs-test-tool` tries whether {program} works on this host. {hint}"
    return HypervisorError(f"{program} failed for clone '{clone_name}': {reason}", hint=hint)
