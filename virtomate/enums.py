"""The words of requests, results and JSON, apart from the records, which take longer to load."""

from __future__ import annotations

from enum import StrEnum


class Mode(StrEnum):
    """How volumes are duplicated."""

    COPY = "copy"
    SHALLOW = "shallow"
    LINKED = "linked"
    REFLINK = "reflink"
    AUTO = "auto"


class Action(StrEnum):
    """The result for one disk."""

    COPIED = "copied"
    SHALLOW_COPIED = "shallow-copied"
    LINKED = "linked"
    REFLINKED = "reflinked"
    SHARED = "shared"
    DROPPED = "dropped"
    REPLACED = "replaced"
    KEPT = "kept"


class Transfer(StrEnum):
    """How a new volume gets its content; `link` writes nothing, since the new volume is an overlay."""

    HOST = "host"
    SERVER = "server"
    STREAM = "stream"
    LINK = "link"
    CONVERT = "convert"
    BACKUP = "backup"


class Consistency(StrEnum):
    """In what state the disks of a clone are: as after a power cut, with whole file systems, or as after a shutdown."""

    CRASH = "crash"
    FILESYSTEM = "filesystem"
    OFFLINE = "offline"


class Quiesce(StrEnum):
    """Whether the file systems of a running guest are frozen when its disks are copied."""

    AUTO = "auto"
    REQUIRE = "require"
    OFF = "off"


class Status(StrEnum):
    """How one clone ended."""

    CLONED = "cloned"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    PLANNED = "planned"
    UNCHANGED = "unchanged"


class IfExists(StrEnum):
    """What happens where a domain has the name of a clone: a refusal, or the domain is kept or replaced."""

    FAIL = "fail"
    KEEP = "keep"
    REPLACE = "replace"


class DiskAction(StrEnum):
    """The request for one disk: duplicate the disk in a mode, share it, or drop it."""

    COPY = "copy"
    SHALLOW = "shallow"
    LINKED = "linked"
    REFLINK = "reflink"
    AUTO = "auto"
    SHARE = "share"
    DROP = "drop"

    @property
    def duplicates(self) -> bool:
        """Whether the disk gets a volume of its own."""
        return self not in {DiskAction.SHARE, DiskAction.DROP}


class WaitFor(StrEnum):
    """The sign of life that a started clone must give."""

    AGENT = "agent"
    IP = "ip"


class TpmTreatment(StrEnum):
    """The request for the state of an emulated TPM: a new TPM, a copy of the original's, or no clone."""

    NEW = "new"
    COPY = "copy"
    REFUSE = "refuse"


class SideFileAction(StrEnum):
    """The result for a file beside the disks."""

    COPIED = "copied"
    FRESH = "fresh"
    SHARED = "shared"
    KEPT = "kept"


class ArtifactState(StrEnum):
    """Whether an artifact is only planned, or made."""

    PLANNED = "planned"
    MADE = "made"


class ArtifactKind(StrEnum):
    """Kind of an artifact."""

    VOLUME = "volume"
    NVRAM = "nvram"
    SEED = "seed"
    CREDENTIAL = "credential"
    TPM = "tpm"
    TPM_SOURCE = "tpm-source"
    POOL = "pool"


class CredentialWay(StrEnum):
    """How a credential gets to a guest: by an OEM string of SMBIOS, or by QEMU's firmware configuration."""

    SMBIOS = "smbios"
    FW_CFG = "fw_cfg"


class TokenPlace(StrEnum):
    """Where a file has its token: in an extended attribute, or in the header of an overlay or seed."""

    ATTRIBUTE = "attribute"
    HEADER = "header"


class DeletionStatus(StrEnum):
    """How the deletion of one clone ended."""

    DELETED = "deleted"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class TemplateStatus(StrEnum):
    """What became of a domain: it is a template now, or an ordinary domain."""

    TEMPLATE = "template"
    ORDINARY = "ordinary"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class FlattenStatus(StrEnum):
    """How the flattening of one domain ended."""

    FLATTENED = "flattened"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class FlattenWay(StrEnum):
    """How an image gets what it lacks: written into it here, pulled by its running domain, or by a copy of it."""

    IN_PLACE = "in-place"
    PULL = "pull"
    COPY = "copy"


class ResetStatus(StrEnum):
    """How the reset of one clone ended."""

    RESET = "reset"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class Integrity(StrEnum):
    """Whether the images below a clone are what they were when the clone was made."""

    INTACT = "intact"
    BROKEN = "broken"
    UNVERIFIED = "unverified"
    INDEPENDENT = "independent"


class BaseCheck(StrEnum):
    """How a new base was compared with the former base: by content, by the record of the clone, or not at all."""

    CONTENT = "content"
    RECORD = "record"
    SKIPPED = "skipped"


class BaseProperty(StrEnum):
    """What the record of a clone has of an image below."""

    SIZE = "size"
    MODIFIED = "modified"
    INODE = "inode"
    BIRTH_TIME = "birth_time"
    HEADER = "header"
    KEY = "key"


class AddressSource(StrEnum):
    """The source of a domain's addresses."""

    LEASE = "lease"
    AGENT = "agent"
    ARP = "arp"


class MapKind(StrEnum):
    """The kinds of things that a clone on another host may have there under another name (`--map`)."""

    POOL = "pool"
    NETWORK = "network"
    BRIDGE = "bridge"
    MACHINE = "machine"
    CPU = "cpu"
    VIRT = "virt"
    FILE = "file"
    SECRET = "secret"  # noqa: S105 - a kind
    HOSTDEV = "hostdev"
