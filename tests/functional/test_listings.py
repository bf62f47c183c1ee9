"""pool-list and volume-list tell what libvirt knows, for people and for scripts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import libvirt
import pytest

from tests.functional.runs import Refusal, check_refusal
from tests.lab import domain
from tests.lab.images import MIB
from virtomate.hypervisor.connection import connect
from virtomate.hypervisor.storage import list_pools
from virtomate.services import pool_listings as pools
from virtomate.services.listings import DomainFilter, list_all_domains

if TYPE_CHECKING:
    from tests.lab import Lab, Program

SIZE = r"\d+(\.\d)? [KMGT]?i?B"


def by_name(listed: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The elements of a list by their names, which must be in order."""
    names = [item["name"] for item in listed]
    assert names == sorted(names)
    return {item["name"]: item for item in listed}


def test_some_domains(lab: Lab, virtomate: Program) -> None:
    """Options choose what is listed, together and each alone; clones know an original that was renamed, or is gone."""
    for name in ("one", "two"):
        lab.define(domain(name))
    lab.define(domain("up")).create()
    for original, *clones in (("one", "one-a", "one-b"), ("two", "two-a"), ("two-a", "two-b")):
        assert virtomate("domain-clone", original, *clones).status == 0
    lab.connection.lookupByName("one-a").create()
    one, two = (lab.connection.lookupByName(name) for name in ("one", "two"))
    uuids = [one.UUIDString(), two.UUIDString()]
    listed = virtomate("domain-list", "--running", "--clones", "--clones-of", "one", json=True)
    assert [item["name"] for item in listed.json] == ["one-a"]

    with connect(lab.uri) as connection:

        def names(clones_of: str | None = None, *, running: bool = False, clones: bool = False) -> list[str]:
            return [item.name for item in list_all_domains(connection, DomainFilter(running, clones, clones_of))]

        assert names(running=True) == ["one-a", "up"]
        assert names(clones=True) == ["one-a", "one-b", "two-a", "two-b"]
        assert [names("one"), names("two")] == [["one-a", "one-b"], ["two-a"]]
        assert [names("one-b"), names("up", clones=True)] == [[], []]
        one.rename("uno")
        two.undefine()
        assert [names(word) for word in ("uno", uuids[0])] == [["one-a", "one-b"]] * 2
        assert [names(word) for word in ("two", uuids[1].upper())] == [["two-a"]] * 2
        assert names("two", running=True) == []
        # a domain that has the name by now is another one
        lab.define(domain("two"))
        assert names("two") == []
    check_refusal(lab, virtomate, ("domain-list", "--clones-of", "three"), Refusal("NotFoundError", ("'three'",), ()))


def test_addresses_are_looked_for(lab: Lab, virtomate: Program) -> None:
    """Who does not tell any address keeps nobody from being listed: no agent, a deaf one, a guest that is paused."""
    lab.define(domain("off"))
    for name, has_agent in (("deaf", True), ("mute", False), ("still", True)):
        lab.define(domain(name, agent=has_agent)).create()
    lab.connection.lookupByName("still").suspend()

    listed = virtomate("domain-list", "--addresses", json=True)

    assert (listed.status, listed.stderr) == (0, "")
    assert {item["name"]: item["addresses"] for item in listed.json} == {"deaf": [], "mute": [], "off": [], "still": []}


def test_pools(lab: Lab, virtomate: Program) -> None:
    """Every pool is listed with what libvirt says of it, an inactive one and a transient one as well.

    What is left is what the file system says, where that can be seen; see test_space.
    """
    lab.pool.raw("a.raw", 8 * MIB)
    stopped = lab.make_pool("<[red]>")
    stopped.handle.destroy()
    lab.make_pool("transient", persistent=False)

    result = virtomate("pool-list", json=True)

    listed = by_name(result.json)
    assert listed.keys() == {pool.name() for pool in lab.connection.listAllStoragePools()}
    for name, item in listed.items():
        pool = lab.connection.storagePoolLookupByName(name)
        assert item["uuid"] == pool.UUIDString()
        if name != lab.pool.name:
            assert [item["capacity"], item["allocation"], item["available"]] == pool.info()[1:]
        is_off = name == stopped.name
        assert (item["active"], item["state"]) == (not is_off, "inactive" if is_off else "running")
        assert item["persistent"] is (name != "transient")
        assert item["number_of_volumes"] == (None if is_off else pool.numOfVolumes())
    assert listed[lab.pool.name]["number_of_volumes"] == 1

    lines = virtomate("pool-list").stdout.splitlines()
    assert lines[0].split() == ["Name", "State", "Capacity", "Allocation", "Available", "Volumes", "Persistent"]
    assert [line.split()[0] for line in lines[1:]] == list(listed)
    assert re.fullmatch(rf"<\[red\]> +inactive +{SIZE} +{SIZE} +{SIZE} +yes", lines[1])
    assert any(re.fullmatch(rf"{lab.pool.name} +running +{SIZE} +{SIZE} +{SIZE} +1 +yes", line) for line in lines)


