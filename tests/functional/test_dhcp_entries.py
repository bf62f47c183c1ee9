"""Addresses of clones: the DHCP entries that `--ip` and `--ip-range` make, and what removes them."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import libvirt
import pytest

from tests.functional.runs import paused, start_clone
from tests.functional.support import clone, cloned, definition, refused, unchanged
from tests.lab import Lab, Program, disk, domain, interface
from tests.lab.domains import mac_address
from tests.lab.images import MIB

ON_NETWORK = interface(type_="network", source="lab")
NOW, LATER = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE, libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG


@pytest.fixture
def network(root_lab: Lab) -> Iterator[Any]:
    """The network `lab` with DHCP, which libvirt keeps when it is stopped."""
    root_lab.make_network()
    found = root_lab.connection.networkLookupByName("lab")
    root_lab.connection.networkDefineXML(found.XMLDesc())
    yield found
    root_lab.connection.networkLookupByName("lab").undefine()


def state(lab: Lab) -> tuple[object, ...]:
    """Return all that is on the host, but for the files that libvirt keeps of networks and writes anew each time."""
    found = lab.inventory()
    files = {path: entry for path, entry in found.files.items() if not {"dnsmasq", "networks"} & {*Path(path).parts}}
    return found.domains, found.pools, found.networks, files


def define(lab: Lab, *interfaces: str, guest: bool = False) -> None:
    """Define the domain `original`, with an interface in the network `lab` unless others are given."""
    path = lab.pool.qcow2("original.qcow2", 4 * MIB)
    kernel = lab.guest if guest else None
    lab.define(
        domain("original", disks=[disk(path)], interfaces=interfaces or (ON_NETWORK,), guest=kernel, cmdline="lab.dhcp")
    )


def entries(network: Any, flags: int = 0) -> list[tuple[str | None, ...]]:
    """Return the entries of a network, now or after its next start: MAC address, name and address."""
    hosts = ET.fromstring(network.XMLDesc(flags)).findall("ip/dhcp/host")
    return sorted((host.get("mac"), host.get("name"), host.get("ip")) for host in hosts)


def change(
    network: Any, command: int, number: int, address: str, name: str = "other", flags: int = NOW | LATER
) -> None:
    """Add or remove an entry for the MAC address with a number, as a user does."""
    element = f"<host mac='{mac_address(number)}' name='{name}' ip='{address}'/>"
    network.update(command, libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST, -1, element, flags)


def add(network: Any, number: int, address: str, name: str = "other", flags: int = NOW | LATER) -> None:
    """Add an entry, as a user does."""
    change(network, libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, number, address, name, flags)


def test_guest_gets_its_address(root_lab: Lab, virtomate: Program, network: Any) -> None:
    """The guest gets the address by DHCP, and the entry stands now and after the next start until the deletion."""
    define(root_lab, interface(), ON_NETWORK, guest=True)
    before = state(root_lab)

    made = clone(virtomate, "--mode", "linked", "--ip", "192.168.77.9", "--wait", "ip,200")

    mac = made["interfaces"][1]["mac"]
    assert made["interfaces"][1]["dhcp_entry"] == {"network": "lab", "address": "192.168.77.9", "name": "clone"}
    assert "dhcp_entry" not in made["interfaces"][0]
    (found,) = [item for item in made["addresses"] if item["hwaddr"] == mac]
    assert [address["address"] for address in found["addresses"]] == ["192.168.77.9"]
    assert entries(network) == entries(network, libvirt.VIR_NETWORK_XML_INACTIVE) == [(mac, "clone", "192.168.77.9")]
    listed = virtomate("domain-iface-list", "clone", json=True).json
    kept = {"network": "lab", "address": "192.168.77.9", "name": "clone"}
    assert [item.get("dhcp_entry") for item in listed] == [None, kept]
    table = virtomate("domain-iface-list", "clone").stdout.splitlines()
    assert [line.split()[-2:] for line in (table[0], table[2])] == [["DHCP", "entry"], ["192.168.77.9", "(lab)"]]

    result = virtomate("domain-delete", "--force", "--yes", "clone", json=True)

    (deleted,) = result.json
    assert deleted["removed"][-1] == f"DHCP entry of network 'lab' for {mac} (192.168.77.9, clone)"
    assert state(root_lab) == before
    # dnsmasq gives the address of a lease to nobody else
    again = ("domain-clone", "--ip", "192.168.77.9", "--dry-run", "original", "clone")
    refusal = virtomate(*again, json=True)
    assert (refusal.status, refusal.json["type"]) == (1, "Conflict")
    assert f"address '192.168.77.9' is leased to {mac}" in refusal.json["message"]
    other = virtomate(
        "domain-clone", "--ip-range", "192.168.77.9-192.168.77.12", "--dry-run", "original", "clone", json=True
    )
    assert other.json[0]["interfaces"][1]["dhcp_entry"]["address"] == "192.168.77.10"
    assert virtomate("--quiet", *again, "--mac", mac_address(9), "--mac", mac).status == 0


def test_free_addresses_of_a_range(root_lab: Lab, virtomate: Program, network: Any) -> None:
    """Each clone gets an address of the range that no entry has, now or later; too few are refused."""
    define(root_lab)
    add(network, 1, "192.168.77.3")
    add(network, 2, "192.168.77.5", "later", LATER)
    before = root_lab.inventory()
    words = ("domain-clone", "--mode", "linked", "--count", "3", "--ip-range")

    few = virtomate(*words, "192.168.77.1-192.168.77.5", "original", "ci", json=True)
    planned = virtomate(*words, "192.168.77.0/29", "--dry-run", "original", "ci", json=True).json
    unchanged(root_lab, before)
    made = virtomate(*words, "192.168.77.0/29", "original", "ci")

    assert (few.status, few.stdout) == (2, ""), str(few)
    assert "'192.168.77.1-192.168.77.5' has 2 free addresses in network 'lab', and 3 clones would need" in few.stderr
    addresses = ["192.168.77.2", "192.168.77.4", "192.168.77.6"]
    assert [item["interfaces"][0]["dhcp_entry"]["address"] for item in planned] == addresses
    assert made.stdout.splitlines()[0].split() == ["Name", "MAC", "address", "Addresses"]
    assert [line.split()[2] for line in made.stdout.splitlines()[1:4]] == addresses
    assert {(name, address) for _, name, address in entries(network) if name != "other"} == {
        (f"ci-{number}", address) for number, address in enumerate(addresses, 1)
    }


def test_an_address_for_each_clone(root_lab: Lab, virtomate: Program, network: Any) -> None:
    """Addresses are given in the order of the clones and by interface; a name that DNS cannot have is left out."""
    define(root_lab, ON_NETWORK, ON_NETWORK)

    words = ["--ip", "192.168.77.7", "--ip", "192.168.77.8", "--ip-range", "2=192.168.77.8-192.168.77.20"]
    result = virtomate("domain-clone", "--mode", "linked", *words, "original", "web", "my web", json=True)

    assert result.status == 0, str(result)
    given = [[item["dhcp_entry"] for item in made["interfaces"]] for made in result.json]
    assert [[(entry["address"], entry["name"]) for entry in pair] for pair in given] == [
        # a network takes a name once
        [("192.168.77.7", "web"), ("192.168.77.9", None)],
        [("192.168.77.8", None), ("192.168.77.10", None)],
    ]
    assert len(entries(network)) == 4


ELSEWHERE = """
<network>
  <name>{}</name><forward mode='open'/><bridge name='elsewhere0'/>
  <ip address='192.168.79.1' netmask='255.255.255.0'>{}</ip>
