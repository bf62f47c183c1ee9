"""What limits new files: a quota, the inodes, a reserve. Each has a sentence of its own, and nothing is left."""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from tests.functional.runs import Refusal, check_refusal, error_of, unchanged
from tests.functional.support import cloned
from tests.functional.test_space import available_bytes, eaten, refuse_lack
from tests.lab import Lab, Pool, Program, Result, disk, domain, mounts, storage
from tests.lab.images import MIB
from tests.lab.programs import require_program, run
from virtomate.errors import NoSpaceError

QUOTA = 16 * MIB
RAISE = "Raise the quota"


@pytest.fixture
def limited(root_lab: Lab) -> Pool:
    """A pool with a quota that root must keep, too, and that shows nowhere; elsewhere, the domain `original`."""
    btrfs = require_program("btrfs", "btrfs-progs")
    pool = root_lab.make_small_pool("limited", "btrfs", 256 * MIB)
    run(btrfs, "quota", "enable", pool.path)
    run(btrfs, "quota", "rescan", "-w", pool.path)
    run(btrfs, "qgroup", "limit", str(QUOTA), pool.path)
    path = root_lab.pool.qcow2("original.qcow2", 64 * MIB, data_bytes=32 * MIB)
    root_lab.define(domain("original", disks=[disk(path, "qcow2")]))
    return pool


@pytest.mark.parametrize("transfer", ["host", "stream", "server"])
def test_copy_that_exceeds_a_quota(root_lab: Lab, virtomate: Program, limited: Pool, transfer: str) -> None:
    """Whoever writes meets the quota, the error names it, and the clone is undone."""
    before = root_lab.inventory()
    assert available_bytes(limited.path) > 64 * MIB

    result = virtomate("domain-clone", "--pool", "limited", "--transfer", transfer, "original", "web", json=True)

    check_quota(result)
    unchanged(before, root_lab)


def test_import_that_exceeds_a_quota(root_lab: Lab, virtomate: Program, limited: Pool, tmp_path: Path) -> None:
    """An import names the quota, too, and leaves nothing."""
    file = tmp_path / "file.raw"
    file.write_bytes(os.urandom(32 * MIB))
    before = root_lab.inventory()

    result = virtomate("volume-import", file, limited.name, json=True)

    assert (result.status, result.json["type"]) == (1, "NoSpaceError"), str(result)
    assert "Disk quota exceeded" in result.json["message"]
    assert result.json["hint"].startswith(RAISE)
    unchanged(before, root_lab)


def test_overlay_that_exceeds_a_quota(root_lab: Lab, virtomate: Program, limited: Pool) -> None:
    """Where not even an overlay finds room, the quota is named, and the undo needs no room."""
    with (limited.path / "eater").open("xb", buffering=0) as eater, suppress(OSError):
        while True:
            eater.write(bytes(64 * 1024))
    limited.refresh()
    before = root_lab.inventory()

    result = virtomate("domain-clone", "--pool", "limited", "--mode", "linked", "original", "web", json=True)

    check_quota(result)
    unchanged(before, root_lab)


def check_quota(result: Result) -> None:
    """See that a run has failed for a quota."""
    error = error_of(result)
    assert error["type"] == "NoSpaceError", str(result)
    assert "Disk quota exceeded" in error["message"], str(result)
    assert error["hint"].startswith(RAISE), str(result)
    assert "leftovers" not in error, str(result)


