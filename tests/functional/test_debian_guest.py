"""A whole Debian as the guest: virt-sysprep on its disk, and cloud-init in it; without KVM this takes many minutes."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.functional.runs import wait_for
from tests.functional.support import refused, unchanged
from tests.lab import Lab, Program, disk, domain, images, interface
from tests.lab.debian_guest import CMDLINE, HOST_NAME, DebianGuest, make_debian_guest
from tests.lab.images import MIB
from tests.lab.programs import require_program, run

pytestmark = [pytest.mark.stress, pytest.mark.timeout(7200)]

SECONDS = 3000.0


@pytest.fixture(scope="module")
def debian(session_lab: Lab) -> DebianGuest:
    """The guest, which is made once and kept."""
    return make_debian_guest(session_lab.workspace.cache)


@pytest.fixture
def guest_tools(debian: DebianGuest, lab: Lab, virtomate: Program) -> Program:
    """The program, in an environment in which libguestfs works without KVM and leaves nothing on the machine."""
    for name in ("virt-sysprep", "virt-customize"):
        require_program(name, "guestfs-tools")
    cache = lab.workspace.cache.directory / "guestfs"
    cache.mkdir(exist_ok=True)
    virtomate.environment |= {
        "LIBGUESTFS_BACKEND": "direct",
        "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg",
        "LIBGUESTFS_CACHEDIR": str(cache),
        "SUPERMIN_KERNEL": str(debian.kernel),
        "SUPERMIN_KERNEL_VERSION": debian.modules.name,
        "SUPERMIN_MODULES": str(debian.modules),
    }
    return virtomate


def log_of(lab: Lab, name: str) -> Path:
    """Return where the guest of a domain writes what it says at its start."""
    return lab.directory / f"{name}-console.log"


def define(lab: Lab, debian: DebianGuest) -> Path:
    """Define the domain `original` with the guest's disk, and return the path of its volume."""
    path = lab.pool.path / "original.qcow2"
    run("cp", "--reflink=auto", debian.disk, path)
    lab.pool.refresh()
    network = interface(type_="network", source="lab")
    machine = domain("original", disks=[disk(path)], interfaces=[network], memory_mib=768)
    log = f"<serial type='file'><source path='{log_of(lab, 'original')}'/></serial>"
    machine = re.sub(r"<serial .*?</serial>|<serial [^>]*/>", log, machine, flags=re.DOTALL)
    boot = f"<kernel>{debian.kernel}</kernel><initrd>{debian.initrd}</initrd><cmdline>{CMDLINE}</cmdline></os>"
    lab.define(machine.replace("</os>", boot))
    return path


class Content:
    """The files in the disk of a guest that is off."""

    def __init__(self, image: Path, scratch: Path) -> None:
        self._raw = scratch / f"{image.stem}.raw"
        images.qemu_img("convert", "-f", "qcow2", "-O", "raw", image, self._raw)

    def read(self, path: str) -> str:
        """Return a file, empty if there is none."""
        return run(require_program("debugfs", "e2fsprogs"), "-R", f"cat {path}", self._raw).decode().strip()


