"""A guest seals secrets with its TPM, and the guest of a clone opens them if the clone has a copy of that TPM."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import libvirt
import pytest

from tests.functional.runs import wait_for
from tests.functional.support import clone, cloned
from tests.functional.test_tpm import SECRET, SECRET_UUID, tpm
from tests.lab import Lab, Program, disk, domain, running
from tests.lab.domains import OVMF_TEMPLATE, nvram

pytestmark = [pytest.mark.stress, pytest.mark.timeout(1800)]

# By its handle in the TPM, the measurements of the boot (PCRs) to which a secret is sealed: none; those of firmware,
# boot loader and Secure Boot; and that of the machine itself.
SECRETS = {"0x81000001": "", "0x81000002": "sha256:0,2,4,7", "0x81000003": "sha256:1"}
ANYWHERE, BOOTED_ALIKE, THIS_MACHINE = (f"secret {handle}" for handle in SECRETS)

# $1 is the handle, $2 the measurements.
FUNCTIONS = """
export TPM2TOOLS_TCTI=device:/dev/tpmrm0
cd /tmp
seal() {
	tpm2 createprimary --quiet -C o -G ecc -c primary || exit
	[ -z "$2" ] || tpm2 createpolicy --quiet --policy-pcr -l "$2" -L policy || exit
	printf 'secret %s\\n' "$1" | tpm2 create --quiet -C primary ${2:+-L policy} -i - -c sealed || exit
	tpm2 evictcontrol --quiet -C o -c sealed "$1" || exit
}
unseal() {
	tpm2 unseal -c "$1" ${2:+-p "pcr:$2"}
}
"""


@pytest.fixture
def secret(lab: Lab) -> Iterator[None]:
    """The secret with which libvirt encrypts the state of a TPM."""
    secret = lab.connection.secretDefineXML(SECRET)
    secret.setValue(b"passphrase")
    yield
    secret.undefine()


def call(virtomate: Program, name: str, function: str) -> list[str]:
    """Have a guest call a function for each secret, and return what the guest prints."""
    calls = "".join(f"{function} {handle} '{measured}'\n" for handle, measured in SECRETS.items())
    result = virtomate("guest-run", name, "sh", "-c", f"{FUNCTIONS}{calls}exit 0")
    assert result.status == 0, str(result)
    return result.stdout.splitlines()


def unsealed(lab: Lab, virtomate: Program, name: str) -> list[str]:
    """Boot a domain, and return the secrets that its guest opens."""
    with running(lab.hypervisor.connect(), name) as guest:
        guest.wait_for_agent()
        return call(virtomate, name, "unseal")


@pytest.mark.parametrize("kind", ["bios", "uefi-encrypted"])
@pytest.mark.usefixtures("secret")
def test_guest_unseals_with_a_copy_alone(lab: Lab, virtomate: Program, tmp_path: Path, kind: str) -> None:
    """With a copy of the TPM a guest opens what is sealed to the boot, and not what is sealed to the machine itself."""
    guest = lab.guest.with_tpm_tools()
    if kind == "bios":
        disks = [disk(lab.pool.copy(guest.bios_disk(), "original.qcow2"))]
        text = domain("original", disks=disks, agent=True, devices=tpm(), memory_mib=384)
    else:
        # a disk takes minutes: the firmware reads it and measures all of the initramfs
        store = tmp_path / "original_VARS.fd"
        store.write_bytes(OVMF_TEMPLATE.read_bytes())
        device = tpm("", f"<encryption secret='{SECRET_UUID}'/>")
        text = domain("original", guest=guest, firmware=nvram(store), agent=True, devices=device, memory_mib=384)
    lab.define(text)
    with running(lab.connection, "original") as up:
        up.wait_for_agent()
        assert call(virtomate, "original", "seal") == []
        up.domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT)
        wait_for(lambda: not up.domain.isActive(), "the guest shuts down")

    clone(virtomate, "--tpm", "copy")
    cloned(virtomate("domain-clone", "original", "new", json=True))

    names = ("original", "clone", "new")
    with ThreadPoolExecutor(len(names)) as executor:
        found = dict(zip(names, executor.map(lambda name: unsealed(lab, virtomate, name), names), strict=True))
    assert found["original"] == [ANYWHERE, BOOTED_ALIKE, THIS_MACHINE]
    assert found["clone"][:2] == [ANYWHERE, BOOTED_ALIKE]
    assert found["new"] == []
    if kind == "bios":
        # SeaBIOS measures the UUID; not every OVMF does
        assert THIS_MACHINE not in found["clone"]
