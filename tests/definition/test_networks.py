"""The DHCP server in a network's definition."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from virtomate.definition.host_entries import HostEntry, host_element
from virtomate.definition.networks import read_dhcp_server

RANGE = "<dhcp><range start='192.0.2.2' end='192.0.2.9'/></dhcp>"


def network(*parts: str) -> str:
    """A network with these elements."""
    return f"<network><name>net</name>{''.join(parts)}</network>"


@pytest.mark.parametrize(
    ("attributes", "subnet"),
    [
        ("address='192.0.2.1' netmask='255.255.255.128'", "192.0.2.0/25"),
        ("family='ipv4' address='192.0.2.1' prefix='26'", "192.0.2.0/26"),
        ("address='10.1.2.3'", "10.0.0.0/8"),
        ("address='172.16.2.3'", "172.16.0.0/16"),
        ("address='192.0.2.1'", "192.0.2.0/24"),
    ],
)
def test_subnet(attributes: str, subnet: str) -> None:
    """The length of the prefix is given, or that of the class of the address, as libvirt has it."""
    server = read_dhcp_server(network(f"<ip {attributes}>{RANGE}</ip>"))

    assert server is not None
    assert server.subnet == IPv4Network(subnet)


def test_the_element_with_the_server() -> None:
    """The server is that of the one element for IPv4 with DHCP, and all addresses of the bridge are its own."""
    hosts = "<host mac='52:54:00:AA:BB:01' name='a' ip='192.0.2.7'/><host name='b' ip='192.0.2.8'/><host mac='x'/>"
    server = read_dhcp_server(
        network(
            f"<ip family='ipv6' address='fd00::1' prefix='64'>{RANGE}</ip>",
            "<ip address='198.51.100.1' prefix='24'/>",
            f"<ip address='192.0.2.1' prefix='24'><dhcp>{hosts}</dhcp></ip>",
        )
    )

    assert server is not None
    assert server.number == 2
    assert server.own == {IPv4Address("198.51.100.1"), IPv4Address("192.0.2.1")}
    assert server.entries == (
        HostEntry("net", "52:54:00:aa:bb:01", "192.0.2.7", "a"),
        HostEntry("net", "", "192.0.2.8", "b"),
    )


@pytest.mark.parametrize("part", ["", "<ip address='192.0.2.1'/>", "<ip address='192.0.2.1'><tftp root='/'/></ip>"])
def test_no_server(part: str) -> None:
    """A network that bridges, or has no DHCP, has no server."""
    assert read_dhcp_server(network(part)) is None


def test_entry_for_libvirt() -> None:
    """An entry without a name has no attribute for it."""
    entry = HostEntry("net", "52:54:00:aa:bb:01", "192.0.2.7", "a&b")

    assert host_element(entry) == '<host mac="52:54:00:aa:bb:01" name="a&amp;b" ip="192.0.2.7"/>'
    assert "name" not in host_element(entry._replace(name=None))


def test_entry_for_a_name_alone() -> None:
    """An entry of somebody else may have no MAC address, and its phrase has no gap there."""
    server = read_dhcp_server(
        network(f"<ip address='192.0.2.1'>{RANGE.replace('</dhcp>', '')}<host name='web' ip='192.0.2.7'/></dhcp></ip>")
    )

    assert server is not None
    assert [entry.what for entry in server.entries] == ["DHCP entry of network 'net' (192.0.2.7, web)"]
