"""Block devices and the volumes that they are."""

from virtomate.services.storage.devices.volumes import device_number as device_number
from virtomate.services.storage.devices.volumes import find_device as find_device
from virtomate.services.storage.devices.volumes import is_device as is_device
