"""domain-list --output ansible: the inventory of what runs, and the playbook of the documentation."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab import Lab, Program, disk, domain, interface
from tests.lab.domains import mac_address
from tests.lab.images import MIB
from tests.lab.workspace import CHECKOUT

HOWTO = CHECKOUT / "docs" / "howto"
ORIGINAL = "debian-13"


def test_running_domains_are_hosts(lab: Lab, virtomate: Program) -> None:
    """Whatever runs is a host, also where nobody tells its address; what is off is none."""
    lab.define(domain(ORIGINAL, disks=[disk(lab.pool.qcow2("original.qcow2", MIB))]))
    for name in ("web-1", "web-2"):
        assert virtomate("domain-clone", "--mode", "linked", ORIGINAL, name).status == 0
    for name in ("web-1", "db"):
        (lab.connection.lookupByName(name) if name == "web-1" else lab.define(domain(name))).create()

    result = virtomate("domain-list", "--output", "ansible")

    assert (result.status, result.stderr) == (0, "")
    hosts = result.json["_meta"]["hostvars"]
    assert hosts.keys() == {"db", "web-1"}
    assert hosts["web-1"]["virtomate_uuid"] == lab.connection.lookupByName("web-1").UUIDString()
    assert (hosts["web-1"]["virtomate_original"], hosts["web-1"]["virtomate_addresses"]) == (ORIGINAL, [])
    assert "ansible_host" not in hosts["web-1"]
    assert result.json["clones_of_debian_13"] == result.json["clones"] == {"hosts": ["web-1"]}
    only = virtomate("domain-list", "--output", "ansible", "--clones-of", ORIGINAL, "--pretty")
    assert only.json["domains"] == {"hosts": ["web-1"]}
    assert only.stdout.startswith('{\n  "_meta": {\n')


def test_inventory_is_no_tree(virtomate: Program) -> None:
    """Two documents at once are refused."""
    result = virtomate("domain-list", "--output", "ansible", "--tree")

    assert (result.status, result.stdout) == (2, "")
    assert "--output ansible is a flat list, and cannot be given with --tree" in result.stderr


@pytest.mark.stress
def test_playbook_of_the_documentation(root_lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """Ansible makes and starts the workers, finds their addresses, and asks their guests; a second run changes none."""
    lab = root_lab
    lab.make_network()
    path = lab.pool.qcow2("original.qcow2", 8 * MIB)
    lab.define(
        domain(
            ORIGINAL,
            disks=[disk(path)],
            guest=lab.guest,
            agent=True,
            cmdline="lab.dhcp",
            interfaces=[interface(mac_address(7), type_="network", source="lab")],
            memory_mib=256,
        )
    )
    for name in ("ansible-inventory.sh", "ansible-playbook.yml"):
        shutil.copy(HOWTO / name, tmp_path)
    programs = Path(sys.executable).parent
    environment = virtomate.env(
        {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "LIBVIRT_DEFAULT_URI": lab.uri,
            "ANSIBLE_HOME": str(tmp_path / "ansible"),
            "ANSIBLE_NOCOLOR": "1",
            "LC_ALL": "C.UTF-8",
        }
    )
    command = (str(programs / "ansible-playbook"), "-i", "ansible-inventory.sh", "ansible-playbook.yml")
    said = []
    for _ in range(2):
        run = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=400
        )
        assert run.returncode == 0, run.stdout + run.stderr
        said.append(run.stdout)
        # before the first clone is there, the inventory is empty
        warnings = [line for line in run.stderr.splitlines() if "[WARNING]" in line and "list is empty" not in line]
        assert warnings == []

    assert "changed: [localhost]" in said[0]
    assert "changed: [localhost]" not in said[1]
    for name in ("worker-1", "worker-2"):
        assert f"{name} at 192.168." in said[1]
        assert f'"msg": "{name} at ' in said[1]