</network>"""


@pytest.mark.parametrize(
    ("word", "status", "reason"),
    [
        ("10.0.0.1", 2, "address '10.0.0.1' is not in 192.168.77.0/24, the subnet of network 'lab'"),
        ("192.168.77.1", 2, "address '192.168.77.1' is the address of network 'lab' itself"),
        ("192.168.77.255", 2, "address '192.168.77.255' is not an address for a guest in 192.168.77.0/24, the subnet "),
        ("192.168.77.3", 1, f"kept by the DHCP entry of network 'lab' for {mac_address(1)} (192.168.77.3, other)"),
        ("192.168.77.5", 1, f"kept by the DHCP entry of network 'lab' for {mac_address(2)} (192.168.77.5, later)"),
        (
            "2=192.168.77.9",
            1,
            "interface 2 of domain 'original' is connected to no libvirt network (type 'user')",
        ),
        ("3=192.168.79.9", 1, "libvirt runs no DHCP server for IPv4 in network 'still'"),
        ("4=192.168.79.9", 1, "there is no network 'missing'"),
        ("9=192.168.77.9", 2, f"has no network interface '9'; expected: 1 ({mac_address(10)}), 2 ("),
    ],
)
def test_what_is_refused(root_lab: Lab, virtomate: Program, network: Any, word: str, status: int, reason: str) -> None:
    """What cannot be had is refused in one sentence before anything is touched."""
    still = root_lab.connection.networkDefineXML(ELSEWHERE.format("still", ""))
    try:
        others = [interface(type_="network", source=name) for name in ("still", "missing")]
        define(root_lab, interface(mac_address(10), type_="network", source="lab"), interface(), *others)
        add(network, 1, "192.168.77.3")
        add(network, 2, "192.168.77.5", "later", LATER)
        before = root_lab.inventory()

        result = virtomate("domain-clone", "--mode", "linked", "--ip", word, "original", "clone", json=True)

        assert (result.status, reason in (result.stderr if status == 2 else result.json["message"])) == (
            status,
            True,
        ), str(result)
        unchanged(root_lab, before)
    finally:
        still.undefine()


def test_name_that_is_taken(root_lab: Lab, virtomate: Program, network: Any) -> None:
    """An entry with the name of the clone is somebody's: the clone is refused, and an automatic name is another."""
    define(root_lab)
    add(network, 1, "192.168.77.3", "clone")
    add(network, 2, "192.168.77.4", "original-clone")
    before = root_lab.inventory()

    result = virtomate("domain-clone", "--mode", "linked", "--ip", "192.168.77.9", "original", "clone", json=True)

    error = refused(root_lab, before, result)
    assert error["type"] == "Conflict"
    assert f"{mac_address(1)} (192.168.77.3, clone) already has the name 'clone'" in error["message"]
    automatic = virtomate(
        "domain-clone", "--mode", "linked", "--ip", "192.168.77.9", "--auto-name", "original", json=True
    )
    assert cloned(automatic)["name"] == "original-clone-2"


