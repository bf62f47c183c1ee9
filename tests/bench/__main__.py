"""Measure virtomate and other tools on the same work, on a private hypervisor: `python -m tests.bench [CASE...]`.

`nox -s bench` runs it after installing the other tools. The figures appear as a table, and below `.bench` as text and,
with every single measurement, as JSON.
"""

import argparse
import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench.cases import CASES
from tests.bench.contenders import find_old, find_ours
from tests.bench.machine import describe_machine
from tests.bench.measure import launch
from tests.bench.report import CaseResult, describe_case, render_case
from tests.bench.workbench import SkippedError, Workbench
from tests.lab import Lab
from tests.lab.programs import require_program
from tests.lab.workspace import CHECKOUT

RESULTS = CHECKOUT / ".bench"
RULES = (
    "Medians. Every time includes sync, unless the case says otherwise; sync and clearing up come between the "
    "measurements. The contenders take turns in every round. The data of all sources is in the page cache, their holes "
    "are not, unless the contender says otherwise. Memory is the largest peak of the program alone, without libvirt's "
    "daemon; 11 MiB and less cannot be told apart."
)
QUICK = "A QUICK RUN: a sixteenth of every size. Its ratios say nothing about the bars."


def main() -> int:
    """Run the cases that the command line names, or all, and report."""
    chosen = parse_arguments()
    date = datetime.now(UTC).isoformat(timespec="seconds")
    with Lab() as lab:
        bench = Workbench(lab, chosen.rounds, quick=chosen.quick, earlier=chosen.earlier)
        document: dict[str, Any] = {
            "date": date,
            "rounds": chosen.rounds,
            "quick": chosen.quick,
            "rules": RULES,
            "machine": describe_machine(lab.connection),
            "versions": find_versions(bench),
        }
        results = [run_case(bench, name) for name in chosen.cases or CASES]
    document["cases"] = [describe_case(result) for result in results]
    text = render(document, results)
    sys.stdout.write(text)
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"bench-{date.replace(':', '').removesuffix('+0000')}Z.json"
    target.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
    target.with_suffix(".txt").write_text(text)
    print(f"\nWritten to {target.relative_to(CHECKOUT)} and .txt", file=sys.stderr)
    return 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="nox -s bench --", description="Measure clones beside other tools.")
    parser.add_argument("cases", metavar="CASE", nargs="*", help=f"one or several of {', '.join(CASES)}; default: all")
    parser.add_argument("--rounds", type=int, help="how often everything is measured (default: 5; 2 with --quick)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see whether it runs")
    parser.add_argument(
        "--earlier", type=Path, metavar="PROGRAM", help="a virtomate of another checkout, to compare with in some cases"
    )
    chosen = parser.parse_args()
    if chosen.rounds is None:
        chosen.rounds = 2 if chosen.quick else 5
    if chosen.rounds < 1:
        parser.error("--rounds wants a number from 1 on")
    if unknown := set(chosen.cases) - CASES.keys():
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    return chosen


def find_versions(bench: Workbench) -> dict[str, str]:
    """Ask every program for its version, which also has each of them started once before it counts."""
    programs = {
        "virtomate": find_ours(),
        "predecessor": find_old(),
        "virt-clone": Path(require_program("virt-clone", "virtinst")),
        "cp": Path(require_program("cp", "coreutils")),
        "qemu-img": Path(require_program("qemu-img", "qemu-utils")),
    }
    found = {}
    for name, program in programs.items():
        outcome = launch([program, "--version"], bench.environment, sync=False)
        version = re.search(r"\d+(\.\d+)+", outcome.stdout)
        found[name] = version[0] if version else "unknown"
    return found


def run_case(bench: Workbench, name: str) -> CaseResult:
    """Run one case, and remove what it made."""
    print(name, file=sys.stderr, flush=True)
    mark = bench.lab.mark()
    try:
        return CASES[name](bench, name)
    except SkippedError as reason:
        return CaseResult(name, "", skipped=str(reason))
    finally:
        bench.lab.return_to(mark)


def render(document: dict[str, Any], results: list[CaseResult]) -> str:
    """Write everything as text."""
    lines = [f"{document['date']}, {document['rounds']} rounds", RULES]
    if document["quick"]:
        lines.append(QUICK)
    facts = [document["machine"], document["versions"]]
    lines += [", ".join(f"{key} {value}" for key, value in part.items()) for part in facts]
    return "\n\n".join(["\n".join(lines), *map(render_case, results)]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
