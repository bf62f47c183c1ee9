"""The names of overlays for disks of an original."""

from __future__ import annotations

from itertools import islice

import pytest

from virtomate.services.clone.freezing import overlay_names


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("web.qcow2", ["web-overlay.qcow2", "web-overlay-2.qcow2", "web-overlay-3.qcow2"]),
        ("web.RAW", ["web-overlay.qcow2", "web-overlay-2.qcow2"]),
        ("web", ["web-overlay.qcow2"]),
        ("web.v1.img", ["web.v1-overlay.qcow2"]),
        ("web-overlay.qcow2", ["web-overlay-2.qcow2", "web-overlay-3.qcow2"]),
        ("web-overlay-9.qcow2", ["web-overlay-10.qcow2"]),
        # no numbers of ours
        ("web-overlay-0.qcow2", ["web-overlay-0-overlay.qcow2"]),
        ("web-overlays.qcow2", ["web-overlays-overlay.qcow2"]),
    ],
)
def test_overlay_names(base: str, expected: list[str]) -> None:
    """An overlay is named after its base, and an overlay on an overlay has the next number."""
    assert list(islice(overlay_names(base), len(expected))) == expected


def test_long_names_are_cut() -> None:
    """The name of an overlay fits into a file name, and no letter is cut in the middle."""
    for base in ("a" * 255, "\u00fc" * 127):
        for name in islice(overlay_names(base), 12):
            assert len(name.encode()) <= 255
            assert name.startswith(base[:100])
