"""All that gives clones an identity of their own, in one command, in every mode, of originals that run and do not."""

import signal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tests.functional.runs import paused, start_clone
from tests.functional.support import clone_path, definition, pool_on
from tests.functional.test_dhcp_entries import ON_NETWORK, entries, network, state  # noqa: F401 - network is a fixture
from tests.lab import Lab, Program, disk, domain, images
from tests.lab.cloud_init import read_seed
from tests.lab.images import MIB
from tests.lab.stand_in import StandIn

WORDS = (
    *("--seed", "--hostname", "host-{}", "--credential", "firstboot.timezone=UTC", "--credential", "app.token=secret"),
    *("--ip-range", "192.168.77.8/29", "--memory", "96M", "--sysprep", "--count", "2"),
)
MORE = pytest.mark.parametrize(
    ("mode", "more"),
    [
        *((mode, more) for mode in ("copy", "linked", "reflink") for more in ((), ("--live",))),
        ("linked", ("--freeze",)),
        ("linked", ("--freeze", "--live")),
    ],
)


def define(lab: Lab) -> Path:
    """Define the domain `original` where every mode is possible, and return the path of its volume."""
    path = pool_on(lab, "xfs").qcow2("original.qcow2", 4 * MIB, data_bytes=MIB)
    lab.define(domain("original", disks=[disk(path)], interfaces=[ON_NETWORK]))
    return path


@MORE
def test_all_at_once(
    root_lab: Lab,
    virtomate: Program,
    network: Any,  # noqa: F811 - the fixture
    tmp_path: Path,
    mode: str,
    more: tuple[str, ...],
) -> None:
    """Each clone has a seed, credentials, an address, a size and a preparation of its own; all go with the clone."""
    define(root_lab)
    files = {entry.name for entry in pool_on(root_lab, "xfs").path.iterdir()}
    if "--live" in more:
        root_lab.connection.lookupByName("original").create()
    size = ("--disk", f"vda={mode},size=16M")

    result = virtomate(
        *("domain-clone", *more, "--mode", mode, *size, *WORDS, "original", "web"),
        json=True,
        env=StandIn(tmp_path / "bin").env,
    )

    assert result.status == 0, str(result)
    made = result.json
    assert [item["name"] for item in made] == ["web-1", "web-2"]
    for number, item in enumerate(made, 1):
        name = item["name"]
        path = clone_path(item)
        (tmp_path / name).mkdir()
        assert images.virtual_size(path, "qcow2") == 16 * MIB
        read = read_seed(root_lab.guest.cache, path.parent / f"{name}-seed.iso", tmp_path / name)
        assert (read["instance_id"], read["host_name"]) == (item["uuid"], f"host-{number}")
        assert (path.parent / f"{name}-app.token.credential").read_text() == "secret"
        assert item["prepared"]["host_name"] == f"host-{number}"
        found = ET.fromstring(definition(root_lab, name))
        assert (found.findtext("memory"), found.findtext("currentMemory")) == ("98304", "98304")
        assert "firstboot.timezone=UTC" in (found.findtext("sysinfo/oemStrings/entry") or "")
    own = [
        (item["interfaces"][0]["mac"], f"host-{number}", f"192.168.77.{8 + number}") for number, item in enumerate(made)
    ]
    assert sorted(entry[0::2] for entry in entries(network)) == sorted(entry[0::2] for entry in own)

    deleted = virtomate("domain-delete", "-y", "web-1", "web-2", json=True)

    assert deleted.status == 0, str(deleted)
    assert entries(network) == []
    left = {entry.name for entry in pool_on(root_lab, "xfs").path.iterdir()} - files
    # a frozen original keeps its overlay
    assert left == ({"original-overlay.qcow2"} if "--freeze" in more else set())


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("moment", ["virDomainDefineXMLFlags", "virNetworkUpdate", "virStorageVolCreateXML", "vda"])
def test_killed(root_lab: Lab, virtomate: Program, moment: str) -> None:
    """What a run leaves that is killed at any of these moments is removed by one command."""
    define(root_lab)
    before = state(root_lab)
    words = ("--seed", "--credential", "app.token=secret", "--ip", "192.168.77.9", "--disk", "vda=copy,size=16M")
    run = start_clone(virtomate, *words, "original", "clone", moment=moment).run

    with paused(run):
        run.signal(signal.SIGKILL)
    run.wait()
    deleted = virtomate("domain-delete", "clone", json=True)

    assert deleted.status == 0, str(deleted)
    assert state(root_lab) == before
