"""What services see and plan, on libvirt's test driver, which keeps its state in this process and touches nothing."""

from __future__ import annotations

import re
import uuid
from collections import deque
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from virtomate.cancel import CancelToken
from virtomate.definition import codec
from virtomate.definition.placeholders import claim_definition
from virtomate.definition.provenance import DomainReference
from virtomate.enums import Action, DiskAction, Mode
from virtomate.errors import (
    ConflictError,
    IllegalStateError,
    NoConnectionError,
    NoSpaceError,
    NotFoundError,
    RefusedWarningError,
    UnsupportedError,
    UsageError,
    VirtomateError,
)
from virtomate.hypervisor.connection import Connection, connect
from virtomate.notices import CloneWarning, Notice
from virtomate.output.messages import sentence, sentences
from virtomate.progress import Progress
from virtomate.services.clone.in_use import InUse
from virtomate.services.clone.plan import plan_clones
from virtomate.services.clone.target import scan_identities
from virtomate.services.clone.volume_names import TakenNames
from virtomate.services.clone_records import CloneRequest, DiskOptions
from virtomate.services.listings import list_all_domains
from virtomate.services.transaction import Run, new_journal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from virtomate.hypervisor.session import Session
    from virtomate.services.clone.clone_plan import ClonePlan

SHUT_OFF, RUNNING = 5, 1
DISK = (
    "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/srv/p/src.raw'/>"
    "<target dev='vda' bus='virtio'/></disk>"
)
INTERFACE = "<interface type='network'><mac address='52:54:00:AA:BB:01'/><source network='default'/></interface>"


def domain(name: str, devices: str = "", state: int = SHUT_OFF) -> str:
    """A domain of the test driver."""
    return (
        f"<domain type='test'><name>{name}</name><uuid>{uuid.uuid5(uuid.NAMESPACE_DNS, name)}</uuid>"
        f"<memory>65536</memory>"
        f"<os><type>hvm</type></os><devices>{devices}</devices>"
        f"<test:runstate xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>{state}</test:runstate></domain>"
    )


def volume(
    name: str, directory: str = "/srv/p", capacity: int = 1000, allocation: int = 500, format_: str = "raw"
) -> str:
    """A volume of the test driver."""
    return (
        f"<volume type='file'><name>{name}</name><capacity>{capacity}</capacity><allocation>{allocation}</allocation>"
        f"<target><path>{directory}/{name}</path><format type='{format_}'/></target></volume>"
    )


def pool(name: str, path: str, *volumes: str) -> str:
    """A pool of the test driver."""
    return f"<pool type='dir'><name>{name}</name><target><path>{path}</path></target>{''.join(volumes)}</pool>"


P = pool("p", "/srv/p", volume("src.raw"), volume("other.raw"))


def run_on(connection: Connection) -> Run:
    """Return a run whose original and clones are on one host, with one connection."""
    session = cast("Session", SimpleNamespace(connection=connection, borrow=None))
    return Run(session, session, Progress(), CancelToken())


def plan_clone(connection: Connection, request: CloneRequest) -> ClonePlan:
    """The plan of one clone."""
    _, (plan,) = plan_clones(run_on(connection), request)
    return plan


