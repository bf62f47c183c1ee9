"""Another host, for clones that leave theirs."""

import shutil

import libvirt

from tests.lab.hypervisor import Hypervisor
from tests.lab.inventory import Inventory, take_inventory
from tests.lab.lab import Lab, remove_domain
from tests.lab.storage import make_pool, remove_pool

WHOLE = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE


class Far:
    """Another host with a pool of the same name as the lab's, in a directory of its own."""

    def __init__(self, lab: Lab, host: Hypervisor) -> None:
        self.host = host
        self.directory = host.directory / "pool"
        self.directory.mkdir()
        self.pool = make_pool(host, lab.pool.name, self.directory)

    @property
    def uri(self) -> str:
        """Its URI."""
        return self.host.uri

    def inventory(self) -> Inventory:
        """Return everything on it."""
        return take_inventory(self.host.connection, [self.directory, *self.host.state_directories])

    def definition(self, name: str) -> str:
        """Return a domain's whole definition there."""
        return str(self.host.connection.lookupByName(name).XMLDesc(WHOLE))

    def names(self) -> list[str]:
        """Return the names of all domains there."""
        return sorted(item.name() for item in self.host.connection.listAllDomains())

    def clear(self) -> None:
        """Remove everything that a test made."""
        connection = self.host.connection
        for item in connection.listAllDomains():
            remove_domain(item)
        for pool in connection.listAllStoragePools():
            remove_pool(pool)
        for network in connection.listAllNetworks():
            network.undefine()
        shutil.rmtree(self.directory)
        for directory in self.host.file_directories:
            for path in directory.iterdir():
                path.unlink()
