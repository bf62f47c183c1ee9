"""The rules that make a clone's definition out of its original's.

Each rule is a pure function. An element that no rule names stays as it was. The documentation's page "What changes in a
clone" has the reasons; https://libvirt.org/formatdomain.html has the elements.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition import readers
from virtomate.definition.rewrite.own import (
    Identity,
    NewNvram,
    NewSource,
    NewTpm,
    new_mac_addresses,
    renewed_identifiers,
    with_identity,
    with_named_firmware,
    with_nvram,
    with_sources,
    without_disks,
)
from virtomate.definition.rewrite.seed import SeedDrive, can_hold_seed, seed_drive, with_seed
from virtomate.definition.rewrite.still_shared import not_carried_over, same_identity, shared_things
from virtomate.definition.rewrite.told import own_title, tells_name, with_told_name
from virtomate.definition.rewrite.unshared import Outcome, auto_allocated, own_paths

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = [
    "Identity",
    "NewNvram",
    "NewSource",
    "NewTpm",
    "Outcome",
    "SeedDrive",
    "auto_allocated",
    "can_hold_seed",
    "clone_domain_definition",
    "new_mac_addresses",
    "seed_drive",
    "tells_name",
    "with_identity",
    "with_named_firmware",
]

_NEW_TPM = NewTpm()


def clone_domain_definition(
    prepared: Outcome,
    identity: Identity,
    sources: Mapping[int, NewSource],
    nvram: NewNvram | None,
    dropped: Collection[int] = (),
    seed: tuple[SeedDrive, str] | None = None,
    tpm: NewTpm = _NEW_TPM,
) -> Outcome:
    """Return a clone's definition, what was renewed, and what original and clone still share.

    Args:
        prepared: The original's definition after `auto_allocated`, which is the same for all clones.
        identity: The clone's identity.
        sources: New sources of the duplicated disks, by position.
        nvram: The clone's NVRAM; None without NVRAM or with the original's.
        dropped: Positions of the disks that the clone does not get.
        seed: The disk for the clone's seed, and the path of the seed; None without a seed.
        tpm: The clone's TPM.
    """
    original = prepared.domain
    title = readers.text(original.get("title"))
    if identity.host_name is not None and identity.title is None and title:
        identity = identity._replace(title=own_title(title, readers.name(original), identity.name))
    domain = with_sources(with_identity(original, identity), sources)
    if seed is not None:
        domain = with_seed(domain, *seed)
    domain = without_disks(domain, dropped)
    if nvram is not None:
        domain = with_nvram(domain, nvram)
    if readers.devices(domain, "tpm"):
        from virtomate.definition.tpm import with_place_of_tpm  # noqa: PLC0415 - few domains have a TPM

        domain = with_place_of_tpm(domain, tpm.path, tpm.place)
    told = Outcome(domain)
    if identity.host_name is not None:
        told = with_told_name(domain, identity.host_name, identity.uuid)
    renamed = own_paths(told.domain, readers.name(original), identity.name)
    changes = (*renewed_identifiers(original, identity), *told.changes, *prepared.changes, *renamed.changes)
    warnings = (
        *renamed.warnings,
        *shared_things(renamed.domain),
        *same_identity(
            original,
            sources,
            has_new_title=identity.title is not None,
            has_new_name=identity.host_name is not None,
        ),
        *(() if tpm.is_copy else not_carried_over(renamed.domain)),
    )
    # several interfaces may have the same change
    return Outcome(renamed.domain, tuple(dict.fromkeys(changes)), warnings)