class Node:
    """Makes hypervisors."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._connections: list[Connection] = []

    def __call__(self, *parts: str) -> Connection:
        """Connect to a hypervisor of these parts."""
        path = self._directory / f"{len(self._connections)}.xml"
        path.write_text(f"<node>{''.join(parts)}</node>")
        self._connections.append(connect(f"test://{path}"))
        return self._connections[-1]

    def close(self) -> None:
        """End all of them."""
        for connection in self._connections:
            connection.close()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """Makes a hypervisor of parts, and ends it with the test."""
    node = Node(tmp_path)
    yield node
    node.close()


def test_identities(node: Node) -> None:
    """Every MAC address counts, of active and inactive domains; writers are the active domains with a writable disk."""
    connection = node(
        domain("off", DISK + INTERFACE),
        domain("on", DISK.replace("src", "other") + INTERFACE.replace("01", "02"), RUNNING),
        domain("reads", DISK.replace("</disk>", "<readonly/></disk>").replace("src", "iso"), RUNNING),
        domain("named", "<disk type='volume'><source pool='p' volume='v'/><target dev='vda'/></disk>", RUNNING),
        P,
    )

    identities = scan_identities(connection)

    owners = [identities.in_use.owner_of_address(f"52:54:00:aa:bb:0{number}") for number in range(4)]
    assert owners == [None, "off", "on", None]
    assert identities.writers == {"/srv/p/other.raw": "on", ("p", "v"): "named"}


def test_metadata_use_nothing(node: Node) -> None:
    """Addresses and files that other programs only note in metadata are free; the domain of a used address is known."""
    note = '<note xmlns="urn:x"><mac address="52:54:00:aa:bb:09"/><file path="/srv/p/noted.raw"/></note>'
    connection = node(
        domain("off", INTERFACE).replace("</name>", f"</name><metadata>{note}</metadata>", 1),
        P,
    )

    in_use = scan_identities(connection).in_use

    assert in_use.owner_of_address("52:54:00:aa:bb:01") == "off"
    assert in_use.owner_of_address("52:54:00:aa:bb:09") is None
    assert [found.paths for _, found in in_use.mentioning("noted.raw")] == [frozenset()]


def test_files_that_definitions_name(node: Node) -> None:
    """By path or by pool and volume, for whatever, there or not."""
    connection = node(
        domain("old", DISK.replace("src", "it&apos;s &amp; web")),
        domain("named", "<disk type='volume'><source pool='p' volume='v'/><target dev='vda'/></disk>"),
        P,
    )

    in_use = scan_identities(connection).in_use

    found = {name: mentions.paths for name, mentions in in_use.mentioning("it's & web.raw")}
    assert found == {"old": {"/srv/p/it's & web.raw"}}
    assert {name: found.volumes for name, found in in_use.mentioning("v")}["named"] == {("p", "v")}


@pytest.mark.parametrize(
    ("directory", "name", "conflict"),
    [
        ("/srv/p", "web.raw", "domain 'old' names '/srv/p/web.raw'"),
        ("/srv/q", "v", "domain 'named' names '/srv/q/v'"),
        ("/srv/q", "web.raw", None),
        ("/srv/p", "v", None),
    ],
)
def test_file_that_a_definition_names_is_taken(directory: str, name: str, conflict: str | None) -> None:
    """It need not be there: the definition would start with the clone's."""
    in_use = InUse()
    in_use.add("old", domain("old", "<disk><source file='/srv//p/./web.raw'/></disk>"))
    volumes = "<disk><source pool='q' volume='v'/></disk><disk><source pool='none' volume='web.raw'/></disk>"
    in_use.add("named", domain("named", volumes))
    taken = TakenNames(in_use, {"q": "/srv/q"}.get, is_local=False)

    if conflict is None:
        taken.take(directory, name, "hint")
    else:
        with pytest.raises(ConflictError, match=conflict):
            taken.take(directory, name, "hint")


@pytest.mark.parametrize(
    "source",
    [
        "file='/srv/p/a,b.raw'",
        "file='/srv/p/%61%2Cb.raw' protocol='file:///srv/p/%61%2Cb.raw'",
        """file='json:{"driver": "file", "filename": "/srv/p/\\u0061,b.r\\u0061w"}'""",
    ],
)
def test_name_is_found_in_every_spelling(source: str) -> None:
    """A definition is read also where an escape may stand for a character of the name."""
    in_use = InUse()
    in_use.add("old", domain("old", f"<disk><source {source}/></disk>"))
    in_use.add("other", domain("other", "<disk><source file='/srv/p/c.raw'/></disk>"))

    assert [name for name, found in in_use.mentioning("a,b.raw") if "/srv/p/a,b.raw" in found.paths] == ["old"]
    assert [name for name, _ in in_use.mentioning("c.raw")][-1] == "other"


