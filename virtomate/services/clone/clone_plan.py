"""The plan of one clone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.enums import Action
from virtomate.services.transaction import VolumeJob, duplicating
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.codec import Definition
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.base import Duplication
    from virtomate.enums import ArtifactKind, Mode
    from virtomate.notices import CloneWarning, Notice
    from virtomate.services.clone.addresses import EntryPlan
    from virtomate.services.clone.credentials import CredentialPlan
    from virtomate.services.clone.disks import DiskPlan
    from virtomate.services.clone.moment import MomentPlan
    from virtomate.services.clone.original import Source
    from virtomate.services.clone.preparing import PreparedPlan
    from virtomate.services.clone.seeds import SeedPlan
    from virtomate.services.clone.side_files import SideFilePlan
    from virtomate.services.clone_parts import FrozenDiskResult, InterfaceResult
    from virtomate.services.other_host import HostNames
    from virtomate.services.storage import SpaceNeed


class ClonePlan(NamedTuple):
    """Everything that will be done to make one clone.

    Attributes:
        is_uuid_given: Whether the user chose the UUID, so that other clones may be asked to have it, too.
        definition: The clone's definition without a record of ours.
        reserved: MAC addresses and paths that the user chose, and that another run may be asked for as well.
        needs: The space that the clone's volumes will take, by pool.
        moment: The images of a running original that the clone starts from.
        frozen: The disks of the original that are frozen.
        seed: The seed of the clone, None without a seed.
        prepared: What is changed in the guest of the clone, None for nothing.
        host_name: Host name of the clone; None where the clone keeps the host name of the original.
        credentials: The credentials of the clone.
        number: Number of the clone in the request, from 0 on.
        autostarts: Whether the clone starts with its host.
        entries: The DHCP entries that are to be made.
        hosts: The hosts, if the clone lives on another host than the original; else None.
    """

    source: Source
    name: str
    uuid: str
    is_uuid_given: bool
    mode: Mode
    disks: tuple[DiskPlan, ...]
    side_files: tuple[SideFilePlan, ...]
    interfaces: tuple[InterfaceResult, ...]
    definition: Definition
    changes: tuple[Notice, ...]
    warnings: tuple[Notice, ...]
    fail_on: frozenset[CloneWarning]
    reserved: tuple[str, ...] = ()
    needs: tuple[SpaceNeed, ...] = ()
    moment: MomentPlan | None = None
    frozen: tuple[FrozenDiskResult, ...] = ()
    seed: SeedPlan | None = None
    host_name: str | None = None
    prepared: PreparedPlan | None = None
    credentials: tuple[CredentialPlan, ...] = ()
    number: int = 0
    autostarts: bool = False
    entries: tuple[EntryPlan, ...] = ()
    hosts: HostNames | None = None

    @property
    def base(self) -> MomentPlan | None:
        """The images of a running original that it rests on when it is complete."""
        return self.moment if any(disk.action is Action.LINKED for disk in self.disks) else None

    @property
    def rests_on_frozen_bases(self) -> bool:
        """Whether the original may be started and written to meanwhile."""
        frozen = {disk.target for disk in self.frozen}
        duplicated = [disk.disk for disk in self.disks if disk.duplication is not None]
        return bool(frozen) and all(disk.target in frozen or disk.is_readonly for disk in duplicated)

    def side_file(self, kind: ArtifactKind) -> SideFilePlan | None:
        """Return the plan of a kind of file beside the disks, None where the clone has no such file."""
        return next((file for file in self.side_files if file.kind is kind), None)

    @property
    def duplications(self) -> tuple[Duplication, ...]:
        """Every volume to be duplicated, once, even if two disks share it."""
        every = (*(disk.duplication for disk in self.disks), *(file.duplication for file in self.side_files))
        return tuple({item.place.path: item for item in every if item is not None}.values())

    @property
    def jobs(self) -> tuple[VolumeJob, ...]:
        """Every volume that is to be made."""
        return (*map(duplicating, self.duplications), *self.small_jobs)

    @property
    def small_jobs(self) -> tuple[VolumeJob, ...]:
        """The volumes of seed and credentials."""
        files = (plan.job for plan in self.credentials if plan.job is not None)
        return (*(() if self.seed is None else (self.seed.job,)), *files)

    @property
    def all_warnings(self) -> tuple[Notice, ...]:
        """The warnings of the plan and of its side files, each once."""
        side_files = (warning for file in self.side_files for warning in file.warnings)
        return tuple(dict.fromkeys((*self.warnings, *side_files)))

    @property
    def sources(self) -> tuple[VolumeDescription, ...]:
        """The volumes that must not change: what the clone is made of or rests on, down to the last image."""
        still = (item for item in self.duplications if not item.is_moving and item.network is None)
        return tuple(volume for duplication in still for volume in duplication.watched)

    @property
    def new_paths(self) -> tuple[str, ...]:
        """The paths of the clone's new volumes and side files."""
        small = (job.place.path for job in self.small_jobs)
        paths = (*(item.place.path for item in self.duplications), *(file.path for file in self.side_files), *small)
        return tuple(path for path in paths if path is not None)
