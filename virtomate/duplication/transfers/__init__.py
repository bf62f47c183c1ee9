"""Transfers: the ways in which the content of one volume gets into another.

Each module has a function `fill` that puts the content into a new volume, as libvirt describes the volume, and returns
the number of bytes written. The server transfer alone also creates the volume, in the same call to libvirt; all others
fill an empty file. The transaction's undo removes the volume of a transfer that failed.

A transfer that is not possible raises TransferUnavailableError and has written nothing. A signal raises
InterruptedBySignalError, and the failure of another volume raises StoppedError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.duplication.transfers import link, server, stream
from virtomate.enums import Transfer

if TYPE_CHECKING:
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.base import Duplication, TransferContext


def _host(duplication: Duplication, created: VolumeDescription, context: TransferContext) -> int:
    from virtomate.duplication.transfers import host  # noqa: PLC0415 - linked clones write no data

    return host.fill(duplication, created, context)


def _convert(duplication: Duplication, created: VolumeDescription, context: TransferContext) -> int:
    from virtomate.duplication.transfers import convert  # noqa: PLC0415 - few clones are of internal snapshots

    return convert.fill(duplication, created, context)


FILL = {
    Transfer.LINK: link.fill,
    Transfer.HOST: _host,
    Transfer.SERVER: server.fill,
    Transfer.STREAM: stream.fill,
    Transfer.CONVERT: _convert,
}

create_with_content = server.create