def appliances(path: Path) -> Iterator[int]:
    """Yield the processes of QEMU that have a volume on their command line."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes()
            if b"qemu-system" in words.partition(b"\0")[0] and os.fsencode(path) in words:
                yield int(entry.name)


def test_virt_sysprep_gives_each_clone_an_identity(
    root_lab: Lab, debian: DebianGuest, guest_tools: Program, tmp_path: Path
) -> None:
    """Host name, machine ID and SSH keys of three linked clones differ from each other's and from the original's."""
    path = define(root_lab, debian)
    digest = images.file_digest(path)

    result = guest_tools(
        *("domain-clone", "--mode", "linked", "--count", "3", "--sysprep", "--jobs", "1"),
        *("--customize", "--write '/etc/motd:made by the test'", "original", "web"),
        json=True,
        timeout_seconds=SECONDS,
    )

    assert result.status == 0, str(result)
    assert images.file_digest(path) == digest
    contents = [Content(path, tmp_path)]
    contents += [Content(root_lab.pool.path / f"web-{number}.qcow2", tmp_path) for number in (1, 2, 3)]
    assert [content.read("/etc/hostname") for content in contents] == [HOST_NAME, "web-1", "web-2", "web-3"]
    # an empty machine ID becomes a new one at the first start
    machine_ids = [content.read("/etc/machine-id") for content in contents]
    assert len(machine_ids[0]) == 32
    assert machine_ids[0] not in machine_ids[1:]
    assert len({identity for identity in machine_ids if identity}) == sum(map(bool, machine_ids))
    for kind in ("ed25519", "rsa"):
        keys = [content.read(f"/etc/ssh/ssh_host_{kind}_key.pub") for content in contents]
        assert len({key.split()[1] for key in keys}) == 4
    for content in contents:
        assert (content.read("/root/notes"), content.read("/var/log/kept.log")) == ("of the user", "of the user")
    assert [content.read("/etc/motd") for content in contents[1:]] == 3 * ["made by the test"]
    assert guest_tools("domain-verify", "web-1", "web-2", "web-3").status == 0
    deleted = guest_tools("domain-delete", "-y", "web-1", "web-2", "web-3")
    assert (deleted.status, list(root_lab.pool.path.glob("web-*"))) == (0, []), str(deleted)


def test_guest_without_operating_system(root_lab: Lab, guest_tools: Program) -> None:
    """The reason of virt-sysprep is in the error, and nothing is left."""
    root_lab.define(domain("original", disks=[disk(root_lab.pool.qcow2("original.qcow2", 64 * MIB))]))
    before = root_lab.inventory()

    result = guest_tools(
        *("domain-clone", "--mode", "linked", "--sysprep", "original", "clone"), json=True, timeout_seconds=SECONDS
    )

    error = refused(root_lab, before, result)
    assert error["message"].startswith("virt-sysprep failed for clone 'clone': no operating systems were found")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_appliance_ends_with_virtomate(
    root_lab: Lab, debian: DebianGuest, guest_tools: Program, number: signal.Signals
) -> None:
    """An appliance that is writing to a clone ends at once with virtomate, and the clone can be removed."""
    define(root_lab, debian)
    before = root_lab.inventory()
    volume = root_lab.pool.path / "clone.qcow2"
    running = guest_tools.start("domain-clone", "--mode", "linked", "--sysprep", "original", "clone")
    wait_for(lambda: any(appliances(volume)), "the appliance runs")

    running.signal(number)
    running.wait()

    wait_for(lambda: not any(appliances(volume)), "the appliance ends")
    if number == signal.SIGKILL:
        assert guest_tools("domain-delete", "clone").status == 0
    unchanged(root_lab, before)


def test_cloud_init_lets_the_user_in(root_lab: Lab, debian: DebianGuest, virtomate: Program, tmp_path: Path) -> None:
    """Two clones come up beside each other with names and addresses of their own, and their user's key is accepted."""
    root_lab.make_network()
    define(root_lab, debian)
    key = tmp_path / "key"
    run(require_program("ssh-keygen", "openssh-client"), "-q", "-t", "ed25519", "-N", "", "-f", key)

    result = virtomate(
        *("domain-clone", "--mode", "linked", "--count", "2", "--wait", f"ip,{SECONDS:.0f}"),
        *("--seed", "--user", "ada", "--ssh-key", f"{key}.pub", "--hostname", "w{}.example.org", "original", "web"),
        json=True,
        timeout_seconds=SECONDS + 60,
    )

    said = [log_of(root_lab, f"web-{number}").read_text(errors="replace")[-2000:] for number in (1, 2)]
    assert result.status == 0, "\n".join((str(result), *said))
    addresses = [clone["addresses"][0]["addresses"][0]["address"] for clone in result.json]
    assert len(set(addresses)) == 2
    host_keys = set()
    for made, address in zip(result.json, addresses, strict=True):
        told = log_in(root_lab, key, address)
        assert told["user"] == "ada"
        assert told["name"] == made["seed"]["host_name"].partition(".")[0]
        assert told["instance"] == made["uuid"]
        host_keys.add(told["key"])
    assert len(host_keys) == 2


def log_in(lab: Lab, key: Path, address: str) -> dict[str, str]:
    """Log into a guest as `ada` when it lets her in, and return what it says of itself."""
    command = (
        'echo "user=$(id -un)" "name=$(hostname)" "instance=$(cat /run/cloud-init/.instance-id)" '
        '"key=$(cut -d" " -f2 /etc/ssh/ssh_host_ed25519_key.pub)"'
    )
    options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "ConnectTimeout=20")
    words = [word for option in options for word in ("-o", option)]
    said = ""

    def is_in() -> bool:
        nonlocal said
        with suppress(RuntimeError, subprocess.SubprocessError):
            said = lab.hypervisor.run("ssh", "-i", str(key), *words, f"ada@{address}", command)
        return "instance=" in said

    wait_for(is_in, f"{address} lets the user in", SECONDS)
    return dict(re.findall(r"(\w+)=(\S*)", said))
