"""Transfers: the ways in which the content of one volume gets into another.

Each module has a function `fill`. The server transfer alone also creates the volume, in the same call to libvirt; all
others fill an empty file. The transaction's undo removes the volume of a transfer that failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.duplication.transfers import host, link, server, stream
from virtomate.enums import Transfer

if TYPE_CHECKING:
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.base import Duplication, TransferContext

_TRANSFERS = {
    Transfer.LINK: link.fill,
    Transfer.HOST: host.fill,
    Transfer.SERVER: server.fill,
    Transfer.STREAM: stream.fill,
}

create_with_content = server.create


def fill(duplication: Duplication, created: VolumeDescription, context: TransferContext) -> int:
    """Put the content into the new volume, as libvirt describes it, and return the number of bytes written.

    Raises:
        TransferUnavailableError: The transfer is not possible; nothing has been written.
        InterruptedBySignalError: A signal arrived.
        StoppedError: Another volume failed.
    """
    return _TRANSFERS[duplication.transfer](duplication, created, context)
