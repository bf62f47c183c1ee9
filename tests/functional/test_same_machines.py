"""Clones that the DHCP server of a network takes for one machine."""

from tests.functional.support import cloned
from tests.lab import Lab, Program, disk, domain, interface
from tests.lab.images import MIB


def test_one_client_id_for_two_guests(root_lab: Lab, virtomate: Program) -> None:
    """The DHCP server gives the second clone the address of the first, and the warning names both."""
    root_lab.make_network()
    path = root_lab.pool.qcow2("original.qcow2", 4 * MIB)
    network = interface(type_="network", source="lab")
    words = "lab.dhcp lab.client-id=ff00112233"
    root_lab.define(domain("original", disks=[disk(path)], interfaces=[network], guest=root_lab.guest, cmdline=words))
    clone = ("domain-clone", "--mode", "linked", "--wait", "ip,200", "original")

    first = cloned(virtomate(*clone, "web-1", json=True))
    second = virtomate(*clone, "web-2")

    (found,) = first["addresses"][0]["addresses"]
    assert "same-machine-id" not in {notice["code"] for notice in first["notices"]}
    assert second.status == 0, str(second)
    same = f"DHCP client ID (ff:00:11:22:33) and IP address {found['address']}"
    assert f"Warning: 'web-2' has the same {same} as 'web-1', and only one of them can be reached: " in second.stderr
    assert f"address  {found['address']}/24" in second.stdout
