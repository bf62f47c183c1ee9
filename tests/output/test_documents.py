"""The shapes of the JSON documents: a contract with the scripts that read them."""

from __future__ import annotations

import json

import pytest

from tests.output.records import (
    CLONED,
    DELETION,
    ERROR,
    IMPORT,
    INTERFACE,
    LEFT,
    LISTING,
    PING,
    PLANNED,
    POOL,
    RUN,
    SHARED_LUN,
    STARTED,
    VOLUME,
)
from virtomate.enums import Action, AddressSource, Consistency, DeletionStatus, Mode, SideFileAction, Status, Transfer
from virtomate.errors import (
    AgentUnresponsiveError,
    ConflictError,
    HypervisorError,
    IllegalStateError,
    InterruptedBySignalError,
    NoConnectionError,
    NotFoundError,
    ProgramError,
    RefusedWarningError,
    TimedOutError,
    VirtomateError,
)
from virtomate.output.json import (
    clone_document,
    document,
    domain_document,
    dump,
    error_document,
    import_document,
    run_document,
)
from virtomate.services.clone_parts import FrozenDiskResult, VolumeReference
from virtomate.words import Reach

VOLUME_KEYS = {"pool", "volume", "path", "format"}

REACH = Reach()


def test_clone() -> None:
    """The keys and values of a clone, in full."""
    assert clone_document(CLONED, REACH) == {
        "status": "cloned",
        "name": "web-1",
        "uuid": "f0e1d2c3-b4a5-4687-9788-a9bacbdcedfe",
        "source": {"name": "ubuntu", "uuid": "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"},
        "mode": "copy",
        "disks": [
            {
                "target": "vda",
                "action": "copied",
                "reason": None,
                "source": {"pool": "images", "volume": "ubuntu.qcow2", "path": "/srv/ubuntu.qcow2", "format": "qcow2"},
                "clone": {"pool": "images", "volume": "web-1.qcow2", "path": "/srv/web-1.qcow2", "format": "qcow2"},
                "capacity": 10737418240,
                "bytes_copied": 1610612736,
                "transfer": "stream",
                "subclusters": None,
            },
            {
                "target": "sda",
                "action": "shared",
                "reason": "block disk, not file-based",
                "source": {"pool": None, "volume": None, "path": "/dev/lun", "format": None},
                "clone": {"pool": None, "volume": None, "path": "/dev/lun", "format": None},
                "capacity": None,
                "bytes_copied": 0,
                "transfer": None,
                "subclusters": None,
            },
        ],
        "nvram": {
            "action": "copied",
            "source": "/nvram/ubuntu_VARS.fd",
            "clone": "/nvram/web-1_VARS.fd",
            "format": "raw",
        },
        "interfaces": [{"mac": "52:54:00:00:00:02", "source_mac": "52:54:00:00:00:01"}],
        "changes": ["UUID", "MAC addresses"],
        "warnings": [SHARED_LUN],
        "notices": [
            {"code": "shared-disk", "subject": "sda", "message": SHARED_LUN},
            {"code": "new-identifier", "subject": "UUID", "message": "UUID"},
            {"code": "new-identifier", "subject": "MAC addresses", "message": "MAC addresses"},
        ],
        "seconds": 1.234,
        "consistency": "offline",
        "frozen_seconds": None,
        "moment": None,
        "frozen": [],
        "tpm": None,
        "started": False,
    }


def test_failed_clone_has_an_error() -> None:
    """The error is there where the clone failed, and only there; the other keys stay."""
    clone = clone_document(CLONED._replace(status=Status.FAILED, error=ERROR, nvram=None), REACH)

    assert clone.keys() == clone_document(CLONED, REACH).keys() | {"error"}
    assert clone["error"] == error_document(ERROR, REACH)
    assert (clone["disks"], clone["interfaces"]) == ([], []), "nothing is copied that was undone"
    assert clone["nvram"] is None


def test_frozen_disks() -> None:
    """A clone names the disks of its original that are frozen; of a clone that failed, the freeze was undone."""
    base = VolumeReference("images", "ubuntu.qcow2", "/srv/ubuntu.qcow2", "qcow2")
    overlay = VolumeReference("images", "ubuntu-overlay.qcow2", "/srv/ubuntu-overlay.qcow2", "qcow2")
    frozen = CLONED._replace(frozen=(FrozenDiskResult("vda", base, overlay, is_new=True),))

    assert clone_document(frozen, REACH)["frozen"] == [
        {"target": "vda", "base": base._asdict(), "overlay": overlay._asdict(), "new": True}
    ]
    assert clone_document(frozen._replace(status=Status.FAILED, error=ERROR), REACH)["frozen"] == []


