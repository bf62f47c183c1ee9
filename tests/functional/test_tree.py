"""domain-list --tree shows which domains and volumes rest on which; lists of clones mark broken ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.functional.support import cloned
from tests.lab import Lab, Pool, Program, disk, domain, images
from tests.lab.images import MIB
from tests.lab.storage import make_pool

if TYPE_CHECKING:
    from tests.lab.ordinary_user import OrdinaryUser


def by_name(nodes: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The elements of a tree by their names."""
    return {node["name"]: node for node in nodes}


def edges(nodes: list[dict[str, Any]], key: str) -> dict[str, list[tuple[str | None, str]]]:
    """For each element the disks and names of the files that are directly below or above."""
    return {
        Path(node["name"]).name: [(image["target"], Path(image["path"]).name) for image in node[key]]
        for node in nodes
        if node[key]
    }


def define_family(lab: Lab, virtomate: Program) -> Pool:
    """Define an original with two linked clones, a clone of a clone in another pool, and what other tools made."""
    pool = lab.pool
    paths = [pool.qcow2("original.qcow2", 8 * MIB), pool.raw("data.raw", 8 * MIB)]
    lab.define(domain("original", disks=[disk(paths[0]), disk(paths[1], "raw", target="vdb")]))
    lab.define(domain("alone"))
    other = lab.make_pool("other")
    for words in (("original", "web-1", "web-2"), ("--pool", "other", "web-1", "web-1a")):
        assert virtomate("domain-clone", "--mode", "linked", *words).status == 0
    pool.overlay("orphan.qcow2", other.path / "web-1a.qcow2")
    base = pool.qcow2("base.qcow2", 8 * MIB)
    for name in ("tool-1", "tool-2"):
        lab.define(domain(name, disks=[disk(pool.overlay(f"{name}.qcow2", base))]))
    lab.define(domain("lost", disks=[disk(pool.overlay("lost.qcow2", pool.qcow2("gone.qcow2", 8 * MIB)))]))
    (pool.path / "gone.qcow2").unlink()
    return pool


def test_tree(lab: Lab, virtomate: Program) -> None:
    """Clones of clones, other pools, overlays of other tools, orphans and missing bases all have their place."""
    pool = define_family(lab, virtomate)

    result = virtomate("domain-list", "--tree", json=True)

    assert (result.status, result.stderr) == (0, ""), str(result)
    both = [("vda", "web-1.qcow2"), ("vda", "web-2.qcow2"), ("vdb", "web-1-data.qcow2"), ("vdb", "web-2-data.qcow2")]
    assert edges(result.json, "dependents") == {
        "original": both,
        "web-1": [("vda", "web-1a.qcow2"), ("vdb", "web-1a-data.qcow2")],
        "web-1a": [("vda", "orphan.qcow2")],
        "base.qcow2": [(None, "tool-1.qcow2"), (None, "tool-2.qcow2")],
        "gone.qcow2": [(None, "lost.qcow2")],
    }
    original = [("vda", "original.qcow2"), ("vdb", "data.raw")]
    assert edges(result.json, "base") == {
        "web-1": original,
        "web-2": original,
        "web-1a": [("vda", "web-1.qcow2"), ("vdb", "web-1-data.qcow2")],
        "orphan.qcow2": [(None, "web-1a.qcow2")],
        "tool-1": [("vda", "base.qcow2")],
        "tool-2": [("vda", "base.qcow2")],
        "lost": [("vda", "gone.qcow2")],
    }
    nodes = by_name(result.json)
    assert {name for name, node in nodes.items() if node["type"] == "volume"} == {
        str(pool.path / name) for name in ("base.qcow2", "gone.qcow2", "orphan.qcow2")
    }
    uuid = lab.connection.lookupByName("original").UUIDString()
    assert nodes["web-1"]["base"][0] == {
        "domains": [{"name": "original", "uuid": uuid}],
        "missing": False,
        "path": str(pool.path / "original.qcow2"),
        "pool": pool.name,
        "target": "vda",
        "volume": "original.qcow2",
    }
    assert nodes["lost"]["base"][0]["missing"] is nodes[str(pool.path / "gone.qcow2")]["missing"] is True
    assert {name: node["integrity"] for name, node in nodes.items() if "integrity" in node} == {
        "web-1": "intact",
        "web-1a": "intact",
        "web-2": "intact",
    }
    lines = virtomate("domain-list", "--tree").stdout.splitlines()
    assert [re.split(r" (shut-off|volume|missing|State)", line)[0].rstrip() for line in lines] == [
        "Name",
        "alone",
        "original",
        "├─ web-1",
        "│  └─ web-1a",
        f"│     └─ {pool.name}/orphan.qcow2",
        "└─ web-2",
        f"{pool.name}/base.qcow2",
        "├─ tool-1",
        "└─ tool-2",
        f"{pool.name}/gone.qcow2",
        "└─ lost",
    ]


