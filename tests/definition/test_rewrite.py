"""The changes that make a clone's definition, each by itself."""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Callable
from functools import partial

import pytest

from tests.definition.trees import canonical
from virtomate import notices
from virtomate.definition import codec
from virtomate.definition import rewrite as clone
from virtomate.definition.rewrite import Identity, NewNvram, NewSource
from virtomate.definition.rewrite.own import renewed_identifiers, with_nvram, with_sources, without_disks
from virtomate.definition.rewrite.unshared import Outcome
from virtomate.errors import UnsupportedError
from virtomate.notices import CloneWarning, Notice
from virtomate.output.messages import sentences

IDENTITY = Identity("new", "uuid-2", {0: "52:54:00:00:00:01", 2: "52:54:00:00:00:02"})
SOURCES = {0: NewSource("/p/new.qcow2", "p", "new.qcow2", "qcow2"), 2: NewSource("/p/n2", "p2", "n2", "raw")}

Change = Callable[[codec.Document], codec.Document]
IDENTIFY: Change = partial(clone.with_identity, identity=IDENTITY)
SOURCE: Change = partial(with_sources, sources=SOURCES)
RAW_NVRAM: Change = partial(with_nvram, nvram=NewNvram("/n/new", "raw"))
QCOW2_NVRAM: Change = partial(with_nvram, nvram=NewNvram("/n/new", "qcow2"))


def in_devices(content: str) -> str:
    """A definition with these devices."""
    return f"<devices>{content}</devices>"


