"""--from of domain-clone: different clones of one original in one command, planned together."""

import signal
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.functional.runs import error_of, paused, unchanged
from tests.functional.support import by_target, definition
from tests.lab import Lab, Program, Result, disk, domain, images, interface
from tests.lab.images import MIB

UUID = "9c1b2a0e-0000-4000-8000-000000000001"


@pytest.fixture
def original(lab: Lab) -> Path:
    """Define the domain `original` with two disks, and return the path of the first."""
    path = lab.pool.qcow2("original.qcow2", 4 * MIB, data_bytes=MIB)
    data = lab.pool.raw("data.raw", 4 * MIB)
    disks = [disk(path), disk(data, "raw", "vdb")]
    lab.define(domain("original", disks=disks, interfaces=[interface()]))
    return path


def written(directory: Path, text: str) -> Path:
    """Write a file of clones and return its path."""
    path = directory / "clones.toml"
    path.write_text(text)
    return path


def names_of(lab: Lab) -> set[str]:
    """Return the names of all domains."""
    return {found.name() for found in lab.connection.listAllDomains()}


def summary(result: Result) -> list[tuple[str, str, str]]:
    """Return name, mode and status of each clone."""
    assert result.status == 0, str(result)
    return [(item["name"], item["mode"], item["status"]) for item in result.json]


DIFFERENT = f"""
domain = "original"
title = "A clone"

[[clones]]
name = "copy"
uuid = "{UUID}"
disk = "vdb=drop"

[[clones]]
name = "ci-{{}}"
count = 2
mode = "linked"
title = "For jobs"
seed = true

[[clones]]
name = "web"
disk = ["vda=linked,name=system.qcow2", "vdb=share"]
mac = "52:54:00:00:00:77"
start = false
"""
EXPECTED = [("copy", "copy"), ("ci-1", "linked"), ("ci-2", "linked"), ("web", "copy")]


def test_each_clone_has_its_options(lab: Lab, virtomate: Program, original: Path, tmp_path: Path) -> None:
    """One command makes clones in different modes, with their own identities, disks and seeds, in the file's order."""
    path = written(tmp_path, DIFFERENT)
    before = lab.inventory()

    planned = virtomate("domain-clone", "--from", path, "--dry-run", json=True)
    human = virtomate("domain-clone", "--from", path, "--dry-run")
    printed = virtomate("domain-clone", "--from", path, "--print-xml")
    unchanged(before, lab)
    made = virtomate("domain-clone", "--from", path, json=True)

    assert summary(planned) == [(*item, "planned") for item in EXPECTED]
    assert summary(made) == [(*item, "cloned") for item in EXPECTED]
    assert human.stdout.count("Would clone original to ") == 4
    assert "4 clones need " in human.stdout
    assert printed.stdout.count("<domain ") == 4
    copy, ci_1, ci_2, web = made.json
    assert copy["uuid"] == UUID
    assert by_target(copy)["vdb"]["action"] == "dropped"
    assert [by_target(item)["vda"]["action"] for item in made.json] == ["copied", "linked", "linked", "linked"]
    assert Path(by_target(web)["vda"]["clone"]["path"]).name == "system.qcow2"
    assert ["seed" in item for item in made.json] == [False, True, True, False]
    assert [item["seed"]["host_name"] for item in (ci_1, ci_2)] == ["ci-1", "ci-2"]
    assert web["interfaces"][0]["mac"] == "52:54:00:00:00:77"
    titles = {name: ET.fromstring(definition(lab, name)).findtext("title") for name, _ in EXPECTED}
    assert titles == {"copy": "A clone", "ci-1": "For jobs", "ci-2": "For jobs", "web": "A clone"}
    assert images.same_content(Path(by_target(copy)["vda"]["clone"]["path"]), "qcow2", original, "qcow2")
    assert len({item["interfaces"][0]["mac"] for item in made.json}) == 4


