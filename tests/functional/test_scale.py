"""What many clones and many domains cost, in calls of libvirt and in memory; nothing here is a matter of time."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.functional import count_calls
from tests.functional.runs import reaching
from tests.functional.support import clone_path, pool_on
from tests.lab import Lab, Program, disk, domain, interface
from tests.lab.images import MIB, allocated_bytes
from tests.lab.lab import remove_domain

MODES = {"copy": "ext4", "linked": "ext4", "reflink": "xfs"}
PEAK_MEMORY_BYTES = 120 * MIB
# How many of them are opened and closed, and clones made before the first overlay is there, is a matter of chance.
CHANCE_CALLS = 40
# How many volumes of one pool libvirt lists.
MOST_LISTED = 16384


@dataclass(frozen=True)
class Cost:
    """What one command took: calls of libvirt, by function, and memory."""

    clones: int
    domains: int
    calls: dict[str, int]
    peak_memory_bytes: int

    @property
    def total(self) -> int:
        """All calls."""
        return sum(self.calls.values())


@dataclass
class Scale:
    """A host with a domain to be cloned, and programs that are watched while they clone it."""

    lab: Lab
    virtomate: Program
    mode: str

    def __post_init__(self) -> None:
        path = pool_on(self.lab, MODES[self.mode]).qcow2("original.qcow2", 16 * MIB, data_bytes=MIB)
        self.lab.define(domain("original", disks=[disk(path)], interfaces=[interface()] * 4))
        self._runs = 0

    def crowd(self, count: int) -> None:
        """Define many more domains."""
        for number in range(count):
            self.lab.connection.defineXML(domain(f"idle-{number}", interfaces=[interface()]))

    def clone(self, count: int, *words: str) -> Cost:
        """Clone in one command, see that it worked, and forget the clones' domains again."""
        self._runs += 1
        before = {found.name() for found in self.lab.connection.listAllDomains()}
        report = self.virtomate.directory / "report.json"
        options = ["domain-clone", "--mode", self.mode, "--count", str(count), *words]
        done = self.run(report, *options, "original", f"run-{self._runs}")
        assert done.returncode == 0, done
        assert [clone["status"] for clone in json.loads(done.stdout)] == ["cloned"] * count
        for found in self.lab.connection.listAllDomains():
            if found.name() not in before:
                remove_domain(found)
        return Cost(count, len(before), **json.loads(report.read_text()))

    def run(self, report: Path, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command, and have its calls of libvirt written to a report."""
        return subprocess.run(
            [sys.executable, count_calls.__file__, report, "-c", self.lab.uri, "--json", *words],
            env=self.virtomate.env(),
            cwd=self.virtomate.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.mark.parametrize("mode", MODES)
def test_calls_are_linear(lab: Lab, virtomate: Program, mode: str) -> None:
    """Every clone costs the same number of calls, every domain on the host one, and neither costs more with others."""
    scale = Scale(lab, virtomate, mode)
    few, some, many = (scale.clone(count, "--jobs", "1") for count in (2, 4, 6))
    scale.crowd(50)
    crowded = scale.clone(6, "--jobs", "1")

    assert many.total - some.total == some.total - few.total
    # of each domain its definition is read, once
    assert crowded.total == many.total + 50
    assert crowded.calls == many.calls | {"virDomainGetXMLDesc": many.calls["virDomainGetXMLDesc"] + 50}


def test_lists_look_at_images_only_when_asked(lab: Lab, virtomate: Program) -> None:
    """A list of all domains asks for records alone; what is verified costs one look at a base for all its clones."""
    scale = Scale(lab, virtomate, "linked")

    def calls(*words: str) -> dict[str, int]:
        report = virtomate.directory / "report.json"
        done = scale.run(report, *words)
        assert done.returncode == 0, done
        found: dict[str, int] = json.loads(report.read_text())["calls"]
        return found

    counts = {}
    for names in (["one", "two"], ["three", "four"]):
        assert virtomate("domain-clone", "--mode", "linked", "original", *names).status == 0
        counts[names[0]] = {
            words: calls(*words) for words in [("domain-list",), ("domain-list", "--clones"), ("domain-verify",)]
        }

    for words, more in counts["three"].items():
        fewer = counts["one"][words]
        # of each domain its record, and whether it is a template; of each overlay nothing that libvirt is asked for
        assert more.keys() == fewer.keys()
        per_domain = {name: (count - fewer[name]) / 2 for name, count in more.items() if count != fewer[name]}
        assert per_domain == {"virDomainGetMetadata": 1 if words == ("domain-verify",) else 2}
        assert any("Storage" in name for name in more) is (words != ("domain-list",))


def test_data_behind_a_long_hole_does_not_pile_up(lab: Lab, virtomate: Program) -> None:
    """Of a disk that is streamed only a few MiB are in memory, also where much data follows many holes."""
    scale = Scale(lab, virtomate, "copy")
    layout = [(5 * MIB, MIB), *((number * 32 * MIB, 32 * MIB) for number in range(64, 72))]
    path = pool_on(lab, "ext4").raw("sparse.raw", 2304 * MIB, extents=layout)
    lab.define(domain("sparse", disks=[disk(path, "raw")]))
    report = virtomate.directory / "report.json"

    done = scale.run(report, "domain-clone", "--transfer", "stream", "sparse", "clone")

    assert done.returncode == 0, done
    (document,) = json.loads(done.stdout)
    with path.open("rb") as original, clone_path(document).open("rb") as copy:
        for offset, length in [(0, 8 * MIB), (2040 * MIB, 264 * MIB)]:
            original.seek(offset)
            copy.seek(offset)
            assert original.read(length) == copy.read(length)
    assert allocated_bytes(clone_path(document)) <= allocated_bytes(path) + MIB
    assert json.loads(report.read_text())["peak_memory_bytes"] <= PEAK_MEMORY_BYTES


def test_pool_with_more_files_than_libvirt_lists(lab: Lab, virtomate: Program) -> None:
    """Every command but the list of its volumes works beside and in a pool that libvirt cannot list."""
    directory = pool_on(lab, "ext4").path / "crowd"
    directory.mkdir()
    for number in range(MOST_LISTED):
        (directory / f"{number}").touch()
    crowd = lab.make_pool("crowd", directory)
    base = crowd.qcow2("original.qcow2", MIB)
    lab.define(domain("original", disks=[disk(base)]))

    listed = virtomate("volume-list", "crowd", json=True)
    cloned = virtomate("domain-clone", "--mode", "linked", "original", "clone")
    verified = virtomate("domain-verify", "clone")
    tree = virtomate("domain-list", "--tree")
    deleted = virtomate("domain-delete", "--yes", "clone")

    limit = f"cannot list the volumes of pool 'crowd': it has more than the {MOST_LISTED} volumes that libvirt lists"
    assert (listed.status, listed.json["message"]) == (1, limit), str(listed)
    told = reaching(lab.uri, "virsh vol-info --pool crowd VOLUME")
    assert f"{told} shows one of them" in listed.json["hint"]
    shown = subprocess.run(["sh", "-c", told.replace("VOLUME", "7")], capture_output=True, text=True, check=True)
    assert "Capacity:" in shown.stdout
    (directory / "7").rename(directory.parent / "7")
    again = reaching(lab.uri, "virsh pool-refresh crowd")
    assert listed.json["hint"].endswith(again)
    subprocess.run(["sh", "-c", again], stdout=subprocess.DEVNULL, check=True)
    assert len(virtomate("volume-list", "crowd", json=True).json) == MOST_LISTED
    for result in (cloned, verified, tree, deleted):
        assert result.status == 0, str(result)
        assert "libvirt lists" not in result.stderr
    assert "original (linked)" in tree.stdout
    assert sum(1 for _ in directory.iterdir()) == MOST_LISTED


@pytest.mark.stress
@pytest.mark.parametrize("mode", ["linked", "reflink"])
def test_two_hundred_clones_beside_a_thousand_domains(
    lab: Lab, virtomate: Program, mode: str, record_property: Any
) -> None:
    """With everything side by side the calls stay linear, apart from some connections, and the memory bounded."""
    scale = Scale(lab, virtomate, mode)
    costs = {(count, 0): scale.clone(count) for count in (1, 10, 100, 200)}
    scale.crowd(1000)
    costs |= {(count, 1000): scale.clone(count) for count in (1, 10, 100, 200)}

    for (count, crowd), cost in costs.items():
        record_property(f"{mode}, {count} clones, {crowd} domains", f"{cost.total} calls, {cost.peak_memory_bytes} B")
        print(
            f"{mode:8} {count:4} clones {crowd:5} domains {cost.total:6} calls {cost.peak_memory_bytes / MIB:6.1f} MiB"
        )
    per_clone = (costs[100, 0].total - costs[10, 0].total) / 90
    for (count, crowd), cost in costs.items():
        expected = costs[1, 0].total + per_clone * (count - 1) + crowd
        assert cost.total == pytest.approx(expected, rel=0.02, abs=CHANCE_CALLS)
        assert cost.peak_memory_bytes <= PEAK_MEMORY_BYTES
