"""Linked clones: an overlay on the original, without content of its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from virtomate.duplication import hostfs
from virtomate.duplication.overlay import OverlayImage, overlay_image
from virtomate.hypervisor.storage import get_volume
from virtomate.hypervisor.volume_streams import open_upload

if TYPE_CHECKING:
    from virtomate.definition.volume import VolumeDescription
    from virtomate.duplication.transfers.base import Duplication, TransferContext
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.storage import Volume


def fill(duplication: Duplication, created: VolumeDescription, context: TransferContext) -> int:
    """Make an overlay of the empty file; there is nothing to copy.

    Where the file cannot be seen or opened here, the overlay is uploaded over the connection.

    Raises:
        IllegalStateError: The file has become a symbolic link.
    """
    source = duplication.source
    image = overlay_image(
        source.capacity,
        source.path,
        source.format,
        context.token,
        has_subclusters=context.connection.knows_subclusters,
    )
    descriptor = hostfs.open_visible(created, os.O_WRONLY)
    if descriptor is None:
        # libvirt would follow the link
        hostfs.refuse_link(created.path)
        _upload(image, get_volume(context.connection, created.pool, created.name), context.connection)
        return 0
    try:
        os.ftruncate(descriptor, image.size)
        for offset, data in image.pieces:
            hostfs.write(descriptor, data, offset)
        os.fdatasync(descriptor)
    except OSError as error:
        raise hostfs.write_failure(error, created.path) from error
    finally:
        os.close(descriptor)
    return 0


def _upload(image: OverlayImage, volume: Volume, connection: Connection) -> None:
    with open_upload(connection, volume) as stream:
        position = 0
        for offset, data in sorted(image.pieces):
            if offset > position:
                stream.send_hole(offset - position)
            stream.send(data)
            position = offset + len(data)
        if image.size > position:
            stream.send_hole(image.size - position)
