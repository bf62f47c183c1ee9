"""Which pools share their space."""

from __future__ import annotations

from typing import cast

import pytest

from virtomate.definition.volume import PoolDescription
from virtomate.errors import NoSpaceError
from virtomate.hypervisor.storage import Pool, PoolInfo
from virtomate.services.storage import SpaceLedger

GIB = 1024**3


class Counted:
    """A pool of 100 GiB, of which nothing is taken."""

    def __init__(self, name: str) -> None:
        self.name = name

    def info(self) -> PoolInfo:
        """Return state and sizes."""
        return PoolInfo("running", 100 * GIB, 0, 100 * GIB)

    def refresh(self) -> bool:
        """Do nothing."""
        return True

    def volume_count(self) -> int:
        """Return the number of volumes."""
        return 0


@pytest.mark.parametrize(("kind", "is_refused"), [("logical", False), ("dir", True)])
def test_volume_groups_share_nothing(kind: str, is_refused: bool) -> None:
    """Two empty volume groups of one size are two, though two such directories may be on one file system."""
    ledger = SpaceLedger(is_local=False)
    for name in ("one", "two"):
        ledger.add(cast("Pool", Counted(name)), PoolDescription(name, kind, f"/dev/{name}"), 60 * GIB)

    if is_refused:
        with pytest.raises(NoSpaceError, match="share a file system"):
            ledger.refuse_lack("Make room.")
    else:
        ledger.refuse_lack("Make room.")
        ledger.add(cast("Pool", Counted("one")), PoolDescription("one", kind, "/dev/one"), 60 * GIB)
        with pytest.raises(NoSpaceError, match=r"storage pool 'one' has 100\.0 GiB free; 120\.0 GiB are needed"):
            ledger.refuse_lack("Make room.")
