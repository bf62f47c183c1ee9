"""Guests: their agent, the programs that they run, and their addresses."""

from virtomate.services.guest.addresses import find_addresses as find_addresses
from virtomate.services.guest.addresses import has_usable_address as has_usable_address
from virtomate.services.guest.addresses import list_interfaces as list_interfaces
from virtomate.services.guest.addresses import read_addresses as read_addresses
from virtomate.services.guest.addresses import usable_interfaces as usable_interfaces
from virtomate.services.guest.addresses import with_all_interfaces as with_all_interfaces
from virtomate.services.guest.agent import PingResult as PingResult
from virtomate.services.guest.agent import ping_guest as ping_guest
from virtomate.services.guest.agent import wait_for_agent as wait_for_agent
from virtomate.services.guest.leases import LeaseHistory as LeaseHistory
from virtomate.services.guest.leases import Twin as Twin
from virtomate.services.guest.leases import read_leases as read_leases
from virtomate.services.guest.program import RunRequest as RunRequest
from virtomate.services.guest.program import run_in_guest as run_in_guest
