"""The words of `domain-clone` about addresses."""

from __future__ import annotations

import click
import pytest

from tests.cli.test_request import request
from virtomate.services.address_wish import AddressWish


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--ip", "192.0.2.7", "a"], [AddressWish(None, ("192.0.2.7",))]),
        (
            ["--ip", "192.0.2.8", "--ip", "net1=192.0.2.9", "--ip", "192.0.2.7", "--ip", "net1=192.0.2.6", "a", "b"],
            [AddressWish(None, ("192.0.2.8", "192.0.2.7")), AddressWish("net1", ("192.0.2.9", "192.0.2.6"))],
        ),
        (
            ["--ip-range", "192.0.2.8-192.0.2.9", "a"],
            [AddressWish(None, (), "192.0.2.8", "192.0.2.9", "192.0.2.8-192.0.2.9")],
        ),
        (
            ["--ip-range", "52:54:00:00:00:01=192.0.2.8/30", "--count", "3", "a"],
            [AddressWish("52:54:00:00:00:01", (), "192.0.2.8", "192.0.2.11", "192.0.2.8/30")],
        ),
    ],
)
def test_addresses(words: list[str], expected: list[AddressWish]) -> None:
    """Addresses go to the clones in order, for each interface by itself."""
    assert request(*words).addresses == tuple(expected)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--ip", "192.0.2.300"], "'192.0.2.300' is not an IPv4 address; expected: such as 192.168.122.10"),
        (["--ip", "192.0.2.3/24"], "'192.0.2.3/24' is not an IPv4 address"),
        (["--ip", "fd00::1"], "'fd00::1' is an IPv6 address: libvirt keeps these for client IDs (DUIDs)"),
        (["--ip", "=192.0.2.3"], "'=192.0.2.3' names no interface before '='"),
        (["--ip-range", "192.0.2.3"], "'192.0.2.3' is not a range of addresses"),
        (["--ip-range", "192.0.2.3-9"], "'9' is not an IPv4 address"),
        (["--ip-range", "192.0.2.3-192.0.2.2"], "'192.0.2.3-192.0.2.2' ends before it begins"),
        (["--ip-range", "192.0.2.3/24"], "'192.0.2.3/24' is not a network; expected: such as 192.168.122.10-192.168"),
        (["--ip-range", "192.0.2.3/99"], "'192.0.2.3/99' is not a network"),
        (["--ip", "192.0.2.3", "b"], "--ip gives 1 address, and 2 clones are to be made"),
        (["--ip", "net1=192.0.2.3", "b"], "--ip gives 1 address for net1, and 2 clones are to be made"),
        (["--ip", "192.0.2.3", "--ip", "192.0.2.4"], "--ip gives 2 addresses, and 1 clone is to be made"),
        (["--ip", "192.0.2.3", "--ip", "192.0.2.3", "b"], "--ip 192.0.2.3 is given twice"),
        (["--ip", "192.0.2.3", "--ip-range", "192.0.2.8/30"], "give addresses for the same interface: choose one"),
        (["--ip-range", "a=192.0.2.8/30", "--ip-range", "a=192.0.3.8/30"], "give addresses for interface a: choose"),
        (["--ip", "192.0.2.3", "--mac", "keep"], "--ip is for the MAC address of the clone, and cannot be given with"),
    ],
)
def test_what_is_refused(words: list[str], reason: str) -> None:
    """What cannot be meant is refused with the value and what was expected."""
    with pytest.raises(click.UsageError) as caught:
        request(*words, "a")

    assert reason in caught.value.message