NAMED = "<name>new</name><uuid>uuid-2</uuid>"
ROWS: list[tuple[str, Change, str, str]] = [
    ("name and UUID", IDENTIFY, "<name>old</name><uuid>uuid-1</uuid><title>old</title>", f"{NAMED}<title>old</title>"),
    ("no UUID before", IDENTIFY, "<name>old</name>", NAMED),
    ("generation ID", IDENTIFY, "<genid>1</genid>", f"{NAMED}<genid/>"),
    ("empty generation ID", IDENTIFY, "<genid/>", f"{NAMED}<genid/>"),
    (
        "SMBIOS UUID",
        IDENTIFY,
        (
            "<sysinfo type='smbios'><bios><entry name='vendor'>LENOVO</entry></bios><system>"
            "<entry name='serial'>1</entry><entry name='uuid'>uuid-1</entry></system></sysinfo>"
        ),
        (
            f"{NAMED}<sysinfo type='smbios'><bios><entry name='vendor'>LENOVO</entry></bios><system>"
            "<entry name='serial'>1</entry><entry name='uuid'>uuid-2</entry></system></sysinfo>"
        ),
    ),
    (
        "no SMBIOS UUID is made up",
        IDENTIFY,
        (
            "<sysinfo type='smbios'><system><entry name='serial'>1</entry></system></sysinfo>"
            "<sysinfo type='fwcfg'><entry name='opt/uuid'>uuid-1</entry></sysinfo>"
        ),
        (
            f"{NAMED}<sysinfo type='smbios'><system><entry name='serial'>1</entry></system></sysinfo>"
            "<sysinfo type='fwcfg'><entry name='opt/uuid'>uuid-1</entry></sysinfo>"
        ),
    ),
    (
        "MAC addresses by position",
        IDENTIFY,
        in_devices(
            "<interface><mac address='52:54:00:aa:aa:01' type='static'/></interface><interface/>"
            "<interface><mac address='52:54:00:aa:aa:02'/></interface>"
        ),
        NAMED
        + in_devices(
            "<interface><mac address='52:54:00:00:00:01' type='static'/></interface><interface/>"
            "<interface><mac address='52:54:00:00:00:02'/></interface>"
        ),
    ),
    (
        "volumes by position",
        SOURCE,
        in_devices(
            "<disk type='file'><driver name='qemu' type='raw' cache='none'/>"
            "<source file='/p/a' startupPolicy='optional'/>"
            "<backingStore type='file'><format type='raw'/><source file='/p/b'/></backingStore>"
            "<target dev='vda'/></disk>"
            "<disk type='file'><source file='/p/c'/><backingStore/><target dev='vdb'/></disk>"
            "<disk type='volume'><driver type='qcow2'/><source pool='p' volume='v' mode='host'/>"
            "<target dev='vdc'/></disk>"
        ),
        in_devices(
            "<disk type='file'><driver name='qemu' type='qcow2' cache='none'/>"
            "<source file='/p/new.qcow2' startupPolicy='optional'/><target dev='vda'/></disk>"
            "<disk type='file'><source file='/p/c'/><backingStore/><target dev='vdb'/></disk>"
            "<disk type='volume'><driver type='raw'/><source pool='p2' volume='n2'/>"
            "<target dev='vdc'/></disk>"
        ),
    ),
    (
        "an empty backing store",
        SOURCE,
        in_devices("<disk type='file'><driver type='qcow2'/><source file='/p/a'/><backingStore/></disk>"),
        in_devices("<disk type='file'><driver type='qcow2'/><source file='/p/new.qcow2'/></disk>"),
    ),
    (
        "a disk without driver",
        SOURCE,
        in_devices("<disk type='file'><source file='/p/a'/></disk>"),
        in_devices("<disk type='file'><source file='/p/new.qcow2'/><driver type='qcow2'/></disk>"),
    ),
    (
        "a disk with an empty driver and without type",
        SOURCE,
        in_devices("<disk><driver/><source file='/p/a'/></disk>"),
        in_devices("<disk><driver type='qcow2'/><source file='/p/new.qcow2'/></disk>"),
    ),
    (
        "what a source holds besides",
        SOURCE,
        in_devices(
            "<disk type='file'><source file='/p/a'><encryption format='luks'/><seclabel model='dac'/></source></disk>"
        ),
        in_devices(
            "<disk type='file'><source file='/p/new.qcow2'><encryption format='luks'/><seclabel model='dac'/></source>"
            "<driver type='qcow2'/></disk>"
        ),
    ),
    ("NVRAM as text", RAW_NVRAM, "<os><nvram>/n/old</nvram></os>", "<os><nvram>/n/new</nvram></os>"),
    (
        "NVRAM with attributes",
        QCOW2_NVRAM,
        "<os><nvram template='/t' format='qcow2'>/n/old</nvram></os>",
        "<os><nvram template='/t' format='qcow2'>/n/new</nvram></os>",
    ),
    (
        "NVRAM with a source",
        RAW_NVRAM,
        "<os><nvram type='file' template='/t'><source file='/n/old'><seclabel model='dac'/></source></nvram></os>",
        "<os><nvram type='file' template='/t'><source file='/n/new'><seclabel model='dac'/></source></nvram></os>",
    ),
    (
        "NVRAM that libvirt chose",
        RAW_NVRAM,
        "<os firmware='efi'><type>hvm</type></os>",
        "<os firmware='efi'><type>hvm</type><nvram>/n/new</nvram></os>",
    ),
    (
        "NVRAM in qcow2 that libvirt chose",
        QCOW2_NVRAM,
        "<os firmware='efi'><type>hvm</type></os>",
        "<os firmware='efi'><type>hvm</type><nvram format='qcow2'>/n/new</nvram></os>",
    ),
    (
        "NVRAM without a path",
        RAW_NVRAM,
        "<os><nvram template='/t'/></os>",
        "<os><nvram template='/t'>/n/new</nvram></os>",
    ),
    ("empty NVRAM", RAW_NVRAM, "<os><nvram/></os>", "<os><nvram>/n/new</nvram></os>"),
]


