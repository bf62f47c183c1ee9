"""The demonstration: clone a real domain in all three modes on a private hypervisor, and boot the clones.

`python3 noxfile.py -s demo` runs it. Nothing of it outlives the run.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from tests.lab import GuestReport, Lab, Program, disk, domain, interface
from tests.lab.images import MIB, allocated_bytes

ORIGINAL = "ubuntu-24.04"
MODES = ("copy", "linked", "reflink")


def main() -> int:
    """Show it; the status is 0 if every clone is what it should be."""
    say("Starting a private libvirt, with storage pools on ext4, XFS and Btrfs and a domain to clone")
    with Lab() as lab:
        # reflink needs XFS or Btrfs; an ordinary user has neither here
        modes = MODES if lab.privileged else MODES[:2]
        pool = lab.pools.get("xfs", lab.pool)
        system = pool.qcow2(f"{ORIGINAL}.qcow2", 2048 * MIB, data_bytes=300 * MIB, marker="system of the original")
        data = pool.raw(f"{ORIGINAL}-data.raw", 4096 * MIB, data_bytes=100 * MIB, marker="data of the original")
        disks = [disk(system), disk(data, "raw", "vdb")]
        lab.define(domain(ORIGINAL, disks=disks, interfaces=[interface()], guest=lab.guest))
        virtomate = Program(lab.uri, lab.make_directory("demo"))

        run(virtomate, "domain-list")
        run(virtomate, "domain-clone", "--dry-run", ORIGINAL, "web-1")
        clones = {mode: f"{mode}-1" for mode in modes}
        for mode, name in clones.items():
            run(virtomate, "domain-clone", "--mode", mode, ORIGINAL, name)
        run(virtomate, "domain-list")

        say("What the volumes take on the host; shared blocks of reflinks count in each volume")
        for path in sorted(pool.path.iterdir()):
            sys.stdout.write(f"  {allocated_bytes(path) / MIB:8.1f} MiB  {path.name}\n")

        say("Booting the clones, and last the original, since that is the end of its linked clone")
        reports = []
        for name in (*clones.values(), ORIGINAL):
            report = lab.boot(name)
            reports.append(report)
            sys.stdout.write(f"  {name:12}  {report.uuid}  {report.macs[0]}  {', '.join(report.markers.values())}\n")
            sys.stdout.flush()
        return 0 if all_different(reports) else 1


def run(virtomate: Program, *words: str) -> None:
    """Run the program as a person would, on this very terminal, and stop the show if it fails."""
    sys.stdout.write(f"\n$ virtomate {shlex.join(words)}\n")
    sys.stdout.flush()
    environment = virtomate.env({name: os.environ[name] for name in ("TERM", "COLUMNS") if name in os.environ})
    if "COLUMNS" not in os.environ:
        environment.pop("COLUMNS", None)
    subprocess.run(virtomate.argv(*words), env=environment, cwd=Path.cwd(), check=True)


def all_different(reports: list[GuestReport]) -> bool:
    """Tell whether all guests read the same disks, and differ in everything that must differ."""
    uuids = {report.uuid for report in reports}
    addresses = {mac for report in reports for mac in report.macs}
    markers = {tuple(report.markers.values()) for report in reports}
    return len(uuids) == len(addresses) == len(reports) and len(markers) == 1


def say(text: str) -> None:
    """Head what comes next."""
    sys.stdout.write(f"\n== {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