@pytest.mark.parametrize(
    ("clones", "expected"),
    [
        (("name = 'a'", "name = 'b'\ndisk = 'nope=drop'"), "Error: clone 'b': "),
        (("name = 'a'", "name = 'original'"), "there is already a domain 'original'"),
        (("name = 'a'\ndisk = 'vda=copy,name=x'", "name = 'b'\ndisk = 'vda=copy,name=x'"), "two new volumes would be"),
        (("name = 'a'\npool = 'none'", "name = 'b'"), "Error: clone 'a': there is no storage pool 'none'"),
    ],
)
@pytest.mark.usefixtures("original")
def test_one_refusal_refuses_all(
    lab: Lab, virtomate: Program, tmp_path: Path, clones: tuple[str, ...], expected: str
) -> None:
    """All clones are planned before the first is made, and see what the others take."""
    path = written(tmp_path, "".join(f"[[clones]]\n{clone}\n" for clone in clones))
    before = lab.inventory()

    result = virtomate("domain-clone", "--from", path, "original")

    assert result.status in {1, 2}, str(result)
    assert expected in result.stderr
    unchanged(before, lab)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("name = 'a'", "the name 'a' is given twice"),
        (f"name = 'b'\nuuid = '{UUID}'", f"the UUID '{UUID}' is given twice"),
        ("name = 'b'\nmac = '52:54:00:00:00:77'", "the MAC address '52:54:00:00:00:77' is given twice"),
    ],
)
@pytest.mark.usefixtures("original")
def test_clones_do_not_collide(lab: Lab, virtomate: Program, tmp_path: Path, line: str, expected: str) -> None:
    """Two clones of a file cannot have one identity."""
    first = f"[[clones]]\nname = 'a'\nuuid = '{UUID}'\nmac = '52:54:00:00:00:77'\n"
    path = written(tmp_path, f"{first}[[clones]]\n{line}\n")
    before = lab.inventory()

    result = virtomate("domain-clone", "--from", path, "original")

    assert (result.status, result.stdout) == (2, "")
    assert expected in result.stderr
    unchanged(before, lab)