@pytest.mark.parametrize(("change", "before", "after"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_change(change: Change, before: str, after: str) -> None:
    """A change does what it says, leaves everything else as it was, and its input untouched."""
    domain = codec.parse_definition(f"<domain>{before}</domain>").domain
    untouched = copy.deepcopy(domain)

    changed = change(domain)

    assert canonical(codec.unparse(changed, "domain")) == canonical(f"<domain>{after}</domain>")
    assert domain == untouched


@pytest.mark.parametrize("change", {row[0]: row[1] for row in ROWS}.values(), ids=[row[0] for row in ROWS])
def test_nothing_in_common_with_the_original(change: Change) -> None:
    """Whoever changes a clone's definition does not change the original's."""
    domain = codec.parse_definition(
        "<domain><os><type>hvm</type></os><devices><disk/><tpm><x/></tpm></devices></domain>"
    ).domain

    changed = change(domain)
    changed["devices"]["tpm"].clear()
    changed["os"]["type"] = "changed"

    assert domain["devices"]["tpm"] == [{"x": None}]
    assert domain["os"]["type"] == "hvm"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("<name>a</name>", ("UUID",)),
        ("<genid/>", ("UUID", "VM generation ID")),
        (
            "<sysinfo><system><entry name='uuid'>1</entry></system></sysinfo>",
            ("UUID", "SMBIOS system UUID"),
        ),
        ("<sysinfo><system><entry name='serial'>1</entry></system></sysinfo>", ("UUID",)),
        (in_devices("<interface><mac address='52:54:00:00:00:01'/></interface>"), ("UUID", "MAC addresses")),
        (in_devices("<interface/>"), ("UUID",)),
        (in_devices("<graphics type='vnc' port='5901'/>"), ("UUID",)),
    ],
)
def test_changes_are_described(content: str, expected: tuple[str, ...]) -> None:
    """What is renewed is named, and what stays as it was is not."""
    domain = codec.parse_definition(f"<domain>{content}</domain>").domain
    identity = clone.Identity("n", "u", clone.new_mac_addresses(domain, ().__contains__, os.urandom))

    assert tuple(sentences(renewed_identifiers(domain, identity))) == expected


@pytest.mark.parametrize("type_", ["file", "volume"])
@pytest.mark.parametrize("place", ["disk", "source"])
def test_overlay_of_an_encrypted_volume_names_it(type_: str, place: str) -> None:
    """The secret stays with the volume below, which alone is encrypted, however the definition spells that."""
    secret = "<encryption format='luks'><secret type='passphrase' uuid='1'/></encryption>"
    named = {"file": "file='/p/old'", "volume": "pool='p' volume='old'"}[type_]
    within, beside = (secret, "") if place == "source" else ("", secret)
    before = in_devices(
        f"<disk type='{type_}'><driver type='raw'/><source {named} mode='host'>{within}</source>{beside}"
        "<backingStore/></disk>"
    )
    new = NewSource("/p/new", "p", "new", "qcow2", base_path="/p/old", base_format="raw")

    changed = with_sources(codec.parse_definition(f"<domain>{before}</domain>").domain, {0: new})

    named = {"file": "file='/p/new'", "volume": "pool='p' volume='new'"}[type_]
    after = in_devices(
        f"<disk type='{type_}'><driver type='qcow2'/><source {named} mode='host'/><backingStore type='file'>"
        f"<format type='raw'/><source file='/p/old'>{secret}</source></backingStore></disk>"
    )
    assert canonical(codec.unparse(changed, "domain")) == canonical(f"<domain>{after}</domain>")