def test_filters_keep_what_is_below(lab: Lab, virtomate: Program) -> None:
    """A filter chooses domains, and the tree shows them with all that they rest on."""
    define_family(lab, virtomate)
    lab.connection.lookupByName("tool-1").create()

    def names(*words: str) -> list[str]:
        return [Path(node["name"]).name for node in virtomate("domain-list", "--tree", *words, json=True).json]

    assert names("--clones-of", "web-1") == ["original", "web-1", "web-1a"]
    assert names("--clones") == ["original", "web-1", "web-1a", "web-2"]
    assert names("--running") == ["tool-1", "base.qcow2"]
    assert virtomate("domain-list", "--tree", "--clones-of", "nobody").status == 1


def test_broken_clones_are_marked(lab: Lab, virtomate: Program) -> None:
    """Lists of clones and trees mark broken clones; the list of all domains looks at no image."""
    path = define_family(lab, virtomate).path / "data.raw"
    images.qemu_io(path, "raw", "write -P 7 0 64k")

    for words in (("--tree",), ("--clones",), ("--clones-of", "original")):
        lines = virtomate("domain-list", *words).stdout.splitlines()
        (line,) = (line for line in lines if "web-2" in line)
        assert line.endswith("original (linked), broken")
    assert {item["integrity"] for item in virtomate("domain-list", "--clones", json=True).json} == {"broken"}
    assert "broken" not in virtomate("domain-list").stdout
    assert all("integrity" not in item for item in virtomate("domain-list", json=True).json)


def test_clone_of_a_snapshot_says_so(lab: Lab, virtomate: Program) -> None:
    """A list shows of which snapshot a clone is."""
    found = lab.define(domain("original", disks=[disk(lab.pool.qcow2("original.qcow2", 8 * MIB))]))
    found.snapshotCreateXML("<domainsnapshot><name>fresh one</name></domainsnapshot>", 0)
    cloned(virtomate("domain-clone", "--snapshot", "fresh one", "original", "web", json=True))

    assert virtomate("domain-list").stdout.splitlines()[2].endswith("original at fresh one (copy)")
    listed = by_name(virtomate("domain-list", json=True).json)
    assert listed["web"]["clone"]["snapshot"] == "fresh one"


def test_tree_of_a_host_whose_files_are_not_seen(root_lab: Lab, virtomate: Program) -> None:
    """What rests on what is told by libvirt."""
    with root_lab.make_host("far") as host:
        there = Path("/var/lib/libvirt/images")
        make_pool(host, "images", there)
        path = Pool(host, "images", host.on_host(there)).qcow2("original.qcow2", 8 * MIB)
        host.connection.defineXML(domain("original", disks=[disk(there / path.name)]))
        for original, name in (("original", "web"), ("web", "web-a")):
            words = ("domain-clone", "--mode", "linked", "--trust-pool", original, name)
            cloned(virtomate(*words, json=True, uri=host.uri))

        result = virtomate("domain-list", "--tree", json=True, uri=host.uri)

    assert edges(result.json, "base") == {"web": [("vda", "original.qcow2")], "web-a": [("vda", "web.qcow2")]}
    assert edges(result.json, "dependents") == {"original": [("vda", "web.qcow2")], "web": [("vda", "web-a.qcow2")]}
    assert {node["integrity"] for node in result.json if "integrity" in node} == {"intact"}


def test_tree_for_a_member_of_the_group(root_lab: Lab, nobody: OrdinaryUser) -> None:
    """Who cannot open the files sees the tree by libvirt's view of the volumes."""
    path = nobody.pool.qcow2("original.qcow2", 8 * MIB)
    root_lab.define(domain("original", disks=[disk(path)]))
    cloned(nobody("domain-clone", "--mode", "linked", "original", "web"))
    for file in nobody.pool.path.iterdir():
        file.chmod(0o600)

    assert edges(nobody("domain-list", "--tree").json, "base") == {"web": [("vda", "original.qcow2")]}
