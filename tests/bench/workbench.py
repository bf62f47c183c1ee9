"""Where cases are run: pools on the file system they want, domains to clone, and rounds in which all take turns."""

import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.bench.contenders import NEW_FILE, Contender, make_environment
from tests.bench.measure import Sample, launch, warm
from tests.bench.report import Quantity, Series, format_figure
from tests.lab import Lab, Pool, disk, domain, interface
from tests.lab.images import GIB, allocated_bytes
from tests.lab.lab import remove_domain
from tests.lab.programs import require_program, run
from tests.lab.storage import make_pool

QUICK_DIVISOR = 16
SPARE_BYTES = 2 * GIB


class SkippedError(Exception):
    """A case cannot be run here; the message says why."""


class Workbench:
    """The lab, as cases use it.

    Args:
        lab: the lab.
        rounds: how often everything is measured.
        quick: take a sixteenth of every size; good for trying the benchmark out and for nothing else.
        earlier: another virtomate, as some cases compare this one with; None for none.
    """

    def __init__(self, lab: Lab, rounds: int, *, quick: bool, earlier: Path | None = None) -> None:
        self.lab = lab
        self.uri = lab.uri
        self.rounds = rounds
        self.quick = quick
        self.earlier = earlier
        self.environment = make_environment(lab.make_directory("home"))
        self._mirrors: list[Pool] = []

    def scaled(self, amount: int) -> int:
        """Return an amount as it is, or a small part of it in a quick run."""
        return amount // QUICK_DIVISOR if self.quick else amount

    def make_pool(self, kind: str, size_bytes: int) -> Pool:
        """Make a pool on a file system of this kind that holds so much.

        It is the checkout's own file system if that is of this kind, else a new one in a file.
        """
        free = shutil.disk_usage(self.lab.directory).free
        if free < size_bytes + SPARE_BYTES:
            raise SkippedError(f"needs {size_bytes / GIB:.1f} GiB of free space and some to spare")
        if file_system_of(self.lab.directory) == kind:
            return self.lab.make_pool(f"bench-{kind}")
        if not self.lab.privileged:
            raise SkippedError(f"needs root, to mount {kind}")
        # XFS takes no less.
        return self.lab.make_small_pool(f"bench-{kind}", kind, max(size_bytes, GIB))

    @contextmanager
    def crowded_host(self, pool: Pool, definition: str, domains: Sequence[str]) -> Iterator[str]:
        """Run another host over the same pool, with the same original and many more domains, and return its URI."""
        if not self.lab.privileged:
            raise SkippedError("needs root, for a second host")
        with self.lab.make_host("crowded") as host:
            self._mirrors.append(make_pool(host, pool.name, pool.path))
            for text in (definition, *domains):
                host.connection.defineXML(text)
            try:
                yield host.uri
            finally:
                self._mirrors.pop()

    @contextmanager
    def other_host(self, pool: Pool) -> Iterator[Pool]:
        """Run another host with a pool of the same name in a directory beside, and return that pool."""
        if not self.lab.privileged:
            raise SkippedError("needs root, for a second host")
        with self.lab.make_host("other") as host:
            directory = pool.path / "other-host"
            directory.mkdir()
            yield make_pool(host, pool.name, directory)
            shutil.rmtree(directory)

    def define(self, name: str, *disks: tuple[Path, str]) -> None:
        """Define a domain with these disks, each a path and its format."""
        targets = ("vda", "vdb")
        described = [disk(path, format_, target) for (path, format_), target in zip(disks, targets, strict=False)]
        self.lab.define(domain(name, disks=described, interfaces=[interface()]))

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Let a domain run for the time of the block; it has no guest."""
        found = self.lab.connection.lookupByName(name)
        found.create()
        try:
            yield
        finally:
            found.destroy()

    def race(self, contenders: Sequence[Contender], pool: Pool | None = None, times: int = 1) -> tuple[Series, ...]:
        """Measure all contenders, round by round, so that a machine that gets slower does so for all of them.

        Args:
            contenders: who takes part; each round another one begins. One that fails is not asked again.
            pool: where their clones appear; None if they make none.
            times: so many measurements in place of one.
        """
        samples: dict[str, list[Sample]] = {contender.label: [] for contender in contenders}
        for number in range(self.rounds * times):
            first = number % len(contenders)
            for contender in (*contenders[first:], *contenders[:first]):
                taken = samples[contender.label]
                if taken and taken[-1].error is not None:
                    continue
                taken.append(self._measure(contender, pool))
                figure = format_figure(Quantity.SECONDS, taken[-1].seconds)
                print(f"  round {number + 1}  {contender.label}  {figure}", file=sys.stderr, flush=True)
        return tuple(Series(label, tuple(taken)) for label, taken in samples.items())

    def _measure(self, contender: Contender, pool: Pool | None) -> Sample:
        before, domains = _files(pool), self._domains(pool)
        try:
            for argv in contender.prepare:
                run(*argv, env=self.environment)
            made = sorted(_files(pool) - before)
            argv = [word for part in contender.argv for word in (made if part == NEW_FILE else [part])]
            for source in contender.sources:
                warm(source, holes=contender.cached_holes)
            os.sync()
            outcome = launch(argv, self.environment, sync=contender.sync)
            if outcome.status != 0:
                said = [*outcome.stdout.splitlines(), *outcome.stderr.splitlines(), "it said nothing"]
                return Sample(error=f"status {outcome.status}: {without_paths(said[0])}")
            allocated = sum(map(allocated_bytes, _files(pool) - before)) if pool else None
            return Sample(
                outcome.seconds,
                outcome.sync_seconds,
                outcome.peak_memory_bytes,
                allocated,
                contender.note(outcome.stdout),
            )
        except RuntimeError as error:
            return Sample(error=without_paths(str(error)))
        finally:
            self._clear_up(pool, before, domains)

    def _pools(self, pool: Pool | None) -> tuple[Pool, ...]:
        return () if pool is None else (pool, *self._mirrors)

    def _domains(self, pool: Pool | None) -> set[tuple[str, str]]:
        """Return the hosts and the names of all domains."""
        return {
            (one.hypervisor.uri, found.name())
            for one in self._pools(pool)
            for found in one.hypervisor.connection.listAllDomains()
        }

    def _clear_up(self, pool: Pool | None, before: set[Path], domains: set[tuple[str, str]]) -> None:
        if pool is None:
            return
        pools = self._pools(pool)
        for one in pools:
            for found in one.hypervisor.connection.listAllDomains():
                if (one.hypervisor.uri, found.name()) not in domains:
                    remove_domain(found)
        for path in _files(pool) - before:
            path.unlink()
        for one in pools:
            one.refresh()
        os.sync()


def without_paths(text: str) -> str:
    """Take the paths out of what a program said; results are to be shown, and paths tell whose machine it was."""
    return re.sub(r"/[\w./:-]+", "PATH", text)


def file_system_of(directory: Path) -> str:
    """Return the kind of file system that a directory is on, such as ext4."""
    listing = run(require_program("df", "coreutils"), "--output=fstype", directory).decode()
    return listing.splitlines()[-1].strip()


def _files(pool: Pool | None) -> set[Path]:
    return set(pool.path.iterdir()) if pool else set()