def test_two_spellings_of_a_directory_are_one(tmp_path: Path) -> None:
    """A new volume's name is taken in a directory, whatever link leads there; on another host none is seen."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    in_use = InUse()
    in_use.add("old", domain("old", f"<disk><source file='{tmp_path}/b/old.raw'/></disk>"))
    taken = TakenNames(in_use, lambda _pool: None, is_local=True)

    with pytest.raises(ConflictError):
        taken.take(str(tmp_path / "a"), "old.raw", "hint")
    with suppress(ValueError), taken.for_clone():
        taken.take(str(tmp_path / "a"), "new.raw", "hint")
        assert taken.latest_names(str(tmp_path / "b")) == taken.names(str(tmp_path / "b")) == {"new.raw"}
        with pytest.raises(ConflictError, match="two new volumes"):
            taken.take(str(tmp_path / "b"), "new.raw", "hint")
        raise ValueError
    assert taken.names(str(tmp_path / "a")) == set()
    far = TakenNames(in_use, lambda _pool: None, is_local=False)
    far.take(str(tmp_path / "a"), "old.raw", "hint")


def test_uuid_under_which_tpm_state_is_kept_is_refused(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clone would take it for its own; a domain without a TPM does not mind."""
    uuid = "11111111-2222-4333-8444-555555555555"
    monkeypatch.setattr("virtomate.services.clone.tpm._OF_SYSTEM", str(tmp_path))
    (tmp_path / "swtpm" / uuid).mkdir(parents=True)
    tpm = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"
    connection = node(domain("src", DISK + tpm), domain("plain", DISK), P)

    with pytest.raises(ConflictError, match=uuid):
        plan_clones(run_on(connection), CloneRequest("src", ("a",), uuid=uuid))
    plan_clones(run_on(connection), CloneRequest("plain", ("a",), uuid=uuid))


