"""virtomate, with its pace recorded: `record_pace.py REPORT ARGUMENT...`.

At its end REPORT holds, as JSON, how many bytes in a second each transfer was limited to when it had written something,
and how many bytes it had written. Nothing waits.
"""

import json
import sys
from pathlib import Path

from virtomate.duplication import pace

ASKED: list[tuple[int, int]] = []


def keep(self: pace.Pace, written_bytes: int, cancel: object) -> None:
    """Note the limit and the bytes, instead of waiting until they are due."""
    del cancel
    ASKED.append((self.rate_bytes, written_bytes))


def main() -> None:
    """Run the program, and write the report."""
    report = Path(sys.argv.pop(1))
    pace.Pace.keep = keep  # type: ignore[method-assign]
    from virtomate.cli import run  # noqa: PLC0415 - as the program is started

    status = run(sys.argv[1:])
    report.write_text(json.dumps(ASKED), encoding="ascii")
    sys.exit(status)


if __name__ == "__main__":
    main()
