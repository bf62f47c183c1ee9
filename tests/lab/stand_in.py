"""A program that stands in for virt-sysprep and virt-customize where a test is about their arguments or a fault.

The real programs take half a minute for each clone without KVM, and cannot be made to fail or to wait at a moment. The
long tests have a real virt-sysprep (`nox -s stress`).
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

_PROGRAM = """#!{python} -S
import json, os, subprocess, sys, time

directory, name, words = {directory!r}, os.path.basename(sys.argv[0]), sys.argv[1:]
if words == ["--list-operations"]:
    print("customize * Customize the guest\\nfs-uuids   Change filesystem UUIDs\\nmachine-id * Remove the machine ID")
    sys.exit(0)
images = [word for number, word in enumerate(words) if words[number - 1] == "--add"]
with open(directory + "/said.json", "a") as said:
    said.write(json.dumps([name, *words]) + "\\n")
print("[   0.0] Examining the guest ...")
print('[   1.0] Performing "machine-id" ...', flush=True)
if {status}:
    print(name + ": error: no operating systems were found in the guest image\\n\\nIf reporting bugs, ...")
    sys.exit({status})
if {is_waiting}:
    # what the appliance is to the real program: a process that goes on by itself
    child = subprocess.Popen(["sleep", "600"])
    with open(directory + "/new-pids", "w") as pids:
        pids.write(f"{{os.getpid()}} {{child.pid}}")
    os.rename(directory + "/new-pids", directory + "/pids")
    child.wait()
for number, path in enumerate(images):
    format_ = words[words.index("--add", words.index(path) - 1) - 1]
    subprocess.run(["qemu-io", "-f", format_, "-c", f"write -P {{7 + number}} 1M 64k", path], check=True,
                   stdout=subprocess.DEVNULL)
"""


class StandIn:
    """The program, in a directory that belongs in front of a PATH.

    Args:
        directory: Where the program and what it notes are.
        status: What it ends with; it says that there is no operating system unless that is 0.
        is_waiting: Whether it waits, after it has begun, until it is ended.
    """

    def __init__(self, directory: Path, *, status: int = 0, is_waiting: bool = False) -> None:
        self._directory = directory
        directory.mkdir(exist_ok=True)
        for name in ("virt-sysprep", "virt-customize"):
            text = _PROGRAM.format(
                python=sys.executable, directory=str(directory), status=status, is_waiting=is_waiting
            )
            (directory / name).write_text(text)
            (directory / name).chmod(0o755)

    @property
    def env(self) -> dict[str, str]:
        """The environment in which the program is found."""
        return {"PATH": f"{self._directory}:{os.environ['PATH']}"}

    @property
    def said(self) -> list[list[str]]:
        """The command lines of its runs, the name of the program first."""
        path = self._directory / "said.json"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def pids(self) -> list[int]:
        """The processes of a run that waits, none before it waits."""
        path = self._directory / "pids"
        return [int(word) for word in path.read_text().split()] if path.exists() else []

    @staticmethod
    def option(words: list[str], name: str) -> list[Any]:
        """Return the values of an option in a command line."""
        return [words[number + 1] for number, word in enumerate(words) if word == name]
