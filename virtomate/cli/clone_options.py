"""The options of `domain-clone`."""

from __future__ import annotations

import click

from virtomate.cli.address_options import ADDRESS_OPTIONS
from virtomate.cli.clone_values import (
    KEEP,
    SHUTDOWN_SECONDS,
    WAIT_SECONDS,
    WholeNumber,
    codes,
    complete_codes,
    disk_choice,
    mac_address,
    memory_size,
    network,
    seconds,
    text_value,
    title,
    user,
    uuid,
    wait,
)
from virtomate.cli.completion import POOL, SNAPSHOT
from virtomate.cli.host_options import OPTIONS as HOST_OPTIONS
from virtomate.cli.options import VOLUME_OPTIONS
from virtomate.cli.sysprep_options import OPTIONS as SYSPREP_OPTIONS
from virtomate.enums import DiskAction, IfExists, Mode, Quiesce, TpmTreatment, Transfer

_MAX_COUNT = 9999
_MAX_VCPUS = 4096
_JOBS = 4
_MAX_JOBS = 64
_MAX_BANDWIDTH = 1024 * 1024

SECTIONS: dict[str, tuple[click.Option, ...]] = {
    "Clone": (
        click.Option(
            ["--mode"],
            type=click.Choice([mode.value for mode in Mode]),
            default=Mode.COPY.value,
            help="How volumes are duplicated: copy makes independent volumes, shallow copies only the top image of a "
            "backing chain, linked makes overlays on the original's volumes, reflink shares equal blocks within the "
            "file system, auto makes a reflink of each volume where the file system can, else a copy. [default: copy]",
        ),
        click.Option(
            ["--freeze"],
            is_flag=True,
            help="With --mode linked or --disk TARGET=linked, move the linked disks of DOMAIN onto overlays first, so "
            "that DOMAIN can be started, too: its former volumes become bases that nobody writes to. With --live, a "
            "DOMAIN that runs goes on in its overlays.",
        ),
        click.Option(
            ["--count"],
            type=WholeNumber(1, _MAX_COUNT),
            metavar="N",
            help="Make N clones, with names made from one NEWNAME. In NEWNAME, {} stands for the number and {:02} for "
            "the number with at least two digits; otherwise a hyphen and the number follow NEWNAME. N is at most "
            f"{_MAX_COUNT}. [default: one clone for each NEWNAME]",
        ),
        click.Option(
            ["--snapshot"],
            metavar="NAME",
            type=SNAPSHOT,
            help="Clone DOMAIN as it was at its snapshot NAME; if the snapshot is external, DOMAIN may run meanwhile. "
            "[default: as it is now]",
        ),
        click.Option(
            ["--from", "from_file"],
            type=click.Path(),
            metavar="FILE",
            help="Make the clones that FILE lists, in TOML or JSON, each with options of its own; - is standard input. "
            "[default: the clones NEWNAME...]",
        ),
        click.Option(["--auto-name"], is_flag=True, help="Choose a free name for each clone, such as DOMAIN-clone-2."),
        click.Option(
            ["--if-exists"],
            type=click.Choice([choice.value for choice in IfExists]),
            default=IfExists.FAIL.value,
            help="If a domain has the name NEWNAME: fail, or keep that domain if it is such a clone and whole, and "
            "make only the missing clones (--sysprep and --customize leave the kept ones as they are), or replace that "
            "clone by a new one. [default: fail]",
        ),
        click.Option(
            ["--jobs"],
            type=WholeNumber(1, _MAX_JOBS),
            default=_JOBS,
            metavar="N",
            help=f"Number of clones to create in parallel, at most {_MAX_JOBS}. [default: {_JOBS}]",
        ),
        click.Option(
            ["--fail-on"],
            type=codes,
            metavar="CODE[,CODE...]",
            multiple=True,
            shell_complete=complete_codes,
            help="Make no clone if there is a warning with one of these codes, such as linked-original; any stands for "
            "all codes. Can be repeated. [default: warnings refuse nothing]",
        ),
    ),
    "Another host": HOST_OPTIONS,
    "Storage": (
        click.Option(
            ["--disk", "disks"],
            type=disk_choice,
            metavar="TARGET=HOW",
            multiple=True,
            help="How to handle one disk: copy, shallow, linked, reflink or auto (see --mode), share (use the "
            "original's volume) or drop; then where the new volume goes and how large it is, such as "
            "vda=linked,name=NAME,pool=POOL,size=40G. Can be repeated. [default: as --mode says, as large as it is]",
        ),
        click.Option(
            ["--block"],
            type=click.Choice([DiskAction.COPY.value, DiskAction.LINKED.value, DiskAction.SHARE.value]),
            default=DiskAction.SHARE.value,
            help="How to handle disks that are block devices: copy each into a new volume, make an overlay on each "
            "(linked; an overlay is a file, so name its pool), or share them with the original. [default: share]",
        ),
        click.Option(
            ["--pool"],
            metavar="POOL",
            type=POOL,
            help="Pool for new volumes. [default: the pool of each original volume]",
        ),
        click.Option(
            ["--outside-pools"],
            is_flag=True,
            help="Clone also files in directories that no active pool covers, through temporary pools; without --pool, "
            "the clone's files go beside them.",
        ),
        click.Option(
            ["--nvram"],
            metavar="PLACE",
            help="Destination of the NVRAM copy: absolute path, POOL/VOLUME, or a file name in the original's "
            "directory. [default: a file there with the clone's name]",
        ),
        click.Option(
            ["--tpm"],
            type=click.Choice([treatment.value for treatment in TpmTreatment]),
            default=TpmTreatment.NEW.value,
            help="The TPM of the clone, if the original has an emulated TPM: new without state, copy with a copy of "
            "the original's state (both unseal the same secrets), or refuse to clone such an original. [default: new]",
        ),
        click.Option(
            ["--transfer"],
            type=click.Choice([Transfer.HOST.value, Transfer.STREAM.value, Transfer.SERVER.value]),
            help="How content gets into new volumes: virtomate writes the files (host), virtomate writes through the "
            "libvirt connection (stream), or libvirt copies (server). [default: the fastest possible]",
        ),
        click.Option(
            ["--bandwidth"],
            type=WholeNumber(0, _MAX_BANDWIDTH),
            default=0,
            metavar="MiB/s",
            help="Limit on what all transfers together write in a second, for host, stream and --live. [default: 0, no "
            "limit]",
        ),
        *VOLUME_OPTIONS,
    ),
    "Identity": (
        click.Option(
            ["--mac", "macs"],
            type=mac_address,
            metavar=f"MAC|{KEEP}",
            multiple=True,
            help="MAC address of the first interface; a repeated --mac is for the next interface; keep leaves all "
            "addresses as they are. [default: random]",
        ),
        *ADDRESS_OPTIONS,
        click.Option(["--uuid"], type=uuid, metavar="UUID", help="UUID of the clone. [default: random]"),
        click.Option(
            ["--title"], type=title, metavar="TEXT", help="Title of the clone, '' for none. [default: the original's]"
        ),
        click.Option(
            ["--description"],
            type=text_value,
            metavar="TEXT",
            help="Description of the clone, '' for none. [default: the original's]",
        ),
    ),
    "Shape": (
        click.Option(
            ["--memory"],
            type=memory_size,
            metavar="SIZE",
            help="Memory of the clone, such as 2G or 512M (binary units). [default: the original's]",
        ),
        click.Option(
            ["--vcpus"],
            type=WholeNumber(1, _MAX_VCPUS),
            metavar="N",
            help="Number of virtual CPUs of the clone. [default: the original's]",
        ),
        click.Option(
            ["--network", "networks"],
            type=network,
            multiple=True,
            metavar="[IF=]NETWORK|bridge:NAME",
            help="Connect an interface to a network of libvirt, or to a bridge of the host; IF is its number from 1 "
            "on, its MAC address or its target device. Can be repeated. [default: as the original]",
        ),
        click.Option(["--autostart"], is_flag=True, help="Start each clone with its host."),
    ),
    "Seed": (
        click.Option(
            ["--seed"],
            is_flag=True,
            help="Make a disk for each clone from which cloud-init takes the host name and what the options below say. "
            "A seed of the original is replaced. [default: no disk]",
        ),
        click.Option(
            ["--hostname"],
            metavar="NAME",
            help="Host name of the guest; {} stands for the number of the clone, as in NEWNAME. [default: the name "
            "of the clone]",
        ),
        click.Option(
            ["--ssh-key", "ssh_keys"],
            metavar="FILE|TEXT",
            multiple=True,
            type=click.Path(),
            help="Public key of SSH, or a file with such keys, that may log in as the default user. Can be repeated. "
            "[default: no key]",
        ),
        click.Option(
            ["--user"],
            metavar="NAME",
            type=user,
            help="Name of the default user. [default: as the image has it, such as debian]",
        ),
        click.Option(
            ["--user-data"],
            metavar="FILE",
            type=click.Path(),
            help="User data for cloud-init, instead of --ssh-key and --user. [default: none]",
        ),
        click.Option(
            ["--network-data"],
            metavar="FILE",
            type=click.Path(),
            help="Network configuration for cloud-init. [default: DHCP]",
        ),
        click.Option(
            ["--vendor-data"],
            metavar="FILE",
            type=click.Path(),
            help="Vendor data for cloud-init. [default: none]",
        ),
        click.Option(
            ["--seed-dir"],
            metavar="DIR",
            type=click.Path(file_okay=False),
            help="Directory with the files of the seed: meta-data, user-data, network-config, vendor-data. "
            "[default: the options above]",
        ),
    ),
    "Guest": (
        *SYSPREP_OPTIONS,
        click.Option(
            ["--credential", "credentials"],
            metavar="NAME=VALUE|@FILE",
            multiple=True,
            help="Credential for systemd in the guest, such as system.hostname=web-{} or "
            "passwd.hashed-password.root=@FILE; {} in VALUE stands for the number of the clone, as in NEWNAME. What "
            "may be a secret gets to the guest by a file that only its owner can read. Can be repeated. [default: "
            "those of the original]",
        ),
    ),
    "Running": (
        click.Option(
            ["--live"],
            is_flag=True,
            help="Clone DOMAIN also while it runs or is paused; all disks are copied as of one moment, with "
            "frozen file systems if the guest agent answers (see --quiesce), else as after a power cut. [default: "
            "DOMAIN must be shut off]",
        ),
        click.Option(
            ["--live-devices"],
            is_flag=True,
            help="With --live, give the clone the devices that DOMAIN has now, hot-plugged ones included. [default: "
            "the devices that DOMAIN has after its next start]",
        ),
        click.Option(
            ["--risk-original"],
            is_flag=True,
            help="With --live, also use file systems that cannot reserve space: should one get full meanwhile, the "
            "guest of DOMAIN stops or sees I/O errors.",
        ),
        click.Option(
            ["--quiesce"],
            type=click.Choice([quiesce.value for quiesce in Quiesce]),
            help="With --live, whether the guest agent freezes the file systems for the moment in which the copy "
            "begins: auto if the agent can, require or else make no clone, off never. [default: auto]",
        ),
        click.Option(
            ["--shutdown"],
            is_flag=True,
            help="If DOMAIN is running, shut it down, clone it, and start it again, also if cloning fails.",
        ),
        click.Option(
            ["--shutdown-timeout"],
            type=seconds,
            metavar="SECONDS",
            help=f"How long the guest may take to shut down before the command fails. [default: {SHUTDOWN_SECONDS}]",
        ),
        click.Option(["--no-restart"], is_flag=True, help="Leave DOMAIN shut off after --shutdown."),
        click.Option(["--start"], is_flag=True, help="Start each clone when it is complete."),
        click.Option(
            ["--wait"],
            type=wait,
            metavar="agent|ip[,SECONDS]",
            help="Start each clone and wait until its guest agent answers (agent) or it has an IP address (ip), for at "
            f"most SECONDS. [default: no waiting; SECONDS: {WAIT_SECONDS}]",
        ),
    ),
    "Output": (
        click.Option(["--dry-run"], is_flag=True, help="Show what would be done, and change nothing."),
        click.Option(["--print-xml"], is_flag=True, help="Print the definition of the clone, and change nothing."),
    ),
}

EXAMPLES = (
    "virtomate domain-clone ubuntu-24.04 web-1",
    "virtomate domain-clone --mode linked --count 3 ubuntu-24.04 ci",
    "virtomate domain-clone --disk vdb=drop --wait ip ubuntu-24.04 dev",
)
