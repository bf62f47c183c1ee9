"""The sentences for all notices, by their codes; {names} stand for the subject and the details of a notice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.notices import (
    BaseFinding,
    Change,
    CloneWarning,
    FileWarning,
    Kept,
    Leftover,
    ResetWarning,
    ScanWarning,
    StartWarning,
    TemplateWarning,
)
from virtomate.words import virsh

if TYPE_CHECKING:
    from collections.abc import Iterable

    from virtomate.notices import Code, Notice

SENTENCES: dict[Code, str] = {
    CloneWarning.ACL: "the access control list of '{subject}' is not carried over ({reason}): the group of the copy "
    "has the rights that the list gives to the group of the original",
    CloneWarning.AUTOSTART: "'{subject}' starts with its host, and its clone does not",
    CloneWarning.BITMAPS: "bitmaps of disk {subject} are not carried over: {reason}",
    CloneWarning.CHECKPOINTS: "checkpoints of '{subject}' are not carried over",
    CloneWarning.DHCP_ENTRY: "the DHCP entry of network '{network}' for {subject} ({lease}) is not carried over: the "
    "clone has another MAC address",
    CloneWarning.EXTERNAL_SNAPSHOTS: "external snapshots of '{subject}' are not carried over",
    CloneWarning.INTERNAL_SNAPSHOTS: "internal snapshots of disk {subject} are not carried over: {reason}",
    CloneWarning.MEMORY: "snapshot '{subject}' is of a running domain: the memory is not restored, and the disks of "
    "the clone are as after a power cut",
    CloneWarning.SAVED_STATE: "the managed-save image of '{subject}' is not carried over: the clone's disks are as "
    "after a power cut",
    CloneWarning.SNAPSHOTS: "snapshots of '{subject}' are not carried over",
    CloneWarning.TPM_STATE: "TPM state is not carried over: the clone starts with an empty {subject}",
    CloneWarning.UNLISTED_SNAPSHOTS: "disk {subject} of the clone contains the snapshots of '{original}', but libvirt "
    f"does not list them there: {virsh('snapshot-create', options='--redefine')} adds them to the list",
    CloneWarning.SAME_DISK_SERIALS: "disk {subject} has the same {identifiers} in original and clone",
    CloneWarning.SAME_GUEST_DATA: "{subject} gives original and clone the same {told}",
    CloneWarning.SAME_MAC_ADDRESSES: "the clone has the MAC addresses of '{subject}', as all clones made with --mac "
    "keep: domains with the same addresses conflict on a shared network",
    CloneWarning.SAME_SEED: "disk {subject} ({location}) has the label '{label}': original and clone get the same host "
    "name and instance ID from it",
    CloneWarning.SAME_SERIALS: "the SMBIOS serial number '{serial}' ({subject}) is the same in original and clone",
    CloneWarning.SAME_TITLE: "the title '{subject}' is the same for original and clone",
    CloneWarning.SAME_TPM: "the TPM of the clone is a copy of the TPM of '{subject}': the clone unseals the same "
    "secrets, and nobody can tell the two by their TPMs",
    CloneWarning.SHARED: "{subject} is shared with the original",
    CloneWarning.SHARED_BASE: "do not change '{base}' any more: disk {subject} of original and clone both rest on it",
    CloneWarning.SHARED_DISK: "disk {subject} ({location}) is shared with the original ({reason}): both write to it"
    "{cure}",
    CloneWarning.SHARED_NVRAM: "the {subject} is not a file and is shared with the original: both write to it",
    CloneWarning.SHARED_SEED: "disk {subject} ({location}) has the label '{label}' and is shared: original "
    "and clone get the same host name and instance ID from it, unless --seed gives the clone its own",
    CloneWarning.UNCLEAN_IMAGE: "the image of disk {subject} ('{path}') was not closed properly, and the clone's disk "
    "starts from it",
    CloneWarning.UNFROZEN: "the file systems of '{subject}' were not frozen ({reason}): the disks of the clone are as "
    "after a power cut",
    CloneWarning.UNLIMITED: "disk {subject} was copied faster than --bandwidth allows: the backup was over before "
    "libvirt limited it",
    CloneWarning.UNCHECKED_FILE: "nothing shows whether host '{host}' has the file '{subject}' ({where}), which the "
    "clone needs",
    CloneWarning.OF_OTHER_HOST: "{subject} is kept: look whether that is right on host '{host}'",
    CloneWarning.UNKNOWN_DEPENDENT: "disk {subject} rests on '{base}', and libvirt on host '{host}' does not know the "
    "clone: commands there see at most its image in a storage pool",
    CloneWarning.UNTRIMMED: "disk {subject}: '{path}' cannot be opened here, so it takes all of its capacity on the "
    "host, zeroes included",
    CloneWarning.HOT_PLUGGED: "the running '{original}' has {subject}, but its definition has not, nor has "
    "the clone: --live-devices takes it along",
    CloneWarning.EXPOSED_COPY: "disk {subject}: until libvirt has finished the copy of '{path}', everybody who can "
    "enter '{directory}' can read it (the original has mode {mode}); --transfer stream, where possible, prevents that",
    CloneWarning.LINKED_ORIGINAL: "do not start '{subject}' any more: writing to its disks corrupts the linked clones "
    "that use them as backing files",
    CloneWarning.LINKED_SNAPSHOT: "do not delete, commit or revert to snapshot '{subject}' of '{original}' any more: "
    "that corrupts the linked clones that use the images of the snapshot as backing files",
    CloneWarning.MISSING_LOADER: "'{subject}' and its clone cannot be started here: there is no firmware '{path}'",
    CloneWarning.NO_FIRMWARE: "'{subject}' and its clone cannot be started here: libvirt finds no firmware ({reason})",
    CloneWarning.OTHER_OWNER: "'{subject}' belongs to user {user} and group {group}, not to {wanted}: the file system "
    "lets libvirt give no file away, so QEMU can open the file only with the rights of that user",
    CloneWarning.NVRAM_ELSEWHERE: "the directory of the NVRAM, '{subject}', is read-only: the clone's NVRAM goes into "
    "libvirt's own directory",
    CloneWarning.NVRAM_OF_NOW: "the NVRAM is not as it was at snapshot '{snapshot}': the clone gets a copy of "
    "'{subject}' as it is now",
    CloneWarning.NVRAM_TEMPLATE: "'{subject}' uses a template ('{path}') as its NVRAM, and writes to it when it runs",
    CloneWarning.OTHER_MOMENT: "disk {subject} is not in snapshot '{snapshot}': the clone gets the disk as it is now",
    CloneWarning.SNAPSHOT_WRITTEN: "disk {disk}: '{path}' was written to since snapshot '{subject}' was made, as the "
    "deletion of an older snapshot does; after a block commit that was ended early, the clone is not what the snapshot "
    "holds",
    CloneWarning.UNCOMPARED_MAC_ADDRESSES: "the definition of domain '{subject}' is longer than libvirt can send: its "
    "MAC addresses were not compared with the clone's",
    CloneWarning.WRITABLE_BASE: "the base '{subject}' keeps its write permission ({reason}): nothing keeps other "
    "programs from writing to it, which would corrupt original and clones",
    CloneWarning.WRITABLE_DIRECTORY: "{subject}: '{directory}' {reason}, and libvirt follows symbolic links there",
    StartWarning.SAME_MACHINE_ID: "'{subject}' has the same {what} as {others}, and only one of them can be reached: "
    "empty /etc/machine-id in the original before cloning, or in each clone with --sysprep; "
    "where the guest has a fixed address, give each clone its own with --seed and --network-data",
    Change.NEW: "{subject}",
    Change.AUTOMATIC: "{subject}: chosen by libvirt at every start",
    Change.OWN_PATH: "{subject}: {path}",
    Change.NAMED_FIRMWARE: "firmware: {subject}, and no other that libvirt selects",
    Change.TOLD: "{told} in {subject}",
    Change.ASKED: "{subject}: {new} instead of {old}",
    Change.OTHER_HOST: "{subject}: {new} instead of {old}, which the other host does not have",
    ScanWarning.RESTORED_DEFINITION: "'{subject}' has its definition back, which an interrupted deletion had put aside",
    ScanWarning.COMPLETED_FREEZE: "'{subject}' is frozen: a run that was killed had moved its disks onto overlays",
    ScanWarning.UNREADABLE_DOCUMENT: "{subject} cannot be read ({reason}): the files that it uses are not known",
    ScanWarning.CUT_DOCUMENT: "{subject} is not well-formed XML, and was read up to the first error",
    ScanWarning.DEEP_RECORD: "the record of virtomate in {subject} is nested too deeply, and was not read",
    ScanWarning.OVERSIZE_DEFINITION: "the definition of domain '{subject}' is longer than libvirt can send: of all "
    "that it uses, only its disks were compared with what is to be deleted",
    ScanWarning.UNREADABLE_IMAGE: "cannot read {subject} ({reason}): the backing files are not known",
    ScanWarning.UNREADABLE_POOL: "libvirt cannot read storage pool '{subject}': its volumes are not known",
    ScanWarning.UNLISTED_POOL: "storage pool '{subject}' has more volumes than libvirt lists (16384): only those that "
    "definitions name are known",
    Kept.BASE: "image '{subject}', which cloning did not make, and on which nothing rests any more: {command} deletes "
    "the image",
    Kept.USED_BASE: "image '{subject}', on which others rest: domain '{keeper}' keeps the image, and goes with the "
    "image's last user",
    Kept.UNUSED_IMAGE: "image '{subject}', on which nothing rests any more: {command} deletes the image with domain "
    "'{keeper}'",
    Kept.DISK: "disk {subject} ({location}), which cloning did not make",
    Kept.NVRAM: "NVRAM '{subject}', which cloning did not make",
    Kept.TPM: "TPM state '{subject}', which cloning did not make",
    Kept.ENTRY: "{subject}, which is not as cloning made the entry",
    Kept.FOREIGN: "{subject} ({reason})",
    Kept.UNREACHABLE: "{subject} ({reason})",
    Leftover.UNREMOVED: "{subject} ({reason})",
    Leftover.CLAIM: "domain '{subject}', an unfinished clone and the record of what is left",
    Leftover.PLACEHOLDER: "domain '{subject}', an unfinished clone by now, which holds its definition",
    Leftover.SHUT_OFF: "domain '{subject}', which is still shut off, and domain '{record}', which records that",
    TemplateWarning.WRITABLE: "the write permission of '{subject}' could not be removed: {reason}",
    TemplateWarning.UNWRITABLE: "the write permission of '{subject}' was not restored: {reason}",
    ResetWarning.NVRAM: "the NVRAM '{subject}' stays as it is: {reason}",
    ResetWarning.TPM: "the state of the emulated TPM of '{subject}' stays as it is",
    Leftover.FROZEN: "domain '{subject}', which stays frozen ({reason}): its disks are overlays on the former volumes, "
    "and it can be used as before",
    FileWarning.OTHER_FORMAT: "'{subject}' is called {promised}, but its content is {format}",
    FileWarning.CORRUPT: "'{subject}' is marked as corrupt, and so is the volume",
    FileWarning.UNCLEAN: "'{subject}' was not closed properly, and neither was the volume",
    BaseFinding.WRITTEN: "'{subject}' was written to: its {what} has changed",
    BaseFinding.TRUNCATED: "'{subject}' was truncated from {then} to {now} bytes",
    BaseFinding.REPLACED: "'{subject}' was replaced by another file{where}",
    BaseFinding.MOVED: "'{subject}' was moved to '{found}'",
    BaseFinding.MISSING: "'{subject}' does not exist any more",
    BaseFinding.OTHER: "'{overlay}' rests on '{subject}', which is not like '{then}', on which it was made",
    BaseFinding.UNRECORDED: "the record of the clone does not say what '{subject}' was like",
    BaseFinding.UNSEEN: "'{subject}' cannot be looked at: {reason}",
    BaseFinding.DEVICE: "'{subject}' is a block device, and nothing tells whether somebody has written to it",
}


def sentence(notice: Notice) -> str:
    """Return the sentence for a notice, without a full stop; its commands still need `Reach.fill`."""
    return SENTENCES[notice.code].format(subject=notice.subject, **dict(notice.details))


def sentences(notices: Iterable[Notice]) -> list[str]:
    """Return the sentences for notices."""
    return [sentence(notice) for notice in notices]
