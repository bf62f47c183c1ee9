"""Block devices and the volumes that they are."""

from virtomate.services.storage.devices.volumes import device_number as device_number
from virtomate.services.storage.devices.volumes import find_device as find_device
