"""A private hypervisor with storage and a guest, for functional tests, the demo and the benchmarks.

>>> with Lab() as lab:
...     path = lab.pools["xfs"].qcow2("original.qcow2", marker="original")
...     lab.define(domain("original", disks=[disk(path)], guest=lab.guest))
...     print(lab.uri, lab.boot("original").markers)
"""

from tests.lab.domains import disk, domain, interface
from tests.lab.guest import GuestReport, boot, running
from tests.lab.hypervisor import Hypervisor
from tests.lab.inventory import Inventory
from tests.lab.lab import Lab
from tests.lab.program import Program, Result
from tests.lab.storage import Pool

__all__ = [
    "GuestReport",
    "Hypervisor",
    "Inventory",
    "Lab",
    "Pool",
    "Program",
    "Result",
    "boot",
    "disk",
    "domain",
    "interface",
    "running",
]
