"""Storage: pools and volumes, and what is known of them."""

from virtomate.services.storage.backend import PoolSpace as PoolSpace
from virtomate.services.storage.file_pools import backend_of as backend_of
from virtomate.services.storage.owner import is_running as is_running
from virtomate.services.storage.owner import may_be_running as may_be_running
from virtomate.services.storage.owner import this_process as this_process
from virtomate.services.storage.pools import TEMPORARY_POOL_PREFIX as TEMPORARY_POOL_PREFIX
from virtomate.services.storage.pools import FoundVolume as FoundVolume
from virtomate.services.storage.pools import PoolEntry as PoolEntry
from virtomate.services.storage.pools import PoolIndex as PoolIndex
from virtomate.services.storage.pools import describe as describe
from virtomate.services.storage.pools import find_entry as find_entry
from virtomate.services.storage.pools import find_volume as find_volume
from virtomate.services.storage.pools import get_active_pool as get_active_pool
from virtomate.services.storage.pools import is_temporary as is_temporary
from virtomate.services.storage.pools import read_pools as read_pools
from virtomate.services.storage.pools import refresh_all as refresh_all
from virtomate.services.storage.pools import refresh_when_idle as refresh_when_idle
from virtomate.services.storage.pools import with_known_format as with_known_format
from virtomate.services.storage.space import SpaceLedger as SpaceLedger
from virtomate.services.storage.space import SpaceNeed as SpaceNeed
from virtomate.services.storage.space import counted_space as counted_space
from virtomate.services.storage.temporary_pools import TemporaryPools as TemporaryPools
from virtomate.services.storage.temporary_pools import listed_pools as listed_pools
from virtomate.services.storage.temporary_pools import new_pool_name as new_pool_name
from virtomate.services.storage.temporary_pools import stop_stale_pools as stop_stale_pools
from virtomate.services.storage.temporary_pools import temporary_pools_of as temporary_pools_of