def test_compressed_original(root_lab: Lab, virtomate: Program) -> None:
    """A compressing file system holds more than its free space: the refusal names the way, and the way works."""
    image, directory = root_lab.directory / "compressing.img", root_lab.directory / "compressing"
    mounts.make_file_system("btrfs", image, 128 * MIB)
    directory.mkdir()
    mounts.mount("--options", "loop,compress-force=zstd", image, directory)
    pool = root_lab.make_pool("compressing", directory)
    (directory / "original.raw").write_bytes(bytes(range(256)) * ((available_bytes(directory) + 8 * MIB) // 256))
    pool.refresh()
    root_lab.define(domain("original", disks=[disk(directory / "original.raw", "raw")]))
    words = ("domain-clone", "original", "web")
    refusal = Refusal("NoSpaceError", ("storage pool 'compressing'",), ("compresses, use --no-space-check",))
    check_refusal(root_lab, virtomate, words, refusal)

    clone = cloned(virtomate(*words, "--no-space-check", json=True))

    (made,) = clone["disks"]
    assert Path(made["clone"]["path"]).read_bytes() == (directory / "original.raw").read_bytes()


def test_reflink_needs_no_space(root_lab: Lab, virtomate: Program) -> None:
    """A reflink takes nothing but a little metadata: it is planned and made where a copy would not fit."""
    pool = root_lab.make_small_pool("small", "xfs", 320 * MIB)
    path = pool.raw("original.raw", 48 * MIB, data_bytes=48 * MIB)
    root_lab.define(domain("original", disks=[disk(path, "raw")]))
    with eaten(pool, 32 * MIB):
        refused = virtomate("domain-clone", "original", "web", json=True)
        plan = virtomate("domain-clone", "--dry-run", "--mode", "reflink", "original", "web", json=True)
        clone = cloned(virtomate("domain-clone", "--mode", "reflink", "original", "web", json=True))

    assert refused.json["type"] == "NoSpaceError", str(refused)

    assert [need["needed"] for need in plan.json[0]["space"]] == [0]
    assert clone["disks"][0]["action"] == "reflinked"


def test_reserve_for_root_is_not_free(root_lab: Lab, virtomate: Program) -> None:
    """Root may write to a reserve of ext4, and QEMU not: a clone that needs the reserve is refused."""
    image, directory = root_lab.directory / "reserved.img", root_lab.directory / "reserved"
    mounts.make_file_system("ext4", image, 96 * MIB)
    run(require_program("tune2fs", "e2fsprogs"), "-m", "50", image)
    mounts.mount_image(image, directory)
    pool = root_lab.make_pool("reserved", directory)
    path = pool.raw("original.raw", 32 * MIB, data_bytes=32 * MIB)
    root_lab.define(domain("original", disks=[disk(path, "raw")]))
    left = available_bytes(directory)
    assert left < 32 * MIB < pool.handle.info()[3]

    result = virtomate("domain-clone", "original", "web", json=True)

    assert result.json["type"] == "NoSpaceError", str(result)
    assert "storage pool 'reserved' has " in result.json["message"]


@pytest.fixture
def crowded(root_lab: Lab) -> Pool:
    """A pool on a file system with room for data, and for one file more."""
    pool = root_lab.make_small_pool("crowded")
    pool.raw("original.raw", MIB)
    crowd = pool.path / "crowd"
    crowd.mkdir()
    for number in range(os.statvfs(pool.path).f_favail - 1):
        (crowd / str(number)).touch()
    return pool


def test_file_system_without_inodes(root_lab: Lab, virtomate: Program, crowded: Pool) -> None:
    """Where there is space but no inode for each new file, no clone is begun."""
    disks = [disk(crowded.path / "original.raw", "raw")]
    root_lab.define(domain("original", disks=disks))
    refusal = Refusal(
        "NoSpaceError",
        ("the file system of storage pool 'crowded' has inodes for 1 more file, and 2 are needed",),
        ("Delete files there, or choose another pool.",),
    )

    check_refusal(root_lab, virtomate, ("domain-clone", "--mode", "linked", "original", "web-1", "web-2"), refusal)

    assert virtomate("domain-clone", "--mode", "linked", "original", "web-1").status == 0


def with_quotas(monkeypatch: pytest.MonkeyPatch, quotas: dict[Path, int]) -> None:
    """Have the file system report quotas of directories, as XFS does, which the kernel may be built without."""
    true = os.statvfs

    def statvfs(path: str) -> os.statvfs_result:
        figures = list(true(path))
        if (quota := quotas.get(Path(path))) is not None:
            figures[2] = figures[3] = figures[4] = quota // figures[1]
        return os.statvfs_result(figures)

    monkeypatch.setattr(os, "statvfs", statvfs)


def test_quotas_of_directories(root_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools with quotas of their own, on one file system, are limited by the quotas and by the file system."""
    top = storage.make_mounted_directory(root_lab.directory / "shared", "ext4", 96 * MIB)
    directories = [top / name for name in ("one", "two")]
    for directory in directories:
        directory.mkdir()
    one, two = (root_lab.make_pool(directory.name, directory) for directory in directories)
    for pool in (one, two):
        pool.raw("a.raw", MIB)
    with_quotas(monkeypatch, {one.path: 40 * MIB, two.path: 50 * MIB})

    assert refuse_lack(root_lab, (one, 30 * MIB), (two, 30 * MIB), is_local=True) == [40 * MIB, 50 * MIB]
    with pytest.raises(
        NoSpaceError, match=r"^a quota for storage pool 'one' has 40\.0 MiB free; 41\.0 MiB are needed"
    ) as error:
        refuse_lack(root_lab, (one, 41 * MIB), is_local=True)
    assert str(error.value.hint).startswith(RAISE)
    with pytest.raises(NoSpaceError, match=r"^storage pools 'one' and 'two' share a file system that has"):
        refuse_lack(root_lab, (one, 40 * MIB), (two, 50 * MIB), is_local=True)
    with_quotas(monkeypatch, {one.path: 40 * MIB, two.path: 40 * MIB})
    with pytest.raises(NoSpaceError, match=r"^a quota for storage pools 'one' and 'two' has 40\.0 MiB free"):
        refuse_lack(root_lab, (one, 30 * MIB), (two, 30 * MIB), is_local=True)
