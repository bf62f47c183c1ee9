"""Space: what is left is what the file system says, and what libvirt tells of its pools stays true."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.functional.runs import unchanged
from tests.functional.support import pool_on
from tests.lab import Lab, Pool, Program, disk, domain, mounts
from tests.lab.images import MIB
from virtomate.definition.volume import describe_pool
from virtomate.errors import NoSpaceError
from virtomate.hypervisor.connection import connect
from virtomate.hypervisor.storage import get_pool
from virtomate.services.storage.space import SpaceLedger
from virtomate.words import binary_size


def available_bytes(path: Path) -> int:
    """What df calls available."""
    figures = os.statvfs(path)
    return figures.f_bavail * figures.f_frsize


def counted_by_libvirt(pool: Pool) -> list[int]:
    """Capacity, allocation and available space, as libvirt has them."""
    _, *figures = pool.handle.info()
    return list(figures)


def true_count(pool: Pool) -> list[int]:
    """What libvirt would count now, by the file system."""
    figures = os.statvfs(pool.path)
    free = figures.f_bfree * figures.f_frsize
    capacity = figures.f_blocks * figures.f_frsize
    return [capacity, capacity - free, free]


def listed(virtomate: Program, pool: Pool) -> dict[str, Any]:
    """What pool-list says of a pool."""
    found: list[dict[str, Any]] = virtomate("pool-list", json=True).json
    return next(item for item in found if item["name"] == pool.name)


def check_told(virtomate: Program, pool: Pool) -> None:
    """See that pool-list and libvirt say what is so."""
    item = listed(virtomate, pool)
    capacity, allocation, _ = true_count(pool)
    assert [item["capacity"], item["allocation"]] == [capacity, allocation]
    # libvirt counts a reserve that nobody can write to as available
    assert item["available"] == available_bytes(pool.path) or item["number_of_volumes"] == 0
    assert counted_by_libvirt(pool) == true_count(pool)


@contextmanager
def eaten(pool: Pool, left_bytes: int) -> Iterator[None]:
    """Have somebody take space of a pool behind libvirt's back."""
    eater = pool.path / "eater"
    with eater.open("xb") as file:
        os.posix_fallocate(file.fileno(), 0, available_bytes(pool.path) - left_bytes)
    try:
        yield
    finally:
        eater.unlink()


def define_original(lab: Lab) -> Path:
    """Define a domain with a disk of 19 MiB, in a pool with plenty of space."""
    path = lab.pool.raw("original.raw", 19 * MIB, data_bytes=19 * MIB)
    lab.define(domain("original", disks=[disk(path, "raw")]))
    return path


def test_a_fifth_clone_that_does_not_fit_is_refused(root_lab: Lab, virtomate: Program) -> None:
    """What clones took counts for the next one, what a failed one took does not, and pool-list tells the truth."""
    pool = root_lab.make_small_pool("small", size_bytes=96 * MIB)
    define_original(root_lab)
    words = ("domain-clone", "--pool", pool.name, "original")
    for number in range(4):
        assert virtomate(*words, f"web-{number}").status == 0
    check_told(virtomate, pool)
    before = root_lab.inventory()

    refused = virtomate(*words, "web-4", json=True)

    left = binary_size(available_bytes(pool.path))
    assert (refused.status, refused.json["type"]) == (1, "NoSpaceError"), str(refused)
    assert refused.json["message"] == f"storage pool 'small' has {left} free; 19.0 MiB are needed"
    failed = virtomate(*words, "web-4", "--no-space-check", json=True)
    assert (failed.status, failed.json[0]["error"]["type"]) == (1, "NoSpaceError"), str(failed)
    unchanged(before, root_lab)
    check_told(virtomate, pool)
    assert virtomate("domain-delete", "--yes", "web-0", "web-1").status == 0
    check_told(virtomate, pool)
    assert virtomate(*words, "web-4").status == 0


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_deleted_reflinks_were_not_alone_with_their_data(lab: Lab, virtomate: Program, kind: str) -> None:
    """Libvirt subtracts all that a deleted volume took, what it shared as well, and has to count again."""
    pool = pool_on(lab, kind)
    path = pool.raw("original.raw", 48 * MIB, data_bytes=48 * MIB)
    lab.define(domain("original", disks=[disk(path, "raw")]))
    assert virtomate("domain-clone", "--mode", "reflink", "--count", "3", "original", "web").status == 0

    result = virtomate("domain-delete", "--yes", *(f"web-{number}" for number in (1, 2, 3)))

    assert result.status == 0, str(result)
    capacity, allocation, available = counted_by_libvirt(pool)
    assert allocation < capacity
    assert allocation + available == capacity


