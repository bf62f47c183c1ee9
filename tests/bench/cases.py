"""What is measured: one function for each case, which makes the sources, names the contenders and states the bars."""

import random
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from tests.bench import contenders as who
from tests.bench.contenders import (
    BARE,
    CACHED_HOLES,
    CLONE,
    CONVERT,
    CP,
    CP_REFLINK,
    EARLIER,
    NEW_FILE,
    OLD,
    ORIGINAL,
    OURS,
    QEMU_IMG,
    SERVER,
    STREAM,
    VIRSH_PIPE,
    VIRT_CLONE,
    Contender,
)
from tests.bench.measure import Sample
from tests.bench.report import MIB, Bar, CaseResult, Quantity, Series, at_most, faster
from tests.bench.workbench import Workbench
from tests.lab import Pool, disk, domain, interface
from tests.lab.images import GIB, KIB, allocated_bytes, make_chains
from tests.lab.programs import require_program

SOURCE = "source"
PEAK_MEMORY_BYTES = 70 * MIB
MANY = 50
GREAT_MANY = 200
MANY_PEAK_MEMORY_BYTES = 120 * MIB
CROWD = 1000
CHAIN = 3
WRITES = 6000
WRITE_BYTES = 4 * KIB
WRITE_SEED = 3
SEED_SECONDS = 0.03

Case = Callable[[Workbench, str], CaseResult]


def copy_raw(bench: Workbench, name: str) -> CaseResult:
    """Copy a raw disk that is mostly hole."""
    capacity, data = bench.scaled(20 * GIB), bench.scaled(512 * MIB)
    pool = bench.make_pool("ext4", capacity + 2 * data)
    source = pool.raw("original.raw", capacity, data_bytes=data)
    bench.define(ORIGINAL, (source, "raw"))
    target = pool.path / f"{CLONE}.raw"
    old, virt_clone = who.clone_with_old(bench.uri, "copy"), who.clone_with_virt_clone(bench.uri, target)
    found = bench.race(
        [
            Contender(OURS, who.clone_with_ours(bench.uri, "copy"), [source], note=who.note_transfers),
            Contender(
                STREAM,
                who.clone_with_ours(bench.uri, "copy", transfer="stream"),
                [source],
                note=who.note_transfers,
            ),
            Contender(OLD, old, [source]),
            Contender(OLD + CACHED_HOLES, old, [source], cached_holes=True),
            Contender(VIRT_CLONE, virt_clone, [source]),
            Contender(VIRT_CLONE + CACHED_HOLES, virt_clone, [source], cached_holes=True),
            Contender(CP, who.copy_with_cp(source, target), [source]),
        ],
        pool,
    )
    equal = Bar(
        f"{OURS}: allocation equal to the source's, within 1 %",
        over=OURS,
        by=SOURCE,
        low=0.99,
        high=1.01,
        quantity=Quantity.ALLOCATION,
    )
    return CaseResult(
        name,
        f"copy of a sparse raw disk, {size(capacity)} with {size(data)} of data, ext4",
        series=(*found, Series(SOURCE, (Sample(allocated_bytes=allocated_bytes(source)),))),
        bars=(
            faster(OLD, 20, OURS),
            faster(VIRT_CLONE, 8, OURS),
            at_most(1.3, CP, OURS),
            equal,
            faster(OLD, 8, STREAM),
        ),
    )


def copy_qcow2(bench: Workbench, name: str) -> CaseResult:
    """Copy a qcow2 disk."""
    data = bench.scaled(GIB)
    pool = bench.make_pool("ext4", 4 * data)
    source = pool.qcow2("original.qcow2", 4 * data, data_bytes=data)
    bench.define(ORIGINAL, (source, "qcow2"))
    found = bench.race(
        [
            Contender(OURS, who.clone_with_ours(bench.uri, "copy"), [source], note=who.note_transfers),
            Contender(OLD, who.clone_with_old(bench.uri, "copy"), [source]),
            Contender(CP, who.copy_with_cp(source, pool.path / f"{CLONE}.qcow2"), [source]),
        ],
        pool,
    )
    title = f"copy of a qcow2 disk with {size(data)} of data, ext4"
    return CaseResult(name, title, series=found, bars=(at_most(1.25, CP, OURS), at_most(1, OLD, OURS)))


