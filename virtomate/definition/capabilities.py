"""Capabilities of a hypervisor.

Source: https://libvirt.org/formatcaps.html
"""

from __future__ import annotations

from typing import Any

from virtomate.definition import codec
from virtomate.definition.readers import child, text


def qemu_users(document: str) -> frozenset[int]:
    """Return the default user IDs of QEMU processes; empty if libvirt reports none.

    libvirt reports `+UID:+GID` as the label of its security model `dac`, once for each type of domain.
    """
    host = child(codec.parse(document, "capabilities"), "host")
    labels = (
        text(label)
        for model in _listed(host.get("secmodel"))
        if isinstance(model, dict) and text(model.get("model")) == "dac"
        for label in _listed(model.get("baselabel"))
    )
    users = ((label or "").partition(":")[0].removeprefix("+") for label in labels)
    return frozenset(int(user) for user in users if user.isdecimal())


def _listed(element: Any) -> list[Any]:  # noqa: ANN401
    return element if isinstance(element, list) else [element]
