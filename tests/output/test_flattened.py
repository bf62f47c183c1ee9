"""What is shown of domains that were flattened."""

import json

import pytest

from tests.output.records import UUID
from virtomate.enums import FlattenStatus, FlattenWay
from virtomate.errors import InterruptedBySignalError
from virtomate.output.flattened import render_flattened
from virtomate.output.streams import Format
from virtomate.services.linked import FlattenedDisk, FlattenResult

DISK = FlattenedDisk("vda", FlattenWay.PULL, "/srv/web-1.qcow2", "/srv/ubuntu.qcow2", 1 << 30)
FLAT = FlattenResult(FlattenStatus.FLATTENED, "web-1", UUID, (DISK,), seconds=2.5)
INTERRUPTED = FlattenResult(FlattenStatus.INTERRUPTED, "web-2\x1b", UUID, error=InterruptedBySignalError(2))


def test_results_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """Each domain has a line, and each disk of it; an error names its domain where there are several."""
    render_flattened((FLAT, INTERRUPTED), Format())

    out, err = capsys.readouterr()
    assert out == (
        "Flattened web-1 in 2.5 s\n  vda  /srv/web-1.qcow2, 1.0 GiB, by a block pull (was on /srv/ubuntu.qcow2)\n"
    )
    assert err == "Error: web-2\\x1b: interrupted\n"


def test_results_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    """The document is an array with an object for each domain."""
    render_flattened((FLAT,), Format(is_json=True))

    assert json.loads(capsys.readouterr().out) == [
        {
            "status": "flattened",
            "name": "web-1",
            "uuid": UUID,
            "disks": [
                {
                    "target": "vda",
                    "way": "pull",
                    "path": "/srv/web-1.qcow2",
                    "base": "/srv/ubuntu.qcow2",
                    "allocation": 1 << 30,
                }
            ],
            "warnings": [],
            "kept": [],
            "notices": [],
            "seconds": 2.5,
        }
    ]
