"""Which state of a TPM can be copied."""

import posixpath
from types import SimpleNamespace
from typing import Any

import pytest

from virtomate.definition import codec
from virtomate.enums import TpmTreatment
from virtomate.errors import UnsupportedError, VirtomateError
from virtomate.services.clone.tpm import SurveyedTpm, UnusedState, survey_tpm
from virtomate.services.clone.tpm_source import SurveyedSource


def survey(backend: str, treatment: TpmTreatment = TpmTreatment.COPY) -> Any:
    """A survey of an original with this TPM, on a system daemon."""
    text = f"<domain type='qemu'><name>a</name><devices><tpm>{backend}</tpm></devices></domain>"
    return SimpleNamespace(
        connection=SimpleNamespace(is_session=False, is_local=False),
        target=SimpleNamespace(connection=SimpleNamespace(is_session=False)),
        crossing=None,
        has_two_hosts=False,
        request=SimpleNamespace(tpm=treatment, uuid=None),
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
    assert posixpath.join(*found.original, found.file) == path


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        (
            "<backend type='emulator' version='2.0'><source type='file' path='/dev/null/t'/></backend>",
            "on the device '/dev/null/t'",
        ),
        ("<backend type='emulator' version='9'/>", "version 9"),
    ],
)
def test_state_that_cannot_be_copied(backend: str, reason: str) -> None:
    """State on a device is refused, and so is what a later libvirt may have."""
    with pytest.raises(UnsupportedError, match=reason):
        survey_tpm(survey(backend))


@pytest.mark.parametrize("backend", ["<backend type='passthrough'/>", "<backend type='external'/>", ""])
@pytest.mark.parametrize("treatment", [TpmTreatment.COPY, TpmTreatment.REFUSE])
def test_tpm_without_state_here(backend: str, treatment: TpmTreatment) -> None:
    """Only an emulator of libvirt's has state that is copied or refused."""
    assert survey_tpm(survey(backend, treatment)) is None


def test_emulated_tpm_is_refused() -> None:
    """Wherever its state is."""
    for content in ("", "<source type='dir' path='/t'/>"):
        with pytest.raises(VirtomateError, match="--tpm refuse"):
            survey_tpm(survey(f"<backend type='emulator'>{content}</backend>", TpmTreatment.REFUSE))


@pytest.mark.parametrize("treatment", [TpmTreatment.NEW, TpmTreatment.COPY])
def test_place_that_the_definition_names(treatment: TpmTreatment) -> None:
    """A clone gets a place of its own, whatever becomes of the state."""
    is_copied = treatment is TpmTreatment.COPY
    for kind, path, file in (
        ("dir", "/t/a", "tpm2-00.permall"),
        ("file", "/t/a", None),
        ("dir", "/dev/a", "tpm2-00.permall"),
        ("file", "/dev/shm/a", None),
    ):
        place = f"<source type='{kind}' path='{path}/./'/>"
        found = survey_tpm(survey(f"<backend type='emulator'>{place}</backend>", treatment))
        assert found == SurveyedSource(path, file, is_copied)


def test_new_tpm_leaves_the_place_to_libvirt_where_nothing_can_be_made() -> None:
    """On another host, and where the state is on a device, libvirt keeps the state by UUID."""
    named = "<backend type='emulator'><source type='file' path='{}'/></backend>"
    far = survey(named.format("/t"), TpmTreatment.NEW)
    far.has_two_hosts = True
    assert survey_tpm(far) is None
    assert survey_tpm(survey(named.format("/dev/vg/tpm"), TpmTreatment.NEW)) is None


def test_state_is_looked_for_under_a_uuid_that_was_asked_for() -> None:
    """Of a random UUID there is no state."""
    asked = survey("<backend type='emulator'/>", TpmTreatment.NEW)
    assert survey_tpm(asked) is None
    asked.request.uuid = "u"
    assert survey_tpm(asked) == UnusedState("/var/lib/libvirt/swtpm")


def test_one_file_stays_on_its_host() -> None:
    """What libvirt keeps by UUID on another host is a directory of files, and has no place for that file."""
    original = survey("<backend type='emulator' version='2.0'><source type='file' path='/srv/tpm/a'/></backend>")
    original.has_two_hosts = True

    with pytest.raises(UnsupportedError, match="in one file, '/srv/tpm/a'"):
        survey_tpm(original)
