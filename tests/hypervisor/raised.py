"""Errors as libvirt raises them."""

from __future__ import annotations

import libvirt


def raised(code: int, domain: int = libvirt.VIR_FROM_QEMU) -> libvirt.libvirtError:
    """An error of libvirt's with this code, from this part of it."""
    error = libvirt.libvirtError("it failed")
    error.err = (code, domain, "it failed", 2, None, None, None, -1, -1)
    return error