def test_the_file_system_decides_and_libvirt_is_not_asked(root_lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """Where the pool's directory is seen, space that came or went without libvirt counts, and no pool is refreshed."""
    pool = root_lab.make_small_pool("small", size_bytes=96 * MIB)
    path = pool.raw("original.raw", 19 * MIB, data_bytes=19 * MIB)
    root_lab.define(domain("original", disks=[disk(path, "raw")]))
    file = tmp_path / "file"
    file.write_bytes(bytes(19 * MIB))
    stale = counted_by_libvirt(pool)

    with eaten(pool, 5 * MIB):
        clone = virtomate("domain-clone", "original", "web", json=True)
        imported = virtomate("volume-import", file, pool.name, json=True)
        told = listed(virtomate, pool)
        left = available_bytes(pool.path)
        assert counted_by_libvirt(pool) == stale
        pool.refresh()
    full = counted_by_libvirt(pool)
    plan = virtomate("domain-clone", "--dry-run", "original", "web", json=True)

    for result in (clone, imported):
        assert result.json["type"] == "NoSpaceError", str(result)
        assert result.json["message"] == "storage pool 'small' has 5.0 MiB free; 19.0 MiB are needed"
    assert told["available"] == left
    assert plan.status == 0, str(plan)
    assert plan.json[0]["space"] == [
        {
            "pool": "small",
            "directory": None,
            "needed": 19 * MIB,
            "total_needed": 19 * MIB,
            "available": available_bytes(pool.path),
        },
    ]
    assert counted_by_libvirt(pool) == full


def test_a_directory_of_the_same_name_is_not_the_daemons(root_lab: Lab, virtomate: Program, tmp_path: Path) -> None:
    """What is mounted here where the daemon has its pool says nothing about that pool."""
    directory = tmp_path / "pool"
    directory.mkdir()
    pool = root_lab.make_pool("elsewhere", directory)
    pool.raw("a.raw", MIB)
    counted = counted_by_libvirt(pool)
    small = root_lab.make_small_pool("small", size_bytes=96 * MIB)
    small.raw("a.raw", MIB)
    # not in the lab's directory, so the daemon does not see this mount
    mounts.mount("--bind", small.path, directory)
    try:
        told = listed(virtomate, pool)
    finally:
        mounts.unmount(directory)

    assert [told["capacity"], told["allocation"], told["available"]] == counted


def refuse_lack(lab: Lab, *needs: tuple[Pool, int], is_local: bool = False) -> list[int]:
    """Add up what is needed of pools, refuse if it is too little, and return what the pools have left.

    Without `is_local` it is as for a daemon whose files are not seen here.
    """
    ledger = SpaceLedger(is_local=is_local)
    with connect(lab.uri) as connection:
        added = []
        for pool, needed_bytes in needs:
            found = get_pool(connection, pool.name)
            added.append(ledger.add(found, describe_pool(found.document()), needed_bytes))
        ledger.refuse_lack("")
    return [need.available_bytes for need in ledger.up_to_date(added)]


def test_a_pool_that_is_not_seen_is_refreshed_only_where_it_matters(root_lab: Lab) -> None:
    """What libvirt counted is believed while it leaves twice the need, and never enough to refuse."""
    pool = root_lab.make_small_pool("small", size_bytes=96 * MIB)
    # an empty pool is refreshed always, since that takes no time
    with eaten(pool, 20 * MIB):
        assert refuse_lack(root_lab, (pool, MIB)) == [true_count(pool)[2]]
    pool.raw("a.raw", MIB)
    stale = counted_by_libvirt(pool)
    with eaten(pool, 20 * MIB):
        assert refuse_lack(root_lab, (pool, 30 * MIB)) == [stale[2]]
        assert counted_by_libvirt(pool) == stale
        with pytest.raises(NoSpaceError, match=re.escape("50.0 MiB are needed")):
            refuse_lack(root_lab, (pool, 30 * MIB), (pool, 20 * MIB))
        assert counted_by_libvirt(pool) == true_count(pool)
    assert refuse_lack(root_lab, (pool, 50 * MIB)) == [true_count(pool)[2]]


def have_libvirt_miscount(pool: Pool) -> None:
    """Fill a volume without libvirt, and have it delete the volume: it subtracts what it never added."""
    path = pool.path / "filled"
    path.touch()
    pool.refresh()
    path.write_bytes(bytes(19 * MIB))
    volume = pool.handle.storageVolLookupByName(path.name)
    volume.info()
    volume.delete()
    capacity, allocation, available = counted_by_libvirt(pool)
    assert allocation > capacity
    assert available > capacity


def test_an_impossible_count_is_not_believed(root_lab: Lab, virtomate: Program) -> None:
    """Where libvirt says that more is left than there is, it counts again, whoever brought that about."""
    pool = root_lab.make_small_pool("small", size_bytes=96 * MIB)
    have_libvirt_miscount(pool)
    # in an empty pool there is nothing to be seen
    told = listed(virtomate, pool)
    assert [told["capacity"], told["allocation"], told["available"]] == true_count(pool)
    pool.raw("a.raw", MIB)
    have_libvirt_miscount(pool)
    assert refuse_lack(root_lab, (pool, MIB)) == [true_count(pool)[2]]


def test_pools_of_one_size_on_two_file_systems(root_lab: Lab) -> None:
    """Pools of one size with equal space left share it, unless they are seen to be on two file systems."""
    one, two = (root_lab.make_small_pool(name, size_bytes=96 * MIB) for name in ("one", "two"))
    for pool in (one, two):
        pool.raw("a.raw", MIB)
    needs = ((one, 60 * MIB), (two, 60 * MIB))
    assert counted_by_libvirt(one) == counted_by_libvirt(two)

    assert refuse_lack(root_lab, *needs, is_local=True) == [available_bytes(pool.path) for pool in (one, two)]
    with pytest.raises(NoSpaceError, match="'one' and 'two' share a file system"):
        refuse_lack(root_lab, *needs)


def test_figures_that_look_alike_are_given_in_bytes(root_lab: Lab) -> None:
    """Where too little and enough would be the same number, each is exact."""
    pool = root_lab.make_small_pool("small", size_bytes=96 * MIB)
    pool.raw("a.raw", MIB)
    left = available_bytes(pool.path)

    assert refuse_lack(root_lab, (pool, left), is_local=True) == [left]
    with pytest.raises(NoSpaceError, match=f"has {left} bytes free; {left + 1} bytes are needed"):
        refuse_lack(root_lab, (pool, left + 1), is_local=True)


def test_overlay_that_finds_no_room_is_undone(root_lab: Lab, virtomate: Program) -> None:
    """Where not even a token finds room, the undo knows the overlay all the same."""
    pool = root_lab.make_small_pool("small")
    path = pool.raw("original.raw", MIB)
    root_lab.define(domain("original", disks=[disk(path, "raw")]))

    # what is kept for root, too
    with (pool.path / "eater").open("xb", buffering=0) as eater:
        for size in (MIB, 1024):
            with suppress(OSError):
                while True:
                    eater.write(bytes(size))
    pool.refresh()
    before = root_lab.inventory()

    result = virtomate("domain-clone", "--mode", "linked", "--no-space-check", "original", "web")

    assert result.status == 1, str(result)
    assert "No space left on device" in result.stderr
    assert "Nothing is left of 'web'." in result.stderr
    unchanged(before, root_lab)
