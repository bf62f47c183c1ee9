"""What a virtual network's definition says."""

from __future__ import annotations

import pytest

from virtomate.definition.readers import DhcpEntry, dhcp_entries
from virtomate.errors import MalformedDocumentError

HOST = "<host mac='52:54:00:AA:BB:01' name='web' ip='192.0.2.7'/>"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("<name>n</name>", ()),
        ("<ip/><ip address='192.0.2.1'><dhcp/></ip>", ()),
        (
            f"<ip address='192.0.2.1'><dhcp><range start='192.0.2.2' end='192.0.2.9'/>{HOST}</dhcp></ip>",
            (DhcpEntry("52:54:00:aa:bb:01", "192.0.2.7", "web"),),
        ),
        (
            (
                f"<ip><dhcp>{HOST}<host name='other' ip='192.0.2.8'/><host mac='52:54:00:00:00:02' ip='192.0.2.9'/>"
                "</dhcp></ip><ip family='ipv6'><dhcp><host id='0:1' ip='2001:db8::2'/>"
                "<host mac='52:54:00:00:00:03' name='six'/></dhcp></ip>"
            ),
            (
                DhcpEntry("52:54:00:aa:bb:01", "192.0.2.7", "web"),
                DhcpEntry("52:54:00:00:00:02", "192.0.2.9", None),
                DhcpEntry("52:54:00:00:00:03", None, "six"),
            ),
        ),
    ],
)
def test_dhcp_entries(content: str, expected: tuple[DhcpEntry, ...]) -> None:
    """Entries for MAC addresses are found in every address family."""
    assert dhcp_entries(f"<network>{content}</network>") == expected


def test_no_network() -> None:
    """Text that describes something else is refused."""
    with pytest.raises(MalformedDocumentError):
        dhcp_entries("<domain/>")
