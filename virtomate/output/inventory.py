"""The dynamic inventory of Ansible.

The form is that of Ansible's inventory scripts (https://docs.ansible.com/ansible/latest/dev_guide/developing_inventory.html).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from virtomate.output.json import domain_document
from virtomate.output.streams import message, print_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from virtomate.output.streams import Format
    from virtomate.services.inventory import InventoryHost
    from virtomate.words import Reach

# Ansible allows these signs in the name of a group.
_NO_SIGN_OF_GROUPS = r"[^A-Za-z0-9_]"
# Ansible evaluates what stands between such signs.
_TEMPLATE = r"\{[{%#]"


def render_inventory(hosts: Iterable[InventoryHost], format_: Format) -> None:
    """Write the inventory to stdout; domains with names that Ansible would evaluate are left out, with a warning."""
    usable = []
    for host in hosts:
        if _is_template(host):
            name = host.listing.name
            message(
                "warning", f"'{name}' is left out, since Ansible would evaluate its name or its original's", format_
            )
        else:
            usable.append(host)
    print_json(inventory_document(usable, format_.reach), format_)


def inventory_document(hosts: Iterable[InventoryHost], reach: Reach) -> dict[str, Any]:
    """Return the inventory: all domains, the clones, the clones of each original, and the variables of each domain."""
    hosts = tuple(hosts)
    variables = {host.listing.name: _variables(host, reach) for host in hosts}
    groups: defaultdict[str, list[str]] = defaultdict(list)
    names = _group_names(hosts)
    for host in hosts:
        name, clone = host.listing.name, host.listing.clone
        groups["domains"].append(name)
        if clone is not None:
            groups["clones"].append(name)
            groups[names[clone.source.uuid]].append(name)
    document: dict[str, Any] = {name: {"hosts": members} for name, members in groups.items()}
    # "all" lists every group: without it Ansible would not find groups that have no parent
    return {"_meta": {"hostvars": variables}, "all": {"children": sorted(groups)}, **document}


def _variables(host: InventoryHost, reach: Reach) -> dict[str, Any]:
    described = domain_document(host.listing, reach)
    found = {
        "virtomate_uuid": described["uuid"],
        "virtomate_state": described["state"],
        "virtomate_addresses": list(host.addresses),
    }
    if host.address is not None:
        found["ansible_host"] = host.address
    if (clone := described["clone"]) is not None:
        found |= {
            "virtomate_original": clone["source"]["name"],
            "virtomate_original_uuid": clone["source"]["uuid"],
            "virtomate_mode": clone["mode"],
            "virtomate_created": clone["created"],
        }
        if "snapshot" in clone:
            found["virtomate_snapshot"] = clone["snapshot"]
    return found


def _group_names(hosts: Iterable[InventoryHost]) -> dict[str, str]:
    """Return the name of each original's group by the UUID; originals whose groups would be one get the UUID in it."""
    originals = {host.listing.clone.source.uuid: host.listing.clone.source.name for host in hosts if host.listing.clone}
    names = {uuid: f"clones_of_{re.sub(_NO_SIGN_OF_GROUPS, '_', name)}" for uuid, name in originals.items()}
    counts = Counter(names.values())
    return {uuid: name if counts[name] == 1 else f"{name}_{uuid.partition('-')[0]}" for uuid, name in names.items()}


def _is_template(host: InventoryHost) -> bool:
    clone = host.listing.clone
    names = (host.listing.name, *(() if clone is None else (clone.source.name, clone.snapshot or "")))
    return any(re.search(_TEMPLATE, name) for name in names)
