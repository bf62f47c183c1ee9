"""What the clones of a request get that their original does not have, and what few requests ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from virtomate.definition.rewrite.unshared import Outcome
    from virtomate.services.clone.addresses import SurveyedAddresses
    from virtomate.services.clone.credentials import SurveyedCredentials
    from virtomate.services.clone.disks import DiskPlan
    from virtomate.services.clone.target import Survey


def survey_asked_addresses(survey: Survey, prepared: Outcome) -> tuple[SurveyedAddresses, ...]:
    """Return the addresses that DHCP entries are to keep for the clones; for the errors see `survey_addresses`."""
    if not survey.request.addresses:
        return ()
    from virtomate.services.clone.addresses import survey_addresses  # noqa: PLC0415 - few clones get an address

    return survey_addresses(survey, prepared.domain)


def as_asked(
    survey: Survey, prepared: Outcome, disks: tuple[DiskPlan, ...]
) -> tuple[Outcome, SurveyedCredentials | None]:
    """Return the definition of the clones with the shape that was asked for, and their credentials.

    On another host, it names what that host has.
    """
    if survey.crossing is not None:
        from virtomate.definition.moving import moved  # noqa: PLC0415 - few clones go to other hosts

        there = moved(prepared.domain, survey.crossing.moved)
        prepared = prepared._replace(domain=there.domain, changes=(*prepared.changes, *there.changes))
    if survey.request.is_shaped:
        from virtomate.services.clone.shape import shaped  # noqa: PLC0415 - most clones are like their originals

        prepared = shaped(survey, prepared, disks)
    if not survey.request.credentials:
        return prepared, None
    from virtomate.services.clone.credentials import survey_credentials  # noqa: PLC0415 - few clones get any

    credentials, without = survey_credentials(survey, prepared.domain, disks)
    return prepared._replace(domain=without), credentials