DEVICE_SECRET = "<encryption format='luks'><secret type='passphrase' uuid='1'/></encryption>"
DEVICE_SOURCES = {
    "file to device": (
        "<disk type='file'><driver type='qcow2' cache='none'><metadata_cache/></driver><source file='/p/old'/></disk>",
        NewSource("/dev/vg/new", "vg", "new", "raw", is_device=True),
        "<disk type='block'><driver type='raw' cache='none'/><source dev='/dev/vg/new'/></disk>",
    ),
    "device to file": (
        "<disk type='block'><driver type='raw' discard='unmap'/><source dev='/dev/vg/old' startupPolicy='x'/></disk>",
        NewSource("/p/new.raw", "p", "new.raw", "raw"),
        "<disk type='file'><driver type='raw' discard='unmap'/><source file='/p/new.raw' startupPolicy='x'/></disk>",
    ),
    "device to device": (
        "<disk type='block'><source dev='/dev/vg/old'/></disk>",
        NewSource("/dev/vg/new", "vg", "new", "raw", is_device=True),
        "<disk type='block'><driver type='raw'/><source dev='/dev/vg/new'/></disk>",
    ),
    "volume to another pool": (
        "<disk type='volume'><source pool='iscsi' volume='unit:0:0:1' mode='direct'/></disk>",
        NewSource("/dev/vg/new", "vg", "new", "raw", is_device=True),
        "<disk type='volume'><driver type='raw'/><source pool='vg' volume='new'/></disk>",
    ),
    "overlay on an encrypted device": (
        f"<disk type='block'><source dev='/dev/vg/old'>{DEVICE_SECRET}</source></disk>",
        NewSource("/p/new", "p", "new", "qcow2", base_path="/dev/vg/old", base_format="raw", is_base_device=True),
        (
            "<disk type='file'><driver type='qcow2'/><source file='/p/new'/><backingStore type='block'>"
            f"<format type='raw'/><source dev='/dev/vg/old'>{DEVICE_SECRET}</source></backingStore></disk>"
        ),
    ),
}


@pytest.mark.parametrize("case", DEVICE_SOURCES)
def test_devices_and_files(case: str) -> None:
    """A disk gets the type of its new volume, and loses what only its former volume could have."""
    before, new, after = DEVICE_SOURCES[case]

    changed = with_sources(codec.parse_definition(f"<domain>{in_devices(before)}</domain>").domain, {0: new})

    assert canonical(codec.unparse(changed, "domain")) == canonical(f"<domain>{in_devices(after)}</domain>")


@pytest.mark.parametrize("base", [None, "/p/old"])
def test_encrypted_volume_further_below_stays_named(base: str | None) -> None:
    """Wherever in the chain it is, an encrypted volume is named: below an overlay's own base, or where it was."""
    inner = (
        "<backingStore type='file'><format type='qcow2'/><source file='/p/middle'/><backingStore type='file'>"
        "<format type='raw'/><source file='/p/base'><encryption format='luks'/></source></backingStore></backingStore>"
    )
    before = in_devices(f"<disk type='file'><driver type='qcow2'/><source file='/p/old'/>{inner}</disk>")
    new = NewSource("/p/new", "p", "new", "qcow2", base_path=base, base_format=base and "qcow2")

    changed = with_sources(codec.parse_definition(f"<domain>{before}</domain>").domain, {0: new})

    outer = f"<backingStore type='file'><format type='qcow2'/><source file='/p/old'/>{inner}</backingStore>"
    after = in_devices(
        f"<disk type='file'><driver type='qcow2'/><source file='/p/new'/>{outer if base else inner}</disk>"
    )
    assert canonical(codec.unparse(changed, "domain")) == canonical(f"<domain>{after}</domain>")


def test_overlay_of_a_plain_volume_names_nothing() -> None:
    """The chain of what is not encrypted is found by libvirt itself."""
    devices = in_devices("<disk type='file'><source file='/p/old'/></disk>")
    domain = codec.parse_definition(f"<domain>{devices}</domain>")
    new = NewSource("/p/new", "p", "new", "qcow2", base_path="/p/old", base_format="raw")

    (disk,) = with_sources(domain.domain, {0: new})["devices"]["disk"]

    assert "backingStore" not in disk


PLAIN = """
<domain><name>old</name><uuid>1</uuid><os><type>hvm</type></os><devices><emulator>/usr/bin/qemu</emulator>
<disk type='file'><source file='/p/old.qcow2'/><target dev='vda'/></disk>
<controller type='pci'/>
<interface type='network'><mac address='52:54:00:00:00:09'/><source network='default'/></interface>
<serial type='pty'><target port='0'/></serial><console type='pty'><target type='serial' port='0'/></console>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<graphics type='vnc' port='-1' autoport='yes'><listen type='address' address='127.0.0.1'/></graphics>
<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng></devices></domain>"""


