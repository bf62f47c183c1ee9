"""A disk of a running domain that QEMU reads slowly, so that a backup of the disk can be caught in the middle."""

import json
from typing import Any
from xml.etree import ElementTree as ET

import libvirt_qemu

NODE = "slow"
GROUP = "slow-group"
SLOW_BYTES = 8 << 20


def slow_down(domain: Any, target: str) -> None:
    """Have QEMU read a qcow2 disk of a running domain at 8 MiB/s; only one disk of a domain can be slow."""
    nodes = _ask(domain, "query-named-block-nodes", flat=True)
    if NODE not in {node["node-name"] for node in nodes}:
        path = _path(domain, target)
        names = {node["node-name"] for node in nodes if node["file"] == path}
        # libvirt calls the node of a file libvirt-N-storage, and the node of its content libvirt-N-format
        (storage,) = (name for name in names if name.endswith("-storage"))
        (content,) = (name for name in names if name.endswith("-format"))
        _ask(domain, "object-add", **{"qom-type": "throttle-group", "id": GROUP})
        throttle = {"driver": "throttle", "node-name": NODE, "throttle-group": GROUP, "file": storage}
        _ask(domain, "blockdev-add", **throttle)
        _ask(domain, "blockdev-reopen", options=[{"driver": "qcow2", "node-name": content, "file": NODE}])
    _limit(domain, SLOW_BYTES)


def speed_up(domain: Any) -> None:
    """Have QEMU read the slow disk as fast as it can: a backup cannot end before what it has begun to read is there."""
    _limit(domain, 0)


def limit_backup(domain: Any, target: str, rate_bytes: int) -> None:
    """Limit the backup of a disk, through QEMU: libvirt 11.3 does that only when the backup has ended."""
    for job in _ask(domain, "query-block-jobs"):
        if job["device"].startswith(f"backup-{target}-"):
            _ask(domain, "block-job-set-speed", device=job["device"], speed=rate_bytes)


def pause_jobs(domain: Any) -> None:
    """Have QEMU copy nothing more by itself; what the guest is about to overwrite is copied first all the same."""
    for job in _ask(domain, "query-jobs"):
        if job["status"] == "running":
            _ask(domain, "job-pause", id=job["id"])


def _path(domain: Any, target: str) -> str:
    source = ET.fromstring(domain.XMLDesc(0)).find(f"devices/disk/target[@dev='{target}']/../source[@file]")
    if source is None:
        raise RuntimeError(f"disk {target} of domain '{domain.name()}' is no file")
    return source.attrib["file"]


def _limit(domain: Any, rate_bytes: int) -> None:
    _ask(domain, "qom-set", path=f"/objects/{GROUP}", property="limits", value={"bps-read": rate_bytes})


def _ask(domain: Any, command: str, **arguments: object) -> Any:
    request = json.dumps({"execute": command, "arguments": arguments})
    answer = json.loads(libvirt_qemu.qemuMonitorCommand(domain, request, 0))
    if "error" in answer:
        raise RuntimeError(f"{command}: {answer['error']['desc']}")
    return answer["return"]