def test_space_of_all_clones_is_compared(root_lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """Each clone would fit alone, and both together do not."""
    lab = root_lab
    free_mib = lab.make_small_pool("small").handle.info()[3] // MIB
    big = lab.pool.raw("big.raw", free_mib * MIB, data_bytes=free_mib * 2 // 3 * MIB)
    lab.define(domain("big", disks=[disk(big, "raw")]))
    path = written(
        tmp_path, "domain = 'big'\npool = 'small'\n[[clones]]\nname = 'a'\n[[clones]]\nname = 'b'\ntitle = 'B'\n"
    )
    before = lab.inventory()

    error = error_of(virtomate("domain-clone", "--from", path, json=True))

    assert error["type"] == "NoSpaceError"
    unchanged(before, lab)


def test_addresses_are_shared_out(root_lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """Each clone gets its own address of a range; one address for two clones is refused."""
    lab = root_lab
    lab.make_network()
    lab.define(domain("original", interfaces=[interface(type_="network", source="lab")]))
    top = "domain = 'original'\nip-range = '192.168.77.40-192.168.77.49'\n"
    path = written(tmp_path, f"{top}[[clones]]\nname = 'a'\n[[clones]]\nname = 'b'\ntitle = 'B'\n")
    planned = virtomate("domain-clone", "--from", path, "--dry-run", json=True)
    assert planned.status == 0, str(planned)
    addresses = [item["interfaces"][0]["dhcp_entry"]["address"] for item in planned.json]
    assert addresses == ["192.168.77.40", "192.168.77.41"]

    clones = "".join(f"[[clones]]\nname = '{name}'\nip = '192.168.77.40'\n" for name in "ab")
    result = virtomate("domain-clone", "--from", written(tmp_path, clones), "original")
    assert (result.status, result.stdout) == (2, "")
    assert "Error: clone 'b': address '192.168.77.40' is given for two interfaces" in result.stderr


def test_names_of_addresses_differ(root_lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """A network takes a name once, so that two clones with one host name are refused before the first is made."""
    lab = root_lab
    lab.make_network()
    disks = [disk(lab.pool.qcow2("original.qcow2", 4 * MIB))]
    lab.define(domain("original", disks=disks, interfaces=[interface(type_="network", source="lab")]))
    top = "domain = 'original'\nip-range = '192.168.77.40-192.168.77.49'\nseed = true\nhostname = 'web'\n"
    path = written(tmp_path, f"{top}[[clones]]\nname = 'a'\n[[clones]]\nname = 'b'\n")
    before = lab.inventory()

    result = virtomate("domain-clone", "--from", path)

    assert (result.status, result.stdout) == (2, "")
    assert "DHCP entries of clones 'a' and 'b' in network 'lab' would both have the name 'web'" in result.stderr
    unchanged(before, lab)


def test_original_that_is_refused(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """What is wrong with the original is told of no clone."""
    lab.define(domain("original")).create()

    result = virtomate("domain-clone", "--from", written(tmp_path, "[[clones]]\nname = 'a'\n"), "original")

    assert (result.status, result.stderr.splitlines()[0]) == (
        1,
        "Error: domain 'original' is running, and must be shut off to be cloned",
    )


@pytest.mark.usefixtures("original")
def test_file_is_run_again(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """With if-exists a file says which clones are to be there: the missing are made, or all are replaced."""
    text = "domain = 'original'\nmode = 'linked'\nif-exists = 'keep'\n[[clones]]\nname = 'a'\n"
    assert summary(virtomate("domain-clone", "--from", written(tmp_path, text), json=True)) == [
        ("a", "linked", "cloned")
    ]
    path = written(tmp_path, f"{text}[[clones]]\nname = 'b'\nmode = 'copy'\n[[clones]]\nname = 'c'\n")

    again = virtomate("domain-clone", "--from", path, json=True)
    replaced = virtomate("domain-clone", "--from", path, "--if-exists", "replace", json=True)

    expected = [("a", "linked", "unchanged"), ("b", "copy", "cloned"), ("c", "linked", "cloned")]
    assert summary(again) == expected
    assert [status for _, _, status in summary(replaced)] == ["cloned"] * 3
    assert [item["replaced"]["uuid"] for item in replaced.json] == [item["uuid"] for item in again.json]
    assert names_of(lab) == {"original", "a", "b", "c"}


@pytest.mark.usefixtures("original")
def test_clones_that_are_interrupted(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """A run that is killed leaves unfinished clones, as any other, and each goes with one command."""
    path = written(tmp_path, "jobs = 1\nmode = 'linked'\n[[clones]]\nname = 'a'\n[[clones]]\nname = 'b'\ntitle = 'B'\n")
    run = virtomate.pausing("virStorageVolCreateXML").start("domain-clone", "--from", path, "original")
    with paused(run):
        run.signal(signal.SIGKILL)
    run.wait()

    assert names_of(lab) == {"original", "a"}
    assert virtomate("domain-delete", "a").status == 0
    assert names_of(lab) == {"original"}


@pytest.mark.usefixtures("original")
def test_failed_clone_keeps_the_others(lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """Each clone is its own transaction: whose volume's name is taken meanwhile fails, and the others are made."""
    path = written(tmp_path, "jobs = 1\nmode = 'linked'\n[[clones]]\nname = 'a'\n[[clones]]\nname = 'b'\ntitle = 'B'\n")
    run = virtomate.pausing("virStorageVolCreateXML").start("domain-clone", "--from", path, "original", json=True)
    with paused(run):
        lab.define(domain("b"))
    result = run.wait()

    assert result.status == 1, str(result)
    assert [(item["name"], item["status"]) for item in result.json] == [("a", "cloned"), ("b", "failed")]
    assert result.json[1]["error"]["type"] == "Conflict"
