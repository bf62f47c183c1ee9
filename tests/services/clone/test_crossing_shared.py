"""What rests on a base that the original was moved off, on a host that may see the file later."""

from __future__ import annotations

import signal
from typing import Any, cast

import pytest

from tests.duplication.test_pace import duplication
from tests.duplication.volumes import RAW
from virtomate.cancel import CancelToken
from virtomate.errors import InterruptedBySignalError
from virtomate.services.clone import crossing_shared


def test_signal_ends_the_waiting_for_a_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that arrives while another host does not see a file yet is not kept waiting."""
    cancel, looks = CancelToken(), []

    def look(_connection: object, volume: object) -> object:
        looks.append(volume)
        cancel.interrupt(signal.SIGINT)
        return volume

    monkeypatch.setattr(crossing_shared, "look_at_base", look)

    with pytest.raises(InterruptedBySignalError):
        crossing_shared.seen_again(duplication(), RAW._replace(changed="1.0"), cast("Any", None), cancel)

    assert len(looks) == 1
