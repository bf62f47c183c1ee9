"""Records for tests of the output, with every part filled."""

from __future__ import annotations

from virtomate.definition.provenance import DomainReference, Provenance
from virtomate.definition.volume import Location, VolumeListing
from virtomate.enums import Action, DeletionStatus, Mode, SideFileAction, Status, Transfer
from virtomate.errors import ConflictError
from virtomate.hypervisor.agent import Address, DomainInterface, RunResult
from virtomate.notices import Change, CloneWarning, FileWarning, Kept, Leftover, Notice, notice
from virtomate.services.clone_parts import DiskResult, InterfaceResult, NvramResult, ReplacedClone, VolumeReference
from virtomate.services.clone_records import CloneResult
from virtomate.services.delete import Deletion, DeletionResult, DoomedThing
from virtomate.services.guest import PingResult
from virtomate.services.listings import CloneOrigin, DomainListing
from virtomate.services.pool_listings import PoolListing
from virtomate.services.storage.space import SpaceNeed
from virtomate.services.volume_import import ImportResult
from virtomate.words import virsh

SOURCE = DomainReference("ubuntu", "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d")
UUID = "f0e1d2c3-b4a5-4687-9788-a9bacbdcedfe"
OLD = VolumeReference("images", "ubuntu.qcow2", "/srv/ubuntu.qcow2", "qcow2")
NEW = VolumeReference("images", "web-1.qcow2", "/srv/web-1.qcow2", "qcow2")
LUN = VolumeReference(None, None, "/dev/lun", None)

CLONED = CloneResult(
    status=Status.CLONED,
    name="web-1",
    uuid=UUID,
    source=SOURCE,
    mode=Mode.COPY,
    disks=(
        DiskResult("vda", Action.COPIED, None, OLD, NEW, 10737418240, 1610612736, Transfer.STREAM),
        DiskResult("sda", Action.SHARED, "block disk, not file-based", LUN, LUN, None, 0, None),
    ),
    nvram=NvramResult(SideFileAction.COPIED, "/nvram/ubuntu_VARS.fd", "/nvram/web-1_VARS.fd", "raw"),
    interfaces=(InterfaceResult("52:54:00:00:00:02", "52:54:00:00:00:01"),),
    changes=(Notice(Change.NEW, "UUID"), Notice(Change.NEW, "MAC addresses")),
    warnings=(
        notice(CloneWarning.SHARED_DISK, "sda", location="/dev/lun", reason="block disk, not file-based", cure=""),
    ),
    seconds=1.234,
)
UNCHANGED = CLONED._replace(
    status=Status.UNCHANGED,
    disks=(DiskResult("vda", Action.KEPT, None, VolumeReference(None, None, None, None), NEW, None, 0, None),),
    nvram=None,
    interfaces=(InterfaceResult("52:54:00:00:00:02", None),),
    changes=(),
    warnings=(),
    consistency=None,
)
REPLACED = ReplacedClone(
    "11111111-2222-4333-8444-555555555555",
    SOURCE,
    Mode.LINKED,
    ("volume '/srv/web-1.qcow2'",),
    (
        notice(Kept.BASE, "/srv/base.qcow2", command=virsh("vol-delete", "base.qcow2")),
        notice(Kept.DISK, "vdb", location="/srv/mine.qcow2"),
    ),
)
PLANNED = CLONED._replace(status=Status.PLANNED, space=(SpaceNeed("images", 1610612736, 1 << 40, 3221225472),))
STARTED = CLONED._replace(
    is_started=True,
    addresses=(DomainInterface("eth0", "52:54:00:00:00:02", (Address("IPv4", "192.0.2.7", 24),)),),
)
ERROR = ConflictError(
    "there is already a volume",
    "Choose another name.",
    (notice(Leftover.UNREMOVED, "volume '/srv/x'", reason="busy"),),
)
# the sentence for what it leaves
LEFT = "volume '/srv/x' (busy)"
LISTING = DomainListing(
    "web-1", UUID, "shut-off", CloneOrigin(finished=True, source=SOURCE, mode=Mode.LINKED, created=1767225600.9)
)
SCRIPT = ("fish", "# a script\ncomplete virtomate\n")
PING = PingResult("web-1", UUID, 0.25)
RUN = RunResult(exit_code=None, signal=9, stdout=b"\xfc\n", stderr=b"", stdout_truncated=True)
INTERFACE = DomainInterface(
    "eth0", "52:54:00:00:00:01", (Address("IPv4", "192.0.2.7", 24), Address("IPv6", "2001:db8::7", 64))
)
POOL = PoolListing("images", UUID, "running", True, True, 1 << 40, 3 << 30, (1 << 40) - (3 << 30), 2)
VOLUME = VolumeListing(
    name="web-1.qcow2",
    key="/srv/web-1.qcow2",
    type="file",
    capacity=10 << 30,
    allocation=200704,
    physical=196768,
    target=Location("/srv/web-1.qcow2", "qcow2"),
    backing_store=Location("/srv/ubuntu.qcow2", "raw"),
)
IMPORT = ImportResult(
    "web.qcow2",
    "images",
    VOLUME,
    3 << 20,
    (notice(FileWarning.OTHER_FORMAT, "web.raw", promised="raw", format="qcow2"),),
    0.456,
)
DELETION = DeletionResult(
    DeletionStatus.DELETED,
    "web-1",
    UUID,
    ("volume '/srv/web-1.qcow2'",),
    (notice(Kept.DISK, "vdb", location="/srv/more"),),
)
PREVIEW = Deletion(
    "web-1",
    UUID,
    Provenance(finished=True, uuid=UUID, token="", source=SOURCE, mode=Mode.COPY, created=0, made=()),
    doomed=(DoomedThing("volume '/srv/web-1.qcow2'", 1610612736), DoomedThing("NVRAM '/nvram/web-1_VARS.fd'")),
    kept_disks=(notice(Kept.DISK, "vdb", location="/srv/more"),),
)
# the sentence for the warning of the clone
SHARED_LUN = "disk sda (/dev/lun) is shared with the original (block disk, not file-based): both write to it"
