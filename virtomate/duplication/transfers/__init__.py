"""Transfers: how a new volume comes into being and gets its content.

Each implements `base.VolumeTransfer`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.duplication.transfers.host import HostTransfer
from virtomate.duplication.transfers.link import LinkTransfer
from virtomate.duplication.transfers.server import ServerTransfer
from virtomate.duplication.transfers.stream import StreamTransfer
from virtomate.enums import Transfer

if TYPE_CHECKING:
    from virtomate.duplication.transfers.base import Duplication, VolumeTransfer

_TRANSFERS: dict[Transfer, VolumeTransfer] = {
    Transfer.LINK: LinkTransfer(),
    Transfer.HOST: HostTransfer(),
    Transfer.SERVER: ServerTransfer(),
    Transfer.STREAM: StreamTransfer(),
}


def transfer_for(duplication: Duplication) -> VolumeTransfer:
    """What carries a duplication out."""
    return _TRANSFERS[duplication.transfer]
