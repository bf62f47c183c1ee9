"""What a hypervisor says of itself."""

from __future__ import annotations

import pytest

from virtomate.definition.readers import qemu_users

DAC = (
    "<secmodel><model>dac</model><doi>0</doi><baselabel type='kvm'>+64055:+104</baselabel>"
    "<baselabel type='qemu'>+64055:+104</baselabel></secmodel>"
)
APPARMOR = "<secmodel><model>apparmor</model><doi>0</doi></secmodel>"


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        (DAC, {64055}),
        (APPARMOR + DAC, {64055}),
        ("<secmodel><model>dac</model><baselabel type='kvm'>+0:+0</baselabel></secmodel>", {0}),
        (
            "<secmodel><model>selinux</model><baselabel type='kvm'>system_u:system_r:svirt_t:s0</baselabel></secmodel>",
            set(),
        ),
        (APPARMOR, set()),
        ("<secmodel><model>dac</model></secmodel>", set()),
        ("", set()),
    ],
)
def test_users_of_qemu(models: str, expected: set[int]) -> None:
    """They are the owners in the base labels of the model that deals with owners."""
    assert qemu_users(f"<capabilities><host><cpu/>{models}</host><guest/></capabilities>") == expected