def reflink(bench: Workbench, name: str, kind: str, format_: str) -> CaseResult:
    """Reflink a small and a large disk; nobody reads their data."""
    sizes = (bench.scaled(GIB), bench.scaled(4 * GIB))
    pool = bench.make_pool(kind, 2 * sum(sizes))
    small, large = map(size, sizes)
    taking_part = []
    for data in sizes:
        source = make_original(bench, pool, data, format_)
        target, of = pool.path / f"{CLONE}.{format_}", f", {size(data)}"
        taking_part += [
            Contender(
                f"{OURS} {mode}{of}",
                who.clone_with_ours(bench.uri, mode, source.stem),
                note=who.note_transfers,
            )
            for mode in ("reflink", "linked")
        ]
        taking_part += [
            Contender(f"{OLD} reflink{of}", who.clone_with_old(bench.uri, "reflink", source.stem)),
            Contender(f"{CP_REFLINK}{of}", who.copy_with_cp(source, target, reflink=True)),
        ]
    ours, linked = f"{OURS} reflink, ", f"{OURS} linked, "
    return CaseResult(
        name,
        f"reflink of a full {format_} disk of {small} and of {large}, {kind}",
        series=bench.race(taking_part, pool, times=2),
        bars=(
            at_most(1.3, ours + small, ours + large),
            at_most(1.5, linked + small, ours + small),
            at_most(1.5, linked + large, ours + large),
        ),
    )


def linked(bench: Workbench, name: str) -> CaseResult:
    """Make a linked clone."""
    data = bench.scaled(GIB)
    pool = bench.make_pool("ext4", 4 * data)
    source = pool.qcow2("original.qcow2", 4 * data, data_bytes=data)
    bench.define(ORIGINAL, (source, "qcow2"))
    target = pool.path / f"{CLONE}.qcow2"
    found = bench.race(
        [
            Contender(OURS, who.clone_with_ours(bench.uri, "linked"), [source], note=who.note_transfers),
            Contender(OLD, who.clone_with_old(bench.uri, "linked"), [source]),
            Contender(QEMU_IMG, who.link_with_qemu_img(source, "qcow2", target), [source]),
            Contender(BARE, who.link_with_bare_calls(bench.uri), [source]),
        ],
        pool,
        times=3,
    )
    return CaseResult(name, "linked clone of one domain, ext4", series=found, bars=(at_most(1.1, OLD, OURS),))


def freeze(bench: Workbench, name: str) -> CaseResult:
    """Make a linked clone of an original that is frozen for it, off or running, and of one that is frozen already."""
    data = bench.scaled(GIB)
    pool = bench.make_pool("ext4", 4 * data)
    source = pool.qcow2("original.qcow2", 4 * data, data_bytes=data)
    # what is called like this is removed after each run, with the overlay on which it is then
    frozen = f"{ORIGINAL}-frozen"
    definition = bench.lab.make_directory("freeze") / "original.xml"
    definition.write_text(domain(frozen, disks=[disk(source)], interfaces=[interface()]))
    define = who.define(bench.uri, definition)
    first = who.freeze_with_ours(bench.uri, frozen, f"{CLONE}-first")
    new, again, live = f"{OURS}, frozen", f"{OURS}, frozen before", f"{OURS}, frozen while it runs"
    begin = who.start(bench.uri, frozen)
    found = bench.race(
        [
            Contender(OURS, who.clone_with_ours(bench.uri, "linked", frozen), [source], prepare=[define]),
            Contender(new, who.freeze_with_ours(bench.uri, frozen), [source], prepare=[define]),
            Contender(again, who.freeze_with_ours(bench.uri, frozen), [source], prepare=[define, first]),
            Contender(live, who.freeze_live_with_ours(bench.uri, frozen), [source], prepare=[define, begin]),
        ],
        pool,
        times=3,
    )
    bars = tuple(at_most(2, OURS, label) for label in (new, again, live))
    return CaseResult(name, "linked clone of a frozen original, ext4", series=found, bars=bars)


