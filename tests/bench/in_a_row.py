"""Run a program several times, one after the other: `in_a_row.py COUNT PROGRAM...`, where `{}` is the run's number.

It ends with the first run that fails. What the runs print goes where its own output goes.
"""

import subprocess
import sys


def main() -> int:
    """Run what the arguments name."""
    count, *argv = sys.argv[1:]
    for number in range(1, int(count) + 1):
        status = subprocess.run([word.replace("{}", str(number)) for word in argv], check=False).returncode
        if status != 0:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