def test_clones_planned_together_share_no_mac_address(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that was drawn for one clone is not given to the next one, which draws again."""
    connection = node(domain("src", DISK + INTERFACE + INTERFACE.replace("01", "02")), P)
    drawn = (number // 3 for number in range(100))
    source = SimpleNamespace(urandom=lambda size: next(drawn).to_bytes(size))
    monkeypatch.setattr("virtomate.services.clone.planner.os", source)

    _, plans = plan_clones(run_on(connection), CloneRequest("src", ("a", "b")))

    addresses = [interface.mac for plan in plans for interface in plan.interfaces]
    assert addresses == [f"52:54:00:00:00:0{number}" for number in range(4)]


def test_many_domains_are_read_side_by_side(node: Node) -> None:
    """With many domains further connections help, and what one of them leaves undone is done without it."""
    parts = [domain(f"d{n}", INTERFACE.replace("BB:01", f"{n // 256:02x}:{n % 256:02x}")) for n in range(350)]
    expected = {f"52:54:00:aa:{n // 256:02x}:{n % 256:02x}" for n in range(350)}
    broken, good = node(*parts), node(*parts)
    broken.close()
    spare = deque((None, broken, good))

    @contextmanager
    def borrow() -> Iterator[Connection]:
        connection = spare.popleft()
        if connection is None:
            raise NoConnectionError("too many connections")
        yield connection

    in_use = scan_identities(node(*parts), borrow).in_use
    assert {address for address in expected if in_use.owner_of_address(address) is not None} == expected
    assert not spare
    few = scan_identities(node(*parts[:99]), borrow).in_use
    assert sum(few.owner_of_address(address) is not None for address in expected) == 99


def test_domains_are_listed_by_name(node: Node) -> None:
    """Domains come in the order of their names with their documented states; none of these is a clone."""
    listings = list_all_domains(node(domain("b", state=RUNNING), domain("c", state=3), domain("a")))

    assert [(item.name, item.state, item.clone) for item in listings] == [
        ("a", "shut-off", None),
        ("b", "running", None),
        ("c", "paused", None),
    ]


def test_plan(node: Node) -> None:
    """A plan names everything that will be done, and nothing is done by making it."""
    connection = node(domain("src", DISK + INTERFACE), P)

    plan = plan_clone(connection, CloneRequest("src", ("new",)))

    (disk,) = plan.disks
    assert disk.duplication is not None
    assert (disk.duplication.place.path, disk.duplication.action) == ("/srv/p/new.raw", Action.COPIED)
    assert disk.duplication.total_bytes == 500
    assert [interface.source_mac for interface in plan.interfaces] == ["52:54:00:aa:bb:01"]
    assert plan.interfaces[0].mac.startswith("52:54:00:")
    assert plan.interfaces[0].mac != plan.interfaces[0].source_mac
    assert plan.uuid != plan.source.reference.uuid
    assert [item.name for item in list_all_domains(connection)] == ["src"]


def test_source_by_uuid(node: Node) -> None:
    """The original may be given by its UUID."""
    connection = node(domain("src", DISK), P)

    plan = plan_clone(connection, CloneRequest(str(uuid.uuid5(uuid.NAMESPACE_DNS, "src")), ("new",)))

    assert plan.source.reference.name == "src"


def _disk(path: str, more: str = "", target: str = "vda") -> str:
    return DISK.replace("/srv/p/src.raw", path).replace("</disk>", f"{more}</disk>").replace("'vda'", f"'{target}'")


@pytest.mark.parametrize(
    ("disk", "reason", "named"),
    [
        (_disk("/elsewhere/a.iso", "<readonly/>"), "read-only", None),
        ("<disk type='file' device='cdrom'><target dev='sda'/><readonly/></disk>", "empty drive", None),
        ("<disk type='file' device='floppy'><target dev='fda'/></disk>", "empty drive", None),
        ("<disk type='block' device='floppy'><target dev='fda'/></disk>", "empty drive", None),
        ("<disk type='block'><source dev='/dev/x'/><target dev='sda'/></disk>", "block disk, not file-based", "/dev/x"),
        (
            "<disk type='network'><source protocol='nbd' name='x'><host name='h'/></source><target dev='sda'/></disk>",
            "network disk, not file-based",
            "nbd://h:10809/x",
        ),
        (
            (
                "<disk type='nvme'><source type='pci' namespace='1'><address domain='0' bus='1' slot='0' function='0'/>"
                "</source><target dev='vda'/></disk>"
            ),
            "nvme disk, not file-based",
            "nvme://0000:01:00.0/1",
        ),
        (
            "<disk type='vhostuser'><source type='unix' path='/s'/><target dev='vda'/></disk>",
            "vhostuser disk, not file-based",
            "/s",
        ),
        ("<disk type='dir'><source dir='/d'/><target dev='vda'/></disk>", "dir disk, not file-based", "/d"),
    ],
)
def test_disk_that_is_left_untouched(node: Node, disk: str, reason: str, named: str | None) -> None:
    """What is not duplicated says why, and a writable one gives a warning that names it."""
    plan = plan_clone(node(domain("src", disk), P), CloneRequest("src", ("new",)))

    assert [(item.reason, item.duplication) for item in plan.disks] == [(reason, None)]
    assert [f"({named})" in warning for warning in sentences(plan.warnings)] == ([] if named is None else [True])


def test_volume_of_a_pool_that_is_not_file_based(node: Node) -> None:
    """A disk that is named by pool and volume is left untouched where the volume is no file, a logical one's say."""
    disk = "<disk type='volume'><source pool='lvm' volume='lv'/><target dev='vda'/></disk>"
    group = pool("lvm", "/dev/vg", volume("lv")).replace("type='dir'", "type='logical'")

    plan = plan_clone(node(domain("src", disk), group), CloneRequest("src", ("new",)))

    assert [(item.reason, item.duplication) for item in plan.disks] == [("not file-based", None)]
    assert "(lvm/lv)" in sentence(plan.warnings[0])
    assert "both write to it" in sentence(plan.warnings[0])


BLOCK = "<disk type='block'><source dev='/dev/vg/data'/><target dev='vdb'/></disk>"


NETWORK = "<disk type='network'><source protocol='nbd' name='d'><host name='h'/></source><target dev='vdb'/></disk>"
LUN = BLOCK.replace("type='block'", "type='block' device='lun'")


@pytest.mark.parametrize(
    ("disk", "treatment", "end"),
    [
        (BLOCK, None, ": both write to it, unless --block copy or --disk vdb=copy duplicates it"),
        (BLOCK, DiskAction.SHARE, ": both write to it"),
        (LUN, None, ": both write to it"),
        (NETWORK, None, ": both write to it"),
    ],
)
def test_warning_of_a_shared_device_names_the_copy(
    node: Node, disk: str, treatment: DiskAction | None, end: str
) -> None:
    """The options that copy a block device are named where they would, and where nobody has asked for sharing."""
    disks = () if treatment is None else (DiskOptions("vdb", treatment),)

    plan = plan_clone(node(domain("src", DISK + disk), P), CloneRequest("src", ("new",), disks=disks))

    (warning,) = sentences(plan.warnings)
    assert warning.endswith(end)


@pytest.mark.parametrize(("disk", "is_offered"), [(BLOCK, True), (LUN, False), (NETWORK, False)])
def test_start_offers_a_copy_that_is_possible(node: Node, disk: str, is_offered: bool) -> None:
    """The hint offers no copy that would be refused."""
    with pytest.raises(UnsupportedError) as caught:
        plan_clone(node(domain("src", DISK + disk), P), CloneRequest("src", ("new",), start=True))

    assert ("--disk vdb=copy" in (caught.value.hint or "")) is is_offered


@pytest.mark.parametrize("names", [("new",), ("a", "b")])
def test_start_with_a_disk_that_the_original_writes_to(node: Node, names: tuple[str, ...]) -> None:
    """Clones that would write to a device of their original are not started, unless that was asked for."""
    connection = node(domain("src", DISK + BLOCK), P)
    request = CloneRequest("src", names, start=True)

    with pytest.raises(UnsupportedError, match=r"vdb \(/dev/vg/data\)") as caught:
        plan_clones(run_on(connection), request)

    assert "--disk vdb=share" in (caught.value.hint or "")
    for treatment in (DiskAction.SHARE, DiskAction.DROP):
        chosen = request._replace(disks=(DiskOptions("vdb", treatment),))
        assert len(plan_clones(run_on(connection), chosen)[1]) == len(names)
    assert len(plan_clones(run_on(connection), request._replace(start=False))[1]) == len(names)


@pytest.mark.parametrize("mark", ["<shareable/>", "<readonly/>"])
def test_start_with_a_disk_that_is_made_for_several(node: Node, mark: str) -> None:
    """A disk that is marked as shareable or read-only keeps no clone from being started."""
    connection = node(domain("src", DISK + BLOCK.replace("</disk>", f"{mark}</disk>")), P)

    assert plan_clone(connection, CloneRequest("src", ("new",), start=True)).name == "new"


def test_start_with_an_nvram_that_is_no_file(node: Node) -> None:
    """A clone whose NVRAM is its original's is not started."""
    nvram = "<nvram type='block'><source dev='/dev/vg/vars'/></nvram>"
    text = domain("src").replace("</type></os>", f"</type><loader readonly='yes' type='pflash'>/c</loader>{nvram}</os>")

    with pytest.raises(UnsupportedError, match="NVRAM"):
        plan_clone(node(text), CloneRequest("src", ("new",), start=True))


def test_two_disks_get_two_names(node: Node) -> None:
    """Volumes that would get one name, and one volume used twice, stay what they are to each other."""
    disks = _disk("/srv/p/src.raw") + _disk("/srv/p/src.qcow2", target="vdb") + _disk("/srv/p/src.raw", target="vdc")
    images = pool("p", "/srv/p", volume("src.raw"), volume("src.qcow2"))

    plan = plan_clone(node(domain("src", disks), images), CloneRequest("src", ("new",), mode=Mode.LINKED))

    paths = [disk.duplication.place.path for disk in plan.disks if disk.duplication is not None]
    assert paths == ["/srv/p/new.qcow2", "/srv/p/new-vdb.qcow2", "/srv/p/new.qcow2"]
    assert len(plan.duplications) == 2


def test_volumes_of_two_pools_over_one_directory_get_two_files(node: Node) -> None:
    """Two new volumes never get one path, also where two pools share a directory."""
    by_name = "<disk type='volume'><driver type='raw'/><source pool='q' volume='x.raw'/><target dev='vdb'/></disk>"
    # one is named after its domain, the other gets the clone's name in front: both would be new-x.raw
    connection = node(
        domain("src", _disk("/srv/p/src-x.raw") + by_name),
        pool("p", "/srv/p", volume("src-x.raw"), volume("x.raw")),
        pool("q", "/srv/./p", volume("x.raw", "/srv/p")),
    )

    plan = plan_clone(connection, CloneRequest("src", ("new",)))

    assert len(plan.duplications) == 2


def test_nvram_and_disk_get_two_files(node: Node) -> None:
    """The NVRAM's copy and a disk's never get one path, or one would overwrite the other."""
    devices = _disk("/srv/p/src-x.fd")
    firmware = "<loader readonly='yes' type='pflash'>/code.fd</loader><nvram>/srv/p/x.fd</nvram>"
    text = domain("src", devices).replace("</type></os>", f"</type>{firmware}</os>")
    connection = node(text, pool("p", "/srv/p", volume("src-x.fd"), volume("x.fd")))

    plan = plan_clone(connection, CloneRequest("src", ("new",)))

    (nvram,) = plan.side_files
    assert nvram.duplication is not None
    assert len(plan.duplications) == 2


REFUSALS: list[tuple[str, list[str], CloneRequest, type[VirtomateError], str]] = [
    ("no such domain", [domain("src")], CloneRequest("nobody", ("new",)), NotFoundError, "nobody"),
    ("running", [domain("src", state=RUNNING)], CloneRequest("src", ("new",)), IllegalStateError, "running"),
    ("paused", [domain("src", state=3)], CloneRequest("src", ("new",)), IllegalStateError, "paused"),
    ("name taken", [domain("src"), domain("new")], CloneRequest("src", ("new",)), ConflictError, "'new'"),
    ("its own name", [domain("src")], CloneRequest("src", ("src",)), ConflictError, "'src'"),
    (
        "in no pool",
        [domain("src", _disk("/elsewhere/my disks/a.raw")), P],
        CloneRequest("src", ("new",)),
        IllegalStateError,
        "/elsewhere/my disks/a.raw",
    ),
    (
        "no such volume",
        [domain("src", _disk("/srv/p/gone.raw")), P],
        CloneRequest("src", ("new",)),
        NotFoundError,
        "/srv/p/gone.raw",
    ),
    (
        "no such pool",
        [domain("src", "<disk type='volume'><source pool='gone' volume='v'/><target dev='vda'/></disk>"), P],
        CloneRequest("src", ("new",)),
        NotFoundError,
        "'gone'",
    ),
    (
        "volume name taken",
        [domain("src", DISK), pool("p", "/srv/p", volume("src.raw"), volume("new.raw"))],
        CloneRequest("src", ("new",)),
        ConflictError,
        "'new.raw'",
    ),
    (
        "volume name too long",
        [domain("src", _disk("/srv/p/some-old-disk1.raw")), pool("p", "/srv/p", volume("some-old-disk1.raw"))],
        CloneRequest("src", ("n" * 236,), mode=Mode.LINKED),
        UsageError,
        "255 bytes",
    ),
    (
        "open for writing",
        [domain("src", DISK), domain("on", DISK, RUNNING), P],
        CloneRequest("src", ("new",)),
        IllegalStateError,
        "'on'",
    ),
    (
        "open for writing by another spelling of its path",
        [domain("src", DISK), domain("on", _disk("/srv//p/./src.raw"), RUNNING), P],
        CloneRequest("src", ("new",)),
        IllegalStateError,
        "'on'",
    ),
    (
        "open for writing by its pool's name",
        [
            domain("src", DISK),
            domain("on", "<disk type='volume'><source pool='p' volume='src.raw'/><target dev='vda'/></disk>", RUNNING),
            P,
        ],
        CloneRequest("src", ("new",)),
        IllegalStateError,
        "'on'",
    ),
    (
        "too big",
        [domain("src", DISK), pool("p", "/srv/p", volume("src.raw", capacity=1 << 50, allocation=1 << 36))],
        CloneRequest("src", ("new",)),
        NoSpaceError,
        "'p'",
    ),
    (
        "not what the definition says",
        [domain("src", DISK.replace("type='raw'", "type='qcow2'")), P],
        CloneRequest("src", ("new",)),
        UnsupportedError,
        "/srv/p/src.raw",
    ),
]


@pytest.mark.parametrize(
    ("parts", "request_", "kind", "word"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS]
)
def test_refusal(node: Node, parts: list[str], request_: CloneRequest, kind: type[VirtomateError], word: str) -> None:
    """Every reason not to clone is found by the plan, and its sentence names what is in the way."""
    with pytest.raises(kind) as caught:
        plan_clone(node(*parts), request_)

    assert type(caught.value) is kind
    assert word in caught.value.message


def test_read_only_disk_of_a_running_domain_is_no_obstacle(node: Node) -> None:
    """A domain that only reads the disk does not tear a copy of it."""
    connection = node(domain("src", DISK), domain("on", _disk("/srv/p/src.raw", "<readonly/>"), RUNNING), P)

    assert plan_clone(connection, CloneRequest("src", ("new",))).name == "new"


def network(name: str, *hosts: str) -> str:
    """A network of the test driver with these DHCP entries."""
    return (
        f"<network><name>{name}</name><bridge name='{name}'/><ip address='192.0.2.1' netmask='255.255.255.0'>"
        f"<dhcp><range start='192.0.2.2' end='192.0.2.99'/>{''.join(hosts)}</dhcp></ip></network>"
    )


def test_dhcp_entry_of_the_original(node: Node) -> None:
    """An address that a network keeps for the original is named; networks that are missing are no obstacle."""
    ours = "<host mac='52:54:00:AA:BB:01' name='web' ip='192.0.2.7'/>"
    theirs = "<host mac='52:54:00:aa:bb:77' name='other' ip='192.0.2.8'/>"
    interfaces = INTERFACE + INTERFACE.replace("01", "02").replace("default", "missing")
    connection = node(domain("src", interfaces), network("default", theirs, ours), network("other", ours))
    lost = (
        "the DHCP entry of network 'default' for 52:54:00:aa:bb:01 (192.0.2.7, web) is not carried over: "
        "the clone has another MAC address"
    )

    warnings = sentences(plan_clone(connection, CloneRequest("src", ("new",))).warnings)
    assert [warning for warning in warnings if "DHCP" in warning] == [lost]
    same = plan_clone(connection, CloneRequest("src", ("new",), keep_mac_addresses=True))
    assert lost not in sentences(same.warnings)


CLAIMED = "11111111-2222-4333-8444-555555555555"
OTHER = DomainReference("other", "22222222-2222-4333-8444-555555555555")


@pytest.mark.parametrize(
    ("claim", "original", "request_", "sentence"),
    [
        ("new", OTHER, CloneRequest("src", ("new",)), "already a domain 'new', an unfinished clone of 'other'"),
        (
            "virtomate-import-11111111",
            DomainReference("/srv/a.raw", CLAIMED),
            CloneRequest("src", ("virtomate-import-11111111",)),
            "already a domain 'virtomate-import-11111111', an unfinished import of '/srv/a.raw'",
        ),
        (
            "virtomate-claim-0a",
            OTHER,
            CloneRequest("src", ("new",), uuid=CLAIMED),
            f"domain 'virtomate-claim-0a', an unfinished clone of 'other', already has the UUID '{CLAIMED}'",
        ),
    ],
)
def test_claim_in_the_way(
    node: Node, claim: str, original: DomainReference, request_: CloneRequest, sentence: str
) -> None:
    """A claim that a killed run left is called what it is, and the hint names the command that removes it."""
    like: codec.Document = {"@type": "test", "os": {"type": "hvm"}}
    left = codec.unparse_definition(claim_definition(claim, new_journal(CLAIMED, original, Mode.COPY, ()), like))

    with pytest.raises(ConflictError, match=re.escape(sentence)) as caught:
        plan_clone(node(domain("src", DISK), left, P), request_)

    assert f"virtomate domain-delete {claim} removes the domain and its volumes." in str(caught.value.hint)


def test_seed_of_a_volume_that_cannot_be_read(node: Node) -> None:
    """A read-only disk that is nowhere to be read is passed over; nothing else of the plan needs it."""
    drive = "<disk type='volume' device='cdrom'><source pool='p' volume='other.raw'/><target dev='sda'/></disk>"

    assert plan_clone(node(domain("src", DISK + drive), P), CloneRequest("src", ("new",))).warnings == ()


def test_refused_warning(node: Node) -> None:
    """A warning that is not accepted refuses all clones; the error names it, and other warnings pass."""
    connection = node(domain("src", f"<title>Web</title>{DISK}"), P)
    request = CloneRequest("src", ("new", "more"), mode=Mode.LINKED)

    assert plan_clones(run_on(connection), request._replace(fail_on=frozenset({CloneWarning.SHARED_DISK})))
    with pytest.raises(RefusedWarningError, match="refuses the warning linked-original") as caught:
        plan_clones(run_on(connection), request._replace(fail_on=frozenset({CloneWarning.LINKED_ORIGINAL})))

    assert caught.value.notices == (Notice(CloneWarning.LINKED_ORIGINAL, "src"),)


def test_linked_clone_warns_of_the_source(node: Node) -> None:
    """A linked clone is destroyed when its source is started, which is said every time."""
    plan = plan_clone(node(domain("src", DISK), P), CloneRequest("src", ("new",), mode=Mode.LINKED))

    assert Notice(CloneWarning.LINKED_ORIGINAL, "src") in plan.warnings