def test_plain_clone_gets_no_warning() -> None:
    """A domain as virt-manager makes it shares nothing with its clone, and only its identifiers are new."""
    outcome = clone.clone_domain_definition(
        clone.auto_allocated(codec.parse_definition(PLAIN).domain), IDENTITY, SOURCES, None
    )

    assert outcome.warnings == ()
    assert sentences(outcome.changes) == ["UUID", "MAC addresses"]


def test_every_rule_is_applied() -> None:
    """What each rule says comes out of the whole, and the original's document stays as it is."""
    domain = codec.parse_definition(
        "<domain><name>old</name><uuid>1</uuid><genid>2</genid><os><nvram>/n/old</nvram></os>"
        + in_devices(
            "<disk type='file'><source file='/p/a'/></disk><graphics type='vnc' port='5901'/>"
            "<graphics type='vnc'><listen type='socket' socket='/s'/></graphics>"
            "<channel type='unix'><source path='/var/lib/libvirt/qemu/channel/target/domain-1-old/x'/></channel>"
            "<vsock><cid auto='no' address='3'/></vsock>"
            "<interface><mac address='52:54:00:00:00:09'/><target dev='vnet3'/><virtualport type='openvswitch'>"
            "<parameters interfaceid='i'/></virtualport></interface>"
            "<serial type='file'><source path='/log/old.log'/></serial>"
            "<serial type='file'><source path='/log/serial.log'/></serial>"
            "<shmem name='s'/><tpm><backend type='emulator'/></tpm>"
        )
        + "</domain>"
    ).domain
    untouched = copy.deepcopy(domain)

    outcome = clone.clone_domain_definition(clone.auto_allocated(domain), IDENTITY, SOURCES, NewNvram("/n/new", "raw"))

    assert domain == untouched
    assert outcome.domain["os"]["nvram"] == "/n/new"
    assert sentences(outcome.changes) == [
        "UUID",
        "VM generation ID",
        "MAC addresses",
        "VNC ports: chosen by libvirt at every start",
        "VNC socket: chosen by libvirt at every start",
        "socket of channel: chosen by libvirt at every start",
        "vsock context ID: chosen by libvirt at every start",
        "interface target vnet3: chosen by libvirt at every start",
        "interface ID of a virtual port",
        "serial file: /log/new.log",
    ]
    assert sentences(outcome.warnings) == [
        "serial file '/log/serial.log' is shared with the original",
        "shared memory 's' is shared with the original",
        "TPM state is not carried over: the clone starts with an empty TPM",
    ]


def test_same_change_is_named_once() -> None:
    """Two interfaces that lose their switch's ID are one line."""
    port = "<virtualport type='openvswitch'><parameters interfaceid='{}'/></virtualport>"
    devices = in_devices("".join(f"<interface>{port.format(number)}</interface>" for number in (1, 2)))
    domain = codec.parse_definition(f"<domain><name>old</name>{devices}</domain>").domain

    outcome = clone.clone_domain_definition(clone.auto_allocated(domain), IDENTITY, {}, None)

    assert sentences(outcome.changes) == ["UUID", "interface ID of a virtual port"]


def _interfaces(*addresses: str) -> codec.Document:
    text = "".join(
        f"<interface><mac address='{address}'/></interface>" if address else "<interface/>" for address in addresses
    )
    return codec.parse_definition(f"<domain>{in_devices(text)}</domain>").domain


def test_new_mac_addresses_keep_the_manufacturer() -> None:
    """A new address has the original's first three octets, and is written in lower case."""
    domain = _interfaces("52:54:00:AA:BB:CC", "", "00:16:3E:01:02:03")

    addresses = clone.new_mac_addresses(domain, ().__contains__, os.urandom)

    assert addresses.keys() == {0, 2}
    assert addresses[0].startswith("52:54:00:")
    assert addresses[2].startswith("00:16:3e:")
    assert all(len(address.split(":")) == 6 and address == address.lower() for address in addresses.values())


def _chance(*numbers: int) -> Callable[[int], bytes]:
    """Gives the octets it was told, instead of random ones."""
    stream = io.BytesIO(bytes(numbers))
    return stream.read


