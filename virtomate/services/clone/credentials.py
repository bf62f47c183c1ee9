"""The credentials of clones: what each machine can carry, and the files of those that are secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.definition.rewrite.credentials import (
    FW_CFG_PREFIX,
    Carriers,
    FirmwareEntry,
    carriers,
    oem_string,
    plain_text,
    with_credentials,
    without_credentials,
)
from virtomate.enums import ArtifactKind, CredentialWay
from virtomate.errors import UnsupportedError
from virtomate.services.clone.beside import PlaceBeside, plan_beside, survey_place
from virtomate.services.clone.disks import volume_reference
from virtomate.services.clone_parts import CredentialResult
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.codec import Document
    from virtomate.services.clone.disks import DiskPlan
    from virtomate.services.clone.target import Survey
    from virtomate.services.clone.volume_names import TakenNames
    from virtomate.services.credentials import Credential
    from virtomate.services.transaction import VolumeJob

# QEMU's FW_CFG_MAX_FILE_PATH, without the zero at its end
_MAX_ENTRY_BYTES = 55
# A word of QEMU's command line has at most 128 KiB, and the tables of SMBIOS 2.1 have at most 64 KiB together.
_MAX_STRING_BYTES = 4096
_MAX_STRINGS_BYTES = 56 << 10
_SMBIOS, _FW_CFG = CredentialWay.SMBIOS, CredentialWay.FW_CFG
_SUFFIX = ".credential"
_SEED = "--seed gives the guest what it needs by a disk."


class SurveyedCredentials(NamedTuple):
    """The credentials of all clones, and where those go that are files; None if there is no file."""

    credentials: tuple[Credential, ...]
    carriers: Carriers
    place: PlaceBeside | None


class CredentialPlan(NamedTuple):
    """A credential of one clone.

    Attributes:
        job: The volume with the value, None where the definition has the value.
    """

    name: str
    way: CredentialWay
    value: bytes
    is_secret: bool
    job: VolumeJob | None

    def __repr__(self) -> str:
        """Return a text for logs and tracebacks, without the value."""
        return f"CredentialPlan({self.name!r}, {self.way}, is_secret={self.is_secret})"

    def result(self) -> CredentialResult:
        """Return the credential for the result of a clone, without a secret."""
        place = None if self.job is None else self.job.place
        volume = None if place is None else volume_reference(place.pool, place.name, place.path, "raw")
        return CredentialResult(self.name, self.way, None if self.is_secret else plain_text(self.value), volume)


def survey_credentials(
    survey: Survey, domain: Document, disks: tuple[DiskPlan, ...]
) -> tuple[SurveyedCredentials, Document]:
    """Look how the credentials get to the guests, and return the definition without those of the same names.

    Raises:
        UnsupportedError: The machine cannot carry a credential.
        UsageError: No pool for the files is known.
    """
    credentials = survey.request.credentials
    there = carriers(domain)
    ways = [_way(survey, credential, there) for credential in credentials]
    total = max(
        sum(
            len(oem_string(item.name, item.value(number)).encode())
            for item, (way, _) in zip(credentials, ways, strict=True)
            if way is _SMBIOS
        )
        for number in range(max(len(item.values) for item in credentials))
    )
    if total > _MAX_STRINGS_BYTES:
        raise UnsupportedError(
            f"the credentials have {total} bytes together as OEM strings, and SMBIOS takes {_MAX_STRINGS_BYTES}",
            hint=_SEED,
        )
    place = None
    if any(is_file for _, is_file in ways):
        place = survey_place(survey, disks, disks, "the files of credentials")
    return SurveyedCredentials(credentials, there, place), without_credentials(
        domain, [credential.name for credential in credentials]
    )


def _way(survey: Survey, credential: Credential, there: Carriers) -> tuple[CredentialWay, bool]:
    """Return how a credential gets to the guest, and whether its value is in a file."""
    name, values = credential.name, credential.values
    is_short = all(len(value) <= _MAX_STRING_BYTES for value in values)
    if not credential.is_secret and is_short and there.smbios:
        return _SMBIOS, False
    what = "is a secret" if credential.is_secret else "is long" if there.smbios else "has no SMBIOS to go by"
    if not there.fw_cfg:
        raise UnsupportedError(
            f"credential '{name}' cannot get to the guest: the machine of '{survey.source.reference.name}' has no "
            "firmware configuration that systemd reads",
            hint=_SEED,
        )
    if len(FW_CFG_PREFIX + name) > _MAX_ENTRY_BYTES:
        raise UnsupportedError(
            f"credential '{name}' {what}, and the firmware configuration takes names of at most "
            f"{_MAX_ENTRY_BYTES - len(FW_CFG_PREFIX)} characters",
            hint=_SEED,
        )
    is_plain = is_short and all(plain_text(value) is not None for value in values)
    return _FW_CFG, credential.is_secret or not is_plain


def plan_credentials(
    survey: Survey, surveyed: SurveyedCredentials, number: int, clone_name: str, taken: TakenNames
) -> tuple[CredentialPlan, ...]:
    """Plan the credentials of one clone, by its number from 0 on, and add the names of their files to the taken names.

    Raises:
        ConflictError: The name of a file is taken.
        UsageError: A name would be too long.
    """
    plans = []
    for credential in surveyed.credentials:
        value = credential.value(number)
        way, is_file = _way(survey, credential, surveyed.carriers)
        job = None
        if is_file and surveyed.place is not None:
            label = f"credential {credential.name}"
            label = f"{clone_name}/{label}" if survey.has_siblings else label
            names = (label, f"{clone_name}-{credential.name}{_SUFFIX}")
            job = plan_beside(survey, surveyed.place, ArtifactKind.CREDENTIAL, names, value, taken)
        plans.append(CredentialPlan(credential.name, way, value, credential.is_secret, job))
    return tuple(plans)


def carrying(domain: Document, plans: tuple[CredentialPlan, ...]) -> Document:
    """Return the definition of a clone with its credentials."""
    strings = [oem_string(plan.name, plan.value) for plan in plans if plan.way is _SMBIOS]
    entries = [
        FirmwareEntry(plan.name, plain_text(plan.value), None)
        if plan.job is None
        else FirmwareEntry(plan.name, None, plan.job.place.path)
        for plan in plans
        if plan.way is _FW_CFG
    ]
    return with_credentials(domain, strings, entries)
