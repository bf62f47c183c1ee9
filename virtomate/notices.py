"""Notices about a clone, a deletion or an import: a code, a subject and the details.

The sentences stand in `output.messages`; docs/reference/notices.rst lists them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class CloneWarning(StrEnum):
    """Warnings before a clone is started; `--fail-on` can refuse each of them."""

    ACL = "without-access-control-list"
    AUTOSTART = "without-autostart"
    BITMAPS = "without-bitmaps"
    CHECKPOINTS = "without-checkpoints"
    DHCP_ENTRY = "without-dhcp-entry"
    EXTERNAL_SNAPSHOTS = "without-external-snapshots"
    INTERNAL_SNAPSHOTS = "without-internal-snapshots"
    MEMORY = "without-memory"
    SAVED_STATE = "without-saved-state"
    SNAPSHOTS = "without-snapshots"
    TPM_STATE = "without-tpm-state"
    UNLISTED_SNAPSHOTS = "unlisted-snapshots"
    SAME_DISK_SERIALS = "same-disk-identifiers"
    SAME_GUEST_DATA = "same-guest-data"
    SAME_MAC_ADDRESSES = "same-mac-addresses"
    SAME_SEED = "same-seed"
    SAME_SERIALS = "same-serial-numbers"
    SAME_TITLE = "same-title"
    SAME_TPM = "same-tpm"
    SHARED = "shared-resource"
    SHARED_BASE = "shared-base"
    SHARED_DISK = "shared-disk"
    SHARED_NVRAM = "shared-nvram"
    SHARED_SEED = "shared-seed"
    UNCLEAN_IMAGE = "unclean-image"
    UNFROZEN = "unfrozen-copy"
    UNLIMITED = "unlimited-copy"
    UNTRIMMED = "untrimmed-copy"
    UNCHECKED_FILE = "unchecked-file"
    OF_OTHER_HOST = "of-other-host"
    UNKNOWN_DEPENDENT = "unknown-dependent"
    HOT_PLUGGED = "without-hot-plugged-device"
    EXPOSED_COPY = "exposed-copy"
    LINKED_ORIGINAL = "linked-original"
    LINKED_SNAPSHOT = "linked-snapshot"
    MISSING_LOADER = "missing-firmware"
    NO_FIRMWARE = "no-firmware"
    NVRAM_ELSEWHERE = "nvram-elsewhere"
    NVRAM_OF_NOW = "nvram-of-now"
    NVRAM_TEMPLATE = "nvram-template"
    OTHER_OWNER = "other-owner"
    OTHER_MOMENT = "other-moment"
    SNAPSHOT_WRITTEN = "written-snapshot"
    UNCOMPARED_MAC_ADDRESSES = "uncompared-mac-addresses"
    WRITABLE_BASE = "writable-base"
    WRITABLE_DIRECTORY = "writable-directory"


class Change(StrEnum):
    """How the definition of a clone differs from its original's."""

    NEW = "new-identifier"
    AUTOMATIC = "automatic"
    OWN_PATH = "own-path"
    NAMED_FIRMWARE = "named-firmware"
    TOLD = "own-name"
    ASKED = "as-asked"
    OTHER_HOST = "other-host"


class ScanWarning(StrEnum):
    """Warnings before a clone is deleted: a restored definition, and objects that could not be read."""

    RESTORED_DEFINITION = "restored-definition"
    COMPLETED_FREEZE = "completed-freeze"
    UNREADABLE_DOCUMENT = "unreadable-document"
    CUT_DOCUMENT = "cut-document"
    DEEP_RECORD = "deep-record"
    OVERSIZE_DEFINITION = "oversize-definition"
    UNREADABLE_IMAGE = "unreadable-image"
    UNREADABLE_POOL = "unreadable-pool"
    UNLISTED_POOL = "unlisted-pool"


class StartWarning(StrEnum):
    """Warnings about clones that run."""

    SAME_MACHINE_ID = "same-machine-id"


class FileWarning(StrEnum):
    """Warnings about an imported file."""

    OTHER_FORMAT = "other-format"
    CORRUPT = "corrupt-file"
    UNCLEAN = "unclean-file"


class TemplateWarning(StrEnum):
    """Warnings about the volumes of templates, and of domains that were templates."""

    WRITABLE = "writable-template"
    UNWRITABLE = "unwritable-volume"


class ResetWarning(StrEnum):
    """Warnings about clones that are reset: what stays as it is."""

    NVRAM = "nvram-not-reset"
    TPM = "tpm-not-reset"


class Kept(StrEnum):
    """Objects that the deletion of a clone keeps."""

    BASE = "kept-base"
    USED_BASE = "kept-used-base"
    UNUSED_IMAGE = "kept-unused-image"
    DISK = "kept-disk"
    NVRAM = "kept-nvram"
    TPM = "kept-tpm-state"
    ENTRY = "kept-dhcp-entry"
    FOREIGN = "foreign-file"
    UNREACHABLE = "unreachable-file"


class Leftover(StrEnum):
    """Objects that could not be removed."""

    UNREMOVED = "unremoved"
    CLAIM = "unfinished-clone"
    PLACEHOLDER = "half-deleted-clone"
    SHUT_OFF = "shut-off-original"
    FROZEN = "frozen-original"


class BaseFinding(StrEnum):
    """What has happened to an image that a clone rests on, or why that cannot be told."""

    WRITTEN = "base-written"
    TRUNCATED = "base-truncated"
    REPLACED = "base-replaced"
    MOVED = "base-moved"
    MISSING = "base-missing"
    OTHER = "other-base"
    UNRECORDED = "unrecorded-base"
    UNSEEN = "unseen-base"
    DEVICE = "device-base"


Code = (
    CloneWarning
    | StartWarning
    | Change
    | ScanWarning
    | FileWarning
    | TemplateWarning
    | ResetWarning
    | Kept
    | Leftover
    | BaseFinding
)


class Notice(NamedTuple):
    """A notice.

    Attributes:
        subject: Name of the object or, without a name, a noun: `vda`, `VNC ports`.
        details: The other values of the sentence, by name.
    """

    code: Code
    subject: str
    details: tuple[tuple[str, str], ...] = ()


def notice(code: Code, subject: str, **details: str) -> Notice:
    """Return a notice with these details."""
    return Notice(code, subject, tuple(details.items()))


def named(notices: Iterable[Notice]) -> str:
    """Return subjects with their reasons, for the message of an error."""
    return "; ".join(f"{item.subject} ({dict(item.details)['reason']})" for item in notices)
