"""Storage: pools and volumes, and what is known of them."""

from virtomate.services.storage.backend import PoolSpace, VolumeKey
from virtomate.services.storage.definitions import Definitions
from virtomate.services.storage.file_pools import backend_of
from virtomate.services.storage.fingerprint import new_fingerprint
from virtomate.services.storage.firmware import (
    Firmware,
    is_certainly_read_only,
    is_template,
    own_nvram_path,
    read_firmware,
)
from virtomate.services.storage.owner import is_running, may_be_running, this_process
from virtomate.services.storage.pools import (
    TEMPORARY_POOL_PREFIX,
    FoundVolume,
    PoolEntry,
    PoolIndex,
    describe,
    find_entry,
    find_volume,
    get_active_pool,
    read_pools,
    refresh_all,
    refresh_when_idle,
)
from virtomate.services.storage.shutdown import shutdown_commands
from virtomate.services.storage.space import SpaceLedger, SpaceNeed, counted_space
from virtomate.services.storage.temporary_pools import TemporaryPools

__all__ = [
    "TEMPORARY_POOL_PREFIX",
    "Definitions",
    "Firmware",
    "FoundVolume",
    "PoolEntry",
    "PoolIndex",
    "PoolSpace",
    "SpaceLedger",
    "SpaceNeed",
    "TemporaryPools",
    "VolumeKey",
    "backend_of",
    "counted_space",
    "describe",
    "find_entry",
    "find_volume",
    "get_active_pool",
    "is_certainly_read_only",
    "is_running",
    "is_template",
    "may_be_running",
    "new_fingerprint",
    "own_nvram_path",
    "read_firmware",
    "read_pools",
    "refresh_all",
    "refresh_when_idle",
    "shutdown_commands",
    "this_process",
]
