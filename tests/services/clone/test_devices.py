"""Devices on another host that a domain writes to under a name that does not tell whose device it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.duplication.volumes import RAW
from virtomate.errors import HypervisorError
from virtomate.services.clone import devices

VOLUME = RAW._replace(path="/dev/vg/root", pool="vg", name="root", type="block", physical=4096)


@pytest.mark.parametrize(
    ("path", "size", "is_local", "expected"),
    [
        ("/dev/dm-3", 4096, False, True),
        ("/dev/dm-3", 8192, False, False),
        ("/dev/dm-3", None, False, True),
        ("/dev/dm-3", 4096, True, False),
        ("/dev/sdb", 4096, False, False),
    ],
)
def test_may_be_the_same(
    monkeypatch: pytest.MonkeyPatch, path: str, size: int | None, is_local: bool, expected: bool
) -> None:
    """A device of the same size may be the volume, and so may one whose size libvirt does not tell."""

    def device_size(_domain: object, _path: str) -> int:
        if size is None:
            raise HypervisorError("no answer")
        return size

    monkeypatch.setattr(devices, "find_domain", lambda _connection, name: name)
    monkeypatch.setattr(devices, "device_size", device_size)
    survey = cast("Any", SimpleNamespace(connection=SimpleNamespace(is_local=is_local)))

    assert devices._may_be(survey, VOLUME, path, "other") is expected