def test_network_that_is_not_active(root_lab: Lab, virtomate: Program) -> None:
    """The entry is made for the network's next start, and deleted also if the network was started since."""
    dhcp = "<dhcp><range start='192.168.79.10' end='192.168.79.20'/></dhcp>"
    network = root_lab.connection.networkDefineXML(ELSEWHERE.format("a sleep", dhcp))
    try:
        define(root_lab, interface(type_="network", source="a sleep"))
        before = entries(network)

        clone(virtomate, "--mode", "linked", "--ip", "192.168.79.2")
        assert [address for _, _, address in entries(network)] == ["192.168.79.2"]
        network.create()
        assert virtomate("domain-delete", "--yes", "clone").status == 0

        assert entries(network) == entries(network, libvirt.VIR_NETWORK_XML_INACTIVE) == before == []
    finally:
        network.undefine()


def test_entry_of_somebody_else_stays(root_lab: Lab, virtomate: Program, network: Any) -> None:
    """An entry that somebody has changed is kept and named; one that somebody has removed is not missed."""
    define(root_lab)
    made = clone(virtomate, "--mode", "linked", "--ip", "192.168.77.9")
    (mac, name, address) = entries(network)[0]
    number = int(str(mac).replace(":", "")[6:], 16)
    change(network, libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, number, str(address), str(name))
    assert entries(network) == []
    add(network, number, "192.168.77.30", "clone", NOW)

    result = virtomate("domain-delete", "--yes", "clone", json=True)

    (deleted,) = result.json
    told = f"DHCP entry of network 'lab' for {made['interfaces'][0]['mac']} (192.168.77.30, clone), which is not as"
    assert deleted["kept"][0].startswith(told)
    assert [notice["code"] for notice in deleted["notices"]] == ["kept-dhcp-entry"]
    assert entries(network) == [(mac, "clone", "192.168.77.30")]


