"""domain-delete that is ended by a kill or a signal, and clones that another run's end has left in the middle."""

import signal

import pytest

from tests.functional.runs import Refusal, check_refusal, paused, unchanged
from tests.functional.support import EVERYTHING
from tests.functional.test_deletion import delete, make_clone, names_of
from tests.lab import Lab, Program, disk, domain
from tests.lab.images import MIB

MOMENTS = ("virDomainDefineXMLFlags", "virStorageVolDelete", "virStorageVolDelete-2", "virDomainUndefineFlags")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("moment", MOMENTS)
def test_deletion_that_is_ended(lab: Lab, virtomate: Program, moment: str, number: signal.Signals) -> None:
    """Whenever deleting ends, the clone is whole, unfinished or gone, and the same command puts all back as before."""
    lab.define(domain("src", disks=[disk(lab.pool.raw(f"{name}.raw", MIB), "raw", name) for name in ("vda", "vdb")]))
    before = lab.inventory()
    make_clone(virtomate, "web")
    whole = lab.connection.lookupByName("web").XMLDesc(EVERYTHING)
    run = virtomate.pausing(moment).start("domain-delete", "--yes", "web", json=True)
    with paused(run):
        run.signal(number)
    result = run.wait()

    if number != signal.SIGKILL:
        # what has begun is completed
        assert result.status in {0, -number}, str(result)
        assert result.json[0]["status"] in {"deleted", "interrupted"}
        if "web" in names_of(lab):
            assert lab.connection.lookupByName("web").XMLDesc(EVERYTHING) == whole
    if "web" in names_of(lab):
        assert delete(virtomate, "web").status == 0
    unchanged(before, lab)


def test_clone_whose_freeze_was_killed(lab: Lab, virtomate: Program) -> None:
    """The hint names the record of the freeze, whose deletion makes the clone one that can be deleted."""
    lab.define(domain("src", disks=[disk(lab.pool.qcow2("src.qcow2", MIB))]))
    before = lab.inventory()
    make_clone(virtomate, "web")
    run = virtomate.pausing("virDomainUpdateDeviceFlags").start(
        "domain-clone", "--mode", "linked", "--freeze", "web", "a"
    )
    with paused(run):
        run.signal(signal.SIGKILL)
    run.wait()
    record = f"virtomate-freeze-{lab.connection.lookupByName('web').UUIDString()}"
    refusal = Refusal("IllegalStateError", ("of 'web' cannot be deleted",), (f"virtomate domain-delete {record}",))

    check_refusal(lab, virtomate, ("domain-delete", "--yes", "web"), refusal)

    assert delete(virtomate, record).status == 0
    assert delete(virtomate, "web").status == 0
    unchanged(before, lab)
