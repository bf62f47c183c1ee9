"""Which state of a TPM can be copied."""

from types import SimpleNamespace
from typing import Any

import pytest

from virtomate.definition import codec
from virtomate.enums import TpmTreatment
from virtomate.errors import UnsupportedError, VirtomateError
from virtomate.services.clone.tpm import SurveyedTpm, survey_tpm


def survey(backend: str, treatment: TpmTreatment = TpmTreatment.COPY) -> Any:
    """A survey of an original with this TPM, on a system daemon."""
    text = f"<domain type='qemu'><name>a</name><devices><tpm>{backend}</tpm></devices></domain>"
    return SimpleNamespace(
        connection=SimpleNamespace(is_session=False),
        has_two_hosts=False,
        request=SimpleNamespace(tpm=treatment),
        source=SimpleNamespace(
            reference=SimpleNamespace(name="a", uuid="u"),
            definition=codec.parse_definition(text),
            snapshot=None,
        ),
    )


@pytest.mark.parametrize(
    ("version", "path"),
    [
        ("1.2", "/var/lib/libvirt/swtpm/u/tpm1.2/tpm-00.permall"),
        ("2.0", "/var/lib/libvirt/swtpm/u/tpm2/tpm2-00.permall"),
    ],
)
def test_place_of_the_state(version: str, path: str) -> None:
    """Libvirt has a directory for each version, and swtpm a name."""
    found = survey_tpm(survey(f"<backend type='emulator' version='{version}'/>"))

    assert isinstance(found, SurveyedTpm)
    assert found.path("u") == path


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        ("<backend type='emulator' version='2.0'><source type='file' path='/t'/></backend>", "the place of its TPM's"),
        ("<backend type='emulator' version='9'/>", "version 9"),
    ],
)
def test_state_that_cannot_be_copied(backend: str, reason: str) -> None:
    """State at a place of the user's choice is refused, and so is what a later libvirt may have."""
    with pytest.raises(UnsupportedError, match=reason):
        survey_tpm(survey(backend))


@pytest.mark.parametrize("backend", ["<backend type='passthrough'/>", "<backend type='external'/>", ""])
@pytest.mark.parametrize("treatment", [TpmTreatment.COPY, TpmTreatment.REFUSE])
def test_tpm_without_state_here(backend: str, treatment: TpmTreatment) -> None:
    """Only an emulator of libvirt's has state that is copied or refused."""
    assert survey_tpm(survey(backend, treatment)) is None


def test_state_stays_on_its_host() -> None:
    """A clone on another host gets no copy."""
    far = survey("<backend type='emulator' version='2.0'/>")
    far.has_two_hosts = True
    with pytest.raises(UnsupportedError, match="not to another"):
        survey_tpm(far)


def test_emulated_tpm_is_refused() -> None:
    """Wherever its state is."""
    for content in ("", "<source type='dir' path='/t'/>"):
        with pytest.raises(VirtomateError, match="--tpm refuse"):
            survey_tpm(survey(f"<backend type='emulator'>{content}</backend>", TpmTreatment.REFUSE))