def test_clones_that_exist(root_lab: Lab, virtomate: Program, network: Any) -> None:
    """A kept clone keeps its entry, which must be the one that is asked for; that of a replaced clone is in no way."""
    define(root_lab)
    words = ("domain-clone", "--mode", "linked", "--ip", "192.168.77.9")
    first = cloned(virtomate(*words, "original", "web", json=True))
    entry = {"network": "lab", "address": "192.168.77.9", "name": "web"}

    kept = virtomate(*words, "--ip", "192.168.77.10", "--if-exists", "keep", "original", "web", "db", json=True).json
    other = ("domain-clone", "--mode", "linked", "--ip", "192.168.77.99", "--if-exists", "keep", "original", "web")
    refusal = virtomate(*other, json=True)
    replaced = cloned(virtomate(*words, "--if-exists", "replace", "original", "web", json=True))

    assert [made["status"] for made in kept] == ["unchanged", "cloned"]
    assert kept[0]["interfaces"][0]["dhcp_entry"] == first["interfaces"][0]["dhcp_entry"] == entry
    assert kept[1]["interfaces"][0]["dhcp_entry"] == {"network": "lab", "address": "192.168.77.10", "name": "db"}
    assert "which has no DHCP entry with the address '192.168.77.99'" in refusal.json["message"]
    assert replaced["interfaces"][0]["dhcp_entry"] == entry
    assert {entry[1:] for entry in entries(network)} == {("web", "192.168.77.9"), ("db", "192.168.77.10")}
    assert replaced["interfaces"][0]["mac"] in {entry[0] for entry in entries(network)}


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
@pytest.mark.parametrize("moment", ["virDomainDefineXMLFlags", "virNetworkUpdate", "vda"])
def test_undone(root_lab: Lab, virtomate: Program, network: Any, moment: str, signal_number: signal.Signals) -> None:
    """The entry goes with a clone that is interrupted, and one command removes what a killed run has left."""
    define(root_lab)
    before = state(root_lab)
    run = start_clone(virtomate, "--ip", "192.168.77.9", "original", "clone", moment=moment).run

    made = [] if moment == "virDomainDefineXMLFlags" else ["192.168.77.9"]
    with paused(run):
        assert [address for _, _, address in entries(network)] == made
        assert "192.168.77.9" in definition(root_lab, "clone")
        run.signal(signal_number)
    result = run.wait()

    if signal_number is signal.SIGKILL:
        (deleted,) = virtomate("domain-delete", "clone", json=True).json
        assert len(made) == sum("DHCP entry of network 'lab'" in what for what in deleted["removed"])
    else:
        assert result.json[0]["status"] == "interrupted"
    assert state(root_lab) == before


def test_killed_deletion(root_lab: Lab, virtomate: Program, network: Any) -> None:
    """A deletion that is killed after the entry is gone is completed by the next one."""
    define(root_lab)
    before = state(root_lab)
    clone(virtomate, "--mode", "linked", "--ip", "192.168.77.9")
    run = virtomate.pausing("virNetworkUpdate").start("domain-delete", "--yes", "clone")

    with paused(run):
        assert entries(network) == []
        run.signal(signal.SIGKILL)
    run.wait()

    assert virtomate("domain-delete", "clone").status == 0
    assert entries(network, libvirt.VIR_NETWORK_XML_INACTIVE) == []
    assert state(root_lab) == before


@pytest.mark.parametrize("words", [("--ip", "192.168.77.9"), ("--ip-range", "192.168.77.9-192.168.77.11")])
def test_address_that_others_take_meanwhile(
    root_lab: Lab, virtomate: Program, network: Any, words: tuple[str, str]
) -> None:
    """An address that libvirt does not take any more is replaced by another of the range, or the clone is undone."""
    define(root_lab)
    run = start_clone(virtomate, *words, "--mode", "linked", "original", "clone", moment="virDomainDefineXMLFlags").run
    with paused(run):
        assert definition(root_lab, "clone")
        add(network, 1, "192.168.77.9")
        add(network, 2, "192.168.77.10", "another")
    result = run.wait()

    others = [(mac_address(1), "other", "192.168.77.9"), (mac_address(2), "another", "192.168.77.10")]
    if words[0] == "--ip":
        (failed,) = result.json
        assert (failed["status"], failed["error"]["type"]) == ("failed", "IllegalStateError")
        assert "(192.168.77.9, other) by now" in failed["error"]["message"]
        assert entries(network) == others
        assert "leftovers" not in failed["error"]
        return
    entry = cloned(result)["interfaces"][0]["dhcp_entry"]
    assert entry == {"network": "lab", "address": "192.168.77.11", "name": "clone"}
    assert ("clone", "192.168.77.11") in {item[1:] for item in entries(network)}
    assert virtomate("domain-delete", "--yes", "clone").status == 0
    assert entries(network) == others


def test_interface_in_no_network_of_libvirt(lab: Lab, virtomate: Program) -> None:
    """Also where an ordinary user has no networks, the error says that libvirt gives such an interface no address."""
    define(lab, interface())
    before = lab.inventory()

    error = refused(lab, before, virtomate("domain-clone", "--ip-range", "10.0.2.0/24", "original", "clone", json=True))

    assert error["type"] == "UnsupportedError"
    assert "no interface of domain 'original' is connected to a libvirt network" in error["message"]


def test_other_network_of_the_clone(root_lab: Lab, virtomate: Program, network: Any) -> None:
    """The entry is in the network that --network connects the interface to."""
    define(root_lab, interface())

    made = clone(virtomate, "--mode", "linked", "--network", "lab", "--ip", "192.168.77.9")

    assert entries(network) == [(made["interfaces"][0]["mac"], "clone", "192.168.77.9")]