def test_plan_has_its_needs() -> None:
    """A plan says what it needs of each pool, and has the definition where that was asked for."""
    clone = clone_document(PLANNED, REACH)

    assert clone.keys() == clone_document(CLONED, REACH).keys() | {"space"}
    need: dict[str, object] = {"pool": "images", "needed": 1610612736, "available": 1 << 40}
    need |= {"total_needed": 3221225472, "directory": None}
    assert clone["space"] == [need]
    assert clone_document(PLANNED._replace(definition="<domain/>"), REACH)["definition"] == "<domain/>"


def test_started_clone_has_addresses() -> None:
    """The addresses are there where the clone was waited for, and empty where it did not answer."""
    clone = clone_document(STARTED, REACH)

    assert clone.keys() == clone_document(CLONED, REACH).keys() | {"addresses"}
    assert clone["started"] is True
    assert clone["addresses"] == [
        {
            "name": "eth0",
            "hwaddr": "52:54:00:00:00:02",
            "addresses": [{"type": "IPv4", "address": "192.0.2.7", "prefix": 24}],
        }
    ]
    assert clone_document(STARTED._replace(addresses=()), REACH)["addresses"] == []


def test_domain() -> None:
    """The keys of a listed domain: those of 0.1.2, and where a clone comes from."""
    assert domain_document(LISTING, REACH) == {
        "name": "web-1",
        "uuid": "f0e1d2c3-b4a5-4687-9788-a9bacbdcedfe",
        "state": "shut-off",
        "template": False,
        "clone": {
            "status": "finished",
            "source": {"name": "ubuntu", "uuid": "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"},
            "mode": "linked",
            "created": "2026-01-01T00:00:00+00:00",
        },
    }
    assert domain_document(LISTING._replace(clone=None), REACH)["clone"] is None


def test_unfinished_clone_is_listed_as_such() -> None:
    """Scripts can tell what a killed run left behind."""
    assert LISTING.clone is not None
    origin = domain_document(LISTING._replace(clone=LISTING.clone._replace(finished=False)), REACH)["clone"]

    assert origin is not None
    assert origin["status"] == "unfinished"


def test_deletion() -> None:
    """The keys of a deletion."""
    kept = "disk vdb (/srv/more), which cloning did not make"
    assert document(DELETION, REACH) == {
        "status": "deleted",
        "name": "web-1",
        "uuid": "f0e1d2c3-b4a5-4687-9788-a9bacbdcedfe",
        "removed": ["volume '/srv/web-1.qcow2'"],
        "kept": [kept],
        "notices": [{"code": "kept-disk", "subject": "vdb", "message": kept}],
    }
    failed = document(DELETION._replace(status=DeletionStatus.FAILED, error=ERROR), REACH)
    assert failed.keys() == document(DELETION, REACH).keys() | {"error"}
    assert failed["error"] == error_document(ERROR, REACH)


def test_pool() -> None:
    """The keys of a listed pool are those of 0.1.2; an inactive one has no number of volumes."""
    assert document(POOL, REACH) == {
        "name": "images",
        "uuid": "f0e1d2c3-b4a5-4687-9788-a9bacbdcedfe",
        "state": "running",
        "active": True,
        "persistent": True,
        "capacity": 1099511627776,
        "allocation": 3221225472,
        "available": 1096290402304,
        "number_of_volumes": 2,
    }
    assert document(POOL._replace(volume_count=None), REACH)["number_of_volumes"] is None


def test_volume() -> None:
    """The keys of a listed volume are those of 0.1.2; one that stands alone has no backing store."""
    assert document(VOLUME, REACH) == {
        "name": "web-1.qcow2",
        "key": "/srv/web-1.qcow2",
        "type": "file",
        "capacity": 10737418240,
        "allocation": 200704,
        "physical": 196768,
        "target": {"path": "/srv/web-1.qcow2", "format_type": "qcow2"},
        "backing_store": {"path": "/srv/ubuntu.qcow2", "format_type": "raw"},
    }
    assert document(VOLUME._replace(backing_store=None), REACH)["backing_store"] is None


def test_import() -> None:
    """The keys of an import: the new volume is described as in a list."""
    promised = "'web.raw' is called raw, but its content is qcow2"
    assert import_document(IMPORT, REACH) == {
        "pool": "images",
        "volume": document(VOLUME, REACH),
        "bytes_copied": 3145728,
        "warnings": [promised],
        "notices": [{"code": "other-format", "subject": "web.raw", "message": promised}],
        "seconds": 0.456,
    }