def test_volumes(lab: Lab, virtomate: Program) -> None:
    """Every volume is listed with its format, sizes and what lies below it; a directory is listed as one."""
    pool = lab.pool
    raw = pool.raw("a.raw", 8 * MIB, data_bytes=MIB)
    base = pool.qcow2("b.qcow2", 16 * MIB)
    pool.overlay("c.qcow2", base)
    pool.overlay("d.qcow2", raw, "raw")
    (pool.path / "sub").mkdir()
    (pool.path / "esc\x1b[31m").touch()
    pool.refresh()

    result = virtomate("volume-list", pool.name, json=True)

    listed = by_name(result.json)
    assert set(listed) == {"a.raw", "b.qcow2", "c.qcow2", "d.qcow2", "sub"}
    assert listed["a.raw"] == {
        "name": "a.raw",
        "key": str(raw),
        "type": "file",
        "capacity": 8 * MIB,
        "allocation": MIB,
        "physical": 8 * MIB,
        "target": {"path": str(raw), "format_type": "raw"},
        "backing_store": None,
    }
    assert listed["b.qcow2"]["target"]["format_type"] == "qcow2"
    assert (listed["b.qcow2"]["capacity"], listed["b.qcow2"]["physical"]) == (16 * MIB, base.stat().st_size)
    assert listed["c.qcow2"]["backing_store"] == {"path": str(base), "format_type": "qcow2"}
    assert listed["d.qcow2"]["backing_store"] == {"path": str(raw), "format_type": "raw"}
    assert (listed["sub"]["type"], listed["sub"]["physical"]) == ("dir", None)
    assert listed["sub"]["target"] == {"path": str(pool.path / "sub"), "format_type": "dir"}

    lines = virtomate("volume-list", pool.name).stdout.splitlines()
    assert lines[0].split() == ["Name", "Format", "Capacity", "Allocation", "Backing", "store"]
    assert re.fullmatch(r"a\.raw +raw +8\.0 MiB +1\.0 MiB", lines[1])
    assert re.fullmatch(rf"c\.qcow2 +qcow2 +16\.0 MiB +{SIZE} +{re.escape(str(base))}", lines[3])


def test_an_empty_pool_has_an_empty_list(lab: Lab, virtomate: Program) -> None:
    """A pool without volumes is no error."""
    assert virtomate("volume-list", lab.make_pool("empty").name, json=True).json == []


def test_what_vanishes_is_passed_over(lab: Lab, virtomate: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume whose file is gone, and a pool that is gone, are not there; the others are listed."""
    pool = lab.pool
    pool.raw("stays.raw", MIB)
    pool.raw("gone.raw", MIB).unlink()
    assert [item["name"] for item in virtomate("volume-list", pool.name, json=True).json] == ["stays.raw"]

    lab.make_pool("gone", persistent=False)
    with connect(lab.uri) as connection:
        found = list_pools(connection)
        lab.connection.storagePoolLookupByName("gone").destroy()
        monkeypatch.setattr(pools, "list_pools", lambda _: found)
        listed = {listing.name for listing in pools.list_all_pools(connection)}

    assert listed == {found_pool.name for found_pool in found} - {"gone"}
    with pytest.raises(libvirt.libvirtError):
        lab.connection.storagePoolLookupByName("gone")


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("nothing", Refusal("NotFoundError", ("'nothing'",), ("virtomate pool-list",))),
        ("my pool", Refusal("IllegalStateError", ("'my pool'", "not active"), ("virsh pool-start 'my pool'",))),
    ],
)
def test_pools_without_volumes_to_list(lab: Lab, virtomate: Program, name: str, refusal: Refusal) -> None:
    """A pool that is not there or not active is a sentence that names it and says what to do."""
    lab.make_pool("my pool").handle.destroy()

    check_refusal(lab, virtomate, ("volume-list", name), refusal)


def test_a_name_that_is_no_text(virtomate: Program) -> None:
    """A name that is not UTF-8 cannot be a pool's, and is not passed on to libvirt."""
    result = virtomate("volume-list", "b\udce4d")

    assert result.status == 1
    assert "UTF-8" in result.stderr