def test_new_mac_addresses_avoid_those_in_use() -> None:
    """An address that some domain has, or that this clone just got, is not given again."""
    domain = _interfaces("52:54:00:aa:bb:cc", "52:54:00:aa:bb:dd")
    chance = _chance(1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3)

    addresses = clone.new_mac_addresses(domain, {"52:54:00:01:01:01"}.__contains__, chance)

    assert addresses == {0: "52:54:00:02:02:02", 1: "52:54:00:03:03:03"}


def test_no_mac_address_left() -> None:
    """Where the whole range is in use there is an error and no endless search."""
    chance = _chance(*[1] * 300_000)

    with pytest.raises(UnsupportedError, match="52:54:00"):
        clone.new_mac_addresses(_interfaces("52:54:00:aa:bb:cc"), {"52:54:00:01:01:01"}.__contains__, chance)


def test_texts_are_chosen() -> None:
    """A title or description that was asked for replaces the original's, an empty one leaves none."""
    domain = codec.parse_definition("<domain><title>old</title><description>of old</description></domain>").domain

    assert clone.with_identity(domain, clone.Identity("n", "u", {}))["title"] == "old"
    chosen = clone.with_identity(domain, clone.Identity("n", "u", {}, title="new", description=""))
    assert chosen["title"] == "new"
    assert "description" not in chosen
    assert sentences(renewed_identifiers(domain, clone.Identity("n", "u", {}, title="new"))) == ["UUID", "title"]


def test_disks_are_left_out() -> None:
    """Disks are left out by their position, and the others stay as they are."""
    disks = "".join(f"<disk type='file'><target dev='vd{letter}'/></disk>" for letter in "abc")
    domain = codec.parse_definition(f"<domain><devices>{disks}</devices></domain>").domain

    left = without_disks(domain, {0, 2})["devices"]["disk"]

    assert [disk["target"]["@dev"] for disk in left] == ["vdb"]
    assert len(domain["devices"]["disk"]) == 3


def test_addresses_that_were_asked_for() -> None:
    """Given addresses go to the interfaces that have one, in order; the rest get new ones of the same manufacturer."""
    interfaces = "<interface/>" + "".join(f"<interface><mac address='00:16:3e:00:00:0{i}'/></interface>" for i in "12")
    domain = codec.parse_definition(f"<domain><devices>{interfaces}</devices></domain>").domain
    chances = iter([b"\x00\x00\x07", b"\x00\x00\x08"])

    addresses = clone.new_mac_addresses(
        domain, {"00:16:3e:00:00:07"}.__contains__, lambda _: next(chances), ["02:00:00:00:00:01"]
    )

    assert addresses == {1: "02:00:00:00:00:01", 2: "00:16:3e:00:00:08"}


@pytest.mark.parametrize(
    ("os", "expected", "change"),
    [
        (
            "<os firmware='efi'><type>hvm</type><firmware><feature/></firmware><loader secure='yes'>/c</loader></os>",
            "<os><type>hvm</type><loader secure='yes'>/c</loader></os>",
            ("firmware: /c, and no other that libvirt selects",),
        ),
        ("<os firmware='efi'><loader stateless='yes'/></os>", None, ()),
        ("<os firmware='efi'><nvram>/n</nvram></os>", None, ()),
        ("<os><loader>/c</loader></os>", None, ()),
    ],
)
def test_firmware_is_not_selected_any_more(os: str, expected: str | None, change: tuple[str, ...]) -> None:
    """A definition that names its firmware need not have libvirt select one; one that does not stays as it is."""
    before = codec.parse_definition(f"<domain>{os}</domain>").domain
    untouched = copy.deepcopy(before)

    warning = Notice(CloneWarning.SHARED, "w")
    outcome = clone.with_named_firmware(Outcome(before, (Notice(notices.Change.NEW, "UUID"),), (warning,)))

    assert before == untouched
    assert outcome.domain == codec.parse_definition(f"<domain>{expected or os}</domain>").domain
    assert (sentences(outcome.changes), outcome.warnings) == (["UUID", *change], (warning,))