def live_copy(bench: Workbench, name: str, format_: str) -> CaseResult:
    """Copy the disk of a running domain."""
    data = bench.scaled(GIB if format_ == "qcow2" else 512 * MIB)
    capacity = 2 * data if format_ == "qcow2" else bench.scaled(20 * GIB)
    pool = bench.make_pool("ext4", 2 * capacity + 2 * data)
    make = pool.qcow2 if format_ == "qcow2" else pool.raw
    source = make(f"original.{format_}", capacity, data_bytes=data)
    bench.define(ORIGINAL, (source, format_))
    target = pool.path / f"{CLONE}.{format_}"
    with bench.running(ORIGINAL):
        found = bench.race(
            [
                Contender(OURS, who.clone_live_with_ours(bench.uri, "copy"), [source], note=who.note_transfers),
                Contender(BARE, who.back_up_with_bare_calls(bench.uri, format_, target), [source]),
            ],
            pool,
        )
    title = f"copy of a {format_} disk of a running domain, {size(capacity)} with {size(data)} of data, ext4"
    return CaseResult(name, title, series=found, bars=(at_most(1.25, BARE, OURS),))


def live_linked(bench: Workbench, name: str) -> CaseResult:
    """Make one and many linked clones of a running domain."""
    count, data = 20, bench.scaled(GIB)
    pool = bench.make_pool("ext4", 6 * data)
    source = pool.qcow2("original.qcow2", 2 * data, data_bytes=data)
    bench.define(ORIGINAL, (source, "qcow2"))
    one, several = f"{OURS}, one", f"{OURS}, {count}"
    with bench.running(ORIGINAL):
        found = bench.race(
            [
                Contender(one, who.clone_live_with_ours(bench.uri, "linked"), [source]),
                Contender(several, who.clone_live_with_ours(bench.uri, "linked", count), [source]),
            ],
            pool,
        )
    title = f"linked clones of a running domain, {size(data)} of data, ext4"
    return CaseResult(name, title, series=found, bars=(at_most(2, one, several),))