def test_interface() -> None:
    """The keys of a domain's interface are those of 0.1.2."""
    assert document(INTERFACE, REACH) == {
        "name": "eth0",
        "hwaddr": "52:54:00:00:00:01",
        "addresses": [
            {"address": "192.0.2.7", "prefix": 24, "type": "IPv4"},
            {"address": "2001:db8::7", "prefix": 64, "type": "IPv6"},
        ],
    }
    assert document(INTERFACE._replace(hwaddr=None), REACH)["hwaddr"] is None


def test_ping() -> None:
    """The keys of an answer."""
    assert document(PING, REACH) == {"name": "web-1", "uuid": "f0e1d2c3-b4a5-4687-9788-a9bacbdcedfe", "seconds": 0.25}


def test_run() -> None:
    """The keys of a program's end are those of 0.1.2; what was not written is null."""
    expected = {
        "exit_code": None,
        "signal": 9,
        "stdout": "\N{REPLACEMENT CHARACTER}\n",
        "stderr": None,
        "stdout_truncated": True,
        "stderr_truncated": False,
    }
    assert run_document(RUN, encode=False) == expected
    assert run_document(RUN, encode=True) == expected | {"stdout": "/Ao="}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NotFoundError("m"), {"type": "NotFoundError", "message": "m"}),
        (ConflictError("m", "h"), {"type": "Conflict", "message": "m", "hint": "h"}),
        (IllegalStateError("m"), {"type": "IllegalStateError", "message": "m"}),
        (HypervisorError("m", code=1), {"type": "libvirtError", "message": "m"}),
        (AgentUnresponsiveError("m", "h", code=86), {"type": "libvirtError", "message": "m", "hint": "h"}),
        (ProgramError("m"), {"type": "ProgramError", "message": "m"}),
        (TimedOutError("m"), {"type": "TimeoutError", "message": "m"}),
        (NoConnectionError("m", "h", code=38), {"type": "libvirtError", "message": "m", "hint": "h"}),
        (InterruptedBySignalError(2), {"type": "Interrupted", "message": "interrupted"}),
        (
            ERROR,
            {
                "type": "Conflict",
                "message": ERROR.message,
                "hint": ERROR.hint,
                "leftovers": [LEFT],
                "notices": [{"code": "unremoved", "subject": "volume '/srv/x'", "message": LEFT}],
            },
        ),
    ],
)
def test_error(error: VirtomateError, expected: dict[str, object]) -> None:
    """An error has its documented type; hint and leftovers are there where there are any."""
    assert error_document(error, REACH) == expected


def test_values_of_enumerations() -> None:
    """The words that scripts compare with."""
    assert {mode.value for mode in Mode} == {"copy", "shallow", "linked", "reflink", "auto"}
    assert {action.value for action in Action} == {
        "copied",
        "shallow-copied",
        "linked",
        "reflinked",
        "shared",
        "dropped",
        "replaced",
        "kept",
    }
    assert {transfer.value for transfer in Transfer} == {"host", "server", "stream", "link", "backup", "convert"}
    assert {consistency.value for consistency in Consistency} == {"crash", "filesystem", "offline"}
    assert {status.value for status in Status} == {"cloned", "failed", "interrupted", "planned", "unchanged"}
    assert {source.value for source in AddressSource} == {"lease", "agent", "arp"}
    assert {status.value for status in DeletionStatus} == {"deleted", "failed", "interrupted"}
    assert {action.value for action in SideFileAction} == {"copied", "fresh", "shared", "kept"}


@pytest.mark.parametrize("pretty", [True, False])
def test_dump(pretty: bool) -> None:
    """Keys are sorted, characters are themselves, and only pretty documents have more than one line."""
    text = dump({"b": ["ü", "\n"], "a": None}, pretty=pretty)

    assert json.loads(text) == {"a": None, "b": ["ü", "\n"]}
    assert text.index('"a"') < text.index('"b"')
    assert "ü" in text
    assert ("\n" in text) is pretty


def test_error_with_refused_warnings() -> None:
    """The error that warnings are the reason for has them."""
    error = RefusedWarningError(CLONED.warnings)

    assert error_document(error, REACH) == {
        "type": "RefusedWarningError",
        "message": "--fail-on refuses the warning shared-disk",
        "hint": "Remove the cause, or leave the code out of --fail-on.",
        "notices": [{"code": "shared-disk", "subject": "sda", "message": SHARED_LUN}],
    }