def write(bench: Workbench, name: str) -> CaseResult:
    """Write into a linked clone as a guest would."""
    data, count = bench.scaled(3 * GIB // 2), bench.scaled(WRITES)
    pool = bench.make_pool("ext4", 4 * data)
    source = pool.raw("original.raw", data, data_bytes=data)
    bench.define(ORIGINAL, (source, "raw"))
    randomness = random.Random(WRITE_SEED)
    offsets = [randomness.randrange(data // WRITE_BYTES) * WRITE_BYTES for _ in range(count)]
    writes = [f"write -q -P {1 + number % 255} {offset} {WRITE_BYTES}" for number, offset in enumerate(offsets)]
    commands = [word for command in (*writes, "flush") for word in ("-c", command)]
    argv = [require_program("qemu-io", "qemu-utils"), "-f", "qcow2", "-t", "writeback", *commands, NEW_FILE]
    makers = {OURS: who.clone_with_ours(bench.uri, "linked"), OLD: who.clone_with_old(bench.uri, "linked")}
    found = bench.race(
        [Contender(label, argv, [source], prepare=[maker]) for label, maker in makers.items()],
        pool,
    )
    return CaseResult(
        name,
        f"{count} random 4 KiB writes into a linked clone of a raw base holding {size(data)}, ext4",
        "qemu-io, cache mode writeback (QEMU's default), the same offsets for all, a flush at the end",
        found,
        (faster(OLD, 1.5, OURS), at_most(0.2, OLD, OURS, Quantity.ALLOCATION)),
    )


def start(bench: Workbench, name: str) -> CaseResult:
    """Start and say next to nothing."""
    programs = {OURS: who.find_ours(), OLD: who.find_old()}
    taking_part = [
        Contender(f"{label} {option}", [program, option], sync=False)
        for label, program in programs.items()
        for option in ("--version", "--help")
    ]
    old = f"{OLD} --version"
    return CaseResult(
        name,
        "time to start",
        "nothing is written, hence without sync",
        bench.race(taking_part, times=5),
        tuple(at_most(0.7, old, f"{OURS} {option}") for option in ("--version", "--help")),
    )


def memory(bench: Workbench, name: str) -> CaseResult:
    """Clone a small and a large disk in every way."""
    sizes = (bench.scaled(GIB), bench.scaled(4 * GIB))
    pool = bench.make_pool("xfs", sum(sizes) + 2 * max(sizes))
    small, large = map(size, sizes)
    ways: list[tuple[str, str, str | None]] = [
        (f"{OURS} copy, ", "copy", None),
        (f"{STREAM} copy, ", "copy", "stream"),
        (f"{SERVER} copy, ", "copy", "server"),
        (f"{OURS} linked, ", "linked", None),
        (f"{OURS} reflink, ", "reflink", None),
    ]
    taking_part = []
    for data in sizes:
        source = make_original(bench, pool, data, "raw")
        for label, mode, transfer in ways:
            argv = who.clone_with_ours(bench.uri, mode, source.stem, transfer)
            taking_part.append(Contender(label + size(data), argv, [source], note=who.note_transfers))
    bars = []
    for label, _, _ in ways:
        of = label.removesuffix(", ")
        text = f"{of}: at most {PEAK_MEMORY_BYTES // MIB} MiB"
        bars += [
            Bar(text, over=label + large, high=PEAK_MEMORY_BYTES, quantity=Quantity.MEMORY),
            Bar(
                f"{of}: the same for {large} as for {small}, within 5 %",
                over=label + large,
                by=label + small,
                low=0.95,
                high=1.05,
                quantity=Quantity.MEMORY,
            ),
        ]
    title = f"peak memory of clones of a full raw disk of {small} and of {large}, XFS"
    return CaseResult(name, title, series=bench.race(taking_part, pool), bars=tuple(bars))


def to_host(bench: Workbench, name: str) -> CaseResult:
    """Copy a disk to another host, through the connections alone."""
    data = bench.scaled(GIB)
    pool = bench.make_pool("ext4", 4 * data)
    source = pool.raw("original.raw", data, data_bytes=data)
    bench.define(ORIGINAL, (source, "raw"))
    with bench.other_host(pool) as far:
        uris = (bench.uri, far.hypervisor.uri)
        found = bench.race(
            [
                Contender(STREAM, who.clone_to_host_with_ours(*uris), [source], note=who.note_transfers),
                Contender(VIRSH_PIPE, who.copy_to_host_with_virsh(*uris, pool.name, source.name, data), [source]),
            ],
            far,
        )
    title = f"copy of a full raw disk of {size(data)} to another host, ext4"
    text = "virsh cannot upload the holes of what comes through a pipe, so there are none"
    return CaseResult(name, title, text, found, (at_most(1 / 0.9, VIRSH_PIPE, STREAM),))


def two_disks(bench: Workbench, name: str) -> CaseResult:
    """Copy two disks."""
    data = bench.scaled(512 * MIB)
    pool = bench.make_pool("ext4", 8 * data)
    sources = [pool.raw(f"original-{number}.raw", data, data_bytes=data, seed=number) for number in (1, 2)]
    bench.define(ORIGINAL, *((source, "raw") for source in sources))
    one_by_one = f"{OURS}, one after the other"
    found = bench.race(
        [
            Contender(OURS, who.clone_with_ours(bench.uri, "copy"), sources, note=who.note_transfers),
            Contender(one_by_one, who.clone_one_by_one(bench.uri), sources, note=who.note_transfers),
        ],
        pool,
    )
    title = f"copy of two full raw disks of {size(data)} each, ext4"
    return CaseResult(name, title, series=found, bars=(at_most(1, one_by_one, OURS),))


def many(bench: Workbench, name: str, kind: str, mode: str) -> CaseResult:
    """Make many clones of one domain."""
    count, data = bench.scaled(MANY), bench.scaled(GIB)
    pool = bench.make_pool(kind, 4 * data)
    source = pool.qcow2("original.qcow2", data, data_bytes=data)
    bench.define(ORIGINAL, (source, "qcow2"))
    old = f"{OLD} linked, {count} runs"
    found = bench.race(
        [
            Contender(OURS, who.clone_many_with_ours(bench.uri, mode, count), [source], note=who.note_transfers),
            Contender(old, who.clone_many_with_old(bench.uri, "linked", count), [source]),
        ],
        pool,
    )
    title = f"{count} {mode} clones of a qcow2 disk with {size(data)} of data, {kind}"
    return CaseResult(name, title, series=found, bars=(faster(old, 10, OURS),))


def seed(bench: Workbench, name: str) -> CaseResult:
    """Make linked clones with seeds for cloud-init, one and many, and the same without."""
    count, data = bench.scaled(MANY), bench.scaled(64 * MIB)
    pool = bench.make_pool("ext4", 4 * data)
    source = pool.qcow2("original.qcow2", data, data_bytes=data)
    bench.define(ORIGINAL, (source, "qcow2"))
    one, many = f"{OURS}, one", f"{OURS}, {count}"
    seeded, many_seeded = f"{one} with a seed", f"{many} with seeds"
    found = bench.race(
        [
            Contender(one, who.clone_with_ours(bench.uri, "linked"), [source]),
            Contender(seeded, who.seed_with_ours(bench.uri), [source]),
            Contender(many, who.clone_many_with_ours(bench.uri, "linked", count), [source]),
            Contender(many_seeded, [*who.numbered(who.seed_with_ours(bench.uri)), "--count", str(count)], [source]),
        ],
        pool,
        times=3,
    )
    cost = Bar(f"{seeded}: at most 30 ms more than {one}", over=seeded, minus=one, high=SEED_SECONDS)
    bars = (cost, at_most(1.5, many, many_seeded))
    return CaseResult(name, "linked clones with seeds for cloud-init, ext4", series=found, bars=bars)


def reset(bench: Workbench, name: str) -> CaseResult:
    """Take many linked clones, into which their guests wrote, back to their first moment."""
    count, data = bench.scaled(MANY), bench.scaled(GIB)
    pool = bench.make_pool("ext4", 4 * data)
    source = pool.qcow2("original.qcow2", data, data_bytes=data)
    bench.define(ORIGINAL, (source, "qcow2"))
    old = f"virsh undefine and {OLD} linked, {count} times"
    used = [who.clone_many_with_ours(bench.uri, "linked", count), who.write_to_many(count, pool.path)]
    again = who.make_many_anew_with_old(bench.uri, "linked", count)
    found = bench.race(
        [
            Contender(OURS, who.reset_many(bench.uri, count), prepare=used),
            Contender(old, again, prepare=[who.clone_many_with_old(bench.uri, "linked", count)]),
        ],
        pool,
    )
    title = f"reset of {count} linked clones into which 8 MiB were written each, ext4"
    return CaseResult(name, title, series=found, bars=(faster(old, 10, OURS),))


def flatten(bench: Workbench, name: str) -> CaseResult:
    """Make a linked clone independent of its base."""
    data = bench.scaled(3 * GIB)
    pool = bench.make_pool("ext4", 3 * data)
    source = pool.qcow2("original.qcow2", 2 * data, data_bytes=data)
    bench.define(ORIGINAL, (source, "qcow2"))
    overlay = pool.path / f"{CLONE}.qcow2"
    make = [who.clone_with_ours(bench.uri, "linked")]
    found = bench.race(
        [
            Contender(OURS, who.flatten_with_ours(bench.uri), [source], prepare=make),
            Contender(CONVERT, who.convert(overlay, pool.path / "flat.qcow2"), [source], prepare=make),
        ],
        pool,
    )
    title = f"flattening of a linked clone of a qcow2 disk with {size(data)} of data, ext4"
    return CaseResult(name, title, series=found, bars=(at_most(1.25, CONVERT, OURS),))


def tree(bench: Workbench, name: str) -> CaseResult:
    """Show what rests on what, on a host that has many domains and many images that rest on each other."""
    count, chains = bench.scaled(CROWD), bench.scaled(2 * CROWD) // CHAIN
    pool = bench.make_pool("ext4", bench.scaled(GIB))
    tops = make_chains(pool.path, chains, CHAIN)
    others = [domain(f"other-{number}", disks=[disk(tops[number % chains])]) for number in range(count)]
    with bench.crowded_host(pool, domain(ORIGINAL), others) as uri:
        found = bench.race(
            [
                Contender(f"{OURS} --tree", who.list_with_ours(uri, "--tree"), sync=False),
                Contender(OURS, who.list_with_ours(uri), sync=False),
                Contender(f"{BARE}: scan", who.scan(uri), sync=False),
            ],
            pool,
        )
    title = f"domain-list with {count} domains and {chains * CHAIN} images in chains of {CHAIN}, ext4"
    return CaseResult(name, title, series=found, bars=())


def verify(bench: Workbench, name: str) -> CaseResult:
    """Tell whether what many linked clones rest on is intact."""
    count, data = bench.scaled(GREAT_MANY), bench.scaled(64 * MIB)
    pool = bench.make_pool("ext4", 4 * data)
    source = pool.qcow2("original.qcow2", data, data_bytes=data)
    bench.define(ORIGINAL, (source, "qcow2"))
    made = [who.clone_many_with_ours(bench.uri, "linked", count)]
    found = bench.race(
        [
            Contender(OURS, who.verify_with_ours(bench.uri), [source], sync=False, prepare=made),
            Contender(f"{BARE}: scan", who.scan(bench.uri), sync=False, prepare=made),
        ],
        pool,
    )
    return CaseResult(name, f"domain-verify of {count} linked clones, ext4", series=found, bars=())


def crowd(bench: Workbench, name: str) -> CaseResult:
    """Make a linked clone on a host that has many domains, and on one that has none."""
    count, data = bench.scaled(CROWD), bench.scaled(64 * MIB)
    pool = bench.make_pool("ext4", 4 * data)
    source = pool.qcow2("original.qcow2", data, data_bytes=data)
    original = domain(ORIGINAL, disks=[disk(source)], interfaces=[interface()] * 4)
    bench.lab.define(original)
    others = [domain(f"other-{number}", disks=[disk(source)], interfaces=[interface()]) for number in range(count)]
    alone, scan = f"{OURS}, no other domains", f"{BARE}: scan"
    with bench.crowded_host(pool, original, others) as uri:
        found = bench.race(
            [
                Contender(OURS, who.clone_with_ours(uri, "linked"), [source]),
                Contender(alone, who.clone_with_ours(bench.uri, "linked"), [source]),
                Contender(scan, who.scan(uri), sync=False),
                Contender(OLD, who.clone_with_old(uri, "linked"), [source]),
            ],
            pool,
            times=2,
        )
    sum_ = Bar(f"{OURS}: at most 1.5x {alone}, and a scan", over=OURS, by=alone, plus=scan, high=1.5)
    title = f"linked clone of a domain with four interfaces, beside {count} other domains, ext4"
    return CaseResult(name, title, series=found, bars=(sum_, faster(OLD, 3, OURS)))


def delete(bench: Workbench, name: str) -> CaseResult:
    """Delete a clone on a host that has many domains and many images that rest on each other."""
    count, chains = bench.scaled(CROWD), bench.scaled(2 * CROWD) // CHAIN
    pool = bench.make_pool("ext4", bench.scaled(GIB))
    source = pool.qcow2("original.qcow2", 8 * MIB)
    original = domain(ORIGINAL, disks=[disk(source)], interfaces=[interface()])
    tops = make_chains(pool.path, chains, CHAIN)
    others = [
        domain(f"other-{number}", disks=[disk(tops[number % chains])], interfaces=[interface()])
        for number in range(count)
    ]
    scan = f"{BARE}: scan"
    programs = {OURS: who.find_ours()} | ({} if bench.earlier is None else {EARLIER: bench.earlier})
    with bench.crowded_host(pool, original, others) as uri:
        found = bench.race(
            [
                *(
                    Contender(label, who.delete_with(program, uri), prepare=[who.clone_with(program, uri)])
                    for label, program in programs.items()
                ),
                Contender(scan, who.scan(uri), sync=False),
            ],
            pool,
        )
    bars = () if bench.earlier is None else (at_most(1.5, EARLIER, OURS),)
    title = f"deletion of a clone beside {count} other domains and {chains * CHAIN} images in chains of {CHAIN}, ext4"
    return CaseResult(name, title, series=found, bars=bars)


def many_memory(bench: Workbench, name: str) -> CaseResult:
    """Make a great many clones."""
    count, data = bench.scaled(GREAT_MANY), bench.scaled(64 * MIB)
    pool = bench.make_pool("xfs", 4 * data)
    source = pool.qcow2("original.qcow2", data, data_bytes=data)
    bench.define(ORIGINAL, (source, "qcow2"))
    modes = ("linked", "reflink")
    found = bench.race(
        [Contender(f"{OURS} {mode}", who.clone_many_with_ours(bench.uri, mode, count), [source]) for mode in modes],
        pool,
    )
    limit = MANY_PEAK_MEMORY_BYTES
    bars = [
        Bar(f"{OURS} {mode}: at most {limit // MIB} MiB", f"{OURS} {mode}", high=limit, quantity=Quantity.MEMORY)
        for mode in modes
    ]
    title = f"{count} clones of a qcow2 disk, XFS"
    return CaseResult(name, title, series=found, bars=tuple(bars))


def make_original(bench: Workbench, pool: Pool, data_bytes: int, format_: str) -> Path:
    """Make a full disk and a domain that has it; both are named after its size."""
    make = pool.raw if format_ == "raw" else pool.qcow2
    source = make(f"{ORIGINAL}-{data_bytes // MIB}.{format_}", data_bytes, data_bytes=data_bytes)
    bench.define(source.stem, (source, format_))
    return source


def size(size_bytes: int) -> str:
    """Write a size in the unit that leaves no fraction, or hardly one."""
    return f"{size_bytes / GIB:g} GiB" if size_bytes >= GIB else f"{size_bytes / MIB:g} MiB"


CASES: Mapping[str, Case] = {
    "copy-raw": copy_raw,
    "copy-qcow2": copy_qcow2,
    **{
        f"reflink-{kind}-{format_}": partial(reflink, kind=kind, format_=format_)
        for kind in ("xfs", "btrfs")
        for format_ in ("raw", "qcow2")
    },
    "linked": linked,
    "freeze": freeze,
    "write": write,
    "start": start,
    "memory": memory,
    "two-disks": two_disks,
    "to-host": to_host,
    "live-qcow2": partial(live_copy, format_="qcow2"),
    "live-raw": partial(live_copy, format_="raw"),
    "live-linked": live_linked,
    "many-linked": partial(many, kind="ext4", mode="linked"),
    "many-reflink": partial(many, kind="xfs", mode="reflink"),
    "seed": seed,
    "reset": reset,
    "flatten": flatten,
    "tree": tree,
    "verify": verify,
    "crowd": crowd,
    "delete": delete,
    "many-memory": many_memory,
}
